"""Aggregation blocks: spatial and class aggregation one after the other, or side by side.

Every block is three steps: `prepare` looks at each class alone, `summarise` says what a chunk of
classes contributes for the others, `finish` needs the summary of all classes and is again done for
each class alone. `run.py` walks through blocks with all classes at once or in chunks.

Shapes: B images, T classes, H W grid, C channels, G guidance channels.
"""

from typing import NamedTuple

import jax
from flax import nnx

from opvseg_jax.aggregation.attention_kinds import AttentionKind, Summary
from opvseg_jax.aggregation.classwise import ClassLayer
from opvseg_jax.aggregation.fusion import ExpertFusion, overlap
from opvseg_jax.aggregation.spatial import SpatialPair
from opvseg_jax.aggregation.taps import Taps, record, within


class Classes(NamedTuple):
    """What is known of each class: text guidance [B, T, G], mask [B, T] true where it is real."""

    text: jax.Array
    mask: jax.Array


class Mode(NamedTuple):
    """How a forward pass is run: pooling of the class layer, batch statistics or running ones."""

    pooling: tuple[int, int]
    train: bool = False


class SerialBlock(nnx.Module):
    """CAT-Seg's layer: classes(spatial(x))."""

    def __init__(self, spatial: SpatialPair, classwise: ClassLayer):
        self.spatial, self.classwise = spatial, classwise

    @property
    def attention(self) -> AttentionKind:
        return self.classwise.attention

    def prepare(self, x: jax.Array, appearance: jax.Array, taps: Taps = None) -> jax.Array:
        """x [B, T, H, W, C], appearance [B, H, W, G] -> [B, T, H, W, C]."""
        x = self.spatial(x, appearance, within(taps, "spatial"))
        record(taps, "spatial_out", x)
        return x

    def summarise(self, x: jax.Array, classes: Classes, mode: Mode) -> Summary:
        """What these classes, prepared, contribute for the others."""
        return self.classwise.summarise(x, classes.text, classes.mask, mode.pooling)

    def finish(
        self,
        x: jax.Array,
        appearance: jax.Array,
        classes: Classes,
        summary: Summary,
        mode: Mode,
        taps: Taps = None,
    ) -> jax.Array:
        """prepared x [B, T, H, W, C] -> the block's output [B, T, H, W, C]."""
        taps = within(taps, "classwise")
        return self.classwise.finish(x, *classes, summary, mode.pooling, taps)


class ParallelBlock(nnx.Module):
    """PCA-Seg's block: fusion(spatial(x), classes(x)), without a residual around it."""

    def __init__(self, spatial: SpatialPair, classwise: ClassLayer, fusion: ExpertFusion):
        self.spatial, self.classwise, self.fusion = spatial, classwise, fusion

    @property
    def attention(self) -> AttentionKind:
        return self.classwise.attention

    def prepare(self, x: jax.Array, appearance: jax.Array, taps: Taps = None) -> jax.Array:
        """Nothing is to be done before the classes meet."""
        return x

    def summarise(self, x: jax.Array, classes: Classes, mode: Mode) -> Summary:
        """What these classes contribute for the others."""
        return self.classwise.summarise(x, classes.text, classes.mask, mode.pooling)

    def finish(
        self,
        x: jax.Array,
        appearance: jax.Array,
        classes: Classes,
        summary: Summary,
        mode: Mode,
        taps: Taps = None,
    ) -> jax.Array:
        """x [B, T, H, W, C] -> the block's output [B, T, H, W, C]."""
        spatial = self.spatial(x, appearance, within(taps, "spatial"))
        classwise = self.classwise.finish(x, *classes, summary, mode.pooling)
        record(taps, "spatial_out", spatial)
        record(taps, "classwise_out", classwise)
        if taps is not None:
            taps["overlap"], taps["cosine"] = overlap(spatial, classwise, classes.mask)
        return self.fusion(
            spatial, classwise, train=mode.train, mask=classes.mask, taps=within(taps, "fusion")
        )


Block = SerialBlock | ParallelBlock
