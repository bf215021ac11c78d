"""Augmentation: sizes, geometry shared by image and labels, colours, the papers' peculiarities."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline import pixels
from opvseg_jax.pipeline.recipes import RECIPES, augmentation, plain_test
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE, Sample, UnwantedSampleError
from opvseg_jax.pipeline.transforms import (
    ClassCrop,
    ColorSSD,
    Flip,
    LabelRoundTrip,
    LargeScaleJitter,
    Pad,
    Require,
    Resize,
    SeenOnly,
    compose,
    shortest_edge,
)
from opvseg_jax.vocabulary import Vocabulary

REFERENCE = load_file(Path(__file__).with_name("label_resize_reference.safetensors"))
WORDS = Vocabulary.of(
    {
        "objects": ["cat", "dog", "sky"],
        "parts": {"cat": ["head", "leg"], "dog": ["head", "tail"]},
        "seen_objects": [False, True, True],
        "seen_parts": [False, False, True, True],
    }
)


def sample(height=40, width=60) -> Sample:
    """The red channel says which object a pixel is, green and blue where it was."""
    y, x = np.mgrid[:height, :width]
    objects = (x * 3 // width).astype(np.int16)
    image = np.stack([objects * 100, y * 255 // height, x * 255 // width], -1).astype(np.uint8)
    parts = np.where(objects < 2, 2 * objects + (y >= height // 2), BACKGROUND).astype(np.int16)
    return Sample(image, objects, parts, "photo", instance_map=objects.copy())


def rng(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("size", "edges", "expected"),
    [
        ((375, 500), (384, 1333), (384, 512)),
        ((375, 500), (640, 768), (576, 768)),
        ((500, 333), (384, 768), (577, 384)),
        ((100, 1000), (384, 768), (77, 768)),
    ],
)
def test_sizes_are_those_of_the_reference(size, edges, expected):
    assert shortest_edge(size, *edges) == expected


@pytest.mark.parametrize("case", sorted({key.rpartition("/")[0] for key in REFERENCE}))
def test_label_maps_are_resized_as_the_reference_does(case):
    labels = REFERENCE[f"{case}/label"].astype(np.int16)
    image = np.zeros((*labels.shape, 3), np.uint8)
    one = Sample(image, labels, labels, "case")
    edges = tuple(map(int, case.split("/")[0].split("x")))
    resized = Resize(*edges)(one, rng())
    np.testing.assert_array_equal(resized.part_map, REFERENCE[f"{case}/resized"])
    back = LabelRoundTrip(*edges)(one, rng())
    np.testing.assert_array_equal(back.part_map, REFERENCE[f"{case}/back"])


def test_labels_follow_the_image():
    """Enlarged, cropped and flipped: away from borders red still names the object."""
    transform = compose([Resize(80, 500, 64), Flip(), Pad(64)])
    for seed in range(8):
        out = transform(sample(), rng(seed))
        red = out.image[..., 0].astype(int)
        is_inside = np.isin(red, (0, 100, 200))
        assert is_inside.mean() > 0.9
        # The papers' label rule lies half a pixel beside the image's.
        assert (red[is_inside] == out.object_map[is_inside] * 100).mean() > 0.95
        np.testing.assert_array_equal(out.instance_map, out.object_map)


def test_a_crop_is_part_of_the_whole():
    whole = Resize(80, 500)(sample(), rng())
    for seed in range(5):
        crop = Resize(80, 500, 32)(sample(), rng(seed))
        windows = np.lib.stride_tricks.sliding_window_view(whole.part_map, (32, 32))
        assert (windows == crop.part_map).all(axis=(2, 3)).any()


def test_the_shorter_side_is_drawn_from_the_choices():
    heights = {Resize((20, 40, 80), 500)(sample(), rng(s)).image.shape[0] for s in range(20)}
    assert heights == {20, 40, 80}


def test_a_large_class_may_be_avoided():
    big = sample(100, 100)
    labels = np.zeros((100, 100), np.int16)
    labels[:, 50:] = 1
    parts = np.full_like(labels, IGNORE)
    big = dataclasses.replace(big, object_map=labels, part_map=parts)
    shares = []
    for seed in range(30):
        out = Resize(100, 200, 40, category_area=0.75)(big, rng(seed))
        shares.append(np.bincount(out.object_map.ravel(), minlength=2).max() / 1600)
    free = [
        np.bincount(Resize(100, 200, 40)(big, rng(s)).object_map.ravel()).max() / 1600
        for s in range(30)
    ]
    assert np.mean(np.array(shares) <= 0.75) > 0.9 > np.mean(np.array(free) <= 0.75)


def test_balanced_crops_find_the_rare_thing():
    """A speck of 1/1600 of the image is in half of the crops: it is one of two classes."""
    labels = np.zeros((80, 80), np.int16)
    labels[70:72, 70:72] = 1
    one = Sample(np.zeros((80, 80, 3), np.uint8), labels, np.full_like(labels, IGNORE), "speck")
    balanced = [Resize(80, 80, 16, balanced=1.0)(one, rng(s)) for s in range(40)]
    assert 10 < sum((out.object_map == 1).any() for out in balanced) < 40
    free = [Resize(80, 80, 16)(one, rng(s)) for s in range(40)]
    assert sum((out.object_map == 1).any() for out in free) < 10


def test_padding_is_grey_ignored_and_not_valid():
    out = Pad((50, 64))(sample(), rng())
    assert out.image.shape == (50, 64, 3)
    assert (out.image[40:] == 128).all()
    assert (out.object_map[:, 60:] == IGNORE).all()
    assert (out.instance_map[:, 60:] == BACKGROUND).all()
    assert out.valid.sum() == 40 * 60
    np.testing.assert_array_equal(out.image[:40, :60], sample().image)


def test_negative_padding_keeps_the_top_left():
    out = Pad(32)(sample(), rng())
    np.testing.assert_array_equal(out.part_map, sample().part_map[:32, :32])
    assert out.valid.all()


def test_colours_change_as_ssd_says():
    """With one step on at a time, against the formula written out."""
    image = rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    one = dataclasses.replace(sample(16, 16), image=image)

    class Script:
        """Numbers that switch on what a test wants."""

        def __init__(self, *, coins, value):
            self.coins, self.value = list(coins), value

        def random(self):
            return self.coins.pop(0)

        def uniform(self, low, high):
            return self.value

        def integers(self, low, high):
            return self.value

    on, off = 0.0, 0.9
    bright = ColorSSD()(one, Script(coins=[on, on, off, off, off], value=20.7)).image
    np.testing.assert_array_equal(bright, np.clip(image.astype(np.float32) + 20.7, 0, 255) // 1)
    contrast = ColorSSD()(one, Script(coins=[off, on, on, off, off], value=1.37)).image
    scaled = np.clip(image.astype(np.float32) * np.float32(1.37), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(contrast, scaled)
    last = ColorSSD()(one, Script(coins=[off, off, off, off, on], value=1.37)).image
    np.testing.assert_array_equal(last, scaled)
    hsv = pixels.to_hsv(image)
    grey = ColorSSD()(one, Script(coins=[off, off, on, off, off], value=0.5)).image
    half = pixels.from_hsv(np.stack([hsv[..., 0], hsv[..., 1] // 2, hsv[..., 2]], -1))
    np.testing.assert_array_equal(grey, half)
    turned = ColorSSD()(one, Script(coins=[off, off, off, on, off], value=-18)).image
    hue = (hsv[..., 0].astype(int) - 18) % 180
    moved = pixels.from_hsv(np.stack([hue.astype(np.uint8), hsv[..., 1], hsv[..., 2]], -1))
    np.testing.assert_array_equal(turned, moved)


def test_colours_leave_the_sample_alone():
    one = sample()
    before = one.image.copy()
    for seed in range(8):
        ColorSSD()(one, rng(seed))
    np.testing.assert_array_equal(one.image, before)


def test_the_same_numbers_give_the_same_sample():
    for name in RECIPES:
        transform = compose(augmentation(name))
        first, second = (transform(sample(), rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.part_map, second.part_map)


def test_unseen_classes_become_background_and_seen_ones_are_renumbered():
    out = SeenOnly(WORDS)(sample(), rng())
    assert np.unique(out.object_map).tolist() == [-1, 0, 1]
    np.testing.assert_array_equal(out.object_map, sample().object_map - 1)
    np.testing.assert_array_equal(out.part_map, np.maximum(sample().part_map - 2, -1))
    assert (out.instance_map[out.object_map < 0] == BACKGROUND).all()
    ignored = SeenOnly(WORDS, IGNORE)(sample(), rng())
    assert (ignored.object_map[sample().object_map == 0] == IGNORE).all()


def test_ignored_pixels_stay_ignored():
    maps = {"object_map": np.full((2, 2), IGNORE, np.int16)}
    out = SeenOnly(WORDS)(dataclasses.replace(sample(2, 2), **maps), rng())
    assert (out.object_map == IGNORE).all()


def test_a_crop_without_parts_is_not_trained_on():
    bare = dataclasses.replace(sample(), part_map=np.full((40, 60), BACKGROUND, np.int16))
    with pytest.raises(UnwantedSampleError, match="photo: nothing in its part_map"):
        Require()(bare, rng())


def test_released_partimagenet_code_sees_the_top_left_unchanged():
    (*_, pad) = augmentation("top_left", size=32)
    out = compose(augmentation("top_left", size=32))(sample(), rng())
    assert isinstance(pad, Pad)
    np.testing.assert_array_equal(out.image, sample().image[:32, :32])


@pytest.mark.parametrize("name", ["semantic", "parts", "squeezed", "deop_masks", "large_scale"])
def test_recipes_give_the_size_that_is_asked_for(name):
    out = compose(augmentation(name, size=48))(sample(300, 200), rng(1))
    assert out.image.shape == (48, 48, 3)
    assert out.object_map.shape == out.part_map.shape == out.valid.shape == (48, 48)


def test_deop_cuts_its_crop_to_the_top_left():
    out = compose(augmentation("deop", size=40, crop=64, shorter=(80,)))(sample(), rng())
    assert out.valid.all()
    assert out.image.shape == (40, 40, 3)


def test_large_scale_jitter_shrinks_and_enlarges():
    shares = [LargeScaleJitter(32, (0.1, 2.0))(sample(), rng(s)).image.shape for s in range(12)]
    assert min(h * w for h, w, _ in shares) < 300
    assert (32, 32, 3) in shares


def test_class_crops_hold_one_class():
    for seed in range(6):
        out = ClassCrop((24, 20))(sample(), rng(seed))
        assert out.image.shape == (24, 20, 3)
        assert len(np.unique(out.object_map[out.object_map >= 0])) == 1


def test_test_images_are_resized_and_their_labels_are_not():
    out = compose(plain_test(shorter=80, longest=768))(sample(), rng())
    assert out.image.shape == (80, 120, 3)
    assert out.object_map.shape == (40, 60)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("part", {}, "unknown augmentation 'part': expected one of semantic, parts"),
        ("parts", {"crop": 3}, "'parts' has no option 'crop', only: vocabulary, size"),
    ],
)
def test_an_unknown_recipe_or_option_is_named(name, options, message):
    with pytest.raises(UserError, match=message):
        augmentation(name, **options)
