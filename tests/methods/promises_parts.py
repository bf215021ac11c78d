"""Promises that PartCATSeg and HOPS share. `tiny` is a `Tiny` of the method under test."""

import dataclasses

import jax
import numpy as np
import pytest
from methods.part_tiny import WORDS, batch, features, images, padded
from methods.promises_semantic import take_real

from opvseg_jax.core.errors import UserError
from opvseg_jax.port.rules import convert, publish

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class PartPromises:
    """Nothing but an image and its words decides about its result."""

    spatial_layer = "layers.0.swin_block"  # as published

    def test_padded_classes_change_nothing(self, tiny):
        text = features(WORDS)
        exact, grown = tiny(text), tiny(padded(WORDS))
        np.testing.assert_allclose(take_real(grown.objects, 3), exact.objects, **CLOSE)
        np.testing.assert_allclose(take_real(grown.parts, 7), exact.parts, **CLOSE)

    def test_padded_classes_change_no_loss_and_no_gradient(self, tiny):
        text = features(WORDS)
        exact, of_exact = tiny.loss(text, batch(text))
        grown, of_grown = tiny.loss(padded(WORDS), batch(text))
        np.testing.assert_allclose(grown, exact, rtol=1e-5)
        for path, gradient in of_exact.items():
            assert np.isfinite(of_grown[path]).all(), path
            scale = np.abs(gradient).max() + 1e-3
            np.testing.assert_allclose(of_grown[path] / scale, gradient / scale, atol=1e-3)

    def test_the_size_of_chunks_changes_nothing(self, tiny):
        text = padded(WORDS)
        head = dataclasses.replace(tiny.size.head, class_chunk=3)
        chunked = tiny(text, size=dataclasses.replace(tiny.size, head=head))
        whole = tiny(text)
        np.testing.assert_allclose(chunked.objects, whole.objects, **CLOSE)
        np.testing.assert_allclose(chunked.parts, whole.parts, **CLOSE)

    def test_the_rest_of_the_batch_changes_nothing(self, tiny):
        text = padded(WORDS)
        other = np.stack([images(seed=9)[0], images()[1]])
        there, here = tiny(text, other), tiny(text)
        np.testing.assert_allclose(there.objects[1], here.objects[1], **CLOSE)
        np.testing.assert_allclose(there.parts[1], here.parts[1], **CLOSE)

    def test_the_order_of_classes_changes_nothing(self, tiny):
        turned = {name: WORDS[name][::-1] for name in reversed(WORDS)}
        here = tiny(padded(WORDS))
        there = tiny(padded(turned))
        np.testing.assert_allclose(
            take_real(there.objects, 3)[..., [2, 1, 0, 3]], take_real(here.objects, 3), **CLOSE
        )
        # Parts of both: dog's 3, car's 2, cat's 2.
        order = [6, 5, 4, 3, 2, 1, 0, 7]
        np.testing.assert_allclose(
            take_real(there.parts, 7)[..., order], take_real(here.parts, 7), **CLOSE
        )

    def test_what_is_padding_of_the_canvas_is_background(self, tiny):
        valid = np.ones((2, 32, 32), bool)
        valid[:, 16:] = False
        outputs = tiny(padded(WORDS), valid=valid)
        for scores in (outputs.objects, outputs.parts):
            below = scores[:, scores.shape[1] // 2 :]
            assert (below.argmax(axis=-1) == below.shape[-1] - 1).all()

    def test_an_object_without_parts_is_an_object_all_the_same(self, tiny):
        text = padded({**WORDS, "sky": []})
        assert tiny(text).objects[..., 3].max() > 0
        as_released = tiny(text, size=dataclasses.replace(tiny.size, partless="background"))
        without = tiny(padded(WORDS))
        np.testing.assert_allclose(as_released.objects, without.objects, **CLOSE)
        np.testing.assert_allclose(as_released.parts, without.parts, **CLOSE)

    def test_one_object_with_one_part(self, tiny):
        outputs = tiny(padded({"dog": ["head"]}))
        for scores, real in ((outputs.objects, [0, -1]), (outputs.parts, [0, -1])):
            assert np.isfinite(scores).all()
            assert np.isin(scores.argmax(axis=-1), np.arange(scores.shape[-1])[real]).all()

    def test_no_parts_at_all(self, tiny):
        outputs = tiny(features({"dog": [], "car": []}))
        assert outputs.parts is None
        assert np.isfinite(outputs.objects).all()

    def test_training_without_parts_is_refused(self, tiny):
        text = features({"dog": [], "car": []})
        with pytest.raises(UserError, match="vocabulary with parts"):
            tiny.loss(text, batch(features(WORDS)))

    def test_background_words_compete(self, tiny):
        outputs = tiny(padded(WORDS, background=["grass", "wall"]))
        assert not np.allclose(outputs.objects, tiny(padded(WORDS)).objects, atol=1e-4)

    def test_published_names_there_and_back(self, tiny, rules):
        leaves = jax.tree.map(np.asarray, tiny.leaves)
        again = convert(rules, publish(rules, leaves), tiny.plan.shapes)
        assert again.keys() == leaves.keys()
        for path, leaf in again.items():
            np.testing.assert_array_equal(leaf, leaves[path])

    def test_what_a_checkpoint_holds_beside_is_no_problem(self, tiny, rules):
        published = publish(rules, jax.tree.map(np.asarray, tiny.leaves))
        head = "sem_seg_head.predictor.transformer."
        for name in (
            f"{head}layers_object.1.attention.norm1.weight",
            f"{head}{self.spatial_layer}.block_2.attn_mask",
            "backbone.dinov2.mask_token",
        ):
            published[name] = np.zeros(3)
        assert convert(rules, published, tiny.plan.shapes).keys() == tiny.leaves.keys()

    def test_every_problem_of_a_checkpoint_is_named(self, tiny, rules):
        published = publish(rules, jax.tree.map(np.asarray, tiny.leaves))
        head = "sem_seg_head.predictor.transformer."
        del published[f"{head}conv1.weight"]
        published[f"{head}upsample.weight"] = np.zeros(3)
        published["sem_seg_head.predictor.non_object_embedding"] = np.zeros((1, 5))
        with pytest.raises(UserError) as error:
            convert(rules, published, tiny.plan.shapes)
        for text in (
            "head/embedding/conv/kernel: missing",
            "upsample.weight: unexpected",
            "non_object_embedding -> background: misshapen",
        ):
            assert text in str(error.value)
