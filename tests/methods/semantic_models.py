"""Tiny models that are built as CAT-Seg is, with random weights, and words for them.

Compiling takes the time here: whatever can share shapes does.
"""

import dataclasses
import functools

import jax
import numpy as np

from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.encoders.sizes import ClipSize, Tower
from opvseg_jax.text.features import TextFeatures, pad
from opvseg_jax.vocabulary import Vocabulary

# Half the time to compile, and as much to run, where there is next to nothing to run.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

WORDS = Vocabulary.of({"dog": ["head", "leg"], "car": ["wheel"], "sky": [], "tree": [], "cat": []})
CLIP = ClipSize(
    image_size=16,
    patch_size=4,
    vision=Tower(16, 3, 2, 32),
    text=Tower(12, 1, 2, 24),
    embed_dim=8,
    vocab_size=20,
    context=6,
)
HEAD = HeadSize(
    embed_dim=8,
    hidden=16,
    num_heads=2,
    num_layers=1,
    window=2,
    text_guidance=6,
    appearance_in=8,
    appearance=8,
    decoder=(16, 16),
    decoder_in=(6, 5),
    decoder_guidance=(4, 4),
    class_limit=20,
)
PADDED = {"objects": 7, "parts": 5, "background": 3}


def random_leaves(plan, seed: int = 0) -> dict[str, np.ndarray]:
    """Every weight random, scales near one, variances positive."""
    rng, leaves = np.random.default_rng(seed), {}
    for path, shape in sorted(plan.shapes.items()):
        leaf = 0.3 * rng.standard_normal(shape.shape) + path.endswith("scale")
        leaves[path] = (np.abs(leaf) + 0.5 if path.endswith("variance") else leaf).astype("float32")
    return leaves


class Tiny:
    """One set of weights; compiled forward passes and losses of variants of the model."""

    def __init__(self, method, size):
        self.method, self.size = method, size
        self.plan = blueprint(lambda: method(size, rngs=ShapeRngs()))
        self.leaves = random_leaves(self.plan)
        rng = np.random.default_rng(3)
        self.images = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)

        def unit(*shape: int) -> np.ndarray:
            x = rng.standard_normal((*shape, 1, 8)).astype(np.float32)
            return x / np.linalg.norm(x, axis=-1, keepdims=True)

        self.text = TextFeatures.of(WORDS, unit(5), unit(3), unit(3), background=unit(2))
        self.padded = pad(self.text, **PADDED)

    @functools.cache  # noqa: B019 (lives as long as the session)
    def _forward(self, class_chunk: int | None):
        head = dataclasses.replace(self.size.head, class_chunk=class_chunk)
        size = dataclasses.replace(self.size, head=head)
        plan = blueprint(lambda: self.method(size, rngs=ShapeRngs()))
        return quick_jit(lambda leaves, *inputs: plan.merge(leaves)(*inputs))

    def __call__(self, text=None, *, images=None, valid=None, class_chunk=None):
        """Outputs as arrays of NumPy."""
        images = self.images if images is None else images
        valid = np.ones(images.shape[:3], bool) if valid is None else valid
        text = self.padded if text is None else text
        with jax.default_matmul_precision("highest"):
            outputs = self._forward(class_chunk)(self.leaves, images, text, valid)
        return jax.tree.map(np.asarray, outputs)


def num_trained(plan, rates, rate_of) -> int:
    """How many parameters the table of learning rates does not freeze; running statistics apart."""
    return sum(
        int(np.prod(shape.shape))
        for path, shape in plan.shapes.items()
        if rate_of(path, rates) and not path.endswith(("norm/mean", "norm/variance"))
    )
