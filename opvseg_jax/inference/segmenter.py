"""A photo and words in, a `Segmentation` out, for any method.

Photos of every size meet the same few compiled functions: a photo is fitted into one of a short
list of canvases, and the scores are read back in tiles whose place and scale are arguments.
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.image import sample_matrix
from opvseg_jax.core.weights import Blueprint
from opvseg_jax.inference.result import Segmentation
from opvseg_jax.methods.base import Outputs
from opvseg_jax.pipeline.photos import Photo, as_rgb, open_photo
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.vocabulary import Vocabulary

MAX_FLOATS = 2**23  # scores at full size exist for this many numbers at a time, never for all
LEAST = 16  # canvas pixels: what the short side of a thin photo is drawn as
GREY = 124  # around a photo that does not fill its canvas

Canvas = tuple[int, int]


class Segmenter:
    """A method that gives probabilities, with its weights and words: made by `opvseg_jax.load`."""

    def __init__(
        self,
        *,
        name: str,
        method: Blueprint,
        weights: Mapping[str, jax.Array],
        encode_words: Callable[[Vocabulary], TextFeatures],
        canvases: tuple[Canvas, ...],
        tile: int = 512,
        max_side: int = 2048,
        stretch: bool = False,
    ):
        """`canvases` are (height, width); one call computes `tile` x `tile` pixels of a label map.

        Finer label maps than `max_side` are computed at that size and copied up. `stretch`: a
        photo fills its canvas whatever its shape, as methods want that were trained so.
        """
        self.name, self.method, self.encode_words = name, method, encode_words
        self.weights = weights
        self.canvases = canvases
        self.tile, self.max_side, self.stretch = tile, max_side, stretch
        self.words = functools.lru_cache(maxsize=8)(encode_words)
        self.side = max(max(canvas) for canvas in canvases)
        self._score = jax.jit(functools.partial(score_canvas, method, self.side))
        self._label = jax.jit(functools.partial(label_tile, tile))

    def __call__(self, image: Any, vocabulary: Any) -> Segmentation:
        """`image`: a path, a PIL image or uint8 [H, W, 3]; `vocabulary`: see `Vocabulary.of`."""
        vocabulary = Vocabulary.of(vocabulary)
        photo = as_photo(image)
        text = self.words(vocabulary)
        canvas, content = fit(photo.image, self.canvases, stretch=self.stretch)
        scores, *confidence = self._score(self.weights, canvas[None], content, text)
        objects, parts = self._label_maps(scores, text, content, photo.image.shape[:2])
        of_objects, of_parts = (np.asarray(values) for values in confidence)
        return Segmentation(
            image=photo.image,
            object_map=objects,
            part_map=parts,
            vocabulary=vocabulary,
            object_scores=of_objects[: len(vocabulary.objects)],
            part_scores=_fill(of_parts, len(vocabulary.parts)),
            model=self.name,
            path=photo.path if photo.path != Path() else None,
            photo_size=photo.size if photo.is_reduced else None,
            passed_over=0 if scores.dropped is None else int(scores.dropped[0]),
        )

    def _label_maps(
        self, scores: Outputs, text: TextFeatures, content: np.ndarray, photo: Canvas
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads the scores at the photo's size, tile by tile -> two int32 [H, W]."""
        shrink = min(1.0, self.max_side / max(photo))
        size = tuple(max(1, round(side * shrink)) for side in photo)
        share = content / self.side  # of the scores, which are padded to a square
        objects, parts = np.empty(size, np.int32), np.empty(size, np.int32)
        for top in range(0, size[0], self.tile):
            for left in range(0, size[1], self.tile):
                place = np.asarray([top, left, *size, *share], np.float32)
                tile = self._label(scores, text.part_to_object, place)
                cut = np.s_[top : top + self.tile, left : left + self.tile]
                for whole, piece in zip((objects, parts), tile, strict=True):
                    target = whole[cut]
                    target[...] = np.asarray(piece)[: target.shape[0], : target.shape[1]]
        return _copy_up(objects, photo), _copy_up(parts, photo)

    def __repr__(self) -> str:
        return f"Segmenter {self.name}"


def as_photo(image: Any) -> Photo:
    """An open photo of whatever a user gives; what came from no file has the path `.`."""
    if isinstance(image, Photo):
        return image
    if isinstance(image, str | os.PathLike):
        return open_photo(image)
    if isinstance(image, Image.Image):
        image = as_rgb(image)
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"expected a path, a PIL image or an array, got {type(image).__name__}: "
            "give uint8 [H, W, 3]"
        )
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(
            f"expected an image as uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
        )
    return Photo(image, image.shape[:2], Path())


