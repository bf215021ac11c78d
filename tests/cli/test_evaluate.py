"""`opvseg evaluate`: figures for any model, and one sentence for every mistake."""

import json

import pytest


def test_a_model_is_measured_on_the_built_in_world(opvseg, tmp_path):
    out = tmp_path / "result"
    words = ("--model", "tiny", "--data", "partworld", "--images", 2, "--batch-size", 2)
    code, said, err = opvseg(
        "evaluate", *words, "--protocol", "standard", "partcatseg", "--out", out, "--pictures", 1
    )
    assert (code, err) == (0, "")
    for text in ("partworld:val_unseen: 2 images", "Oracle-Obj", "partcatseg", "Mind the zeros"):
        assert text in said
    assert {path.name for path in out.iterdir()} == {
        *("index.html", "contact_sheet.png", "evaluation.json", "per_class.csv", "counts.npz")
    }
    about = json.loads((out / "evaluation.json").read_text())
    assert about["images"] == 2
    code, said, err = opvseg("evaluate", "--compare", out, out, "--out", tmp_path / "both")
    assert (code, err) == (0, "")
    assert (tmp_path / "both/index.html").exists()


MODEL = ("--model", "tiny", "--data", "partworld")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "nothing to evaluate: give --config and --workdir, or --model and --data"),
        ((*MODEL, "--config", "x.py"), "give one of the two"),
        (("--model", "tiny"), "--model without --data"),
        (("--config", "x.py"), "--config without --workdir"),
        ((*MODEL, "--protocol", "partcat"), "did you mean 'partcatseg'?"),
        ((*MODEL, "--images", "-1"), "--images -1: expected 0 or more"),
        ((*MODEL, "--split", "val_unsen"), "val_unsen"),
        ((*MODEL, "--split", "val_unseen[:0]"), "is empty: there is nothing to evaluate"),
        ((*MODEL, "--vocab", "dog: head; car"), "the vocabulary has 2 objects and 1 parts"),
        ((*MODEL, "--compare", "nowhere"), "nowhere holds no evaluation.json"),
        ((*MODEL, "--config.eval.images=3"), "without --config"),
        (("--model", "tiny", "--data", "no_such_set"), "no data set 'no_such_set'"),
        (
            ("--config", "configs/catseg/partworld_tiny.py", "--workdir", "no/such/folder"),
            "there is no work directory no/such/folder",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(opvseg, tmp_path, words, sentence):
    code, _, err = opvseg("evaluate", *words, "--out", tmp_path / "out")
    assert code == 2, err
    assert sentence in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_a_folder_without_a_model_or_checkpoint_is_refused(opvseg, tmp_path):
    (tmp_path / "run").mkdir()
    config = ("--config", "configs/catseg/partworld_tiny.py", "--workdir", tmp_path / "run")
    code, _, err = opvseg("evaluate", *config, "--out", tmp_path / "out")
    assert code == 2
    assert "holds neither a model nor a checkpoint" in err
