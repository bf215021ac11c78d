"""Borders of classes: a proper one for every class at once, and the one that was published.

Boundary IoU compares only pixels near a border: within d = 2 % of the image's diagonal. For class
k these are the pixels of k that have another label, or the image's edge, within d (Chebyshev), so
two filters over the label map find them for all classes: those that are not equal to the smallest
or to the largest label around them.

The published evaluators subtract an eroded label map from the label map and read the difference as
labels. With two classes that is the border; with more it is a difference of names.

Shapes: h w label maps, in whose top left corner an image of `size` (height, width) lies.
"""

import jax
import jax.numpy as jnp
import numpy as np

SHARE = 0.02  # of the diagonal
OUTSIDE = 2**30  # larger than any label


def reach(sizes: np.ndarray) -> np.ndarray:
    """sizes [B, 2] (height, width) -> d in pixels, int32 [B], at least 1; halves to even."""
    diagonals = np.sqrt((np.asarray(sizes, np.float64) ** 2).sum(axis=-1))
    return np.maximum(1, np.round(SHARE * diagonals)).astype(np.int32)


def border_labels(labels: jax.Array, size: jax.Array, d: jax.Array) -> jax.Array:
    """labels int [h, w] -> the label where a pixel lies at its class's border, -1 elsewhere.

    Ignored pixels (below -1) stay ignored; to their neighbours they are a label as any other.
    """
    framed = jnp.where(_holds(labels.shape, size), jnp.pad(labels, 1), OUTSIDE)
    lowest, highest = _smallest(framed, d), -_smallest(-framed, d)
    is_border = (lowest != framed) | (highest != framed)
    return jnp.where(is_border[1:-1, 1:-1] | (labels < -1), labels, -1)


def label_difference(labels: jax.Array, size: jax.Array, d: jax.Array) -> jax.Array:
    """labels int [h, w] >= 0 -> label minus the smallest label within d; around the image lies 0.

    Beyond one pixel around it there is nothing, as in the published code.
    """
    holds, around = _holds(labels.shape, size), _holds(labels.shape, size, margin=1)
    framed = jnp.where(holds, jnp.pad(labels, 1), jnp.where(around, 0, OUTSIDE))
    return labels - _smallest(framed, d)[1:-1, 1:-1]


def _holds(shape: tuple[int, int], size: jax.Array, margin: int = 0) -> jax.Array:
    """[h + 2, w + 2] bool: the image, which begins at (1, 1), and a margin around it."""
    rows, columns = (
        (jnp.arange(n + 2) >= 1 - margin) & (jnp.arange(n + 2) <= s + margin)
        for n, s in zip(shape, size, strict=True)
    )
    return rows[:, None] & columns


def _smallest(x: jax.Array, d: jax.Array) -> jax.Array:
    """The smallest value within d pixels of each."""

    def once(_, x):
        padded = jnp.pad(x, 1, constant_values=OUTSIDE)
        rows = jnp.minimum(jnp.minimum(padded[:-2], padded[1:-1]), padded[2:])
        return jnp.minimum(jnp.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])

    return jax.lax.fori_loop(0, d, once, x)
