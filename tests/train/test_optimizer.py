"""Groups, schedules, clipping and AdamW: what the methods' specifications say, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train.toy_method import DECAY, RATES, toy_plan, toy_train, toy_weights

from opvseg_jax.core.errors import UserError
from opvseg_jax.train.optimizer import (
    MUON_RATE,
    assign,
    clip_norm,
    make_rule,
    make_schedule,
    muon_or,
)

PATHS = ("clip/query/kernel", "clip/up/kernel", "head/norm/scale")


def adamw(weights, gradients, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    """PyTorch's AdamW, written out: the decay is apart from the gradient, eps beside the root."""
    m, v, w = np.zeros_like(weights), np.zeros_like(weights), weights.copy()
    for i, g in enumerate(gradients):
        w = w * (1 - lr(i) * decay)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        root = np.sqrt(v / (1 - betas[1] ** (i + 1)))
        w = w - lr(i) * (m / (1 - betas[0] ** (i + 1))) / (root + eps)
    return w


def follow(train, gradients):
    """The weights of the toy after these gradients, which are alike for all of its leaves."""
    plan = toy_plan()
    rule = make_rule(train, plan, RATES, DECAY)
    start = toy_weights(plan)
    weights = {path: jnp.asarray(start[path]) for path in rule.trained}
    state = rule.transform.init(weights)
    update = jax.jit(rule.transform.update)
    for g in gradients:
        grads = {path: jnp.full(leaf.shape, g) for path, leaf in weights.items()}
        updates, state = update(grads, state, weights)
        weights = optax.apply_updates(weights, updates)
    return start, weights


def test_ten_steps_are_those_of_adamw_with_a_rate_and_a_decay_for_each_group():
    gradients = np.random.default_rng(0).standard_normal(10).astype(np.float32)
    start, weights = follow(toy_train(schedule="cosine", weight_decay=0.5), gradients)

    def lr(i):
        return 0.1 * (1 + np.cos(np.pi * i / 20)) / 2

    for path, factor, decay in (("head/kernel", 0.5, 0.05), ("head/bias", 1.0, 0.0)):
        want = adamw(start[path].astype(float), gradients, lambda i, f=factor: f * lr(i), decay)
        np.testing.assert_allclose(weights[path], want, rtol=1e-5, atol=1e-6)
    assert weights.keys() == {"head/kernel", "head/bias"}


def test_muon_moves_matrices_by_steps_of_even_strength_and_the_rest_by_adam():
    """Newton and Schulz's five steps bring singular values near one, not to it."""
    key = jax.random.key(0)
    grads = {
        "kernel": jax.random.normal(key, (3, 3, 2, 6)) * jnp.geomspace(0.1, 1, 6),
        "bias": jax.random.normal(key, (6,)),
    }
    adam = optax.scale_by_adam(0.9, 0.95)
    transform = muon_or(adam)
    moved, _ = transform.update(grads, transform.init(grads), grads)
    strengths = np.linalg.svd(np.asarray(moved["kernel"]).reshape(18, 6), compute_uv=False)
    assert strengths.max() < 1.3 * MUON_RATE
    assert strengths.min() > 0.5 * MUON_RATE
    expected, _ = adam.update({"bias": grads["bias"]}, adam.init({"bias": grads["bias"]}))
    np.testing.assert_allclose(moved["bias"], expected["bias"], rtol=1e-6)


def test_the_norm_that_is_clipped_is_that_of_all_leaves_together():
    grads = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([[4.0]])}
    clip = clip_norm(0.01)
    clipped, _ = clip.update(grads, clip.init(grads))
    np.testing.assert_allclose(clipped["a"], [3.0 * 0.01 / (5 + 1e-6), 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[4.0 * 0.01 / (5 + 1e-6)]], rtol=1e-6)
    small, _ = clip_norm(6.0).update(grads, ())
    np.testing.assert_array_equal(small["a"], grads["a"])


def test_the_first_pattern_counts_and_each_parameter_has_one_value():
    table = ((r"clip/query/.*", 0.01), (r"clip/.*", 0.0), (r".*", 1.0))
    assert assign(PATHS, table, "rates") == dict(zip(PATHS, (0.01, 0.0, 1.0), strict=True))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (((r"clip/.*", 0.0),), "no pattern matches head/norm/scale"),
        (((r".*", 1.0), (r"clip/.*", 0.0)), "'clip/.*' is the first to match for no parameter"),
        (((r"clop/.*", 0.0), (r".*", 1.0)), "'clop/.*'"),
        (((r"query", 0.0), (r"c.*", 1.0)), "no pattern matches head/norm/scale; the pattern 'que"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, words):
    with pytest.raises(UserError, match=r"rates: ") as error:
        assign(PATHS, table, "rates")
    assert words in str(error.value)


def test_frozen_parameters_and_statistics_are_in_no_group():
    plan = toy_plan(normed=True)
    rule = make_rule(toy_train(), plan, RATES, DECAY)
    assert rule.trained == ("head/bias", "head/kernel", "norm/bias", "norm/scale")
    assert rule.frozen == ("encoder/bias", "encoder/kernel")
    assert rule.stats == ("norm/mean", "norm/variance")
    assert sorted(rule.trained + rule.frozen + rule.stats) == sorted(plan.shapes)


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="nothing can train"):
        make_rule(toy_train(), toy_plan(), ((r".*", 0.0),), DECAY)


# Rates of iterations as the references use them.
@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        (
            {"schedule": "poly", "lr": 1e-4, "steps": 60_000},
            {
                0: 1e-4,
                1: 9.999849999874999e-05,
                1000: 9.84987422935722e-05,
                59_999: 5.007994862237932e-09,
            },
        ),
        (
            {
                "schedule": "cosine",
                "lr": 0.02,
                "steps": 16_000,
                "warmup_steps": 100,
                "warmup_factor": 0.005,
            },
            {0: 1e-4, 99: 1e-4, 100: 0.019998072404820648, 8000: 0.01},
        ),
        ({"schedule": "cosine", "lr": 2e-4, "steps": 80_000}, {0: 2e-4, 40_000: 1e-4, 80_000: 0}),
        (
            {"schedule": "multistep", "lr": 1.0, "milestones": (3, 5)},
            {2: 1, 3: 0.1, 4: 0.1, 5: 0.01},
        ),
        ({"schedule": "constant", "lr": 1.0, "warmup_steps": 4}, {0: 0.25, 2: 0.75, 3: 1, 9: 1}),
    ],
)
def test_schedules(changes, rates):
    schedule = make_schedule(toy_train(**changes))
    got = [float(schedule(jnp.asarray(i))) for i in rates]
    np.testing.assert_allclose(got, list(rates.values()), rtol=2e-4, atol=1e-9)


def test_an_unknown_schedule_is_named_with_those_that_exist():
    with pytest.raises(UserError, match=r"train.schedule='linear': .*cosine"):
        make_schedule(toy_train(schedule="linear"))


def test_an_unknown_clip_is_named():
    with pytest.raises(UserError, match=r"train.clip.kind='value'"):
        make_rule(toy_train(clip={"kind": "value", "value": 1.0}), toy_plan(), RATES, DECAY)
