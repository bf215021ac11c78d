"""PartCATSeg's losses: yes-or-no questions on chosen pixels, and parts that make up their object.

Shapes: B images, H W labels, h w costs, G generic parts, O objects, S object-specific parts,
K background rows, T classes, any of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from opvseg_jax.core.shapes import dims
from opvseg_jax.pipeline.targets import one_hot
from opvseg_jax.text.features import TextFeatures

NEVER = -1e30  # a score that no softmax lets through, and whose gradient is finite


class Targets(NamedTuple):
    """Labels [B, H, W], -1 where a pixel has none. An object without parts is background."""

    objects: jax.Array
    parts: jax.Array
    generic: jax.Array

    @property
    def is_background(self) -> jax.Array:
        return self.objects < 0

    @property
    def is_part(self) -> jax.Array:
        return self.parts >= 0


def targets_of(object_map: jax.Array, part_map: jax.Array, text: TextFeatures) -> Targets:
    """object_map, part_map int [B, H, W] in the ids of `text`; negative: background or ignored."""
    b, h, w = dims(object_map, "B H W")
    dims(part_map, "B H W", B=b, H=h, W=w)
    known = (object_map >= 0) & with_parts(text)[jnp.maximum(object_map, 0)]
    generic = jnp.where(part_map >= 0, text.part_to_generic[jnp.maximum(part_map, 0)], -1)
    return Targets(
        jnp.where(known, object_map, -1).astype(jnp.int32), jnp.maximum(part_map, -1), generic
    )


def with_parts(text: TextFeatures) -> jax.Array:
    """Which objects are real and have parts, bool [O]."""
    return text.object_mask & (text.object_to_parts >= 0).any(axis=1)


def yes_or_no(
    logits: jax.Array, target: jax.Array, classes: jax.Array, pixels: jax.Array | None = None
) -> jax.Array:
    """Mean binary cross-entropy of logits [B, H, W, T] with a target of the same shape.

    classes [T]: the weight of each class, 0 where it is padding; the mean is over the number of
    real classes, whatever their weights. pixels [B, H, W]: those that count.
    """
    each = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), target)
    each = (each * classes).sum(axis=-1)
    count = jnp.float32(each.size) if pixels is None else pixels.sum(dtype=jnp.float32)
    each = each if pixels is None else jnp.where(pixels, each, 0.0)
    return each.sum() / jnp.maximum(count * (classes > 0).sum(), 1.0)


def with_background(
    labels: jax.Array, num_classes: int, is_background: jax.Array, dtype=jnp.float32
) -> jax.Array:
    """labels [B, H, W] and where the background is -> targets [B, H, W, T + 1]."""
    named = one_hot(labels, num_classes, dtype)
    return jnp.concatenate([named, is_background[..., None].astype(dtype)], axis=-1)


def class_weights(mask: jax.Array, background: float) -> jax.Array:
    """mask [T] of real classes -> their weights and the background's, [T + 1]."""
    return jnp.append(mask.astype(jnp.float32), background)


def best_background(logits: jax.Array, num_classes: int, mask: jax.Array) -> jax.Array:
    """logits [..., T + K], mask [K] -> [..., T + 1]: the best of several backgrounds stands."""
    named, rest = jnp.split(logits, [num_classes], axis=-1)
    rest = jnp.where(mask, rest, jnp.asarray(-1e4, logits.dtype))
    return jnp.concatenate([named, rest.max(axis=-1, keepdims=True)], axis=-1)


def composition_loss(
    first: jax.Array, second: jax.Array, text: TextFeatures, taps: dict | None = None
) -> jax.Array:
    """How far an object's parts together are from the object: a Jensen-Shannon divergence.

    first [B, O + K, h, w]: mean costs of objects and background in the first volume; second
    [B, S + K, h, w]: those of the second. Both become distributions over classes at each patch;
    those of the second are summed over the parts of each object.
    """
    num_objects, num_parts = len(text.objects), len(text.parts)
    k = len(text.background)
    dims(first, "B T h w", T=num_objects + k)
    dims(second, "B T h w", T=num_parts + k)
    objects = jnp.append(with_parts(text), text.background_mask)
    parts = jnp.append(text.part_mask, text.background_mask)
    rest = jnp.full(k, num_objects)
    owners = one_hot(jnp.append(text.part_to_object, rest)[None, None], num_objects + 1)[0, 0]
    own = one_hot(jnp.append(jnp.arange(num_objects), rest)[None, None], num_objects + 1)[0, 0]
    whole = _distribution(first, objects, own)
    made = _distribution(second, parts, owners)
    if taps is not None:
        taps["composition"] = made, whole
    made, whole = made + EPSILON, whole + EPSILON
    middle = jnp.log((made + whole) / 2)
    each = made * (jnp.log(made) - middle) + whole * (jnp.log(whole) - middle)
    # The classes that are padding hold the same tiny number on both sides: their terms are zero.
    return 0.5 * each.sum(axis=1).mean()


EPSILON = 1e-10


def _distribution(costs: jax.Array, mask: jax.Array, groups: jax.Array) -> jax.Array:
    """costs [B, T, h, w], mask [T], groups [T, O + 1] -> shares of the groups, [B, O + 1, h, w]."""
    barred = jnp.where(mask[:, None, None], costs.astype(jnp.float32), NEVER)
    shares = (jax.nn.softmax(barred, axis=1) + EPSILON) * mask[:, None, None]
    return jnp.einsum("bthw,to->bohw", shares, groups)
