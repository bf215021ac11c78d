"""`opvseg prepare`, as it is typed."""

import argparse

import originals
import pytest

pytest.importorskip("tensorflow_datasets", reason="the extra 'data' is not installed")
pytest.importorskip("array_record", reason="the extra 'data' is not installed")

from opvseg_jax.data.builders import registry

from opvseg_jax.cli import prepare
from opvseg_jax.core.errors import UserError


def opvseg(*words) -> int:
    parser = argparse.ArgumentParser()
    prepare.add_parser(parser.add_subparsers())
    args = parser.parse_args(["prepare", *map(str, words)])
    return args.run(args)


def test_one_command_prepares_verifies_and_draws(tmp_path, capsys):
    originals.write_all("voc21", tmp_path / "in")
    command = ["voc21", "--source", tmp_path / "in", "--out", tmp_path / "out", "--workers", 0]

    assert opvseg(*command, "--verify", "--preview") == 0

    printed = capsys.readouterr().out
    assert "is ready: train 2, val 1" in printed
    assert "published 1449, DIFFERS by -1448" in printed
    top = tmp_path / "out/voc21"
    assert {path.name for path in top.iterdir() if path.name[0] != "."} == {
        "1.0.0",
        "classes.tsv",
        "preview.png",
    }
    assert opvseg(*command) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_what_is_prepared_can_be_verified_without_the_source(tmp_path, capsys, monkeypatch):
    originals.write_all("ade150", tmp_path / "in")
    monkeypatch.setenv("OPVSEG_DATA", str(tmp_path / "data"))  # the default of --out
    opvseg("ade150", "--source", tmp_path / "in", "--workers", 0)
    assert opvseg("ade150", "--verify", "--workers", 0) == 0
    assert "no problem found" in capsys.readouterr().out
    with pytest.raises(UserError, match="does not exist yet: give --source"):
        opvseg("voc20", "--verify")


def test_lost_records_are_a_failure(tmp_path, capsys):
    originals.write_all("ade150", tmp_path / "in")
    opvseg("ade150", "--source", tmp_path / "in", "--out", tmp_path, "--workers", 0)
    (lost,) = (tmp_path / "ade150/1.0.0").glob("*-val.*")
    lost.unlink()
    assert opvseg("ade150", "--out", tmp_path, "--verify", "--workers", 0) == 1
    assert "PROBLEM 1 images were written, 0 are there" in capsys.readouterr().out


def test_the_list_names_every_data_set_and_its_downloads(capsys):
    assert opvseg("--list") == 0
    printed = capsys.readouterr().out
    for name in registry.BENCHMARKS:
        assert name in printed
    assert "ADEChallengeData2016.zip" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a data set"),
        (["voc21"], "give --source"),
        (["voc21", "--source", ".", "--workers", "-1"], "--workers -1"),
        (["voc21", "--source", ".", "--max-skipped", "3"], "--max-skipped 3.0"),
        (["voc", "--source", "."], "unknown data set 'voc'"),
    ],
)
def test_mistakes_are_one_sentence(words, said):
    with pytest.raises(UserError, match=said) as error:
        opvseg(*words)
    assert "\n" not in str(error.value)
