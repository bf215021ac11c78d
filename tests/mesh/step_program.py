"""Trains the tiny model for five steps on each mesh named, and writes what came out.

    step_program.py OUT.npz 1x1x1 8x1x1 ...

Run it in float64: in float32 the order of summation alone moves some gradients by 1e-4.
"""

import sys

import jax
import numpy as np
from mesh.tiny_training import batch_of, host, plan_of, rule_of, token_text, weights_for

from opvseg_jax.parallel import processes
from opvseg_jax.parallel.mesh import make_mesh, one_device, process_share
from opvseg_jax.parallel.rules import shard_batch
from opvseg_jax.train.state import create
from opvseg_jax.train.step import make_step

NUM_STEPS = 5


def train(mesh) -> dict[str, np.ndarray]:
    """Metrics of each step, and every leaf of the state after the last."""
    plan = plan_of()
    rule = rule_of(plan)
    state = create(plan, weights_for(plan), rule, mesh)
    step = make_step(plan, token_text(), rule, mesh=mesh)
    index, count = process_share(mesh)
    found = {}
    for i in range(NUM_STEPS):
        rows = {name: np.split(x, count)[index] for name, x in batch_of(i).items()}
        state, metrics = step(state, shard_batch(rows, mesh))
        found |= {f"{name}@{i}": value for name, value in host(metrics).items()}
    shards = {path: leaf.addressable_shards[0].data.size for path, leaf in state.trained.items()}
    found["share"] = np.asarray(sum(shards.values()) / sum(x.size for x in state.trained.values()))
    groups = {"trained": state.trained, "stats": state.stats, "ema": state.ema}
    groups["optimizer"] = {str(i): x for i, x in enumerate(jax.tree.leaves(state.optimizer))}
    return found | {
        f"{group}/{path}": leaf
        for group, leaves in groups.items()
        for path, leaf in host(leaves).items()
    }


def main(out: str, *names: str) -> None:
    processes.start()
    with processes.together():
        found = {}
        for name in names:
            shape = [int(size) for size in name.split("x")]
            mesh = one_device() if shape == [1, 1, 1] else make_mesh(*shape)
            found |= {f"{name}:{key}": value for key, value in train(mesh).items()}
        if processes.is_first():
            np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
