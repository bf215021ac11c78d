"""Counting on many devices and in many processes gives exactly the counts of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluate.count_apart import count

PROGRAM = Path(__file__).with_name("count_apart.py")


@pytest.fixture(scope="module")
def alone():
    return count(5)


def start(*words, devices: int) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def ended(*running: subprocess.Popen) -> None:
    try:
        for process in running:
            _, said = process.communicate(timeout=300)
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()


def assert_equal(file: Path, counts) -> None:
    stored = dict(np.load(file))
    assert stored.pop("images") == counts.images
    assert stored.keys() == counts.tables.keys()
    for name, table in counts.tables.items():
        np.testing.assert_array_equal(stored[name], table.counts, err_msg=name)


def test_a_mesh_of_devices_counts_the_same(alone, tmp_path):
    # a batch of 3 does not divide among 4 shares of rows: it is filled up
    ended(start(tmp_path / "mesh.npz", "mesh", 2, 2, devices=8))
    assert_equal(tmp_path / "mesh.npz", alone)


def test_two_processes_count_the_same_although_one_has_more_images(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = f"{tmp_path}/process"
    ended(*(start(out, "processes", index, port, devices=2) for index in range(2)))
    for index in range(2):
        assert_equal(tmp_path / f"process{index}.npz", alone)
