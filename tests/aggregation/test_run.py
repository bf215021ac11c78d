"""Ways of running blocks that change memory and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from aggregation.conftest import GRID, SERIAL, compiled, random_leaves
from flax import nnx

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.aggregation.head import CostHead
from opvseg_jax.aggregation.run import run_blocks
from opvseg_jax.core.batch_norm import BatchNorm
from opvseg_jax.core.weights import blueprint, flatten


class Normed(nnx.Module):
    """The least that a block with batch statistics can be."""

    def __init__(self):
        self.norm = BatchNorm(3)
        self.weight = nnx.Param(jnp.ones(3))

    def prepare(self, x, appearance, taps=None):
        return jnp.sin(x * self.weight[...])

    def summarise(self, x, classes, mode):
        return x.mean(axis=1, keepdims=True)

    def finish(self, x, appearance, classes, summary, mode, taps=None):
        taps["overlap"], taps["map"] = (x**2).mean(), x
        return self.norm(x + summary, train=mode.train) + appearance[:, None]


def test_computing_blocks_again_gives_the_same_gradients_and_statistics():
    plan = blueprint(Normed)
    leaves, rng = random_leaves(plan), np.random.default_rng(1)
    x, appearance = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((2, 3, *GRID, 3), (2, *GRID, 3))
    )

    def loss(leaves, remat):
        block, taps = plan.merge(leaves), {}
        mode = Mode((1, 1), train=True)
        y = run_blocks([block], x, appearance, None, mode, remat=remat, taps=taps)
        return (y**4).mean() + taps["block_0"]["overlap"], flatten(block)

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (plain, after), (again, after_again) = gradient(leaves, False), gradient(leaves, True)
    for path in leaves:
        # Gradients through batch statistics cancel: 5e-5 apart in float32 was seen.
        np.testing.assert_allclose(again[path], plain[path], rtol=5e-4, atol=1e-5)
        np.testing.assert_allclose(after_again[path], after[path], rtol=1e-6, atol=1e-6)
    assert not np.array_equal(after["norm/mean"], leaves["norm/mean"])


def test_memory_grows_with_the_chunk_not_with_the_vocabulary():
    def temporary(classes: int, chunk: int) -> int:
        size = dataclasses.replace(SERIAL, class_limit=0, num_layers=1, class_chunk=chunk)
        plan = blueprint(lambda: CostHead(size, rngs=nnx.Rngs(0)))
        (h, w), b = GRID, 1
        sizes = [
            (b, h, w, 10),
            (1, classes, 1, 10),
            ((b, h, w, 10), (b, 2 * h, 2 * w, 7), (b, 4 * h, 4 * w, 5)),
            (1, classes),
        ]
        shapes = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
            sizes,
            is_leaf=lambda s: isinstance(s, tuple) and isinstance(s[0], int),
        )
        lowered = compiled(size, (1, 1)).lower(plan.shapes, *shapes)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(96, 8) < 2 * temporary(16, 8)
