"""Multi-head self-attention whose matrix exists only if somebody asks for it.

Shapes: B images, N tokens (M of them ask), C channels, K heads, D = C // K.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.platform import platform
from opvseg_jax.core.shapes import dims


def attend(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = False):
    """softmax(q k^T / sqrt(D)) v on query [B, M, K, D], key and value [B, N, K, D] -> [B, M, K, D].

    Logits and softmax are float32 whatever comes in.
    """
    if platform() != "cpu":
        return jax.nn.dot_product_attention(query, key, value, is_causal=causal)
    # XLA:CPU multiplies fastest with the heads in front: 16 against 26 ms of processor time for
    # the 577 tokens of ViT-B at 384 pixels (2-core x86 CPU, 2026-11-21).
    return apply_map(attention_map(query, key, causal=causal), value)


def attention_map(query: jax.Array, key: jax.Array, *, causal: bool = False) -> jax.Array:
    """softmax(q k^T / sqrt(D)) on query [B, M, K, D], key [B, N, K, D] -> [B, K, M, N] float32."""
    query, key = query.swapaxes(1, 2), key.swapaxes(1, 2)
    wide = jnp.promote_types(query.dtype, jnp.float32)  # float64 stays: gradients are tested in it
    logits = jnp.einsum("bkmd,bknd->bkmn", query, key, preferred_element_type=wide)
    logits = logits * query.shape[-1] ** -0.5
    if causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


def apply_map(weights: jax.Array, value: jax.Array) -> jax.Array:
    """weights [B, K, M, N] times value [B, N, K, D] -> [B, M, K, D]."""
    return jnp.matmul(weights.astype(value.dtype), value.swapaxes(1, 2)).swapaxes(1, 2)


class Attention(nnx.Module):
    """Query, key and value are three leaves: published files pack them in several ways."""

    def __init__(self, width: int, num_heads: int, *, dtype=None, rngs: nnx.Rngs):
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        linear = functools.partial(nnx.Linear, width, width, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
        self.width, self.num_heads = width, num_heads

    def __call__(
        self, x: jax.Array, *, causal: bool = False, num_queries: int | None = None
    ) -> jax.Array:
        """x [B, N, C] -> [B, N, C], or of the first `num_queries` tokens alone."""
        return self.out(self.mix(x, causal=causal, num_queries=num_queries))

    def mix(
        self, x: jax.Array, *, causal: bool = False, num_queries: int | None = None
    ) -> jax.Array:
        """The attended values before the output projection: x [B, N, C] -> [B, M, C]."""
        dims(x, "B N C", C=self.width)
        q = self._heads(self.query(x[:, :num_queries]))
        mixed = attend(q, self._heads(self.key(x)), self._heads(self.value(x)), causal=causal)
        return mixed.reshape(*mixed.shape[:2], self.width)

    def with_map(self, x: jax.Array, *, causal: bool = False) -> tuple[jax.Array, jax.Array]:
        """x [B, N, C] -> the output [B, N, C] and the attention map [B, K, N, N] in float32."""
        dims(x, "B N C", C=self.width)
        weights = attention_map(self._heads(self.query(x)), self._heads(self.key(x)), causal=causal)
        mixed = apply_map(weights, self._heads(self.value(x)))
        return self.out(mixed.reshape(x.shape)), weights

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.num_heads, self.width // self.num_heads)
