"""`opvseg demo`: the whole thing on the built-in world, without a network, a GPU or a data set."""

import argparse
import sys
import time
from pathlib import Path

from opvseg_jax.cli import devices
from opvseg_jax.core.errors import UserError

ABOUT = """\
Segments scenes of PartWorld, a small drawn world, with words that training would have labelled
(seen) and others (unseen); prints figures beside those of shuffled words and writes a page with
pictures to --out.
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="see it work on the built-in world (start here)",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--model", default="tiny", help="see `opvseg models` (default: tiny)")
    parser.add_argument(
        "--scenes", type=int, default=24, help="of each split and of three worlds (default: 24)"
    )
    devices.add_device(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.scenes <= 10_000:
        raise UserError(f"--scenes {args.scenes}: expected 1 to 10000")
    from opvseg_jax.core.files import writable_folder

    began = time.monotonic()
    out = writable_folder(args.out)
    devices.choose(args.device)
    from tqdm import tqdm

    from opvseg_jax.evaluate import demo
    from opvseg_jax.hub.load import load

    segmenter = load(args.model)
    total = args.scenes * len(demo.SPLITS) * len(demo.SEEDS)
    with tqdm(total=total, unit="scene", file=sys.stderr, disable=None) as bar:
        shown = demo.run(segmenter, args.scenes, bar.update)
    page, sheet = demo.write(shown, segmenter, out)
    for table in shown.tables:
        print_table(table.title, table.header, table.rows)
    print(shown.tables[0].note)
    print(f"\n{time.monotonic() - began:.0f} s. Open {page} or {sheet} to see the scenes.")
    return 0


def print_table(title: str, header, rows) -> None:
    """Columns of text, the first to the left, figures to the right."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}")
    for row in (header, *rows):
        first, *rest = (str(cell) for cell in row)
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
    print()
