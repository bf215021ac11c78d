import math

import numpy as np
import pytest

from opvseg_jax.evaluate.confusion import Confusion, harmonic


def counted(truth, answer, num_classes=3):
    confusion = Confusion(num_classes)
    confusion.add(np.array(truth), np.array(answer))
    return confusion


def test_iou_by_hand():
    confusion = counted([0, 0, 0, 1, 1, -1], [0, 0, 1, 1, -1, 1])
    # class 0: 2 right of 3 in the union; class 1: 1 right of {2 true, 2 wrongly answered}
    np.testing.assert_allclose(confusion.iou(), [2 / 3, 1 / 4, np.nan])


def test_a_class_never_found_counts_and_a_class_not_there_does_not():
    scores = counted([0, 1], [0, 2]).scores()
    assert scores.all == pytest.approx(50)
    assert math.isnan(scores.seen)


def test_ignored_pixels_are_not_judged():
    confusion = counted([0, -2, -2], [0, 1, -1])
    np.testing.assert_allclose(confusion.iou(), [1, np.nan, np.nan])


def test_images_add_up_to_one_matrix():
    rng = np.random.default_rng(0)
    truth, answer = rng.integers(-1, 3, (2, 4, 5, 6))
    piecewise = Confusion(3)
    for pair in zip(truth, answer, strict=True):
        piecewise.add(*pair)
    np.testing.assert_array_equal(piecewise.counts, counted(truth, answer).counts)


def test_seen_and_unseen_are_judged_apart():
    scores = counted([0, 0, 1, 2], [0, 0, 1, 1]).scores(is_seen=np.array([True, False, False]))
    assert scores.seen == pytest.approx(100)
    assert scores.unseen == pytest.approx((50 + 0) / 2)
    assert scores.harmonic == pytest.approx(2 * 100 * 25 / 125)


def test_harmonic_mean_of_nothing():
    assert harmonic(0.0, 0.0) == 0
    assert harmonic(50.0, 0.0) == 0
    assert math.isnan(harmonic(float("nan"), 50.0))


@pytest.mark.parametrize(
    ("truth", "answer", "problem"),
    [([0, 3], [0, 0], "truth"), ([0], [-2], "answer"), ([0], [0, 0], "one shape")],
)
def test_impossible_labels_are_refused(truth, answer, problem):
    with pytest.raises(ValueError, match=problem):
        counted(truth, answer)
