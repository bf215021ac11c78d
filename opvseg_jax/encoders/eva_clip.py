"""EVA-02-CLIP: a CLIP whose image tower has rotary positions, gated MLPs and norms inside.

Shapes: B images, h w the grid of patches, N = h * w, C channels, K heads, D = C // K, E embedding.
"""

import dataclasses
import functools
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.core.attention import attend
from opvseg_jax.core.layers import PatchEmbedding, layer_norm
from opvseg_jax.core.shapes import dims
from opvseg_jax.encoders.clip import Clip
from opvseg_jax.encoders.clip_text import ClipText
from opvseg_jax.encoders.positions import HUGGINGFACE, PositionRule, resize_positions
from opvseg_jax.encoders.sizes import TEXT_512, TEXT_768, Tower

REFERENCE_GRID = 16  # rotary angles are those of a grid of this side, whatever the real one
EPSILON = 1e-6

# What the last block compares with what, in place of query and key: the sum of the softmaxes over
# the groups, each of the mean of its products. PCA-Seg's default is csa; the mode must fit the
# weights (DeCLIP's public scripts distil with qq).
CORRELATIONS = {
    "csa": (("query",), ("key",)),
    "qq": (("query",),),
    "kk": (("key",),),
    "vv": (("value",),),
    "all": (("query", "key", "value"),),
}
DENSE_MODES = (*CORRELATIONS, "maskclip", "vanilla")


