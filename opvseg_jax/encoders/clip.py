"""CLIP: both towers and the temperature between them."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.layers import unit
from opvseg_jax.encoders.clip_text import ClipText
from opvseg_jax.encoders.clip_vision import ClipVision


class Clip(nnx.Module):
    """`logit_scale` is a logarithm; published models end near ln 100."""

    def __init__(self, vision: ClipVision, text: ClipText):
        self.vision = vision
        self.text = text
        self.logit_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), jnp.float32))

    def __call__(self, images: jax.Array, tokens: jax.Array) -> jax.Array:
        """images [B, H, W, 3], tokens int [T, L] -> logits [B, T] = exp(logit_scale) cosine."""
        return self.logits(self.vision.pooled(images), self.text(tokens))

    def logits(self, image_features: jax.Array, text_features: jax.Array) -> jax.Array:
        """image_features [B, E], text_features [T, E], of any length -> [B, T] in float32."""
        cosine = unit(image_features) @ unit(text_features).T
        return jnp.exp(self.logit_scale[...]) * cosine
