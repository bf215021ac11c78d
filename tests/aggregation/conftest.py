"""Small aggregators with every weight random, and inputs for them.

Compiling takes the time here, so tests share shapes: two images, seven classes.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.aggregation.head import CostHead, HeadSize
from opvseg_jax.core.weights import Blueprint, blueprint

SERIAL = HeadSize(
    embed_dim=10,
    hidden=16,
    num_heads=2,
    num_layers=2,
    window=2,
    text_guidance=6,
    appearance_in=10,
    appearance=8,
    decoder=(16, 16),
    decoder_in=(7, 5),
    decoder_guidance=(6, 4),
    class_limit=12,
)
PARALLEL = dataclasses.replace(SERIAL, num_experts=2, num_layers=1)
IMAGES, CLASSES, GRID = 2, 7, (4, 6)


def random_leaves(plan: Blueprint, seed: int = 0) -> dict[str, np.ndarray]:
    """Leaves that hide nothing: scales near one, variances positive, all else of either sign."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, shape in sorted(plan.shapes.items()):
        leaf = 0.3 * rng.standard_normal(shape.shape)
        if path.endswith("scale"):
            leaf = leaf + 1
        leaves[path] = (np.abs(leaf) + 0.5 if path.endswith("variance") else leaf).astype("float32")
    return leaves


@functools.cache
def compiled(size: HeadSize, pooling: tuple[int, int]):
    """A forward pass (leaves, features, text, pyramid, mask) -> logits of an aggregator."""
    plan = blueprint(lambda: CostHead(size, rngs=nnx.Rngs(0)))

    @jax.jit
    def forward(leaves, features, text, pyramid, mask):
        return plan.merge(leaves)(features, text, pyramid, Mode(pooling), mask=mask)

    return forward


class Head:
    """One set of weights, and a forward pass of any variant of the aggregator they belong to."""

    def __init__(self, size: HeadSize):
        self.size = size
        self.leaves = random_leaves(blueprint(lambda: CostHead(size, rngs=nnx.Rngs(0))))
        rng, (h, w) = np.random.default_rng(5), GRID
        draw = functools.partial(rng.standard_normal, dtype=np.float32)
        self.features = draw((IMAGES, h, w, size.embed_dim))
        self.text = draw((1, CLASSES, size.num_prompts, size.embed_dim))
        self.pyramid = (
            draw((IMAGES, h, w, size.appearance_in)),
            draw((IMAGES, 2 * h, 2 * w, size.decoder_in[0])),
            draw((IMAGES, 4 * h, 4 * w, size.decoder_in[1])),
        )

    def __call__(
        self, *, features=None, text=None, pyramid=None, mask=None, pooling=(2, 2), **changes
    ) -> np.ndarray:
        """The logits, with some inputs or sizes changed."""
        text = self.text if text is None else text
        forward = compiled(dataclasses.replace(self.size, **changes), pooling)
        with jax.default_matmul_precision("highest"):
            logits = forward(
                self.leaves,
                self.features if features is None else features,
                text,
                self.pyramid if pyramid is None else pyramid,
                np.ones((1, text.shape[1]), bool) if mask is None else mask,
            )
        return np.asarray(logits)


@pytest.fixture(scope="session", params=["serial", "parallel"])
def head(request) -> Head:
    return Head({"serial": SERIAL, "parallel": PARALLEL}[request.param])


@pytest.fixture(scope="session")
def serial_head() -> Head:
    return Head(SERIAL)
