"""All benchmarks by name. The name is also that of the vocabulary (`data/vocab/<name>.json`)."""

import difflib

from opvseg_jax.data.builders import (
    ade20k,
    ade20k_part,
    cityscapes,
    coco,
    context,
    partimagenet,
    pascal_part,
    voc,
)
from opvseg_jax.data.builders.benchmark import Benchmark

from opvseg_jax.core.errors import UserError

ROOMS = (pascal_part, ade20k_part, partimagenet, coco, voc, context, ade20k, cityscapes)
BENCHMARKS = {benchmark.name: benchmark for room in ROOMS for benchmark in room.BENCHMARKS}
ALIASES = {"cityscapes": "cityscapes19", "coco_stuff": "coco_stuff_171"}


def benchmark(name: str) -> Benchmark:
    """By name; "pascal-part-116" is "pascal_part_116"."""
    plain = name.strip().lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in BENCHMARKS:
        near = difflib.get_close_matches(plain, BENCHMARKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(BENCHMARKS)}"
        raise UserError(f"unknown data set {name!r}: {hint}")
    return BENCHMARKS[plain]
