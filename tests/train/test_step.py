"""The step on one device; `tests/mesh` compares it with many."""

import jax
import numpy as np
import pytest
from train.toy_method import DECAY, RATES, TEXT, toy_batch, toy_plan, toy_train, toy_weights

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import flatten
from opvseg_jax.parallel.mesh import one_device
from opvseg_jax.train.optimizer import make_rule
from opvseg_jax.train.state import create, weights_of
from opvseg_jax.train.step import make_step


def run(steps=3, *, normed=False, batch=None, accumulate=1, remat=False, **changes):
    """-> the state after some steps, and the metrics of each."""
    plan, mesh = toy_plan(normed), one_device()
    rule = make_rule(toy_train(**changes), plan, RATES, DECAY)
    step = make_step(plan, TEXT, rule, mesh=mesh, accumulate=accumulate, remat=remat)
    state, found = create(plan, toy_weights(plan), rule, mesh), []
    for i in range(steps):
        state, metrics = step(state, batch or toy_batch(seed=i))
        found.append(jax.device_get(metrics))
    return state, found


def after_loss(plan, weights, batch):
    """The leaves of a module that has computed its loss."""

    @jax.jit
    def leaves_after(weights, batch):
        module = plan.merge(weights)
        module.loss(batch, TEXT)
        return flatten(module)

    return leaves_after(weights, batch)


def assert_same(a, b, **close):
    for path, leaf in weights_of(a).items():
        np.testing.assert_allclose(leaf, weights_of(b)[path], err_msg=path, **close)


def test_only_trained_leaves_move_and_the_loss_falls():
    batch = toy_batch()
    state, metrics = run(20, normed=True, batch=batch)
    start = toy_weights(toy_plan(normed=True))
    moved = {path for path, x in weights_of(state).items() if not np.array_equal(x, start[path])}
    assert moved == {path for path in start if not path.startswith("encoder/")}
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
    assert int(state.step) == 20


def test_metrics_are_the_loss_its_terms_and_how_it_was_learned():
    _, [metrics] = run(1, lr=0.25)
    assert metrics.keys() == {"loss", "distance", "grad_norm", "lr", "is_finite"}
    assert {np.shape(value) for value in metrics.values()} == {()}
    assert metrics["lr"] == 0.25
    assert metrics["is_finite"]


def test_the_norm_reported_is_that_of_the_trained_leaves_before_clipping():
    plan, batch, weights = toy_plan(), toy_batch(), toy_weights(toy_plan())
    head = {path: x for path, x in weights.items() if path.startswith("head/")}
    loss = jax.jit(lambda head: plan.merge({**weights, **head}).loss(batch, TEXT)[0])
    grads = jax.grad(loss)(head)
    want = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    _, [metrics] = run(1, batch=batch, clip={"kind": "norm", "value": 1e-3})
    np.testing.assert_allclose(metrics["grad_norm"], want, rtol=1e-5)


def test_batch_statistics_move_as_the_module_moves_them():
    plan, batch = toy_plan(normed=True), toy_batch()
    leaves = after_loss(plan, toy_weights(plan), batch)
    state, _ = run(1, normed=True, batch=batch)
    for path, leaf in state.stats.items():
        np.testing.assert_allclose(leaf, leaves[path], rtol=1e-6, err_msg=path)


def test_the_parts_of_an_accumulated_batch_are_the_batch():
    whole, of_whole = run(3)
    parts, of_parts = run(3, accumulate=4)
    assert_same(whole, parts, rtol=1e-5, atol=1e-6)
    for a, b in zip(of_whole, of_parts, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)


def test_batch_statistics_move_once_for_each_part_of_an_accumulated_batch():
    plan, batch = toy_plan(normed=True), toy_batch()
    leaves = toy_weights(plan)
    for i in range(2):  # rows 0, 2, 4, 6, then rows 1, 3, 5, 7
        leaves = after_loss(plan, leaves, {name: rows[i::2] for name, rows in batch.items()})
    state, _ = run(1, normed=True, batch=batch, accumulate=2)
    for path, leaf in state.stats.items():
        np.testing.assert_allclose(leaf, leaves[path], rtol=1e-6, err_msg=path)


def test_rematerialisation_changes_no_number():
    assert_same(run(3, normed=True)[0], run(3, normed=True, remat=True)[0], rtol=1e-6, atol=1e-7)


def test_the_moving_average_follows_the_weights():
    plan, mesh = toy_plan(), one_device()
    rule = make_rule(toy_train(ema=0.2), plan, RATES, DECAY)
    state, step = (
        create(plan, toy_weights(plan), rule, mesh),
        make_step(plan, TEXT, rule, mesh=mesh),
    )
    average = np.asarray(state.trained["head/bias"])
    for keep in (0.1, 2 / 11, 0.2, 0.2):  # at first shorter than asked for
        state, _ = step(state, toy_batch())
        average = keep * average + (1 - keep) * np.asarray(state.trained["head/bias"])
    weights = weights_of(state, ema=True)
    np.testing.assert_allclose(weights["head/bias"], average, rtol=1e-5)
    np.testing.assert_array_equal(weights["encoder/bias"], state.frozen["encoder/bias"])


def test_where_the_loss_is_no_number_nothing_moves():
    broken = toy_batch()
    broken["image"] = np.full(broken["image"].shape, np.nan, np.float32)
    state, [metrics] = run(1, normed=True, batch=broken, ema=0.5)
    assert not metrics["is_finite"]
    assert not np.isfinite(metrics["loss"])
    for path, leaf in toy_weights(toy_plan(normed=True)).items():
        np.testing.assert_array_equal(weights_of(state)[path], leaf)
    assert int(state.step) == 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer))


def test_the_state_given_is_used_up():
    plan, mesh = toy_plan(), one_device()
    rule = make_rule(toy_train(), plan, RATES, DECAY)
    before = create(plan, toy_weights(plan), rule, mesh)
    after, _ = make_step(plan, TEXT, rule, mesh=mesh)(before, toy_batch())
    assert all(leaf.is_deleted() for leaf in before.trained.values())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.optimizer))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_a_batch_that_does_not_divide_into_its_parts_is_refused():
    with pytest.raises(UserError, match=r"a batch of 8 .* in 3 parts: expected a multiple of 3"):
        run(1, accumulate=3)
