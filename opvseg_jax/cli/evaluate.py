"""`opvseg evaluate`: figures by the published protocols and by ours, and a page to look at."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opvseg_jax.cli import devices
from opvseg_jax.core.errors import UserError

if TYPE_CHECKING:
    from opvseg_jax.evaluate.report import Evaluation

ABOUT = """\
Evaluates a trained experiment (--config, --workdir) or any model (--model, --data) and writes into
--out: evaluation.json, per_class.csv, counts.npz and index.html, a page with every figure under
its protocol, the classes, the best and the worst images, and the confusions.
"""
EXAMPLES = """\
examples:
  opvseg evaluate --config configs/hops/partworld_tiny.py --workdir runs/hops --out runs/hops/eval
  opvseg evaluate --model tiny --data partworld:val_unseen --images 50 --out result
  opvseg evaluate --model runs/hops --data my_folder --protocol standard partcatseg --out result
  opvseg evaluate --compare result runs/hops/eval --out comparison
With --config, keys of the config can be changed as for opvseg train: --config.eval.shorter=512
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a model on a data set",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    _add_experiment(parser)
    _add_model(parser)
    parser.add_argument(
        "--protocol", nargs="+", metavar="NAME", help="what counts how (default: standard)"
    )
    parser.add_argument(
        "--mode",
        nargs="+",
        choices=("pred_all", "oracle_obj"),
        help="of parts (default: both, or as the config says)",
    )
    parser.add_argument("--split", help="another split than that of the config or of --data")
    parser.add_argument("--images", type=int, default=0, help="the first so many alone")
    parser.add_argument("--batch-size", type=int, default=0, help="images at a time")
    parser.add_argument(
        "--pictures", type=int, default=4, help="best and worst images on the page (default: 4)"
    )
    parser.add_argument(
        "--published-labels",
        action="store_true",
        help="shift the labels of parts by up to one pixel, as the published evaluators do",
    )
    parser.add_argument(
        "--compare", nargs="+", metavar="RUN", default=[], help="results of earlier evaluations"
    )
    devices.add_device(parser)
    parser.set_defaults(run=run, overrides=[])
    return parser


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a trained experiment")
    group.add_argument("--config", metavar="FILE[:VARIANT]", help="its config")
    group.add_argument("--workdir", type=Path, metavar="DIR", help="where it was trained")
    group.add_argument(
        "--checkpoint", metavar="STEP", help="best (the default), last, or a step that is stored"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("any model")
    group.add_argument("--model", help="a name that `opvseg models` lists, or a folder")
    group.add_argument(
        "--data",
        metavar="NAME[:SPLIT]",
        help="partworld, a prepared benchmark, or a folder of your own",
    )
    group.add_argument(
        "--vocab", metavar="WORDS", help="other words for the classes of the data set, in order"
    )


def run(args: argparse.Namespace) -> int:
    from opvseg_jax.core.files import writable_folder
    from opvseg_jax.evaluate import compare, protocols, report

    _check(args)
    for name in args.protocol or ():
        protocols.protocol(name)
    others = [compare.read_run(place) for place in args.compare]
    out = writable_folder(args.out)
    if not (args.config or args.model):
        (page, *_) = report.write_comparison(others, out)
        print(f"Open {page} to see the runs side by side.")
        return 0
    devices.choose(args.device)
    evaluation, pictures = (_experiment if args.config else _model)(args)
    page, *_ = report.write(evaluation, out, pictures, others)
    _say(evaluation)
    print(f"\nOpen {page} for classes and pictures.")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.config and args.model:
        raise UserError("--config and --model: give one of the two")
    if not (args.config or args.model or args.compare):
        raise UserError("nothing to evaluate: give --config and --workdir, or --model and --data")
    if args.config and not args.workdir:
        raise UserError("--config without --workdir: name the folder that it was trained in")
    if args.overrides and not args.config:
        raise UserError(f"{args.overrides[0]} without --config: there is no config to change")
    if args.model and not args.data:
        raise UserError("--model without --data: name a data set, such as partworld")
    for option, value in {
        "--images": args.images,
        "--batch-size": args.batch_size,
        "--pictures": args.pictures,
    }.items():
        if value < 0:
            raise UserError(f"{option} {value}: expected 0 or more")


def _experiment(args: argparse.Namespace) -> "tuple[Evaluation, Any]":
    from opvseg_jax.evaluate.report import Evaluation
    from opvseg_jax.evaluate.shown import BestAndWorst
    from opvseg_jax.train import stored
    from opvseg_jax.train.config import load
    from opvseg_jax.train.experiment import assemble

    stored.require_workdir(args.workdir)
    config = load(args.config, [*args.overrides, *_changes(args)])
    experiment = assemble(config)
    weights, name = stored.weights_in(experiment, args.workdir, args.checkpoint or stored.BEST)
    source, words = experiment.eval_source, experiment.eval_vocabulary
    pictures = BestAndWorst(args.pictures)
    batches = stored.batches_of(experiment, published_labels=args.published_labels)
    counts = stored.judge(experiment, weights, _counted(batches, len(source)), pictures)
    data = _named(source.name, args.published_labels)
    return Evaluation.of(name, data, words, counts, config.eval.protocols), pictures


def _changes(args: argparse.Namespace) -> list[str]:
    """What the options say, as changes of the config."""
    changes = {
        "eval.split": args.split,
        "eval.images": args.images,
        "eval.batch_size": args.batch_size,
        "eval.protocols": args.protocol and ",".join(args.protocol),
        "eval.modes": args.mode and ",".join(args.mode),
    }
    return [f"{key}={value}" for key, value in changes.items() if value]


def _model(args: argparse.Namespace) -> "tuple[Evaluation, Any]":
    from opvseg_jax.evaluate.canvas import batches_for, words_for
    from opvseg_jax.evaluate.report import Evaluation
    from opvseg_jax.evaluate.run import evaluate
    from opvseg_jax.evaluate.shown import BestAndWorst
    from opvseg_jax.hub.load import load
    from opvseg_jax.pipeline.selections import Subset
    from opvseg_jax.pipeline.sources import open_source
    from opvseg_jax.pipeline.transforms import LabelRoundTrip

    data, split = _split_of(args.data, args.split)
    source = open_source(data, split)
    if 0 < args.images < len(source):
        source = Subset(source, range(args.images), source.name)
    words = words_for(source.vocabulary, args.vocab)
    protocols, modes = args.protocol or ["standard"], args.mode or ["pred_all", "oracle_obj"]
    segmenter = load(args.model)
    pictures = BestAndWorst(args.pictures)
    round_trip = (LabelRoundTrip(),) if args.published_labels else ()
    batches = batches_for(segmenter, source, *round_trip, batch_size=args.batch_size or 1)
    counts = evaluate(
        segmenter.method,
        segmenter.weights,
        segmenter.words(words),
        words,
        _counted(batches, len(source)),
        modes=modes,
        protocols=protocols,
        on_result=pictures,
    )
    name = _named(source.name, args.published_labels)
    return Evaluation.of(segmenter.name, name, words, counts, protocols), pictures


def _split_of(data: str, split: str | None) -> tuple[str, str | None]:
    """PartWorld is evaluated on its validation of unseen kinds unless something else is said."""
    return (data, "val_unseen") if data == "partworld" and split is None else (data, split)


def _counted(batches, total: int):
    """The batches, with a bar that counts images."""
    from tqdm import tqdm

    with tqdm(total=total, unit="image", file=sys.stderr, disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(sum(1 for key in batch["key"] if key))


def _named(source: str, published_labels: bool) -> str:
    return f"{source}, labels as published" if published_labels else source


def _say(evaluation: "Evaluation") -> None:
    from opvseg_jax.cli.demo import print_table
    from opvseg_jax.evaluate.report import ZEROS, figure_tables

    print(f"{evaluation.model} on {evaluation.data}: {evaluation.counts.images} images")
    for table in figure_tables(evaluation):
        print_table(table.title, table.header, table.rows)
    print(ZEROS)
