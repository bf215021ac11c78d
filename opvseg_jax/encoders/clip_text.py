"""CLIP's text tower: a causal transformer read out at the end-of-text token.

Shapes: T texts, L tokens of a text, C channels, E embedding size.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.layers import Block, Mlp, layer_norm
from opvseg_jax.core.shapes import dims
from opvseg_jax.encoders.stack import Encoded, Keep, run_blocks


class ClipText(nnx.Module):
    """What stands behind the end token is invisible to it, so texts may be cut at any length."""

    def __init__(
        self,
        *,
        vocab_size: int,
        context: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        embed_dim: int,
        activation: str = "quick_gelu",
        end_token: int | None = None,
        epsilon: float = 1e-5,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        def noise(std: float, *shape: int) -> nnx.Param:
            return nnx.Param(std * jax.random.normal(rngs.params(), shape))

        own = {"dtype": dtype, "rngs": rngs}
        self.token_embedding = noise(0.02, vocab_size, width)
        self.positions = noise(0.01, context, width)
        self.blocks = nnx.List(
            Block(width, num_heads, Mlp(width, mlp_dim, activation, **own), epsilon=epsilon, **own)
            for _ in range(num_layers)
        )
        self.norm_post = layer_norm(width, epsilon=epsilon, **own)
        self.projection = nnx.Linear(width, embed_dim, use_bias=False, **own)
        self.context, self.width, self.dtype = context, width, dtype
        self.end_token = end_token

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens int [T, L], L up to the context -> [T, E], not normalised."""
        return self.from_embeddings(self.embed(tokens), self.end_of(tokens))

    def end_of(self, tokens: jax.Array) -> jax.Array:
        """tokens int [T, L] -> the place of the end token, int [T].

        Without an `end_token` it is the largest id, which published vocabularies keep for the end.
        """
        marks = tokens if self.end_token is None else tokens == self.end_token
        return jnp.argmax(marks, axis=1)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """tokens int [T, L] -> [T, L, C], before the positions."""
        dims(tokens, "T L")
        return self.token_embedding[...][tokens]

    def from_embeddings(self, embeddings: jax.Array, end: jax.Array) -> jax.Array:
        """embeddings [T, L, C] without positions, end int [T] -> [T, E], not normalised.

        Learned prompts enter here.
        """
        return self.project(self.encode(embeddings).tokens, end)

    def encode(
        self,
        embeddings: jax.Array,
        *,
        hidden: Collection[int] = (),
        attention: Collection[int] = (),
        per_head: bool = False,
    ) -> Encoded:
        """embeddings [T, L, C] -> the residual stream after the last block, [T, L, C]."""
        _, length, _ = dims(embeddings, "T L C", C=self.width)
        if length > self.context:
            raise ValueError(f"expected at most {self.context} tokens, got {length}")
        x = (embeddings + self.positions[:length]).astype(self.dtype or embeddings.dtype)
        return run_blocks(self.blocks, x, Keep(hidden, attention, per_head), causal=True)

    def project(self, tokens: jax.Array, end: jax.Array) -> jax.Array:
        """Stream [T, L, C] and the place of its end [T] -> [T, E]."""
        t, _, _ = dims(tokens, "T L C", C=self.width)
        return self.projection(self.norm_post(tokens[jnp.arange(t), end]))
