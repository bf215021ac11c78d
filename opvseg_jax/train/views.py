"""Random views of images for self-distillation: square crops, flips, masks and new colours.

A crop is two matrices, one for rows and one for columns: so is the way from the patches of one
view to those of another. Everything is a matrix product, on any device, without a gather.

Shapes: B images, S pixels of a side, N patches, s and n sides of what comes out.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

HUE = (-0.3 * math.pi, 0.3 * math.pi)
SATURATION, GAIN, CONTRAST, GREY = (0.3, 1.4), (0.75, 1.25), (0.7, 1.3), 0.15


class Crop(NamedTuple):
    """A square in shares of the image; a negative width is a mirrored one. All [B]."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def whole(batch: int) -> Crop:
    """The image itself."""
    zero, one = jnp.zeros(batch), jnp.ones(batch)
    return Crop(zero, zero, one, one)


def crop_inside(dice: jax.Array, outer: Crop, sides: tuple[float, float], mirrored: bool) -> Crop:
    """Random squares inside `outer`, their sides a share of its side between the two `sides`.

    Half of them are mirrored, if at all. dice [B, 4] in 0..1.
    """
    side = outer.height * between(dice[:, 0], sides)
    top = outer.top + (outer.height - side) * dice[:, 1]
    left = outer.left + (outer.width - side) * dice[:, 2]
    turned = (dice[:, 3] < 0.5) & mirrored
    return Crop(top, left + turned * side, side, jnp.where(turned, -side, side))


def seen_from(outer: Crop, inner: Crop) -> Crop:
    """`inner` in shares of `outer`, which is not mirrored."""
    top, left = (inner.top - outer.top) / outer.height, (inner.left - outer.left) / outer.width
    return Crop(top, left, inner.height / outer.height, inner.width / outer.width)


def resample(x: jax.Array, crop: Crop, size: int) -> jax.Array:
    """x [B, H, W, C] -> what is in the crop, [B, size, size, C]; bilinear, with antialiasing."""
    rows = tents(crop.top, crop.height, size, x.shape[1])
    columns = tents(crop.left, crop.width, size, x.shape[2])
    x = jnp.einsum("bsh,bhwc->bswc", rows, x)
    return jnp.einsum("btw,bswc->bstc", columns, x)


def tents(start: jax.Array, extent: jax.Array, size: int, source: int) -> jax.Array:
    """start, extent [B] in shares -> weights [B, size, source], rows that sum to one."""
    step = extent[:, None] * source / size
    centre = start[:, None] * source + step * (jnp.arange(size) + 0.5) - 0.5
    centre = jnp.clip(centre, 0, source - 1)
    distance = jnp.abs(centre[..., None] - jnp.arange(source))
    weights = jax.nn.relu(1 - distance / jnp.maximum(jnp.abs(step), 1)[..., None])
    return weights / weights.sum(axis=-1, keepdims=True)


def recolour(dice: jax.Array, images: jax.Array) -> jax.Array:
    """images [B, H, W, 3] in 0..1 -> the same with any hue, and other saturation and light.

    In PartWorld colour tells objects apart and says nothing about what they are. dice [B, 5].
    """
    dice = dice[:, :, None, None, None]
    turn, gain = between(dice[:, 0], HUE), between(dice[:, 1], GAIN)
    chroma = between(dice[:, 2], SATURATION) * (dice[:, 3] > GREY)
    grey = images.mean(axis=-1, keepdims=True)
    # Turning a colour around the grey axis: `across` is a quarter of a turn away from it.
    across = (jnp.roll(images, 1, axis=-1) - jnp.roll(images, -1, axis=-1)) / jnp.sqrt(3.0)
    images = gain * (grey + chroma * (jnp.cos(turn) * (images - grey) + jnp.sin(turn) * across))
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return jnp.clip(mean + between(dice[:, 4], CONTRAST) * (images - mean), 0, 1)


def random_mask(dice: jax.Array, grid: int, shares: tuple[float, float]) -> jax.Array:
    """[B, grid, grid] bool: squares of 2 x 2 patches, a share of each image between `shares`.

    dice [B, 1 + grid * grid], more than enough.
    """
    cells = -(-grid // 2)
    share, dice = between(dice[:, :1], shares), dice[:, 1 : 1 + cells * cells]
    mask = (dice < share).reshape(-1, cells, cells)
    return jnp.repeat(jnp.repeat(mask, 2, axis=1), 2, axis=2)[:, :grid, :grid]


def between(dice: jax.Array, bounds: tuple[float, float]) -> jax.Array:
    """From 0..1 to the bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * dice
