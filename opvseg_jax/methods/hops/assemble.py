"""Parts of many crops put together on one canvas.

Shapes: B images, S object slots, M part slots of an object, T object-specific parts, H W canvas.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from opvseg_jax.core.shapes import dims
from opvseg_jax.hierarchy.regions import Regions, paste
from opvseg_jax.text.features import TextFeatures


class SlotWords(NamedTuple):
    """The words for the parts of the object in each slot: [B, S, M, P, E], mask [B, S, M]."""

    words: jax.Array
    mask: jax.Array


def words_of_slots(regions: Regions, text: TextFeatures) -> SlotWords:
    """Generic parts ("head") in the order of the object's parts.

    A slot without an object keeps one word: attention over no class at all is no number.
    """
    parts = text.object_to_parts[regions.objects]  # [B, S, M]
    mask = (parts >= 0) & regions.present[..., None]
    words = text.generic[jnp.maximum(text.part_to_generic[jnp.maximum(parts, 0)], 0)]
    first = jnp.arange(parts.shape[-1]) == 0
    return SlotWords(words, mask | (first & ~mask.any(axis=-1, keepdims=True)))


class Pasted(NamedTuple):
    """logits [B, H, W, T], and where the object of each part was found, bool [B, H, W, T]."""

    logits: jax.Array
    covered: jax.Array

    def scores(self, *, repeat_sigmoid: bool) -> jax.Array:
        """[B, H, W, T + 1]: parts inside their objects, background 1 outside of all objects."""
        scores = jnp.where(self.covered, jax.nn.sigmoid(self.logits), 0.0)
        rest = 1.0 - self.covered.any(axis=-1, keepdims=True).astype(scores.dtype)
        scores = jnp.concatenate([scores, rest], axis=-1)
        return jax.nn.sigmoid(scores) if repeat_sigmoid else scores


def paste_parts(logits: jax.Array, regions: Regions, text: TextFeatures) -> Pasted:
    """logits [B, S, M, h, w] of the crops -> the canvas. Objects never share a part."""
    _, s, _, _, _ = dims(logits, "B S M h w", M=text.object_to_parts.shape[1])
    pasted = paste(jnp.moveaxis(logits, 2, -1), regions, regions.boxes)  # [B, H, W, M]
    owners = jax.vmap(lambda objects, slots: objects[slots])(
        regions.objects, jnp.minimum(regions.slots, s - 1)
    )
    owners = jnp.where(regions.slots < s, owners, -1)
    of_part = text.part_to_object
    siblings = text.object_to_parts[jnp.maximum(of_part, 0)]  # [T, M]
    place = jnp.argmax(siblings == jnp.arange(len(of_part))[:, None], axis=1)
    covered = (owners[..., None] == of_part) & text.part_mask
    return Pasted(jnp.take(pasted, place, axis=-1), covered)