def fit(
    photo: np.ndarray, canvases: tuple[Canvas, ...], *, stretch: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """photo uint8 [H, W, 3] -> canvas uint8 [h, w, 3], content (rows, columns) that it fills.

    The canvas on which the photo is largest is taken, of equal ones the smallest; the photo lies
    in its top left corner. A very thin photo is widened to `LEAST` pixels. With `stretch` it fills
    the canvas.
    """
    height, width = photo.shape[:2]
    scale, _, canvas = max((min(h / height, w / width), -h * w, (h, w)) for h, w in canvases)
    content = tuple(
        most if stretch else min(max(LEAST, round(side * scale)), most)
        for side, most in zip((height, width), canvas, strict=True)
    )
    resized = Image.fromarray(photo).resize(content[::-1], Image.Resampling.BICUBIC, reducing_gap=3)
    filled = np.full((*canvas, 3), GREY, np.uint8)
    filled[: content[0], : content[1]] = np.asarray(resized)
    return filled, np.asarray(content, np.int32)


def score_canvas(method: Blueprint, side: int, weights, images, content, text: TextFeatures):
    """The method on one canvas, its scores padded to a square of `side`, and mean confidences."""
    _, height, width, _ = images.shape
    rows, columns = jnp.arange(height) < content[0], jnp.arange(width) < content[1]
    valid = (rows[:, None] & columns)[None]
    outputs = method.merge(weights)(images, text, valid)
    canvas, parts = (height, width), outputs.parts
    if parts is not None:
        # Where no part was looked for nothing is known; as a sure "no part" it would take the
        # borders of objects when scores are read between pixels.
        parts = jnp.where(parts[..., -1:] >= 1.0, 0.0, parts)
    padded = (_padded(scores, canvas, side) for scores in (outputs.objects, parts))
    full = Outputs(*padded, outputs.dropped)
    return full, _mean_confidence(outputs.objects), _mean_confidence(outputs.parts)


def _padded(scores: jax.Array | None, canvas: Canvas, side: int) -> jax.Array:
    """scores [1, h, w, K] of a canvas -> [n, n, K] of a square canvas of `side` pixels."""
    if scores is None:
        return jnp.zeros((1, 1, 1))
    n = round(side * scores.shape[1] / canvas[0])
    return jnp.pad(scores[0], ((0, n - scores.shape[1]), (0, n - scores.shape[2]), (0, 0)))


def _mean_confidence(scores: jax.Array | None) -> jax.Array:
    """scores [1, h, w, K + 1] -> [K]: the mean score where a class is best, NaN if nowhere."""
    if scores is None:
        return jnp.zeros((0,))
    flat = scores.reshape(-1, scores.shape[-1])
    best = jnp.argmax(flat, axis=-1)
    total = jax.ops.segment_sum(jnp.max(flat, axis=-1), best, flat.shape[-1])
    count = jax.ops.segment_sum(jnp.ones(best.shape), best, flat.shape[-1])
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)[:-1]


def label_tile(side: int, scores: Outputs, part_to_object: jax.Array, place: jax.Array):
    """The labels of one tile: objects int32 [side, side] and parts, -1 where there is nothing.

    `place` is (top, left, height, width, share of rows, share of columns): where the tile begins
    in a label map of that size, and which share of the scores the photo fills.
    """
    objects, parts = scores.objects, scores.parts
    n = objects.shape[0]
    filled = place[4:] * n  # rows and columns of the scores that belong to the photo
    pixels = place[:2, None] + jnp.arange(side) + 0.5
    positions = pixels / place[2:4, None] * filled[:, None] - 0.5
    last = jnp.maximum(jnp.ceil(filled - 0.5) - 1, 0)  # more than half of it is photo
    positions = jnp.clip(positions, 0, last[:, None])
    rows, columns = (sample_matrix(n, line) for line in positions)
    label = functools.partial(_label_strip, objects, parts, part_to_object, columns)
    strip = _strip(side, max(objects.shape[-1], parts.shape[-1]))
    labels = jax.lax.map(label, rows.reshape(side // strip, strip, n))
    return tuple(x.reshape(side, side) for x in labels)


def _label_strip(objects, parts, part_to_object, columns, rows) -> tuple[jax.Array, jax.Array]:
    """rows [r, n], columns [c, n] -> labels of objects and of parts [r, c]."""
    labels = jnp.argmax(_read(objects, rows, columns), axis=-1)
    labels = jnp.where(labels == objects.shape[-1] - 1, -1, labels)
    if parts.shape[-1] == 1:
        return labels, jnp.full_like(labels, -1)
    scores = _read(parts, rows, columns)
    inside = part_to_object == labels[..., None]  # only the parts of the pixel's own object
    inside &= labels[..., None] >= 0
    own = jnp.where(inside, scores[..., :-1], 0.0)
    found = jnp.max(own, axis=-1) > jnp.maximum(scores[..., -1], 0.0)
    return labels, jnp.where(found, jnp.argmax(own, axis=-1), -1)


def _strip(side: int, channels: int) -> int:
    """How many rows of a tile are read at a time: a divisor of its side."""
    most = max(1, MAX_FLOATS // (side * channels))
    return next(rows for rows in range(min(most, side), 0, -1) if side % rows == 0)


def _read(scores: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """scores [n, n, K], rows [r, n], columns [c, n] -> [r, c, K]."""
    lines = jnp.einsum("rn,nmk->rmk", rows, scores, precision="highest")
    return jnp.einsum("rmk,cm->rck", lines, columns, precision="highest")


def _copy_up(labels: np.ndarray, size: Canvas) -> np.ndarray:
    """labels [h, w] -> [H, W], every pixel copied from the nearest."""
    if labels.shape == size:
        return labels
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * m // n, m - 1).astype(int)
        for n, m in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def _fill(scores: np.ndarray, count: int) -> np.ndarray:
    """The first `count` scores; NaN, unknown, where the method gave none."""
    return scores[:count] if len(scores) >= count else np.full(count, np.nan, np.float32)
