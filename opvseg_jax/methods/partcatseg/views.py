"""Images as CLIP and DINO get them, and guidance from what DINO makes of them.

Shapes: B images, H W canvas, h w grid, C width of DINO.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims

DIVISOR = 32  # images are filled up to multiples of this


class Statistics(NamedTuple):
    """Mean and deviation of pixels in 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


FOR_CLIP = Statistics(
    (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.3231630)
)
FOR_DINO = Statistics((123.675, 116.280, 103.530), (58.395, 57.120, 57.375))


def normalise(images: jax.Array, statistics: Statistics) -> jax.Array:
    """images [..., 3] in 0..255 -> about zero mean and unit variance."""
    mean, std = (jnp.asarray(x, jnp.float32) for x in statistics)
    return (images.astype(jnp.float32) - mean) / std


def whole(
    images: jax.Array, side: int, statistics: Statistics, valid: jax.Array | None = None
) -> jax.Array:
    """images [B, H, W, 3] in 0..255 -> normalised, filled up with 0, [B, side, side, 3].

    The aspect ratio is not kept. Where `valid` [B, H, W] is false there is padding: 0 as well.
    """
    dims(images, "B H W C", C=3)
    x = normalise(images, statistics)
    if valid is not None:
        x = jnp.where(valid[..., None], x, 0.0)
    height, width = filled(images.shape[1:3])
    missing = (height - images.shape[1], width - images.shape[2])
    return resize(jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))), (side, side))


def filled(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) -> both as multiples of 32."""
    height, width = (-(-side // DIVISOR) * DIVISOR for side in size)
    return height, width


def at_size(maps: jax.Array, size: tuple[int, int], *, undo_padding: bool) -> jax.Array:
    """maps [B, h, w, C] of the filled-up image -> [B, H, W, C] of an image of `size`.

    Without `undo_padding` they are stretched over it, padding included, as in the reference.
    """
    if not undo_padding:
        return resize(maps, size)
    return resize(maps, filled(size))[:, : size[0], : size[1]]


def pyramid(
    maps: jax.Array, grid: tuple[int, int], *, num_stages: int = 2
) -> tuple[jax.Array, ...]:
    """DINO's patches [B, n, m, C] -> guidance of 1, 2, 4 ... times the grid (h, w).

    One map for the aggregation and one for each stage of the decoder.
    """
    h, w = grid
    return tuple(resize(maps, (2**i * h, 2**i * w)) for i in range(num_stages + 1))
