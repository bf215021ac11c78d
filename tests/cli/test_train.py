"""`opvseg train`: what is told, what is left behind, and which mistakes end with exit code 2."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from train import toy

from opvseg_jax.cli.main import main
from opvseg_jax.pipeline.partworld import vocabulary
from opvseg_jax.train.loop import train

CONFIG = """
from opvseg_jax.train.config import base, changed

def get_config(variant=""):
    return changed(base(), {changes})
"""
CHANGES = {
    "train.steps": 4,
    "train.lr": 0.03,
    "train.clip.value": 10.0,
    "train.save_every": 2,
    "data.threads": 1,
    "eval.batch_size": 2,
}


@pytest.fixture
def opvseg(monkeypatch, capsys, tmp_path):
    """Runs `opvseg train` on the toy in this process. -> exit code, stdout, stderr."""
    monkeypatch.setitem(train.__kwdefaults__, "assemble", toy.assemble)
    file = tmp_path / "my.py"
    file.write_text(CONFIG.format(changes=CHANGES))

    def run(*words, config=file, workdir=tmp_path / "run"):
        code = main(["train", "--config", str(config), "--workdir", str(workdir), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_config_and_a_folder_in_a_model_out_and_again_it_goes_on(opvseg, tmp_path):
    code, out, err = opvseg("--config.train.steps=2")
    assert (code, out) == (0, f"trained 2 steps: the model is in {tmp_path / 'run/model'}\n")
    assert "opvseg: step 2: h_iou" in err
    code, out, err = opvseg("--config.train.steps=4")
    assert code == 0
    assert "opvseg: goes on after step 2" in err
    assert (tmp_path / "run/model/model.safetensors").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_save_and_end(opvseg, monkeypatch, tmp_path, number, code):
    def assemble(config):
        os.kill(os.getpid(), number)
        return toy.assemble(config)

    monkeypatch.setitem(train.__kwdefaults__, "assemble", assemble)
    found, _, err = opvseg()
    assert found == code
    assert "step 0 is saved, and the same command goes on from there" in err.splitlines()[-1]


MISTAKES = {
    "an unknown key": (["--config.train.stepz=3"], "unknown key 'train.stepz'.*train.steps"),
    "a mistyped value": (["--config.train.steps=many"], "train.steps: expected an int"),
    "a key without a value": (["--config.train.steps"], "expected group.key=value"),
    "a mesh that does not fit": (["--config.mesh.fsdp=3"], "do not divide by 3"),
    "a batch that does not divide": (["--config.train.accumulate=3"], "not a multiple"),
    "no data set": (["--config.data.name=pascal_part_116"], "is not in .*opvseg prepare"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line_and_write_nothing(opvseg, monkeypatch, tmp_path, mistake):
    words, told = MISTAKES[mistake]
    if mistake == "no data set":
        monkeypatch.undo()
    code, out, err = opvseg(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(told, err)
    assert snapshot(tmp_path / "run") == {}


def test_another_config_or_vocabulary_overwrites_nothing(opvseg, monkeypatch, tmp_path):
    opvseg()
    before = snapshot(tmp_path / "run")
    code, _, err = opvseg("--config.train.lr=0.5")
    assert (code, err.count("\n")) == (2, 1)
    assert "train.lr was 0.03, is 0.5" in err

    def assemble(config):
        experiment = toy.assemble(config)
        experiment.vocabulary = type(vocabulary()).of("dog: head; cat")
        return experiment

    monkeypatch.setitem(train.__kwdefaults__, "assemble", assemble)
    code, _, err = opvseg()
    assert (code, err.count("\n")) == (2, 1)
    assert "the data now have 2 and 1" in err
    assert snapshot(tmp_path / "run") == before


def test_a_folder_that_cannot_be_written_ends_in_one_line(opvseg, monkeypatch, tmp_path):
    code, _, err = opvseg(workdir="/proc/opvseg")
    assert (code, err.count("\n")) == (2, 1)
    monkeypatch.setattr(os, "access", lambda *args: False)  # root may write anywhere
    code, _, err = opvseg()
    assert (code, err) == (2, f"opvseg: cannot write into {tmp_path / 'run'}: permission denied\n")


def test_a_config_that_is_not_there_ends_in_one_line(opvseg):
    code, _, err = opvseg(config="configs/hops/partworld_tyni.py")
    assert (code, err.count("\n")) == (2, 1)
    assert "partworld_tiny" in err


def test_other_commands_take_no_keys(capsys):
    assert main(["models", "--config.train.steps=3"]) == 2
    assert "unrecognized arguments" in capsys.readouterr().err


FULL = """
import resource, sys
from train import toy
from opvseg_jax.cli.main import main
from opvseg_jax.train.loop import train

train.__kwdefaults__["assemble"] = toy.assemble
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
sys.exit(main(["train", "--config", sys.argv[1], "--workdir", sys.argv[2]]))
"""


def test_a_full_disk_ends_in_one_line(tmp_path):
    (tmp_path / "my.py").write_text(CONFIG.format(changes=CHANGES))
    ended = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "my.py", tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert re.match(r"opvseg: cannot write a checkpoint into .*File too large.*make room", last)
    assert "Traceback" not in ended.stderr
