"""Regions: the largest objects are cropped in one gather and pasted back in one gather.

Shapes: B images, S object slots, O objects, H W the canvas, h w one crop, C channels.
A box is (top, left, bottom, right) in pixels of the canvas, as edges: the whole is (0, 0, H, W).
A slot without an object has `present` false; its box is the whole canvas, so that it is never NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from opvseg_jax.core.shapes import dims


class Regions(NamedTuple):
    """The S largest objects of each image."""

    objects: jax.Array  # [B, S] index of the object
    present: jax.Array  # [B, S] bool
    boxes: jax.Array  # [B, S, 4] float
    slots: jax.Array  # [B, H, W] the slot that owns a pixel, S where none does


def largest_regions(
    labels: jax.Array, num_objects: int, num_slots: int, *, min_area: float = 0.0
) -> Regions:
    """The S objects with the most pixels in `labels` [B, H, W] (-1 or >= num_objects: nothing).

    `min_area` is a share of the image; smaller objects get no slot. With fewer objects than slots
    the rest of the slots stay empty; objects beyond S stay objects but get no parts.
    """
    b, height, width = dims(labels, "B H W")
    valid = (labels >= 0) & (labels < num_objects)
    flat = jnp.where(valid, labels, num_objects).reshape(b, -1)
    areas = jax.vmap(lambda x: jnp.bincount(x, length=num_objects + 1))(flat)[:, :num_objects]
    count = min(num_slots, num_objects)
    top, objects = jax.lax.top_k(areas, count)  # [B, count]
    missing = ((0, 0), (0, num_slots - count))
    top, objects = jnp.pad(top, missing), jnp.pad(objects, missing)
    present = top > min_area * height * width
    owned = (labels[:, None] == objects[:, :, None, None]) & present[:, :, None, None]
    owned &= valid[:, None]
    slots = jnp.where(owned.any(axis=1), jnp.argmax(owned, axis=1), num_slots)
    return Regions(objects, present, bounding_boxes(owned), slots)


def count_dropped(labels: jax.Array, num_objects: int, regions: Regions) -> jax.Array:
    """How many objects of `labels` [B, H, W] found no slot, for want of slots or of area: [B]."""
    found = jax.vmap(lambda x: jnp.bincount(x.ravel(), length=num_objects + 1))
    valid = (labels >= 0) & (labels < num_objects)
    areas = found(jnp.where(valid, labels, num_objects))[:, :num_objects]
    return (areas > 0).sum(axis=1) - regions.present.sum(axis=1)


def bounding_boxes(masks: jax.Array) -> jax.Array:
    """masks [B, S, H, W] bool -> boxes [B, S, 4]; the whole canvas for an empty mask."""
    _, _, height, width = dims(masks, "B S H W")
    rows, columns = masks.any(axis=3), masks.any(axis=2)

    def ends(line: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        found = line.any(axis=-1)
        first = jnp.where(found, jnp.argmax(line, axis=-1), 0)
        last = jnp.where(found, length - jnp.argmax(line[..., ::-1], axis=-1), length)
        return first, last

    (top, bottom), (left, right) = ends(rows, height), ends(columns, width)
    return jnp.stack([top, left, bottom, right], axis=-1).astype(jnp.float32)


def square_boxes(boxes: jax.Array, *, margin: float, min_side: float) -> jax.Array:
    """Grows boxes [..., 4] to squares around the same centre, `margin` of the side on each side.

    The square may reach over the edge of the image; `crop` repeats the border pixels there.
    """
    top, left, bottom, right = jnp.moveaxis(boxes, -1, 0)
    side = jnp.maximum(jnp.maximum(bottom - top, right - left) * (1 + 2 * margin), min_side)
    y, x = (top + bottom) / 2, (left + right) / 2
    return jnp.stack([y - side / 2, x - side / 2, y + side / 2, x + side / 2], axis=-1)


def crop(images: jax.Array, boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """images [B, H, W, C], boxes [B, S, 4] -> [B, S, h, w, C], bilinear, without antialiasing."""
    dims(images, "B H W C")
    dims(boxes, "B S 4", B=images.shape[0])
    h, w = size
    top, left, bottom, right = jnp.moveaxis(boxes, -1, 0)  # each [B, S]
    rows = top[..., None] + (jnp.arange(h) + 0.5) / h * (bottom - top)[..., None] - 0.5
    columns = left[..., None] + (jnp.arange(w) + 0.5) / w * (right - left)[..., None] - 0.5

    def one(image, rows, columns):  # [H, W, C], [S, h], [S, w]
        return _bilinear(image, rows[:, :, None], columns[:, None, :])

    return jax.vmap(one)(images, rows, columns)


def crop_objects(images: jax.Array, regions: Regions, size: tuple[int, int]) -> jax.Array:
    """The objects cut out along their outlines: images [B, H, W, C] -> [B, S, h, w, C].

    Everything else in a box is 0. Unlike `crop`, this reads nothing beyond the box: its border is
    repeated. Bilinear, without antialiasing; a slot without an object is all 0.
    """
    b, height, width, _ = dims(images, "B H W C")
    _, s = dims(regions.present, "B S", B=b)
    dims(regions.slots, "B H W", B=b, H=height, W=width)

    def one(image, slots, slot, box):  # [H, W, C], [H, W], [], [4]
        y0, y1, dy = _taps(box[0], box[2], size[0])
        x0, x1, dx = _taps(box[1], box[3], size[1])

        def at(y, x):
            own = slots[y[:, None], x] == slot
            return jnp.where(own[..., None], image[y[:, None], x], 0).astype(jnp.float32)

        dy, dx = dy[:, None, None], dx[:, None]
        upper = at(y0, x0) * (1 - dx) + at(y0, x1) * dx
        lower = at(y1, x0) * (1 - dx) + at(y1, x1) * dx
        return upper * (1 - dy) + lower * dy

    each_slot = jax.vmap(one, in_axes=(None, None, 0, 0))
    return jax.vmap(each_slot, in_axes=(0, 0, None, 0))(
        images, regions.slots, jnp.arange(s), regions.boxes
    )


def _taps(start: jax.Array, end: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pixels to read, and the weight of the second, to resize [start, end) to `count` pixels."""
    length = end - start
    position = jnp.maximum((jnp.arange(count) + 0.5) * (length / count) - 0.5, 0)
    first = jnp.minimum(jnp.floor(position), length - 1)
    second = jnp.minimum(first + 1, length - 1)
    place = (start + first).astype(jnp.int32), (start + second).astype(jnp.int32)
    return *place, position - first


