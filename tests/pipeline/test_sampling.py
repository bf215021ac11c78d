"""The order of training samples."""

import pickle

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.sampling import Order, repeat_factors


def test_every_sample_once_an_epoch_in_another_order():
    order = Order(10, seed=3)
    epochs = [[order[e * 10 + i] for i in range(10)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [Order(10, seed=4)[i] for i in range(10)]


def test_the_order_survives_pickling():
    order = Order(10, seed=3)
    again = pickle.loads(pickle.dumps(order))
    assert [order[i] for i in range(25)] == [again[i] for i in range(25)]
    assert order.generator(7).random() == again.generator(7).random()


def test_without_shuffling_the_order_is_the_sources():
    order = Order(4, seed=0, shuffle=False)
    assert [order[i] for i in range(9)] == [0, 1, 2, 3] * 2 + [0]


def test_repeats_keep_the_epochs_length_and_the_mean():
    repeats = np.array([1.0, 2.5, 1.3, 4.0])
    order = Order(4, seed=1, repeats=repeats)
    assert order.epoch_length == 9
    counts = np.array([np.bincount(order.epoch(e), minlength=4) for e in range(400)])
    assert (counts.sum(axis=1) == 9).all()
    assert (counts >= np.floor(repeats)).all()
    np.testing.assert_allclose(counts.mean(axis=0), repeats * 9 / repeats.sum(), atol=0.06)


def test_rare_classes_are_repeated():
    """Class 1 is in one of four samples: sqrt(0.5 / 0.25)."""
    factors = repeat_factors([[0], [0], [0, 1], []], threshold=0.5)
    np.testing.assert_allclose(factors, [1, 1, np.sqrt(2), 1])


@pytest.mark.parametrize("threshold", [0, 1.5])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(UserError, match="expected a share"):
        repeat_factors([[0]], threshold)
