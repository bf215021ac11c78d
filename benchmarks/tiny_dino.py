"""What the patches of the tiny DINO know of PartWorld, beside random weights and raw pixels.

    python benchmarks/tiny_dino.py [--model opvseg_jax/hub/tiny_dino] [--fit 400] [--judge 200]

`opvseg_jax/train/patch_probe.py` says how each figure is computed. Prints a table in Markdown.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.core.assets import package_file
from opvseg_jax.core.weights import flatten
from opvseg_jax.encoders.sizes import DinoSize
from opvseg_jax.hub.encoders import LoadedDino, load_dino
from opvseg_jax.train.patch_probe import Encode, probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=package_file("hub", "tiny_dino"))
    parser.add_argument("--fit", type=int, default=400, help="images of `train` with labels")
    parser.add_argument("--judge", type=int, default=200, help="images of each validation split")
    args = parser.parse_args()
    loaded = load_dino(args.model)
    encoders = {
        "tiny DINO": encode_with(loaded, loaded.weights),
        "random weights": encode_with(loaded, random_weights(loaded.size)),
        "raw pixels": pixels_of(loaded),
    }
    size = loaded.size.image_size
    found = {
        name: probe(e, fit=args.fit, judge=args.judge, size=size) for name, e in encoders.items()
    }
    print("| | " + " | ".join(encoders) + " |")
    print("|---|" + "---:|" * len(encoders))
    for row in next(iter(found.values())):
        print(
            f"| {row} | " + " | ".join(f"{100 * found[name][row]:.1f}" for name in encoders) + " |"
        )


def encode_with(loaded: LoadedDino, weights) -> Encode:
    run = jax.jit(lambda weights, images: loaded.plan.merge(weights)(images).patches)
    mean, std = np.array(loaded.mean), np.array(loaded.std)
    return lambda images: run(weights, jnp.asarray((images / 255 - mean) / std, jnp.float32))


def random_weights(size: DinoSize):
    return jax.jit(lambda: flatten(size.build(rngs=nnx.Rngs(0))))()


def pixels_of(loaded: LoadedDino) -> Encode:
    """The pixels of each patch, less the mean colour that cosines would be blind behind."""
    p = loaded.size.patch_size
    mean, std = np.array(loaded.mean), np.array(loaded.std)

    def encode(images: np.ndarray) -> np.ndarray:
        b, height, width, _ = images.shape
        cells = ((images / 255 - mean) / std).reshape(b, height // p, p, width // p, p, 3)
        return cells.swapaxes(2, 3).reshape(b, height // p, width // p, -1)

    return encode


if __name__ == "__main__":
    main()
