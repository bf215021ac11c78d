"""`--device` for the commands that compute."""

import argparse

from opvseg_jax.core.errors import UserError


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="where to compute (default: a GPU if JAX finds one)",
    )


def choose(device: str) -> None:
    """Computes there from now on."""
    if device == "auto":
        return
    import jax

    try:
        found = jax.devices(device)
    except RuntimeError as error:
        raise UserError(
            "--device gpu: JAX finds no GPU; install opvseg_jax[cuda12] or opvseg_jax[cuda13], "
            "or use --device cpu"
        ) from error
    jax.config.update("jax_default_device", found[0])
