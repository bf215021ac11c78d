"""Patch severance: what may take the place of attention in a block of CLIP.

CLIP's last blocks gather the whole image in every patch; segmentation wants each patch to speak for
itself. Each class below says what a severed block mixes instead, and what its residual is.

Shapes: B images, N = 1 + h * w tokens with the class token first, C channels, Q masks.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from opvseg_jax.core.attention import Attention
from opvseg_jax.core.image import resize
from opvseg_jax.core.layers import Block
from opvseg_jax.core.shapes import dims

static = functools.partial(dataclasses.field, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gps:
    """Generalised patch severance: alpha I + (1 - alpha) softmax(q k^T / sqrt(D)), times v.

    alpha = 1 is the value path: no query, no key, no attention. `shortcut` scales the residual;
    `residual="class"` takes the class token's stream for every token, as CAT-Seg does.
    """

    alpha: float = static(default=1.0)
    shortcut: float = static(default=1.0)
    residual: str = static(default="token")

    def mix(self, attention: Attention, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        if self.alpha == 0.0:
            return attention.mix(x)
        value = attention.value(x)
        if self.alpha == 1.0:
            return value
        return self.alpha * value + (1 - self.alpha) * attention.mix(x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GpsMask:
    """The value path with a gain for each token: how much mask lies there, Q at the class token.

    `mask_logits` [B, H, W, Q] are those of a class-agnostic proposal network.
    """

    mask_logits: jax.Array
    shortcut: float = static(default=1.0)
    residual: str = static(default="token")

    def mix(self, attention: Attention, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        gain = mask_columns(self.mask_logits, grid).sum(axis=-1, keepdims=True)
        return attention.value(x) * gain.astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mps:
    """Mask-guided severance: softmax over rows of P P^T, times v; P [N, Q] the masks at the tokens.

    Patches look at each other as far as they share masks; the same weights serve every head.
    """

    mask_logits: jax.Array
    shortcut: float = static(default=1.0)
    residual: str = static(default="token")

    def mix(self, attention: Attention, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        masks = mask_columns(self.mask_logits, grid)
        shared = jnp.einsum("bnq,bmq->bnm", masks, masks)
        value = attention.value(x)
        return jax.nn.softmax(shared, axis=-1).astype(value.dtype) @ value


Severance = Gps | GpsMask | Mps


def sever(block: Block, x: jax.Array, severance: Severance, grid: tuple[int, int]) -> jax.Array:
    """A block with its attention replaced: x [B, N, C] -> [B, N, C]."""
    attended = block.attention.out(severance.mix(block.attention, block.norm1(x), grid))
    residual = {"token": x, "class": x[:, :1]}[severance.residual]
    return block.finish(severance.shortcut * residual, attended)


def mask_columns(mask_logits: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """mask_logits [B, H, W, Q] -> [B, N, Q] float32: ones for the class token, then the masks.

    Logits are resized first and squashed after; the other order gives other masks.
    """
    b, _, _, q = dims(mask_logits, "B H W Q")
    resized = resize(mask_logits.astype(jnp.float32), grid, method="bilinear")
    masks = jax.nn.sigmoid(resized).reshape(b, -1, q)
    return jnp.concatenate([jnp.ones((b, 1, q)), masks], axis=1)
