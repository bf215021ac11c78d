"""A data set of your own, without code: images, masks and words in a folder.

    my_data/
      vocabulary.yaml        objects and parts, in the order of their mask values
      images/                photo.jpg ... (any depth; or images/train/, images/val/)
      labels/                photo.png: which object every pixel is (`objects/` is the same)
      parts/                 photo.png: which part (optional; alone, objects follow from parts)
      instances/             photo.png: which of the objects, counted from 1 (optional)
      train.txt, val.txt     names of the images of a split, one a line (optional)
      labels.yaml            what mask values mean, where it is not the usual (optional)

The usual: 0 is background, 1 the first object (or part) of the vocabulary, 2 the second ..., and
the largest value of 8 or 16 bits is "not labelled". `labels.yaml` changes that:

    first: 0                 # the value of the first class; then nothing is background
    background: [0, 254]     # values (or "#rrggbb") of pixels that belong to no class
    ignore: 255              # values of pixels that nobody labelled
    objects: {dog: 7, car: [0, 0, 142]}       # or every class by value or colour
    parts: {dog: {head: 1, leg: "#ff8000"}}
"""

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.photos import SUFFIXES
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE, LABEL
from opvseg_jax.vocabulary import Vocabulary

KINDS = {"objects": "object_map", "parts": "part_map", "instances": "instance_map"}
MASK_FOLDERS = {"labels": "objects", "objects": "objects", "parts": "parts"}
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
VOCABULARY_FILES = tuple(f"vocabulary.{suffix}" for suffix in ("yaml", "yml", "json", "txt"))
RULES = ("first", "background", "ignore", "objects", "parts")
MOST_VALUES = 65536

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """The files of one image."""

    key: str
    image: Path
    masks: dict[str, Path]


class Layout(NamedTuple):
    """What a folder holds: its files, its words, and what the values of each mask mean."""

    name: str
    items: list[Item]
    vocabulary: Vocabulary
    values: Mapping[str, "LabelValues | InstanceValues"]


def pick_split(split: str | None, found: Iterable[str], path: str | Path) -> str:
    """The split that was asked for; unasked, the only one there is."""
    found = sorted(found)
    if split is None and len(found) == 1:
        return found[0]
    if split in found:
        return split
    listed = ", ".join(found) or "none"
    if split is None:
        raise UserError(f"{path} has the splits {listed}: choose one, as in '{path}:{found[0]}'")
    raise UserError(f"{path} has no split {split!r}, only: {listed}")


def read_layout(root: Path, split: str | None) -> Layout:
    """Finds the files of a split and checks that images and masks belong together."""
    vocabulary = Vocabulary.of(_vocabulary_file(root))
    images, split = _images(root, split)
    folders = {kind: root / name for name, kind in MASK_FOLDERS.items() if (root / name).is_dir()}
    if not folders:
        raise UserError(f"{root} holds no masks: expected labels/ (or objects/, parts/) in it")
    if (root / "instances").is_dir():
        folders["instances"] = root / "instances"
    if "parts" in folders and not vocabulary.parts:
        raise UserError(f"{root} has parts/, but its vocabulary names no parts")
    items = _paired(root, images, folders)
    rules = _read_rules(root / "labels.yaml")
    values = {
        kind: InstanceValues() if kind == "instances" else label_values(kind, vocabulary, rules)
        for kind in folders
    }
    return Layout(f"{root}:{split}", items, vocabulary, values)


class InstanceValues:
    """Instances are counted from 1 in the file and from 0 in a sample."""

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        if raw.dtype == np.int32:
            codes = np.unique(raw)  # colours: black is none, the others in ascending order
            raw = np.searchsorted(np.append(0, codes[codes > 0]), raw)
        return np.where(raw > np.iinfo(LABEL).max, 0, raw).astype(LABEL) - LABEL(1)


