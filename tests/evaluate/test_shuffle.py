import numpy as np

from opvseg_jax.evaluate.confusion import Confusion
from opvseg_jax.evaluate.shuffle import (
    deranged,
    shuffled,
    shuffled_within_objects,
    with_shuffled_words,
)
from opvseg_jax.vocabulary import Vocabulary

WORDS = Vocabulary.of("dog: head, leg, tail; sky; car: wheel, door; cup: handle")


def test_nothing_stays_in_its_place():
    for seed in range(20):
        order = deranged(3, np.random.default_rng(seed))
        assert sorted(order) == [0, 1, 2]
        assert (order != [0, 1, 2]).all()
    assert (shuffled(4, 0) != np.arange(4)).all()


def test_parts_change_places_within_their_object():
    order = shuffled_within_objects(WORDS, seed=1)
    np.testing.assert_array_equal(WORDS.part_to_object[order], WORDS.part_to_object)
    assert (order[:5] != np.arange(5)).all()
    assert order[5] == 5  # alone, with nothing to change places with


def test_moved_columns_are_what_moved_answers_give():
    rng = np.random.default_rng(0)
    truth, fits = rng.integers(-1, 3, (2, 50))  # `fits`: the word that fits each pixel
    order = np.array([2, 0, 1])  # class 0 has been given word 2, ...
    answers = np.where(fits < 0, -1, np.argsort(order)[fits])
    straight, direct = Confusion(3), Confusion(3)
    straight.add(truth, fits)
    direct.add(truth, answers)
    np.testing.assert_array_equal(with_shuffled_words(straight, order).counts, direct.counts)
