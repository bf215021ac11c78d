"""Colours must be told apart, also by colour-blind eyes, whatever is in the picture."""

import itertools

import numpy as np
import pytest

from opvseg_jax.inference import palette

# Machado, Oliveira and Fernandes (2009), severity 1: what a dichromat sees, on linear RGB.
DEUTAN = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
PROTAN = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)


def seen(colour, eye=None) -> np.ndarray:
    """Oklab coordinates of a colour as an eye sees it."""
    values = np.asarray(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if eye is not None:
        linear = np.clip(eye @ linear, 0, 1)
    return palette.TO_LAB @ np.cbrt(palette.TO_LMS @ linear)


def nearest(colours, eye=None) -> float:
    points = [seen(colour, eye) for colour in colours]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(points, 2))


@pytest.mark.parametrize("eye", [None, DEUTAN, PROTAN], ids=["usual", "deutan", "protan"])
def test_the_first_objects_differ_for_every_eye(eye):
    # 0.02 in Oklab is a just noticeable difference of large areas
    assert nearest([palette.object_colour(i) for i in range(8)], eye) > 0.05


@pytest.mark.parametrize("eye", [None, DEUTAN, PROTAN], ids=["usual", "deutan", "protan"])
@pytest.mark.parametrize("index", range(0, 22, 3))
def test_parts_of_one_object_differ_for_every_eye(index, eye):
    assert nearest(palette.part_colours(index, 6), eye) > 0.05


def test_eight_hundred_objects_have_as_many_colours():
    colours = [palette.object_colour(i) for i in range(77)]
    assert len(set(colours)) == 77
    assert all(0 <= v <= 255 for i in range(847) for v in palette.object_colour(i))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12, 40])
def test_any_number_of_parts_has_distinct_colours(count):
    colours = palette.part_colours(3, count)
    assert len(colours) == len(set(colours)) == count


def test_hex_and_back():
    assert palette.from_hex("#E69F00") == (230, 159, 0)
    assert palette.to_hex((230, 159, 0)) == "#e69f00"
    assert palette.object_colour(0) == (230, 159, 0)  # the conversions undo each other
