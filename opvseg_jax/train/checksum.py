"""A checksum of a whole tensor that does not depend on how it lies on devices.

Every element is hashed with its place, and the hashes are added modulo 2^32. Sums have no order, so
one device, eight devices and several hosts find the same number, each looking at its own pieces. A
hash of 32 bits is one-to-one for a given place, so one changed element never goes unnoticed, and of
other changes one in 2^32 does.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


def checksums(leaves: Mapping[str, jax.Array]) -> dict[str, int]:
    """{path: array} -> {path: checksum}; all processes must call it with the same paths."""
    found = {path: _of_tensor(leaf) for path, leaf in leaves.items()}
    return {path: int(value) for path, value in jax.device_get(found).items()}


def _of_tensor(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    is_near = isinstance(x, np.ndarray) or (
        x.is_fully_addressable and all(device.platform == "cpu" for device in x.devices())
    )
    if is_near:  # NumPy has nothing to compile, which on a CPU takes longer than the sums
        return _sum_of_hashes(np, _numpy_words(np.asarray(x)))
    return _on_device(x)


@jax.jit
def _on_device(x: jax.Array) -> jax.Array:
    return _sum_of_hashes(jnp, _words(x))


def _sum_of_hashes(xp, words):
    """words uint32 [...] -> uint32 []."""
    place = xp.zeros((1,) * words.ndim, xp.uint32)
    for axis, size in enumerate(words.shape):
        line = [-1 if k == axis else 1 for k in range(words.ndim)]
        place = place * xp.uint32(size) + xp.arange(size, dtype=xp.uint32).reshape(line)
    return xp.sum(_mixed(xp, words ^ _mixed(xp, place + xp.uint32(1))), dtype=xp.uint32)


def _mixed(xp, h):
    """The last steps of MurmurHash3 (Appleby 2011), one-to-one on 32 bits."""
    h = (h ^ (h >> xp.uint32(16))) * xp.uint32(0x85EBCA6B)
    h = (h ^ (h >> xp.uint32(13))) * xp.uint32(0xC2B2AE35)
    return h ^ (h >> xp.uint32(16))


def _words(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32, at least one axis; 8 bytes become two words."""
    x = jnp.atleast_1d(x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x)
    size = x.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[size]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _numpy_words(x: np.ndarray) -> np.ndarray:
    x = np.ascontiguousarray(np.atleast_1d(x.astype(np.uint8) if x.dtype == np.bool_ else x))
    size = x.dtype.itemsize
    if size == 8:
        return x.view(np.uint32).reshape(*x.shape, 2)
    return x.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[size]).astype(np.uint32)
