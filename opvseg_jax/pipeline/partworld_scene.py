"""Composing and drawing one image of PartWorld: which objects, where, seen from where."""

import math
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from opvseg_jax.pipeline import partworld_paint as paint
from opvseg_jax.pipeline.partworld_shapes import DARK, MAX_PARTS, sketch
from opvseg_jax.pipeline.partworld_words import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    NOVEL_LOOKS,
    PARTS,
    PARTWORLD,
    PATTERNS,
    SEEN,
    UNSEEN,
)

FULL_VIEW = (0.5, 0.5, 1.0)
FIRST_PART = {kind: PARTS.index((kind, PARTWORLD[kind].parts[0])) for kind in KINDS}
# Largest side of an object in a scene of one, two, ... objects, in shares of the image.
SIDES = {1: (0.52, 0.95), 2: (0.44, 0.72), 3: (0.38, 0.6), 4: (0.34, 0.52)}


class Thing(NamedTuple):
    """An object placed in the world, whose visible square is [0, 1] x [0, 1]."""

    look: tuple[str, str, str]  # kind, colour, pattern
    polygons: list[tuple[int, int, int]]  # code, start and end in points; back to front
    points: np.ndarray  # [n, 2]
    turn: float  # radians

    @property
    def corners(self) -> tuple[float, float, float, float]:
        return (*self.points.min(axis=0).tolist(), *self.points.max(axis=0).tolist())


class Drawing(NamedTuple):
    """An image and what lies at every pixel; -1 is background."""

    image: np.ndarray  # [S, S, 3] uint8
    objects: np.ndarray  # [S, S] int16, index into KINDS
    parts: np.ndarray  # [S, S] int16, index into PARTS
    instances: np.ndarray  # [S, S] int16, index into things
    things: list[Thing]  # the nearest last
    corners: list[tuple[float, float, float, float]]  # of every thing, in pixels, may lie outside
    background: str
    focus: tuple[int, str | None] | None  # thing and part that the photo was taken of


def choose_look(kind: str, rng: Random, is_novel: bool = False) -> tuple[str, str, str]:
    """A colour and a pattern for `kind`: exactly one of them held out, or neither."""
    while True:
        pattern = rng.choice(PATTERNS) if rng.random() < 0.6 else "plain"
        look = (kind, rng.choice(COLOURS), pattern)
        held_out = sum((word, kind) in NOVEL_LOOKS for word in look[1:])
        if held_out == int(is_novel):
            return look


def choose_looks(split: str, count: int, rng: Random) -> list[tuple[str, str, str]]:
    """The looks of `count` objects of a scene of `split`, the one it is judged on in any place."""
    pool = SEEN if split == "val_seen" else KINDS
    kinds = [rng.choice(pool) for _ in range(count)]
    if split == "train":  # Unseen kinds stand about as unlabelled background, more rarely.
        kinds = [rng.choice(UNSEEN if rng.random() < 0.12 else SEEN) for _ in range(count)]
    judged = rng.randrange(count)
    if split == "val_unseen":
        kinds[judged] = rng.choice(UNSEEN)
    is_novel = split == "val_novel"
    return [choose_look(k, rng, is_novel and i == judged) for i, k in enumerate(kinds)]


def place(look: tuple[str, str, str], side: float, others: list[Thing], rng: Random) -> Thing:
    """Poses an object of largest side `side` where it hides little of the others."""
    shapes = sketch(look[0], rng)
    points = np.array([xy for _, shape in shapes for xy in shape])
    ends = np.cumsum([len(shape) for _, shape in shapes]).tolist()
    starts = [0, *ends[:-1]]
    polygons = [(code, a, b) for (code, _), a, b in zip(shapes, starts, ends, strict=True)]
    turn = math.radians(rng.triangular(-20, 20))
    flip = rng.choice((-1.0, 1.0))
    wide, high = rng.uniform(0.9, 1.1) * flip, rng.uniform(0.9, 1.1)
    c, s = math.cos(turn), math.sin(turn)
    points = points @ np.array([[wide * c, wide * s], [-high * s, high * c]])
    low, top = points.min(axis=0), points.max(axis=0)
    scale = side / (top - low).max()
    points = (points - (low + top) / 2) * scale
    half = (top - low) * scale / 2
    taken = [other.corners for other in others]
    best, least = None, math.inf
    for _ in range(6 if others else 1):
        x, y = (0.5 + (rng.random() - 0.5) * (1.08 - 2 * min(h, 0.5)) for h in half.tolist())
        corners = (x - half[0], y - half[1], x + half[0], y + half[1])
        cover = max((overlap(corners, other) for other in taken), default=0.0)
        if cover < least:
            best, least = (x, y), cover
        if cover < 0.3:
            break
    return Thing(look, polygons, points + best, turn)


