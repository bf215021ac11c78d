"""PartCATSeg: nothing but the image and its words counts; sizes, freezing, names are published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods.part_tiny import CLIP, DINO, HEAD, SIDES, WORDS, Tiny, features
from methods.promises_parts import PartPromises
from methods.promises_semantic import patterns_without_a_leaf, rate_of
from methods.semantic_models import num_trained

from opvseg_jax import templates
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.methods.partcatseg import losses, port, views
from opvseg_jax.methods.partcatseg.model import PartCatSeg
from opvseg_jax.methods.partcatseg.sizes import (
    LEARNING_RATES,
    SIZES,
    WEIGHT_DECAY,
    PartCatSegSize,
)
from opvseg_jax.text.features import pad


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny(PartCatSeg, PartCatSegSize(CLIP, DINO, HEAD, **SIDES))


@pytest.fixture
def rules():
    return port.RULES


class TestPromises(PartPromises):
    pass


def test_as_many_parameters_train_as_in_the_published_model():
    plan = blueprint(lambda: PartCatSeg(SIZES["B/16"], rngs=ShapeRngs()))
    # The reference counts two vectors that never get a gradient: background and DINO's mask.
    assert num_trained(plan, LEARNING_RATES, rate_of) == 26_774_497 - 512 - 384
    assert not patterns_without_a_leaf(plan, LEARNING_RATES)
    assert not patterns_without_a_leaf(plan, WEIGHT_DECAY)


def test_words_come_with_as_many_sentences_as_the_costs_have_channels():
    size = SIZES["B/16"]
    assert len(templates.named(size.templates)) == size.head.num_prompts


def test_norms_alone_are_spared_weight_decay(tiny):
    trained = {path for path in tiny.leaves if rate_of(path, LEARNING_RATES)}
    spared = {path for path in trained if not rate_of(path, WEIGHT_DECAY)}
    assert spared == {path for path in trained if "norm" in path.split("/")[-2]}


def test_an_object_without_parts_and_an_ignored_pixel_are_background():
    text = features({"dog": ["head"], "sky": []})
    objects = np.array([[[0, 0, 1, -1, -2]]])
    parts = np.array([[[0, -1, -1, -1, -2]]])
    target = losses.targets_of(objects, parts, text)
    np.testing.assert_array_equal(target.objects, [[[0, 0, -1, -1, -1]]])
    np.testing.assert_array_equal(target.is_part, [[[True, False, False, False, False]]])


def test_the_mean_counts_elements_and_not_weights():
    logits, target = jnp.zeros((1, 1, 2, 2)), jnp.zeros((1, 1, 2, 2))
    weights = losses.class_weights(jnp.ones(1, bool), 0.05)
    expected = np.log(2) * (1 + 0.05) / 2
    np.testing.assert_allclose(losses.yes_or_no(logits, target, weights), expected, rtol=1e-6)
    nowhere = jnp.zeros((1, 1, 2), bool)
    assert losses.yes_or_no(logits, target, weights, nowhere) == 0


def test_parts_that_make_up_their_objects_cost_nothing():
    text = features({"dog": ["head"], "car": ["wheel"]}, background=["nothing"])
    costs = jax.random.normal(jax.random.key(0), (1, 3, 4, 4))
    assert losses.composition_loss(costs, costs, text) < 1e-6
    assert losses.composition_loss(costs, costs[:, ::-1], text) > 1e-2


def test_the_composition_does_not_hear_of_padding():
    text = features(WORDS, background=["nothing"])
    key = jax.random.key(1)
    first, second = jax.random.normal(key, (2, 4, 3, 3)), jax.random.normal(key, (2, 8, 3, 3))
    exact = losses.composition_loss(first, second, text)
    wide = [jnp.insert(x, jnp.array([x.shape[1] - 1] * 2), 9.0, axis=1) for x in (first, second)]
    grown = losses.composition_loss(*wide, pad(text, objects=5, parts=9))
    np.testing.assert_allclose(grown, exact, rtol=1e-5)


def test_padding_is_undone_or_stretched():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
    whole = views.at_size(ramp, (32, 32), undo_padding=True)
    # An image of 16 rows is seen as the upper half of a canvas of 32.
    undone = views.at_size(ramp, (16, 32), undo_padding=True)
    np.testing.assert_allclose(undone, whole[:, :16], atol=1e-6)
    stretched = views.at_size(ramp, (16, 32), undo_padding=False)
    assert stretched[0, -1, 0, 0] == 7
