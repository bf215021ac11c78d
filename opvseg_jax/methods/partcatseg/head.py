"""PartCATSeg's aggregator: two cost volumes, the second made from the first.

In the first, generic parts ("head"), objects ("dog") and background are classes side by side and
attend to each other. Each object-specific part ("dog's head") then takes the channels of its part
and of its object as a visual feature of its own, which is compared with its own words.

Shapes: B images, G generic parts, O objects, S object-specific parts, K background rows, P prompts,
E embedding, h w grid, C hidden channels; T classes, any of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.blocks import Block, Classes, Mode
from opvseg_jax.aggregation.cost_volume import CostEmbedding, cosine_costs, own_cosine_costs
from opvseg_jax.aggregation.decoder import Decoder
from opvseg_jax.aggregation.guidance import ImageGuidance, TextGuidance
from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.aggregation.layers import GuidedDense
from opvseg_jax.aggregation.run import run_blocks, run_blocks_in_chunks
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.shapes import dims
from opvseg_jax.text.features import TextFeatures


class Guides(NamedTuple):
    """What DINO says: appearance [B, h, w, A]; to the decoder [B, 2h, 2w, .], [B, 4h, 4w, .]."""

    appearance: jax.Array
    fine: tuple[jax.Array, ...]


class Volume(NamedTuple):
    """One pass: hidden [B, T, h, w, C], and the mean over prompts of its costs [B, T, h, w]."""

    hidden: jax.Array
    costs: jax.Array | None  # None if it was gone through in chunks


class PartHead(nnx.Module):
    """Both passes share guidance and decoder; embeddings and layers are their own."""

    def __init__(self, size: HeadSize, *, dtype=None, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.embedding = CostEmbedding(
            size.num_prompts, size.hidden, gain=size.cost_gain, **options
        )
        self.part_embedding = CostEmbedding(
            size.num_prompts, size.hidden, gain=size.cost_gain, **options
        )
        self.compose = GuidedDense(size.hidden, size.hidden, size.embed_dim, **options)
        self.image_guidance = ImageGuidance(
            (size.appearance_in, *size.decoder_in),
            (size.appearance, *size.decoder_guidance),
            **options,
        )
        self.text_guidance = TextGuidance(size.embed_dim, size.text_guidance, **options)
        self.layers, self.part_layers = stack(size, **options), stack(size, **options)
        self.decoder = Decoder(
            size.hidden, size.decoder, size.decoder_guidance, shared=size.shared_guidance, **options
        )
        self.size = size

    def guides(self, pyramid: Sequence[jax.Array], taps: Taps = None) -> Guides:
        """Maps of 1, 2 and 4 times the grid -> what steers both passes."""
        appearance, *fine = self.image_guidance(pyramid)
        record(taps, "appearance", appearance)
        return Guides(appearance, tuple(fine))

    def first(
        self,
        features: jax.Array,
        text: TextFeatures,
        guides: Guides,
        mode: Mode,
        taps: Taps = None,
    ) -> Volume:
        """features [B, h, w, E] -> the volume of G + O + K classes, in this order."""
        b, *_ = dims(features, "B h w E", E=self.size.embed_dim)
        words = jnp.concatenate([text.generic, text.objects, text.background])
        mask = jnp.concatenate([text.generic_mask, text.object_mask, text.background_mask])
        words, classes = self._classes(words, mask, b)
        record(taps, "text", classes.text)

        def costs(words: jax.Array) -> jax.Array:
            return cosine_costs(features, words)

        walk = Walk(blocks_of(self.layers), costs, self.embedding, guides, classes, mode)
        return walk(words, self.size, taps)

    def second(
        self,
        hidden: jax.Array,
        text: TextFeatures,
        guides: Guides,
        mode: Mode,
        taps: Taps = None,
    ) -> Volume:
        """hidden of the first volume -> the volume of S + K classes."""
        b, *_ = dims(hidden, "B T h w C", C=self.size.hidden)
        mask = jnp.concatenate([text.part_mask, text.background_mask])
        words, classes = self._classes(jnp.concatenate([text.parts, text.background]), mask, b)
        record(taps, "text", classes.text)
        of_part, of_object = self._halves(hidden)
        rows = (jnp.broadcast_to(x, (b, len(x))) for x in source_rows(text))

        def costs(sources: tuple[jax.Array, ...]) -> jax.Array:
            words, part_rows, object_rows = sources
            own = jax.vmap(lambda part, object_, i, j: part[i] + object_[j])
            visual = own(of_part, of_object, part_rows, object_rows)
            record(None if self._in_chunks(mask, mode) else taps, "own_features", visual)
            return own_cosine_costs(visual, words)

        blocks = blocks_of(self.part_layers)
        walk = Walk(blocks, costs, self.part_embedding, guides, classes, mode)
        return walk((words, *rows), self.size, taps)

    def decode(self, hidden: jax.Array, guides: Guides) -> jax.Array:
        """hidden [B, T, h, w, C] -> logits [B, T, 4h, 4w]."""
        return self.decoder(hidden, guides.fine)

    def _classes(self, words: jax.Array, mask: jax.Array, b: int) -> tuple[jax.Array, Classes]:
        """Words [T, P, E] and their mask [T], for every image; and what steers class attention."""
        guidance = self.text_guidance(words[None])
        wide = (jnp.broadcast_to(x, (b, *x.shape[1:])) for x in (words[None], guidance, mask[None]))
        words, guidance, mask = wide
        return words, Classes(guidance, mask)

    def _halves(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A linear layer on concat(part, object) is a sum; each term is computed once per class.

        hidden [B, T, h, w, C] -> two [B, T, h, w, E].
        """
        kernel, width = self.compose.kernel[...].astype(hidden.dtype), self.size.hidden
        bias = self.compose.bias[...].astype(hidden.dtype)
        return hidden @ kernel[:width] + bias, hidden @ kernel[width:]

    def _in_chunks(self, mask: jax.Array, mode: Mode) -> bool:
        return in_chunks(self.size, len(mask), mode)


