"""Views: crops keep track of places, colours change and shapes stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.train import views


@pytest.fixture(scope="module")
def images():
    """Smooth, so that resampling twice is resampling once. [2, 32, 32, 3] in 0..1."""
    y, x = np.mgrid[0:32, 0:32] / 32
    planes = np.stack([y, x, 0.5 * (x + y)], axis=-1)
    return jnp.asarray(np.stack([planes, planes[::-1]]), jnp.float32)


@pytest.fixture(scope="module")
def dice():
    return jax.random.uniform(jax.random.key(1), (2, 40))


def test_the_whole_image_is_a_crop_of_it(images):
    np.testing.assert_allclose(views.resample(images, views.whole(2), 32), images, atol=1e-6)


def test_a_negative_width_mirrors(images):
    zero, one = jnp.zeros(2), jnp.ones(2)
    mirrored = views.resample(images, views.Crop(zero, one, one, -one), 32)
    np.testing.assert_allclose(mirrored, images[:, :, ::-1], atol=1e-6)


def test_smaller_crops_average_what_they_skip(images):
    halved = views.resample(images, views.whole(2), 16)
    blocks = images.reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(halved[:, 1:-1, 1:-1], blocks[:, 1:-1, 1:-1], atol=1e-6)


def test_crops_lie_inside_what_they_are_cut_from(dice):
    outer = views.crop_inside(dice[:, 4:8], views.whole(2), (0.6, 0.8), mirrored=False)
    inner = views.crop_inside(dice, outer, (0.3, 0.9), mirrored=True)
    for start, extent, first, whole in (
        (inner.top, inner.height, outer.top, outer.height),
        (inner.left, inner.width, outer.left, outer.width),
    ):
        ends = jnp.stack([start, start + extent])
        assert (ends.min(axis=0) >= first - 1e-6).all()
        assert (ends.max(axis=0) <= first + whole + 1e-6).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_place_is_found_again_in_another_view(images, dice, mirrored):
    """What the student should see at a patch is what the teacher saw at the same place."""
    dice = dice.at[:, 3].set(0.0)
    outer = views.crop_inside(dice[:, 4:8], views.whole(2), (0.6, 0.8), mirrored=False)
    inner = views.crop_inside(dice, outer, (0.5, 0.6), mirrored=mirrored)
    direct = views.resample(images, inner, 8)
    through = views.resample(views.resample(images, outer, 32), views.seen_from(outer, inner), 8)
    np.testing.assert_allclose(direct[:, 1:-1, 1:-1], through[:, 1:-1, 1:-1], atol=5e-3)


def test_recolouring_changes_hues_and_keeps_edges(images, dice):
    dice = dice[:, :5].at[:, 3].set(1.0)  # not grey
    coloured = views.recolour(dice, images)
    assert coloured.shape == images.shape
    assert 0 <= coloured.min() <= coloured.max() <= 1
    assert jnp.abs(coloured - images).mean() > 0.05
    grey = jnp.broadcast_to(images[..., :1] * 0.5 + 0.25, images.shape)
    out = views.recolour(dice, grey)
    np.testing.assert_allclose(out, out[..., :1].repeat(3, axis=-1), atol=1e-6)
    flat = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(out, grey, strict=True)]
    assert min(flat) > 0.99


def test_a_turn_of_nothing_is_the_image(images):
    dice = jnp.array([0.5, 0.5, 0.7 / 1.1, 1.0, 0.5])  # hue 0, gain, saturation, contrast 1
    np.testing.assert_allclose(views.recolour(jnp.tile(dice, (2, 1)), images), images, atol=1e-5)


def test_masks_hide_squares_of_the_share_asked_for():
    dice = jax.random.uniform(jax.random.key(0), (200, 101))
    mask = np.asarray(views.random_mask(dice, 10, (0.2, 0.4)))
    assert mask.shape == (200, 10, 10)
    assert 0.25 < mask.mean() < 0.35
    np.testing.assert_array_equal(mask[:, ::2, ::2], mask[:, 1::2, 1::2])
    assert views.random_mask(dice, 5, (0.0, 0.0)).shape == (200, 5, 5)
    assert not views.random_mask(dice, 5, (0.0, 0.0)).any()
