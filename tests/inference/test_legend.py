"""The names beside a picture: who is listed, in which order, and that they always fit."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from opvseg_jax.inference import legend, palette
from opvseg_jax.vocabulary import Vocabulary


def stripes(words: Vocabulary, shown: int) -> list[legend.Group]:
    """Groups of a picture in which the first `shown` objects stand side by side with all parts."""
    objects = np.repeat(np.arange(shown), 10)[None].repeat(100, axis=0)
    parts = np.full_like(objects, -1)
    for index in range(shown):
        ids = [k for k, part in enumerate(words.parts) if part.object == index]
        for row, k in enumerate(ids):
            parts[row * 5 : row * 5 + 5, objects[0] == index] = k
    return legend.groups(objects, parts, words)


def texts(monkeypatch, found, height, max_width=400) -> tuple[list[str], Image.Image]:
    """The lines of a panel as they are drawn, and the panel."""
    lines = []
    real = ImageDraw.ImageDraw.text

    def record(self, at, text, **options):
        lines.append(text)
        real(self, at, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", record)
        picture = legend.panel(found, height, max_width)
    return [line for line in lines if line], picture


def test_present_classes_are_listed_by_size():
    words = Vocabulary.of({"dog": ["head", "leg", "ear"], "cat": ["head"], "car": []})
    objects = np.zeros((10, 10), int)
    objects[4:] = 2
    parts = np.full((10, 10), -1)
    parts[0, :2], parts[1] = 0, 1
    dog, car = sorted(legend.groups(objects, parts, words), key=lambda group: group.name)[::-1]
    assert [g.name for g in legend.groups(objects, parts, words)] == ["car", "dog"]
    assert (car.share, dog.share) == (0.6, 0.4)
    assert [(p.name, p.share) for p in dog.parts] == [("leg", 0.1), ("head", 0.02)]
    assert car.colour == palette.object_colour(2)
    assert dog.parts[0].colour == palette.part_colours(0, 3)[1]  # whichever parts are present


def test_the_panel_names_what_is_there(monkeypatch):
    words = Vocabulary.of({"dog": ["head", "leg"], "car": []})
    lines, picture = texts(monkeypatch, stripes(words, 2), 480)
    assert lines == ["dog", "50%", "head", "leg", "car", "50%"]
    assert picture.height == 480
    colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {palette.object_colour(0), palette.object_colour(1)} <= colours
    assert set(palette.part_colours(0, 2)) <= colours


def test_what_does_not_fit_is_counted_and_objects_come_first(monkeypatch):
    words = Vocabulary.of({f"object {i}": [f"part {j}" for j in range(4)] for i in range(10)})
    lines, picture = texts(monkeypatch, stripes(words, 10), 480)
    assert picture.height == 480
    assert sum(line.startswith("object") for line in lines) == 10
    shown = sum(line.startswith("part") for line in lines)
    assert 0 < shown < 40
    assert lines[-1] == f"+ {40 - shown} more"


@pytest.mark.parametrize("height", [200, 480, 1000, 2048])
def test_letters_stay_readable_and_inside(height):
    words = Vocabulary.of({f"object {i}": [f"part {j}" for j in range(4)] for i in range(30)})
    size, rows, left_out = legend._fitted(stripes(words, 30), height)
    assert legend.MIN_FONT <= size <= legend.MAX_FONT
    assert len(rows) + left_out == 150
    assert legend.panel(stripes(words, 30), height, 400).height <= height + 2 * size


def test_long_names_are_elided(monkeypatch):
    words = Vocabulary.of({"a very long name " * 25: ["w" * 200]})
    lines, picture = texts(monkeypatch, stripes(words, 1), 480, max_width=300)
    assert picture.width <= 300
    assert lines[0].startswith("a very long")
    assert lines[0].endswith("…")
    assert lines[2].endswith("…")
    pixels = np.asarray(picture)
    assert (pixels[:, -8:] == legend.PAPER).all()  # nothing runs over the margin


def test_nothing_found_is_said(monkeypatch):
    assert texts(monkeypatch, [], 480)[0] == ["nothing found"]


def test_letters_that_no_font_has_become_a_label(monkeypatch):
    monkeypatch.setattr(legend, "WIDER_FONTS", ())  # a machine without fonts
    words = Vocabulary.of({"dog": [], "犬": ["頭"], "café": []})
    lines, _ = texts(monkeypatch, stripes(words, 3), 480)
    names = [line for line in lines if "%" not in line]
    # 2 is the value in the object map, 1 in the part map; Pillow's font may grow accents one day.
    assert names[:3] == ["dog", "label 2", "label 1"]
    assert names[3] in ("café", "cafe")


def test_shares_in_words():
    shares = [legend.percent(share) for share in (1.0, 0.314, 0.0051, 0.001)]
    assert shares == ["100%", "31%", "1%", "<1%"]
