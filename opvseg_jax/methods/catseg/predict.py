"""Images in, views out; logits of views in, scores of images out.

The canvas is stretched to a square, as in the reference: the aspect ratio is not kept.

Shapes: B images, V views, T classes, H W image, h w logits of a view.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims
from opvseg_jax.core.windows import merge_windows, split_windows
from opvseg_jax.methods.catseg.sizes import Sliding

MEAN = (122.7709383, 116.7460125, 104.09373615)  # CLIP's pixel statistics, of 0..255
STD = (68.5005327, 66.6321579, 70.3231630)
AT_A_TIME = 32  # classes whose windows are brought to full size together

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
    logits = logits.reshape(b, -1, *logits.shape[1:])
    return _few_at_a_time(functools.partial(_merge_views, rule=rule), logits)


def _merge_views(logits: jax.Array, rule: Sliding) -> jax.Array:
    """logits [B, V, T, h, w] -> scores [B, canvas, canvas, T]."""
    scores = jax.nn.sigmoid(resize(_last(logits), (rule.window, rule.window)))
    canvas = (rule.canvas, rule.canvas)
    local = merge_windows(scores[:, :-1], canvas, (rule.stride, rule.stride))
    return (local + resize(scores[:, -1], canvas)) / 2


def _few_at_a_time(function: Callable[[jax.Array], jax.Array], logits: jax.Array) -> jax.Array:
    """function(logits [B, V, T, h, w]) -> [B, H, W, T], for `AT_A_TIME` classes after another.

    Of a large vocabulary there is then nothing at full size but the result.
    """
    t = logits.shape[2]
    if t <= AT_A_TIME:
        return function(logits)
    shape = jax.eval_shape(function, logits)

    def step(index: jax.Array, whole: jax.Array) -> jax.Array:
        start = jnp.minimum(index * AT_A_TIME, t - AT_A_TIME)  # the last ones meet some twice
        part = function(jax.lax.dynamic_slice_in_dim(logits, start, AT_A_TIME, axis=2))
        return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=3)

    return jax.lax.fori_loop(0, -(-t // AT_A_TIME), step, jnp.zeros(shape.shape, shape.dtype))


def views(images: jax.Array, side: int, rule: Sliding) -> jax.Array:
    """images [B, H, W, 3] in 0..255 -> normalised [B, V, side, side, 3], the last one global."""
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    window, stride = (rule.window, rule.window), (rule.stride, rule.stride)
    cut = split_windows(resize(images, (rule.canvas, rule.canvas)), window, stride)
    everything = jnp.concatenate([cut, resize(images, window)[:, None]], axis=1)
    return resize(normalise(everything), (side, side))


def _last(logits: jax.Array) -> jax.Array:
    """[..., T, h, w] -> [..., h, w, T]."""
    return jnp.moveaxis(logits, -3, -1)
