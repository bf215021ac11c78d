"""What a picture shows, in words: the objects and parts found, their colours, and the panel."""

import dataclasses
import functools
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from opvseg_jax.inference import masks, palette
from opvseg_jax.vocabulary import Vocabulary

PAPER, INK, PALE = (255, 255, 255), (28, 30, 34), (122, 127, 135)
MIN_FONT, MAX_FONT = 13, 44
LINE, GAP = 1.62, 0.3  # line height over font size; gap above an object over line height
SPACED = 12  # so many objects are set apart by gaps; more need the room

# Looked for by name, for letters that Pillow's own font lacks; the first that has them is taken.
WIDER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "segoeui.ttf")
WIDER_FONTS += ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf")
WIDER_FONTS += ("msyh.ttc", "YuGothM.ttc", "malgun.ttf", "PingFang.ttc", "Arial Unicode.ttf")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A class that is present: index in the vocabulary, colour, and share of the image."""

    index: int
    name: str
    colour: palette.Colour
    share: float


@dataclasses.dataclass(frozen=True)
class Group(Entry):
    """An object and those of its parts that are present, the largest first."""

    parts: tuple[Entry, ...] = ()


def groups(object_map: np.ndarray, part_map: np.ndarray, vocabulary: Vocabulary) -> list[Group]:
    """object_map, part_map int [H, W], -1 = nothing -> what is present, the largest first.

    An object that is present by its parts alone is listed too. The vocabulary's background object
    is not.
    """
    objects = masks.areas(object_map, len(vocabulary.objects))
    parts = masks.areas(part_map, len(vocabulary.parts))
    result = []
    for index, name in enumerate(vocabulary.objects):
        ids = [k for k, part in enumerate(vocabulary.parts) if part.object == index]
        area = objects[index] or sum(parts[k] for k in ids)
        if not area or index == vocabulary.background_object:
            continue
        shades = palette.part_colours(index, len(ids))
        present = [
            Entry(k, vocabulary.parts[k].generic, shade, parts[k] / part_map.size)
            for k, shade in zip(ids, shades, strict=True)
            if parts[k]
        ]
        present.sort(key=lambda entry: -entry.share)
        colour = palette.object_colour(index)
        result.append(Group(index, name, colour, area / object_map.size, tuple(present)))
    return sorted(result, key=lambda group: -group.share)


def panel(found: list[Group], height: int, max_width: int) -> Image.Image:
    """The names at the side of a picture of this height; the panel is at least that high."""
    size, rows, left_out = _fitted(found, height)
    if not found:
        rows = [(0, None, "nothing found")]
    if left_out:
        rows = [*rows, (0, None, f"+ {left_out} more")]
    line, pad = round(LINE * size), round(0.9 * size)
    named = [percent(entry.share) if entry and not level else "" for level, entry, _ in rows]
    share_width = max((_width(text, size) for text in named), default=0) + size
    widest = max(_indent(level, size) + _width(name, size) for level, _, name in rows)
    width = min(max_width, round(pad + widest + share_width + pad))
    gap = round(GAP * line) if len(found) <= SPACED else 0
    gaps = [gap * sum(level == 0 for level, *_ in rows[1 : i + 1]) for i in range(len(rows))]
    sheet = Image.new("RGB", (width, max(height, line * len(rows) + gaps[-1] + 2 * pad)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (level, entry, name) in enumerate(rows):
        middle, left = pad + line * i + gaps[i] + line // 2, pad + _indent(level, size)
        if entry:
            _chip(sheet, left - round(0.55 * size), middle, size, entry, level)
        room = width - left - pad - (share_width if named[i] else 0)
        ink = INK if entry else PALE
        write(draw, (left + round(0.35 * size), middle), name, size, ink, room, bold=level == 0)
        write(draw, (width - pad, middle), named[i], size, PALE, anchor="rm")
    return sheet


def percent(share: float) -> str:
    """A share in whole percent; what is there is never said to be 0%."""
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def write(draw, at, text, size, ink, room=None, *, anchor="lm", bold=False) -> None:
    """Writes one line, in a font that has its letters; what exceeds `room` pixels is elided."""
    font, text = font_for(text, size)
    if room is not None and font.getlength(text) > room:
        kept = len(text)
        while kept and font.getlength(text[:kept].rstrip() + "…") > room:
            kept -= 1
        text = text[:kept].rstrip() + "…"
    # Pillow's own font has no bold cut: a thin stroke of the same ink stands in for it.
    stroke = size / 45 if bold else 0
    draw.text(at, text, font=font, fill=ink, anchor=anchor, stroke_width=stroke, stroke_fill=ink)


def font_for(text: str, size: int) -> tuple[ImageFont.ImageFont, str]:
    """A font that has every letter of the text; failing that, the text with "?" for the others."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    own = _own_font(size)
    if _has_letters(own, text):
        return own, text
    for name in WIDER_FONTS:
        font = _font_named(name, size)
        if font and _has_letters(font, text):
            return font, text
    return own, "".join(
        letter if _has_letters(own, letter) else _plain(own, letter) for letter in text
    )


