"""A method that reads its answers off the colours of an image: red is the object, green the part.

So a test decides what is answered, pixel by pixel. 255 stands for nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.core.weights import Blueprint, blueprint
from opvseg_jax.methods.base import Method, Outputs
from opvseg_jax.pipeline.samples import Sample
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.vocabulary import Vocabulary

WORDS = dataclasses.replace(
    Vocabulary.of("dog: head, leg; car: wheel, door, window; sky"),
    seen_objects=(True, False, True),
    seen_parts=(True, True, False, False, False),
)
NOTHING = 255


class ColourModel(Method):
    """Scores are 1 for the class that the colour names; `scale` is there to have a leaf."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, images, text, valid=None) -> Outputs:
        counts = len(text.objects), len(text.parts)
        scores = [
            jax.nn.one_hot(jnp.where(images[..., i] == NOTHING, k, images[..., i]), k + 1)
            for i, k in enumerate(counts)
        ]
        return Outputs(*(self.scale[...] * x for x in scores))


def plan() -> Blueprint:
    return blueprint(ColourModel)


def weights() -> dict[str, np.ndarray]:
    return {"scale": np.ones((), np.float32)}


def text(words: Vocabulary = WORDS) -> TextFeatures:
    shape = (1, 2)
    rows = (np.ones((n, *shape), np.float32) for n in (len(words.objects), len(words.parts)))
    return TextFeatures.of(words, *rows, np.ones((len(words.generic_parts), *shape), np.float32))


def answered(objects: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The image [h, w, 3] whose answer these maps are, -1 for nothing."""
    channels = [np.where(labels < 0, NOTHING, labels) for labels in (objects, parts)]
    return np.stack([*channels, np.zeros_like(objects)], axis=-1).astype(np.uint8)


class Pairs:
    """A source of true maps and answers at their own sizes, random unless told otherwise."""

    name, vocabulary = "pairs", WORDS

    def __init__(self, sizes, *, share_wrong: float = 0.3, parts=(-1, 0, 1, 2, 3, 4)):
        self.sizes, self.share_wrong, self.parts = sizes, share_wrong, parts

    def __len__(self) -> int:
        return len(self.sizes)

    def maps(self, index: int):
        """-> true objects and parts, answered objects and parts; int16 [h, w]."""
        rng = np.random.default_rng(index)
        size = self.sizes[index]
        blocks = rng.choice(self.parts, (3, 3))
        rows, columns = (np.arange(n) * 3 // n for n in size)
        parts = blocks[rows[:, None], columns]
        objects = np.append(WORDS.part_to_object, -1)[parts]
        is_wrong = rng.random(size) < self.share_wrong
        other = np.where(is_wrong, rng.integers(-1, len(WORDS.parts), size), parts)
        owners = np.append(WORDS.part_to_object, -1)[other]
        ignored = rng.random(size) < 0.05
        truth = (np.where(ignored, -2, labels) for labels in (objects, parts))
        return tuple(x.astype(np.int16) for x in (*truth, owners, other))

    def __getitem__(self, index: int) -> Sample:
        objects, parts, *answers = self.maps(index)
        return Sample(answered(*answers), objects, parts, f"image {index}")
