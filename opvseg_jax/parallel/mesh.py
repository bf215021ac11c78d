"""The mesh of devices: always the axes data x fsdp x classes, whatever their sizes.

`data`: rows of the batch. `fsdp`: rows of the batch too, and shares of every parameter and of its
optimizer state. `classes`: the class axis of the cost volume.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from opvseg_jax.core.errors import UserError

AXES = ("data", "fsdp", "classes")
ROWS = ("data", "fsdp")  # the axes that the batch is cut along


def make_mesh(
    data: int = -1, fsdp: int = 1, classes: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """All devices (or these) as data x fsdp x classes; one size may be -1: what is left."""
    devices = jax.devices() if devices is None else list(devices)
    shape = _shape((data, fsdp, classes), len(devices))
    # Explicit axes, the default, cannot follow the reshapes of window attention.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def one_device() -> Mesh:
    """The mesh 1x1x1 of this process's first device."""
    return make_mesh(1, 1, 1, devices=jax.local_devices()[:1])


def num_shares(mesh: Mesh) -> int:
    """How many shares the rows of a batch are cut into."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """A UserError unless a global batch divides among devices and parts."""
    if accumulate < 1:
        raise UserError(f"train.accumulate={accumulate}: expected 1 or more parts of a batch")
    shares = num_shares(mesh)
    if batch_size < 1 or batch_size % (shares * accumulate):
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"a batch of {batch_size} does not divide among {describe(mesh)}{parts}: expected a "
            f"multiple of {shares * accumulate} (data * fsdp * accumulate)"
        )


def process_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process loads share `index` of `count` of the rows of each batch.

    With `classes` inside of a process that is the process's number. Where the class axis spans
    processes, these load the same rows.
    """
    shares = np.arange(num_shares(mesh)).repeat(mesh.shape["classes"])
    own = [device.process_index == jax.process_index() for device in mesh.devices.flat]
    return _share(sorted(set(shares[own].tolist())), num_shares(mesh))


def describe(mesh: Mesh) -> str:
    """For example "a mesh of 2x4x1 (data x fsdp x classes)"."""
    return f"a mesh of {_times(mesh.devices.shape)} ({' x '.join(AXES)})"


def _share(mine: list[int], total: int) -> tuple[int, int]:
    count, rest = divmod(total, len(mine))
    index = mine[0] // len(mine)
    if rest or mine != list(range(index * len(mine), (index + 1) * len(mine))):
        raise UserError(
            f"this process holds the shares {mine} of {total} of a batch, which is no even part of "
            "it: choose mesh sizes that divide the devices of each process"
        )
    return index, count


def _shape(sizes: tuple[int, int, int], available: int) -> tuple[int, int, int]:
    """The sizes with -1 filled in."""
    named = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"{named}: expected sizes of 1 and more, one of them -1 for what is left")
    given = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and available % given == 0:
        return tuple(available // given if size == -1 else size for size in sizes)
    if -1 in sizes:
        raise UserError(
            f"{named}: {available} devices do not divide by {given}; choose sizes that do"
        )
    if given != available:
        raise UserError(
            f"{named}: a mesh of {_times(sizes)} needs {given} devices, there are {available}; "
            "set one size to -1 to use what is there"
        )
    return sizes


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
