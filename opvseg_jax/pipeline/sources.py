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
        where = f"{self.name}, record {index}"
        try:
            features = records.parse_example(self.records[index])
            key = _text(features, "key") or str(index)
            where = f"{where} ({key})"
            image = decode_image(features["image"][0])
            objects = self._labels(features, "object_map", len(self.vocabulary))
            parts = self._labels(features, "part_map", len(self.vocabulary.parts))
            instances = self._instances(features)
        except Exception as error:  # decoders raise nearly every type on broken data
            raise BrokenSampleError(where, _reason(error)) from error
        return complete(where, self.vocabulary, image, objects, parts, instances, key)

    def object_map(self, index: int) -> np.ndarray:
        """The objects alone: cheaper where many samples are only counted."""
        features = records.parse_example(self.records[index])
        labels = self._labels(features, "object_map", len(self.vocabulary))
        return self[index].object_map if labels is None else labels

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
        maps = {
            kind: _read(file, lambda data, kind=kind: self.layout.values[kind](decode_labels(data)))
            for kind, file in item.masks.items()
        }
        where = str(item.image)
        objects, parts, instances = (maps.get(kind) for kind in folders.KINDS)
        return complete(where, self.vocabulary, image, objects, parts, instances, item.key)

    def object_map(self, index: int) -> np.ndarray:
        return self[index].object_map


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

    def object_map(self, index: int) -> np.ndarray:
        return self[index].object_map


def complete(
    where: str,
    vocabulary: Vocabulary,
    image: np.ndarray,
    objects: np.ndarray | None,
    parts: np.ndarray | None,
    instances: np.ndarray | None,
    key: str,
) -> Sample:
    """A sample whose maps have the image's size; objects follow from parts where absent."""
    if objects is None and parts is None:
        raise BrokenSampleError(where, "it has neither an object map nor a part map")
    if objects is None:
        owners = np.append(vocabulary.part_to_object, [IGNORE, BACKGROUND]).astype(LABEL)
        objects = owners[parts]  # -1 and -2 count from the end
    if parts is None:
        parts = np.full(objects.shape, IGNORE, LABEL)
    maps = {"object map": objects, "part map": parts, "instance map": instances}
    for name, labels in maps.items():
        if labels is not None and labels.shape != image.shape[:2]:
            height, width = image.shape[:2]
            turned = labels.shape == (width, height) != (height, width)
            hint = " (is only one of the two turned upright?)" if turned else ""
            raise BrokenSampleError(
                where,
                f"the {name} has {labels.shape[1]} x {labels.shape[0]} pixels, "
                f"the image {width} x {height}{hint}",
            )
    return Sample(image, objects, parts, key, instances)


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


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    text = " ".join(str(error).split()) or type(error).__name__
    return "it is not an image" if text.startswith("cannot identify image") else text
