"""Borders of all classes at once are the borders of each class by itself."""

import numpy as np
import pytest

from opvseg_jax.evaluate.boundary import border_labels, reach

SIZE = (17, 23)


def eroded(mask, d):
    """A pixel stays if all within d of it belong to the mask; beyond the image nothing does."""
    padded = np.pad(mask, d)
    out = np.ones_like(mask)
    for row in range(2 * d + 1):
        for column in range(2 * d + 1):
            out &= padded[row : row + mask.shape[0], column : column + mask.shape[1]]
    return out


@pytest.fixture(scope="module")
def labels():
    rng = np.random.default_rng(1)
    coarse = rng.integers(-2, 3, (4, 5))
    rows, columns = (np.arange(n) * k // n for n, k in zip(SIZE, (4, 5), strict=True))
    return coarse[rows[:, None], columns].astype(np.int32)


@pytest.mark.parametrize("d", [1, 3])
def test_each_class_has_its_own_border(labels, d):
    framed = np.pad(labels, ((0, 5), (0, 2)), constant_values=-2)  # as in a batch
    found = np.asarray(border_labels(framed, np.array(SIZE), d))[: SIZE[0], : SIZE[1]]
    for k in range(3):
        mask = labels == k
        np.testing.assert_array_equal(found == k, mask & ~eroded(mask, d))
    assert (found[labels == -2] == -2).all()
    assert (found[labels == -1] == -1).all()


def test_the_reach_is_two_percent_of_the_diagonal():
    sizes = np.array([[3, 4], [300, 400], [375, 500], [0, 0]])
    assert reach(sizes).tolist() == [1, 10, 12, 1]  # 12.5 goes to the even neighbour
