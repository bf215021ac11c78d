"""CAT-Seg: nothing but the image and its words counts; sizes, freezing and names are published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods.promises_semantic import SemanticPromises, patterns_without_a_leaf, rate_of
from methods.semantic_models import CLIP, HEAD, Tiny, num_trained

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.methods.catseg import port
from opvseg_jax.methods.catseg.losses import segmentation_loss
from opvseg_jax.methods.catseg.model import CatSeg
from opvseg_jax.methods.catseg.predict import sliding
from opvseg_jax.methods.catseg.sizes import (
    LEARNING_RATES,
    SIZES,
    WEIGHT_DECAY,
    CatSegSize,
    Sliding,
)
from opvseg_jax.port.rules import convert, publish

SIZE = CatSegSize(CLIP, HEAD, 16, (0, 1), sliding=Sliding(canvas=24, window=16, stride=8))


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny(CatSeg, SIZE)


class TestPromises(SemanticPromises):
    pass


@pytest.mark.parametrize(("name", "count"), [("B/16", 25_115_873), ("L/14@336", 70_270_177)])
def test_as_many_parameters_train_as_in_the_published_model(name, count):
    plan = blueprint(lambda: CatSeg(SIZES[name], rngs=ShapeRngs()))
    assert num_trained(plan, LEARNING_RATES, rate_of) == count
    assert not patterns_without_a_leaf(plan, LEARNING_RATES)
    assert not patterns_without_a_leaf(plan, WEIGHT_DECAY)


def test_norms_alone_are_spared_weight_decay(tiny):
    spared = {path for path in tiny.leaves if not rate_of(path, WEIGHT_DECAY)}
    norms = {path for path in tiny.leaves if path.startswith("head/") and "norm" in path}
    assert spared == norms


def test_published_names_there_and_back(tiny):
    published = publish(port.RULES, tiny.leaves)
    again = convert(port.RULES, published, tiny.plan.shapes)
    assert again.keys() == tiny.leaves.keys()
    for path, leaf in again.items():
        np.testing.assert_array_equal(leaf, tiny.leaves[path])


def test_every_problem_of_a_checkpoint_is_named(tiny):
    published = publish(port.RULES, tiny.leaves)
    head = "sem_seg_head.predictor.transformer."
    del published[f"{head}layers.0.attention.norm1.weight"]
    published[f"{head}layers.0.fusion.weight"] = np.zeros(3)
    published[f"{head}conv1.bias"] = np.zeros(5)
    with pytest.raises(UserError) as error:
        convert(port.RULES, published, tiny.plan.shapes)
    for text in (
        "head/layers/0/0/classwise/norm1/scale: missing",
        "layers.0.fusion.weight: unexpected",
        "conv1.bias -> head/embedding/conv/bias: misshapen",
    ):
        assert text in str(error.value)


def test_ignored_pixels_are_a_no_for_every_class():
    logits = jnp.asarray([[[[2.0, -1.0]], [[0.5, 3.0]]]])  # two classes, two pixels
    labels = jnp.asarray([[[1, -2]]])
    no = jax.nn.softplus(jnp.asarray([2.0, -1.0, 3.0])).sum()
    yes = jax.nn.softplus(-0.5)
    np.testing.assert_allclose(segmentation_loss(logits, labels), (no + yes) / 4, rtol=1e-6)


def test_padded_classes_do_not_enter_the_loss():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 3, 4, 4)), rng.integers(-2, 3, (2, 8, 8))
    padded = np.concatenate([logits, np.full((2, 2, 4, 4), 9.0)], axis=1)
    mask = jnp.arange(5) < 3
    np.testing.assert_allclose(
        segmentation_loss(padded, labels, mask), segmentation_loss(logits, labels), rtol=1e-6
    )


def test_sliding_averages_windows_and_the_global_view_after_the_sigmoid():
    rule = Sliding(canvas=24, window=16, stride=8)

    def score(views):  # the v-th view says v everywhere
        level = jnp.arange(len(views), dtype=jnp.float32)[:, None, None, None]
        return jnp.broadcast_to(level, (len(views), 1, 4, 4))

    scores = np.asarray(sliding(score, jnp.zeros((1, 20, 30, 3)), 16, rule))[0, :, :, 0]
    p = 1 / (1 + np.exp(-np.arange(5.0)))
    np.testing.assert_allclose(scores[0, 0], (p[0] + p[4]) / 2, rtol=1e-6)
    np.testing.assert_allclose(scores[12, 12], (p[:4].mean() + p[4]) / 2, rtol=1e-6)
    np.testing.assert_allclose(scores[23, 12], ((p[2] + p[3]) / 2 + p[4]) / 2, rtol=1e-6)


def test_sliding_gives_many_classes_what_it_gives_few():
    rule = Sliding(canvas=24, window=16, stride=8)
    logits = np.random.default_rng(0).standard_normal((5, 75, 4, 4)).astype(np.float32)

    def scores(first, last):
        return sliding(lambda views: logits[:, first:last], jnp.zeros((1, 20, 30, 3)), 16, rule)

    apart = np.concatenate([scores(0, 25), scores(25, 50), scores(50, 75)], axis=-1)
    np.testing.assert_allclose(scores(0, 75), apart, atol=1e-6)
