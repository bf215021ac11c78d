"""What memory CAT-Seg B/16 needs for a photo, as XLA plans it; nothing is run.

python benchmarks/inference_memory.py [--classes 150 847] [--chunk 32] [--plain]
"""

import argparse
import dataclasses
import sys

import jax
import jax.numpy as jnp

from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.inference.segmenter import score_canvas
from opvseg_jax.methods.catseg.model import CatSeg
from opvseg_jax.methods.catseg.sizes import SIZES, CatSegSize
from opvseg_jax.text.features import TextFeatures

FLOAT, INT, BOOL = jnp.float32, jnp.int32, jnp.bool


def words(count: int, width: int) -> TextFeatures:
    """Shapes of a vocabulary of objects without parts."""
    of = jax.ShapeDtypeStruct
    none, nothing = of((0, 1, width), FLOAT), of((0,), BOOL)
    return TextFeatures(
        objects=of((count, 1, width), FLOAT),
        parts=none,
        generic=none,
        object_mask=of((count,), BOOL),
        part_mask=nothing,
        generic_mask=nothing,
        part_to_object=of((0,), INT),
        part_to_generic=of((0,), INT),
        object_to_parts=of((count, 0), INT),
        background=none,
        background_mask=nothing,
    )


def planned(size: CatSegSize, classes: int) -> dict[str, float]:
    """Megabytes of weights and inputs, of what is made on the way, and of the scores."""
    plan = blueprint(lambda: CatSeg(size, rngs=ShapeRngs()))
    side = size.sliding.canvas if size.sliding else size.image_size
    run = jax.jit(lambda *inputs: score_canvas(plan, side, *inputs))
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    content = jax.ShapeDtypeStruct((2,), INT)
    inputs = plan.shapes, image, content, words(classes, size.clip.embed_dim)
    found = run.lower(*inputs).compile().memory_analysis()
    return {
        "inputs": found.argument_size_in_bytes / 1e6,
        "on the way": found.temp_size_in_bytes / 1e6,
        "scores": found.output_size_in_bytes / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[150, 847])
    parser.add_argument("--chunk", type=int, default=32, help="classes at a time; 0: all")
    parser.add_argument("--plain", action="store_true", help="the photo at 384 px, no windows")
    args = parser.parse_args()
    size = SIZES["B/16"]
    head = dataclasses.replace(size.head, class_chunk=args.chunk or None)
    size = dataclasses.replace(size, head=head, sliding=None if args.plain else size.sliding)
    for classes in args.classes:
        megabytes = planned(size, classes)
        shown = ", ".join(f"{name} {value:.0f}" for name, value in megabytes.items())
        sys.stdout.write(f"{classes} classes, MB: {shown}, all {sum(megabytes.values()):.0f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
