"""One image with its labels, and the two ways in which a sample can be unusable.

Labels are class ids of a vocabulary or one of two negative values. `BACKGROUND` is a statement:
the pixel belongs to no class. `IGNORE` says that nobody knows. Methods that treat both alike (the
part models train ignored pixels as background) do so in `targets.py`, not here.
"""

import dataclasses
from typing import Protocol

import numpy as np

from opvseg_jax.vocabulary import Vocabulary

BACKGROUND = -1
IGNORE = -2
LABEL = np.int16  # in samples; batches hold int32


class BrokenSampleError(Exception):
    """A file cannot be used: it is skipped, counted and named in the log."""

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)  # both, so that the exception survives pickling
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class UnwantedSampleError(Exception):
    """A sound sample that the method cannot learn from, such as a crop without any part."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """image uint8 [H, W, 3]; maps int16 [h, w], the image's size unless it alone was resized.

    `instance_map` counts the objects of the image from 0, -1 is none of them. `valid` [H, W] is
    false where the image was padded; None means that all of it is real.
    """

    image: np.ndarray
    object_map: np.ndarray
    part_map: np.ndarray
    key: str
    instance_map: np.ndarray | None = None
    valid: np.ndarray | None = None

    def map_labels(self, change) -> "Sample":
        """The sample with `change` applied to each of its label maps."""
        maps = {name: change(label_map) for name, label_map in self.label_maps().items()}
        return dataclasses.replace(self, **maps)

    def label_maps(self) -> dict[str, np.ndarray]:
        names = ("object_map", "part_map", "instance_map")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def is_valid(self) -> np.ndarray:
        """bool [H, W]."""
        return np.ones(self.image.shape[:2], bool) if self.valid is None else self.valid


class Source(Protocol):
    """A sequence of samples whose labels are ids of `vocabulary`."""

    name: str
    vocabulary: Vocabulary

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def label_maps(self, index: int) -> dict[str, np.ndarray]:
        """Those of `self[index]`, at less cost where the image need not be decoded."""
        ...
