"""A method of three leaves that learns in no time, and its training."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from opvseg_jax.core.batch_norm import BatchNorm
from opvseg_jax.core.weights import Blueprint, blueprint

RATES = ((r"encoder/.*", 0.0), (r"head/kernel", 0.5), (r".*", 1.0))
DECAY = ((r".*/(scale|bias)", 0.0), (r".*", 0.1))
TRAIN = {
    "steps": 20,
    "lr": 0.1,
    "schedule": "constant",
    "warmup_steps": 0,
    "milestones": (),
    "poly_power": 0.9,
    "clip": {"kind": "none", "value": 0.0},
    "optimizer": "adamw",
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 1.0,
    "ema": 0.0,
    "seed": 0,
}
TEXT = {"words": np.full((2, 1), 0.5, np.float32)}


class Toy(nnx.Module):
    """A frozen encoder, a head and, if wanted, batch norm between them."""

    def __init__(self, normed: bool, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(6, 4, rngs=rngs)
        self.norm = BatchNorm(4) if normed else None
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def loss(self, batch, text):
        """Mean squared distance of image [B, H, W, 6] from object_map [B, H, W]."""
        x = jnp.tanh(self.encoder(batch["image"] / 255.0))
        if self.norm is not None:
            x = self.norm(x, train=True)
        each = (self.head(x) @ text["words"])[..., 0] - batch["object_map"]
        return (each**2).mean(), {"distance": jnp.abs(each).mean()}


def toy_plan(normed: bool = False) -> Blueprint:
    return blueprint(lambda: Toy(normed, nnx.Rngs(0)))


def toy_weights(plan: Blueprint, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        path: rng.uniform(0.2, 1.0, shape.shape).astype(np.float32)
        for path, shape in sorted(plan.shapes.items())
    }


def toy_batch(rows: int = 8, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, 2, 2, 6)).astype(np.uint8),
        "object_map": rng.integers(0, 3, (rows, 2, 2)).astype(np.int32),
    }


def toy_train(**changes) -> ConfigDict:
    return ConfigDict({**TRAIN, **changes})
