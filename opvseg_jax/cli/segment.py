"""`opvseg segment`: photos and words in, overlays and label maps out."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from opvseg_jax.cli import devices
from opvseg_jax.cli.errors import INTERRUPTED, PARTLY, stopping
from opvseg_jax.core.errors import UserError

if TYPE_CHECKING:
    from opvseg_jax.inference.segmenter import Segmenter
    from opvseg_jax.vocabulary import Vocabulary

ABOUT = """\
Finds objects and their parts by words. For each photo it writes into --out:
  NAME_overlay.png   the picture to look at, with a legend
  NAME_objects.png   for each pixel 0 or 1 + the number of the object
  NAME_parts.png     the same for parts
  NAME.json          names, areas, boxes, scores, masks (COCO run lengths)
"""
EXAMPLES = """\
examples:
  opvseg segment dog.jpg --vocab "dog: head, leg, tail; car: wheel, door; person" --out result
  opvseg segment 'photos/*.jpg' --vocab words.yaml --model zeroshot-b16 --detail 2 --out result
  opvseg segment photos/ --vocab pascal_part_116 --out result
"""
FEW = 3  # photos whose findings are printed one by one


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "segment",
        help="segment photos by words",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="files, folders or patterns")
    parser.add_argument(
        "--vocab",
        required=True,
        metavar="WORDS",
        help='such as "dog: head, leg; car", a YAML, JSON or text file, or a benchmark\'s name',
    )
    parser.add_argument(
        "--model",
        default="tiny",
        help="a name that `opvseg models` lists, a folder or a file (default: tiny, shipped)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--background",
        metavar="WORDS",
        help='what else may be in the picture, such as "sky, street" (default: the model\'s)',
    )
    parser.add_argument(
        "--detail",
        type=int,
        default=1,
        help="look at the photo 1 to 4 times as large, in windows: finer and slower (default 1)",
    )
    devices.add_device(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    # What can be wrong is looked at first, the cheapest before the rest.
    from opvseg_jax.core.files import writable_folder
    from opvseg_jax.pipeline.photos import find_photos, output_names
    from opvseg_jax.vocabulary import Vocabulary

    vocabulary = Vocabulary.of(args.vocab)
    photos = find_photos(args.photos)
    names = output_names(photos)
    out = writable_folder(args.out)
    segmenter = _load(args)
    return _segment_all(segmenter, vocabulary, photos, names, out)


def _load(args: argparse.Namespace) -> "Segmenter":
    devices.choose(args.device)
    from opvseg_jax.hub.load import load

    options = {}
    if args.background is not None:
        words = (word.strip() for word in args.background.split(","))
        options["background"] = tuple(word for word in words if word)
    return load(args.model, detail=args.detail, **options)


def _segment_all(
    segmenter: "Segmenter",
    vocabulary: "Vocabulary",
    photos: list[Path],
    names: list[str],
    out: Path,
) -> int:
    from tqdm import tqdm

    from opvseg_jax.pipeline.photos import open_photo

    broken: list[str] = []
    written = 0
    jobs = list(zip(photos, names, strict=True))
    bar = tqdm(jobs, unit="photo", file=sys.stderr, disable=True if len(jobs) == 1 else None)
    with stopping("stopping after this photo; Ctrl-C again stops at once") as stop, bar:
        for path, name in bar:
            if stop.is_wanted:
                break
            try:
                photo = open_photo(path)
            except UserError as error:
                broken.append(str(error))
                continue
            result = segmenter(photo, vocabulary)
            result.save(out, name)
            written += 1
            if len(jobs) <= FEW:
                tqdm.write(f"{path}: {result}", file=sys.stdout)
    return _conclude(written, len(jobs), broken, out, stop.is_wanted)


def _conclude(written: int, count: int, broken: list[str], out: Path, is_stopped: bool) -> int:
    if broken and not written and count == 1:
        raise UserError(broken[0])
    for problem in broken:
        print(f"opvseg: {problem}", file=sys.stderr)
    if is_stopped and written + len(broken) < count:
        print(f"opvseg: stopped: {written} of {count} photos are in {out}", file=sys.stderr)
        return INTERRUPTED
    if not broken:
        print(f"{written} of {count} photos written to {out}")
        return 0
    print(
        f"opvseg: {written} of {count} photos written to {out}; {len(broken)} could not be read",
        file=sys.stderr,
    )
    return PARTLY if written else 2
