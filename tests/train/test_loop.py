import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train import toy

from opvseg_jax.core.errors import UserError
from opvseg_jax.parallel.mesh import one_device
from opvseg_jax.port.safetensors_file import read_safetensors
from opvseg_jax.train.checkpoint import Checkpoints
from opvseg_jax.train.log import read_rows
from opvseg_jax.train.loop import train
from opvseg_jax.train.optimizer import make_rule
from opvseg_jax.train.state import abstract_state


def run(folder, *overrides, on_event=lambda kind, facts: None):
    return train(toy.config(*overrides), folder, assemble=toy.assemble, on_event=on_event)


def restored(folder):
    """The newest state of a work directory, as bytes."""
    experiment = toy.assemble(toy.config())
    tables = experiment.learning_rates, experiment.weight_decay
    rule = make_rule(experiment.config.train, experiment.plan, *tables)
    like = abstract_state(experiment.plan, rule, one_device())
    state, metadata = Checkpoints(folder).restore(like)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    named = {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}
    return named, metadata


def ending(folder):
    """All that must not depend on how often a training was stopped."""
    rows = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(folder)]
    state, metadata = restored(folder)
    model = read_safetensors(folder / "model/model.safetensors")
    return {
        "state": state,
        "notes": metadata["notes"],
        "rows": rows,
        "model": {path: np.asarray(model[path]).tobytes() for path in model.shapes},
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    heard = []
    result = run(folder, on_event=lambda kind, facts: heard.append((kind, facts.get("step"))))
    return folder, result, heard


def test_a_training_leaves_what_it_promises(uninterrupted):
    folder, result, heard = uninterrupted
    assert result["step"] == 6
    assert result["standard/objects/mIoU"] > 0
    assert heard == [("saved", 2), ("evaluated", 4), ("saved", 4), ("evaluated", 6), ("saved", 6)]
    rows = read_rows(folder)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [4, 6]
    assert rows[5]["loss"] < rows[0]["loss"]
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoints", "config.json", "frozen", "metrics.jsonl", "model", "tensorboard")
    }


def test_the_model_is_that_of_the_best_evaluation(uninterrupted):
    folder, _, _ = uninterrupted
    _, metadata = restored(folder)
    chosen = {
        row["step"]: row["standard/objects/mIoU"]
        for row in read_rows(folder)[4:]
        if "standard/objects/mIoU" in row
    }
    assert metadata["notes"]["best_step"] == max(chosen, key=lambda step: (chosen[step], -step))


def test_a_finished_training_has_nothing_to_do(uninterrupted):
    folder, result, _ = uninterrupted
    heard = []
    before = (folder / "metrics.jsonl").read_bytes()
    again = run(folder, on_event=lambda kind, facts: heard.append(kind))
    assert heard == ["resumed"]
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert again["standard/objects/mIoU"] == result["standard/objects/mIoU"]


KILLED = """
import os, signal, sys
from orbax.checkpoint import checkpoint_manager
from train import toy
from opvseg_jax.train import checkpoint, loop

where, folder = sys.argv[1:]

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def on_event(kind, facts):  # a save has been begun, its files are being written
    if (kind, facts.get("step")) == ("saved", 4) and where == "while files are written":
        die()

if where == "before the rename":
    from orbax.checkpoint._src.path import atomicity
    once = atomicity.AtomicRenameTemporaryPath.finalize
    def finalize(self, *args, **kwargs):
        return die() if self.get_final().name == "6" else once(self, *args, **kwargs)
    atomicity.AtomicRenameTemporaryPath.finalize = finalize

loop.train(toy.config(), folder, assemble=toy.assemble, on_event=on_event)
"""


