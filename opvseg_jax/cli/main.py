"""The `opvseg` command. Every subcommand has its own file; none imports JAX to show its help."""

import argparse
import importlib
import logging
from collections.abc import Sequence

from opvseg_jax import __version__
from opvseg_jax.cli.errors import Parser, guarded

COMMANDS = (
    "segment",
    "train",
    "evaluate",
    "demo",
    "models",
    "export",
    "convert",
    "doctor",
    "prepare",
    "bench",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    try:
        args = _parsed(argv)
    except SystemExit as end:  # --help, --version, or a mistake that has been told
        return int(end.code or 0)
    logging.basicConfig(level=logging.WARNING, format="opvseg: %(message)s")
    return guarded(args.run, args)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Keys of a config, such as --config.train.steps=10, are left to the commands that take any."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    keys = [word for word in rest if word.startswith("--config.") and "overrides" in args]
    if unknown := [word for word in rest if word not in keys]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if keys:
        args.overrides = keys
    return args


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="opvseg", description="Segments objects and their parts by words that you choose."
    )
    parser.add_argument("--version", action="version", version=f"opvseg_jax {__version__}")
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for name in COMMANDS:
        importlib.import_module(f"opvseg_jax.cli.{name}").add_parser(subparsers)
    for command in subparsers.choices.values():
        command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser
