"""Aggregator and decoder of CAT-Seg B/16 at 24x24 in float32: this library beside PyTorch eager.

    python benchmarks/aggregation_speed.py [--classes 20 116 171 847] [--rounds 3] [--chunk 32]

Both compute logits from the features of one image, the texts and the guidance, with the same random
weights, neither filling up the class axis nor leaving classes out. The PyTorch side is plain: it
puts guidance beside every class, as its maths is written. Each run is a process of its own, so that
its peak memory is its own: the growth of the resident set over that before the first call.
Reported: median wall and processor time, peak memory, ratios, and how far the results differ.
Needs `pip install torch==2.13.0`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

GRID = 24


def main() -> None:
    args = _arguments()
    if args.side:
        _measure(args)
        return
    print(f"{'classes':>7} {'side':>6} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9}")
    for classes in args.classes:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = (_child(side, classes, args, folder) for side in ("jax", "torch"))
            for side, row in (("jax", ours), ("torch", theirs)):
                print(
                    f"{classes:>7} {side:>6} {row['wall']:>8.2f} {row['cpu']:>8.2f}"
                    f" {row['peak']:>9.0f}"
                )
            share = {key: ours[key] / theirs[key] for key in ours}
            results = [np.load(Path(folder) / f"{side}.npy") for side in ("jax", "torch")]
            print(
                f"{'':>7} {'ratio':>6} {share['wall']:>8.2f} {share['cpu']:>8.2f}"
                f" {share['peak']:>9.2f}   differ by {np.abs(results[0] - results[1]).max():.1e}"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 116, 171, 847])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=32, help="classes at a time; 0: all")
    parser.add_argument("--side", choices=["jax", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(side: str, classes: int, args: argparse.Namespace, folder: str) -> dict[str, float]:
    options = ["--side", side, "--classes", str(classes), "--out", str(Path(folder) / side)]
    options += ["--rounds", str(args.rounds), "--chunk", str(args.chunk)]
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(args: argparse.Namespace) -> None:
    """One side and number of classes: prints the figures as JSON, writes the logits."""
    leaves, inputs = _problem(args.classes[0])
    forward = (_jax_side if args.side == "jax" else _torch_side)(leaves, inputs, args.chunk)
    before = _resident()
    logits = forward()
    walls, cpus = [], []
    for _ in range(args.rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        forward()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    np.save(args.out, logits)
    row = {"wall": statistics.median(walls), "cpu": statistics.median(cpus), "peak": peak}
    print(json.dumps(row))


def _resident() -> float:
    """MiB of memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _plan(chunk: int):
    import dataclasses

    from flax import nnx

    from opvseg_jax.aggregation.head import CostHead
    from opvseg_jax.core.weights import blueprint
    from opvseg_jax.methods.catseg.sizes import SIZES

    size = dataclasses.replace(SIZES["B/16"].head, class_limit=0, class_chunk=chunk or None)
    return blueprint(lambda: CostHead(size, rngs=nnx.Rngs(0)))


def _problem(classes: int) -> tuple[dict, dict]:
    """Random leaves, and features, text and guidance in our layout."""
    rng = np.random.default_rng(0)

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return scale * rng.standard_normal(shape, dtype=np.float32)

    leaves = {}
    for path, shape in sorted(_plan(0).shapes.items()):
        fan_in = int(np.prod(shape.shape[:-1])) or 1
        is_scale = path.endswith("scale")
        leaves[path] = (
            1 + draw(*shape.shape, scale=0.1)
            if is_scale
            else draw(*shape.shape, scale=min(0.2, fan_in**-0.5))
        )
    inputs = {
        "features": draw(1, GRID, GRID, 512),
        "text": draw(1, classes, 1, 512),
        "pyramid": (
            draw(1, GRID, GRID, 512),
            draw(1, 2 * GRID, 2 * GRID, 256),
            draw(1, 4 * GRID, 4 * GRID, 128),
        ),
    }
    return leaves, inputs


def _jax_side(leaves: dict, inputs: dict, chunk: int):
    import jax

    from opvseg_jax.aggregation.blocks import Mode

    plan, mode = _plan(chunk), Mode((1, 1))
    run = jax.jit(lambda weights, x: plan.merge(weights)(**x, mode=mode))
    run = run.lower(leaves, inputs).compile()  # compiling is not running: its memory is not counted
    leaves, inputs = jax.device_put((leaves, inputs))
    return lambda: np.asarray(run(leaves, inputs))


def _torch_side(leaves: dict, inputs: dict, chunk: int):
    import torch
    from aggregation_torch import TorchHead

    from opvseg_jax.methods.catseg import port
    from opvseg_jax.port.rules import publish

    layer = tuple(rule for rule in port.LAYER if "padding" not in rule.source)
    head = TorchHead(publish(port.head_rules(layer), leaves))
    features = torch.from_numpy(inputs["features"]).permute(0, 3, 1, 2)
    pyramid = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in inputs["pyramid"]]
    text = torch.from_numpy(inputs["text"])
    return lambda: head(features.contiguous(), text, pyramid).numpy()


if __name__ == "__main__":
    main()