def overlap(a: tuple, b: tuple) -> float:
    """The share of the smaller of two boxes (x0, y0, x1, y1) that the other covers."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return max(wide, 0) * max(high, 0) / min(areas)


def compose(split: str, rng: Random):
    """Things, the view (x, y, side) and the focus of one image."""
    shot = "scene"
    if split == "pretrain":
        shot = rng.choices(("scene", "object", "part", "background"), (35, 32, 29, 4))[0]
    if shot == "background":
        return [], FULL_VIEW, None
    count = rng.choices((1, 2, 3, 4), (24, 36, 25, 15))[0]
    if shot != "scene":
        count = rng.choice((1, 1, 2))
    things = []
    for look in choose_looks(split, count, rng):
        things.append(place(look, rng.uniform(*SIDES[count]), things, rng))
    if shot == "scene":
        return things, FULL_VIEW, None
    part = rng.choice(PARTWORLD[things[-1].look[0]].parts) if shot == "part" else None
    return things, aim(things[-1], part, rng), (count - 1, part)


def aim(thing: Thing, part: str | None, rng: Random) -> tuple[float, float, float]:
    """A view of a whole thing, or closer of one of its parts."""
    x0, y0, x1, y1 = thing.corners
    whole = max(x1 - x0, y1 - y0)
    side = whole * rng.uniform(1.02, 1.5)
    if part is not None:
        code = PARTWORLD[thing.look[0]].parts.index(part)
        _, a, b = rng.choice([p for p in thing.polygons if p[0] == code])
        x0, y0 = thing.points[a:b].min(axis=0).tolist()
        x1, y1 = thing.points[a:b].max(axis=0).tolist()
        side = max(max(x1 - x0, y1 - y0) * rng.uniform(1.25, 2.3), 0.22 * whole)
    shift = 0.12 * side
    x, y = (x0 + x1) / 2 + rng.uniform(-shift, shift), (y0 + y1) / 2 + rng.uniform(-shift, shift)
    return x, y, side


def draw(split: str, size: int, rng: Random) -> Drawing:
    """Composes an image of `split` and draws it at `size` pixels."""
    return draw_view(*compose(split, rng), size, rng)


def draw_view(
    things: list[Thing],
    view: tuple[float, float, float],
    focus: tuple[int, str | None] | None,
    size: int,
    rng: Random,
) -> Drawing:
    """Draws what is in `view` (middle x, y and side) at `size` pixels."""
    backdrop = rng.choice(tuple(BACKGROUNDS))
    canvas, corners = fill_canvas(things, view, 2 * size, rng)
    codes = canvas[::2, ::2] & paint.PART_BITS
    to_slot, to_object, to_part = label_tables(things)
    slots = to_slot[codes]
    tops = [(y0, y1) for _, y0, _, y1 in corners]
    shine = paint.light(slots, tops, rng)
    table = paint.palette([thing.look for thing in things], rng)
    image = paint.colour(canvas, table, paint.background(backdrop, size, rng), shine, rng)
    instances = (slots - 1).astype(np.int16)
    return Drawing(
        image, to_object[codes], to_part[codes], instances, things, corners, backdrop, focus
    )


def fill_canvas(things: list[Thing], view: tuple, size: int, rng: Random):
    """The canvas [size, size] of `partworld_paint`, and the things' corners in image pixels."""
    picture = Image.new("L", (size, size))
    pen = ImageDraw.Draw(picture)
    zoom = size / view[2]
    origin = np.array([view[0] - view[2] / 2, view[1] - view[2] / 2])
    spans = []
    for slot, thing in enumerate(things):
        points = (thing.points - origin) * zoom
        spans.append((*points.min(axis=0).tolist(), *points.max(axis=0).tolist()))
        flat = points.ravel().tolist()
        for code, a, b in thing.polygons:
            ink = 1 + slot * paint.CODES + (code & ~DARK) | code & DARK
            pen.polygon(flat[2 * a : 2 * b], fill=ink, outline=ink | DARK)
    canvas = np.array(picture)
    for slot, (thing, span) in enumerate(zip(things, spans, strict=True)):
        extent = max(span[2] - span[0], span[3] - span[1])
        paint.add_pattern(canvas, slot, thing.look, span, extent, thing.turn, rng)
    return canvas, [tuple(c / 2 for c in span) for span in spans]


def label_tables(things: list[Thing]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code on the canvas -> slot (0 is background), object index, part index."""
    slots = np.zeros(paint.PART_BITS + 1, np.int32)
    objects = np.full(paint.PART_BITS + 1, -1, np.int16)
    parts = objects.copy()
    for slot, thing in enumerate(things):
        kind = thing.look[0]
        first = 1 + slot * paint.CODES
        slots[first : first + paint.CODES] = slot + 1
        objects[first : first + paint.CODES] = KINDS.index(kind)
        for i in range(len(PARTWORLD[kind].parts)):
            parts[[first + i, first + MAX_PARTS + i]] = FIRST_PART[kind] + i
    return slots, objects, parts
