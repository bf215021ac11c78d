"""The state of a run: what is held for which leaf, and whose memory it is."""

import jax
import numpy as np
import pytest
from train.toy_method import DECAY, RATES, TEXT, toy_batch, toy_plan, toy_train, toy_weights

from opvseg_jax.parallel.mesh import one_device
from opvseg_jax.train.optimizer import make_rule
from opvseg_jax.train.state import abstract_state, create, weights_of
from opvseg_jax.train.step import make_step

PLAN = toy_plan(normed=True)


def created(**changes):
    rule = make_rule(toy_train(**changes), PLAN, RATES, DECAY)
    return rule, create(PLAN, toy_weights(PLAN), rule, one_device())


def test_frozen_leaves_and_statistics_hold_no_optimizer_state():
    rule, state = created()
    shapes = [leaf.shape for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    trained = [leaf.shape for leaf in state.trained.values()]
    assert sorted(shapes) == sorted(2 * trained)
    assert set(state.trained) == set(rule.trained)
    assert state.ema is None


def test_the_state_joined_is_what_it_was_made_of():
    weights = toy_weights(PLAN)
    joined = weights_of(created()[1])
    assert joined.keys() == PLAN.shapes.keys()
    for path, leaf in joined.items():
        np.testing.assert_array_equal(leaf, weights[path])


def test_its_shapes_are_known_without_it():
    rule, state = created(ema=0.9)
    like = abstract_state(PLAN, rule, one_device())
    assert jax.tree.structure(like) == jax.tree.structure(state)
    for want, leaf in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
        assert (want.shape, want.dtype, want.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)


def test_weights_of_another_dtype_become_those_of_the_model():
    rule, _ = created()
    half = {path: leaf.astype(np.float16) for path, leaf in toy_weights(PLAN).items()}
    state = create(PLAN, half, rule, one_device())
    assert {leaf.dtype.name for leaf in weights_of(state).values()} == {"float32"}


def test_a_missing_leaf_is_named():
    rule, _ = created()
    weights = toy_weights(PLAN)
    del weights["norm/mean"]
    with pytest.raises(ValueError, match="norm/mean"):
        create(PLAN, weights, rule, one_device())


def test_training_leaves_the_weights_given_alone():
    rule, _ = created()
    step = make_step(PLAN, TEXT, rule, mesh=one_device())
    for kind in (np.asarray, jax.numpy.asarray):
        given = {path: kind(leaf) for path, leaf in toy_weights(PLAN).items()}
        after, _ = step(create(PLAN, given, rule, one_device()), toy_batch())
        assert not np.array_equal(after.trained["head/kernel"], given["head/kernel"])
        for path, leaf in toy_weights(PLAN).items():
            np.testing.assert_array_equal(given[path], leaf)


def test_without_a_moving_average_there_is_none_to_ask_for():
    with pytest.raises(ValueError, match=r"train.ema=0"):
        weights_of(created()[1], ema=True)
