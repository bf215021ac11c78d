"""`opvseg convert`: the authors' checkpoints become folders that `--model` takes."""

import argparse
from pathlib import Path

ABOUT = """\
Reads a checkpoint that the authors of a method published (detectron2, .pth), without PyTorch and
without running what is in it, and writes a folder for --model. The size is read off the tensors.
"""
EXAMPLES = """\
examples:
  opvseg convert --method catseg model_base.pth --out catseg-b16
  opvseg segment dog.jpg --vocab "dog; grass" --model catseg-b16 --out result
"""
METHODS = ("catseg", "pcaseg", "pcaseg-parts", "partcatseg", "hops")


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "convert",
        help="convert a published checkpoint",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="MODEL.pth")
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument(
        "--size", help="such as B/16, where the tensors do not tell (HOPS: B/16 or B/16-released)"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="tokenizer.json of OpenAI's CLIP, to go with the model (default: the one on disk)",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from opvseg_jax.core.files import free_place
    from opvseg_jax.hub.convert import convert_checkpoint
    from opvseg_jax.hub.trained import CONFIG

    free_place(args.out, CONFIG)
    out, size = convert_checkpoint(
        args.checkpoint, args.method, args.out, size=args.size, tokenizer=args.tokenizer
    )
    print(f"{out}: {args.method} {size}; use it with --model {out}")
    return 0
