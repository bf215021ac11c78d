"""A step on many devices, and in several processes, is the step on one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MESHES = ("8x1x1", "2x4x1", "2x2x2", "1x1x8")
PROCESSES = "1x2x2"  # 2 processes of 2 devices; parameters are cut along the processes
# Compiling for eight devices takes longer than running.
ENV = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def run(out: Path, launcher: list[str], meshes: tuple[str, ...], **env: str):
    paths = os.pathsep.join((str(ROOT), str(HERE.parent)))
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE / "step_program.py"), str(out), *meshes],
        env={**os.environ, **ENV, "PYTHONPATH": paths, **env},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(out))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("meshes") / "found.npz"
    return run(out, [], ("1x1x1", *MESHES), JAX_NUM_CPU_DEVICES="8")


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("processes") / "found.npz"
    launcher = [str(ROOT / "launch" / "simulate.py"), "--devices", "2", "2", sys.executable]
    return run(out, launcher, (PROCESSES,))


def of(found: dict, mesh: str) -> dict[str, np.ndarray]:
    results = {key.split(":")[1]: x for key, x in found.items() if key.startswith(f"{mesh}:")}
    assert results
    return results


def assert_equal_to_one_device(found: dict, many: dict):
    one = of(found, "1x1x1")
    assert one.keys() == many.keys()
    kinds = {re.split(r"[/@]", key)[0] for key in one}
    assert {"loss", "grad_norm", "orthogonality", "trained", "stats", "ema", "optimizer"} <= kinds
    for key in one.keys() - {"share"}:
        np.testing.assert_allclose(many[key], one[key], err_msg=key, **CLOSE)


def test_the_tiny_model_learns(found):
    one = of(found, "1x1x1")
    assert one["loss@4"] < one["loss@0"]
    assert one["grad_norm@0"] > 0.01  # it is clipped
    assert len({float(one[f"lr@{i}"]) for i in range(5)}) == 5


@pytest.mark.parametrize("mesh", MESHES)
def test_five_steps_on_a_mesh_are_those_of_one_device(found, mesh):
    assert_equal_to_one_device(found, of(found, mesh))


def test_five_steps_of_two_processes_are_those_of_one_device(found, of_processes):
    assert_equal_to_one_device(found, of(of_processes, PROCESSES))


def test_parameters_are_cut_along_fsdp_alone(found):
    shares = {mesh: float(of(found, mesh)["share"]) for mesh in ("1x1x1", *MESHES)}
    assert shares["1x1x1"] == shares["8x1x1"] == shares["1x1x8"] == 1.0
    assert 1 / 4 <= shares["2x4x1"] < 0.4  # what does not divide, and vectors, are whole
    assert 1 / 2 <= shares["2x2x2"] < 0.6
