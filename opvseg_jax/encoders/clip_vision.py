"""CLIP's image tower (ViT): one vector for an image, or one for every patch.

Shapes: B images, h w the grid of patches, N = h * w, C channels, E embedding size, K heads.
"""

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.layers import Block, Mlp, PatchEmbedding, layer_norm
from opvseg_jax.core.shapes import dims
from opvseg_jax.encoders import stack
from opvseg_jax.encoders.positions import HUGGINGFACE, PositionRule, resize_positions
from opvseg_jax.encoders.prompts import VisualPrompts
from opvseg_jax.encoders.severance import Gps, Severance, sever
from opvseg_jax.encoders.stack import Encoded, Keep

# What may stand in the place of the last block's attention; None leaves it as it was trained.
LAST_BLOCK: dict[str, Severance | None] = {
    "plain": None,
    "gps": Gps(),
    "value_residual": Gps(),
    "value_cls_residual": Gps(residual="class"),
}


class ClipVision(nnx.Module):
    """Images of any size: the positional table is resized to their grid by `position_rule`."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        embed_dim: int,
        activation: str = "quick_gelu",
        epsilon: float = 1e-5,
        position_rule: PositionRule = HUGGINGFACE,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.normal(width**-0.5)
        own = {"dtype": dtype, "rngs": rngs}
        self.patch = PatchEmbedding(patch_size, width, use_bias=False, **own)
        self.class_embedding = nnx.Param(init(rngs.params(), (width,)))
        rows = 1 + (image_size // patch_size) ** 2
        self.positions = nnx.Param(init(rngs.params(), (rows, width)))
        self.norm_pre = layer_norm(width, epsilon=epsilon, **own)
        self.blocks = nnx.List(
            Block(width, num_heads, Mlp(width, mlp_dim, activation, **own), epsilon=epsilon, **own)
            for _ in range(num_layers)
        )
        self.norm_post = layer_norm(width, epsilon=epsilon, **own)
        self.projection = nnx.Linear(width, embed_dim, use_bias=False, **own)
        self.patch_size, self.width, self.num_layers = patch_size, width, num_layers
        self.position_rule = position_rule

    def __call__(self, images: jax.Array) -> jax.Array:
        """images [B, H, W, 3], normalised -> [B, E], not normalised."""
        return self.pooled(images)

    def grid(self, images: jax.Array) -> tuple[int, int]:
        """images [B, H, W, 3] -> (h, w)."""
        return images.shape[1] // self.patch_size, images.shape[2] // self.patch_size

    def positions_for(self, grid: tuple[int, int]) -> jax.Array:
        """The positional table [1 + N, C] of a grid (h, w)."""
        return resize_positions(self.positions[...], grid, self.position_rule)

    def embed(self, images: jax.Array, prompts: VisualPrompts | None = None) -> jax.Array:
        """images [B, H, W, 3] -> what the first block gets, [B, 1 + N, C]."""
        patches = self.patch(images)
        b, h, w, c = dims(patches, "B h w C", C=self.width)
        first = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (b, 1, c))
        x = jnp.concatenate([first, patches.reshape(b, h * w, c)], axis=1)
        positions = self.positions_for((h, w))
        if prompts is not None:
            positions = prompts.at_input(positions, (h, w), self.position_rule)
        return self.norm_pre(x + positions.astype(x.dtype))

    def encode(
        self,
        images: jax.Array,
        *,
        severance: Mapping[int, Severance] | None = None,
        prompts: VisualPrompts | None = None,
        hidden: Collection[int] = (),
        attention: Collection[int] = (),
        per_head: bool = False,
    ) -> Encoded:
        """images [B, H, W, 3] -> the residual stream after the last block, [B, 1 + N, C].

        `severance` maps layers to what replaces their attention; negative layers count from the
        end. `hidden` and `attention` are layers to keep on the way, see `stack.Encoded`.
        """
        keep = Keep(hidden, attention, per_head)
        keep.check(self.num_layers)
        severed = self._severed(severance or {}, attention)
        grid = self.grid(images)
        encoded = stack.start(self.embed(images, prompts), keep)
        extra = 0  # prepended prompts that now stand behind the class token
        for layer, block in enumerate(self.blocks):
            if prompts is not None:
                encoded.tokens, extra = prompts.before_block(
                    layer, encoded.tokens, extra, grid, self.position_rule
                )
            if layer not in severed:
                encoded = stack.advance(encoded, block, layer, keep)
                continue
            encoded.tokens, extra = _without(encoded.tokens, extra), 0
            x = sever(block, encoded.tokens, severed[layer], grid)
            encoded = stack.arrive(encoded, x, layer, keep)
        encoded.tokens = _without(encoded.tokens, extra)
        return encoded

    def project(self, tokens: jax.Array) -> jax.Array:
        """Norm and projection into the space of the texts: [..., C] -> [..., E]."""
        return self.projection(self.norm_post(tokens))

    def pooled(self, images: jax.Array) -> jax.Array:
        """images [B, H, W, 3] -> [B, E]. The last block is computed for the class token alone."""
        x = self.embed(images)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.project(last(x, num_queries=1)[:, 0])

    def dense(
        self,
        images: jax.Array,
        *,
        last: str | None = None,
        severance: Mapping[int, Severance] | None = None,
        prompts: VisualPrompts | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """images [B, H, W, 3] -> class token [B, E] and patches [B, h, w, E], not normalised.

        `last` names what the last block does, one of LAST_BLOCK (default "gps", unless
        `severance` speaks of that block); `severance` speaks of any block.
        """
        by_layer = {self._layer(layer): chosen for layer, chosen in (severance or {}).items()}
        final = self.num_layers - 1
        if last is not None and final in by_layer:
            raise ValueError(f"block {final} is named by last={last!r} and by severance: use one")
        if final not in by_layer:
            chosen = LAST_BLOCK.get(last or "gps", "unknown")
            if chosen == "unknown":
                raise ValueError(f"last must be one of {', '.join(LAST_BLOCK)}, got {last!r}")
            by_layer |= {final: chosen} if chosen else {}
        tokens = self.encode(images, severance=by_layer, prompts=prompts).tokens
        return self.split(self.project(tokens), self.grid(images))

    def split(self, tokens: jax.Array, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """[B, 1 + N, E] -> class token [B, E] and patches [B, h, w, E]."""
        b, _, e = dims(tokens, "B N E", N=1 + grid[0] * grid[1])
        return tokens[:, 0], tokens[:, 1:].reshape(b, *grid, e)

    def _severed(
        self, severance: Mapping[int, Severance], attention: Collection[int]
    ) -> dict[int, Severance]:
        severed = {self._layer(layer): chosen for layer, chosen in severance.items()}
        if mapless := sorted(severed.keys() & set(attention)):
            raise ValueError(f"blocks {mapless} are severed: they have no attention map to keep")
        return severed

    def _layer(self, layer: int) -> int:
        if not -self.num_layers <= layer < self.num_layers:
            raise ValueError(f"there is no block {layer}: the tower has {self.num_layers}")
        return layer % self.num_layers


def _without(tokens: jax.Array, extra: int) -> jax.Array:
    """The tokens without the `extra` prompts that stand behind the class token."""
    return jnp.concatenate([tokens[:, :1], tokens[:, 1 + extra :]], axis=1) if extra else tokens
