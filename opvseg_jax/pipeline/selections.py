"""Parts of a source: some of its samples, or one record for every object of every image."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.samples import BACKGROUND, LABEL, BrokenSampleError, Sample, Source


class Subset:
    """Some samples of a source, in the order of `indices`."""

    def __init__(self, source: Source, indices: Sequence[int], name: str | None = None):
        self.source, self.indices = source, indices
        self.name = name or f"{source.name} ({len(indices)} of {len(source)})"
        self.vocabulary = source.vocabulary

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.indices[index]]

    def object_map(self, index: int) -> np.ndarray:
        return self.source.object_map(self.indices[index])


class Records:
    """One record for each object class (or instance) of each image, everything else background.

    The part benchmarks are evaluated so: an image with a person and a car is seen twice.
    `wanted` are pairs (index, object class) or, by instance, (index, instance).
    """

    def __init__(self, source: Source, wanted: Sequence[tuple[int, int]], by: str = "object"):
        if by not in ("object", "instance"):
            raise ValueError(f"expected records by object or instance, got {by!r}")
        self.source, self.wanted, self.by = source, wanted, by
        self.name = f"{source.name} by {by}"
        self.vocabulary = source.vocabulary

    @classmethod
    def of(
        cls, source: Source, by: str = "object", *, indices: Iterable[int] | None = None
    ) -> "Records":
        """Every object class or instance that has a part pixel, by looking at every sample.

        The reference code replaces records without parts by random others; they are left out.
        """
        wanted = []
        for i in range(len(source)) if indices is None else indices:
            try:
                sample = source[i]
            except BrokenSampleError:
                continue  # whoever reads the images themselves counts it
            labels = _record_map(sample, by, source.name)
            with_parts = labels[(sample.part_map >= 0) & (labels >= 0)]
            wanted += [(i, int(label)) for label in np.unique(with_parts)]
        return cls(source, wanted, by)

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Sample:
        i, label = self.wanted[index]
        sample = self.source[i]
        is_other = _record_map(sample, self.by, self.source.name) != label
        masked = sample.map_labels(lambda m: np.where(is_other, LABEL(BACKGROUND), m))
        return dataclasses.replace(masked, key=f"{sample.key}/{label}")


def _record_map(sample: Sample, by: str, name: str) -> np.ndarray:
    if by == "object":
        return sample.object_map
    if sample.instance_map is None:
        raise UserError(f"{name} has no instance maps: records by object are possible")
    return sample.instance_map
