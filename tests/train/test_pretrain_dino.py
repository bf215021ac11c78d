"""The tiny DINO is trained as promised: on a model of one block, in seconds."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.hub.encoders import load_dino
from opvseg_jax.train import pretrain_dino
from opvseg_jax.train.pretrain_dino import View

ARGS = ["--images", "6", "--steps", "12", "--batch", "6", "--workers", "1", "--judged", "4"]
ARGS += ["--prototypes", "16", "--class-prototypes", "4", "--lr", "0.01"]


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
    """The folder that the program leaves behind, trained on one batch with the same views always.

    The log of every step also tells how far the teacher is from the mean of what it was and the
    student, and the least that any weight of the student moved.
    """
    update = pretrain_dino.update

    def watched(plan, optimizer, student, teacher, state, images, key, momentum):
        key = jax.random.key(0)
        new = update(plan, optimizer, student, teacher, state, images, key, momentum)
        want = {k: momentum * teacher[k] + (1 - momentum) * new[0][k] for k in teacher}
        far = jnp.stack([jnp.abs(new[1][k] - want[k]).max() for k in teacher])
        moved = jnp.stack([jnp.abs(new[0][k] - student[k]).max() for k in teacher])
        more = {"far": 1e5 * far.max(), "least_moved": 1e5 * moved.min()}  # the log has 4 digits
        return (*new[:3], new[3] | more)

    def same(count, args):
        return itertools.repeat(np.arange(args.batch), args.steps)

    folder = tmp_path_factory.mktemp("dino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_dino, "update", watched)
        patch.setattr(pretrain_dino, "choose", same)
        patch.setattr(pretrain_dino, "TOLD_EVERY", 1)
        pretrain_dino.main(["--out", str(folder), *ARGS])
    return folder


@pytest.fixture(scope="module")
def log(trained):
    return [json.loads(line) for line in (trained / "train_log.jsonl").open()]


def test_the_log_tells_how_it_went(log):
    *rows, judged = log
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {"loss_masked", "loss_close", "certainty", "used", "spread"} <= rows[-1].keys()
    assert {"val_seen/kind/knn", "val_unseen/affinity/part"} <= judged.keys()


@pytest.mark.parametrize("name", ["loss_masked", "loss_close"])
def test_losses_fall_on_a_fixed_batch(log, name):
    values = [row[name] for row in log[:-1]]
    assert np.isfinite(values).all()
    assert max(values[-3:]) < values[0]


def test_the_teacher_is_the_running_mean_of_students(log):
    assert max(row["far"] for row in log[:-1]) < 1


def test_every_weight_of_the_student_learns(log):
    assert log[5]["least_moved"] > 1


def test_nothing_collapses(log):
    assert log[-2]["used"] > 12  # of 16 prototypes
    assert log[-2]["spread"] > 0.2


def test_the_folder_is_a_model_that_loads(trained):
    loaded = load_dino(trained)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 48, 32, 3)), jnp.float32)
    features = jax.jit(lambda weights, x: loaded.plan.merge(weights)(x))(loaded.weights, images)
    assert features.patches.shape == (2, 6, 4, 32)
    assert np.isfinite(features.patches).all()
    assert features.patches.std(axis=(0, 1, 2)).mean() > 0.1


def test_balance_gives_each_prototype_an_equal_share():
    cosines = 0.3 * jax.random.normal(jax.random.key(0), (40, 10)) + 0.2 * jnp.arange(10)
    share = jax.jit(lambda x: pretrain_dino.assign(x, pretrain_dino.balance(x, rounds=30)))
    shares = share(cosines)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(shares.mean(axis=0), 0.1, atol=1e-3)
