"""Label maps -> what losses compare with, as jittable functions of static shapes.

Labels are class ids, -1 (background) or -2 (ignore), as `samples.py` says. Letters: B images,
H W size, T classes, S slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.shapes import dims
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE
from opvseg_jax.vocabulary import Vocabulary


def one_hot(labels: jax.Array, num_classes: int, dtype=jnp.float32) -> jax.Array:
    """labels [B, H, W] -> [B, H, W, T]; background and ignored pixels are all zero.

    CAT-Seg's target: an ignored pixel is "no class" and counts in the mean.
    """
    dims(labels, "B H W")
    return (labels[..., None] == jnp.arange(num_classes)).astype(dtype)


def look_up(labels: jax.Array, table: np.ndarray) -> jax.Array:
    """labels [...] through table [T] -> ids; a negative label stays as it is."""
    if not len(table):
        return labels
    return jnp.where(labels < 0, labels, jnp.asarray(table, labels.dtype)[jnp.maximum(labels, 0)])


def with_rest(labels: jax.Array, num_classes: int) -> jax.Array:
    """labels [...] with everything that is no class as one more class, the last.

    DeOP trains ignored pixels as "non-object"; the part models know background alone.
    """
    return jnp.where(labels < 0, num_classes, labels)


class PartTargets(NamedTuple):
    """Labels of the part models [B, H, W]; negative where a pixel has none.

    objects: among the objects with parts, sorted. parts: object-specific. generic: "head".
    """

    objects: jax.Array
    parts: jax.Array
    generic: jax.Array

    @property
    def is_background(self) -> jax.Array:
        """No object with parts: objects without parts, unseen ones, ignored pixels, padding."""
        return self.objects < 0

    @property
    def is_part(self) -> jax.Array:
        """A part is known here. Object pixels without one are neither this nor background."""
        return self.parts >= 0


def part_targets(object_map: jax.Array, part_map: jax.Array, vocabulary: Vocabulary) -> PartTargets:
    """object_map, part_map [B, H, W] -> the three label maps of PartCATSeg and HOPS.

    `vocabulary` is that of training: `seen_only()` where there is a split, as `SeenOnly` made
    the maps. In the reference, ignored pixels are background targets.
    """
    b, h, w = dims(object_map, "B H W")
    dims(part_map, "B H W", B=b, H=h, W=w)
    objects = look_up(object_map, vocabulary.object_to_object_with_parts)
    generic = look_up(part_map, vocabulary.part_to_generic)
    return PartTargets(objects, part_map, generic)


def with_seen_only(labels: jax.Array, is_seen: np.ndarray, unseen: int = BACKGROUND) -> jax.Array:
    """labels [...] of all classes -> ids among the seen ones; the unseen become `unseen`.

    On the device, what `transforms.SeenOnly` does on the host.
    """
    if unseen not in (BACKGROUND, IGNORE):
        raise ValueError(f"unseen classes become background or ignored, not {unseen}")
    is_seen = np.asarray(is_seen, bool)
    return look_up(labels, np.where(is_seen, np.cumsum(is_seen) - 1, unseen))


class Slots(NamedTuple):
    """One binary mask for each class (or instance) of an image, padded to S slots.

    masks bool [B, S, H, W]; ids int32 [B, S], ascending, -1 in unused slots.
    """

    masks: jax.Array
    ids: jax.Array

    @property
    def is_used(self) -> jax.Array:
        """bool [B, S]."""
        return self.ids >= 0


def slot_masks(labels: jax.Array, num_classes: int, num_slots: int) -> Slots:
    """labels [B, H, W] -> the masks of the classes present; past S, the largest are kept.

    The targets of mask classification (DeOP's stage 2); with an instance map, one for each object.
    """
    b, _, _ = dims(labels, "B H W")
    flat = jnp.where(labels < 0, num_classes, labels).reshape(b, -1)
    counts = jax.vmap(lambda row: jnp.bincount(row, length=num_classes + 1))(flat)[:, :-1]
    num_kept = min(num_slots, num_classes)
    sizes, ids = jax.lax.top_k(counts, num_kept)
    ids = jnp.sort(jnp.where(sizes > 0, ids, num_classes), axis=1)
    ids = jnp.pad(ids, ((0, 0), (0, num_slots - num_kept)), constant_values=num_classes)
    ids = jnp.where(ids < num_classes, ids, -1).astype(jnp.int32)
    masks = (labels[:, None] == ids[:, :, None, None]) & (ids >= 0)[:, :, None, None]
    return Slots(masks, ids)


def slot_labels(slots: Slots, labels: jax.Array) -> jax.Array:
    """The label [B, S] of each slot's pixels in `labels` [B, H, W], the largest where they differ.

    With slots of an instance map and the object map: the class of every instance. Unused: -1.
    """
    b, h, w = dims(labels, "B H W")
    dims(slots.masks, "B S H W", B=b, H=h, W=w)
    return jnp.max(jnp.where(slots.masks, labels[:, None], -1), axis=(2, 3))


def boxes(masks: jax.Array) -> jax.Array:
    """masks [B, S, H, W] -> x0, y0, x1, y1 [B, S, 4], the last two exclusive; 0 where empty."""
    _, _, h, w = dims(masks, "B S H W")

    def extent(line: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:  # [B, S, length]
        place = jnp.arange(length)
        first = jnp.min(jnp.where(line, place, length), axis=-1)
        return jnp.where(line.any(-1), first, 0), jnp.max(jnp.where(line, place + 1, 0), axis=-1)

    x0, x1 = extent(masks.any(axis=2), w)
    y0, y1 = extent(masks.any(axis=3), h)
    return jnp.stack([x0, y0, x1, y1], axis=-1).astype(jnp.int32)
