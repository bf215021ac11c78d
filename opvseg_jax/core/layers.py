"""Layers that the transformers share.

Shapes: B images, N tokens, C channels, H W pixels, h w patches.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.attention import Attention
from opvseg_jax.core.shapes import dims


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x): what OpenAI's CLIP was trained with, 2e-2 away from GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact (erf) form."""
    return jax.nn.gelu(x, approximate=False)


def unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}


def layer_norm(width: int, *, epsilon: float, dtype=None, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Statistics in float32 and in two passes: the one-pass form loses 6e-3 at mean 320."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


class Mlp(nnx.Module):
    """down(activation(up(x)))."""

    def __init__(self, width: int, hidden: int, activation: str, *, dtype=None, rngs: nnx.Rngs):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.activation(self.up(x)))


class SwiGlu(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int, *, dtype=None, rngs: nnx.Rngs):
        self.gate = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class LayerScale(nnx.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, *, initial: float = 1.0):
        self.scale = nnx.Param(jnp.full((width,), initial, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.scale[...].astype(x.dtype)


class Block(nnx.Module):
    """Pre-norm transformer block: x + s1 attention(norm1 x), then x + s2 mlp(norm2 x)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp: nnx.Module,
        *,
        epsilon: float,
        layer_scale: bool = False,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = layer_norm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.attention = Attention(width, num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.mlp = mlp
        self.scale1 = LayerScale(width) if layer_scale else None
        self.scale2 = LayerScale(width) if layer_scale else None

    def __call__(
        self, x: jax.Array, *, causal: bool = False, num_queries: int | None = None
    ) -> jax.Array:
        """x [B, N, C] -> [B, N, C], or the first `num_queries` tokens alone."""
        attended = self.attention(self.norm1(x), causal=causal, num_queries=num_queries)
        return self.finish(x[:, :num_queries], attended)

    def with_map(self, x: jax.Array, *, causal: bool = False) -> tuple[jax.Array, jax.Array]:
        """Also the attention map [B, K, N, N]."""
        attended, weights = self.attention.with_map(self.norm1(x), causal=causal)
        return self.finish(x, attended), weights

    def finish(self, residual: jax.Array, attended: jax.Array) -> jax.Array:
        """What follows attention, for whatever took its place."""
        x = residual + (self.scale1(attended) if self.scale1 else attended)
        y = self.mlp(self.norm2(x))
        return x + (self.scale2(y) if self.scale2 else y)


class PatchEmbedding(nnx.Module):
    """A convolution whose stride is its size, as one matrix product over cut-out patches.

    Pixels right and below that do not fill a patch are left out, as a strided convolution does.
    """

    def __init__(self, patch: int, width: int, *, use_bias: bool, dtype=None, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (patch, patch, 3, width)))
        self.bias = nnx.Param(jnp.zeros(width)) if use_bias else None
        self.patch, self.width, self.dtype = patch, width, dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        """images [B, H, W, 3] -> [B, h, w, C]."""
        b, height, width, _ = dims(images, "B H W c", c=3)
        p, h, w = self.patch, height // self.patch, width // self.patch
        if not h or not w:
            raise ValueError(f"expected images of at least {p}x{p} pixels, got {height}x{width}")
        dtype = self.dtype or jnp.result_type(images, self.kernel[...])
        pixels = images[:, : h * p, : w * p].astype(dtype).reshape(b, h, p, w, p, 3)
        pixels = pixels.swapaxes(2, 3).reshape(b, h, w, p * p * 3)
        out = pixels @ self.kernel[...].astype(dtype).reshape(p * p * 3, self.width)
        return out if self.bias is None else out + self.bias[...].astype(dtype)