@dataclasses.dataclass(frozen=True)
class LabelValues:
    """Translates the values of a mask into class ids.

    `meaning` maps values (colours as R * 65536 + G * 256 + B) to ids; `by_default`, whether the
    largest value of 8 or 16 bits means "not labelled" as well.
    """

    kind: str
    meaning: Mapping[int, int]
    by_default: bool

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """raw [H, W] of `decode_labels` -> int16 [H, W]."""
        if raw.dtype == np.int32:
            return self._from_colours(raw)
        table = np.full(MOST_VALUES if raw.dtype.itemsize > 1 else 256, -3, LABEL)
        for value, label in self.meaning.items():
            if value < len(table):
                table[value] = label
        if self.by_default and table[-1] == -3:
            table[-1] = IGNORE
        return self._checked(table[raw], raw)

    def _from_colours(self, raw: np.ndarray) -> np.ndarray:
        codes = np.array(sorted(self.meaning), np.int32)
        labels = np.array([self.meaning[code] for code in codes], LABEL)
        place = np.minimum(np.searchsorted(codes, raw), len(codes) - 1)
        return self._checked(np.where(codes[place] == raw, labels[place], LABEL(-3)), raw)

    def _checked(self, labels: np.ndarray, raw: np.ndarray) -> np.ndarray:
        unknown = labels == -3
        if unknown.any():
            values, counts = np.unique(raw[unknown], return_counts=True)
            shown = [_shown(v, raw.dtype) for v in values[np.argsort(-counts)][:3].tolist()]
            more = f" and {len(values) - 3} more" if len(values) > 3 else ""
            raise ValueError(
                f"the {self.kind} mask has values that stand for no class: "
                f"{', '.join(shown)}{more} (known: {self._known()}; labels.yaml can say what "
                "they mean)"
            )
        return labels

    def _known(self) -> str:
        values = sorted(self.meaning)
        if values == list(range(values[0], values[0] + len(values))):
            return f"{values[0]} to {values[-1]}"
        return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def label_values(kind: str, vocabulary: Vocabulary, rules: Mapping[str, Any]) -> LabelValues:
    """What the values of the object or part masks mean, by the rules of labels.yaml."""
    ids = _named_ids(kind, vocabulary)
    first = rules.get("first", 1)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise UserError(f"labels.yaml: first: expected a number from 0, got {first!r}")
    chosen = rules.get(kind)
    if chosen is None:
        pairs = [(first + i, i, name) for name, i in ids.items()]
        background = [0] if first > 0 else []
    else:
        pairs = [(_value(v), ids[name], name) for name, v in _flat(kind, chosen, ids).items()]
        background = [] if any(value == 0 for value, _, _ in pairs) else [0]
    for rule, label, default in (("background", BACKGROUND, background), ("ignore", IGNORE, [])):
        pairs += [(value, label, rule) for value in _value_list(rules.get(rule), default)]
    meaning: dict[int, int] = {}
    for value, label, name in pairs:
        if value in meaning:
            raise UserError(f"labels.yaml: {kind}: the value {value} of {name!r} has two meanings")
        meaning[value] = label
    return LabelValues(kind, meaning, "ignore" not in rules)


def _named_ids(kind: str, vocabulary: Vocabulary) -> dict[str, int]:
    if kind == "objects":
        return {name: i for i, name in enumerate(vocabulary.objects)}
    return {
        f"{vocabulary.objects[part.object]}: {part.generic}": i
        for i, part in enumerate(vocabulary.parts)
    }


def _flat(kind: str, chosen: Any, ids: Mapping[str, int]) -> dict[str, Any]:
    """`{dog: {head: 1}}` as `{"dog: head": 1}`, every name known."""
    if not isinstance(chosen, Mapping):
        raise UserError(f"labels.yaml: {kind}: expected names with their values, got {chosen!r}")
    flat: dict[str, Any] = {}
    for name, value in chosen.items():
        nested = value if isinstance(value, Mapping) else {None: value}
        flat |= {str(name) if p is None else f"{name}: {p}": v for p, v in nested.items()}
    for name in flat:
        if name not in ids:
            raise UserError(f"labels.yaml: {kind}: {name!r} is not in the vocabulary")
    return flat


def _value_list(given: Any, default: list[int]) -> list[int]:
    if given is None:
        return default
    return [_value(value) for value in (given if isinstance(given, list) else [given])]


