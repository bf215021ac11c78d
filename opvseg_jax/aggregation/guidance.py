"""Guidance: what the image and the words say beside the costs, projected once.

Shapes: B images, T classes, P prompts, E embedding, H W grid, G guidance channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.layers import Conv, Dense
from opvseg_jax.core.shapes import dims


class ImageGuidance(nnx.Module):
    """ReLU(3x3 convolution) of each map of a pyramid: the first for Swin, the rest for decoding."""

    def __init__(
        self, widths_in: Sequence[int], widths: Sequence[int], *, dtype=None, rngs: nnx.Rngs
    ):
        self.levels = nnx.List(
            Conv(width_in, width, 3, dtype=dtype, rngs=rngs)
            for width_in, width in zip(widths_in, widths, strict=True)
        )

    def __call__(self, pyramid: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Maps [B, sH, sW, F] -> [B, sH, sW, G], each of its own size."""
        if len(pyramid) != len(self.levels):
            raise ValueError(f"expected {len(self.levels)} maps of guidance, got {len(pyramid)}")
        return tuple(
            jax.nn.relu(level(maps)) for level, maps in zip(self.levels, pyramid, strict=True)
        )


class TextGuidance(nnx.Module):
    """ReLU(linear) of the mean over prompts, brought to unit norm."""

    def __init__(self, embed_dim: int, width: int, *, dtype=None, rngs: nnx.Rngs):
        self.project = Dense(embed_dim, width, dtype=dtype, rngs=rngs)

    def __call__(self, text: jax.Array) -> jax.Array:
        """text [B, T, P, E] -> [B, T, G]."""
        dims(text, "B T P E")
        mean = text.astype(jnp.promote_types(text.dtype, jnp.float32)).mean(axis=2)
        # No epsilon in the reference; rows of zeros (padding) stay zeros here instead of NaN.
        norm = jnp.sqrt(jnp.maximum(jnp.sum(mean * mean, axis=-1, keepdims=True), 1e-24))
        return jax.nn.relu(self.project(mean / norm))
