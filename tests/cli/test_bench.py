"""`opvseg bench input` runs in seconds and says what was measured."""

import argparse

import pytest

from opvseg_jax.cli import bench
from opvseg_jax.core.errors import UserError


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", "input", *words])
    return args.run(args)


def test_every_contender_and_loader_is_listed(capsys):
    options = ("--batch-size", "2", "--seconds", "0.05", "--threads", "0", "2", "--workers")
    assert _run(*options) == 0
    out = capsys.readouterr().out
    for name in ("opvseg_jax", "plain Pillow", "0 threads", "2 threads", "a step of 100 ms"):
        assert name in out


@pytest.mark.parametrize("words", [("--seconds", "0"), ("--workers", "0"), ("--batch-size", "-1")])
def test_impossible_numbers_are_refused(words):
    with pytest.raises(UserError, match="expected numbers"):
        _run(*words)
