"""Where samples come from: prepared benchmarks, a folder of your own, PartWorld.

A source is a sequence: `len(source)`, `source[i] -> Sample`, with a `vocabulary`. It can be
pickled, reads in any order, and raises `BrokenSampleError` for a file that cannot be used.
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from opvseg_jax.core.cache import cache_folder
from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline import folders, records
from opvseg_jax.pipeline.pixels import decode_image, decode_labels
from opvseg_jax.pipeline.samples import (
    BACKGROUND,
    IGNORE,
    LABEL,
    BrokenSampleError,
    Sample,
    Source,
)
from opvseg_jax.pipeline.selections import Subset
from opvseg_jax.vocabulary import Vocabulary

NAMED = re.compile(r"(.+):([^:/\\\[\]]*(?:\[[^\[\]]*\])?)")  # path:split[slice]
SLICE = re.compile(r"(?P<name>[^\[\]]*)(?:\[(?P<from>\d+%?)?:(?P<to>\d+%?)?\])?")


def open_source(
    reference: str | Path, split: str | None = None, *, root: str | Path | None = None, **options
) -> Source:
    """A data set by folder or name; `"name:split"` and `split="train[:90%]"` choose a part.

    A name is looked for below `root` (default `$OPVSEG_DATA`, else the cache folder's `data`),
    where prepared benchmarks lie. `"partworld"` needs no files; it takes `size`, `seed` and
    `num_images`.
    """
    text = str(reference)
    if split is None and not Path(text).exists() and (named := NAMED.fullmatch(text)):
        text, split = named.groups()
    match = SLICE.fullmatch(split or "")
    if match is None:
        raise UserError(f"split {split!r}: expected a name, or a part of it as in 'train[:90%]'")
    source = _open(text, match["name"] or None, root, options)
    if match["from"] is None and match["to"] is None:
        return source
    start = _bound(match["from"] or "0", len(source))
    stop = _bound(match["to"] or "100%", len(source))
    return Subset(source, range(start, stop))


def data_root() -> Path:
    """Where prepared data sets lie unless somebody says otherwise."""
    return Path(os.environ.get("OPVSEG_DATA") or cache_folder() / "data").expanduser()


class RecordSource:
    """A split of a prepared benchmark: a TFDS folder with encoded images and label maps.

    Features: `image` (JPEG or PNG bytes), `object_map`, `part_map`, `instance_map` (PNG bytes of
    class ids; of instances counted from 1; all but one may be absent) and `key`. The largest
    value of a map's type (255, 65535) means "not labelled". Metadata: `vocabulary`, and
    `unlabelled`, "background" or "ignore"; without it, the part benchmarks' rule is background.
    """

    def __init__(self, path: str | Path, split: str | None = None):
        splits, facts = records.read_folder(path)
        split = folders.pick_split(split, splits, path)
        self.name = f"{path}:{split}"
        self.vocabulary = _vocabulary(facts, path)
        rule = facts.get("unlabelled", "background" if self.vocabulary.parts else "ignore")
        if rule not in ("background", "ignore"):
            raise UserError(f"{path}: metadata 'unlabelled' is {rule!r}: background or ignore")
        self.unlabelled = BACKGROUND if rule == "background" else IGNORE
        self.num_records = splits[split].num_records
        self.records = records.open_records(splits[split])
        if len(self.records) != self.num_records:
            raise UserError(
                f"{self.name}: {len(self.records)} records, expected {self.num_records}: "
                "prepare the data set again"
            )

    def __len__(self) -> int:
        return self.num_records

    def __getitem__(self, index: int) -> Sample:
        key, image, maps = self._decoded(index, with_image=True)
        return complete(f"{self.name}, record {index} ({key})", image, maps, key)

    def label_maps(self, index: int) -> dict[str, np.ndarray]:
        return self._decoded(index, with_image=False)[2]

    def _decoded(self, index: int, *, with_image: bool):
        where = f"{self.name}, record {index}"
        try:
            features = records.parse_example(self.records[index])
            key = _text(features, "key") or str(index)
            where = f"{where} ({key})"
            image = decode_image(features["image"][0]) if with_image else None
            maps = {
                "object_map": self._labels(features, "object_map", len(self.vocabulary)),
                "part_map": self._labels(features, "part_map", len(self.vocabulary.parts)),
                "instance_map": self._instances(features),
            }
        except Exception as error:  # decoders raise nearly every type on broken data
            raise BrokenSampleError(where, _reason(error)) from error
        return key, image, filled(where, self.vocabulary, maps)

    def _labels(self, features: dict[str, list], name: str, count: int) -> np.ndarray | None:
        if not features.get(name):
            return None
        raw = decode_labels(features[name][0])
        labels = raw.astype(np.int32)
        labels[raw == np.iinfo(raw.dtype).max] = self.unlabelled
        if labels.max(initial=0) >= count:
            raise ValueError(f"{name} has the value {labels.max()}, its classes end at {count - 1}")
        return labels.astype(LABEL)

    def _instances(self, features: dict[str, list]) -> np.ndarray | None:
        if not features.get("instance_map"):
            return None
        raw = decode_labels(features["instance_map"][0])
        return np.where(raw == np.iinfo(raw.dtype).max, BACKGROUND, raw.astype(LABEL) - 1)


class FolderSource:
    """Your own images and masks: `images/`, `labels/` (or `objects/`, `parts/`), `vocabulary.yaml`.

    `folders.py` says how the files are named and what the values of a mask mean.
    """

    def __init__(self, path: str | Path, split: str | None = None):
        self.layout = folders.read_layout(Path(path).expanduser(), split)
        self.name = self.layout.name
        self.vocabulary = self.layout.vocabulary

    def __len__(self) -> int:
        return len(self.layout.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.layout.items[index]
        image = _read(item.image, decode_image)
        return complete(str(item.image), image, self.label_maps(index), item.key)

    def label_maps(self, index: int) -> dict[str, np.ndarray]:
        item = self.layout.items[index]
        maps = {}
        for kind, file in item.masks.items():
            raw = _read(file, decode_labels)
            maps[folders.KINDS[kind]] = _translated(file, self.layout.values[kind], raw)
        return filled(str(item.image), self.vocabulary, maps)


class PartWorldSource:
    """The procedural world (`partworld.py`) as a source."""

    def __init__(self, split: str | None = None, **options):
        from opvseg_jax.pipeline import partworld

        try:
            self.world = partworld.PartWorld(split or "train", **options)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.name = f"partworld:{self.world.split}"
        self.vocabulary = partworld.vocabulary()

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, index: int) -> Sample:
        scene = self.world[index]
        key = f"{self.world.split}_{index:06d}"
        maps = (scene.object_map, scene.part_map)
        return Sample(scene.image, *maps, key, instance_map=scene.instance_map)

    def label_maps(self, index: int) -> dict[str, np.ndarray]:
        return self[index].label_maps()


def filled(
    where: str, vocabulary: Vocabulary, maps: dict[str, np.ndarray | None]
) -> dict[str, np.ndarray]:
    """Objects follow from parts where they are absent; absent parts are not labelled."""
    maps = {name: labels for name, labels in maps.items() if labels is not None}
    if "object_map" not in maps and "part_map" not in maps:
        raise BrokenSampleError(where, "it has neither an object map nor a part map")
    if "object_map" not in maps:
        owners = np.append(vocabulary.part_to_object, [IGNORE, BACKGROUND]).astype(LABEL)
        maps["object_map"] = owners[maps["part_map"]]  # -1 and -2 count from the end
    if "part_map" not in maps:
        maps["part_map"] = np.full(maps["object_map"].shape, IGNORE, LABEL)
    return maps


def complete(where: str, image: np.ndarray, maps: dict[str, np.ndarray], key: str) -> Sample:
    """A sample whose maps have the image's size."""
    height, width = image.shape[:2]
    for name, labels in maps.items():
        if labels.shape != (height, width):
            turned = labels.shape == (width, height)
            hint = " (is only one of the two turned upright?)" if turned else ""
            raise BrokenSampleError(
                where,
                f"the {name.replace('_', ' ')} has {labels.shape[1]} x {labels.shape[0]} pixels, "
                f"the image {width} x {height}{hint}",
            )
    return Sample(image, key=key, **maps)


def _open(text: str, split: str | None, root: str | Path | None, options: dict[str, Any]) -> Source:
    path = Path(text).expanduser()
    if text == "partworld" and not path.exists():
        return PartWorldSource(split, **options)
    if options:
        raise UserError(f"unknown options for {text}: {', '.join(options)}")
    candidates = [path]
    if not path.is_absolute() and len(path.parts) == 1:
        candidates.append(Path(root) / text if root else data_root() / text)
    for folder in candidates:
        if records.is_record_folder(folder):
            return RecordSource(folder, split)
        if (folder / "images").is_dir():
            return FolderSource(folder, split)
    looked = " nor ".join(map(str, candidates))
    raise UserError(
        f"no data set {text!r}: neither {looked} holds dataset_info.json (a prepared benchmark) "
        "or images/ (your own folder)"
        if len(candidates) > 1
        else f"{path} is no data set: it holds neither dataset_info.json nor images/"
    )


def _bound(text: str, count: int) -> int:
    value = int(text.rstrip("%"))
    return min(value * count // 100 if text.endswith("%") else value, count)


def _vocabulary(facts: dict[str, Any], path: str | Path) -> Vocabulary:
    if "vocabulary" not in facts:
        raise UserError(f"{path}: metadata.json names no vocabulary: prepare the data set again")
    words = facts["vocabulary"]
    return Vocabulary.named(words) if isinstance(words, str) else Vocabulary.of(words)


def _text(features: dict[str, list], name: str) -> str:
    values = features.get(name) or [b""]
    return values[0].decode(errors="replace") if isinstance(values[0], bytes) else str(values[0])


def _read(path: Path, decode) -> np.ndarray:
    try:
        return decode(path.read_bytes())
    except Exception as error:  # decoders raise nearly every type on broken data
        raise BrokenSampleError(str(path), _reason(error)) from error


def _translated(path: Path, values, raw: np.ndarray) -> np.ndarray:
    try:
        return values(raw)
    except ValueError as error:
        raise BrokenSampleError(str(path), str(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    text = " ".join(str(error).split()) or type(error).__name__
    return "it is not an image" if text.startswith("cannot identify image") else text
