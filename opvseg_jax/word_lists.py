"""A user's words in any form (text, names, mapping, file) as fields of a `Vocabulary`."""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opvseg_jax import published_lists
from opvseg_jax.core.errors import UserError

SUFFIXES = (".yaml", ".yml", ".json", ".txt")
KEYS = (
    "objects",
    "parts",
    "background",
    "background_object",
    "seen_objects",
    "seen_parts",
    "name",
)


def read(words: Any) -> dict[str, Any]:
    """The fields of the `Vocabulary` that `words` describes."""
    if isinstance(words, os.PathLike):
        return _from_file(Path(words))
    if isinstance(words, str):
        return _from_text(words)
    if isinstance(words, Mapping):
        return _from_mapping(words)
    if isinstance(words, list | tuple):
        return _from_entries([_entry(word) for word in words])
    raise UserError(
        f"expected a vocabulary (mapping, names, text, file or benchmark), got "
        f"{type(words).__name__}"
    )


def _from_text(text: str) -> dict[str, Any]:
    name = text.strip()
    if name in published_lists.names():
        return published_lists.read(name)
    if name.lower().endswith(SUFFIXES):
        return _from_file(Path(name))
    if ("_" in name or name[-1:].isdigit()) and not set(name) & set(" :;,|\n"):
        near = difflib.get_close_matches(name, published_lists.names(), n=1, cutoff=0.8)
        if near:
            raise UserError(f"unknown vocabulary {name!r}: did you mean {near[0]!r}?")
    return parse(text)


def parse(text: str) -> dict[str, Any]:
    """`"dog | puppy: head, leg; sky, grass"`: `;` or a new line ends an entry."""
    clauses = [clause for clause in text.replace("\n", ";").split(";") if clause.strip()]
    if not clauses:
        raise UserError("the vocabulary is empty: name at least one object")
    entries = []
    for clause in clauses:
        owner, colon, parts = clause.partition(":")
        if ":" in parts:
            raise UserError(f"{clause.strip()!r}: two colons, expected 'object: part, part'")
        if not colon:
            entries += [_entry(name) for name in owner.split(",")]
        elif not owner.strip():
            raise UserError(f"part {parts.strip()!r} has no object: write 'object: part, part'")
        else:
            entries.append(_entry({owner: parts}))
    return _from_entries(entries)


def _from_mapping(words: Mapping[str, Any]) -> dict[str, Any]:
    if "schema_version" in words:
        return published_lists.fields(words)
    if "objects" not in words:
        return _from_entries([_entry({owner: parts}) for owner, parts in words.items()])
    if unknown := sorted(set(map(str, words)) - set(KEYS)):
        near = difflib.get_close_matches(unknown[0], KEYS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f": expected {', '.join(KEYS)}"
        raise UserError(f"unknown key {unknown[0]!r} in the vocabulary{hint}")
    listed = words["objects"]
    if not isinstance(listed, list | tuple):
        raise UserError(f"objects: expected a list of names, got {listed!r}")
    found = _from_entries([_entry(word) for word in listed])
    found["parts"] += _named_parts(words.get("parts") or (), found["objects"])
    extra = {key: words[key] for key in KEYS[2:] if words.get(key) is not None}
    if not isinstance(extra.get("name", ""), str):
        raise UserError(f"name: expected a word, got {extra['name']!r}")
    for key in ("background", "seen_objects", "seen_parts"):
        if not isinstance(extra.get(key, ()), list | tuple):
            raise UserError(f"{key}: expected a list, got {extra[key]!r}")
    return found | extra


def _named_parts(parts: Any, objects: Sequence[str]) -> list[tuple[int, str, str]]:
    """Parts as `{object: [part]}` or `[{"object": o, "part": p}]`."""
    if isinstance(parts, Mapping):
        rows = [(owner, part, "") for owner, some in parts.items() for part in _names(some, owner)]
    elif isinstance(parts, list | tuple):
        rows = []
        for entry in parts:
            if not isinstance(entry, Mapping) or not {"object", "part"} <= entry.keys():
                raise UserError(f"part {entry!r} has no object: expected an object and a part")
            rows.append((entry["object"], entry["part"], entry.get("name", "")))
    else:
        raise UserError(f"parts: expected a mapping or a list, got {parts!r}")
    place = {name: i for i, name in enumerate(objects)}
    for owner, part, _ in rows:
        if not isinstance(owner, str) or owner not in place:
            near = difflib.get_close_matches(str(owner), objects, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise UserError(f"part {part!r} has no object: {owner!r} is not listed{hint}")
    return [(place[owner], part, name) for owner, part, name in rows]


def _entry(word: Any) -> tuple[str, tuple[str, ...], list[str]]:
    """One object as (name, phrases, parts)."""
    if isinstance(word, Mapping) and "name" in word and word.keys() <= {"name", "phrases", "parts"}:
        phrases = word.get("phrases") or (word["name"],)
        return word["name"], phrases, _names(word.get("parts"), word["name"])
    parts: Any = None
    if isinstance(word, Mapping):
        if len(word) != 1:
            raise UserError(f"{word!r}: expected one object with its parts")
        ((word, parts),) = word.items()
    if not isinstance(word, str):
        return word, (word,), []  # the vocabulary says what is wrong with it
    phrases = tuple(" ".join(phrase.split()) for phrase in word.split("|"))
    return phrases[0], phrases, _names(parts, phrases[0])


def _names(parts: Any, owner: Any) -> list[str]:
    if parts is None or (isinstance(parts, str) and not parts.strip()):
        return []
    names = parts.split(",") if isinstance(parts, str) else parts
    if not isinstance(names, list | tuple):
        raise UserError(f"object {owner!r}: expected a list of parts, got {parts!r}")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"object {owner!r}: {name!r} is not the name of a part")
        if "|" in name:
            raise UserError(
                f"part {name.strip()!r} of {owner!r}: only objects take several phrases"
            )
    return [name.strip() for name in names]


def _from_entries(entries: Sequence[tuple]) -> dict[str, Any]:
    return {
        "objects": [name for name, _, _ in entries],
        "phrases": [phrases for _, phrases, _ in entries],
        "parts": [(i, part, "") for i, (_, _, parts) in enumerate(entries) for part in parts],
    }


def _from_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"vocabulary file {path} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"vocabulary file {path} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"vocabulary file {path} cannot be read: {error.strerror}") from None
    try:
        content = _decode(text, path.suffix.lower())
        if isinstance(content, str):
            return parse(content)
        if content is None:
            raise UserError("the vocabulary is empty: name at least one object")
        return read(content)
    except UserError as error:
        raise UserError(f"vocabulary file {path}: {error}") from None


def _decode(text: str, suffix: str) -> Any:
    if suffix == ".txt":
        return text
    if suffix == ".json":
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise UserError(f"not JSON: {error}") from None
        except RecursionError:
            raise UserError("not a vocabulary: nested too deeply") from None
    import yaml  # here, because few runs read a file

    class Loader(yaml.SafeLoader):
        """Plain values alone; a key that stands twice is an error and not the last one."""

        def construct_mapping(self, node, deep=False):
            if isinstance(node, yaml.MappingNode):
                _unique([(self.construct_object(key, deep=True), None) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError("not a vocabulary: nested too deeply") from None


def _unique(pairs: Sequence[tuple[Any, Any]]) -> dict:
    found: dict = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise UserError(f"{key!r}: expected a word, got {type(key).__name__}: put it in quotes")
        if key in found:
            raise UserError(f"{key!r} is listed twice: remove one")
        found[key] = value
    return found
