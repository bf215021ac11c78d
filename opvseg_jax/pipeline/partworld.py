"""PartWorld: a small procedural world of objects built of parts, with labels and captions.

Every image follows from (seed, split, index) alone: nothing is stored, any image can be had at any
time in any process. `data/README.md` shows it and lists what it holds.
"""

import dataclasses
from random import Random
from typing import NamedTuple

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.partworld_captions import (
    Caption,
    Facts,
    Seen,
    caption_words,
    captions_of,
    facts_of,
    true_of,
)
from opvseg_jax.pipeline.partworld_scene import Drawing, draw
from opvseg_jax.pipeline.partworld_words import (
    ATTRIBUTES,
    KINDS,
    NOVEL_LOOKS,
    PARTS,
    PARTWORLD,
    SPLITS,
)
from opvseg_jax.vocabulary import Vocabulary

__all__ = [
    "ATTRIBUTES",
    "KINDS",
    "NOVEL_LOOKS",
    "PARTS",
    "PARTWORLD",
    "SPLITS",
    "Caption",
    "Facts",
    "Instance",
    "PartWorld",
    "Rendered",
    "Scene",
    "caption_words",
    "render_many",
    "true_of",
    "vocabulary",
]

IS_SEEN = np.array([PARTWORLD[kind].is_seen for kind in KINDS])


class Instance(NamedTuple):
    """One labelled object of a scene."""

    kind: int  # index into KINDS
    attributes: tuple[str, str]  # colour, pattern
    box: tuple[int, int, int, int]  # of its visible pixels: x0, y0, x1, y1, the last two exclusive
    area: int  # visible pixels
    index: int  # its value in the instance map


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image with its labels; -1 is background in every map.

    In `pretrain` nothing is labelled; in `train` only seen kinds are, and only they are spoken of.
    """

    image: np.ndarray  # [S, S, 3] uint8
    object_map: np.ndarray  # [S, S] int16, index into KINDS
    part_map: np.ndarray  # [S, S] int16, index into PARTS
    instance_map: np.ndarray  # [S, S] int16
    objects: tuple[Instance, ...]
    background: str
    captions: tuple[Caption, ...]
    facts: Facts


class Rendered(NamedTuple):
    """Many images at once; the maps are None where they were not asked for."""

    images: np.ndarray  # [B, S, S, 3] uint8
    captions: list[tuple[Caption, ...]]
    facts: list[Facts]
    object_maps: np.ndarray | None  # [B, S, S] int16
    part_maps: np.ndarray | None  # [B, S, S] int16


class PartWorld:
    """The images of one split, by index."""

    def __init__(self, split: str, size: int = 128, seed: int = 0, num_images: int | None = None):
        if split not in SPLITS:
            raise UserError(f"PartWorld has the splits {', '.join(SPLITS)}, not {split!r}")
        if not 32 <= size <= 512:
            raise UserError(f"PartWorld draws images of 32 to 512 pixels, not {size}")
        self.split, self.size, self.seed = split, size, seed
        self.num_images = SPLITS[split] if num_images is None else num_images

    def __repr__(self) -> str:
        return f"PartWorld({self.split!r}, size={self.size}, seed={self.seed}, n={len(self)})"

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Scene:
        index = range(len(self))[index]  # negative and out of range as in a list
        return render(self.split, index, self.size, self.seed)


def render(split: str, index: int, size: int = 128, seed: int = 0) -> Scene:
    """Draws one image and hides what its split keeps hidden."""
    rng = Random(f"partworld/{seed}/{split}/{index}")
    drawing = draw(split, size, rng)
    if split == "train":
        drawing = hide_unseen(drawing)
    instances = find_instances(drawing)
    visible, numbers = [], []
    for instance in instances:
        if is_visible(instance, drawing):
            visible.append(describe_visible(instance, drawing))
            numbers.append(instance.index)
    is_open = not visible or (drawing.instances < 0).mean() > 0.08
    backdrop = drawing.background if is_open else None
    focus = drawing.focus
    if focus:
        focus = (numbers.index(focus[0]), focus[1]) if focus[0] in numbers else None
    facts = facts_of(visible, backdrop)
    captions = tuple(captions_of(visible, backdrop, focus, rng))
    maps = (drawing.objects, drawing.parts, drawing.instances)
    if split == "pretrain":  # Captions alone: nobody can train on these pixels by mistake.
        maps, instances = tuple(np.full_like(m, -1) for m in maps), []
    return Scene(drawing.image, *maps, tuple(instances), drawing.background, captions, facts)


def hide_unseen(drawing: Drawing) -> Drawing:
    """Turns unseen kinds into background, as a training set that never names them would."""
    is_hidden = ~IS_SEEN[drawing.objects] & (drawing.objects >= 0)
    maps = (drawing.objects, drawing.parts, drawing.instances)
    objects, parts, instances = (np.where(is_hidden, np.int16(-1), m) for m in maps)
    return drawing._replace(objects=objects, parts=parts, instances=instances)


def find_instances(drawing: Drawing) -> list[Instance]:
    """The labelled objects that have visible pixels, the nearest last."""
    out = []
    for i, thing in enumerate(drawing.things):
        mask = drawing.instances == i
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if columns.size:
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            kind, *attributes = thing.look
            area = int(np.count_nonzero(mask))
            out.append(Instance(KINDS.index(kind), tuple(attributes), box, area, i))
    return out


def is_visible(instance: Instance, drawing: Drawing) -> bool:
    """Whether a person would name the object: not a sliver of it, nor a speck."""
    x0, y0, x1, y1 = drawing.corners[instance.index]
    image_area = drawing.instances.size
    if instance.area > 0.1 * image_area:
        return True
    return instance.area > max(0.008 * image_area, 0.12 * (x1 - x0) * (y1 - y0))


def describe_visible(instance: Instance, drawing: Drawing) -> Seen:
    """The look of an object and those of its parts that are large enough to see."""
    counts = np.bincount(drawing.parts[drawing.instances == instance.index], minlength=len(PARTS))
    order = np.argsort(-counts, kind="stable")
    least = max(8, 0.0012 * drawing.instances.size)
    parts = tuple(PARTS[i][1] for i in order.tolist() if counts[i] >= least)
    return Seen(KINDS[instance.kind], *instance.attributes, parts)


def render_many(
    split: str, start: int, count: int, size: int = 128, *, seed: int = 0, maps: bool = False
) -> Rendered:
    """Draws images start ... start + count - 1 of a split; a plain function for process pools."""
    images = np.empty((count, size, size, 3), np.uint8)
    object_maps = np.empty((count, size, size), np.int16) if maps else None
    part_maps = np.empty((count, size, size), np.int16) if maps else None
    captions, facts = [], []
    for i in range(count):
        scene = render(split, start + i, size, seed)
        images[i] = scene.image
        captions.append(scene.captions)
        facts.append(scene.facts)
        if maps:
            object_maps[i], part_maps[i] = scene.object_map, scene.part_map
    return Rendered(images, captions, facts, object_maps, part_maps)


def vocabulary() -> Vocabulary:
    """PartWorld's words, in the order of the label maps, with what is seen and what is not."""
    words = Vocabulary.of({kind: list(entry.parts) for kind, entry in PARTWORLD.items()})
    seen_parts = tuple(PARTWORLD[kind].is_seen for kind, _ in PARTS)
    return dataclasses.replace(
        words, seen_objects=tuple(IS_SEEN.tolist()), seen_parts=seen_parts, name="partworld"
    )
