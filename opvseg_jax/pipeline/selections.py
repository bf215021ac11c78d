"""Parts of a source: some of its samples, or one record for every object of every image."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.ahead import in_threads
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

    def label_maps(self, index: int) -> dict[str, np.ndarray]:
        return self.source.label_maps(self.indices[index])


class Joined:
    """Several sources of one vocabulary, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources, self.vocabulary = tuple(sources), sources[0].vocabulary
        self.name = " + ".join(source.name for source in sources)
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        if any(source.vocabulary != self.vocabulary for source in sources):
            raise UserError(f"{self.name}: they have different vocabularies and cannot be joined")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:
        source, inner = self._place(index)
        return source[inner]

    def label_maps(self, index: int) -> dict[str, np.ndarray]:
        source, inner = self._place(index)
        return source.label_maps(inner)

    def _place(self, index: int) -> tuple[Source, int]:
        index = range(len(self))[index]  # negative and out of range as in a list
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[which], index - int(self.starts[which])


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
        cls,
        source: Source,
        by: str = "object",
        *,
        needs_parts: bool = True,
        per_class: int | None = None,
        threads: int = 2,
    ) -> "Records":
        """Every object class or instance of every image, by looking at all label maps.

        With `needs_parts`, only those that have a part pixel: the reference code replaces the
        others by random records, here they are left out. `per_class` draws so many records of
        every class that has more, with replacement (DeOP's prompts are learned on 32 or 128).
        """

        def found(index: int) -> list[tuple[int, int]]:
            try:
                maps = source.label_maps(index)
            except BrokenSampleError:
                return []  # whoever reads the images themselves counts it
            labels = _chosen(maps, by, source.name)
            is_wanted = labels >= 0
            if needs_parts:
                is_wanted &= maps["part_map"] >= 0
            return [(index, int(label)) for label in np.unique(labels[is_wanted])]

        lists = in_threads(found, range(len(source)), threads, 16)
        wanted = list(itertools.chain.from_iterable(lists))
        return cls(source, wanted if per_class is None else _drawn(wanted, per_class), by)

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Sample:
        i, label = self.wanted[index]
        sample = self.source[i]
        is_other = _chosen(sample.label_maps(), self.by, self.source.name) != label
        masked = sample.map_labels(lambda m: np.where(is_other, LABEL(BACKGROUND), m))
        return dataclasses.replace(masked, key=f"{sample.key}/{label}")

    def label_maps(self, index: int) -> dict[str, np.ndarray]:
        return self[index].label_maps()


def _chosen(maps: dict[str, np.ndarray], by: str, name: str) -> np.ndarray:
    if by == "object":
        return maps["object_map"]
    if "instance_map" not in maps:
        raise UserError(f"{name} has no instance maps: records by object are possible")
    return maps["instance_map"]


def _drawn(wanted: list[tuple[int, int]], per_class: int) -> list[tuple[int, int]]:
    groups: dict[int, list[tuple[int, int]]] = {}
    for record in wanted:
        groups.setdefault(record[1], []).append(record)
    rng = np.random.default_rng(0)
    drawn = []
    for _, group in sorted(groups.items()):
        if len(group) > per_class:
            group = [group[i] for i in rng.integers(len(group), size=per_class)]
        drawn += group
    return drawn