class Walk(NamedTuple):
    """From costs through embedding and layers, all classes at once or chunk by chunk."""

    blocks: Sequence[Block]
    costs: Callable[[Any], jax.Array]  # sources [B, T, ...] -> [B, T, h, w, P]
    embedding: CostEmbedding
    guides: Guides
    classes: Classes
    mode: Mode

    def __call__(self, sources: Any, size: HeadSize, taps: Taps = None) -> Volume:
        if in_chunks(size, self.classes.mask.shape[1], self.mode):
            hidden = run_blocks_in_chunks(
                self.blocks,
                lambda part: self.embedding(self.costs(part)),
                sources,
                self.guides.appearance,
                self.classes,
                self.mode,
                chunk=size.class_chunk,
            )
            return Volume(hidden, None)
        costs = self.costs(sources)
        record(taps, "costs", costs)
        embedded = self.embedding(costs)
        record(taps, "embedded", embedded)
        hidden = run_blocks(
            self.blocks,
            embedded,
            self.guides.appearance,
            self.classes,
            self.mode,
            remat=size.remat,
            taps=within(taps, "layers"),
        )
        return Volume(hidden, costs.mean(axis=-1))


def stack(size: HeadSize, **options) -> nnx.List:
    """Layers of this size: serial blocks or, with experts, pairs of parallel ones."""
    layer = size.layer if size.num_experts else size.block
    return nnx.List(layer(**options) for _ in range(size.num_layers))


def blocks_of(layers: nnx.List) -> list[Block]:
    """The blocks of a stack in the order in which they run."""
    return [
        block for layer in layers for block in (layer if isinstance(layer, nnx.List) else (layer,))
    ]


def in_chunks(size: HeadSize, num_classes: int, mode: Mode) -> bool:
    """Whether so many classes are gone through in chunks."""
    return size.class_chunk is not None and size.class_chunk < num_classes and not mode.train


def source_rows(text: TextFeatures) -> tuple[jax.Array, jax.Array]:
    """Where in the first volume the two halves of each class of the second lie: two [S + K]."""
    num_generic, num_objects, k = len(text.generic), len(text.objects), len(text.background)
    background = num_generic + num_objects + jnp.arange(k)
    part = jnp.maximum(text.part_to_generic, 0)
    owner = num_generic + jnp.maximum(text.part_to_object, 0)
    return jnp.concatenate([part, background]), jnp.concatenate([owner, background])
