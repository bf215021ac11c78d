"""How PartWorld looks: colours, patterns, backgrounds, light and sensor noise.

The canvas is one byte a pixel at twice the size of the image: bits 0-5 say which part of which
object lies there (0 is background), bit 6 the second tone of a pattern, bit 7 an outline or a dark
mark. So a scene is coloured by one table of 256 colours, whatever it holds.
"""

import functools
import math
from random import Random

import numpy as np
from PIL import Image

from opvseg_jax.pipeline.partworld_shapes import DARK, FAR, MAX_PARTS
from opvseg_jax.pipeline.partworld_words import PARTWORLD

CODES = 2 * MAX_PARTS  # Codes of one object: its parts, and the same on the far side.
PART_BITS, TONE_BIT = 63, 64

RGB = {
    "red": (206, 44, 40),
    "orange": (238, 132, 30),
    "yellow": (238, 214, 66),
    "green": (58, 158, 66),
    "blue": (46, 88, 204),
    "purple": (132, 62, 170),
    "pink": (244, 152, 190),
    "white": (236, 236, 234),
    "black": (48, 48, 52),
}
# Part -> (a colour it leans to, how far); every other part leans to white or black by SHADE.
TINT = {
    "wheel": ((44, 44, 48), 0.62),
    "window": ((206, 230, 242), 0.62),
    "beak": ((252, 226, 160), 0.45),
    "horn": ((244, 236, 220), 0.55),
    "stem": ((70, 130, 60), 0.5),
    "leaf": ((80, 150, 66), 0.4),
}
SHADE = {
    "head": 0.12,
    "ear": -0.3,
    "tail": -0.16,
    "leg": -0.12,
    "wing": 0.2,
    "fin": 0.2,
    "mane": -0.42,
    "door": -0.24,
    "cabin": 0.16,
    "engine": -0.34,
    "seat": 0.16,
    "arm": -0.2,
    "roof": -0.3,
    "center": -0.4,
}
UNPATTERNED = frozenset({"wheel", "window", "beak", "horn", "stem", "leaf", "center", "engine"})
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# What stripes, spots and checks add to a colour; black and white stay apart (dark and mid grey
# against light and mid grey), so that either word can be told from a pattern.
SECOND_TONE = dict.fromkeys(RGB, (BLACK, 0.6)) | {
    "red": (WHITE, 0.84),
    "green": (WHITE, 0.84),
    "blue": (WHITE, 0.84),
    "purple": (WHITE, 0.84),
    "white": (BLACK, 0.45),
    "black": (WHITE, 0.42),
}
TILE = 512


def lean(colour: tuple, to: tuple, by: float) -> tuple:
    """`colour` moved a share `by` of the way to the colour `to`."""
    return tuple(a + (b - a) * by for a, b in zip(colour, to, strict=True))


def palette(looks: list[tuple[str, str, str]], rng: Random) -> bytes:
    """The RGBA table of the canvas for objects of `looks` (kind, colour, pattern)."""
    table = np.zeros((256, 4), np.uint8)
    for slot, (kind, colour, _) in enumerate(looks):
        common = rng.uniform(-12, 12)
        base = tuple(min(255, max(0, c + common + rng.uniform(-8, 8))) for c in RGB[colour])
        other = lean(base, *SECOND_TONE[colour])
        edge = lean(base, WHITE, 0.32) if colour == "black" else lean(base, BLACK, 0.66)
        for i, part in enumerate(PARTWORLD[kind].parts):
            jitter = rng.uniform(-0.06, 0.06)
            for far in (0, FAR):
                row = 1 + slot * CODES + i + far
                for bit, tone in ((0, base), (TONE_BIT, other)):
                    table[row | bit] = (*shade(tone, part, jitter, far), 255)
                table[row | DARK] = table[row | DARK | TONE_BIT] = (*edge, 255)
    return table.tobytes()


