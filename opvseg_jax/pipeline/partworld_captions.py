"""What PartWorld's captions say, and when that is true of an image.

A fact is a tuple: ("kind", kind), ("look", colour, pattern, kind), ("attribute", word, kind),
("part", kind, part), ("generic", part) or ("background", name).
"""

import functools
import re
from random import Random
from typing import NamedTuple

from opvseg_jax.pipeline.partworld_words import ATTRIBUTES, BACKGROUNDS, GENERIC_PARTS, KINDS

Fact = tuple[str, ...]
Facts = frozenset[Fact]


class Caption(NamedTuple):
    """A sentence and what it claims."""

    text: str
    facts: Facts


class Seen(NamedTuple):
    """One visible object: its look and those of its parts that can be seen, the largest first."""

    kind: str
    colour: str
    pattern: str
    parts: tuple[str, ...]


WHOLE = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a photo of {} .",
    "a painting of {}",
    "this is {}",
    "a scene with {}",
)
CLOSE = ("{}", "a photo of {}", "a close-up of {}", "a close-up photo of {}", "a picture of {}")
PART = ("the {part} of {thing}", "{thing}'s {part}")
NAMES = ("{kind}'s {part}", "{kind} {part}", "{part} of {kind}")


def true_of(facts: Facts, claimed: Facts) -> bool:
    """Whether everything that is claimed is among an image's facts."""
    return claimed <= facts


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def facts_of(objects: list[Seen], background: str | None) -> Facts:
    """All facts of an image; `background` is None where too little of it is visible."""
    facts: set[Fact] = set()
    for thing in objects:
        kind = thing.kind
        facts |= {("kind", kind), ("look", thing.colour, thing.pattern, kind)}
        facts |= {("attribute", thing.colour, kind), ("attribute", thing.pattern, kind)}
        facts |= {("part", kind, part) for part in thing.parts}
        facts |= {("generic", part) for part in thing.parts}
    if background:
        facts.add(("background", background))
    return frozenset(facts)


def describe(thing: Seen, rng: Random, plainly: float = 0.3) -> tuple[str, Facts]:
    """A noun phrase such as "a red striped dog"; with chance `plainly` only "a dog"."""
    kind, colour, pattern = thing.kind, thing.colour, thing.pattern
    draw = rng.random()
    if draw < plainly:
        return with_article(kind), frozenset({("kind", kind)})
    draw = (draw - plainly) / (1 - plainly)
    if draw < 0.4:
        return with_article(f"{colour} {kind}"), frozenset({("attribute", colour, kind)})
    if draw < 0.6:
        return with_article(f"{pattern} {kind}"), frozenset({("attribute", pattern, kind)})
    words = f"plain {colour}" if pattern == "plain" else f"{colour} {pattern}"
    return with_article(f"{words} {kind}"), frozenset({("look", colour, pattern, kind)})


def scene_caption(objects: list[Seen], background: str | None, rng: Random) -> Caption:
    """Names one to three of the objects, and often where they are."""
    named = list(objects[-3:])
    if len(named) > 1 and rng.random() < 0.3:
        named = [rng.choice(named)]
    rng.shuffle(named)
    phrases, facts = [], frozenset()
    for thing in named:
        phrase, claimed = describe(thing, rng)
        phrases.append(phrase)
        facts |= claimed
    text = " and ".join(phrases)
    if background and rng.random() < 0.6:
        text = f"{text} {BACKGROUNDS[background]}"
        facts |= {("background", background)}
    return Caption(rng.choice(WHOLE).format(text), facts)


def object_caption(thing: Seen, rng: Random) -> Caption:
    phrase, facts = describe(thing, rng, plainly=0.5)
    return Caption(rng.choice(WHOLE).format(phrase), facts)


def part_caption(
    thing: Seen, part: str, rng: Random, templates: tuple[str, ...] = WHOLE
) -> Caption:
    """Says "the head of a red dog", "a dog's head", "dog head", or now and then only "a head"."""
    draw = rng.random()
    fact = ("part", thing.kind, part)
    if draw < 0.15:
        return Caption(
            rng.choice(templates).format(with_article(part)), frozenset({("generic", part)})
        )
    if draw < 0.4:
        text = rng.choice(NAMES).format(kind=thing.kind, part=part)
        return Caption(text, frozenset({fact}))
    phrase, facts = describe(thing, rng, plainly=0.7)
    text = rng.choice(PART).format(thing=phrase, part=part)
    return Caption(rng.choice(templates).format(text), facts | {fact})


def background_caption(background: str, rng: Random) -> Caption:
    text = rng.choice(WHOLE).format(background)
    return Caption(text, frozenset({("background", background)}))


def captions_of(
    objects: list[Seen], background: str | None, focus: tuple[int, str | None] | None, rng: Random
) -> list[Caption]:
    """Some captions of an image, different in every call.

    `focus` is (index into objects, part or None) when the photo was taken of that. Objects come
    with the nearest last; without any of them there must be a background.
    """
    out = []
    if focus and focus[1] in objects[focus[0]].parts:
        out += [part_caption(objects[focus[0]], focus[1], rng, CLOSE) for _ in range(3)]
    elif focus:
        out += [object_caption(objects[focus[0]], rng) for _ in range(2)]
    if objects:
        out.append(scene_caption(objects, background, rng))
        thing = objects[focus[0]] if focus else rng.choice(objects)
        out.append(object_caption(thing, rng))
        if thing.parts:
            part = thing.parts[int(len(thing.parts) * rng.random() ** 1.5)]
            out.append(part_caption(thing, part, rng))
    if background and (not objects or rng.random() < 0.15):
        out.append(background_caption(background, rng))
    return out


@functools.cache
def caption_words() -> tuple[str, ...]:
    """Every word that a caption can hold, split as CLIP's tokenizer splits text."""
    texts = [*WHOLE, *CLOSE, *PART, *NAMES, *BACKGROUNDS, *BACKGROUNDS.values(), "a", "an", "and"]
    texts += [*KINDS, *GENERIC_PARTS, *ATTRIBUTES]
    plain = re.sub(r"\{\w*\}", " ", " ".join(texts))
    return tuple(sorted(set(re.findall(r"'s|[a-z]+|[^\sa-z]", plain))))