def test_resume_after_kills_inside_a_save_equals_an_uninterrupted_run(uninterrupted, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for where in ("while files are written", "before the rename"):
        command = [sys.executable, "-c", KILLED, where, str(tmp_path / "run")]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = Checkpoints(tmp_path / "run").steps()
    assert left[-1] == 4
    heard = []
    run(tmp_path / "run", on_event=lambda kind, facts: heard.append((kind, facts.get("step"))))
    assert heard[0] == ("resumed", 4)
    assert ending(tmp_path / "run") == ending(uninterrupted[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_once_and_the_next_start_goes_on(uninterrupted, tmp_path, number):
    heard = []

    def on_event(kind, facts):
        heard.append((kind, facts.get("step")))
        if heard == [("saved", 2)]:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = run(tmp_path, "train.log_every=1", on_event=on_event)
    assert result["stopped"] == {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}[number]
    assert result["step"] == 3
    assert heard[1:] == [("stopping", None), ("saved", 3), ("stopped", 3)]
    assert signal.getsignal(number) == before
    run(tmp_path)
    assert ending(tmp_path) == ending(uninterrupted[0])


def test_a_signal_during_evaluation_does_not_wait_for_it(uninterrupted, tmp_path, monkeypatch):
    from opvseg_jax.train import during

    def batches(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from once(*args, **options)

    once = during.evaluation_batches
    monkeypatch.setattr(during, "evaluation_batches", batches)
    assert run(tmp_path)["step"] == 4
    assert [row["kind"] for row in read_rows(tmp_path)] == ["train"] * 4
    monkeypatch.undo()
    run(tmp_path)
    assert ending(tmp_path) == ending(uninterrupted[0])


def test_a_loss_that_is_not_finite_stops_with_what_may_explain_it(tmp_path):
    def assemble(config):
        experiment = toy.assemble(config)
        batch = experiment.loader.batch
        experiment.loader.batches = lambda start, **options: (
            toy.spoiled(batch(step), step == 4) for step in range(start, 10)
        )
        return experiment

    with pytest.raises(UserError, match=r"not finite in step 5.*lower train.lr"):
        train(toy.config("train.save_every=5"), tmp_path, assemble=assemble)
    found = json.loads((tmp_path / "not_finite.json").read_text())
    assert found["step"] == 5
    assert found["batch_keys"] == toy.assemble(toy.config()).loader.batch(4)["key"]
    assert found["metrics"]["is_finite"] == "0.0"
    assert all(np.isfinite(float(norm)) for norm in found["norms"].values())
    assert Checkpoints(tmp_path).steps() == [4]  # the evaluated one; nothing after it


def test_pictures_are_drawn_when_they_are_due(tmp_path):
    run(tmp_path, "train.steps=2", "train.pictures_every=1")
    assert [path.name for path in sorted((tmp_path / "pictures").iterdir())] == [
        "0000001.png",
        "0000002.png",
    ]


def copy_of(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0], tmp_path / "run")
    return tmp_path / "run"


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.lr=0.5", "data.seed=3"], r"data.seed was 0, is 3; train.lr was 0.03, is 0.5"),
        (["train.steps=4"], "6 steps already"),
    ],
)
def test_another_config_is_refused_and_nothing_overwritten(
    uninterrupted, tmp_path, overrides, told
):
    folder = copy_of(uninterrupted, tmp_path)
    before = snapshot(folder)
    with pytest.raises(UserError, match=told):
        run(folder, *overrides)
    assert snapshot(folder) == before


def test_what_does_not_change_the_numbers_may_change(uninterrupted, tmp_path):
    folder = copy_of(uninterrupted, tmp_path)
    result = run(folder, "train.steps=7", "train.save_every=3", "data.threads=2", "mesh.data=1")
    assert result["step"] == 7
    assert json.loads((folder / "config.json").read_text())["train"]["steps"] == 7


def test_another_number_of_classes_is_one_sentence(uninterrupted, tmp_path):
    folder = copy_of(uninterrupted, tmp_path)

    def assemble(config):
        experiment = toy.assemble(config)
        experiment.vocabulary = type(experiment.vocabulary).of("dog: head; cat")
        return experiment

    before = snapshot(folder)
    with pytest.raises(UserError, match=r"the data now have 2 and 1"):
        train(toy.config(), folder, assemble=assemble)
    assert snapshot(folder) == before


def test_a_model_that_no_training_wrote_is_not_overwritten(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    with pytest.raises(UserError, match="no training put there"):
        run(tmp_path)


def test_a_work_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="it is a file, not a folder"):
        run(tmp_path / "run")


def test_averaged_weights_are_judged_and_kept(tmp_path):
    run(tmp_path, "train.ema=0.9", "train.steps=3")
    model = read_safetensors(tmp_path / "model/model.safetensors")
    experiment = toy.assemble(toy.config("train.ema=0.9"))
    tables = experiment.learning_rates, experiment.weight_decay
    rule = make_rule(experiment.config.train, experiment.plan, *tables)
    state, _ = Checkpoints(tmp_path).restore(abstract_state(experiment.plan, rule, one_device()))
    assert jnp.array_equal(model[toy.TRAINED], state.ema[toy.TRAINED])
    assert not jnp.array_equal(state.trained[toy.TRAINED], state.ema[toy.TRAINED])
