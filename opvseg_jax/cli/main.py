"""The `opvseg` command. Every subcommand has its own file; none imports JAX to show its help."""

import argparse
import importlib
import logging
from collections.abc import Sequence

from opvseg_jax import __version__
from opvseg_jax.cli.errors import Parser, guarded

COMMANDS = (
    "segment",
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
        args = build_parser().parse_args(argv)
    except SystemExit as end:  # --help, --version, or a mistake that has been told
        return int(end.code or 0)
    logging.basicConfig(level=logging.WARNING, format="opvseg: %(message)s")
    return guarded(args.run, args)


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
