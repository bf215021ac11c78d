"""`opvseg bench`: how fast this machine is. `opvseg bench input` measures the input pipeline."""

import argparse
import os
import platform

from opvseg_jax.core.errors import UserError

ABOUT = """\
Decodes 500 x 375 JPEG files, augments them as CAT-Seg does and stacks batches of 384 x 384.
First every library in one thread, images alone; then the whole loader with label maps. The last
line says how many cores feed one training step of --step-ms with --batch-size images.
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("bench", help="measure this machine's speed")
    topics = parser.add_subparsers(dest="topic", required=True)
    topic = topics.add_parser(
        "input",
        help="images per second of decoding and augmentation",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    topic.add_argument("--batch-size", type=int, default=16, help="images of a batch (16)")
    topic.add_argument("--seconds", type=float, default=4.0, help="for each measurement (4)")
    topic.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2], help="numbers of worker processes (1 2)"
    )
    topic.add_argument(
        "--threads", type=int, nargs="*", default=[0, 1, 2], help="numbers of threads (0 1 2)"
    )
    topic.add_argument(
        "--step-ms", type=float, default=100.0, help="milliseconds of one training step (100)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.batch_size < 1 or args.seconds <= 0 or args.step_ms <= 0:
        raise UserError("--batch-size, --seconds and --step-ms: expected numbers above 0")
    if min([*args.workers, 1]) < 1 or min([*args.threads, 0]) < 0:
        raise UserError("--workers: expected numbers from 1; --threads: from 0")
    from opvseg_jax.pipeline import speed

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.2f}")
    print("one thread, images alone:")
    options = {"batch_size": args.batch_size, "seconds": args.seconds}
    single = speed.compare(speed.synthetic_photos(), **options)
    for name, rate in single:
        print(f"  {name:<20} {rate:7.0f} images/s")
    print("the loader, images with two label maps:")
    photos = speed.synthetic_photos(has_labels=True)
    found = {}
    counts = {"threads": tuple(args.threads), "workers": tuple(args.workers)}
    for name, rate in speed.loaders(photos, **options, **counts):
        found[name] = rate
        print(f"  {name:<20} {rate:7.0f} images/s", flush=True)
    if found:
        _say_cores(args, next(iter(found.values())))
    return 0


def _say_cores(args: argparse.Namespace, rate: float) -> None:
    """`rate` is that of the first line of the loader's table."""
    need = args.batch_size * 1000 / args.step_ms
    print(
        f"a step of {args.step_ms:g} ms with {args.batch_size} images needs {need:.0f} images/s: "
        f"{need / rate:.1f} cores like the first of these"
    )
