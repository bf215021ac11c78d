"""The same words in the wrong places: what a model reaches that does not read.

Giving each class the word of another moves the answers and nothing else. So the figures of
shuffled words follow exactly from the confusion matrix of the right ones, by moving its columns.
"""

import numpy as np

from opvseg_jax.evaluate.confusion import Confusion
from opvseg_jax.vocabulary import Vocabulary


def deranged(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of 0..count-1 in which nothing stays in its place; one thing has to."""
    while True:
        order = rng.permutation(count)
        if count < 2 or (order != np.arange(count)).all():
            return order


def shuffled(count: int, seed: int) -> np.ndarray:
    """order [count]: the answer "class i" is given where the word of class order[i] fits."""
    return deranged(count, np.random.default_rng(seed))


def shuffled_within_objects(vocabulary: Vocabulary, seed: int) -> np.ndarray:
    """order [T]: the words of parts are exchanged within each object, whose own word stays right.

    That is much harder to beat than a shuffle of all words: the object is still found.
    """
    rng = np.random.default_rng(seed)
    order = np.arange(len(vocabulary.parts))
    for row in vocabulary.object_to_parts:
        ids = row[row >= 0]
        order[ids] = ids[deranged(len(ids), rng)]
    return order


def with_shuffled_words(confusion: Confusion, order: np.ndarray) -> Confusion:
    """The confusion matrix that the words in this order would have given."""
    shuffled = Confusion(confusion.num_classes)
    columns = np.append(order, confusion.num_classes)
    shuffled.counts = confusion.counts[:, columns]
    return shuffled
