"""From a photo of any size to label maps of that size, with a method that reads colours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.image import resize
from opvseg_jax.hub.load import load
from opvseg_jax.inference import segmenter as module
from opvseg_jax.inference.segmenter import Segmenter, fit
from opvseg_jax.methods.base import Outputs
from opvseg_jax.pipeline.photos import open_photo
from opvseg_jax.vocabulary import Vocabulary

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 0]], np.uint8)  # dog, car, nothing
WORDS = Vocabulary.of("dog: left, right; car; sky")
CANVASES = ((96, 128), (128, 96))


class ByColour:
    """Red is a dog with a dark and a bright part, green a car, all else nothing."""

    stride = 2

    def merge(self, weights):
        return self

    def __call__(self, images, text, valid):
        _, h, w, _ = images.shape
        small = resize(images.astype(jnp.float32) / 255, (h // self.stride, w // self.stride))
        inside = resize(valid[..., None].astype(jnp.float32), small.shape[1:3]) > 0.5
        red, green, blue = jnp.split(small * inside, 3, axis=-1)
        dog, car = red + blue, green
        none = jnp.zeros_like(dog)
        objects = jnp.concatenate([dog, car, none, 1 - dog - car], axis=-1)
        return Outputs(objects, jnp.concatenate([red, blue, 1 - dog], axis=-1))


@dataclasses.dataclass(frozen=True)
class Words:
    part_to_object: np.ndarray


def by_colour(**options) -> Segmenter:
    return Segmenter(
        name="colours",
        method=ByColour(),
        weights={},
        encode_words=lambda words: Words(words.part_to_object),
        canvases=CANVASES,
        **{"tile": 128, **options},
    )


jax.tree_util.register_dataclass(Words)


@pytest.fixture(scope="module")
def segmenter():
    return by_colour()


def painted(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo with a dog at the top left, half of it each part, and a car at the bottom right."""
    photo = np.zeros((height, width, 3), np.uint8)
    objects, parts = np.full((2, height, width), -1)
    h, w = -(-height // 2), -(-width // 2)
    photo[:h, : w // 2] = (255, 0, 0)
    photo[:h, w // 2 : w] = (0, 0, 255)
    photo[height - h // 2 :, width - w // 2 :] = (0, 255, 0)
    objects[:h, :w], objects[height - h // 2 :, width - w // 2 :] = 0, 1
    parts[:h, : w // 2], parts[:h, w // 2 : w] = 0, 1
    return photo, objects, parts


@pytest.mark.parametrize(
    "size", [(60, 80), (96, 128), (400, 300), (333, 517), (90, 91), (64, 1000), (700, 80)]
)
def test_labels_lie_where_things_are(segmenter, size):
    photo, objects, parts = painted(*size)
    result = segmenter(photo, WORDS)
    assert result.object_map.shape == size
    # What may differ is a border of about one pixel of the scores.
    scale = max(size[0] / 96, size[1] / 96) * ByColour.stride
    border = 2.2 * scale * (size[0] + size[1]) / (size[0] * size[1])
    assert (result.object_map == objects).mean() > 1 - border
    assert (result.part_map == parts).mean() > 1 - border


def test_a_part_is_found_up_to_the_border_of_its_object(segmenter):
    photo, *_ = painted(300, 400)
    result = segmenter(photo, WORDS)
    inside = result.object_map == 0
    assert (result.part_map[inside] >= 0).mean() > 0.99
    assert (result.part_map[~inside] == -1).all()


def test_tiles_have_no_seams():
    photo = np.random.default_rng(0).integers(0, 256, (150, 210, 3), np.uint8)
    whole, tiled = (by_colour(tile=tile)(photo, WORDS) for tile in (256, 32))
    np.testing.assert_array_equal(whole.object_map, tiled.object_map)
    np.testing.assert_array_equal(whole.part_map, tiled.part_map)


def test_strips_have_no_seams(monkeypatch, segmenter):
    photo = np.random.default_rng(0).integers(0, 256, (100, 128, 3), np.uint8)
    expected = segmenter(photo, WORDS)
    monkeypatch.setattr(module, "MAX_FLOATS", 128 * 4 * 3)
    np.testing.assert_array_equal(by_colour()(photo, WORDS).object_map, expected.object_map)


def test_very_large_maps_are_copied_up():
    photo, *_ = painted(300, 500)
    fine, coarse = (by_colour(max_side=side)(photo, WORDS).object_map for side in (2048, 250))
    assert coarse.shape == (300, 500)
    np.testing.assert_array_equal(coarse[::2, ::2], coarse[1::2, 1::2])
    assert (fine == coarse).mean() > 0.98


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_thin_and_tiny_photos(segmenter, size):
    photo = np.full((*size, 3), (255, 0, 0), np.uint8)
    result = segmenter(photo, WORDS)
    assert (result.object_map == 0).all()
    assert result.objects[0].score == pytest.approx(1.0, abs=1e-3)


def test_the_canvas_that_shows_most_is_taken():
    canvases = ((96, 128), (128, 96), (64, 64), (128, 128))
    for size, expected in {
        (300, 400): (96, 128),
        (400, 300): (128, 96),
        (100, 100): (128, 128),
        (10, 1000): (96, 128),
    }.items():
        filled, content = fit(np.zeros((*size, 3), np.uint8), canvases)
        assert filled.shape[:2] == expected
        assert (filled[content[0] :] == module.GREY).all()
        assert (filled[:, content[1] :] == module.GREY).all()


def test_paths_pictures_and_arrays_are_the_same(segmenter, tmp_path):
    photo, *_ = painted(60, 80)
    Image.fromarray(photo).save(tmp_path / "a.png")
    expected = segmenter(photo, WORDS)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        np.testing.assert_array_equal(segmenter(image, WORDS).object_map, expected.object_map)
    assert segmenter(tmp_path / "a.png", WORDS).path == tmp_path / "a.png"
    assert expected.path is None


def test_a_reduced_photo_remembers_its_size(segmenter, tmp_path):
    Image.fromarray(painted(300, 400)[0]).save(tmp_path / "a.png")
    result = segmenter(open_photo(tmp_path / "a.png", working_pixels=3000), WORDS)
    assert result.photo_size == (300, 400)
    assert result.size == result.image.shape[:2] != (300, 400)
    assert segmenter(tmp_path / "a.png", WORDS).photo_size is None


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        [[0, 0, 0]],
    ],
)
def test_other_images_are_refused(segmenter, image):
    with pytest.raises(UserError, match=r"uint8 \[H, W, 3\]"):
        segmenter(image, WORDS)


def test_scores_are_of_what_was_found(segmenter):
    result = segmenter(painted(96, 128)[0], WORDS)
    assert result.object_scores[0] == pytest.approx(1, abs=0.05)
    assert np.isnan(result.object_scores[2])  # no sky
    assert {(part.object, part.name) for part in result.parts} == {
        ("dog", "left"),
        ("dog", "right"),
    }


@pytest.fixture
def compilations():
    """A list that grows by one whenever XLA is asked for a compiled program."""
    found = []
    event = "/jax/core/compile/backend_compile_duration"

    def listen(name, seconds, **_):
        if name == event:
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x + 1)(np.float32(1))  # the event is called so and does arrive
    assert len(found) == 1
    found.clear()
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_vocabularies_and_sizes_share_few_compilations(tiny, compilations):
    """Two vocabularies of like size and photos of 20 sizes: text tower, two canvases, labels."""
    segmenter = load("tiny")  # with nothing compiled yet
    rng = np.random.default_rng(0)
    words = [
        "red dog: head, leg, torso; car: wheel, door; sky; cow: head",
        "green cat: ear, tail; bus: wheel, window; chair: back, seat, leg",
    ]
    for i, (height, width) in enumerate(rng.integers(30, 260, (20, 2))):
        photo = rng.integers(0, 256, (height, width, 3), np.uint8)
        assert segmenter(photo, words[i % 2]).size == (height, width)
    assert 1 <= len(compilations) <= 4
