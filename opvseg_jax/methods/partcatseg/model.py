"""PartCATSeg: CLIP makes the costs, DINO guides, and parts are told apart together with objects.

Shapes: B images, O objects, S object-specific parts, G generic parts, K background words,
P prompts, L tokens, E embedding, H W canvas, h w grid.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.image import resize
from opvseg_jax.encoders.severance import Gps
from opvseg_jax.methods.base import Outputs
from opvseg_jax.methods.partcatseg import losses, views
from opvseg_jax.methods.partcatseg.head import PartHead
from opvseg_jax.methods.partcatseg.sizes import PartCatSegSize
from opvseg_jax.methods.partcatseg.towers import ClipAndDino
from opvseg_jax.text.features import TextFeatures


class Logits(NamedTuple):
    """first [B, G + O + K, 4h, 4w] (or the last O + K of them), second [B, S + K, 4h, 4w].

    The costs are means over prompts, [B, T, h, w].
    """

    first: jax.Array
    second: jax.Array | None
    first_costs: jax.Array | None
    second_costs: jax.Array | None


class PartCatSeg(ClipAndDino):
    """Images and a two-level vocabulary in, scores of objects and of their parts out."""

    def __init__(self, size: PartCatSegSize, *, dtype=None, rngs: nnx.Rngs):
        super().__init__(size, dtype=dtype, rngs=rngs)
        self.head = PartHead(size.head, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: jax.Array, text: TextFeatures, valid: jax.Array | None = None
    ) -> Outputs:
        """images [B, H, W, 3] in 0..255, valid [B, H, W] -> scores of the whole canvas."""
        canvas = images.shape[1:3]
        text = self.known(text)
        logits = self.logits(images, text, valid)
        num_objects, num_parts = len(text.objects), len(text.parts)
        objects = self._scores(logits.first, num_objects, text.object_mask, text, canvas, valid)
        if logits.second is None:
            return Outputs(objects, None)
        parts = self._scores(logits.second, num_parts, text.part_mask, text, canvas, valid)
        return Outputs(objects, parts)

    def loss(
        self, batch: Mapping[str, jax.Array], text: TextFeatures
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss and metrics of batch image [B, H, W, 3], object_map and part_map int [B, H, W]."""
        terms = self.losses(batch["image"], batch["object_map"], batch["part_map"], text)
        total = sum(terms.values())
        return total, terms | {"loss": total}

    def losses(
        self,
        images: jax.Array,
        object_map: jax.Array,
        part_map: jax.Array,
        text: TextFeatures,
        taps: Taps = None,
    ) -> dict[str, jax.Array]:
        """Every term. Pixels of an object that belong to no part teach the objects alone."""
        size = object_map.shape[1:]
        text = self.trained_on(text)
        logits = self.logits(images, text, train=True, taps=taps)
        target = losses.targets_of(object_map, part_map, text)
        g, o, s = len(text.generic), len(text.objects), len(text.parts)

        def at_labels(maps: jax.Array, num_classes: int | None = None) -> jax.Array:
            maps = resize(jnp.moveaxis(maps.astype(jnp.float32), 1, -1), size)
            if num_classes is None:
                return maps
            return losses.best_background(maps, num_classes, text.background_mask)

        rest = target.is_background
        specific = at_labels(logits.second, s)
        of_parts = losses.with_background(target.parts, s, rest)
        weights = losses.class_weights(text.part_mask, self.size.background_weight)
        both = jnp.any(rest) & jnp.any(~rest)
        generic = losses.one_hot(target.generic, g)
        of_objects = losses.with_background(target.objects, o, rest)
        return {
            "parts": losses.yes_or_no(specific, of_parts, weights, target.is_part),
            "parts_on_background": losses.yes_or_no(specific, of_parts, weights, rest & both),
            "generic_parts": losses.yes_or_no(
                at_labels(logits.first[:, :g]),
                generic,
                text.generic_mask.astype(jnp.float32),
                target.is_part,
            ),
            "objects": losses.yes_or_no(
                at_labels(logits.first[:, g:], o),
                of_objects,
                losses.class_weights(text.object_mask, self.size.background_weight),
            ),
            "composition": losses.composition_loss(
                logits.first_costs[:, g:], logits.second_costs, text, taps
            ),
        }

    def logits(
        self,
        images: jax.Array,
        text: TextFeatures,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
        taps: Taps = None,
    ) -> Logits:
        """images [B, H, W, 3] in 0..255, text with the background in it -> logits.

        Those of the generic parts are made for training alone.
        """
        mode, head = Mode(self.size.pooling, train), self.head
        features, maps = self.encode(images, valid, taps)
        guides = head.guides(maps, taps)
        first = head.first(features, text, guides, mode, within(taps, "first"))
        start = 0 if train else len(text.generic)
        logits = head.decode(first.hidden[:, start:], guides)
        record(taps, "first_logits", logits)
        if not len(text.parts):
            return Logits(logits, None, first.costs, None)
        second = head.second(first.hidden, text, guides, mode, within(taps, "second"))
        specific = head.decode(second.hidden, guides)
        record(taps, "second_logits", specific)
        return Logits(logits, specific, first.costs, second.costs)

    def encode(
        self, images: jax.Array, valid: jax.Array | None = None, taps: Taps = None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """images [B, H, W, 3] -> CLIP's dense features [B, h, w, E] and DINO's pyramid."""
        vision = self.clip.vision
        view = views.whole(images, self.size.image_size, views.FOR_CLIP, valid)
        record(taps, "clip_view", view)
        last = vision.num_layers - 1
        tokens = vision.project(vision.encode(view, severance={last: Gps()}).tokens)
        record(taps, "clip_tokens", tokens)
        _, features = vision.split(tokens, vision.grid(view))
        dino_view = views.whole(images, self.size.dino_size, views.FOR_DINO, valid)
        record(taps, "dino_view", dino_view)
        patches = self.dino(dino_view).patches
        record(taps, "dino_patches", patches)
        stages = len(self.size.head.decoder)
        maps = views.pyramid(patches, features.shape[1:3], num_stages=stages)
        record(taps, "pyramid", maps)
        return features, maps

    def _scores(
        self,
        logits: jax.Array,
        num_classes: int,
        mask: jax.Array,
        text: TextFeatures,
        canvas: tuple[int, int],
        valid: jax.Array | None,
    ) -> jax.Array:
        """logits [B, T + K, h, w] -> scores [B, h, w, T + 1] of the canvas (H, W).

        As in the reference, an image smaller than the map of logits loses what lies beyond its
        size, unless padding is undone.
        """
        scores = jax.nn.sigmoid(jnp.moveaxis(logits.astype(jnp.float32), 1, -1))
        scores = losses.best_background(scores, num_classes, text.background_mask)
        scores = jnp.where(jnp.append(mask, True), scores, 0.0)
        if not self.size.undo_padding:
            scores = scores[:, : canvas[0], : canvas[1]]
        elif views.filled(canvas) != canvas:
            scores = views.at_size(scores, canvas, undo_padding=True)
        if valid is None:
            return scores
        inside = resize(valid[..., None].astype(jnp.float32), scores.shape[1:3]) > 0.5
        return jnp.where(inside, scores, jnp.zeros(scores.shape[-1]).at[-1].set(1.0))
