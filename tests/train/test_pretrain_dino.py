"""The tiny DINO is trained as promised: on a model of one block, in seconds."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.core.weights import blueprint, flatten
from opvseg_jax.hub.encoders import load_dino
from opvseg_jax.pipeline.partworld import render_many
from opvseg_jax.train import pretrain_dino
from opvseg_jax.train.pretrain_dino import View
from opvseg_jax.train.small import make_optimizer

ARGS = ["--images", "12", "--steps", "12", "--batch", "6", "--workers", "1", "--judged", "4"]
ARGS += ["--prototypes", "16", "--class-prototypes", "4"]


@pytest.fixture(scope="module", autouse=True)
def small():
    """One block of width 32 on images of 32 pixels."""
    with pytest.MonkeyPatch.context() as patch:
        small = {"image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "mlp_ratio": 2}
        patch.setattr(
            pretrain_dino, "CONFIG", pretrain_dino.CONFIG | small | {"num_attention_heads": 1}
        )
        patch.setattr(pretrain_dino, "SOURCE", 48)
        patch.setattr(pretrain_dino, "TEACHER_VIEW", View(32, (0.7, 1.0)))
        views = {
            "masked": View(24, (0.6, 1.0), masked=(0.2, 0.5)),
            "close": View(16, (0.3, 0.6), times=2),
        }
        patch.setattr(pretrain_dino, "STUDENT_VIEWS", views)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder that the program leaves behind."""
    folder = tmp_path_factory.mktemp("dino")
    pretrain_dino.main(["--out", str(folder), *ARGS])
    return folder


@pytest.fixture(scope="module")
def steps():
    """Ten steps on one batch with the same views: student, teacher and metrics after each."""
    args = pretrain_dino.parse(["--out", "unused", *ARGS, "--lr", "0.01", "--momentum", "0.5"])
    plan = blueprint(lambda: pretrain_dino.build(args))
    student = jax.jit(lambda: flatten(pretrain_dino.build(args)))()
    optimizer = make_optimizer(args.lr, 10, student)
    step = jax.jit(functools.partial(pretrain_dino.update, plan, optimizer))
    images = render_many("pretrain", 0, 6, 48).images
    state, teacher, seen = optimizer.init(student), jax.tree.map(jnp.copy, student), []
    for _ in range(10):
        student, teacher, state, metrics = step(
            student, teacher, state, images, jax.random.key(0), 0.5
        )
        seen.append((student, teacher, metrics))
    return seen


def test_losses_fall_on_a_fixed_batch(steps):
    for name in ("loss_masked", "loss_close"):
        values = [float(metrics[name]) for *_, metrics in steps]
        assert np.isfinite(values).all()
        assert min(values[-3:]) < values[0]


def test_the_teacher_is_the_running_mean_of_students(steps):
    for (_, before, _), (student, after, _) in itertools.pairwise(steps):
        for path, leaf in after.items():
            want = 0.5 * before[path] + 0.5 * student[path]
            np.testing.assert_allclose(leaf, want, atol=1e-6, err_msg=path)


def test_every_weight_of_the_student_learns(steps):
    first, last = steps[0][0], steps[-1][0]
    still = [path for path, leaf in first.items() if (leaf == last[path]).all()]
    assert still == []


def test_nothing_collapses(steps):
    *_, metrics = steps[-1]
    assert metrics["used"] > 12  # of 16 prototypes
    assert metrics["spread"] > 0.2


def test_the_folder_is_a_model_that_loads(trained):
    loaded = load_dino(trained)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 48, 32, 3)), jnp.float32)
    features = jax.jit(lambda weights, x: loaded.plan.merge(weights)(x))(loaded.weights, images)
    assert features.patches.shape == (2, 6, 4, 32)
    assert np.isfinite(features.patches).all()
    assert features.patches.std(axis=(0, 1, 2)).mean() > 0.1


def test_the_log_tells_how_it_went(trained):
    *_, trained_row, judged_row = map(json.loads, (trained / "train_log.jsonl").open())
    assert trained_row["step"] == judged_row["step"] == 12
    assert {"loss_masked", "loss_close", "certainty", "used", "spread"} <= trained_row.keys()
    assert {"val_seen/kind/knn", "val_unseen/affinity/part"} <= judged_row.keys()


def test_balance_gives_each_prototype_an_equal_share():
    cosines = 0.3 * jax.random.normal(jax.random.key(0), (40, 10)) + 0.2 * jnp.arange(10)
    shares = pretrain_dino.assign(cosines, pretrain_dino.balance(cosines, rounds=30))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(shares.mean(axis=0), 0.1, atol=1e-3)
