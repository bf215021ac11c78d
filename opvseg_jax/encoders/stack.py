"""A run through transformer blocks that keeps what was asked for on the way."""

import dataclasses
from collections.abc import Collection, Sequence

import jax

from opvseg_jax.core.layers import Block


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Encoded:
    """The residual stream after the last block, and what was kept.

    tokens [B, N, C]; hidden {layer: [B, N, C]} after that block (-1: what the first block gets);
    attention {layer: [B, N, N], or [B, K, N, N] if heads were wanted apart}, float32.
    """

    tokens: jax.Array
    hidden: dict[int, jax.Array]
    attention: dict[int, jax.Array]


@dataclasses.dataclass
class Keep:
    """Which layers' streams and attention maps to keep. Nothing, unless asked."""

    hidden: Collection[int] = ()
    attention: Collection[int] = ()
    per_head: bool = False

    def check(self, num_layers: int) -> None:
        """Raises unless every layer exists."""
        for layer in (*self.hidden, *self.attention):
            if not -1 <= layer < num_layers or (layer == -1 and layer in self.attention):
                raise ValueError(f"layer {layer} was asked for, of 0 to {num_layers - 1}")


def start(x: jax.Array, keep: Keep) -> Encoded:
    """The stream before the first block."""
    return Encoded(x, {-1: x} if -1 in keep.hidden else {}, {})


def advance(
    encoded: Encoded, block: Block, layer: int, keep: Keep, *, causal: bool = False
) -> Encoded:
    """One ordinary block; its attention map is computed only if it is kept."""
    if layer not in keep.attention:
        return arrive(encoded, block(encoded.tokens, causal=causal), layer, keep)
    x, weights = block.with_map(encoded.tokens, causal=causal)
    weights = weights if keep.per_head else weights.mean(axis=1)
    kept = dataclasses.replace(encoded, attention=encoded.attention | {layer: weights})
    return arrive(kept, x, layer, keep)


def arrive(encoded: Encoded, x: jax.Array, layer: int, keep: Keep) -> Encoded:
    """The stream is `x` after `layer`."""
    hidden = encoded.hidden | ({layer: x} if layer in keep.hidden else {})
    return dataclasses.replace(encoded, tokens=x, hidden=hidden)


def run_blocks(
    blocks: Sequence[Block], x: jax.Array, keep: Keep, *, causal: bool = False
) -> Encoded:
    """All blocks in order: x [B, N, C]."""
    keep.check(len(blocks))
    encoded = start(x, keep)
    for layer, block in enumerate(blocks):
        encoded = advance(encoded, block, layer, keep, causal=causal)
    return encoded