def _value(given: Any) -> int:
    """A mask value, or a colour as [r, g, b] or "#rrggbb", as one number."""
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < MOST_VALUES:
        return given
    if isinstance(given, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", given):
        return int(given[1:], 16)
    is_colour = isinstance(given, list) and len(given) == 3
    if is_colour and all(isinstance(c, int) and 0 <= c <= 255 for c in given):
        return given[0] << 16 | given[1] << 8 | given[2]
    raise UserError(
        f"labels.yaml: {given!r} is no mask value: expected a number, [r, g, b] or '#rrggbb'"
    )


def _shown(value: int, dtype: np.dtype) -> str:
    return f"#{value:06x}" if dtype == np.int32 else str(value)


def _vocabulary_file(root: Path) -> Path:
    for name in VOCABULARY_FILES:
        if (root / name).is_file():
            return root / name
    raise UserError(
        f"{root} has no vocabulary.yaml: write one with the names in the order of their mask "
        "values, for example 'objects: [dog, car]' and 'parts: {dog: [head, leg]}'"
    )


def _read_rules(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import yaml  # here, because few folders have the file

    try:
        rules = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(rules, dict) or (unknown := sorted(map(str, set(rules) - set(RULES)))):
        wrong = unknown[0] if isinstance(rules, dict) else rules
        raise UserError(f"{path}: {wrong!r} is not one of {', '.join(RULES)}")
    return rules


def _images(root: Path, split: str | None) -> tuple[dict[str, Path], str]:
    """{name without ending: file} of a split. Names are relative to images/."""
    folder = root / "images"
    everything = _by_stem(folder, SUFFIXES)
    listed = {
        path.stem: path
        for path in sorted(root.glob("*.txt"))
        if path.stem == split or _find(_lines(path)[:1], path.stem, everything)
    }
    subfolders = {name.split("/")[0] for name in everything if "/" in name}
    is_split_by_folder = bool(subfolders) and all("/" in name for name in everything)
    found = {*listed, *(subfolders if is_split_by_folder else ()), "all"}
    if split is None and found == {"all"}:
        split = "all"
    split = pick_split(split, found, root)
    if split in listed:
        return _listed(listed[split], everything, split), split
    if split == "all":
        return everything, split
    return {k: v for k, v in everything.items() if k.startswith(f"{split}/")}, split


def _listed(file: Path, everything: Mapping[str, Path], split: str) -> dict[str, Path]:
    lines = _lines(file)
    keys = _find(lines, split, everything)
    if len(keys) < len(lines):
        first = next(line for line in lines if not _find([line], split, everything))
        raise UserError(f"{file}: there is no image {first!r} below images/")
    return {key: everything[key] for key in keys}


def _lines(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _find(lines: Iterable[str], split: str, everything: Mapping[str, Path]) -> list[str]:
    """The images that lines name, with or without "images/", the split's folder and an ending."""
    keys = []
    for line in lines:
        name = line.removeprefix("images/")
        bare = Path(name).with_suffix("").as_posix()
        tries = (name, bare, f"{split}/{name}", f"{split}/{bare}")
        keys += [key for key in tries if key in everything][:1]
    return keys


def _by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """{path below `folder` without ending: file}, hidden files left out."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        is_hidden = any(piece.startswith(".") for piece in inner.parts)
        if is_hidden or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        key = inner.with_suffix("").as_posix()
        if key in found:
            raise UserError(f"{found[key]} and {path} have the same name: rename one")
        found[key] = path
    return found


def _paired(root: Path, images: dict[str, Path], folders: dict[str, Path]) -> list[Item]:
    """Images that have every mask; the others are named in the log."""
    if not images:
        raise UserError(
            f"{root / 'images'} holds no images ({', '.join(sorted(SUFFIXES)[:6])} ...)"
        )
    masks = {kind: _by_stem(folder, MASK_SUFFIXES) for kind, folder in folders.items()}
    missing = {
        key: [f"{folders[kind]}/{key}.png" for kind in folders if key not in masks[kind]]
        for key in images
    }
    alone = [key for key in images if missing[key]]
    if len(alone) == len(images):
        raise UserError(
            f"no image of {root} has its masks: {images[alone[0]]} needs {missing[alone[0]][0]}"
        )
    if alone:
        log.warning(
            "%d of %d images are left out, they lack a mask: %s needs %s",
            len(alone),
            len(images),
            images[alone[0]],
            missing[alone[0]][0],
        )
    return [
        Item(key, image, {kind: masks[kind][key] for kind in folders})
        for key, image in images.items()
        if not missing[key]
    ]
