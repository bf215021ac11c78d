"""From scores at a method's resolution to labels at the image's own size, on the device.

The part of the scores that belongs to the image is read bilinearly at every pixel of the label map
(as cutting the padding away and resizing does), a few rows at a time, and decided at once: no score
map of full size ever exists.

Shapes: B images, H W canvas, y x scores, h w label maps, O objects, T parts, r rows of a strip.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.shapes import dims
from opvseg_jax.vocabulary import Vocabulary

MAX_FLOATS = 2**23  # scores at full size exist for this many numbers of an image batch at a time

# strip [r, w, K + 1] of scores, truth [r, w] of objects, kept [2, K] -> labels [r, w]
Decide = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def pred_all(scores: jax.Array, truth: jax.Array, kept: jax.Array) -> jax.Array:
    """The best of all channels; the last one means that there is nothing."""
    best = jnp.argmax(scores, axis=-1)
    return jnp.where(best < kept.shape[-1], best, -1)


def oracle_name(scores: jax.Array, truth: jax.Array, kept: jax.Array) -> jax.Array:
    """The best of the parts whose name holds the name of the record's object; never nothing."""
    return jnp.argmax(jnp.where(kept[0], scores[..., : kept.shape[-1]], -1.0), axis=-1)


def oracle_exact(scores: jax.Array, truth: jax.Array, kept: jax.Array) -> jax.Array:
    """The best of the parts of the record's objects, the other scores being 0; never nothing."""
    return jnp.argmax(jnp.where(kept[1], scores[..., : kept.shape[-1]], 0.0), axis=-1)


def oracle_obj(owners: np.ndarray, scores: jax.Array, truth: jax.Array, kept: jax.Array):
    """The best of the parts of the object that truly is at the pixel; nothing where none is."""
    mine = owners == truth[..., None]  # [r, w, T]
    best = jnp.argmax(jnp.where(mine, scores[..., : len(owners)], -jnp.inf), axis=-1)
    return jnp.where(mine.any(axis=-1), best, -1)


def decisions(vocabulary: Vocabulary) -> dict[str, Decide]:
    """How the labels of parts can be chosen, by name."""
    mine = functools.partial(oracle_obj, vocabulary.part_to_object)
    return {
        "pred_all": pred_all,
        "oracle_obj": mine,
        "oracle_name": oracle_name,
        "oracle_exact": oracle_exact,
    }


def parts_by_name(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Which parts an object name selects, bool [O, T]: as a part of the string, and exactly.

    The published code compares strings, so that "bed" also selects the parts of "bedside table".
    """
    names = vocabulary.part_names
    inside = [[name in part for part in names] for name in vocabulary.objects]
    shape = (len(vocabulary.objects), len(names))
    exact = vocabulary.part_to_object == np.arange(shape[0])[:, None]
    return np.array(inside, bool).reshape(shape), exact


def kept_parts(object_map: jax.Array, inside: np.ndarray, exact: np.ndarray) -> jax.Array:
    """object_map [h, w] -> bool [2, T]: for `oracle_name`, by the lowest object present, and for
    `oracle_exact`, by all that are present.
    """
    count = len(inside)
    slots = jnp.where(object_map < 0, count, object_map)
    present = jnp.zeros(count + 1, bool).at[slots.ravel()].set(True)[:-1]
    lowest = jnp.asarray(inside)[jnp.argmax(present)] & present.any()
    return jnp.stack([lowest, (present[:, None] & exact).any(axis=0)])


def full_size_labels(
    scores: jax.Array,
    content: jax.Array,
    sizes: jax.Array,
    truth: jax.Array,
    kept: jax.Array,
    rules: Mapping[str, Decide],
    canvas: tuple[int, int],
) -> dict[str, jax.Array]:
    """scores [B, y, x, K + 1] of canvases (H, W) -> int32 [B, h, w] for each of `rules`.

    content [B, 2] is the height and width of a canvas that its image fills, sizes [B, 2] those of
    the label map that its labels fill; truth [B, h, w] are objects, kept [B, 2, K].
    """
    found = full_size_scores(scores, content, sizes, truth, kept, rules, canvas)
    return {name: labels.astype(jnp.int32) for name, labels in found.items()}


def full_size_scores(scores, content, sizes, truth, kept, rules, canvas) -> dict[str, jax.Array]:
    """As `full_size_labels`, for rules that may return more than one number for a pixel."""
    b, y, x, k = dims(scores, "B y x K")
    _, h, w = dims(truth, "B h w", B=b)
    share = jnp.asarray([y / canvas[0], x / canvas[1]], jnp.float32)
    filled = content * share  # [B, 2] of the scores
    strip = _strip(h, b * w * k)

    def one(scores, filled, size, truth, kept):
        columns = _places(w, filled[1], size[1])

        def decide(start):
            rows = _places(strip, filled[0], size[0], start)
            seen = _between(_between(scores, rows, 0), columns, 1)  # [r, w, K + 1]
            own = jax.lax.dynamic_slice_in_dim(truth, start, strip)
            return {name: rule(seen, own, kept) for name, rule in rules.items()}

        found = jax.lax.map(decide, jnp.arange(0, h, strip))
        return {name: value.reshape(h, w, *value.shape[3:]) for name, value in found.items()}

    return jax.vmap(one)(scores, filled, sizes, truth, kept)


def _places(count: int, filled: jax.Array, size: jax.Array, start: jax.Array | int = 0):
    """Where pixels start ... start + count - 1 of `size` lie in the first `filled` scores."""
    size = jnp.maximum(size, 1)
    places = (start + jnp.arange(count) + 0.5) * (filled / size) - 0.5
    last = jnp.maximum(jnp.ceil(filled - 0.5) - 1, 0)  # more than half of it is image
    return jnp.clip(places, 0, last), last


def _between(x: jax.Array, places: tuple[jax.Array, jax.Array], axis: int) -> jax.Array:
    """Reads an axis at float places, linearly."""
    at, last = places
    low = jnp.floor(at)
    high = jnp.minimum(low + 1, last)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = (at - low).reshape(shape)
    pair = (jnp.take(x, index.astype(jnp.int32), axis=axis) for index in (low, high))
    first, second = (value.astype(jnp.float32) for value in pair)
    return first * (1 - share) + second * share


def _strip(height: int, floats: int) -> int:
    """How many rows are read at a time: a divisor of the height."""
    most = max(1, MAX_FLOATS // max(floats, 1))
    return next(rows for rows in range(min(most, height), 0, -1) if height % rows == 0)
