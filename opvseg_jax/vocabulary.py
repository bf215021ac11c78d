"""What to look for: objects, their parts, and every index map between them.

Letters: O objects, T object-specific parts ("dog's head"), G generic parts ("head"), M the most
parts of an object, R phrases (prompted texts; a class may have several), W objects with parts.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from opvseg_jax import published_lists, word_lists
from opvseg_jax.core.errors import UserError

LONG_NAME = 200  # characters; CLIP reads 75 tokens, of about three characters each

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """A part of one object; `name` is what users and benchmarks call it."""

    object: int  # index into `Vocabulary.objects`
    generic: str  # "head"
    name: str = ""  # "dog's head"


@dataclasses.dataclass(frozen=True, repr=False)
class Vocabulary:
    """Objects and parts in the order of their ids. Build it with `Vocabulary.of(anything)`.

    `phrases` are the texts that stand for each object (default: its name). `background` names are
    competitors: what they win belongs to no object. `background_object` is the object that means
    "nothing else", where a benchmark has one. Vocabularies are equal if their words are.
    """

    objects: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    phrases: tuple[tuple[str, ...], ...] = ()
    background: tuple[str, ...] = ()
    background_object: int | None = None
    seen_objects: tuple[bool, ...] | None = None  # trained on, where a benchmark says so
    seen_parts: tuple[bool, ...] | None = None
    name: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        objects = tuple(_clean(name, "object") for name in self.objects)
        if not objects:
            raise UserError("the vocabulary is empty: name at least one object")
        put = functools.partial(object.__setattr__, self)
        put("objects", objects)
        put("parts", tuple(_part(objects, *part) for part in self.parts))
        put("phrases", _phrases(objects, self.phrases))
        put("background", tuple(_clean(name, "background") for name in self.background))
        for field, count in (("seen_objects", len(objects)), ("seen_parts", len(self.parts))):
            flags = getattr(self, field)
            if flags is not None:
                put(field, tuple(bool(flag) for flag in flags))
                if len(flags) != count:
                    raise UserError(f"{field} has {len(flags)} entries, expected {count}")
        if self.background_object not in (None, *range(len(objects))):
            raise UserError(f"background_object {self.background_object} is not an object's index")
        _refuse_duplicates(objects, "object")
        _refuse_duplicates((f"{objects[p.object]}: {p.generic}" for p in self.parts), "part")
        _refuse_duplicates(self.background, "background")
        _warn_of_long_names([*objects, *(p.name for p in self.parts)])

    # Construction

    @classmethod
    def of(cls, words: Any) -> "Vocabulary":
        """From `{"dog": ["head"]}`, names, `"dog: head, leg; sky"`, a file or a benchmark's name.

        `"dog | puppy: head"` gives the object "dog" a second phrase. A mapping with the key
        "objects" is read as `{"objects": [...], "parts": {object: [...]}}`, see `to_dict`.
        """
        return words if isinstance(words, cls) else cls(**word_lists.read(words))

    @classmethod
    def named(cls, name: str) -> "Vocabulary":
        """A benchmark's list, such as "pascal_part_116" or "cliper_prompts/voc21"."""
        return cls(**published_lists.read(name))

    @staticmethod
    def names() -> tuple[str, ...]:
        """Every name that `named` knows."""
        return published_lists.names()

    # Index maps

    @functools.cached_property
    def part_to_object(self) -> np.ndarray:
        """[T] -> index into `objects`."""
        return _index([part.object for part in self.parts])

    @functools.cached_property
    def generic_parts(self) -> tuple[str, ...]:
        """The distinct generic names, sorted by code point."""
        return tuple(sorted({part.generic for part in self.parts}))

    @functools.cached_property
    def part_to_generic(self) -> np.ndarray:
        """[T] -> index into `generic_parts`."""
        place = {name: i for i, name in enumerate(self.generic_parts)}
        return _index([place[part.generic] for part in self.parts])

    @functools.cached_property
    def object_to_parts(self) -> np.ndarray:
        """[O, M] -> part ids in ascending order, padded with -1."""
        rows: list[list[int]] = [[] for _ in self.objects]
        for i, part in enumerate(self.parts):
            rows[part.object].append(i)
        most = max(map(len, rows))
        return _index([row + [-1] * (most - len(row)) for row in rows], (len(rows), most))

    @functools.cached_property
    def objects_with_parts(self) -> tuple[str, ...]:
        """Names sorted by code point (capitals first): the class order of the part models."""
        return tuple(sorted({self.objects[part.object] for part in self.parts}))

    @functools.cached_property
    def object_to_object_with_parts(self) -> np.ndarray:
        """[O] -> index into `objects_with_parts`, -1 for an object without parts."""
        place = {name: i for i, name in enumerate(self.objects_with_parts)}
        return _index([place.get(name, -1) for name in self.objects])

    @functools.cached_property
    def object_with_parts_to_object(self) -> np.ndarray:
        """[W] -> index into `objects`."""
        place = {name: i for i, name in enumerate(self.objects)}
        return _index([place[name] for name in self.objects_with_parts])

    @functools.cached_property
    def part_to_object_with_parts(self) -> np.ndarray:
        """[T] -> index into `objects_with_parts`."""
        return _frozen(self.object_to_object_with_parts[self.part_to_object])

    @functools.cached_property
    def phrase_to_object(self) -> np.ndarray:
        """[R] -> index into `objects`, for the phrases of all objects one after the other."""
        return _index([i for i, texts in enumerate(self.phrases) for _ in texts])

    @functools.cached_property
    def seen_object_mask(self) -> np.ndarray | None:
        """[O] bool, or None without a split."""
        return None if self.seen_objects is None else _frozen(np.array(self.seen_objects, bool))

    @functools.cached_property
    def seen_part_mask(self) -> np.ndarray | None:
        """[T] bool, or None without a split."""
        return None if self.seen_parts is None else _frozen(np.array(self.seen_parts, bool))

    @property
    def part_names(self) -> tuple[str, ...]:
        """[T] display names: "dog's head"."""
        return tuple(part.name for part in self.parts)

    # Other vocabularies

    def subset(
        self, objects: Iterable[str | int], parts: Iterable[int] | None = None
    ) -> "Vocabulary":
        """These objects in this order with their parts, or with those of `parts` (ids)."""
        keep = [self.index(name) for name in objects]
        chosen = range(len(self.parts)) if parts is None else parts
        new_index = {old: new for new, old in enumerate(keep)}
        ids = [i for i in chosen if self.parts[i].object in new_index]
        return Vocabulary(
            objects=tuple(self.objects[i] for i in keep),
            parts=tuple(
                self.parts[i]._replace(object=new_index[self.parts[i].object]) for i in ids
            ),
            phrases=tuple(self.phrases[i] for i in keep),
            background=self.background,
            background_object=new_index.get(self.background_object),
            seen_objects=self.seen_objects and tuple(self.seen_objects[i] for i in keep),
            seen_parts=self.seen_parts and tuple(self.seen_parts[i] for i in ids),
        )

    def seen_only(self) -> "Vocabulary":
        """The seen objects and parts: the classes of training."""
        if self.seen_objects is None:
            raise UserError(f"{self!r} has no seen/unseen split")
        ids = None if self.seen_parts is None else np.flatnonzero(self.seen_part_mask).tolist()
        return self.subset(np.flatnonzero(self.seen_object_mask).tolist(), ids)

    def with_first_phrases(self) -> "Vocabulary":
        """One phrase per object, the first; some published models prompt with that alone."""
        return dataclasses.replace(self, phrases=tuple(texts[:1] for texts in self.phrases))

    def index(self, name: str | int) -> int:
        """The id of an object given by name or id."""
        if isinstance(name, int | np.integer) and 0 <= name < len(self.objects):
            return int(name)
        if name in self.objects:
            return self.objects.index(name)
        raise UserError(f"{name!r} is not among the {len(self.objects)} objects of {self!r}")

    # As a value

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `Vocabulary.of` makes an equal vocabulary."""
        out: dict[str, Any] = {"name": self.name} if self.name else {}
        out["objects"] = [
            name if texts == (name,) and "|" not in name else {"name": name, "phrases": [*texts]}
            for name, texts in zip(self.objects, self.phrases, strict=True)
        ]
        out["parts"] = [
            {"object": self.objects[part.object], "part": part.generic, "name": part.name}
            for part in self.parts
        ]
        for field in ("background", "seen_objects", "seen_parts"):
            if value := getattr(self, field):
                out[field] = list(value)
        if self.background_object is not None:
            out["background_object"] = self.background_object
        return out

    @functools.cached_property
    def digest(self) -> str:
        """Changes with any word, order or relation; the vocabulary's name does not count."""
        words = {key: value for key, value in self.to_dict().items() if key != "name"}
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.objects)

    def __repr__(self) -> str:
        shown = ", ".join(self.objects[:3]) + (", ..." if len(self.objects) > 3 else "")
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return f"Vocabulary({self.name or shown}: {len(self)} objects, {len(self.parts)} parts)"


