"""What happens to a sample between its file and the batch, on the host.

A transform is called with a sample and a NumPy generator and returns a sample; its random numbers
come from that generator alone. `recipes.py` puts transforms together as the papers do.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from opvseg_jax.pipeline import pixels
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE, LABEL, Sample, UnwantedSampleError
from opvseg_jax.vocabulary import Vocabulary

Transform = Callable[[Sample, np.random.Generator], Sample]

GREY = 128  # what the papers pad images with, before normalisation


def compose(transforms: Sequence[Transform]) -> Transform:
    """One after the other."""
    transforms = tuple(transforms)

    def apply(sample: Sample, rng: np.random.Generator) -> Sample:
        for transform in transforms:
            sample = transform(sample, rng)
        return sample

    return apply


def shortest_edge(size: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """The size (h, w) with this shorter side, or the longer side at its limit; halves round up."""
    scale = shorter / min(size)
    if max(size) * scale > longest:
        scale *= longest / (max(size) * scale)
    return tuple(max(1, int(side * scale + 0.5)) for side in size)


@dataclasses.dataclass(frozen=True)
class Resize:
    """Brings the shorter side to one of `shorter`, the longer to `longest` at most; then crops.

    `crop` is the side of a square at a random place (clipped to the image); only that part is
    ever computed. A `category_area` below 1 tries ten places for one in which no class covers a
    larger share of the labelled pixels. A `balanced` share of the crops instead holds a random
    pixel of a random class of the image, so that rare and small things are seen more often.
    """

    shorter: int | tuple[int, ...]
    longest: int
    crop: int | None = None
    category_area: float = 1.0
    balanced: float = 0.0
    has_labels: bool = True  # False: label maps keep their own size (evaluation)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        choices = np.atleast_1d(self.shorter)
        shorter = int(choices[rng.integers(len(choices))]) if len(choices) > 1 else int(choices[0])
        size = shortest_edge(sample.image.shape[:2], shorter, self.longest)
        window = None if self.crop is None else self._window(sample, size, rng)
        return resized(sample, size, window, has_labels=self.has_labels)

    def _window(self, sample: Sample, size: tuple[int, int], rng: np.random.Generator):
        extent = min(self.crop, size[0]), min(self.crop, size[1])
        if self.balanced and rng.random() < self.balanced:
            place = _pixel_of_some_class(sample, size, rng)
            if place is not None:
                return (*_around(place, extent, size, rng), *extent)
        for _ in range(10 if self.category_area < 1 else 1):
            corner = tuple(int(rng.integers(s - e + 1)) for s, e in zip(size, extent, strict=True))
            window = (*corner, *extent)
            if self.category_area >= 1:
                break
            labels = pixels.resize_labels(_classes(sample), size, window)
            counts = np.bincount(labels[labels >= 0])
            counts = counts[counts > 0]
            if len(counts) > 1 and counts.max() < self.category_area * counts.sum():
                break
        return window


def resized(
    sample: Sample,
    size: tuple[int, int],
    window: tuple[int, int, int, int] | None = None,
    *,
    has_labels: bool = True,
) -> Sample:
    """The sample at another size; of it, only the window (top, left, height, width)."""
    if sample.valid is not None:
        raise ValueError("a padded sample cannot be resized: pad last")
    image = pixels.resize_image(sample.image, size, window)
    sample = dataclasses.replace(sample, image=image)
    if not has_labels:
        return sample
    return sample.map_labels(lambda labels: pixels.resize_labels(labels, size, window))


@dataclasses.dataclass(frozen=True)
class ResizeTo:
    """Brings the image to exactly this (height, width), whatever its aspect."""

    size: tuple[int, int]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return resized(sample, self.size)


@dataclasses.dataclass(frozen=True)
class LabelRoundTrip:
    """Label maps through the size of the test image and back, for comparison with the papers.

    The part models score against such maps: nearest by `pixels.nearest_index`, twice. Practically
    every pixel moves by one down and right, so that even a perfect prediction falls below 100.
    """

    shorter: int = 640
    longest: int = 768

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        own = sample.object_map.shape
        size = shortest_edge(own, self.shorter, self.longest)
        return sample.map_labels(
            lambda labels: pixels.resize_labels(pixels.resize_labels(labels, size), own)
        )


@dataclasses.dataclass(frozen=True)
class LargeScaleJitter:
    """Fits the image into a square of `size` times a random scale, then crops to `size`.

    One random number places the crop along both axes, as in detectron2.
    """

    size: int = 1024
    scale: tuple[float, float] = (0.1, 2.0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = self.size * rng.uniform(*self.scale) / max(sample.image.shape[:2])
        size = tuple(max(1, int(np.rint(side * factor))) for side in sample.image.shape[:2])
        place = rng.random()
        corner = tuple(int(np.rint(place * max(side - self.size, 0))) for side in size)
        extent = tuple(min(side, self.size) for side in size)
        return resized(sample, size, (*corner, *extent))


@dataclasses.dataclass(frozen=True)
class Flip:
    """Left becomes right with probability `share`."""

    share: float = 0.5

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.share:
            return sample
        valid = None if sample.valid is None else sample.valid[:, ::-1]
        flipped = dataclasses.replace(sample, image=pixels.flip(sample.image), valid=valid)
        return flipped.map_labels(pixels.flip)


@dataclasses.dataclass(frozen=True)
class ColorSSD:
    """The colour jitter of SSD: brightness, contrast, saturation, hue, each with probability 1/2.

    Contrast comes right after brightness or, as often, at the end. Every step clips to 0..255 and
    drops the fraction, as the papers' code does; saturation and hue are OpenCV's 8-bit HSV.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18  # of 180

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        table = _SAME
        if rng.random() < 0.5:
            table = _affine(1.0, rng.uniform(-self.brightness, self.brightness))
        is_contrast_first = rng.random() < 0.5
        if is_contrast_first:
            table = self._contrast(rng)[table]
        image = _through(table, sample.image)
        if rng.random() < 0.5:
            image = pixels.change_in_hsv(image, 1, _affine(rng.uniform(*self.saturation)))
        if rng.random() < 0.5:
            shift = int(rng.integers(-self.hue, self.hue + 1))
            turned = (np.arange(256) + shift) % 180
            image = pixels.change_in_hsv(image, 0, turned.astype(np.uint8))
        if not is_contrast_first:
            image = _through(self._contrast(rng), image)
        return dataclasses.replace(sample, image=image)

    def _contrast(self, rng: np.random.Generator) -> np.ndarray:
        return _affine(rng.uniform(*self.contrast)) if rng.random() < 0.5 else _SAME


