"""HOPS: every pixel gets an object; every object is cut out, and its pixels get its parts.

Both stages are one function of static shapes: the largest S objects of each image fill S slots,
and the crops of a batch are one batch.

Shapes: B images, S object slots, O objects, M part slots of an object, T object-specific parts,
K background words, P prompts, E embedding, H W canvas, h w grid, L layers, N = h * w.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims
from opvseg_jax.hierarchy.consistency import filter_operator, spread_costs
from opvseg_jax.hierarchy.propagation import attention_affinity, propagate
from opvseg_jax.hierarchy.regions import Regions, count_dropped, crop_objects, largest_regions
from opvseg_jax.methods.base import Outputs
from opvseg_jax.methods.hops.assemble import Pasted, paste_parts, words_of_slots
from opvseg_jax.methods.hops.encode import attention_of, clip_features, dino_features
from opvseg_jax.methods.hops.head import HopsHead, for_every_image, unchanged
from opvseg_jax.methods.hops.losses import pasted_part_loss
from opvseg_jax.methods.hops.sizes import HopsSize
from opvseg_jax.methods.partcatseg import losses, views
from opvseg_jax.methods.partcatseg.towers import ClipAndDino
from opvseg_jax.text.features import TextFeatures

NEVER = -1e4  # a logit that no softmax lets through, and that stays finite under interpolation


class Encoded(NamedTuple):
    """Dense features [B, h, w, E], guidance of 1, 2, 4 times the grid, attention [B, L, N, N]."""

    features: jax.Array
    pyramid: tuple[jax.Array, ...]
    attention: jax.Array | None


class Stages(NamedTuple):
    """Objects [B, H, W, O + 1] as logits, the regions they gave, and the parts found in those."""

    objects: jax.Array
    regions: Regions | None
    parts: Pasted | None
    dropped: jax.Array | None  # [B]


class Hops(ClipAndDino):
    """Images and a two-level vocabulary in, scores of objects and of their parts out."""

    def __init__(self, size: HopsSize, *, dtype=None, rngs: nnx.Rngs):
        super().__init__(size, dtype=dtype, rngs=rngs)
        chained = size.options.layers == "chained"
        self.head = HopsHead(size.head, chained=chained, dtype=dtype, rngs=rngs)
        self.options = size.options

    def __call__(
        self, images: jax.Array, text: TextFeatures, valid: jax.Array | None = None
    ) -> Outputs:
        """images [B, H, W, 3] in 0..255, valid [B, H, W] -> scores [B, H, W, ...]."""
        stages = self.stages(images, self.known(text), valid)
        objects = jax.nn.softmax(stages.objects, axis=-1)
        if valid is not None:
            nothing = jnp.zeros(objects.shape[-1]).at[-1].set(1.0)
            objects = jnp.where(valid[..., None], objects, nothing)
        if stages.parts is None:
            return Outputs(objects, None)
        parts = stages.parts.scores(repeat_sigmoid=self.options.repeat_sigmoid)
        return Outputs(objects, parts, stages.dropped)

    def loss(
        self, batch: Mapping[str, jax.Array], text: TextFeatures
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss and metrics of batch image [B, H, W, 3], object_map and part_map int [B, H, W]."""
        terms = self.losses(batch["image"], batch["object_map"], batch["part_map"], text)
        weights = {"objects": self.options.object_weight, "parts": self.options.part_weight}
        total = sum(weights[name] * value for name, value in terms.items())
        return total, terms | {"loss": total}

    def losses(
        self,
        images: jax.Array,
        object_map: jax.Array,
        part_map: jax.Array,
        text: TextFeatures,
        *,
        object_logits: jax.Array | None = None,
        taps: Taps = None,
    ) -> dict[str, jax.Array]:
        """Both terms, not weighted. Objects without parts are background, as in the reference."""
        dims(object_map, "B H W", B=images.shape[0], H=images.shape[1], W=images.shape[2])
        text = self.trained_on(text)
        target = losses.targets_of(object_map, part_map, text)
        labels = target.objects if self.options.train_regions == "true" else None
        stages = self.stages(
            images, text, object_logits=object_logits, labels=labels, train=True, taps=taps
        )
        named = losses.with_background(target.objects, len(text.objects), target.is_background)
        weights = losses.class_weights(text.object_mask, self.size.background_weight)
        parts = stages.parts
        return {
            "objects": losses.yes_or_no(stages.objects, named, weights),
            "parts": pasted_part_loss(parts.logits, parts.covered, target.parts, text.part_mask),
        }

    def stages(
        self,
        images: jax.Array,
        text: TextFeatures,
        valid: jax.Array | None = None,
        *,
        object_logits: jax.Array | None = None,
        labels: jax.Array | None = None,
        train: bool = False,
        taps: Taps = None,
    ) -> Stages:
        """images [B, H, W, 3] in 0..255, text with the background in it -> both stages.

        object_logits [B, O + K, y, x], if given, stand for those of stage one, and labels
        [B, H, W] for the objects that stage two cuts out.
        """
        mode = Mode(self.size.pooling, train)
        if object_logits is None:
            object_logits = self.object_logits(images, text, mode, valid, within(taps, "objects"))
        objects = self._on_canvas(object_logits, text, images.shape[1:3])
        if not len(text.parts):
            return Stages(objects, None, None, None)
        labels = self._labels(objects, text, valid) if labels is None else labels
        num_objects = len(text.objects)
        regions = largest_regions(labels, num_objects, min(self.options.num_slots, num_objects))
        record(taps, "regions", regions)
        logits = self.part_logits(images, regions, text, mode, within(taps, "parts"))
        parts = paste_parts(logits, regions, text)
        record(taps, "pasted", parts)
        return Stages(objects, regions, parts, count_dropped(labels, num_objects, regions))

    def object_logits(
        self,
        images: jax.Array,
        text: TextFeatures,
        mode: Mode,
        valid: jax.Array | None = None,
        taps: Taps = None,
    ) -> jax.Array:
        """Stage one: images [B, H, W, 3] -> logits [B, O + K, 4h, 4w]."""
        options, size = self.options, self.size
        encoded = self.encode(
            views.whole(images, size.image_size, views.FOR_CLIP, valid),
            views.whole(images, size.dino_size, views.FOR_DINO, valid),
            with_attention=options.filter_objects,
            taps=taps,
        )
        refine = unchanged
        if options.filter_objects:
            operator = filter_operator(
                encoded.attention, at_least=options.votes, normalise=options.normalise_filter
            )
            refine = functools.partial(spread_costs, operator)
        words = jnp.concatenate([text.objects, text.background])
        mask = jnp.concatenate([text.object_mask, text.background_mask])
        words, mask = for_every_image(words, mask, images.shape[0])
        return self.head.objects(
            encoded.features, words, mask, encoded.pyramid, mode, refine=refine, taps=taps
        )

    def part_logits(
        self,
        images: jax.Array,
        regions: Regions,
        text: TextFeatures,
        mode: Mode,
        taps: Taps = None,
    ) -> jax.Array:
        """Stage two: images [B, H, W, 3] and their regions -> logits [B, S, M, 4h, 4w]."""
        options, side = self.options, self.size.image_size
        crops = crop_objects(images, regions, (side, side))
        record(taps, "crops", crops)
        b, s = crops.shape[:2]
        flat = crops.reshape(b * s, side, side, 3)
        # What is not the object is black before normalisation, so far below zero after it.
        encoded = self.encode(
            views.normalise(flat, views.FOR_CLIP),
            resize(views.normalise(flat, views.FOR_DINO), (self.size.dino_size,) * 2),
            with_attention=options.spread_parts,
            taps=taps,
        )
        refine = unchanged
        if options.spread_parts:
            affinity = attention_affinity(encoded.attention, options.sweeps)
            record(taps, "affinity", affinity)
            refine = functools.partial(
                propagate, affinity, steps=options.steps, seeds=options.seeds
            )
        words, mask = (x.reshape(b * s, *x.shape[2:]) for x in words_of_slots(regions, text))
        logits = self.head.parts(
            encoded.features, words, mask, encoded.pyramid, mode, refine=refine, taps=taps
        )
        return logits.reshape(b, s, *logits.shape[1:])

    def encode(
        self, clip_view: jax.Array, dino_view: jax.Array, *, with_attention: bool, taps: Taps = None
    ) -> Encoded:
        """The same images as CLIP gets them [B, c, c, 3] and as DINO gets them [B, d, d, 3]."""
        options = self.options
        record(taps, "clip_view", clip_view)
        record(taps, "dino_view", dino_view)
        features, clip_maps = clip_features(
            self.clip.vision,
            clip_view,
            twice=options.last_block == "twice",
            keep_maps=with_attention,
            taps=taps,
        )
        keep_maps = with_attention and options.attention != "clip"
        patches, dino_maps = dino_features(self.dino, dino_view, keep_maps=keep_maps, taps=taps)
        stages = len(self.size.head.decoder)
        pyramid = views.pyramid(patches, features.shape[1:3], num_stages=stages)
        record(taps, "pyramid", pyramid)
        if not with_attention:
            return Encoded(features, pyramid, None)
        attention = attention_of(clip_maps, dino_maps, self.dino.num_registers, options)
        record(taps, "attention", attention)
        return Encoded(features, pyramid, attention)

    def _on_canvas(
        self, logits: jax.Array, text: TextFeatures, canvas: tuple[int, int]
    ) -> jax.Array:
        """logits [B, O + K, y, x] -> [B, H, W, O + 1]; classes that are not real never win."""
        maps = jnp.moveaxis(logits.astype(jnp.float32), 1, -1)
        maps = views.at_size(maps, canvas, undo_padding=self.size.undo_padding)
        maps = losses.best_background(maps, len(text.objects), text.background_mask)
        return jnp.where(jnp.append(text.object_mask, True), maps, NEVER)

    def _labels(self, objects: jax.Array, text: TextFeatures, valid: jax.Array | None) -> jax.Array:
        """objects [B, H, W, O + 1] -> the object of each pixel, -1 where no part is to be found."""
        labels = jnp.argmax(objects, axis=-1)
        has_parts = jnp.append(losses.with_parts(text), False)[labels]
        found = has_parts if valid is None else has_parts & valid
        return jnp.where(found, labels, -1)
