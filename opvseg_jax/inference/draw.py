"""The overlay: objects outlined, their parts filled, the rest dimmed, the names at the side."""

import math

import numpy as np
from PIL import Image, ImageFilter

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference import legend, palette
from opvseg_jax.vocabulary import Vocabulary

MIN_SIDE, MAX_SIDE = 480, 2048  # pixels of the drawn picture, legend not counted
THINNEST = 16  # pixels: the least that a side of 1 is drawn as
OBJECT_ALPHA, PART_ALPHA, BORDER_ALPHA = 0.38, 0.62, 0.9
DIMMED = 0.55  # how far the background goes towards its own dark grey


def overlay(
    image: np.ndarray,
    object_map: np.ndarray,
    part_map: np.ndarray,
    vocabulary: Vocabulary,
    *,
    has_legend: bool = True,
    min_side: int = MIN_SIDE,
    max_side: int = MAX_SIDE,
) -> Image.Image:
    """image uint8 [H, W, 3], maps int [H, W] with -1 = nothing -> the picture to look at.

    Small photos are enlarged until their shorter side has `min_side` pixels, large ones reduced
    until the longer has `max_side`.
    """
    if not 1 <= min_side <= max_side:
        raise UserError(f"expected 1 <= min_side <= max_side, got {min_side} and {max_side}")
    found = legend.groups(object_map, part_map, vocabulary)
    size = shown_size(image.shape[:2], min_side, max_side)
    photo = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=3)
    width = line_width(size)
    radius = max(1.0, 0.6 * width)
    objects, _ = smooth_labels(object_map, size, radius)
    parts, distance = smooth_labels(part_map, size, radius)
    picture = _fill(np.asarray(photo, np.float32), objects, parts, found)
    _blend(picture, np.clip(0.25 * width + 0.5 - distance, 0, 1), (255, 255, 255), BORDER_ALPHA)
    for group in found:
        _outline(picture, objects == group.index, group.colour, width)
    drawn = Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))
    return _beside(drawn, found) if has_legend else drawn


def shown_size(size: tuple[int, int], min_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) as drawn: enlarged to `min_side`, but never beyond `max_side`."""
    scale = min(max(1.0, min_side / min(size)), max_side / max(size))
    thinnest = min(THINNEST, max_side)
    return tuple(max(thinnest, round(side * scale)) for side in size)


def line_width(size: tuple[int, int]) -> float:
    """The width of an outline in pixels, for a picture of (height, width)."""
    return max(1.5, math.sqrt(size[0] * size[1]) / 220)


def smooth_labels(labels: np.ndarray, size: tuple[int, int], radius: float):
    """labels int [H, W] -> labels [h, w], and how many pixels each is away from another label.

    Every label's mask is blurred and the strongest wins, so that enlarged borders are curves, not
    steps; the lead of the winner measures the distance from the border.
    """
    radius = max(radius, 0.6 * size[0] / labels.shape[0])
    labels = _nearest(labels, size)
    best, second = np.zeros(size, np.int16), np.zeros(size, np.int16)
    result = np.full(size, -1, labels.dtype)
    for label in np.unique(labels):
        mask = labels == label
        cut = _around(mask, math.ceil(3 * radius))
        votes = (255 * _blurred(mask[cut], radius)).astype(np.int16)
        wins = votes > best[cut]
        second[cut] = np.where(wins, best[cut], np.maximum(second[cut], votes))
        best[cut] = np.where(wins, votes, best[cut])
        result[cut][wins] = label
    lead = (best - second).astype(np.float32) / 255
    return result, lead * radius / 0.8  # the slope of a blurred edge at its middle


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rectangle around a mask that is not empty, a margin wider on all sides."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return np.s_[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1]


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def _fill(photo: np.ndarray, objects: np.ndarray, parts: np.ndarray, found) -> np.ndarray:
    """photo [h, w, 3] float -> the same with the background dimmed, objects and parts tinted."""
    colour, share = _tints(objects, {g.index: g.colour for g in found}, OBJECT_ALPHA)
    shades = {part.index: part.colour for group in found for part in group.parts}
    shade, part_share = _tints(parts, shades, PART_ALPHA)
    colour = np.where(part_share[..., None] > 0, shade, colour)
    share = np.where(part_share > 0, part_share, share)
    if found:
        is_empty = share == 0
        grey = photo[is_empty] @ np.float32([0.299, 0.587, 0.114])
        dark = 0.5 * grey[:, None] + 12
        photo = photo.copy()
        photo[is_empty] += DIMMED * (dark - photo[is_empty])
    return photo + share[..., None] * (colour - photo)


def _tints(labels: np.ndarray, colours: dict[int, palette.Colour], alpha: float):
    """labels [h, w] -> colours [h, w, 3] and shares [h, w]; what has no colour has share 0."""
    table = np.zeros((max([int(labels.max()), *colours], default=-1) + 2, 4), np.float32)
    for label, colour in colours.items():
        table[label] = (*colour, alpha)
    tints = table[labels]  # -1 reads the last row, which is empty
    return tints[..., :3], tints[..., 3]


def _outline(picture: np.ndarray, mask: np.ndarray, colour: palette.Colour, width: float) -> None:
    """Draws, in place, a line of the colour inside the mask's border and a pale one outside.

    A blurred mask measures the distance from a border: at `width` inside it, blurring by `width`
    leaves 0.84.
    """
    if not mask.any():
        return
    cut = _around(mask, math.ceil(3 * width))
    depth = (_blurred(mask[cut], width) - 0.5) * width / 0.36  # pixels inside, roughly
    inside, outside = np.clip(depth + 0.5, 0, 1), np.clip(0.5 - depth, 0, 1)
    line = inside * np.clip(width - depth + 0.5, 0, 1)
    halo = outside * np.clip(depth + 0.35 * width + 0.5, 0, 1)
    _blend(picture[cut], halo, (255, 255, 255), 0.9)
    _blend(picture[cut], line, colour, 1.0)


def _blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _blend(picture: np.ndarray, coverage: np.ndarray, colour, alpha: float) -> None:
    """In place: `colour` over `picture` [h, w, 3] where `coverage` [h, w] says."""
    share = (alpha * coverage)[..., None]
    picture += share * (np.asarray(colour, np.float32) - picture)


def _beside(drawn: Image.Image, found: list[legend.Group]) -> Image.Image:
    """The picture, and its legend at the right."""
    side = legend.panel(found, max(drawn.height, 200), max(260, round(0.6 * drawn.width)))
    sheet = Image.new("RGB", (drawn.width + side.width, side.height), legend.PAPER)
    sheet.paste(drawn, (0, (side.height - drawn.height) // 2))
    sheet.paste(side, (drawn.width, 0))
    return sheet