@dataclasses.dataclass(frozen=True)
class Pad:
    """Fills up to `size` (a side, or height and width) at the right and bottom.

    What is larger is cut to its top left: the papers' padding may be negative.
    """

    size: int | tuple[int, int]
    fill: int = GREY

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        size = (height, width)
        if sample.image.shape[:2] == size:
            return dataclasses.replace(sample, valid=sample.is_valid())
        fills = {"instance_map": BACKGROUND}
        maps = {
            name: padded(labels, size, fills.get(name, IGNORE))
            for name, labels in sample.label_maps().items()
        }
        valid = padded(sample.is_valid(), size, False)
        image = padded(sample.image, size, self.fill)
        return dataclasses.replace(sample, image=image, valid=valid, **maps)


def padded(array: np.ndarray, size: tuple[int, int], fill) -> np.ndarray:
    """array [H, W, ...] -> [*size, ...], cut or filled at the right and bottom."""
    out = np.full((*size, *array.shape[2:]), fill, array.dtype)
    height, width = np.minimum(size, array.shape[:2])
    out[:height, :width] = array[:height, :width]
    return out


class SeenOnly:
    """Unseen classes become background, seen ones get their ids in `vocabulary.seen_only()`.

    `unseen` says what pixels of unseen classes become: the part models train them as background,
    DeOP leaves them out (`IGNORE`).
    """

    def __init__(self, vocabulary: Vocabulary, unseen: int = BACKGROUND):
        if vocabulary.seen_objects is None:
            raise ValueError(f"{vocabulary!r} has no seen/unseen split")
        objects = np.array(vocabulary.seen_objects)
        parts = objects[vocabulary.part_to_object] if vocabulary.parts else np.zeros(0, bool)
        if vocabulary.seen_parts is not None:
            parts &= np.array(vocabulary.seen_parts)
        self.tables = {
            "object_map": _renumbered(objects, unseen),
            "part_map": _renumbered(parts, unseen),
        }

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        maps = {name: table[getattr(sample, name)] for name, table in self.tables.items()}
        if sample.instance_map is not None:
            is_unseen = (sample.object_map >= 0) & (maps["object_map"] < 0)
            maps["instance_map"] = np.where(is_unseen, LABEL(BACKGROUND), sample.instance_map)
        return dataclasses.replace(sample, **maps)