class EvaAttention(nnx.Module):
    """Keys have no bias; the mixed values are normalised before the output projection."""

    def __init__(self, width: int, num_heads: int, *, dtype=None, rngs: nnx.Rngs):
        if width % (4 * num_heads):
            raise ValueError(f"width {width} is not {num_heads} heads of a multiple of 4")
        linear = functools.partial(nnx.Linear, width, width, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value = linear(), linear(use_bias=False), linear()
        self.norm = layer_norm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.out = linear()
        self.width, self.num_heads = width, num_heads

    def __call__(self, x: jax.Array, rotary: tuple[np.ndarray, np.ndarray]) -> jax.Array:
        """x [B, 1 + N, C], rotary cosines and sines [1 + N, D] -> [B, 1 + N, C]."""
        dims(x, "B N C", C=self.width)
        q, k = (rotate(self._heads(part(x)), *rotary) for part in (self.query, self.key))
        return self.finish(attend(q, k, self._heads(self.value(x))))

    def correlate(self, x: jax.Array, mode: str) -> jax.Array:
        """Attention of features with their like, neither scaled nor rotated: the same shapes."""
        dims(x, "B N C", C=self.width)
        parts = {
            "query": self._heads(self.query(x)),
            "key": self._heads(self.key(x)),
            "value": self._heads(self.value(x)),
        }

        def softmax(group: tuple[str, ...]) -> jax.Array:
            wide = jnp.promote_types(x.dtype, jnp.float32)
            products = [
                jnp.einsum("bmkd,bnkd->bkmn", parts[name], parts[name], preferred_element_type=wide)
                for name in group
            ]
            return jax.nn.softmax(sum(products) / len(group), axis=-1)

        weights = sum(softmax(group) for group in CORRELATIONS[mode])
        mixed = jnp.einsum("bkmn,bnkd->bmkd", weights.astype(x.dtype), parts["value"])
        return self.finish(mixed)

    def finish(self, mixed: jax.Array) -> jax.Array:
        """mixed values [B, 1 + N, K, D] -> [B, 1 + N, C]."""
        return self.out(self.norm(mixed.reshape(*mixed.shape[:2], self.width)))

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.num_heads, self.width // self.num_heads)


class EvaMlp(nnx.Module):
    """down(norm(silu(gate(x)) * up(x)))."""

    def __init__(self, width: int, hidden: int, *, dtype=None, rngs: nnx.Rngs):
        self.gate = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(hidden, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.norm(jax.nn.silu(self.gate(x)) * self.up(x)))


class EvaBlock(nnx.Module):
    """x + attention(norm1 x), then x + mlp(norm2 x)."""

    def __init__(self, width: int, num_heads: int, hidden: int, *, dtype=None, rngs: nnx.Rngs):
        own = {"dtype": dtype, "rngs": rngs}
        self.norm1 = layer_norm(width, epsilon=EPSILON, **own)
        self.attention = EvaAttention(width, num_heads, **own)
        self.norm2 = layer_norm(width, epsilon=EPSILON, **own)
        self.mlp = EvaMlp(width, hidden, **own)

    def __call__(self, x: jax.Array, rotary: tuple[np.ndarray, np.ndarray]) -> jax.Array:
        """x [B, 1 + N, C] -> [B, 1 + N, C]."""
        return self._feed_forward(x + self.attention(self.norm1(x), rotary))

    def value_path(self, x: jax.Array) -> jax.Array:
        """The block with every token attending to itself alone."""
        u = self.norm1(x)
        value = self.attention.value(u)
        return self._feed_forward(x + self.attention.out(self.attention.norm(value)))

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        return x + self.mlp(self.norm2(x))


class EvaVision(nnx.Module):
    """No norm before the blocks; the projection has a bias."""

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
        position_rule: PositionRule = HUGGINGFACE,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.normal(0.02)
        own = {"dtype": dtype, "rngs": rngs}
        self.patch = PatchEmbedding(patch_size, width, use_bias=True, **own)
        self.class_embedding = nnx.Param(init(rngs.params(), (width,)))
        rows = 1 + (image_size // patch_size) ** 2
        self.positions = nnx.Param(init(rngs.params(), (rows, width)))
        self.blocks = nnx.List(
            EvaBlock(width, num_heads, mlp_dim, **own) for _ in range(num_layers)
        )
        self.norm_post = layer_norm(width, epsilon=EPSILON, **own)
        self.projection = nnx.Linear(width, embed_dim, **own)
        self.patch_size, self.width, self.num_layers = patch_size, width, num_layers
        self.head_dim, self.position_rule = width // num_heads, position_rule

    def __call__(self, images: jax.Array) -> jax.Array:
        """images [B, H, W, 3], normalised -> [B, E], not normalised."""
        return self.pooled(images)

    def grid(self, images: jax.Array) -> tuple[int, int]:
        """images [B, H, W, 3] -> (h, w)."""
        return images.shape[1] // self.patch_size, images.shape[2] // self.patch_size

    def positions_for(self, grid: tuple[int, int]) -> jax.Array:
        """The positional table [1 + N, C] of a grid (h, w)."""
        return resize_positions(self.positions[...], grid, self.position_rule)

    def embed(self, images: jax.Array) -> jax.Array:
        """images [B, H, W, 3] -> what the first block gets, [B, 1 + N, C]."""
        patches = self.patch(images)
        b, h, w, c = dims(patches, "B h w C", C=self.width)
        first = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (b, 1, c))
        x = jnp.concatenate([first, patches.reshape(b, h * w, c)], axis=1)
        return x + self.positions_for((h, w)).astype(x.dtype)

    def encode(
        self, images: jax.Array, *, hidden: Collection[int] = (), last: int | None = None
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """The residual stream [B, 1 + N, C] after block `last` (default: all), and those kept."""
        x = self.embed(images)
        rotary = rotary_tables(self.grid(images), self.head_dim)
        kept = {}
        for index, block in enumerate(self.blocks[: None if last is None else last + 1]):
            x = block(x, rotary)
            if index in hidden:
                kept[index] = x
        if missing := set(hidden) - kept.keys():
            raise ValueError(f"layers {sorted(missing)} were asked for and not reached")
        return x, kept

    def project(self, tokens: jax.Array) -> jax.Array:
        """Norm and projection into the space of the texts: [..., C] -> [..., E]."""
        return self.projection(self.norm_post(tokens))

    def pooled(self, images: jax.Array) -> jax.Array:
        """images [B, H, W, 3] -> [B, E]."""
        return self.project(self.encode(images)[0][:, 0])

    def dense(
        self, images: jax.Array, *, mode: str = "csa", hidden: Collection[int] = ()
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """images [B, H, W, 3] -> patches [B, h, w, E], not normalised, and the streams kept."""
        if mode not in DENSE_MODES:
            raise ValueError(f"mode must be one of {', '.join(DENSE_MODES)}, got {mode!r}")
        x, kept = self.encode(images, hidden=hidden, last=self.num_layers - 2)
        final, grid = self.blocks[-1], self.grid(images)
        if mode == "vanilla":
            x = final(x, rotary_tables(grid, self.head_dim))
        elif mode == "maskclip":
            x = final.value_path(x)
        else:  # the attention branch alone: neither its residual nor the MLP
            x = final.attention.correlate(final.norm1(x), mode)
        patches = self.project(x[:, 1:])
        return patches.reshape(len(patches), *grid, -1), kept


@dataclasses.dataclass(frozen=True)
class EvaClipSize:
    """Both towers of an EVA-02-CLIP, and how its last block is read for dense features."""

    image_size: int
    patch_size: int
    vision: Tower
    text: Tower
    embed_dim: int
    dense_mode: str = "csa"
    vocab_size: int = 49408
    context: int = 77

    def build(self, *, dtype=None, rngs: nnx.Rngs) -> Clip:
        """A new model of this size."""
        own = {"dtype": dtype, "rngs": rngs}
        vision = EvaVision(
            image_size=self.image_size,
            patch_size=self.patch_size,
            **dataclasses.asdict(self.vision),
            embed_dim=self.embed_dim,
            **own,
        )
        text = ClipText(
            vocab_size=self.vocab_size,
            context=self.context,
            **dataclasses.asdict(self.text),
            embed_dim=self.embed_dim,
            activation="gelu",
            **own,
        )
        return Clip(vision, text)


EVA_CLIP = {
    "EVA02-B/16": EvaClipSize(224, 16, Tower(768, 12, 12, 2048), TEXT_512, 512),
    "EVA02-L/14@336": EvaClipSize(336, 14, Tower(1024, 24, 16, 2730), TEXT_768, 768),
}


@functools.lru_cache(maxsize=32)
def rotary_tables(grid: tuple[int, int], head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [1 + N, D]: half the channels turn with the row, half with the column.

    Each frequency serves two adjacent channels; the class token, first, is not turned.
    """
    half = head_dim // 2
    frequencies = np.repeat(10000.0 ** (-2 * np.arange(half // 2) / half), 2)  # [D / 2]
    rows, columns = (
        (REFERENCE_GRID * np.arange(side) / side)[:, None] * frequencies for side in grid
    )
    angles = np.zeros((1 + grid[0] * grid[1], head_dim))
    angles[1:, :half] = np.repeat(rows, grid[1], axis=0)
    angles[1:, half:] = np.tile(columns, (grid[0], 1))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: jax.Array, cosines: np.ndarray, sines: np.ndarray) -> jax.Array:
    """Turns each pair of adjacent channels of x [B, N, K, D] by its angle [N, D]."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    crossed = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    cosines, sines = (jnp.asarray(t, x.dtype)[:, None] for t in (cosines, sines))
    return x * cosines + crossed * sines
