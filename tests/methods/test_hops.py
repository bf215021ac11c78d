"""HOPS: two stages in one compiled function; slots, empty images, switches, published names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods.part_tiny import (
    CANVAS,
    CLIP,
    DINO,
    HEAD,
    SIDES,
    WORDS,
    Tiny,
    batch,
    features,
    images,
    padded,
)
from methods.promises_parts import PartPromises
from methods.promises_semantic import patterns_without_a_leaf, rate_of
from methods.semantic_models import num_trained, quick_jit

from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.hierarchy.propagation import Seeds
from opvseg_jax.hierarchy.regions import largest_regions
from opvseg_jax.methods.hops import port
from opvseg_jax.methods.hops.assemble import paste_parts
from opvseg_jax.methods.hops.losses import pasted_part_loss
from opvseg_jax.methods.hops.model import Hops
from opvseg_jax.methods.hops.sizes import (
    LEARNING_RATES,
    LEARNING_RATES_LAST,
    PAPER,
    RELEASED,
    SIZES,
    WEIGHT_DECAY,
    HopsOptions,
    HopsSize,
    ablation,
)

# The tiny encoders have two layers.
OPTIONS = dataclasses.replace(PAPER, votes=2)
SIZE = HopsSize(CLIP, DINO, HEAD, **SIDES, options=OPTIONS)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    """Costs count for more than random weights would let them.

    Filtered costs are small; drawn as they come, the weights give all objects nearly the same
    logit (apart by 0.004 on average, of a range of 13), so that somewhere the best two differ by
    less than rounding, and rounding decides what is cut out for stage two.
    """
    model = Tiny(Hops, SIZE)
    model.leaves["head/embedding/conv/kernel"] *= 10
    return model


@pytest.fixture
def rules():
    return port.RULES


class TestPromises(PartPromises):
    pass


def test_no_two_objects_of_the_test_model_tie(tiny):
    """What the promises stand on: rounding does not choose the regions."""
    plan, text = tiny.plan, padded(WORDS)

    @quick_jit
    def objects(leaves, pictures):
        model = plan.merge(leaves)
        valid = jnp.ones(pictures.shape[:3], bool)
        return model.stages(pictures, model.known(text), valid).objects

    for seed in (3, 9):
        best = jax.lax.top_k(objects(tiny.leaves, images(seed=seed)), 2)[0]
        assert (best[..., 0] - best[..., 1]).min() > 2e-5


def painted(owners: np.ndarray, num_classes: int) -> jax.Array:
    """Logits [B, O + 1, h, w] whose winners are `owners` [B, h, w], -1 the background."""
    hot = jax.nn.one_hot(jnp.where(owners < 0, num_classes, owners), num_classes + 1)
    return jnp.moveaxis(20.0 * hot, -1, 1)


def staged(tiny: Tiny, size: HopsSize):
    """The compiled stages with stage one's logits given: scores of parts, and what was dropped."""
    plan = tiny.plan_of(size)

    @quick_jit
    def run(leaves, pictures, text, logits):
        model = plan.merge(leaves)
        text = model.known(text)
        stages = model.stages(pictures, text, object_logits=logits)
        return stages.parts.scores(repeat_sigmoid=False), stages.dropped

    return run


def test_any_number_of_objects_runs_through_one_program_on_the_device(tiny):
    words = {f"thing {i}": [f"piece {i} {j}" for j in range(6 - (i >= 16))] for i in range(20)}
    text = features(words)
    assert (len(text.objects), len(text.parts)) == (20, 116)
    run = staged(tiny, SIZE)
    rng = np.random.default_rng(0)
    inputs = []
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 1, 8):
        owners = np.full((1, 16, 16), -1)
        for place, owner in enumerate(rng.permutation(20)[:count]):
            y, x = divmod(place, 4)
            owners[0, 4 * y : 4 * y + 3, 4 * x : 4 * x + 3] = owner
        inputs.append((jnp.asarray(images(1, seed=count)), painted(owners, 20)))
    text = jax.device_put(text)
    results = []
    run(tiny.leaves, inputs[0][0], text, inputs[0][1])
    with jax.transfer_guard("disallow"):
        for pictures, logits in inputs:
            results.append(run(tiny.leaves, pictures, text, logits))
    assert run._cache_size() == 1
    for (_, logits), (scores, dropped) in zip(inputs, results, strict=True):
        owners = np.unique(np.asarray(logits).argmax(axis=1))
        found = np.unique(
            np.asarray(text.part_to_object)[np.asarray(scores)[..., :-1].max((0, 1, 2)) > 0]
        )
        assert found.tolist() == [owner for owner in owners if owner < 20]
        assert dropped.tolist() == [0]


