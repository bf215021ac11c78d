"""HOPS' aggregator: one embedding, guidance and decoder for both stages, layers for each.

Shapes: B images (or crops), T classes, P prompts, E embedding, h w grid, C hidden channels.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.blocks import Classes, Mode
from opvseg_jax.aggregation.cost_volume import CostEmbedding, cosine_costs
from opvseg_jax.aggregation.decoder import Decoder
from opvseg_jax.aggregation.guidance import ImageGuidance, TextGuidance
from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.aggregation.run import fill_classes, run_blocks, run_blocks_in_chunks
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.shapes import dims

Refine = Callable[[jax.Array], jax.Array]  # costs [B, T, h, w, P] -> the same shape


def unchanged(costs: jax.Array) -> jax.Array:
    """No refinement."""
    return costs


class HopsHead(nnx.Module):
    """Costs, refined by attention, embedded, aggregated, decoded: one logit map for every class."""

    def __init__(self, size: HeadSize, *, chained: bool = True, dtype=None, rngs: nnx.Rngs):
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
        self.object_layers = nnx.List(size.block(**options) for _ in range(size.num_layers))
        self.part_layers = nnx.List(size.block(**options) for _ in range(size.num_layers))
        self.decoder = Decoder(
            size.hidden, size.decoder, size.decoder_guidance, shared=size.shared_guidance, **options
        )
        self.size, self.chained = size, chained

    def objects(self, *args, **kwargs) -> jax.Array:
        """Stage one, see `logits`."""
        return self.logits(self.object_layers, *args, **kwargs)

    def parts(self, *args, **kwargs) -> jax.Array:
        """Stage two, see `logits`."""
        return self.logits(self.part_layers, *args, **kwargs)

    def logits(
        self,
        layers: nnx.List,
        features: jax.Array,
        words: jax.Array,
        mask: jax.Array,
        pyramid: Sequence[jax.Array],
        mode: Mode,
        *,
        refine: Refine = unchanged,
        taps: Taps = None,
    ) -> jax.Array:
        """features [B, h, w, E], words [B, T, P, E], mask [B, T] -> logits [B, T, 4h, 4w].

        pyramid: maps of 1, 2 and 4 times the grid, `refine`: what attention does to the costs.
        """
        b, *_ = dims(features, "B h w E", E=self.size.embed_dim)
        _, t, *_ = dims(words, "B T P E", B=b, P=self.size.num_prompts, E=self.size.embed_dim)
        dims(mask, "B T", B=b, T=t)
        words, mask = fill_classes((words, mask), t)
        appearance, *fine = self.image_guidance(pyramid)
        classes = Classes(self.text_guidance(words), mask)
        # In the release every layer starts from the embedded costs, and the last result counts.
        layers = list(layers) if self.chained else [layers[-1]]
        record(taps, "appearance", appearance)
        record(taps, "text", classes.text)

        def embed(words: jax.Array, taps: Taps = None) -> jax.Array:
            costs = cosine_costs(features, words)
            record(taps, "costs", costs)
            costs = refine(costs)
            record(taps, "refined", costs)
            return self.embedding(costs)

        chunk = self.size.class_chunk
        if chunk is not None and chunk < t and not mode.train:
            logits = run_blocks_in_chunks(
                layers,
                embed,
                words,
                appearance,
                classes,
                mode,
                chunk=chunk,
                decode=lambda x: self.decoder(x, fine),
            )
            return logits[:, :t]
        x = embed(words, taps)
        record(taps, "embedded", x)
        inside = within(taps, "layers")
        x = run_blocks(layers, x, appearance, classes, mode, remat=self.size.remat, taps=inside)
        record(taps, "aggregated", x)
        logits = self.decoder(x, fine)[:, :t]
        record(taps, "logits", logits)
        return logits


def for_every_image(words: jax.Array, mask: jax.Array, b: int) -> tuple[jax.Array, jax.Array]:
    """words [T, P, E], mask [T] -> [B, T, P, E], [B, T]."""
    return jnp.broadcast_to(words, (b, *words.shape)), jnp.broadcast_to(mask, (b, *mask.shape))