def paste(crops: jax.Array, regions: Regions, boxes: jax.Array) -> jax.Array:
    """Brings values of crops [B, S, h, w, C] back to the canvas -> [B, H, W, C].

    `boxes` are the boxes that the crops were taken from, in pixels of the canvas. Every pixel
    reads the crop of the slot that owns it; pixels without an owner are 0.
    """
    b, s, h, w, _ = dims(crops, "B S h w C")
    dims(boxes, "B S 4", B=b, S=s)
    _, height, width = dims(regions.slots, "B H W", B=b)
    y, x = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5

    def one(crops, boxes, slots):
        owned = slots < s
        slot = jnp.where(owned, slots, 0)
        top, left, bottom, right = jnp.moveaxis(boxes[slot], -1, 0)  # each [H, W]
        rows = (y[:, None] - top) / (bottom - top) * h - 0.5
        columns = (x[None, :] - left) / (right - left) * w - 0.5
        return jnp.where(owned[..., None], _bilinear(crops, rows, columns, slot), 0)

    return jax.vmap(one)(crops, boxes, regions.slots)


def _bilinear(x: jax.Array, rows: jax.Array, columns: jax.Array, first=None) -> jax.Array:
    """Samples x [H, W, C] (or x [S, H, W, C] at slot `first`) at points, repeating the border."""
    height, width = x.shape[-3:-1]
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    y0, x0 = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    y1, x1 = jnp.minimum(y0 + 1, height - 1), jnp.minimum(x0 + 1, width - 1)
    dy, dx = (rows - y0)[..., None], (columns - x0)[..., None]

    def at(y, x_):
        return x[y, x_] if first is None else x[first, y, x_]

    upper = at(y0, x0) * (1 - dx) + at(y0, x1) * dx
    lower = at(y1, x0) * (1 - dx) + at(y1, x1) * dx
    return upper * (1 - dy) + lower * dy
