"""`opvseg doctor`: what is installed, what works, and what to do about the rest."""

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from opvseg_jax import __version__

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "pillow",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "optax",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "grain",
    "tensorflow-datasets",
)
LEAST_ACCURACY = 0.5  # of the pixels of the scene that is tried

Finding = tuple[bool, str]  # whether it is well, and a sentence


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation",
        description="Checks the installation; exit code 1 if something needs attention.",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    checks = (_python, _versions, _devices, _folders, _models, _weights, _segmentation)
    num_problems = 0
    for check in checks:
        for is_well, line in _guarded(check):
            num_problems += not is_well
            print(f"{'ok     ' if is_well else 'PROBLEM'}  {line}", flush=True)
    print(f"\n{num_problems or 'no'} problem{'' if num_problems == 1 else 's'} found")
    return 1 if num_problems else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that fails is a finding like another: the next ones may tell why."""
    try:
        yield from check()
    except Exception as error:
        reason = " ".join(str(error).split())
        yield False, f"{check.__name__.strip('_')}: {type(error).__name__}: {reason}"


def _python() -> Iterator[Finding]:
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    is_new_enough = sys.version_info >= (3, 11)
    yield True, f"opvseg_jax {__version__} in {Path(__file__).resolve().parents[1]}"
    yield is_new_enough, f"Python {platform.python_version()} (3.11 or newer), {where}"


def _versions() -> Iterator[Finding]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    yield True, ", ".join(found)


def _devices() -> Iterator[Finding]:
    import jax

    found = ", ".join(f"{d.platform} {d.id} ({d.device_kind})" for d in jax.devices())
    yield True, f"JAX computes on {found}"
    has_card = shutil.which("nvidia-smi") is not None
    if has_card and jax.default_backend() == "cpu":
        yield False, "there is an NVIDIA driver, but JAX has no CUDA: install opvseg_jax[cuda12]"


def _folders() -> Iterator[Finding]:
    from opvseg_jax.core.cache import cache_folder
    from opvseg_jax.core.files import writable_folder

    folder = writable_folder(cache_folder())
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    free = shutil.disk_usage(folder).free / 1e9
    line = f"cache {folder}: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB; {free:.0f} GB free"
    yield free > 0.5, line


def _models() -> Iterator[Finding]:
    from opvseg_jax.hub.presets import is_on_disk, presets

    here = [preset.name for preset in presets().values() if is_on_disk(preset)]
    yield True, f"models on disk: {', '.join(here)} (all: opvseg models)"
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        yield True, "HF_HUB_OFFLINE is set: nothing is fetched"


def _weights() -> Iterator[Finding]:
    from opvseg_jax.hub import shipped

    wrong = shipped.problems()
    what = "; ".join(wrong) + ": install opvseg_jax again" if wrong else "are as published"
    yield not wrong, f"shipped weights: {what}"


def _segmentation() -> Iterator[Finding]:
    from opvseg_jax.hub.load import load
    from opvseg_jax.pipeline.partworld import PartWorld, vocabulary

    began = time.monotonic()
    scene, segmenter = PartWorld("val_seen", size=128)[0], load("tiny")
    result = segmenter(scene.image, vocabulary())
    accuracy = (result.object_map == scene.object_map).mean()
    seconds = time.monotonic() - began
    yield (
        bool(accuracy >= LEAST_ACCURACY),
        f"a drawn scene was segmented in {seconds:.1f} s, {accuracy:.0%} of its pixels are right",
    )
