"""A confusion matrix as a picture: rows are what is true, columns what was answered."""

import numpy as np
from PIL import Image, ImageDraw

from opvseg_jax.inference import legend

NAMED = 72  # classes whose names can be read; more are drawn without names
SIDE = 640  # pixels of the square, roughly
TEXT, MARGIN = 150, 18  # pixels for the names, and around it all

# From paper over blue to ink: dark where much of a class went.
STOPS = np.array(
    [[255, 255, 255], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 48, 107]], np.float64
)


def confusion_picture(counts: np.ndarray, names: tuple[str, ...]) -> Image.Image:
    """counts [K + 1, K + 1], names [K] -> each row as shares of that class's true pixels.

    Classes that are neither true nor answered are left out.
    """
    touched = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    shown = np.flatnonzero(touched)
    if not shown.size:
        shown = np.arange(1)
    labels = [(*names, "nothing")[i] for i in shown]
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = (counts / total)[np.ix_(shown, shown)]
    cell = max(2, SIDE // len(shown))
    tiles = _colours(shares).repeat(cell, axis=0).repeat(cell, axis=1)
    square = Image.fromarray(tiles)
    is_true = counts.sum(axis=1)[shown] > 0
    return _with_names(square, labels, is_true, cell) if len(labels) <= NAMED else square


def _colours(shares: np.ndarray) -> np.ndarray:
    """[n, n] in 0..1 -> uint8 [n, n, 3]; small shares are shown, so the root is drawn."""
    place = np.sqrt(np.clip(shares, 0, 1)) * (len(STOPS) - 1)
    low = np.minimum(place.astype(int), len(STOPS) - 2)
    part = (place - low)[..., None]
    return (STOPS[low] * (1 - part) + STOPS[low + 1] * part + 0.5).astype(np.uint8)


def _with_names(
    square: Image.Image, labels: list[str], is_true: np.ndarray, cell: int
) -> Image.Image:
    """Names of classes that the truth does not hold are pale: their rows are empty."""
    size = max(8, min(14, cell - 1))
    sides = (side + TEXT + MARGIN for side in square.size)
    sheet = Image.new("RGB", tuple(sides), legend.PAPER)
    sheet.paste(square, (TEXT, TEXT))
    columns = Image.new("RGB", (TEXT, square.width), legend.PAPER)  # turned below
    beside, above = ImageDraw.Draw(sheet), ImageDraw.Draw(columns)
    for i, name in enumerate(labels):
        middle, room = i * cell + cell // 2, TEXT - MARGIN - 6
        ink = legend.INK if is_true[i] else legend.PALE
        legend.write(beside, (TEXT - 6, TEXT + middle), name, size, ink, room, anchor="rm")
        legend.write(above, (6, middle), name, size, legend.INK, room)
    sheet.paste(columns.transpose(Image.Transpose.ROTATE_90), (TEXT, 0))
    _grid(beside, len(labels), cell)
    return sheet


def _grid(draw: ImageDraw.ImageDraw, count: int, cell: int) -> None:
    """A frame, and a thin one around every right answer."""
    end = TEXT + count * cell
    draw.rectangle((TEXT, TEXT, end, end), outline=legend.PALE)
    for i in range(count):
        low = TEXT + i * cell
        draw.rectangle((low, low, low + cell - 1, low + cell - 1), outline=legend.PALE)
