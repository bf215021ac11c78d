"""`opvseg train`: a config and a folder in, a trained model out; run again, it goes on."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opvseg_jax.cli import devices
from opvseg_jax.cli.errors import INTERRUPTED
from opvseg_jax.core.errors import UserError

ABOUT = """\
Trains a method as a config says. Into --workdir go:
  model/          the best model so far, for opvseg segment --model and opvseg_jax.load
  checkpoints/    what the training goes on from
  metrics.jsonl   every figure, one row a line; tensorboard/ holds the same
  pictures/       predictions, if train.pictures_every says so
The same command again goes on where a run was stopped. SIGTERM saves and ends with exit code 0,
Ctrl-C saves and ends with 130.
"""
EXAMPLES = """\
examples:
  opvseg train --config configs/hops/partworld_tiny.py --workdir runs/tiny
  opvseg train --config configs/hops/partworld_tiny.py:smoke --workdir runs/smoke
  opvseg train --config my.py --workdir runs/mine --config.train.steps=500 --config.mesh.fsdp=4
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "train",
        help="train a method by a config",
        usage="opvseg train --config FILE[:VARIANT] --workdir DIR [--config.GROUP.KEY=VALUE ...]",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="of configs/")
    parser.add_argument("--workdir", type=Path, required=True, help="what the run keeps")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="report to Weights & Biases")
    devices.add_device(parser)
    parser.set_defaults(run=run, overrides=[])
    return parser


def run(args: argparse.Namespace) -> int:
    from opvseg_jax.parallel import processes
    from opvseg_jax.train.config import load

    config = load(args.config, args.overrides)
    processes.start()
    devices.choose(args.device)
    from opvseg_jax.train.loop import train

    is_first = processes.is_first()
    on_event = tell if is_first else lambda kind, facts: None
    try:
        with processes.together():
            result = train(config, args.workdir, on_event=on_event, wandb=args.wandb)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            "out of memory: use a smaller train.batch_size, or train.accumulate or train.remat"
        ) from error
    if (code := exit_code(result)) is not None:
        return code
    if is_first:
        print(f"trained {result['step']} steps: the model is in {args.workdir / 'model'}")
    return 0


def exit_code(result: Mapping[str, Any]) -> int | None:
    """Of a training that was stopped; None if it reached its end."""
    if "stopped" not in result:
        return None
    return INTERRUPTED if result["stopped"] == "Ctrl-C" else 0


def tell(kind: str, facts: Mapping[str, Any]) -> None:
    """What happens, above the progress bar."""
    if kind == "resumed":
        message = f"goes on after step {facts['step']}"
    elif kind == "evaluated" and facts["chosen"] is not None:
        message = f"step {facts['step']}: {facts['best']} {facts['chosen']:.1f}"
    elif kind == "stopping":
        message = f"{facts['reason']}: stops after this step; a second Ctrl-C stops at once"
    elif kind == "stopped":
        message = f"step {facts['step']} is saved, and the same command goes on from there"
    else:
        return
    from tqdm import tqdm

    tqdm.write(f"opvseg: {message}", file=sys.stderr)
