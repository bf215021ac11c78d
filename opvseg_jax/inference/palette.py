"""Colours that stay apart for colour-blind eyes: a hue for each object, its shades for the parts.

The first colours are those of Okabe and Ito (jfly.uni-koeln.de/color), then four of Paul Tol's
muted scheme. Later objects repeat them lighter, darker and turned in hue. Parts differ above all in
lightness, the one thing that every eye sees. All mixing happens in OKLCH, where equal steps look
equal. A class has the same colour in every picture of a vocabulary.
"""

import functools
import math

import numpy as np

Colour = tuple[int, int, int]

BASE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442")
BASE += ("#AA4499", "#44AA99", "#CC6677", "#6A5ACD")
LIGHTER = (0.0, 0.12, -0.12, 0.06, -0.06, 0.18, -0.18)  # one for each round through BASE
DARKEST, LIGHTEST, SPREAD = 0.47, 0.92, 80.0  # of the parts of one object; degrees of hue

# Björn Ottosson, "A perceptual color space for image processing" (2020).
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@functools.cache
def object_colour(index: int) -> Colour:
    """The colour of the object with this index in its vocabulary."""
    turn, place = divmod(index, len(BASE))
    lightness, chroma, hue = _oklch(from_hex(BASE[place]))
    lightness = min(0.9, max(0.35, lightness + LIGHTER[turn % len(LIGHTER)]))
    return _srgb(lightness, chroma, hue + 11.0 * turn)


@functools.cache
def part_colours(index: int, count: int) -> tuple[Colour, ...]:
    """Shades of an object's colour for its `count` parts; neighbours in the list differ most."""
    _, chroma, hue = _oklch(object_colour(index))
    step = next(
        s for s in range(max(1, round(0.618 * count)), count + 2) if math.gcd(s, count) == 1
    )
    colours = []
    for place in range(count):
        at = (place * step % count + 0.5) / count  # 0..1, far jumps between neighbours
        turn = SPREAD * (place / max(1, count - 1) - 0.5)
        lightness = DARKEST + (LIGHTEST - DARKEST) * at
        colours.append(_srgb(lightness, max(0.11, chroma), hue + turn))
    return tuple(colours)


def from_hex(text: str) -> Colour:
    return tuple(bytes.fromhex(text.removeprefix("#")))


def to_hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()


def _linear(colour: Colour) -> np.ndarray:
    values = np.asarray(colour) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _oklch(colour: Colour) -> tuple[float, float, float]:
    lightness, a, b = TO_LAB @ np.cbrt(TO_LMS @ _linear(colour))
    return float(lightness), math.hypot(a, b), math.degrees(math.atan2(b, a))


def _srgb(lightness: float, chroma: float, hue: float) -> Colour:
    """The nearest colour of that lightness and hue that a screen can show."""
    angle = math.radians(hue)
    for share in np.linspace(1, 0, 41):  # less chroma until it fits
        lab = lightness, share * chroma * math.cos(angle), share * chroma * math.sin(angle)
        rgb = np.linalg.solve(TO_LMS, np.linalg.solve(TO_LAB, lab) ** 3)
        if rgb.min() >= -1e-4 and rgb.max() <= 1 + 1e-4:
            break
    rgb = np.clip(rgb, 0, 1)
    coded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return tuple(int(value) for value in np.round(coded * 255))
