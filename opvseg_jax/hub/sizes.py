"""What a config changes in a size of a method, and what training has to know of a method.

Published sizes have published encoders. The size "tiny" is made around any: the shipped ones, or
those of a user.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from opvseg_jax import templates as sentences
from opvseg_jax.core.errors import UserError
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower
from opvseg_jax.hierarchy.propagation import Seeds
from opvseg_jax.hub.presets import nearest
from opvseg_jax.methods.catseg import sizes as catseg
from opvseg_jax.methods.catseg.sizes import Sliding
from opvseg_jax.methods.hops import sizes as hops
from opvseg_jax.methods.partcatseg import sizes as partcatseg
from opvseg_jax.methods.pcaseg import parts as pcaseg_parts
from opvseg_jax.methods.pcaseg import sizes as pcaseg

TINY = "tiny"
FIXED = ("clip", "dino", "options")  # fields of a size that a config does not change by name
NESTED = {"seeds": Seeds, "sliding": Sliding}  # where None may become one of these

Table = tuple[tuple[str, float], ...]  # (pattern of leaf paths, number), the first match counts


@dataclasses.dataclass(frozen=True)
class Makeup:
    """What training has to know of a method. The tables are those of its `sizes.py`.

    `same_start`: leaves that begin as copies of others, (pattern, which leaf).
    """

    tiny: Callable[[ClipSize, DinoSize], Any]
    learning_rates: Callable[[Any], Table]
    weight_decay: Table
    trains_text: bool = False  # words are encoded in every step
    same_start: tuple[tuple[str, str], ...] = ()

    def origin(self, path: str) -> str:
        """The leaf whose first value this one has, mostly itself."""
        for pattern, target in self.same_start:
            if match := re.fullmatch(pattern, path):
                return match.expand(target)
        return path


def _pcaseg_rates(size: Any) -> Table:
    is_eva = isinstance(size.clip, EvaClipSize)
    return pcaseg.LEARNING_RATES if is_eva else pcaseg.OPENAI_LEARNING_RATES


def _hops_rates(size: Any) -> Table:
    chained = size.options.layers == "chained"
    return hops.LEARNING_RATES if chained else hops.LEARNING_RATES_LAST


MAKEUPS: dict[str, Makeup] = {
    "catseg": Makeup(
        lambda clip, dino: catseg.tiny(clip),
        lambda size: catseg.LEARNING_RATES,
        catseg.WEIGHT_DECAY,
        trains_text=True,
    ),
    "pcaseg": Makeup(
        lambda clip, dino: pcaseg.tiny(clip), _pcaseg_rates, pcaseg.WEIGHT_DECAY, trains_text=True
    ),
    "pcaseg-parts": Makeup(
        pcaseg_parts.tiny,
        lambda size: pcaseg_parts.LEARNING_RATES,
        pcaseg_parts.WEIGHT_DECAY,
        same_start=pcaseg_parts.SAME_START,
    ),
    "partcatseg": Makeup(
        partcatseg.tiny,
        lambda size: partcatseg.LEARNING_RATES,
        partcatseg.WEIGHT_DECAY,
        same_start=partcatseg.SAME_START,
    ),
    "hops": Makeup(hops.tiny, _hops_rates, hops.WEIGHT_DECAY),
}


def makeup(method: str) -> Makeup:
    """That of a method that can be trained here."""
    if method not in MAKEUPS:
        raise UserError(f"unknown method {method!r}: {nearest(method, MAKEUPS)}")
    return MAKEUPS[method]


def changed_size(size: Any, options: Mapping[str, Any]) -> Any:
    """A size with the `options` of a config."""
    size = changed(size, options, "model.options")
    if "templates" not in options:
        return size
    count = len(sentences.listed(size.templates))  # each is a channel of its own
    return dataclasses.replace(size, head=dataclasses.replace(size.head, num_prompts=count))


def clip_from(fields: Mapping[str, Any]) -> ClipSize:
    """What `dataclasses.asdict` and JSON have made of a size."""
    towers = {name: Tower(**fields[name]) for name in ("vision", "text")}
    return ClipSize(**{**fields, **towers})


def dino_from(fields: Mapping[str, Any]) -> DinoSize:
    return DinoSize(**{**fields, "tower": Tower(**fields["tower"])})


def changed(size: Any, options: Mapping[str, Any], where: str) -> Any:
    """`size` with some fields replaced; fields of its `options` are named as if they were its own.

    A field that is itself a size takes a mapping: {"head": {"hidden": 64}}.
    """
    inner = getattr(size, "options", None)
    own = [field.name for field in dataclasses.fields(size) if field.name not in FIXED]
    below = [field.name for field in dataclasses.fields(inner)] if inner is not None else []
    mine, theirs = {}, {}
    for key, value in options.items():
        if key not in own + below:
            raise UserError(f"unknown key '{where}.{key}': {nearest(key, own + below)}")
        into, holder = (mine, size) if key in own else (theirs, inner)
        into[key] = _fitting(getattr(holder, key), value, key, f"{where}.{key}")
    try:
        if theirs:
            mine["options"] = dataclasses.replace(inner, **theirs)
        return dataclasses.replace(size, **mine)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _fitting(old: Any, value: Any, key: str, where: str) -> Any:
    """`value` for a field that holds `old`, of the same type."""
    if isinstance(value, Mapping) and (key in NESTED or dataclasses.is_dataclass(old)):
        return changed(NESTED[key]() if old is None else old, value, where)
    if old is None or (value is None and key in NESTED):
        return value
    if isinstance(old, tuple) and isinstance(value, tuple | list):
        if len(value) == len(old) and all(type(item) is type(old[0]) for item in value):
            return tuple(value)
    elif type(value) is type(old):
        return value
    raise UserError(f"{where}: expected {type(old).__name__} as in {old!r}, got {value!r}")
