"""Learned visual prompts for a frozen CLIP: tables added to the stream, or tokens put into it.

Shapes: B images, N patches on a grid h w, C channels, P prepended tokens.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.encoders.positions import PositionRule, resize_positions


class VisualPrompts(nnx.Module):
    """Added: a table [1 + M * M, C] at the input and one for each of `layers`. Prepended: P tokens.

    `input_grid` and `layer_grid` are the sides M of the tables; no grid, no tables.
    """

    def __init__(
        self,
        width: int,
        *,
        input_grid: int | None = None,
        layer_grid: int | None = None,
        layers: Sequence[int] = (),
        prepend_layers: Sequence[int] = (),
        num_prepended: int = 0,
        prepend_bound: float = 0.05,
        rngs: nnx.Rngs,
    ):
        def table(side: int) -> nnx.Param:
            noise = jax.random.normal(rngs.params(), (1 + side * side, width))
            return nnx.Param(noise * width**-0.5)

        self.input = table(input_grid) if input_grid else None
        self.added = nnx.Dict({f"block_{layer}": table(layer_grid) for layer in layers})
        shape = (len(prepend_layers), num_prepended, width)
        noise = jax.random.uniform(rngs.params(), shape, minval=-1.0) * prepend_bound
        self.prepended = nnx.Param(noise) if prepend_layers else None
        self.layers, self.prepend_layers = tuple(layers), tuple(prepend_layers)

    def at_input(
        self, positions: jax.Array, grid: tuple[int, int], rule: PositionRule
    ) -> jax.Array:
        """positions [1 + N, C] -> with the table of the input added, class row included."""
        if self.input is None:
            return positions
        return positions + resize_positions(self.input[...], grid, rule)

    def before_block(
        self, layer: int, x: jax.Array, extra: int, grid: tuple[int, int], rule: PositionRule
    ) -> tuple[jax.Array, int]:
        """x [B, 1 + extra + N, C] -> what the block gets, and how many prompts now stand in it."""
        if layer in self.layers:
            table = resize_positions(self.added[f"block_{layer}"][...], grid, rule)
            x = x + _skip_rows(table, extra).astype(x.dtype)
        if layer not in self.prepend_layers:
            return x, extra
        tokens = self.prepended[...][self.prepend_layers.index(layer)].astype(x.dtype)
        tokens = jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape))
        # Prompts replace those of the block before; after a block without prompts they come anew.
        replaced = tokens.shape[1] if extra and layer - 1 in self.prepend_layers else 0
        x = jnp.concatenate([x[:, :1], tokens, x[:, 1 + replaced :]], axis=1)
        return x, extra - replaced + tokens.shape[1]


def _skip_rows(table: jax.Array, extra: int) -> jax.Array:
    """table [1 + N, C] -> [1 + extra + N, C] with zeros where prompts stand."""
    return jnp.concatenate([table[:1], jnp.zeros((extra, table.shape[1])), table[1:]])
