"""PCA-Seg: CAT-Seg's promises, its own sizes and names, and batch statistics as state."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from methods.promises_semantic import SemanticPromises, patterns_without_a_leaf, rate_of
from methods.semantic_models import CLIP, HEAD, Tiny, num_trained, quick_jit

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import ShapeRngs, blueprint, flatten
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.methods.catseg import port as catseg_port
from opvseg_jax.methods.pcaseg import port
from opvseg_jax.methods.pcaseg.model import PcaSeg
from opvseg_jax.methods.pcaseg.sizes import (
    LEARNING_RATES,
    OPENAI_LEARNING_RATES,
    SIZES,
    WEIGHT_DECAY,
    PcaSegSize,
)
from opvseg_jax.port.rules import convert, publish

EVA = EvaClipSize(16, 4, CLIP.vision, CLIP.text, 8, vocab_size=20, context=6)
SIZE = PcaSegSize(
    EVA, dataclasses.replace(HEAD, num_experts=2), 16, (0, 1), sliding=None, orthogonality=0.01
)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny(PcaSeg, SIZE)


class TestPromises(SemanticPromises):
    pass


@pytest.mark.parametrize(
    ("name", "rates", "count"),
    [("B/16", LEARNING_RATES, 31_012_725), ("L/14@336", LEARNING_RATES, 80_099_189)],
)
def test_as_many_parameters_train_as_in_the_published_model(name, rates, count):
    plan = blueprint(lambda: PcaSeg(SIZES[name], rngs=ShapeRngs()))
    assert num_trained(plan, rates, rate_of) == count
    assert not patterns_without_a_leaf(plan, rates)
    assert not patterns_without_a_leaf(plan, WEIGHT_DECAY)


def test_on_openai_clip_the_keys_of_the_text_tower_are_frozen():
    plan = blueprint(lambda: PcaSeg(SIZES["openai-B/16"], rngs=ShapeRngs()))
    key = "clip/text/blocks/0/attention/key/kernel"
    assert key in plan.shapes
    assert rate_of(key, OPENAI_LEARNING_RATES) == 0 < rate_of(key, LEARNING_RATES)


def test_published_names_there_and_back(tiny):
    published = publish(port.RULES, tiny.leaves)
    again = convert(port.RULES, published, tiny.plan.shapes)
    assert again.keys() == tiny.leaves.keys()
    for path, leaf in again.items():
        np.testing.assert_array_equal(leaf, tiny.leaves[path])


def test_every_problem_of_a_checkpoint_is_named(tiny):
    published = publish(port.RULES, tiny.leaves)
    layer = "sem_seg_head.predictor.transformer.layers.0.fusion_by_channel_second."
    del published[f"{layer}expert_layers.1.1.running_var"]
    published[f"{layer}expert_layers.1.2.weight"] = np.zeros(3)
    published[f"{layer}residual.weight"] = np.zeros((16, 32, 3, 3))
    with pytest.raises(UserError) as error:
        convert(port.RULES, published, tiny.plan.shapes)
    for text in (
        "head/layers/0/1/fusion/experts/1/norm/variance: missing",
        "expert_layers.1.2.weight: unexpected",
        "residual.weight: misshapen, expected a 1x1 convolution",
    ):
        assert text in str(error.value)


def test_a_checkpoint_of_another_method_is_refused(tiny):
    with pytest.raises(UserError, match="the weights do not fit the model"):
        convert(catseg_port.RULES, publish(port.RULES, tiny.leaves), tiny.plan.shapes)


def test_training_moves_the_running_statistics_and_sees_no_padded_class(tiny):
    labels = np.random.default_rng(1).integers(-1, 5, (2, 16, 16))

    @quick_jit
    def step(leaves, text, mask):
        model = tiny.plan.merge(leaves)
        losses = model.losses(tiny.images, labels, text, mask)
        return losses, flatten(model)

    exact = tiny.text.objects
    losses, after = step(tiny.leaves, exact, jnp.ones(5, bool))
    moved = {path for path in after if not np.array_equal(after[path], tiny.leaves[path])}
    statistics = {path for path in after if path.endswith(("norm/mean", "norm/variance"))}
    assert moved == statistics
    assert len(statistics) == 2 * 2 * 2  # blocks, experts, mean and variance
    assert 0 < losses["orthogonality"] < SIZE.orthogonality  # a squared cosine, weighted

    padded, mask = np.pad(exact, ((0, 2), (0, 0), (0, 0))), jnp.arange(7) < 5
    padded_losses, padded_after = step(tiny.leaves, padded, mask)
    for name, value in losses.items():
        np.testing.assert_allclose(padded_losses[name], value, rtol=1e-5)
    for path in statistics:
        np.testing.assert_allclose(padded_after[path], after[path], rtol=1e-5, atol=1e-5)
