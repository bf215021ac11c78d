"""Several real processes: how they start, agree and end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from opvseg_jax.core.errors import UserError
from opvseg_jax.parallel.processes import Settings, StopRequest, barrier, read_settings, start

ROOT = Path(__file__).parents[2]
SIMULATE = [sys.executable, str(ROOT / "launch" / "simulate.py")]
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "node[007-010,012],login2",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
}
ADDRESS = "node007:23456"


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ({}, None),
        (
            {"OPVSEG_COORDINATOR": "a:1", "OPVSEG_NUM_PROCESSES": "2", "OPVSEG_PROCESS_ID": "1"},
            Settings("a:1", 2, 1),
        ),
        (
            {"OPVSEG_COORDINATOR": "a:1", "OPVSEG_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "0"},
            Settings("a:1", 2, 0),
        ),
        (
            {"OPVSEG_COORDINATOR": "a:1", "OPVSEG_NUM_PROCESSES": "1", "OPVSEG_PROCESS_ID": "0"},
            None,
        ),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({name: x for name, x in SLURM.items() if name != "SLURM_STEP_NODELIST"}, None),
        # One task for each GPU, all GPUs visible to all; then each sees its own alone.
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, Settings(ADDRESS, 16, 9, (1,))),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "5"}, Settings(ADDRESS, 16, 9, (0,))),
        # One task for each node takes all of its GPUs.
        (
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_GPUS_ON_NODE": "4"},
            Settings(ADDRESS, 16, 9, (0, 1, 2, 3)),
        ),
        (SLURM, Settings(ADDRESS, 16, 9)),
    ],
)
def test_what_the_environment_says(env, settings):
    assert read_settings(env) == settings


@pytest.mark.parametrize("names", ["node1", "node1,node2", "node[1-4]", "node[1,3]", "node[1]"])
def test_the_first_host_of_a_list(names):
    assert read_settings({**SLURM, "SLURM_STEP_NODELIST": names}).coordinator == "node1:23456"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"OPVSEG_COORDINATOR": "host"}, "expected host:port"),
        ({"OPVSEG_COORDINATOR": "host:1"}, "OPVSEG_NUM_PROCESSES and OPVSEG_PROCESS_ID"),
        (
            {"OPVSEG_COORDINATOR": "h:1", "OPVSEG_NUM_PROCESSES": "2", "OPVSEG_PROCESS_ID": "2"},
            "process 2 of 2",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(env, words):
    with pytest.raises(UserError, match=re.escape(words)):
        start(env)


def test_a_process_alone_waits_for_nobody():
    assert start({}) is None
    barrier("alone")


def test_a_signal_is_a_question_until_the_second():
    with StopRequest() as stop:
        assert not stop(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(1)
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


PROGRAM = """
import os, sys, time
from opvseg_jax.parallel import processes
processes.start()
import jax
me = jax.process_index()
with processes.together():
    processes.barrier("begun", 60)
    {body}
print("process", me, "of", jax.process_count(), "has ended", flush=True)
"""


def simulate(body: str, count: int = 2, **options) -> subprocess.Popen:
    command = [*SIMULATE, str(count), sys.executable, "-c", PROGRAM.format(body=body)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def test_processes_meet_and_end_together():
    process = simulate("time.sleep(me)")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert sorted(out.split("\n")[:2]) == [f"process {i} of 2 has ended" for i in range(2)]


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "1 / 0"])
def test_a_peer_that_dies_ends_the_others_with_one_line(how):
    process = simulate(f"began = time.time()\n    if me == 1: {how}\n    time.sleep(300)", 3)
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "has ended" not in out
    lines = [line for line in err.splitlines() if line.startswith("opvseg: process 1 of 3 ended")]
    assert len(lines) == 2, err
    assert all("start them again to go on from the last checkpoint" in line for line in lines)
    assert ("ZeroDivisionError" in lines[0]) == ("/" in how)


def test_a_signal_to_one_process_stops_all_at_the_same_step():
    body = """
    print("pid", me, os.getpid(), flush=True)
    with processes.StopRequest() as stop:
        step = 0
        while not stop(step) and step < 3000:
            step += 1
            time.sleep(0.02 if me else 0.03)
    print("stopped", step, flush=True)
"""
    process = simulate(body)
    pids = dict(re.match(r"pid (\d) (\d+)", process.stdout.readline()).groups() for _ in range(2))
    time.sleep(1.0)
    os.kill(int(pids["1"]), signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    steps = set(re.findall(r"stopped (\d+)", out))
    assert len(steps) == 1, out
    assert int(steps.pop()) < 3000


def test_the_launcher_passes_signals_on_and_says_who_failed():
    script = "import time, signal, sys\nsignal.signal(15, lambda *_: sys.exit(7))\n"
    script += "print('up', flush=True)\ntime.sleep(60)"
    command = [*SIMULATE, "2", sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "simulate: process 0 failed with 7" in err


def test_the_launcher_stops_the_rest_when_one_fails():
    script = "import os, time\nif os.environ['OPVSEG_PROCESS_ID'] == '1': raise SystemExit(3)\n"
    command = [*SIMULATE, "--grace", "0.5", "2", sys.executable, "-c", script + "time.sleep(60)"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 3
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", ["local.sh", "env.sh", "slurm.sbatch"])
def test_the_shell_understands_what_starts_jobs(name):
    done = subprocess.run(["bash", "-n", ROOT / "launch" / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_xla_flag_has_its_reason_above_it():
    blocks = (ROOT / "launch" / "env.sh").read_text().split("\n\n")
    assert all(block.lstrip().startswith("#") for block in blocks)


def test_the_job_set_starts_as_many_as_it_says_and_they_find_each_other():
    job = yaml.safe_load((ROOT / "launch" / "k8s.yaml").read_text())
    [node] = job["spec"]["replicatedJobs"]
    spec = node["template"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    settings = read_settings({**env, "JOB_COMPLETION_INDEX": "1"})
    assert settings.num_processes == spec["parallelism"] == spec["completions"]
    host, port = settings.coordinator.split(":")
    first = f"{job['metadata']['name']}-{node['name']}-0-0"
    assert host == f"{first}.{job['spec']['network']['subdomain']}"
    ports = [entry["containerPort"] for entry in container["ports"]]
    assert ports == [int(port), int(port) + 1]
