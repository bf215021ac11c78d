"""`opvseg demo`: the whole thing on the built-in world, without a network, a GPU or a data set."""

import argparse
import sys
import time
from pathlib import Path

from opvseg_jax.cli import devices
from opvseg_jax.cli.train import exit_code, tell
from opvseg_jax.core.errors import UserError

CONFIG = "configs/hops/partworld_tiny.py"
FREE, TRAINED = "training-free", "tiny HOPS"
ABOUT = """\
Trains a tiny HOPS on PartWorld, a small drawn world, from the encoders that come with the package;
then segments scenes with words that training labelled (seen) and others (unseen), beside the
training-free model; prints figures and writes a page with pictures to --out. Stopped by Ctrl-C,
the same command goes on where it was.
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="see it work on the built-in world (start here)",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--model", default="tiny", help="the training-free model (default: tiny)")
    parser.add_argument(
        "--scenes", type=int, default=24, help="of each split and of three worlds (default: 24)"
    )
    parser.add_argument("--steps", type=int, help="of training; 0: none (default: as configured)")
    parser.add_argument("--seed", type=int, default=0, help="of training (default: 0)")
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

    segmenters = {FREE: load(args.model)}
    if args.steps != 0:
        workdir = out / "hops"
        if (code := _train(args, workdir)) is not None:
            return code
        segmenters[TRAINED] = load(workdir)
    total = args.scenes * len(demo.SPLITS) * len(demo.SEEDS) * len(segmenters)
    with tqdm(total=total, unit="scene", file=sys.stderr, disable=None) as bar:
        shown = demo.run(segmenters, args.scenes, bar.update)
    page, sheet = demo.write(shown, " beside ".join(reversed(segmenters)), out)
    for table in shown.tables:
        print_table(table.title, table.header, table.rows)
    print(shown.tables[0].note)
    if TRAINED in shown.h_iou:
        free, trained = (shown.h_iou[name].mean() for name in (FREE, TRAINED))
        gain = f", {trained / free:.1f} times as much" if free > 0 else ""
        print(
            f"\nParts, h-IoU of seen and unseen: {FREE} {free:.1f}, {TRAINED} {trained:.1f}{gain}"
        )
    print(f"\n{time.monotonic() - began:.0f} s. Open {page} or {sheet} to see the scenes.")
    return 0


def _train(args: argparse.Namespace, workdir: Path) -> int | None:
    """-> the exit code of a training that was stopped."""
    from opvseg_jax.train.config import load
    from opvseg_jax.train.loop import train

    changes = [f"train.seed={args.seed}", f"data.seed={args.seed}"]
    changes += [] if args.steps is None else [f"train.steps={args.steps}"]
    result = train(load(CONFIG, changes), workdir, on_event=tell)
    return exit_code(result)


def print_table(title: str, header, rows) -> None:
    """Columns of text, the first to the left, figures to the right."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}")
    for row in (header, *rows):
        first, *rest = (str(cell) for cell in row)
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
    print()
