"""The decoder: the map of each class, upsampled twice with the help of finer image features.

Shapes: B images, T classes, H W grid, C channels, G guidance channels.
"""

from collections.abc import Sequence

import jax
from flax import nnx

from opvseg_jax.aggregation.layers import Conv, GroupNorm, GuidedConv, Upsample
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.shapes import dims


class UpStage(nnx.Module):
    """Twice the size, the guidance put beside it, and two convolutions."""

    def __init__(
        self,
        width_in: int,
        guide: int,
        width: int,
        *,
        shared: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if guide >= width_in:
            raise ValueError(f"guidance of {guide} channels leaves none of the {width_in} to x")
        options = {"dtype": dtype, "rngs": rngs}
        self.upsample = Upsample(width_in, width_in - guide, 2, **options)
        self.conv1 = GuidedConv(width_in - guide, guide, width, 3, shared=shared, **options)
        self.norm1 = GroupNorm(width, width // 16, dtype=dtype)
        self.conv2 = Conv(width, width, 3, use_bias=False, **options)
        self.norm2 = GroupNorm(width, width // 16, dtype=dtype)

    def __call__(self, x: jax.Array, guidance: jax.Array, taps: Taps = None) -> jax.Array:
        """x [B, T, H, W, C], guidance [B, 2H, 2W, G] -> [B, T, 2H, 2W, D]."""
        x = self.upsample(x)
        record(taps, "upsample", x)
        x = self.norm1(self.conv1(x, guidance[:, None]))
        record(taps, "norm1", x)
        x = jax.nn.relu(self.norm2(self.conv2(jax.nn.relu(x))))
        record(taps, "out", x)
        return x


class Decoder(nnx.Module):
    """[B, T, H, W, C] -> one logit for each class and pixel of a map 2^stages times the size."""

    def __init__(
        self,
        width: int,
        widths: Sequence[int],
        guides: Sequence[int],
        *,
        shared: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        inputs = (width, *widths[:-1])
        self.stages = nnx.List(
            UpStage(width_in, guide, out, shared=shared, dtype=dtype, rngs=rngs)
            for width_in, guide, out in zip(inputs, guides, widths, strict=True)
        )
        self.head = Conv(widths[-1], 1, 3, dtype=dtype, rngs=rngs)
        self.width = width

    def __call__(self, x: jax.Array, guidance: Sequence[jax.Array], taps: Taps = None) -> jax.Array:
        """x [B, T, H, W, C], guidance [B, 2H, 2W, G1], [B, 4H, 4W, G2] -> [B, T, 4H, 4W]."""
        dims(x, "B T H W C", C=self.width)
        for index, (stage, steer) in enumerate(zip(self.stages, guidance, strict=True)):
            x = stage(x, steer, within(taps, f"stage_{index}"))
        return self.head(x)[..., 0]
