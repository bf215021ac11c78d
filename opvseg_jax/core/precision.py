"""Compute dtypes by name. Parameters are float32 whatever the compute dtype."""

import jax
import jax.numpy as jnp

from opvseg_jax.core.errors import UserError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def dtype_of(name: str = "auto"):
    """The dtype of a name; `auto` is bfloat16 on an accelerator and float32 on a CPU.

    CPUs of today compute bfloat16 by conversion: it is slower there than float32.
    """
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use auto, {', '.join(DTYPES)}")
    return DTYPES[name]
