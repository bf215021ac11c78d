"""`opvseg prepare`: from a downloaded benchmark to the folder that training and evaluation read."""

import argparse
import logging
import sys
from pathlib import Path

from opvseg_jax.core.errors import UserError

ABOUT = """\
Reads a benchmark in the form in which it is downloaded and writes OUT/<dataset>/1.0.0, with the
classes, splits and label values of the papers. Run it again to go on after an interruption.
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "prepare",
        help="bring a downloaded benchmark into the form that train and evaluate read",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", nargs="?", help="such as pascal_part_116; see --list")
    parser.add_argument("--source", type=Path, help="folder with the downloaded files or archives")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for all prepared data sets (default: where `train` looks, $OPVSEG_DATA)",
    )
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: all)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--max-skipped",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="stop if more than this share of the samples cannot be used (default 0.01)",
    )
    parser.add_argument("--verify", action="store_true", help="count, compare with the papers")
    parser.add_argument("--preview", action="store_true", help="draw images with named labels")
    parser.add_argument("--list", action="store_true", help="show all data sets and stop")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.list:
        _list()
        return 0
    _check(args)
    # Only now: these need the packages of the extra "data".
    from opvseg_jax.data.builders import registry
    from opvseg_jax.data.builders.prepare import folder_of
    from opvseg_jax.pipeline.sources import data_root

    args.out = args.out or data_root()
    name = registry.benchmark(args.dataset).name
    folder = folder_of(name, args.out)
    if args.source is None and not folder.is_dir():
        raise UserError(f"{folder} does not exist yet: give --source, the downloaded data")
    if args.source is not None:
        _prepare(name, args)
    status = _verify(name, folder, args.workers) if args.verify else 0
    if args.preview:
        _preview(name, folder, args.splits)
    return status


def _check(args: argparse.Namespace) -> None:
    if not args.dataset:
        raise UserError("name a data set, such as pascal_part_116; --list shows them all")
    if args.source is None and not (args.verify or args.preview):
        raise UserError("give --source, the folder with the downloaded data")
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers {args.workers}: expected 0 (no extra process) or more")
    if not 0 <= args.max_skipped <= 1:
        raise UserError(f"--max-skipped {args.max_skipped}: expected a share from 0 to 1")


def _list() -> None:
    from opvseg_jax.data.builders.registry import BENCHMARKS

    for benchmark in BENCHMARKS.values():
        print(f"{benchmark.name:18} {benchmark.title}")
        for layout in benchmark.layouts:
            origins = sorted({need.origin for need in layout.files.values() if not need.optional})
            print(f"{'':18}   {layout.title}: {'; '.join(origins)}")


def _prepare(name: str, args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from opvseg_jax.data.builders.prepare import prepare

    logging.getLogger("absl").setLevel(logging.WARNING)  # TFDS reports every file it reads
    bar = tqdm(desc=name, unit="image", file=sys.stderr, disable=None, total=0)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        prepared = prepare(
            name,
            args.source,
            args.out,
            splits=args.splits,
            workers=args.workers,
            max_skipped=args.max_skipped,
            on_progress=show,
        )
    for line in prepared.lines():
        print(line)


def _verify(name: str, folder: Path, workers: int | None) -> int:
    from opvseg_jax.core.files import write_whole
    from opvseg_jax.data.builders import pool, registry
    from opvseg_jax.data.builders.verify import class_table, verify

    findings = verify(name, folder, pool.available_cores() if workers is None else workers)
    for line in findings.lines:
        print(line)
    path = folder.parent / "classes.tsv"
    table = class_table(registry.benchmark(name).labels, findings.counts)
    write_whole(path, table.encode())
    print(f"images and pixels of every class: {path}")
    return 1 if findings.num_problems else 0


def _preview(name: str, folder: Path, splits: list[str] | None) -> None:
    from opvseg_jax.data.builders.preview import preview

    path = folder.parent / "preview.png"
    preview(name, folder, splits[0] if splits else None).save(path)
    print(f"images with their labels: {path}")
