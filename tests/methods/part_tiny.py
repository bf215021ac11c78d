"""Tiny PartCATSeg and HOPS models with random weights, and words whose vectors follow the name.

Compiling takes the time here: whatever can share shapes does.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from methods.semantic_models import quick_jit, random_leaves

from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower
from opvseg_jax.text.features import TextFeatures, pad
from opvseg_jax.vocabulary import Vocabulary

WORDS = {"dog": ["head", "leg", "tail"], "car": ["wheel", "door"], "cat": ["head", "tail"]}
CLIP = ClipSize(
    image_size=16,
    patch_size=4,
    vision=Tower(16, 2, 2, 32),
    text=Tower(12, 1, 2, 24),
    embed_dim=8,
    vocab_size=20,
    context=6,
)
DINO = DinoSize(Tower(12, 2, 2, 24), image_size=16, patch_size=4)
HEAD = HeadSize(
    embed_dim=8,
    num_prompts=2,
    hidden=16,
    num_heads=2,
    num_layers=1,
    window=2,
    text_guidance=6,
    appearance_in=12,
    appearance=8,
    decoder=(16, 16),
    decoder_in=(12, 12),
    decoder_guidance=(4, 4),
    attention="query",
    class_limit=0,
)
SIDES = {"image_size": 16, "dino_size": 20}
CANVAS = (32, 32)
# Words of every test are padded to this, unless padding is what it tests.
PADDED = {"objects": 5, "parts": 9, "generic": 7, "most_parts": 5, "background": 2}


def vectors(names, prompts: int = 2, width: int = 8) -> np.ndarray:
    """Unit vectors [T, P, E] that depend on each name alone."""
    rows = [
        np.random.default_rng(zlib.crc32(name.encode())).standard_normal((prompts, width))
        for name in names
    ]
    rows = np.array(rows, np.float32).reshape(-1, prompts, width)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def features(words, background=()) -> TextFeatures:
    v = Vocabulary.of(words)
    of_parts = vectors(v.part_names), vectors(v.generic_parts)
    return TextFeatures.of(v, vectors(v.objects), *of_parts, background=vectors(background))


def padded(words, background=()) -> TextFeatures:
    return pad(features(words, background), **PADDED)


def images(count: int = 2, seed: int = 3) -> np.ndarray:
    """Coarse coloured squares: each image has its own."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)


class Tiny:
    """One set of weights for variants of the model that differ in no leaf."""

    def __init__(self, method, size):
        self.method, self.size = method, size
        self.plan = self.plan_of(size)
        self.leaves = jax.tree.map(jnp.asarray, random_leaves(self.plan))

    def plan_of(self, size):
        return blueprint(lambda: self.method(size, rngs=ShapeRngs()))

    @functools.cache  # noqa: B019 (lives as long as the session)
    def _forward(self, size):
        plan = self.plan_of(size)
        return quick_jit(lambda leaves, *inputs: plan.merge(leaves)(*inputs))

    def __call__(self, text, pictures=None, *, valid=None, size=None):
        """Outputs as arrays of NumPy."""
        pictures = images() if pictures is None else pictures
        valid = np.ones(pictures.shape[:3], bool) if valid is None else valid
        with jax.default_matmul_precision("highest"):
            outputs = self._forward(size or self.size)(self.leaves, pictures, text, valid)
        return jax.tree.map(np.asarray, outputs)

    def loss(self, text, batch, *, size=None):
        """The loss, and its gradient for every leaf."""
        plan = self.plan_of(size or self.size)
        value = jax.value_and_grad(lambda leaves: plan.merge(leaves).loss(batch, text)[0])
        return jax.device_get(quick_jit(value)(self.leaves))


def batch(text: TextFeatures, seed: int = 0) -> dict[str, np.ndarray]:
    """Pictures with labels in coarse squares; every part lies on its object."""
    rng = np.random.default_rng(seed)
    owners = np.asarray(text.part_to_object)
    parts = rng.integers(-1, len(owners), (2, 4, 4)).repeat(8, axis=1).repeat(8, axis=2)
    objects = np.where(parts < 0, -1, owners[parts])
    objects[:, :4] = 0  # an object without a known part
    parts[:, :4] = -1
    objects[:, -4:] = -2  # ignored
    parts[:, -4:] = -2
    return {"image": images(), "object_map": objects, "part_map": parts}