def test_the_whole_method_transfers_nothing(tiny):
    text = jax.device_put(features(WORDS))
    plan = tiny.plan
    run = quick_jit(lambda leaves, *inputs: plan.merge(leaves)(*inputs))
    pictures = [jnp.asarray(images(seed=seed)) for seed in range(2)]
    run(tiny.leaves, pictures[0], text)
    with jax.transfer_guard("disallow"):
        for each in pictures:
            run(tiny.leaves, each, text)
    assert run._cache_size() == 1


def test_without_an_object_every_part_is_background(tiny):
    text = features(WORDS)
    nothing = painted(np.full((1, 16, 16), -1), 3)
    scores, dropped = staged(tiny, SIZE)(tiny.leaves, jnp.asarray(images(1)), text, nothing)
    np.testing.assert_array_equal(scores[..., -1], 1)
    np.testing.assert_array_equal(scores[..., :-1], 0)
    assert dropped.tolist() == [0]


def test_without_an_object_the_loss_and_its_gradient_are_numbers(tiny):
    text, data = features(WORDS), batch(features(WORDS))
    nothing = painted(np.full((2, 16, 16), -1), 3)

    def loss(leaves):
        arrays = data["image"], data["object_map"], data["part_map"]
        return sum(tiny.plan.merge(leaves).losses(*arrays, text, object_logits=nothing).values())

    value, gradient = quick_jit(jax.value_and_grad(loss))(tiny.leaves)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in gradient.values())


def test_the_largest_objects_get_the_slots_and_the_rest_is_reported(tiny):
    text = features(WORDS)
    owners = np.full((1, 16, 16), -1)
    owners[0, :8], owners[0, 8:12], owners[0, 14:15] = 0, 1, 2
    size = dataclasses.replace(SIZE, options=dataclasses.replace(OPTIONS, num_slots=2))
    inputs = tiny.leaves, jnp.asarray(images(1)), text, painted(owners, 3)
    few, dropped = staged(tiny, size)(*inputs)
    every, none_dropped = staged(tiny, SIZE)(*inputs)
    assert (dropped.tolist(), none_dropped.tolist()) == ([1], [0])
    kept = np.asarray(text.part_to_object) < 2
    np.testing.assert_allclose(few[..., :-1][..., kept], every[..., :-1][..., kept], atol=1e-5)
    assert (few[..., :-1][..., ~kept] == 0).all()
    assert (every[..., :-1][..., ~kept] > 0).any()


def test_parts_stay_inside_their_object():
    text = features(WORDS)
    labels = jnp.full((1, 8, 8), -1).at[0, :4, :4].set(1).at[0, 5:, 2:].set(0)
    regions = largest_regions(labels, 3, 3)
    logits = jax.random.normal(jax.random.key(0), (1, 3, 3, 4, 4))
    scores = np.asarray(paste_parts(logits, regions, text).scores(repeat_sigmoid=False))[0]
    for part, owner in enumerate(np.asarray(text.part_to_object)):
        np.testing.assert_array_equal(scores[..., part] > 0, np.asarray(labels[0]) == owner)
    np.testing.assert_array_equal(scores[..., -1], np.asarray(labels[0]) < 0)