def _clean(name: Any, what: str) -> str:
    if not isinstance(name, str):
        hint = ": put it in quotes" if isinstance(name, bool | int | float) else ""
        raise UserError(f"{what} {name!r}: expected a word, got {type(name).__name__}{hint}")
    if not name.strip():
        raise UserError(f"{what} {name!r}: the name is empty")
    return " ".join(name.split())


def _part(objects: Sequence[str], owner: int, generic: str, name: str = "") -> Part:
    generic = _clean(generic, "part")
    if not isinstance(owner, int | np.integer) or not 0 <= owner < len(objects):
        raise UserError(f"part {generic!r} has no object: {owner!r} is not an index into objects")
    return Part(int(owner), generic, _clean(name or f"{objects[owner]}'s {generic}", "part"))


def _phrases(objects: Sequence[str], phrases: Sequence[Sequence[str]]) -> tuple:
    """Phrases stay as written, blanks included: published prompts depend on them."""
    if not phrases:
        return tuple((name,) for name in objects)
    if len(phrases) != len(objects):
        raise UserError(f"phrases has {len(phrases)} entries for {len(objects)} objects")
    for name, texts in zip(objects, phrases, strict=True):
        if isinstance(texts, str) or not texts:
            raise UserError(f"object {name!r}: expected a list of phrases, got {texts!r}")
        _refuse_duplicates((_clean(t, f"phrase of {name!r}") for t in texts), f"phrase of {name!r}")
    return tuple(tuple(texts) for texts in phrases)


def _refuse_duplicates(names: Iterable[str], what: str) -> None:
    found: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in found:
            twice = "twice" if found[key] == name else f"beside {found[key]!r}"
            raise UserError(f"{what} {name!r} is listed {twice}: remove one")
        found[key] = name


def _warn_of_long_names(names: Sequence[str]) -> None:
    if long := [name for name in names if len(name) > LONG_NAME]:
        log.warning(
            "%d name(s) longer than %d characters, the first starting %r: "
            "text encoders cut what exceeds their context",
            len(long),
            LONG_NAME,
            long[0][:40],
        )


def _index(rows: Sequence, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = np.array(rows, np.int32)
    return _frozen(array if shape is None else array.reshape(shape))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
