"""Objects are cut out along their outlines and put back where they were."""

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.image import resize
from opvseg_jax.hierarchy.regions import count_dropped, crop_objects, largest_regions, paste


def scene() -> tuple[jax.Array, np.ndarray]:
    """An image, and labels of a square (0), one pixel (1) and a bar (3) of four objects."""
    labels = np.full((1, 20, 24), -1)
    labels[0, 2:12, 3:15] = 0
    labels[0, 5:9, 6:10] = 3  # inside the square's box
    labels[0, 19, 23] = 1
    image = jax.random.uniform(jax.random.key(0), (1, 20, 24, 3), maxval=255)
    return image, labels


def test_crops_are_masked_boxes_resized():
    image, labels = scene()
    regions = largest_regions(jnp.asarray(labels), 4, 4)
    crops = crop_objects(image, regions, (16, 16))
    for slot, label in enumerate(np.asarray(regions.objects[0])):
        if not regions.present[0, slot]:
            continue
        mask = labels[0] == label
        ys, xs = np.nonzero(mask)
        box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        cut = np.where(mask[..., None], image[0], 0)[box]
        np.testing.assert_allclose(crops[0, slot], resize(jnp.asarray(cut), (16, 16)), atol=1e-3)


def test_an_empty_slot_is_black():
    image, labels = scene()
    regions = largest_regions(jnp.asarray(labels), 4, 4)
    assert np.asarray(regions.present[0]).tolist() == [True, True, True, False]
    np.testing.assert_array_equal(crop_objects(image, regions, (8, 8))[0, 3], 0)


def test_the_largest_are_kept_and_the_rest_counted():
    _, labels = scene()
    labels = jnp.asarray(labels)
    regions = largest_regions(labels, 4, 2)
    assert np.asarray(regions.objects[0]).tolist() == [0, 3]
    assert count_dropped(labels, 4, regions).tolist() == [1]
    assert count_dropped(labels, 4, largest_regions(labels, 4, 4)).tolist() == [0]


def test_more_slots_change_nothing():
    image, labels = scene()
    few, many = (largest_regions(jnp.asarray(labels), 4, slots) for slots in (3, 7))
    crops = [crop_objects(image, regions, (8, 8)) for regions in (few, many)]
    np.testing.assert_array_equal(crops[0], crops[1][:, :3])
    pasted = [
        paste(crop, regions, regions.boxes)
        for crop, regions in zip(crops, (few, many), strict=True)
    ]
    np.testing.assert_array_equal(*pasted)


def test_paste_lets_gradients_reach_the_crops_that_own_pixels():
    _, labels = scene()
    regions = largest_regions(jnp.asarray(labels), 4, 4)
    crops = jnp.ones((1, 4, 6, 6, 2))
    slope = jax.grad(lambda x: paste(x, regions, regions.boxes).sum())(crops)
    assert np.asarray(slope[0].sum(axis=(1, 2, 3)) > 0).tolist() == [True, True, True, False]
