"""One judged image. Its pictures are made only if somebody looks; best and worst are kept."""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image

from opvseg_jax.evaluate import placing
from opvseg_jax.inference.result import Segmentation
from opvseg_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageResult:
    """`iou` 0..1 is the mean over the classes in the image; NaN where it has none."""

    key: str
    iou: float
    batch: Mapping[str, Any]
    labels: Mapping[str, jax.Array]  # [B, h, w], on the device
    row: int
    vocabulary: Vocabulary

    def prediction(self) -> Segmentation:
        """What the model answered."""
        size = self._size()
        empty = np.full(size, -1, np.int32)
        maps = {}
        for name in ("objects", "parts"):
            found = self.labels.get(name)
            maps[name] = empty if found is None else placing.on_host(found)[self.row]
        return self._segmentation(maps["objects"], maps["parts"])

    def truth(self) -> Segmentation:
        """What is labelled; ignored pixels are shown as nothing."""
        maps = (np.asarray(self.batch[name][self.row]) for name in ("object_map", "part_map"))
        return self._segmentation(*(np.maximum(labels, -1) for labels in maps))

    def _size(self) -> tuple[int, int]:
        height, width = np.asarray(self.batch["label_size"])[self.row]
        return int(height), int(width)

    def _segmentation(self, objects: np.ndarray, parts: np.ndarray) -> Segmentation:
        height, width = self._size()
        maps = (labels[:height, :width].astype(np.int32) for labels in (objects, parts))
        return Segmentation(self._image(), *maps, self.vocabulary, path=self.key)

    def _image(self) -> np.ndarray:
        image, valid = (np.asarray(self.batch[name])[self.row] for name in ("image", "valid"))
        height, width = (int(valid.any(axis=axis).sum()) for axis in (1, 0))
        picture = Image.fromarray(image[:height, :width].astype(np.uint8))
        return np.asarray(picture.resize(self._size()[::-1], Image.Resampling.BILINEAR))


@dataclasses.dataclass(frozen=True)
class Kept:
    """The drawn pictures of one image."""

    key: str
    iou: float
    truth: Segmentation
    prediction: Segmentation


class BestAndWorst:
    """Keeps the results of the highest and of the lowest IoU: an `on_result`."""

    def __init__(self, count: int = 4):
        self.count = count
        self._best: list[tuple[float, int, Kept]] = []
        self._worst: list[tuple[float, int, Kept]] = []
        self._order = itertools.count()

    def __call__(self, result: ImageResult) -> None:
        if self.count < 1 or math.isnan(result.iou):
            return
        kept = None
        for heap, sign in ((self._best, 1.0), (self._worst, -1.0)):
            value = sign * result.iou
            if len(heap) == self.count and value <= heap[0][0]:
                continue
            kept = kept or Kept(result.key, result.iou, result.truth(), result.prediction())
            entry = (value, -next(self._order), kept)
            heapq.heappush(heap, entry)
            if len(heap) > self.count:
                heapq.heappop(heap)

    @property
    def best(self) -> list[Kept]:
        """The best first."""
        return [kept for _, _, kept in sorted(self._best, key=_rank, reverse=True)]

    @property
    def worst(self) -> list[Kept]:
        """The worst first, without those that are among the best."""
        best = {kept.key for kept in self.best}
        ranked = sorted(self._worst, key=_rank, reverse=True)
        return [kept for _, _, kept in ranked if kept.key not in best]


def _rank(entry: tuple[float, int, Kept]) -> tuple[float, int]:
    return entry[:2]
