"""Kills a small training with SIGKILL at random moments and starts it again each time.

What is left is compared with an uninterrupted run, bit for bit: parameters, optimizer, figures.

    python benchmarks/kill_and_resume.py --kills 30

Every step saves a checkpoint. Half of the kills wait until files of a checkpoint are being written;
the others come at any time, from the start of the process on.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
UNFINISHED = "checkpoints/*.orbax-checkpoint-tmp"
PATIENCE = 600  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(Path(args.train), args.steps)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        start(whole, args.steps).wait()
        inside = sum(kill_once(killed, args.steps, rng, i % 2 == 0) for i in range(args.kills))
        if start(killed, args.steps).wait():
            print("the last start did not finish")
            return 1
        same = compare(whole, killed)
    for what, is_same in same.items():
        print(f"{what}: {'identical' if is_same else 'DIFFERENT'}")
    print(f"{args.kills} kills, {inside} of them while a checkpoint was being written")
    return 0 if all(same.values()) else 1


def train(folder: Path, steps: int) -> int:
    sys.path.insert(0, str(TESTS))
    from train import toy

    from opvseg_jax.train.loop import train

    changes = (f"train.steps={steps}", "train.save_every=1", "train.evaluate_every=20")
    train(toy.config(*changes), folder, assemble=toy.assemble)
    return 0


def start(folder: Path, steps: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "--train", str(folder), "--steps", str(steps)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def kill_once(folder: Path, steps: int, rng: random.Random, waits_for_save: bool) -> bool:
    """-> whether a checkpoint was left unfinished."""
    process = start(folder, steps)
    wanted, began = rng.randint(1, 4), time.monotonic()
    first = rows(folder)
    if not waits_for_save and rng.random() < 0.2:
        time.sleep(rng.uniform(0, 3))  # importing, compiling, restoring
    else:
        while rows(folder) < first + wanted and time.monotonic() - began < PATIENCE:
            time.sleep(0.002)
        while waits_for_save and not list(folder.glob(UNFINISHED)) and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.02 if waits_for_save else 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    is_inside = bool(list(folder.glob(UNFINISHED)))
    names = sorted(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdecimal())
    newest = names[-1] if names else None
    print(f"killed: {rows(folder)} rows, newest checkpoint {newest}, inside a save: {is_inside}")
    return is_inside


def rows(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def compare(whole: Path, killed: Path) -> dict[str, bool]:
    sys.path.insert(0, str(TESTS))
    os.environ["JAX_PLATFORMS"] = "cpu"
    from train import test_loop

    a, b = test_loop.ending(whole), test_loop.ending(killed)
    return {what: a[what] == b[what] for what in a}


if __name__ == "__main__":
    sys.exit(main())
