"""Images in, views out; logits of views in, scores of images out.

The canvas is stretched to a square, as in the reference: the aspect ratio is not kept.

Shapes: B images, V views, T classes, H W image, h w logits of a view.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims
from opvseg_jax.core.windows import merge_windows, split_windows
from opvseg_jax.methods.catseg.sizes import Sliding

MEAN = (122.7709383, 116.7460125, 104.09373615)  # CLIP's pixel statistics, of 0..255
STD = (68.5005327, 66.6321579, 70.3231630)

Score = Callable[[jax.Array], jax.Array]  # images [V, S, S, 3] as CLIP gets them -> [V, T, h, w]


def normalise(images: jax.Array) -> jax.Array:
    """images [..., 3] in 0..255 -> zero mean, unit variance."""
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    return (wide - jnp.asarray(MEAN, wide.dtype)) / jnp.asarray(STD, wide.dtype)


def whole(images: jax.Array, side: int, divisor: int = 32) -> jax.Array:
    """images [B, H, W, 3] in 0..255 -> normalised, padded with 0, resized: [B, side, side, 3].

    The padding fills up to multiples of 32 and is never taken off again, as in the reference.
    """
    _, height, width, _ = dims(images, "B H W C", C=3)
    missing = (-height % divisor, -width % divisor)
    padded = jnp.pad(normalise(images), ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    return resize(padded, (side, side))


def plain(score: Score, images: jax.Array, side: int) -> jax.Array:
    """One view for each image: images [B, H, W, 3] -> scores [B, h, w, T] of the whole canvas.

    As in the reference, an image smaller than the map of logits loses what lies beyond its size.
    """
    _, height, width, _ = dims(images, "B H W C", C=3)
    scores = jax.nn.sigmoid(score(whole(images, side)))
    return _last(scores[:, :, :height, :width])


def sliding(score: Score, images: jax.Array, side: int, rule: Sliding) -> jax.Array:
    """Windows and the whole: images [B, H, W, 3] -> scores [B, canvas, canvas, T].

    Scores are averaged after the sigmoid: the mean of all windows at a pixel, and of that and the
    global view.
    """
    b, *_ = dims(images, "B H W C", C=3)
    seen = views(images, side, rule)  # [B, V, S, S, 3], the last one is global
    logits = score(seen.reshape(-1, *seen.shape[2:]))
    scores = jax.nn.sigmoid(resize(_last(logits), (rule.window, rule.window)))
    scores = scores.reshape(b, -1, *scores.shape[1:])
    canvas = (rule.canvas, rule.canvas)
    local = merge_windows(scores[:, :-1], canvas, (rule.stride, rule.stride))
    return (local + resize(scores[:, -1], canvas)) / 2


def views(images: jax.Array, side: int, rule: Sliding) -> jax.Array:
    """images [B, H, W, 3] in 0..255 -> normalised [B, V, side, side, 3], the last one global."""
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    window, stride = (rule.window, rule.window), (rule.stride, rule.stride)
    cut = split_windows(resize(images, (rule.canvas, rule.canvas)), window, stride)
    everything = jnp.concatenate([cut, resize(images, window)[:, None]], axis=1)
    return resize(normalise(everything), (side, side))


def _last(logits: jax.Array) -> jax.Array:
    """[B, T, h, w] -> [B, h, w, T]."""
    return jnp.moveaxis(logits, 1, -1)
