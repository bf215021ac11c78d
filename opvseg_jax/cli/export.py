"""`opvseg export`: a model as compiled functions that run without this package."""

import argparse
from pathlib import Path

ABOUT = """\
Writes a folder with the functions of a model as StableHLO for cpu and cuda, its weights, a
manifest, and run.py, which runs all that with jax, numpy and safetensors alone:
  python BUNDLE/run.py BUNDLE photo.png
Later versions of JAX read the functions for six months; the manifest says until when.
"""
EXAMPLES = """\
examples:
  opvseg export --model zeroshot-b16 --vocab "dog: head, leg; car" --out bundle
  opvseg export --model tiny --vocab "dog: head; car" --kind open --out bundle
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "export",
        help="write a model as functions that need none of this package",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", default="tiny", help="as for `opvseg segment` (default: tiny, shipped)"
    )
    parser.add_argument(
        "--vocab",
        required=True,
        metavar="WORDS",
        help="what to look for, as for `opvseg segment`; for --kind open how much room to make",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the bundle")
    parser.add_argument(
        "--kind",
        choices=("fixed", "open"),
        default="fixed",
        help="fixed: these words (default); open: words come with each call",
    )
    parser.add_argument(
        "--platforms",
        nargs="+",
        choices=("cpu", "cuda"),
        default=("cpu", "cuda"),
        help="what it is to run on (default: both)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="to compute in (default: float32)",
    )
    parser.add_argument("--detail", type=int, default=1, help="as for `opvseg segment` (default 1)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from opvseg_jax.vocabulary import Vocabulary

    vocabulary = Vocabulary.of(args.vocab)
    from opvseg_jax.core.files import free_place
    from opvseg_jax.export.bundle import MANIFEST, write_bundle
    from opvseg_jax.hub.load import load

    free_place(args.out, MANIFEST)  # told before a model is fetched
    segmenter = load(args.model, detail=args.detail, dtype=args.dtype)
    out = write_bundle(segmenter, vocabulary, args.out, kind=args.kind, platforms=args.platforms)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {args.kind} vocabulary, {', '.join(args.platforms)}, {size / 1e6:.1f} MB")
    return 0
