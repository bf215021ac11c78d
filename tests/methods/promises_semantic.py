"""Promises that CAT-Seg and its descendants share. `tiny` is a `Tiny` of the method under test."""

import dataclasses
import re

import numpy as np
from methods.semantic_models import PADDED

from opvseg_jax.text.features import TextFeatures, pad
from opvseg_jax.vocabulary import Vocabulary

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def take_real(scores: np.ndarray, count: int) -> np.ndarray:
    """The columns of the `count` real classes, and the background."""
    return np.concatenate([scores[..., :count], scores[..., -1:]], axis=-1)


class SemanticPromises:
    """Nothing but an image and its words decides about its result."""

    def test_padded_classes_change_nothing(self, tiny):
        exact, padded = tiny(tiny.text), tiny()
        np.testing.assert_allclose(take_real(padded.objects, 5), exact.objects, **CLOSE)
        np.testing.assert_allclose(take_real(padded.parts, 3), exact.parts, **CLOSE)
        assert (padded.objects[..., 5:-1] == 0).all()

    def test_the_size_of_chunks_changes_nothing(self, tiny):
        whole, chunked = tiny(), tiny(class_chunk=4)
        np.testing.assert_allclose(chunked.objects, whole.objects, **CLOSE)
        np.testing.assert_allclose(chunked.parts, whole.parts, **CLOSE)

    def test_the_rest_of_the_batch_changes_nothing(self, tiny):
        other = np.stack([tiny.images[0][::-1], tiny.images[1]])
        np.testing.assert_allclose(tiny(images=other).objects[1], tiny().objects[1], **CLOSE)

    def test_the_order_of_classes_changes_nothing(self, tiny):
        order = np.array([4, 2, 0, 1, 3])
        text = dataclasses.replace(tiny.text, objects=tiny.text.objects[order])
        shuffled = tiny(pad(text, objects=7, parts=5, background=3)).objects
        np.testing.assert_allclose(shuffled[..., :5], tiny().objects[..., order], **CLOSE)

    def test_what_is_padding_of_the_canvas_is_background(self, tiny):
        valid = np.ones((2, 16, 16), bool)
        valid[:, 8:] = False
        objects = tiny(valid=valid).objects
        below = objects[:, objects.shape[1] // 2 :]
        assert (below.argmax(axis=-1) == below.shape[-1] - 1).all()
        above = np.s_[:, : objects.shape[1] // 2]
        np.testing.assert_array_equal(objects[above], tiny().objects[above])

    def test_one_object_with_one_part(self, tiny):
        one = tiny.text.objects[:1], tiny.text.parts[:1], tiny.text.generic[:1]
        text = TextFeatures.of(Vocabulary.of({"dog": ["head"]}), *one)
        outputs = tiny(pad(text, **PADDED, generic=len(tiny.text.generic), most_parts=2))
        for scores in (outputs.objects, outputs.parts):
            assert np.isfinite(scores).all()
            assert (scores[..., 0] > 0).any()
            assert (scores[..., 1:-1] == 0).all()


def rate_of(path: str, table) -> float:
    """What an ordered table gives to a leaf."""
    return next(value for pattern, value in table if re.fullmatch(pattern, path))


def patterns_without_a_leaf(plan, table) -> list[str]:
    """First matches only: a pattern that an earlier one hides is of no use either."""
    used = {
        next(pattern for pattern, _ in table if re.fullmatch(pattern, path)) for path in plan.shapes
    }
    return [pattern for pattern, _ in table if pattern not in used]
