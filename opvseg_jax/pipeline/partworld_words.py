"""The words of PartWorld: kinds of objects and their parts, attributes, backgrounds, splits.

Importing this draws nothing and needs nothing but the standard library.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of object: the names of its parts and whether training ever labels its pixels."""

    parts: tuple[str, ...]
    is_seen: bool = True


# Unseen kinds are made of part names that seen kinds have too (a cow's horn is the exception, so
# that one wholly new part word exists).
PARTWORLD: dict[str, Kind] = {
    "dog": Kind(("head", "ear", "leg", "tail", "torso")),
    "cat": Kind(("head", "ear", "leg", "tail", "torso")),
    "horse": Kind(("head", "mane", "leg", "tail", "torso")),
    "bird": Kind(("head", "beak", "wing", "tail", "torso")),
    "fish": Kind(("head", "fin", "tail", "torso")),
    "car": Kind(("wheel", "door", "window", "body")),
    "truck": Kind(("wheel", "window", "cabin", "trailer")),
    "airplane": Kind(("wing", "tail", "engine", "body")),
    "chair": Kind(("back", "seat", "leg")),
    "house": Kind(("roof", "wall", "door", "window")),
    "robot": Kind(("head", "arm", "leg", "torso")),
    "flower": Kind(("petal", "center", "stem", "leaf")),
    "cow": Kind(("head", "horn", "leg", "tail", "torso"), is_seen=False),
    "duck": Kind(("head", "beak", "wing", "tail", "torso"), is_seen=False),
    "bus": Kind(("wheel", "door", "window", "body"), is_seen=False),
    "sofa": Kind(("back", "seat", "arm", "leg"), is_seen=False),
}
KINDS: tuple[str, ...] = tuple(PARTWORLD)
PARTS: tuple[tuple[str, str], ...] = tuple((k, p) for k in KINDS for p in PARTWORLD[k].parts)
GENERIC_PARTS: tuple[str, ...] = tuple(dict.fromkeys(part for _, part in PARTS))
SEEN: tuple[str, ...] = tuple(k for k in KINDS if PARTWORLD[k].is_seen)
UNSEEN: tuple[str, ...] = tuple(k for k in KINDS if not PARTWORLD[k].is_seen)

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
PATTERNS = ("plain", "striped", "spotted", "checkered")
ATTRIBUTES = COLOURS + PATTERNS

# Background -> how a caption says that something is there.
BACKGROUNDS: dict[str, str] = {
    "grass": "on grass",
    "sky": "in the sky",
    "sand": "on sand",
    "water": "in water",
    "bricks": "in front of bricks",
    "snow": "on snow",
}

# Held out of every split but val_novel, pixels and captions alike: one or two for every kind.
NOVEL_LOOKS: frozenset[tuple[str, str]] = frozenset(
    {
        ("striped", "truck"),
        ("spotted", "car"),
        ("checkered", "dog"),
        ("striped", "horse"),
        ("spotted", "fish"),
        ("checkered", "house"),
        ("striped", "cow"),
        ("checkered", "bus"),
        ("green", "cat"),
        ("blue", "dog"),
        ("red", "bird"),
        ("yellow", "airplane"),
        ("purple", "chair"),
        ("pink", "robot"),
        ("orange", "flower"),
        ("white", "duck"),
        ("green", "sofa"),
        ("red", "truck"),
    }
)

# Split -> its length when nobody asks for another. Images are made on demand.
SPLITS: dict[str, int] = {
    "pretrain": 100_000,
    "train": 10_000,
    "val_seen": 500,
    "val_unseen": 500,
    "val_novel": 500,
}
