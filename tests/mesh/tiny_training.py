"""A tiny PCA-Seg and its training, built alike by every test of the step.

It has what a mesh could break: batch norm, class attention, an orthogonality term over all images
and classes, frozen leaves, and a text tower that trains.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from methods.semantic_models import CLIP, HEAD, random_leaves
from ml_collections import ConfigDict

from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.core.weights import Blueprint, blueprint
from opvseg_jax.methods.pcaseg.model import PcaSeg
from opvseg_jax.methods.pcaseg.sizes import OPENAI_LEARNING_RATES, WEIGHT_DECAY, PcaSegSize
from opvseg_jax.text.features import TextFeatures, pad
from opvseg_jax.train.optimizer import make_rule
from opvseg_jax.vocabulary import Vocabulary


class OneBlock(HeadSize):
    """Compiling for eight devices takes the time: one parallel block, not the two of a layer."""

    def layer(self, **options) -> nnx.List:
        return nnx.List([self.block(**options)])


HEAD_SIZE = OneBlock(**{**dataclasses.asdict(HEAD), "num_layers": 1, "num_experts": 1})
CLIP_SIZE = dataclasses.replace(CLIP, vision=dataclasses.replace(CLIP.vision, num_layers=1))
SIZE = PcaSegSize(CLIP_SIZE, HEAD_SIZE, 16, (0, 0), sliding=None, orthogonality=0.01)
WORDS = Vocabulary.of({"dog": [], "car": [], "sky": [], "tree": [], "cat": []})
TRAIN = {
    "steps": 10,
    "batch_size": 8,
    "accumulate": 1,
    "lr": 1e-2,
    "schedule": "cosine",
    "warmup_steps": 0,
    "milestones": (),
    "poly_power": 0.9,
    "clip": {"kind": "norm", "value": 0.01},
    "optimizer": "adamw",
    "betas": (0.9, 0.999),
    # Some gradients are zero but for rounding; Adam divides those by about eps, and with 1e-8 noise
    # of 1e-17 moves a weight by more than the test allows.
    "eps": 1e-3,
    "weight_decay": 1.0,
    "ema": 0.9,
    "remat": False,
    "seed": 0,
}


def train_config(**changes) -> ConfigDict:
    return ConfigDict({**TRAIN, **changes})


def plan_of(size=SIZE, method=PcaSeg) -> Blueprint:
    """Its leaves are as wide as JAX lets them be."""
    plan = blueprint(lambda: method(size, rngs=nnx.Rngs(0)))
    wide = jnp.result_type(float)
    shapes = {path: jax.ShapeDtypeStruct(x.shape, wide) for path, x in plan.shapes.items()}
    return Blueprint(plan.graphdef, shapes)


def rule_of(plan, **changes):
    return make_rule(train_config(**changes), plan, OPENAI_LEARNING_RATES, WEIGHT_DECAY)


def weights_for(plan) -> dict[str, np.ndarray]:
    """Random, float32."""
    return random_leaves(plan)


def token_text() -> TextFeatures:
    """Token ids where embeddings would be, so that the text tower trains."""
    rng = np.random.default_rng(5)

    def tokens(count: int) -> np.ndarray:
        ids = rng.integers(1, 18, (count, 1, CLIP.context)).astype(np.int32)
        ids[..., -1] = CLIP.vocab_size - 1
        return ids

    none = np.zeros((0, 1, CLIP.context), np.int32)
    text = TextFeatures.of(WORDS, tokens(5), none, none, background=none)
    return pad(text, objects=6)


def batch_of(step: int = 0, rows: int = 8) -> dict[str, np.ndarray]:
    """Noise with labels; some pixels have none.

    Whole numbers would be normalised and resized in float32, whose last digit is the mesh's.
    """
    rng = np.random.default_rng(100 + step)
    image = rng.integers(0, 256, (rows, 16, 16, 3)).astype(jnp.result_type(float))
    object_map = rng.integers(-1, 5, (rows, 16, 16)).astype(np.int32)
    return {
        "image": image,
        "object_map": object_map,
        "valid": np.ones((rows, 16, 16), bool),
    }


def host(tree):
    """Every leaf as NumPy, also of arrays that several processes hold together."""
    from jax.experimental.multihost_utils import process_allgather

    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(lambda leaf: process_allgather(leaf, tiled=True), tree)
