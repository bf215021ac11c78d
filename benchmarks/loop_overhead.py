"""What the training loop itself costs: CPU time of its thread for each step.

    python benchmarks/loop_overhead.py

A toy model is trained on batches that are in memory; the log is written every 20 steps. Time of the
thread is counted, not of the clock, so that waiting for the device and a busy machine do not count.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
WARM = 100  # steps that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    steps = WARM + parser.parse_args().steps
    sys.path.insert(0, str(TESTS))
    from train import toy

    from opvseg_jax.train import loop
    from opvseg_jax.train.step import Step

    inside, at = [0.0], {}
    call, ends = Step.__call__, loop.Run.ends

    def timed(self, state, batch):
        began = time.thread_time()
        result = call(self, state, batch)
        inside[0] += time.thread_time() - began
        return result

    def marked(self, state, step):
        at[step] = time.thread_time(), inside[0]
        return ends(self, state, step)

    def assemble(config):
        experiment = toy.assemble(config)
        kept = [experiment.loader.batch(i) for i in range(4)]
        experiment.loader.batches = lambda start, **options: forever(kept)
        return experiment

    Step.__call__, loop.Run.ends = timed, marked
    changes = (f"train.steps={steps}", "train.log_every=20", "train.save_every=1000000")
    with tempfile.TemporaryDirectory() as folder:
        config = toy.config(*changes, "train.evaluate_every=0")
        loop.train(config, folder, assemble=assemble)
    (all_before, in_before), (all_after, in_after) = at[WARM], at[steps]
    counted = (steps - WARM) / 1000
    call_ms = (in_after - in_before) / counted
    loop_ms = (all_after - all_before) / counted - call_ms
    print(
        f"ms of CPU for each step: {call_ms:.2f} in the call of the step, {loop_ms:.2f} around it"
    )


def forever(batches):
    """A generator, which the loop can close."""
    yield from itertools.cycle(batches)


if __name__ == "__main__":
    main()
