"""CAT-Seg's loss: every pixel and class is a yes-or-no question.

Shapes: B images, T classes, h w logits, H W labels.
"""

import jax
import jax.numpy as jnp
import optax

from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims
from opvseg_jax.pipeline.targets import one_hot


def segmentation_loss(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Mean binary cross-entropy of logits [B, T, h, w] with labels int [B, H, W].

    Pixels without a class (background, ignored) are a "no" for every class and count in the mean:
    the reference does not mask them out. mask [T] says which classes are real.
    """
    b, t, *_ = dims(logits, "B T h w")
    _, height, width = dims(labels, "B H W", B=b)
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    resized = resize(jnp.moveaxis(wide, 1, -1), (height, width))  # [B, H, W, T]
    each = optax.sigmoid_binary_cross_entropy(resized, one_hot(labels, t, resized.dtype))
    if mask is None:
        return each.mean()
    weight = mask.astype(each.dtype)
    return (each.mean(axis=(0, 1, 2)) * weight).sum() / jnp.maximum(weight.sum(), 1.0)