def _plain(font: ImageFont.ImageFont, letter: str) -> str:
    """The letter without its accents, or "?"."""
    base = unicodedata.normalize("NFKD", letter)[:1]
    return base if base.isascii() and _has_letters(font, base) else "?"


def _has_letters(font: ImageFont.ImageFont, text: str) -> bool:
    """Whether no letter is drawn as the box that stands for a missing one."""
    missing = bytes(font.getmask("\U0010fffe"))
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in set(text))


@functools.cache
def _own_font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.cache
def _font_named(name: str, size: int) -> ImageFont.ImageFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _fitted(found: list[Group], height: int) -> tuple[int, list, int]:
    """Font size, rows (level, entry, name), and how many classes there is no room for."""
    wanted = sum(1 + len(group.parts) for group in found)
    size = min(MAX_FONT, max(MIN_FONT, round(height / 26)))
    gaps = GAP * len(found) if len(found) <= SPACED else 0
    size = max(MIN_FONT, min(size, int(height / (LINE * (wanted + gaps) + 1.8))))
    room = max(8, int((height / size - 1.8) / LINE - gaps))
    if wanted > room:
        room -= 1  # for "+ n more"
    shown = found[:room]
    # Objects come first; what room is left goes to the largest parts, wherever they belong.
    parts = sorted((-p.share, p.index) for group in shown for p in group.parts)
    kept = {index for _, index in parts[: max(0, room - len(shown))]}
    rows = []
    for group in shown:
        rows.append((0, group, _readable(group)))
        rows += [(1, part, _readable(part)) for part in group.parts if part.index in kept]
    return size, rows, wanted - len(rows)


def _readable(entry: Entry) -> str:
    """The name, or the value in the label map where no font here has a letter of the name."""
    _, text = font_for(entry.name, MIN_FONT)
    return entry.name if text.strip("? ") else f"label {entry.index + 1}"


def _indent(level: int, size: int) -> int:
    return round((1.0 + 1.0 * level) * size)


def _width(text: str, size: int) -> float:
    font, text = font_for(text, size)
    return font.getlength(text)


def _chip(sheet: Image.Image, x: int, y: int, size: int, entry: Entry, level: int) -> None:
    """A rounded square for an object, a smaller disc for a part."""
    r = round((0.42 if level == 0 else 0.34) * size)
    shape = Image.new("L", (8 * r, 8 * r))  # four times too large: reduced, its edge is smooth
    draw = ImageDraw.Draw(shape)
    draw.rounded_rectangle((0, 0, 8 * r - 1, 8 * r - 1), 4 * r if level else 1.4 * r, fill=255)
    sheet.paste(entry.colour, (x - r, y - r), shape.reduce(4))
