"""What a benchmark is made of: layouts (how its files may lie on disk), items, samples.

A layout is a table. `files` gives the path of every role ("images", "objects", ...), where
`{split}` stands for the name that the layout has for a split and `{ours}` for ours; `items` lists
one split, `read` turns one item into a sample. Letters: H W image size.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opvseg_jax import published_lists
from opvseg_jax.vocabulary import Vocabulary

VERSION = "1.0.0"  # of the records; a change of their features or values needs another one


class SampleError(Exception):
    """One sample cannot be used; the message says why. It is skipped, counted and named."""


class Need(NamedTuple):
    """A file or folder of the source: any of `paths` will do."""

    paths: str | tuple[str, ...]
    origin: str  # which download holds it
    size: str = "size not known"
    optional: bool = False
    only: tuple[str, ...] = ()  # our names of the splits that want it; none means all
    suffix: str = ""  # a folder without any such file is not meant

    def paths_of(self, ours: str, theirs: str) -> tuple[str, ...]:
        """The candidates for a split that we and the layout call by these names."""
        paths = (self.paths,) if isinstance(self.paths, str) else self.paths
        return tuple(path.format(ours=ours, split=theirs) for path in paths)

    def origin_of(self, theirs: str) -> str:
        return self.origin.format(split=theirs)

    def archive_of(self, theirs: str) -> str | None:
        """The archive that holds it, where the origin begins with one."""
        first = self.origin_of(theirs).split()[0]
        return first if first.endswith((".zip", ".tar", ".tar.gz", ".tgz")) else None


class Item(NamedTuple):
    """One image before it is read; `facts` is whatever its layout's `read` wants."""

    key: str
    image: Path
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image file's bytes and its maps [H, W]: class ids or the ignore value, instances from 1.

    A map that is None is not known for this image.
    """

    image: bytes
    object_map: np.ndarray
    part_map: np.ndarray | None = None
    instance_map: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """One form in which a benchmark is handed out."""

    title: str
    files: Mapping[str, Need]
    items: Callable[[Mapping[str, Path], str], list[Item]]
    read: Callable[[Item, "Labels"], Sample | None]  # None: not part of the benchmark
    splits: Mapping[str, str]  # our name -> the layout's
    inside: tuple[str, ...] = ()  # folders in which the archive may have put everything
    has_instances: bool = False


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set with the classes, label values and splits of the papers."""

    name: str
    title: str
    layouts: tuple[Layout, ...]
    published: Mapping[str, int]  # split -> images
    licence: str
    is_verified: bool = True  # False: the published counts come from memory of a paper

    @functools.cached_property
    def labels(self) -> "Labels":
        return Labels(self.name)


class Labels:
    """The label values of a vocabulary: how many there are, what means "ignore", raw -> id."""

    def __init__(self, name: str):
        self.name = name
        self.facts = published_lists.facts(name)
        self.vocabulary = Vocabulary.named(name)
        self.num_objects, self.num_parts = len(self.vocabulary), len(self.vocabulary.parts)
        is_wide = self.facts["label_encoding"]["dtype"] == "uint16"
        is_wide |= max(self.num_objects, self.num_parts) > 255
        self.dtype = np.dtype(np.uint16 if is_wide else np.uint8)
        self.ignore = int(np.iinfo(self.dtype).max)

    @functools.cached_property
    def raw(self) -> dict[int, int]:
        """Value in the published files -> class id."""
        return {entry["raw"]: entry["id"] for entry in self.facts["objects"]}

    @functools.cached_property
    def object_of_synset(self) -> dict[str, int]:
        return {entry["wnid"]: entry["id"] for entry in self.facts["objects"]}

    @functools.cached_property
    def part_of_raw(self) -> dict[tuple[int, int], int]:
        """(object id, part number in the annotation file) -> part id."""
        if "raw_part_id" in self.facts["parts"][0]:
            return {(p["object_id"], p["raw_part_id"]): p["id"] for p in self.facts["parts"]}
        numbers = {s["name"]: s["raw_part_ids"] for s in self.facts["superclasses"]}
        pairs = [(o["id"], n) for o in self.facts["objects"] for n in numbers[o["superclass"]]]
        return {pair: part for part, pair in enumerate(pairs)}
