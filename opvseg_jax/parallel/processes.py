"""Several processes that train together: how they find each other, and what ends them.

Where the coordinator is, how many processes there are and which one this is, comes from
OPVSEG_COORDINATOR (host:port), OPVSEG_NUM_PROCESSES and OPVSEG_PROCESS_ID, or from SLURM (inside of
srun). In an indexed Kubernetes job, JOB_COMPLETION_INDEX is the number of the process.
"""

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from opvseg_jax.core.errors import UserError
from opvseg_jax.parallel.lifeline import Lifeline

HEARTBEAT_SECONDS = 60  # a machine that vanishes without a word is missed after so long
START_SECONDS = 300
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")

_lifeline: Lifeline | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """coordinator None: JAX reads SLURM's variables. local_devices None: all that are visible."""

    coordinator: str | None
    num_processes: int
    process: int
    local_devices: tuple[int, ...] | None = None


def start(env: Mapping[str, str] = os.environ) -> Settings | None:
    """Joins the other processes, before anything is computed; None if there is only this one.

    Afterwards a process that ends ends the others too, with one line, within seconds; one whose
    machine vanishes, within OPVSEG_HEARTBEAT_SECONDS. They are then to be started again: training
    goes on from its last checkpoint.
    """
    global _lifeline
    settings = read_settings(env)
    if settings is None or jax.distributed.is_initialized():
        return settings
    heartbeat = int(env.get("OPVSEG_HEARTBEAT_SECONDS", HEARTBEAT_SECONDS))
    timeout = int(env.get("OPVSEG_START_SECONDS", START_SECONDS))
    try:
        jax.distributed.initialize(
            settings.coordinator,
            settings.num_processes,
            settings.process,
            settings.local_devices,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"process {settings.process} of {settings.num_processes} met no others at "
            f"{settings.coordinator or 'the first node of the job'}: {first}"
        ) from error
    if settings.coordinator is not None:
        host, _, port = settings.coordinator.rpartition(":")
        _lifeline = Lifeline(host, int(port) + 1, settings.process, settings.num_processes)
    return settings


@contextmanager
def together() -> Iterator[None]:
    """Around the work of a process: an exception here ends the other processes as well.

    The error of a process whose peer was lost says little of the cause: the peer's own line does.
    """
    try:
        yield
    except BaseException as error:
        if _lifeline is not None:
            _lifeline.fail(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        raise
    if _lifeline is not None:
        barrier("done")
        _lifeline.close()


def is_first() -> bool:
    """Whether this process writes what is written once: logs, metrics, pictures."""
    return jax.process_index() == 0


def barrier(name: str, timeout: float = 600.0) -> None:
    """Returns when every process got here; each name is used once. One process need not wait."""
    if jax.process_count() == 1:
        return
    # JAX's public barrier waits for ever.
    from jax._src.distributed import global_state

    try:
        global_state.client.wait_at_barrier(f"opvseg_{name}", int(timeout * 1000))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {jax.process_index()} waited {timeout:.0f} s at {name!r} for the others: "
            f"{str(error).splitlines()[0][:200]}"
        ) from error


class StopRequest:
    """SIGTERM (and, alone, SIGINT) as a question that is asked once each step.

    `with StopRequest() as stop:` and `if stop(step):` after the step. With several processes it is
    true in the same step in all of them, whichever was told, so that they save one checkpoint.
    """

    def __init__(self):
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self  # else JAX's own handler of SIGTERM stays: it tells the others

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, step: int) -> bool:
        if jax.process_count() == 1:
            return self.asked
        return multihost_utils.reached_preemption_sync_point(step)

    def _note(self, number: int, frame: object) -> None:
        if self.asked:  # a second signal ends at once
            sys.exit(128 + number)
        self.asked = True


def read_settings(env: Mapping[str, str]) -> Settings | None:
    """What the environment says; None if this process is alone."""
    if coordinator := env.get("OPVSEG_COORDINATOR"):
        return _explicit(coordinator, env)
    if all(name in env for name in SLURM) and int(env["SLURM_NTASKS"]) > 1:
        host, port = _slurm_host(env), 20_000 + int(env["SLURM_JOB_ID"]) % 20_000
        return Settings(
            f"{host}:{port}",
            int(env["SLURM_NTASKS"]),
            int(env["SLURM_PROCID"]),
            _slurm_devices(env),
        )
    return None


def _explicit(coordinator: str, env: Mapping[str, str]) -> Settings | None:
    if not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
        raise UserError(f"OPVSEG_COORDINATOR={coordinator}: expected host:port")
    number = env.get("OPVSEG_PROCESS_ID", env.get("JOB_COMPLETION_INDEX"))
    count = env.get("OPVSEG_NUM_PROCESSES")
    if number is None or count is None:
        raise UserError(
            "OPVSEG_COORDINATOR is set, so OPVSEG_NUM_PROCESSES and OPVSEG_PROCESS_ID (or "
            "JOB_COMPLETION_INDEX) must be too"
        )
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise UserError(
            f"process {number} of {count}: expected whole numbers, the first below the second"
        )
    if int(count) == 1:
        return None
    devices = env.get("OPVSEG_LOCAL_DEVICES")
    local = tuple(int(part) for part in devices.split(",")) if devices else None
    return Settings(coordinator, int(count), int(number), local)


def _slurm_host(env: Mapping[str, str]) -> str:
    """The first host of a list such as node[001-004,007],login2."""
    names = env["SLURM_STEP_NODELIST"]
    prefix, bracket, rest = names.split(",")[0].partition("[")
    return prefix + rest.split("-")[0].split("]")[0] if bracket else prefix


def _slurm_devices(env: Mapping[str, str]) -> tuple[int, ...] | None:
    """Which GPUs of its node are this task's.

    JAX alone would take the one whose number is the task's: of eight GPUs a single task for the
    node would use the first, and a task that SLURM shows one GPU would look for the eighth.
    """
    visible = env.get("CUDA_VISIBLE_DEVICES") or env.get("SLURM_STEP_GPUS")
    count = len(visible.split(",")) if visible else int(env.get("SLURM_GPUS_ON_NODE", 0))
    tasks = int(env.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0])
    if not count:
        return None
    if count < tasks or tasks == 1:  # SLURM shows each task its own
        return tuple(range(count))
    share = count // tasks
    first = int(env["SLURM_LOCALID"]) * share
    return tuple(range(first, first + share))
