#!/usr/bin/env python3
"""Runs a command as N processes of one training run on this machine, on the CPU.

    launch/simulate.py 2 opvseg train --config CONFIG --workdir DIR
    launch/simulate.py --devices 4 2 python my_program.py

Every process sees `--devices` simulated devices. Signals are passed on to all. When one process
fails, the others get `--grace` seconds to end, and the exit code is that of the first that failed.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1, help="of each process")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds, after a failure")
    parser.add_argument("processes", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    if args.processes < 1 or args.devices < 1 or not args.command:
        parser.error("expected a number of processes, and a command to run")
    coordinator = f"localhost:{free_ports()}"
    running = [
        subprocess.Popen(args.command, env=environment(i, args, coordinator))
        for i in range(args.processes)
    ]

    def forward(number: int, frame: object) -> None:
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    # Ctrl-C reaches the processes by itself: they are of this one's group.
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    return watch(running, args.grace)


def environment(index: int, args: argparse.Namespace, coordinator: str) -> dict[str, str]:
    """What makes process `index` one of several."""
    own = {
        "OPVSEG_COORDINATOR": coordinator,
        "OPVSEG_NUM_PROCESSES": str(args.processes),
        "OPVSEG_PROCESS_ID": str(index),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(args.devices),
    }
    return {**os.environ, **own}


def free_ports() -> int:
    """A port that is free together with the next, for the coordinator and for the lifeline."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def watch(running: list[subprocess.Popen], grace: float) -> int:
    """Waits for all; after a failure only for so long."""
    failed, end = 0, None
    while True:
        codes = [process.poll() for process in running]
        if not failed and (bad := [code for code in codes if code]):
            failed, end = bad[0], time.monotonic() + grace
        if all(code is not None for code in codes):
            break
        if end is not None and time.monotonic() > end:
            stop([process for process in running if process.poll() is None])
            break
        time.sleep(0.05)
    if failed:
        number = next(i for i, process in enumerate(running) if process.poll())
        sys.stderr.write(f"simulate: process {number} failed with {failed}\n")
    return 128 - failed if failed < 0 else failed


def stop(running: list[subprocess.Popen]) -> None:
    for process in running:
        process.terminate()
    time.sleep(1.0)
    for process in running:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
