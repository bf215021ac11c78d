"""Sentences that a name is put into before it is encoded.

Published sets are read from `data/vocab/templates.json`; their order matters where templates stay
separate channels. "{}" is replaced by the name as it stands.
"""

import difflib
import functools
import json
from collections.abc import Sequence

from opvseg_jax.core.assets import data_file
from opvseg_jax.core.errors import UserError

BARE = "{}"

OWN = {
    # The name alone: for text towers that are fed raw names.
    "bare": (BARE,),
    # The shipped two-stage method; a few sentences about size and view tell more than eighty
    # about origami, and a new vocabulary is encoded ten times faster.
    "zeroshot": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of a small {}.",
        "a photo of a large {}.",
        "a cropped photo of a {}.",
        "a close-up photo of a {}.",
        "a {} in the scene.",
    ),
    # Parts are seen on their owner, which the phrase names ("dog's head").
    "zeroshot_parts": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a close-up photo of a {}.",
        "a cropped photo of the {}.",
    ),
    # Wordings of the tiny world's captions, the only ones that the tiny CLIP has read.
    "partworld": ("a {}", "a photo of a {}", "a picture of a {}", "this is a {}"),
    "partworld_parts": ("{}", "a photo of a {}", "a close-up of a {}", "a picture of a {}"),
}

# How a part of an object is named inside a template.
PART_PHRASES = {
    "possessive": "{object}'s {part}",  # the class strings of HOPS and PartCATSeg
    "plain": "{object} {part}",  # OV-PARTS CLIPSeg, PartCLIPSeg
    "of": "{part} of a {object}",  # own
}


@functools.cache
def published() -> dict[str, tuple[str, ...]]:
    """The published sets by name."""
    data = json.loads(data_file("vocab", "templates.json").read_text(encoding="utf-8"))
    return {name: tuple(texts) for name, texts in data["sets"].items()}


def names() -> tuple[str, ...]:
    """Every name that `named` knows."""
    return tuple(sorted({**published(), **OWN}))


def named(name: str) -> tuple[str, ...]:
    """The templates of a set, in order."""
    known = {**published(), **OWN}
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names())}"
        raise UserError(f"unknown template set {name!r}: {hint}")
    return known[name]


def listed(templates: str | Sequence[str]) -> tuple[str, ...]:
    """A sentence, several, or those of a set by its name."""
    if not isinstance(templates, str):
        return tuple(templates)
    return (templates,) if BARE in templates else named(templates)


def fill(template: str, name: str) -> str:
    """The sentence. A plain replacement, so that braces in a name stay what they are."""
    if template.count(BARE) != 1:
        raise UserError(f"template {template!r}: expected exactly one '{{}}' for the name")
    return template.replace(BARE, name)


def part_phrase(owner: str, part: str, style: str = "possessive") -> str:
    """How a part of an object is called: "dog's head", "dog head", "head of a dog"."""
    if style not in PART_PHRASES:
        raise UserError(f"unknown part style {style!r}: known are {', '.join(PART_PHRASES)}")
    return PART_PHRASES[style].format(object=owner, part=part)
