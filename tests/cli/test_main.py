"""What every command has in common."""

import subprocess
import sys

import pytest

from opvseg_jax.cli import errors
from opvseg_jax.cli.main import COMMANDS, build_parser, main
from opvseg_jax.core.errors import UserError


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_shown(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: opvseg {command}".strip())


def test_help_needs_no_jax():
    code = (
        "import sys; from opvseg_jax.cli.main import main; main(['segment', '--help']); "
        "sys.exit(' '.join(m for m in ('jax', 'flax', 'numpy', 'PIL') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["segmnt"],
        ["segment"],
        ["segment", "a.jpg", "--vocab", "dog"],
        ["segment", "a.jpg", "--vocab", "dog", "--out", "x", "--detial", "2"],
        ["segment", "a.jpg", "--vocab", "dog", "--out", "x", "--detail", "many"],
        ["demo", "--device", "abacus"],
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("opvseg")


def ended(error: BaseException, *flags: str) -> int:
    def run(args):
        raise error

    args = build_parser().parse_args(["models", *flags])
    return errors.guarded(run, args)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such\nthing"), 2, "opvseg: no such thing\n"),
        (KeyboardInterrupt(), 130, "opvseg: stopped\n"),
        (MemoryError(), 2, "opvseg: out of memory: use a smaller --detail or --model\n"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            2,
            "opvseg: out of memory: use a smaller --detail or --model\n",
        ),
        (
            KeyError("x"),
            70,
            "opvseg: unexpected error, --debug shows where (KeyError: 'x')\n",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(error, code, line, capsys):
    assert ended(error) == code
    assert capsys.readouterr().err == line


def test_debug_shows_where_an_error_comes_from():
    with pytest.raises(UserError):
        ended(UserError("wrong"), "--debug")


def test_models_lists_every_preset(capsys):
    from opvseg_jax.hub.presets import presets

    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, preset in presets().items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert preset.licence in line
        assert str(preset.megabytes) in line.split()
        assert line.endswith(("shipped", "yes", "no"))


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m opvseg_jax models | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("model ")
