"""The shipped model reads: right words find far more than shuffled ones, unseen kinds included."""

import dataclasses

import numpy as np
import pytest

from opvseg_jax.evaluate.scenes import count, figures, scenes_of
from opvseg_jax.evaluate.shuffle import shuffled, shuffled_within_objects

SCENES = 24


@pytest.fixture(scope="module")
def unseen(tiny, tiny_words):
    return count(tiny, tiny_words, scenes_of("val_unseen", 0, SCENES))


def test_words_matter_on_unseen_kinds(unseen, tiny_words):
    """Objects at least three times and parts at least twice what shuffled words reach."""
    for seed in range(3):
        objects, parts, within = figures(unseen, tiny_words, seed)
        assert objects.right.all >= 3 * objects.shuffled.all
        assert objects.right.unseen >= 3 * objects.shuffled.unseen
        assert parts.right.all >= 2 * parts.shuffled.all
        assert parts.right.unseen >= 2 * parts.shuffled.unseen
        assert within.right.all > within.shuffled.all


def test_figures_of_shuffled_words_are_those_of_a_shuffled_vocabulary(tiny, tiny_words):
    """The figures are computed from one confusion matrix; here the words are really exchanged."""
    words = tiny_words
    order, part_order = shuffled(len(words.objects), 0), shuffled_within_objects(words, 0)
    with_objects = dataclasses.replace(
        words, phrases=tuple(words.phrases[i] for i in order), parts=(), seen_parts=None
    )
    with_parts = dataclasses.replace(words, parts=tuple(words.parts[i] for i in part_order))
    for scene in scenes_of("val_unseen", 0, 2):
        right = tiny(scene.image, words)
        objects = tiny(scene.image, with_objects).object_map
        parts = tiny(scene.image, with_parts).part_map
        agreeing = [
            (moved == np.append(np.argsort(by), -1)[labels]).mean()
            for moved, labels, by in (
                (objects, right.object_map, order),
                (parts, right.part_map, part_order),
            )
        ]
        assert min(agreeing) > 0.999  # not all: ties go to the first class
