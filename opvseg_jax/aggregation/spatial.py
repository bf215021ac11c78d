"""Spatial aggregation: within the map of one class, patches of a window look at each other.

Two Swin blocks, the second with shifted windows. What the image looks like (appearance guidance)
steers who looks at whom: queries and keys see it, values do not.

Shapes: B images, T classes, H W grid, C channels, G guidance channels, V windows of n tokens,
K heads.
"""

import jax
from flax import nnx

from opvseg_jax.aggregation.layers import Dense, GuidedDense
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.layers import gelu, layer_norm
from opvseg_jax.core.shapes import dims
from opvseg_jax.core.swin import cut_windows, fit_window, join_windows, shift_mask, window_attention


class WindowBlock(nnx.Module):
    """x + attention in windows, then x + mlp; a Swin block without position bias."""

    def __init__(
        self,
        width: int,
        guide: int,
        num_heads: int,
        *,
        shared: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        options = {"dtype": dtype, "rngs": rngs}
        self.norm1 = layer_norm(width, epsilon=1e-5, **options)
        self.query = GuidedDense(width, guide, width, shared=shared, **options)
        self.key = GuidedDense(width, guide, width, shared=shared, **options)
        self.value = Dense(width, width, **options)
        self.out = Dense(width, width, **options)
        self.norm2 = layer_norm(width, epsilon=1e-5, **options)
        self.up = Dense(width, 4 * width, **options)
        self.down = Dense(4 * width, width, **options)
        self.width, self.num_heads = width, num_heads

    def __call__(
        self, x: jax.Array, guidance: jax.Array, window: int, shift: int, taps: Taps = None
    ) -> jax.Array:
        """x [B, T, H, W, C], normalised guidance [B, H, W, G] -> [B, T, H, W, C]."""
        _, _, height, width, _ = dims(x, "B T H W C", C=self.width)
        u = cut_windows(self.norm1(x), window, shift)  # [B, T, V, n, C]
        steer = cut_windows(guidance[:, None], window, shift)  # [B, 1, V, n, G]
        heads = (*u.shape[:-1], self.num_heads, self.width // self.num_heads)
        q = self.query(u, steer).reshape(heads)
        k = self.key(u, steer).reshape(heads)
        v = self.value(u).reshape(heads)
        mask = shift_mask((height, width), window, shift) if shift else None
        mixed = self.out(window_attention(q, k, v, mask).reshape(u.shape))
        record(taps, "windows", mixed)
        x = x + join_windows(mixed, (height, width), shift)
        x = x + self.down(gelu(self.up(self.norm2(x))))
        record(taps, "out", x)
        return x


class SpatialPair(nnx.Module):
    """A block of plain windows and one of shifted windows; one norm of the guidance for both."""

    def __init__(
        self,
        width: int,
        guide: int,
        num_heads: int,
        window: int,
        *,
        shared: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        self.guidance_norm = layer_norm(guide, epsilon=1e-5, dtype=dtype, rngs=rngs)
        options = {"shared": shared, "dtype": dtype, "rngs": rngs}
        self.plain = WindowBlock(width, guide, num_heads, **options)
        self.shifted = WindowBlock(width, guide, num_heads, **options)
        self.guide, self.window = guide, window

    def __call__(self, x: jax.Array, guidance: jax.Array, taps: Taps = None) -> jax.Array:
        """x [B, T, H, W, C], guidance [B, H, W, G] -> [B, T, H, W, C]."""
        b, _, height, width, _ = dims(x, "B T H W C")
        dims(guidance, "B H W G", B=b, H=height, W=width, G=self.guide)
        steer = self.guidance_norm(guidance)
        record(taps, "guidance_norm", steer)
        window, shift = fit_window((height, width), self.window, self.window // 2)
        x = self.plain(x, steer, window, 0, within(taps, "plain"))
        return self.shifted(x, steer, window, shift, within(taps, "shifted"))