@dataclasses.dataclass(frozen=True)
class Require:
    """Refuses samples without any labelled pixel in `map_name`; another one takes their place."""

    map_name: str = "part_map"

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if not (getattr(sample, self.map_name) >= 0).any():
            raise UnwantedSampleError(f"{sample.key}: nothing in its {self.map_name}")
        return sample


@dataclasses.dataclass(frozen=True)
class ClassCrop:
    """One class of the image, tightly boxed, then a random part of the box at a fixed size.

    DeOP learns its text prompts on these. After it, the object map holds that class alone;
    an area of `scale` of the box and an aspect (width / height) of `ratio` are tried ten times.
    """

    size: tuple[int, int] = (224, 224)
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        classes = np.unique(sample.object_map[sample.object_map >= 0])
        if not classes.size:
            raise UnwantedSampleError(f"{sample.key}: no object in it")
        label = classes[rng.integers(len(classes))]
        top, left, height, width = self._box(sample.object_map == label)
        y, x, h, w = self._part((height, width), rng)
        rows, columns = slice(top + y, top + y + h), slice(left + x, left + x + w)
        part = sample.map_labels(lambda labels: labels[rows, columns])
        part = dataclasses.replace(part, image=np.ascontiguousarray(sample.image[rows, columns]))
        part = resized(part, self.size)
        if not (part.object_map == label).any():
            raise UnwantedSampleError(f"{sample.key}: the crop lost its class")
        is_other = part.object_map != label
        return part.map_labels(lambda labels: np.where(is_other, LABEL(BACKGROUND), labels))

    def _box(self, mask: np.ndarray) -> tuple[int, int, int, int]:
        """Tight, but the reference leaves out the image's last row and column."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        bottom, right = np.minimum((rows[-1] + 1, columns[-1] + 1), np.array(mask.shape) - 1)
        return top, left, max(1, int(bottom) - top), max(1, int(right) - left)

    def _part(self, size: tuple[int, int], rng: np.random.Generator):
        height, width = size
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*map(math.log, self.ratio)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                return y, x, h, w
        w, h = width, height  # the largest central part of an allowed aspect
        if width / height < self.ratio[0]:
            h = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            w = max(1, round(height * self.ratio[1]))
        return (height - h) // 2, (width - w) // 2, h, w


_SAME = np.arange(256, dtype=np.uint8)


def _affine(factor: float, offset: float = 0.0) -> np.ndarray:
    """uint8 [256]: value * factor + offset in float32, clipped, its fraction dropped."""
    values = np.float32(factor) * np.arange(256, dtype=np.float32) + np.float32(offset)
    return np.clip(values, 0, 255).astype(np.uint8)


def _through(table: np.ndarray, image: np.ndarray) -> np.ndarray:
    return image if table is _SAME or (table == _SAME).all() else pixels.look_up(image, table)


def _renumbered(keep: np.ndarray, others: int) -> np.ndarray:
    """int16 [classes + 2]: the new id of each old one; -1 and -2 index from the end."""
    table = np.where(keep, np.cumsum(keep) - 1, others)
    return np.append(table, [IGNORE, BACKGROUND]).astype(LABEL)


def _classes(sample: Sample) -> np.ndarray:
    """The finer of the two label maps that says anything."""
    has_parts = (sample.part_map >= 0).any()
    return sample.part_map if has_parts else sample.object_map


def _pixel_of_some_class(sample: Sample, size: tuple[int, int], rng: np.random.Generator):
    """(y, x) in the resized image, of a class drawn uniformly from those present; or None."""
    labels = _classes(sample)
    present = np.flatnonzero(np.bincount(labels[labels >= 0]))
    if not present.size:
        return None
    ys, xs = np.nonzero(labels == present[rng.integers(len(present))])
    i = rng.integers(len(ys))
    place = zip((ys[i], xs[i]), size, labels.shape, strict=True)
    return tuple(min(int((p + 0.5) * s / n), s - 1) for p, s, n in place)


def _around(place, extent, size, rng: np.random.Generator) -> tuple[int, int]:
    """The corner of a random window that holds `place`."""
    low = [max(0, p - e + 1) for p, e in zip(place, extent, strict=True)]
    high = [min(p, s - e) for p, e, s in zip(place, extent, size, strict=True)]
    return tuple(int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
