"""DINOv2, with and without registers.

Shapes: B images, h w the grid of patches, N = h * w, R registers, C channels, K heads.
Tokens stand in the order class, registers, patches.
"""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.layers import Block, Mlp, PatchEmbedding, SwiGlu, layer_norm
from opvseg_jax.core.shapes import dims
from opvseg_jax.encoders.positions import HUGGINGFACE, PositionRule, resize_positions
from opvseg_jax.encoders.stack import Encoded, Keep, run_blocks


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class DinoFeatures:
    """cls [B, C], registers [B, R, C], patches [B, h, w, C], after the final norm."""

    cls: jax.Array
    registers: jax.Array
    patches: jax.Array


class Dino(nnx.Module):
    """Images whose sides are multiples of the patch size."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        num_registers: int = 0,
        swiglu: bool = False,
        epsilon: float = 1e-6,
        position_rule: PositionRule = HUGGINGFACE,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        def noise(std: float, *shape: int) -> nnx.Param:
            return nnx.Param(std * jax.random.normal(rngs.params(), shape))

        def mlp() -> nnx.Module:
            return SwiGlu(width, mlp_dim, **own) if swiglu else Mlp(width, mlp_dim, "gelu", **own)

        own = {"dtype": dtype, "rngs": rngs}
        self.patch = PatchEmbedding(patch_size, width, use_bias=True, **own)
        self.class_embedding = noise(0.02, width)
        self.registers = noise(0.02, num_registers, width) if num_registers else None
        self.positions = noise(0.02, 1 + (image_size // patch_size) ** 2, width)
        self.blocks = nnx.List(
            Block(width, num_heads, mlp(), epsilon=epsilon, layer_scale=True, **own)
            for _ in range(num_layers)
        )
        self.norm_post = layer_norm(width, epsilon=epsilon, **own)
        self.patch_size, self.width, self.num_layers = patch_size, width, num_layers
        self.num_registers, self.position_rule = num_registers, position_rule

    def __call__(self, images: jax.Array) -> DinoFeatures:
        """images [B, H, W, 3], normalised -> features after the final norm."""
        tokens = self.norm_post(self.encode(images).tokens)
        return self.split(tokens, self.grid(images))

    def grid(self, images: jax.Array) -> tuple[int, int]:
        """images [B, H, W, 3] -> (h, w)."""
        _, height, width, _ = dims(images, "B H W c", c=3)
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"expected sides that are multiples of {self.patch_size}, got {height}x{width}"
            )
        return height // self.patch_size, width // self.patch_size

    def positions_for(self, grid: tuple[int, int]) -> jax.Array:
        """The positional table [1 + N, C] of a grid (h, w)."""
        return resize_positions(self.positions[...], grid, self.position_rule)

    def embed(self, images: jax.Array) -> jax.Array:
        """images [B, H, W, 3] -> what the first block gets, [B, 1 + R + N, C]."""
        grid = self.grid(images)
        patches = self.patch(images)
        b, h, w, c = dims(patches, "B h w C", C=self.width)
        dtype = patches.dtype
        positions = self.positions_for(grid).astype(dtype)
        first = jnp.broadcast_to(self.class_embedding[...].astype(dtype) + positions[:1], (b, 1, c))
        rows = [first, patches.reshape(b, h * w, c) + positions[1:]]
        if self.registers is not None:  # registers have no position
            own = self.registers[...].astype(dtype)
            rows.insert(1, jnp.broadcast_to(own, (b, self.num_registers, c)))
        return jnp.concatenate(rows, axis=1)

    def encode(
        self,
        images: jax.Array,
        *,
        hidden: Collection[int] = (),
        attention: Collection[int] = (),
        per_head: bool = False,
    ) -> Encoded:
        """images [B, H, W, 3] -> the residual stream [B, 1 + R + N, C], without the final norm."""
        return run_blocks(self.blocks, self.embed(images), Keep(hidden, attention, per_head))

    def intermediate(self, images: jax.Array, layers: Collection[int]) -> list[DinoFeatures]:
        """Features after each of `layers`, the final norm applied to each."""
        encoded = self.encode(images, hidden=layers)
        grid = self.grid(images)
        return [self.split(self.norm_post(encoded.hidden[layer]), grid) for layer in layers]

    def class_attention(self, images: jax.Array) -> jax.Array:
        """How the class token looks at the patches in the last block, per head: [B, K, h, w]."""
        last = self.num_layers - 1
        weights = self.encode(images, attention=(last,), per_head=True).attention[last]
        return weights[:, :, 0, 1 + self.num_registers :].reshape(
            *weights.shape[:2], *self.grid(images)
        )

    def split(self, tokens: jax.Array, grid: tuple[int, int]) -> DinoFeatures:
        """[B, 1 + R + N, C] -> class token, registers, patches on their grid."""
        r = self.num_registers
        b, _, c = dims(tokens, "B N C", N=1 + r + grid[0] * grid[1])
        patches = tokens[:, 1 + r :].reshape(b, *grid, c)
        return DinoFeatures(tokens[:, 0], tokens[:, 1 : 1 + r], patches)
