"""Draws the leaves that no file gives, as the module itself would start them.

A method draws nearly a hundred small arrays, and each of them becomes a kernel with JAX's threefry
in it. The counter-based generator here has a tenth of its instructions, so that what used to be the
longest compilation of a small run is one of the shortest (HOPS of size tiny: 6.6 s instead of 33.9
s, `jax.jit(...).lower(key).compile()` on a 2-core x86 CPU under load, no GPU, 2026-11-21).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.random import define_prng_impl

from opvseg_jax.core.weights import flatten


def drawn(
    build: Callable[[Any], nnx.Module],
    paths: list[str],
    seed: int,
    origin: Callable[[str], str] = lambda path: path,
) -> dict[str, jax.Array]:
    """These leaves as a new module has them; one whose `origin` is another is a copy of that.

    Leaves that are not asked for, encoders above all, are never computed.
    """

    def make(key: jax.Array) -> dict[str, jax.Array]:
        leaves = flatten(build(Keys(key)))
        return {path: leaves[origin(path)] for path in paths}

    return jax.jit(make)(jax.random.key(seed, impl=COUNTER))


class Keys:
    """Stands in for `nnx.Rngs` as `core.weights.ShapeRngs` does, with another key at every call."""

    def __init__(self, key: jax.Array):
        self._key, self._count = key, itertools.count()

    def __getattr__(self, stream: str) -> Callable[[], jax.Array]:
        if stream.startswith("_"):
            raise AttributeError(stream)
        return lambda: jax.random.fold_in(self._key, next(self._count))


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every bit of the input moves every bit of the output."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _seed(seed: jax.Array) -> jax.Array:
    return jnp.stack([_mixed(jnp.asarray(seed, jnp.uint32)), jnp.uint32(0x9E3779B9)])


def _fold_in(key: jax.Array, number: jax.Array) -> jax.Array:
    number = jnp.asarray(number, jnp.uint32)
    first = _mixed(key[0] ^ number)
    return jnp.stack([first, _mixed(key[1] + first + number)])


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return jax.vmap(lambda number: _fold_in(key, number))(numbers).reshape(*shape, 2)


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    if width != 32:
        raise ValueError(f"expected 32 random bits, not {width}: weights start as float32")
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return _mixed(_mixed(place ^ key[0]) + key[1])


COUNTER = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="counter",
    tag="cnt",
)
