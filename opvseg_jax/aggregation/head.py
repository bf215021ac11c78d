"""The whole aggregator of the semantic methods: features of patches and classes in, logits out.

Shapes: B images, T classes, P prompts, E embedding, H W grid, C hidden channels, G guidance.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.blocks import Block, Classes, Mode, ParallelBlock, SerialBlock
from opvseg_jax.aggregation.classwise import ClassLayer
from opvseg_jax.aggregation.cost_volume import CostEmbedding, best_classes, cosine_costs
from opvseg_jax.aggregation.decoder import Decoder
from opvseg_jax.aggregation.fusion import ExpertFusion
from opvseg_jax.aggregation.guidance import ImageGuidance, TextGuidance
from opvseg_jax.aggregation.run import fill_classes, run_blocks, run_blocks_in_chunks
from opvseg_jax.aggregation.spatial import SpatialPair
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.shapes import dims

DROPPED = -100.0  # the logit of a class that was not among the best: sigmoid 4e-44


@dataclasses.dataclass(frozen=True)
class HeadSize:
    """The sizes of an aggregator; the defaults are the published ones.

    `class_limit` is both the number of classes that the class axis is filled up to and the number
    that is kept of more; 0: neither. Only the chunk and `shared_guidance` may differ from the
    checkpoint's: they change speed and memory, not numbers.
    """

    embed_dim: int = 512
    num_prompts: int = 1
    hidden: int = 128
    cost_gain: float = 1.0  # what costs are multiplied by before they are embedded
    num_heads: int = 4
    num_layers: int = 2
    window: int = 12
    text_guidance: int = 128
    appearance_in: int = 512
    appearance: int = 128
    decoder: tuple[int, ...] = (64, 32)
    decoder_in: tuple[int, ...] = (256, 128)
    decoder_guidance: tuple[int, ...] = (32, 16)
    attention: str = "linear"
    class_limit: int = 256
    num_experts: int = 0  # 0: serial blocks; else two parallel blocks with a fusion per layer
    class_chunk: int | None = None  # classes at a time; None: all
    shared_guidance: bool = True  # what does not depend on the class is computed once per image
    remat: bool = False  # keep only the blocks' inputs for the backward pass

    def block(self, *, dtype=None, rngs: nnx.Rngs) -> Block:
        """A new aggregation block of this size."""
        options = {"shared": self.shared_guidance, "dtype": dtype, "rngs": rngs}
        spatial = SpatialPair(self.hidden, self.appearance, self.num_heads, self.window, **options)
        classwise = ClassLayer(
            self.hidden,
            self.text_guidance,
            self.num_heads,
            kind=self.attention,
            pad_to=self.class_limit,
            **options,
        )
        if not self.num_experts:
            return SerialBlock(spatial, classwise)
        fusion = ExpertFusion(self.hidden, num_experts=self.num_experts, dtype=dtype, rngs=rngs)
        return ParallelBlock(spatial, classwise, fusion)

    def layer(self, *, dtype=None, rngs: nnx.Rngs) -> nnx.List:
        """A new layer: one serial block, or two parallel ones."""
        count = 2 if self.num_experts else 1
        return nnx.List(self.block(dtype=dtype, rngs=rngs) for _ in range(count))


class CostHead(nnx.Module):
    """Cost volume, embedding, aggregation blocks, decoder: one logit map for every class."""

    def __init__(self, size: HeadSize, *, dtype=None, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.embedding = CostEmbedding(
            size.num_prompts, size.hidden, gain=size.cost_gain, **options
        )
        self.image_guidance = ImageGuidance(
            (size.appearance_in, *size.decoder_in),
            (size.appearance, *size.decoder_guidance),
            **options,
        )
        self.text_guidance = TextGuidance(size.embed_dim, size.text_guidance, **options)
        self.layers = nnx.List(size.layer(**options) for _ in range(size.num_layers))
        self.decoder = Decoder(
            size.hidden,
            size.decoder,
            size.decoder_guidance,
            shared=size.shared_guidance,
            **options,
        )
        self.size = size

    @property
    def blocks(self) -> list[Block]:
        return [block for layer in self.layers for block in layer]

    def __call__(
        self,
        features: jax.Array,
        text: jax.Array,
        pyramid: Sequence[jax.Array],
        mode: Mode,
        *,
        mask: jax.Array | None = None,
        taps: Taps = None,
    ) -> jax.Array:
        """Logits [B, T, 4H, 4W] from features [B, H, W, E] and unit-norm text [B, T, P, E].

        pyramid: guidance [B, H, W, A], [B, 2H, 2W, A1], [B, 4H, 4W, A2]; mask [B, T], true where a
        class is real: the logits of the others mean nothing, and change no other. Text and mask
        with one row are those of every image.
        """
        b, *_ = dims(features, "B H W E", E=self.size.embed_dim)
        _, t, *_ = dims(text, "B T P E", P=self.size.num_prompts, E=self.size.embed_dim)
        mask = jnp.ones((1, t), bool) if mask is None else mask
        dims(mask, "B T", T=t)
        text = jnp.broadcast_to(text, (b, *text.shape[1:]))
        mask = jnp.broadcast_to(mask, (b, t))
        appearance, *fine = self.image_guidance(pyramid)
        record(taps, "appearance", appearance)
        record(taps, "decoder_guidance", tuple(fine))

        limit = self.size.class_limit
        if not limit or t <= limit:
            return self._logits(features, text, mask, appearance, fine, mode, taps)
        costs = cosine_costs(features, text)
        record(taps, "all_costs", costs)
        kept = best_classes(costs, mask, limit)
        record(taps, "kept", kept)
        text = jnp.take_along_axis(text, kept[:, :, None, None], axis=1)
        mask = jnp.take_along_axis(mask, kept, axis=1)
        logits = self._logits(features, text, mask, appearance, fine, mode, taps)
        images = jnp.arange(b)[:, None]
        nothing = jnp.full((b, t, *logits.shape[2:]), DROPPED, logits.dtype)
        return nothing.at[images, kept].set(logits)

    def _logits(
        self,
        features: jax.Array,
        text: jax.Array,
        mask: jax.Array,
        appearance: jax.Array,
        fine: Sequence[jax.Array],
        mode: Mode,
        taps: Taps,
    ) -> jax.Array:
        """The same with text [B, T, P, E] and mask [B, T] of the classes that are kept."""
        t = text.shape[1]
        text, mask = fill_classes((text, mask), t)
        classes = Classes(self.text_guidance(text), mask)
        record(taps, "text", classes.text)
        chunk = self.size.class_chunk
        if chunk is not None and chunk < t and not mode.train:
            logits = run_blocks_in_chunks(
                self.blocks,
                lambda words: self.embedding(cosine_costs(features, words)),
                text,
                appearance,
                classes,
                mode,
                chunk=chunk,
                decode=lambda x: self.decoder(x, fine),
            )
            return logits[:, :t]
        costs = cosine_costs(features, text)
        record(taps, "costs", costs)
        x = self.embedding(costs)
        record(taps, "embedded", x)
        inside = within(taps, "blocks")
        x = run_blocks(
            self.blocks, x, appearance, classes, mode, remat=self.size.remat, taps=inside
        )
        return self.decoder(x, fine, within(taps, "decoder"))[:, :t]
