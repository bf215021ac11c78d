"""Which array lives where on the mesh data x fsdp x classes: one table for leaves, one for axes.

Library code calls `constrain` and knows nothing else of meshes: without one in context
(`with on_mesh(mesh)` around or inside what is traced) it does nothing at all.
"""

import contextlib
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from opvseg_jax.parallel.mesh import ROWS, check_batch, process_share

log = logging.getLogger(__name__)

WHOLE, LARGEST = "whole", "largest"

# Ordered, the first match counts: a leaf is on every device whole, or its largest axis that
# divides is cut along `fsdp`. Vectors and numbers are always whole: cutting them saves nothing.
PLACES = (
    (r"(.*/)?(step|count)", WHOLE),
    (r"stats/.*", WHOLE),
    (r".*", LARGEST),
)
# Axis letters of activations. All others are whole.
LETTERS = {"B": ROWS, "T": ("classes",)}
TRAINED_ON = ("image", "object_map", "part_map", "valid")


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Where the leaf of this path and shape lies."""
    place = next(place for pattern, place in PLACES if re.fullmatch(pattern, path))
    size = mesh.shape["fsdp"]
    fits = [axis for axis, length in enumerate(shape) if length and length % size == 0]
    if place == WHOLE or size == 1 or len(shape) < 2 or not fits:
        return P()
    largest = max(fits, key=lambda axis: shape[axis])
    return P(*(None,) * largest, "fsdp")


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a state, a dict of weights, or a tree of their shapes."""

    def of(path, leaf) -> NamedSharding:
        return NamedSharding(mesh, spec_of(_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(of, tree)


def place(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every process has, moved to their devices share by share.

    Each device gets its share alone; the arrays given stay as they are.
    """
    return jax.tree.map(_cut, tree, shardings(tree, mesh))


def place_whole(tree: Any, mesh: Mesh) -> Any:
    """The same, but every device gets everything."""
    return jax.tree.map(lambda leaf: _cut(leaf, NamedSharding(mesh, P())), tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows along data and fsdp."""
    return NamedSharding(mesh, P(ROWS))


def shard_batch(
    batch: Mapping[str, Any], mesh: Mesh, names: tuple[str, ...] = TRAINED_ON
) -> dict[str, jax.Array]:
    """The rows that this process loaded, on its devices, as parts of the global batch."""
    _, count = process_share(mesh)
    sharding = batch_sharding(mesh)
    chosen = {name: np.asarray(batch[name]) for name in names if name in batch}
    for rows in {len(value) for value in chosen.values()}:
        check_batch(rows * count, mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, value, (len(value) * count, *value.shape[1:])
        )
        for name, value in chosen.items()
    }


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """What is traced inside is for this mesh; None: for no mesh."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """x with its axes where `letters` say, for example "B T H W C"; nothing without a mesh.

    An axis that does not divide stays whole, and the log says so once for each compiled function.
    """
    sizes = _sizes()
    names = letters.split()
    if len(names) != x.ndim:
        raise ValueError(f"expected {len(names)} axes ({letters}), got {list(x.shape)}")
    spec = [_axes_of(name, x.shape[i], sizes) for i, name in enumerate(names)]
    return jax.lax.with_sharding_constraint(x, P(*spec)) if any(spec) else x


def missing_classes(count: int) -> int:
    """How many classes fill `count` up to a multiple of the `classes` axis; 0 without a mesh."""
    size = _sizes().get("classes", 1)
    return -count % size if size > 1 else 0  # in an export `count` may be a symbol


def _axes_of(letter: str, length: int, sizes: Mapping[str, int]) -> tuple[str, ...] | None:
    """The mesh axes that an axis of this letter is cut along."""
    axes = tuple(axis for axis in LETTERS.get(letter, ()) if sizes.get(axis, 1) > 1)
    parts = math.prod(sizes[axis] for axis in axes)
    if length % parts == 0:
        return axes or None
    log.warning("axis %s of %d does not divide by %s: it stays whole", letter, length, axes)
    return None


def _sizes() -> Mapping[str, int]:
    """Sizes of the axes of the mesh in context; empty without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return {} if mesh.empty else dict(mesh.shape)


def _cut(leaf: Any, sharding: NamedSharding) -> jax.Array:
    # A copy: the step donates its state, which must not be the memory of the array given.
    values = np.asarray(leaf)
    return jax.make_array_from_callback(
        values.shape, sharding, lambda index: np.array(values[index])
    )


def _name(path: tuple) -> str:
    """trained/head/kernel from the keys that JAX gives."""
    keys = (getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))) for key in path)
    return "/".join(map(str, keys))
