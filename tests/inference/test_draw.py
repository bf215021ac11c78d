"""The overlay: what lies where in the picture, at any size of photo."""

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference import draw, legend, palette
from opvseg_jax.vocabulary import Vocabulary

WORDS = Vocabulary.of({"dog": ["head", "leg"], "car": []})


def scene(height=480, width=640):
    """A grey photo: a dog on the left with a head on top of it, and nothing on the right."""
    image = np.full((height, width, 3), 128, np.uint8)
    objects = np.full((height, width), -1, np.int16)
    objects[height // 4 : 3 * height // 4, width // 8 : width // 2] = 0
    parts = np.full_like(objects, -1)
    parts[height // 4 : height // 2, width // 8 : width // 2] = 0
    return image, objects, parts


def drawn(*maps, **options) -> np.ndarray:
    options = {"has_legend": False} | options
    return np.asarray(draw.overlay(*maps, WORDS, **options)).astype(int)


def distance(pixel, colour) -> float:
    return float(np.linalg.norm(np.subtract(pixel, colour)))


def test_objects_are_outlined_in_their_colour():
    picture = drawn(*scene())
    dog = palette.object_colour(0)
    borders = (
        picture[300, 80:84],
        picture[120:124, 200],
        picture[300, 316:320],
        picture[356:360, 200],
    )
    for inside in borders:
        assert min(distance(pixel, dog) for pixel in inside) < 10
    assert distance(picture[300, 200], dog) > 60  # the middle is only tinted
    assert picture[300, 79].min() > 180  # a pale line outside sets it off from any background


def test_parts_are_filled_and_the_rest_is_not():
    picture = drawn(*scene())
    head, body, nothing = picture[180, 200], picture[300, 200], picture[240, 500]
    shade = palette.part_colours(0, 2)[0]
    expected = 128 + draw.PART_ALPHA * (np.array(shade) - 128)
    assert distance(head, expected) < 2
    assert distance(body, 128 + draw.OBJECT_ALPHA * (np.array(palette.object_colour(0)) - 128)) < 2
    assert nothing.max() - nothing.min() <= 1  # grey stays grey
    assert nothing.max() < 128  # and is dimmed
    assert picture[240, 200].min() > 180  # the line between head and body


def test_where_nothing_is_found_the_photo_stays_as_it_is():
    image, objects, _ = scene()
    empty = np.full_like(objects, -1)
    np.testing.assert_array_equal(drawn(image, empty, empty), image)


def test_the_same_input_gives_the_same_picture():
    first, second = (draw.overlay(*scene(), WORDS).tobytes() for _ in range(2))
    assert first == second


def test_input_is_left_alone():
    maps = scene()
    kept = [array.copy() for array in maps]
    drawn(*maps)
    for array, before in zip(maps, kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 128), (480, 640)),  # enlarged
        ((600, 800), (600, 800)),  # left
        ((3000, 4000), (1536, 2048)),  # reduced
        ((1, 1), (480, 480)),
        ((1, 5000), (16, 2048)),  # a line that can be seen
        ((5000, 1), (2048, 16)),
        ((100, 1500), (137, 2048)),  # the longer side limits
    ],
)
def test_size_of_the_picture(size, expected):
    assert draw.shown_size(size, 480, 2048) == expected
    image, objects, parts = scene(*size)
    objects[:] = 0
    assert drawn(image, objects, parts).shape == (*expected, 3)
    with_legend = draw.overlay(image, objects, parts, WORDS)
    assert with_legend.width > expected[1]
    assert with_legend.height >= max(expected[0], 200)


def test_lines_grow_with_the_picture():
    assert draw.line_width((1500, 2000)) > 2 * draw.line_width((480, 640))


def test_enlarged_labels_keep_their_area_and_shape():
    y, x = np.mgrid[:60, :80]
    labels = np.where((y - 30) ** 2 + (x - 40) ** 2 < 20**2, 4, -1)
    large, distance = draw.smooth_labels(labels, (480, 640), 2.0)
    assert set(np.unique(large)) == {-1, 4}
    assert abs((large == 4).mean() - (labels == 4).mean()) < 0.002
    y, x = np.mgrid[:480, :640]
    off_centre = np.hypot(y - 239.5, x - 319.5)
    edge = (large == 4) != (off_centre < 160)  # a circle again, not steps of 8 pixels
    assert np.abs(off_centre[edge] - 160).max() < 8
    assert distance[239, 319] > distance[239, 319 + 155] >= 0


def test_labels_of_the_same_size_stay_where_they_are():
    labels = np.full((40, 40), -1)
    labels[10:30, 10:30] = 7
    same, _ = draw.smooth_labels(labels, (40, 40), 1.0)
    inner = np.s_[12:28, 12:28]
    assert (same[inner] == 7).all()
    assert (same != labels).sum() <= 12  # corners are rounded


def test_an_object_without_pixels_of_its_own_is_drawn_by_its_parts():
    image, objects, parts = scene()
    objects[:] = -1
    picture = drawn(image, objects, parts)
    assert distance(picture[180, 200], picture[300, 200]) > 30
    assert [group.name for group in legend.groups(objects, parts, WORDS)] == ["dog"]


def test_the_background_object_is_not_drawn():
    words = Vocabulary(objects=("sky", "dog"), background_object=0)
    image, objects, parts = scene()
    picture = draw.overlay(image, objects, np.full_like(parts, -1), words, has_legend=False)
    np.testing.assert_array_equal(np.asarray(picture), image)


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="min_side <= max_side, got 500 and 100"):
        draw.overlay(*scene(), WORDS, min_side=500, max_side=100)
