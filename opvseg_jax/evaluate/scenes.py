"""A segmenter on PartWorld: figures for seen and unseen words, beside those of shuffled words."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from opvseg_jax.evaluate.confusion import Confusion, Scores
from opvseg_jax.evaluate.shuffle import shuffled, shuffled_within_objects, with_shuffled_words
from opvseg_jax.inference.result import Segmentation
from opvseg_jax.inference.segmenter import Segmenter
from opvseg_jax.pipeline.partworld import PartWorld, Scene
from opvseg_jax.vocabulary import Vocabulary


class Counted(NamedTuple):
    """What was found in some scenes; parts are judged by Pred-All: of the objects as predicted."""

    objects: Confusion
    parts: Confusion


class Figures(NamedTuple):
    """One kind of class: percent with the right words and with shuffled ones."""

    right: Scores
    shuffled: Scores


def truth_of(scene: Scene, vocabulary: Vocabulary) -> Segmentation:
    """The labels of a scene as a result, for drawing."""
    maps = (scene.object_map.astype(np.int32), scene.part_map.astype(np.int32))
    return Segmentation(scene.image, *maps, vocabulary)


def count(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    scenes: Iterable[Scene],
    on_result: Callable[[Scene, Segmentation], None] = lambda scene, result: None,
) -> Counted:
    """Segments the scenes one by one; each result is offered to `on_result`."""
    found = Counted(Confusion(len(vocabulary.objects)), Confusion(len(vocabulary.parts)))
    for scene in scenes:
        result = segmenter(scene.image, vocabulary)
        found.objects.add(scene.object_map, result.object_map)
        found.parts.add(scene.part_map, result.part_map)
        on_result(scene, result)
    return found


def figures(found: Counted, vocabulary: Vocabulary, seed: int) -> tuple[Figures, Figures, Figures]:
    """Of objects, of parts, and of parts whose words are shuffled only within their object.

    `seed` shuffles the words.
    """
    objects = (found.objects, vocabulary.seen_object_mask)
    parts = (found.parts, vocabulary.seen_part_mask)
    within = shuffled_within_objects(vocabulary, seed)
    return (
        _figures(*objects, shuffled(len(vocabulary.objects), seed)),
        _figures(*parts, shuffled(len(vocabulary.parts), seed)),
        _figures(*parts, within),
    )


def _figures(confusion: Confusion, is_seen: np.ndarray | None, order: np.ndarray) -> Figures:
    return Figures(confusion.scores(is_seen), with_shuffled_words(confusion, order).scores(is_seen))


def scenes_of(split: str, seed: int, count: int, size: int = 128) -> PartWorld:
    """The first scenes of a world of its own for each seed."""
    return PartWorld(split, size=size, seed=seed, num_images=count)