def test_loss_of_pasted_parts_is_that_of_probabilities():
    logits = jnp.array([[[[2.0, -1.0], [0.5, 0.3]]]])
    covered = jnp.array([[[[True, True], [False, False]]]])
    labels = jnp.array([[[0, 1]]])
    p = jax.nn.sigmoid(logits[0, 0, 0])
    expected = (-jnp.log(p[0]) - jnp.log(1 - p[1]) + 100.0) / 4
    mask = jnp.ones(2, bool)
    np.testing.assert_allclose(pasted_part_loss(logits, covered, labels, mask), expected, rtol=1e-6)
    slope = jax.grad(pasted_part_loss)(logits, covered, labels, mask)
    np.testing.assert_array_equal(slope[0, 0, 1], 0)
    assert (slope[0, 0, 0] != 0).all()


def test_dino_learns_through_its_attention_only_if_told_to():
    text, data = padded(WORDS), batch(features(WORDS))

    def slope(learn: bool) -> np.ndarray:
        options = dataclasses.replace(OPTIONS, attention="dino", learn_attention=learn)
        model = Tiny(Hops, dataclasses.replace(SIZE, options=options))
        return model.loss(text, data)[1]["dino/blocks/1/attention/query/kernel"]

    assert np.abs(slope(True) - slope(False)).max() > 1e-6


@pytest.mark.parametrize("regions", ["found", "true"])
def test_with_true_regions_parts_are_learnt_whatever_stage_one_finds(tiny, regions):
    size = dataclasses.replace(SIZE, options=dataclasses.replace(OPTIONS, train_regions=regions))
    text, data = features(WORDS), batch(features(WORDS))
    nothing = painted(np.full((2, 16, 16), -1), 3)

    def parts(leaves, logits):
        arrays = data["image"], data["object_map"], data["part_map"]
        model = tiny.plan_of(size).merge(leaves)
        return model.losses(*arrays, text, object_logits=logits)["parts"]

    everything = painted(np.zeros((2, 16, 16), int), 3)
    found, other = (quick_jit(parts)(tiny.leaves, logits) for logits in (nothing, everything))
    assert (found == other) == (regions == "true")


VARIANTS = {
    "normalised filter": dataclasses.replace(OPTIONS, normalise_filter=True),
    "released": dataclasses.replace(RELEASED, votes=2),
    "no filter": ablation(OPTIONS, afm=False),
    "no propagation": ablation(OPTIONS, aem=False),
    "dino": ablation(OPTIONS, attention="dino"),
    "clip": ablation(OPTIONS, attention="clip"),
    "seeds": dataclasses.replace(OPTIONS, steps=2, seeds=Seeds()),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_switch_changes_the_result_and_no_leaf(tiny, name):
    size = dataclasses.replace(SIZE, options=VARIANTS[name])
    assert tiny.plan_of(size).shapes == tiny.plan.shapes
    outputs, base = tiny(padded(WORDS), size=size), tiny(padded(WORDS))
    for scores in (outputs.objects, outputs.parts):
        assert np.isfinite(scores).all()
        assert scores.shape[1:3] == CANVAS
    moved = np.abs(outputs.objects - base.objects).max(), np.abs(outputs.parts - base.parts).max()
    assert max(moved) > 1e-4


def test_an_unknown_switch_names_the_choices():
    with pytest.raises(ValueError, match="clip, dino, fused"):
        HopsOptions(attention="both")
    with pytest.raises(ValueError, match="num_slots"):
        HopsOptions(num_slots=0)


def test_as_many_parameters_learn_as_in_the_released_model():
    plan = blueprint(lambda: Hops(SIZES["B/16-released"], rngs=ShapeRngs()))
    assert num_trained(plan, LEARNING_RATES_LAST, rate_of) == 24_786_401
    for table in (LEARNING_RATES, LEARNING_RATES_LAST, WEIGHT_DECAY):
        assert not patterns_without_a_leaf(plan, table)


def test_the_presets_are_those_of_the_paper_and_the_release():
    assert (PAPER.attention, PAPER.alpha, PAPER.votes, PAPER.spread_parts) == (
        "fused",
        0.7,
        4,
        True,
    )
    assert (PAPER.object_weight, PAPER.part_weight, PAPER.layers) == (0.4, 0.6, "chained")
    assert (RELEASED.attention, RELEASED.votes, RELEASED.spread_parts) == ("clip", 5, False)
    assert (RELEASED.layers, RELEASED.last_block) == ("last", "twice")
