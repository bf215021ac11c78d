"""Class aggregation: at every pixel, the classes look at each other.

A layer is cut in three, so that a vocabulary can be walked through in chunks: `summarise` says what
a chunk of classes contributes, contributions are gathered (`attention.empty`, `attention.gather`),
and `finish` answers the classes of a chunk from the whole. The plain call is one chunk of all.

Shapes: B images, T classes, H W grid (h w after pooling), N = h * w, C channels, G guidance
channels, K heads, D = C // K.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.attention_kinds import ATTENTION_KINDS, Pads, Summary
from opvseg_jax.aggregation.layers import Dense, GuidedDense
from opvseg_jax.aggregation.taps import Taps, record
from opvseg_jax.core.image import resize
from opvseg_jax.core.layers import layer_norm
from opvseg_jax.core.shapes import dims


class ClassLayer(nnx.Module):
    """Attention over classes and an MLP on the pooled map; the result is added to the full map.

    `pad_to` > 0: the layer was trained with the class axis filled up to that many classes with
    copies of a learned token. The copies are all alike, so they enter as one term with a weight.
    """

    def __init__(
        self,
        width: int,
        guide: int,
        num_heads: int,
        *,
        kind: str = "linear",
        pad_to: int = 0,
        shared: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        if kind not in ATTENTION_KINDS:
            raise ValueError(f"class attention {kind!r} is none of {', '.join(ATTENTION_KINDS)}")
        options = {"dtype": dtype, "rngs": rngs}
        self.norm1 = layer_norm(width, epsilon=1e-5, **options)
        self.query = GuidedDense(width, guide, width, shared=shared, **options)
        self.key = GuidedDense(width, guide, width, shared=shared, **options)
        self.value = Dense(width, width, **options)
        self.norm2 = layer_norm(width, epsilon=1e-5, **options)
        self.up = Dense(width, 4 * width, **options)
        self.down = Dense(4 * width, width, **options)
        self.padding_token = nnx.Param(jnp.zeros(width)) if pad_to else None
        self.padding_guidance = nnx.Param(jnp.zeros(guide)) if pad_to else None
        self.attention = ATTENTION_KINDS[kind]
        if pad_to and not self.attention.pads:
            raise ValueError(f"class attention {kind!r} knows no padding; expected pad_to=0")
        self.width, self.guide, self.num_heads, self.pad_to = width, guide, num_heads, pad_to

    def __call__(
        self,
        x: jax.Array,
        text: jax.Array,
        mask: jax.Array,
        pooling: tuple[int, int],
        taps: Taps = None,
    ) -> jax.Array:
        """x [B, T, H, W, C], text [B, T, G], mask [B, T] -> [B, T, H, W, C]."""
        return self.finish(x, text, mask, self.summarise(x, text, mask, pooling), pooling, taps)

    def summarise(
        self, x: jax.Array, text: jax.Array, mask: jax.Array, pooling: tuple[int, int]
    ) -> Summary:
        """What these classes contribute for all the others. Masked classes contribute nothing."""
        b, t, *_ = dims(x, "B T H W C", C=self.width)
        dims(text, "B T G", B=b, T=t, G=self.guide)
        dims(mask, "B T", B=b, T=t)
        u = self.norm1(_pool(x, pooling))
        return self.attention.summarise(*self._project(u, text), mask)

    def finish(
        self,
        x: jax.Array,
        text: jax.Array,
        mask: jax.Array,
        summary: Summary,
        pooling: tuple[int, int],
        taps: Taps = None,
    ) -> jax.Array:
        """These classes after hearing all of them: x [B, T, H, W, C] -> [B, T, H, W, C]."""
        _, _, height, width, _ = dims(x, "B T H W C", C=self.width)
        pooled = _pool(x, pooling)
        record(taps, "pooled", pooled)
        u = self.norm1(pooled)
        record(taps, "norm1", u)
        q = self._heads(self.query(self._flat(u), text[:, :, None]))
        pads = self._pads(summary.count)
        mixed = self.attention.answer(q, summary, pads).reshape(pooled.shape).astype(pooled.dtype)
        record(taps, "attention", mixed)
        pooled = pooled + mixed
        y = self.down(jax.nn.relu(self.up(self.norm2(pooled))))
        record(taps, "mlp", y)
        # `pooled` still contains its input: with 1x1 pooling the stream doubles in every layer.
        return x + resize(pooled + y, (height, width), align_corners=True)

    def _project(self, u: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        u, text = self._flat(u), text[:, :, None]
        q = self._heads(self.query(u, text)) if self.attention.summarises_queries else None
        return q, self._heads(self.key(u, text)), self._heads(self.value(u))

    def _pads(self, count: jax.Array) -> Pads | None:
        """The copies that fill up the class axis."""
        if not self.pad_to:
            return None
        token = self.norm1(self.padding_token[...][None])
        key = self.key(token, self.padding_guidance[...][None])
        missing = jnp.maximum(self.pad_to - count, 0.0)
        return Pads(self._heads(key)[0], self._heads(self.value(token))[0], missing)

    def _flat(self, u: jax.Array) -> jax.Array:
        b, t, h, w, c = u.shape
        return u.reshape(b, t, h * w, c)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.width // self.num_heads)


def _pool(x: jax.Array, pooling: tuple[int, int]) -> jax.Array:
    """x [B, T, H, W, C] -> the mean of each tile [B, T, h, w, C]; rows and columns left over go."""
    rows, columns = pooling
    if (rows, columns) == (1, 1):
        return x
    b, t, height, width, c = x.shape
    h, w = height // rows, width // columns
    if not h or not w:
        raise ValueError(f"pooling {rows}x{columns} leaves nothing of a grid of {height}x{width}")
    tiles = x[:, :, : h * rows, : w * columns].reshape(b, t, h, rows, w, columns, c)
    return tiles.mean(axis=(3, 5))
