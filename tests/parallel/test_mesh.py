"""Meshes and tables of places; eight devices that exist by name only."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from opvseg_jax.core.errors import UserError
from opvseg_jax.parallel import mesh as meshes
from opvseg_jax.parallel.mesh import check_batch, make_mesh, one_device
from opvseg_jax.parallel.rules import (
    constrain,
    missing_classes,
    on_mesh,
    place,
    shard_batch,
    spec_of,
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """As much of a mesh as is needed to say where things go."""

    data: int
    fsdp: int
    classes: int

    @property
    def shape(self):
        return dataclasses.asdict(self)

    @property
    def abstract_mesh(self):
        sizes = tuple(self.shape.values())
        return AbstractMesh(sizes, meshes.AXES, axis_types=(AxisType.Auto,) * 3)


def test_the_axes_are_always_these_and_automatic():
    mesh = make_mesh()
    assert mesh.axis_names == ("data", "fsdp", "classes")
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert mesh.shape["data"] == len(jax.devices())


@pytest.mark.parametrize(
    ("sizes", "available", "shape"),
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((-1, 2, 2), 8, (2, 2, 2)),
        ((1, 1, -1), 8, (1, 1, 8)),
        ((2, 4, 1), 8, (2, 4, 1)),
    ],
)
def test_one_size_may_be_what_is_left(sizes, available, shape):
    assert meshes._shape(sizes, available) == shape


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((16, 1, 1), "a mesh of 16x1x1 needs 16 devices, there are 8"),
        ((2, 1, 1), "a mesh of 2x1x1 needs 2 devices, there are 8"),
        ((-1, 3, 1), "8 devices do not divide by 3"),
        ((-1, 16, 1), "8 devices do not divide by 16"),
        ((-1, -1, 1), "one of them -1"),
        ((0, 1, 1), "mesh.data=0"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes, words):
    with pytest.raises(UserError) as error:
        meshes._shape(sizes, 8)
    assert words in str(error.value)


def test_fewer_devices_than_the_mesh_needs_are_refused():
    with pytest.raises(UserError, match="needs 2 devices, there are 1"):
        make_mesh(2, 1, 1, devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("size", "accumulate", "words"),
    [
        (6, 1, "expected a multiple of 4"),
        (8, 4, "in 4 parts: expected a multiple of 16"),
        (0, 1, "a batch of 0"),
        (8, 0, "train.accumulate=0"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(monkeypatch, size, accumulate, words):
    monkeypatch.setattr(meshes, "describe", lambda mesh: "the mesh")
    check_batch(16, Shape(2, 2, 2), 4)
    with pytest.raises(UserError) as error:
        check_batch(size, Shape(2, 2, 2), accumulate)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("mine", "total", "share"),
    [([0], 1, (0, 1)), ([2, 3], 4, (1, 2)), ([0, 1, 2, 3], 4, (0, 1)), ([5], 8, (5, 8))],
)
def test_a_process_loads_its_part_of_the_rows(mine, total, share):
    assert meshes._share(mine, total) == share


@pytest.mark.parametrize(("mine", "total"), [([0, 2], 4), ([0, 1, 2], 4), ([1, 2], 4)])
def test_rows_that_are_no_even_part_are_refused(mine, total):
    with pytest.raises(UserError, match="no even part"):
        meshes._share(mine, total)


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("trained/head/kernel", (16, 64), P(None, "fsdp")),
        ("trained/head/kernel", (64, 16), P("fsdp")),
        ("optimizer/1/mu/head/kernel", (7, 7, 80, 128), P(None, None, None, "fsdp")),
        ("frozen/clip/embedding", (13, 8), P(None, "fsdp")),  # the largest does not divide
        ("frozen/clip/positions", (13, 9), P()),
        ("trained/head/bias", (64,), P()),
        ("stats/norm/mean", (64, 64), P()),
        ("step", (), P()),
        ("head/kernel", (16, 64), P(None, "fsdp")),  # weights alone
    ],
)
def test_where_leaves_lie(path, shape, spec):
    assert spec_of(path, shape, Shape(2, 4, 1)) == spec
    assert spec_of(path, shape, Shape(8, 1, 1)) == P()


def constraints(mesh, shape: tuple[int, ...]) -> str:
    """What a traced function says of an array [B, T, N]."""

    def function(x):
        with on_mesh(mesh):
            return constrain(x, "B T N")

    return str(jax.make_jaxpr(function)(np.zeros(shape)))


def test_classes_and_rows_are_constrained_to_their_axes():
    assert "P(('data', 'fsdp'), 'classes', None)" in constraints(Shape(2, 2, 2), (4, 6, 5))
    assert "P(None, 'classes', None)" in constraints(Shape(1, 1, 8), (4, 8, 5))


def test_without_a_mesh_or_with_one_device_nothing_is_said():
    assert "sharding" not in constraints(None, (4, 6, 5))
    assert "sharding" not in constraints(one_device(), (4, 6, 5))
    assert missing_classes(7) == 0


def test_an_axis_that_does_not_divide_stays_whole_and_the_log_says_so(caplog):
    assert "P(('data', 'fsdp'), None, None)" in constraints(Shape(2, 2, 2), (4, 5, 5))
    assert "axis T of 5 does not divide" in caplog.text


def test_classes_are_filled_up_to_what_divides():
    with on_mesh(Shape(2, 1, 4)):
        assert [missing_classes(count) for count in (4, 5, 7, 8)] == [0, 3, 1, 0]


def test_a_batch_takes_what_is_trained_on_alone():
    batch = {"image": np.zeros((2, 4, 4, 3), np.uint8), "key": ["a", "b"], "valid": np.ones((2, 4))}
    placed = shard_batch(batch, one_device())
    assert placed.keys() == {"image", "valid"}
    np.testing.assert_array_equal(placed["valid"], batch["valid"])


def test_placed_arrays_are_copies():
    given = {"a": np.ones((4, 4), np.float32)}
    placed = place(given, one_device())
    given["a"][:] = 2
    np.testing.assert_array_equal(placed["a"], np.ones((4, 4)))


PROGRAM = """
import jax, numpy as np
from jax.sharding import PartitionSpec as P
from opvseg_jax.parallel.mesh import make_mesh, process_share
from opvseg_jax.parallel.rules import place, shard_batch
mesh = make_mesh(2, 2, 2)
placed = place({"kernel": np.arange(32.0).reshape(4, 8)}, mesh)["kernel"]
assert placed.sharding.spec == P(None, "fsdp"), placed.sharding
assert {shard.data.shape for shard in placed.addressable_shards} == {(4, 4)}
image = shard_batch({"image": np.arange(4)}, mesh)["image"]
assert {shard.data.shape for shard in image.addressable_shards} == {(1,)}
assert np.array_equal(image, np.arange(4))
assert process_share(mesh) == (0, 1)
"""


def test_eight_devices_get_their_shares():
    flags = ["-c", "import jax; jax.config.update('jax_num_cpu_devices', 8)\n" + PROGRAM]
    done = subprocess.run([sys.executable, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
