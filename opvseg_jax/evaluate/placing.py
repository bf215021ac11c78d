"""Where arrays lie during evaluation: on one device, divided over a mesh, or each process alone.

Processes do not wait for each other while they evaluate, because their numbers of batches differ:
each works with its own devices and whole weights, and only the sums meet at the end.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from opvseg_jax.evaluate.boundary import reach
from opvseg_jax.parallel.mesh import make_mesh, num_shares
from opvseg_jax.parallel.rules import batch_sharding, on_mesh
from opvseg_jax.pipeline.samples import IGNORE


class Placing:
    """One device: everything stays where it is."""

    def everywhere(self, tree: Any) -> Any:
        return tree

    def divided(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return with_reach(batch)

    def context(self):
        return contextlib.nullcontext()


class OnMesh(Placing):
    """A batch divided over the rows of the mesh; what lies on the mesh already stays there."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh

    def everywhere(self, tree: Any) -> Any:
        on_each = NamedSharding(self.mesh, PartitionSpec())
        wanted = set(self.mesh.devices.flat)

        def place(x):
            x = whole(x)
            is_there = isinstance(x, jax.Array) and x.sharding.device_set == wanted
            return x if is_there else jax.device_put(x, on_each)

        return jax.tree.map(place, tree)

    def divided(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        count, rows = num_shares(self.mesh), batch_sharding(self.mesh)
        return {
            name: jax.device_put(filled_up(name, x, count), rows)
            for name, x in with_reach(batch).items()
        }

    def context(self):
        return on_mesh(self.mesh)


def placing(mesh: Mesh | None) -> Placing:
    """How arrays are placed for a mesh, or without one."""
    if jax.process_count() > 1:
        return OnMesh(make_mesh(devices=jax.local_devices()))
    if mesh is None or mesh.size == 1:
        return Placing()
    return OnMesh(mesh)


def whole(x: Any) -> Any:
    """What lies on devices of several processes, as this one can use it alone."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return x
    if not x.is_fully_replicated:
        everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())
        x = jax.jit(lambda value: value, out_shardings=everywhere)(x)
    return np.asarray(x.addressable_data(0))


def with_reach(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch, and how far borders reach in each of its label maps."""
    return {**batch, "reach": reach(batch["label_size"])}


def filled_up(name: str, x: np.ndarray, count: int) -> np.ndarray:
    """More rows, so that `count` divides them; their labels are ignored."""
    missing = -len(x) % count
    if not missing:
        return x
    fill = IGNORE if name.endswith("_map") else 0
    return np.concatenate([x, np.full((missing, *x.shape[1:]), fill, x.dtype)])


def on_host(x: Any) -> np.ndarray:
    """The numbers of an array, wherever it lies."""
    return np.asarray(whole(x))


def sum_over_processes(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """int64 arrays -> their sums, exact, the same in every process."""
    if jax.process_count() == 1:
        return list(arrays)
    from jax.experimental import multihost_utils

    sums = []
    for array in arrays:
        halves = np.ascontiguousarray(array).view(np.int32)  # JAX cuts int64 down unless told
        gathered = np.asarray(multihost_utils.process_allgather(halves))
        gathered = np.ascontiguousarray(gathered).view(np.int64)
        sums.append(gathered.reshape(-1, *array.shape).sum(axis=0))
    return sums