def shade(tone: tuple, part: str, jitter: float, far: int) -> tuple:
    """The colour of a part of an object of colour `tone`."""
    if part in TINT:
        tone = lean(tone, *TINT[part])
    by = SHADE.get(part, 0.0) + jitter
    tone = lean(tone, WHITE if by > 0 else BLACK, abs(by))
    if far:
        tone = lean(tone, WHITE, 0.45) if part == "wheel" else lean(tone, BLACK, 0.28)
    return tuple(int(c) for c in tone)


def add_pattern(
    canvas: np.ndarray, slot: int, look: tuple, corners: tuple, extent: float, turn, rng
):
    """Sets the tone bit of the object in `slot`; corners (x0, y0, x1, y1) and extent in pixels."""
    kind, _, pattern = look
    size = len(canvas)
    x0, y0, x1, y1 = (min(size, max(0, int(c))) for c in corners)
    if pattern == "plain" or x1 <= x0 or y1 <= y0:
        return
    is_patterned = np.zeros(256, np.uint8)
    for i, part in enumerate(PARTWORLD[kind].parts):
        if part not in UNPATTERNED:
            is_patterned[1 + slot * CODES + i] = is_patterned[1 + slot * CODES + i + FAR] = TONE_BIT
    period = max(9.0, extent * rng.uniform(0.13, 0.19))
    c, s = math.cos(turn) / period, math.sin(turn) / period
    x = np.arange(x0, x1, dtype=np.float32) + np.float32(rng.random() * period)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(rng.random() * period)
    view = canvas[y0:y1, x0:x1]
    tone = TONES[pattern](
        x * np.float32(c) + y * np.float32(s), y * np.float32(c) - x * np.float32(s)
    )
    view |= is_patterned[view] * tone


def stripes(u: np.ndarray, _) -> np.ndarray:
    return (u - np.floor(u)) < 0.42


def checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return ((np.floor(u * 1.3) + np.floor(v * 1.3)).astype(np.int32) & 1).astype(bool)


def spots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    u = u + row * np.float32(0.5)
    return (u - np.floor(u) - 0.5) ** 2 + (v - row - 0.5) ** 2 < 0.1


TONES = {"striped": stripes, "checkered": checks, "spotted": spots}


