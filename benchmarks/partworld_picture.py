"""Draws data/partworld.png: every kind with its parts, and scenes with their label maps.

Run: python benchmarks/partworld_picture.py data/partworld.png
"""

import argparse
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from opvseg_jax.pipeline import partworld_scene
from opvseg_jax.pipeline.partworld import KINDS, PARTS, PARTWORLD, PartWorld

SIZE, GAP, LINE, COLUMNS = 128, 6, 15, 4
# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0)],
    np.uint8,
)
FONT = ImageFont.load_default(12)


def tint(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`image` in grey with every label that is not -1 in a colour of its own."""
    grey = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1) * 0.55 + 90
    colour = COLOURS[labels % len(COLOURS)]
    return np.where((labels >= 0)[..., None], 0.25 * grey + 0.75 * colour, grey).astype(np.uint8)


def local_parts(part_map: np.ndarray) -> np.ndarray:
    """Object-specific parts -> their number within their kind, for the choice of a colour."""
    number = [PARTWORLD[kind].parts.index(part) for kind, part in PARTS]
    return np.array([*number, -1])[part_map]


def kind_card(kind: str, seed: str) -> Image.Image:
    """One object of a kind, its parts and their names."""
    rng = Random(seed)
    thing = partworld_scene.place(partworld_scene.choose_look(kind, rng), 0.9, [], rng)
    x0, y0, x1, y1 = thing.corners
    view = ((x0 + x1) / 2, (y0 + y1) / 2, 1.0)
    drawing = partworld_scene.draw_view([thing], view, None, SIZE, rng)
    card = Image.new("RGB", (2 * SIZE, SIZE + 2 * LINE + 2), "white")
    card.paste(Image.fromarray(drawing.image), (0, 0))
    card.paste(Image.fromarray(tint(drawing.image, local_parts(drawing.parts))), (SIZE, 0))
    pen = ImageDraw.Draw(card)
    unseen = "" if PARTWORLD[kind].is_seen else "  (unseen in training)"
    pen.text((2, SIZE), f"{kind}{unseen}", "black", FONT)
    x = 2
    for i, part in enumerate(PARTWORLD[kind].parts):
        pen.rectangle((x, SIZE + LINE + 4, x + 8, SIZE + LINE + 12), tuple(COLOURS[i].tolist()))
        pen.text((x + 11, SIZE + LINE), part, "black", FONT)
        x += 18 + int(pen.textlength(part, FONT))
    return card


def scene_card(scene) -> Image.Image:
    """A scene, its objects, its parts and one of its captions."""
    card = Image.new("RGB", (3 * SIZE, SIZE + LINE + 2), "white")
    panels = (scene.image, tint(scene.image, scene.instance_map))
    for i, panel in enumerate((*panels, tint(scene.image, local_parts(scene.part_map)))):
        card.paste(Image.fromarray(panel), (i * SIZE, 0))
    pen = ImageDraw.Draw(card)
    captions = [c.text for c in scene.captions if pen.textlength(c.text, FONT) < card.width]
    pen.text((2, SIZE), max(captions, key=len), "black", FONT)
    return card


def grid(cards: list[Image.Image], columns: int) -> Image.Image:
    """Cards of one size on a white sheet."""
    wide, high = cards[0].width + GAP, cards[0].height + GAP
    sheet = Image.new("RGB", (columns * wide, -(-len(cards) // columns) * high), "white")
    for i, card in enumerate(cards):
        sheet.paste(card, (i % columns * wide, i // columns * high))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    path = parser.parse_args().path
    kinds = grid([kind_card(kind, f"{kind}/4") for kind in KINDS], COLUMNS)
    world = PartWorld("val_unseen")
    crowded = [s for s in (world[i] for i in range(80)) if len(s.objects) > 2]
    scenes = grid([scene_card(scene) for scene in crowded[:6]], 2)
    sheet = Image.new(
        "RGB", (max(kinds.width, scenes.width), kinds.height + scenes.height), "white"
    )
    sheet.paste(kinds, (0, 0))
    sheet.paste(scenes, ((sheet.width - scenes.width) // 2, kinds.height))
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
