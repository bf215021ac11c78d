"""Run by test_sharded.py in processes of their own: the same evaluation on several devices.

count_apart.py OUT mesh DATA FSDP          8 simulated devices of one process
count_apart.py OUT processes INDEX PORT    one of two processes
"""

import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES = [(20, 31), (32, 32), (9, 16), (32, 20), (17, 32)]


def count(batch_size: int, mesh=None, **share):
    from evaluate import colour_model as colours

    from opvseg_jax.evaluate.protocols import PROTOCOLS
    from opvseg_jax.evaluate.run import evaluate
    from opvseg_jax.pipeline.evaluation import evaluation_batches

    source = colours.Pairs(SIZES)
    batches = evaluation_batches(source, batch_size=batch_size, sides=(32,), **share)
    return evaluate(
        colours.plan(),
        colours.weights(),
        colours.text(),
        colours.WORDS,
        batches,
        mesh=mesh,
        modes=("pred_all", "oracle_obj"),
        protocols=tuple(PROTOCOLS),
    )


def main(out: str, kind: str, *numbers: str) -> None:
    from opvseg_jax.parallel.mesh import make_mesh

    first, second = map(int, numbers)
    if kind == "mesh":
        counts = count(3, make_mesh(first, second, 8 // (first * second)))
    else:
        jax.distributed.initialize(f"localhost:{second}", 2, first)
        counts = count(1, make_mesh(), process=first, num_processes=2)
        out = f"{out}{first}.npz"
    np.savez(out, images=counts.images, **{k: t.counts for k, t in counts.tables.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