def clouds(rng: np.random.Generator, *cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise [TILE, TILE] of about unit spread: a sum of grids of (rows, columns)."""
    total = np.zeros((TILE, TILE), np.float32)
    for rows, columns in cells:
        grid = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
        total += np.asarray(grid.resize((TILE, TILE), Image.Resampling.BICUBIC))
    return total / math.sqrt(len(cells))


def grass(rng: np.random.Generator) -> np.ndarray:
    blades = clouds(rng, (40, 256)) * 15 + clouds(rng, (10, 12), (80, 80)) * 14
    return np.stack([96 + blades, 142 + blades * 1.2, 74 + blades * 0.7], axis=-1)


def sky(rng: np.random.Generator) -> np.ndarray:
    cover = np.clip(clouds(rng, (9, 6), (18, 12), (40, 30)) * 0.6, 0, 1)[..., None]
    return np.array([138, 186, 230]) * (1 - cover) + np.array([240, 243, 247]) * cover


def sand(rng: np.random.Generator) -> np.ndarray:
    grain = rng.standard_normal((TILE, TILE)) * 9 + clouds(rng, (12, 8), (60, 20)) * 9
    return np.stack([214 + grain, 190 + grain, 142 + grain], axis=-1)


def water(rng: np.random.Generator) -> np.ndarray:
    rows = np.arange(TILE)[:, None] * (2 * math.pi / 17)
    wave = np.sin(rows + clouds(rng, (12, 6)) * 2.2)
    light = wave * 12 + np.maximum(wave - 0.75, 0) * 160 + clouds(rng, (8, 8)) * 8
    return np.stack([52 + light, 118 + light, 150 + light], axis=-1)


def bricks(rng: np.random.Generator) -> np.ndarray:
    high, wide = 14, 34
    y, x = np.mgrid[:TILE, :TILE]
    row = y // high
    x = x + (row % 2) * (wide // 2)
    tone = rng.standard_normal((TILE // high + 1, TILE // wide + 2))[row, x // wide][..., None]
    stone = np.array([168, 104, 82]) + tone * 13 + rng.standard_normal((TILE, TILE, 1)) * 5
    is_joint = ((y % high < 2) | (x % wide < 2))[..., None]
    return np.where(is_joint, np.array([196, 190, 180]), stone)


def snow(rng: np.random.Generator) -> np.ndarray:
    drift = clouds(rng, (14, 6), (30, 10)) * 8 + rng.standard_normal((TILE, TILE)) * 2.5
    return np.stack([210 + drift, 217 + drift, 228 + drift * 0.7], axis=-1)


@functools.cache
def background_tile(name: str) -> Image.Image:
    """A large picture of a background, from which scenes cut their own piece."""
    draw = {
        "grass": grass,
        "sky": sky,
        "sand": sand,
        "water": water,
        "bricks": bricks,
        "snow": snow,
    }
    tile = draw[name](np.random.default_rng(sum(map(ord, name))))
    return Image.fromarray(np.clip(tile, 0, 255).astype(np.uint8))


def background(name: str, size: int, rng: Random) -> np.ndarray:
    """A piece of a background [S, S, 3], cut at a random place and zoom."""
    side = min(TILE, size * rng.uniform(0.75, 1.5))
    x, y = rng.random() * (TILE - side), rng.random() * (TILE - side)
    place = (x, y, x + side, y + side)
    piece = background_tile(name).resize((size, size), Image.Resampling.BILINEAR, box=place)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(piece)


@functools.cache
def noise_tile() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((TILE, TILE, 3)).astype(np.float32)


def noise(size: int, rng: Random) -> np.ndarray:
    """Sensor noise [S, S, 3] of unit spread, cut from one tile: drawing it anew costs more."""
    tile = noise_tile()
    if size > TILE // 2:
        tile = np.tile(tile, (2 * size // TILE + 1, 2 * size // TILE + 1, 1))
    x, y = rng.randrange(tile.shape[1] - size), rng.randrange(tile.shape[0] - size)
    return tile[y : y + size, x : x + size]


def light(slots: np.ndarray, tops: list[tuple[float, float]], rng: Random) -> np.ndarray:
    """Brightness [S, S]: a slope over the scene, times each object's own, brighter above.

    slots [S, S] is 0 for background and i + 1 for object i, which spans the rows `tops[i]`.
    """
    size = len(slots)
    angle, steep = rng.random() * 2 * math.pi, rng.uniform(0.0, 0.34)
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope = line * np.float32(steep * math.cos(angle))
    slope = slope + (line * np.float32(steep * math.sin(angle)))[:, None]
    own = np.ones((len(tops) + 1, size), np.float32)
    for i, (top, bottom) in enumerate(tops):
        down = (np.arange(size) - top) / max(bottom - top, 1.0)
        own[i + 1] = 1.1 - 0.24 * np.clip(down, 0, 1)
    rows = np.arange(size)[:, None]
    return (1 + slope) * own.ravel()[slots * size + rows] * np.float32(rng.uniform(0.74, 1.08))


def colour(canvas: np.ndarray, table: bytes, behind: np.ndarray, shine: np.ndarray, rng: Random):
    """canvas [2S, 2S], behind [S, S, 3], brightness shine [S, S] -> the image [S, S, 3]."""
    drawn = Image.fromarray(canvas)
    drawn.putpalette(table, "RGBA")
    drawn = np.asarray(drawn.convert("RGBA").reduce(2))
    # Where nothing is drawn the table is zero, so the colours are already weighted by coverage.
    bare = (255 - drawn[..., 3:]) * np.float32(1 / 255)
    image = drawn[..., :3] + behind * bare
    warm = rng.uniform(-0.05, 0.05)
    image *= shine[..., None] * np.array([1 + warm, 1.0, 1 - warm], np.float32)
    image += noise(len(shine), rng) * np.float32(rng.uniform(0.0, 7.0))
    return np.clip(image, 0, 255).astype(np.uint8)
