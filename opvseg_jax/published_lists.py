"""The class lists of published benchmarks (`data/vocab/*.json`) as fields of a `Vocabulary`."""

import copy
import difflib
import functools
import importlib
import json
from collections.abc import Mapping
from typing import Any

from opvseg_jax.core.assets import data_file
from opvseg_jax.core.errors import UserError

COLLECTIONS = ("langhops_instance", "cliper_prompts")  # files that hold several lists
NO_LIST = ("templates",)
PARTWORLD = "partworld"  # not a file: the procedural world names its own words


@functools.cache
def names() -> tuple[str, ...]:
    """Every list, those of a collection as "collection/list"."""
    found = [PARTWORLD]
    for path in data_file("vocab").glob("*.json"):
        if path.stem in COLLECTIONS:
            found += [f"{path.stem}/{name}" for name in _load(path.stem)["vocabularies"]]
        elif path.stem not in NO_LIST:
            found.append(path.stem)
    return tuple(sorted(found))


def facts(name: str) -> dict[str, Any]:
    """All that is published about a list: label encoding, palette, splits, counts."""
    _known(name)
    if name == PARTWORLD:
        raise UserError("partworld has no published facts: ask opvseg_jax.pipeline.partworld")
    file, _, inner = name.partition("/")
    data = _load(file)
    return copy.deepcopy(data["vocabularies"][inner] if inner else data)


def read(name: str) -> dict[str, Any]:
    """The fields of the `Vocabulary` with this name."""
    _known(name)
    if name == PARTWORLD:
        # By name, because words stand on a floor below the data pipeline.
        words = importlib.import_module("opvseg_jax.pipeline.partworld").vocabulary()
        return {**vars_of(words), "name": PARTWORLD}
    return {**fields(facts(name)), "name": name}


def vars_of(vocabulary: Any) -> dict[str, Any]:
    """The fields of an existing vocabulary."""
    keys = ("objects", "parts", "phrases", "background", "background_object")
    keys += ("seen_objects", "seen_parts")
    return {key: getattr(vocabulary, key) for key in keys}


def fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Vocabulary` from one published list."""
    if "foreground" in data:
        phrases = [(name,) for name in data["foreground"]]
        return {
            "objects": data["foreground"],
            "phrases": phrases,
            "background": data["background"],
        }
    objects = data["objects"]
    background = data.get("background")
    is_object = background and background["index"] < len(objects) and not data.get("parts")
    return {
        "objects": [entry["name"] for entry in objects],
        "parts": _parts(data),
        "phrases": _grouped(data) if "text_classes" in data else [_texts(e) for e in objects],
        "background_object": background["index"] if is_object else None,
        "seen_objects": _seen(objects),
        "seen_parts": _seen(data.get("parts", ())),
    }


def _known(name: str) -> None:
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names())}"
        raise UserError(f"unknown vocabulary {name!r}: {hint}")


@functools.cache
def _load(stem: str) -> dict[str, Any]:
    return json.loads(data_file("vocab", f"{stem}.json").read_text(encoding="utf-8"))


def _texts(entry: Mapping[str, Any]) -> tuple[str, ...]:
    # Synonyms are prompted only where the name itself lists them ("building, edifice"); in the
    # part benchmarks they are notes, and the models were prompted with the name alone.
    if ", " in entry["name"] and "synonyms" in entry:
        return tuple(entry["synonyms"])
    return (entry.get("prompt", entry["name"]),)


def _grouped(data: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Several prompted classes count as one evaluated class."""
    pairs = list(zip(data["text_classes"], data["text_to_class"], strict=True))
    return [tuple(t for t, c in pairs if c == entry["id"]) for entry in data["objects"]]


def _parts(data: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    objects, parts = data["objects"], data.get("parts", ())
    if parts and "object_id" not in parts[0]:
        # The 158-class list says which parts a superclass has; every class of it has them all.
        owned = {entry["name"]: entry["parts"] for entry in data["superclasses"]}
        return [(o["id"], part, "") for o in objects for part in owned[o["superclass"]]]
    return [
        (p["object_id"], _generic(p, objects[p["object_id"]]["name"]), p["name"]) for p in parts
    ]


def _generic(part: Mapping[str, Any], owner: str) -> str:
    if "part" in part:
        return part["part"]
    # Joint instance lists hold only "dog's head" or "Quadruped Head"; the owner is known.
    return part["name"].removeprefix(owner).removeprefix("'s").strip()


def _seen(entries) -> list[bool] | None:
    flags = [entry.get("seen") for entry in entries]
    return flags if flags and None not in flags else None
