"""Batch statistics are those of the whole batch, on one device or on many."""

import os
import subprocess
import sys

import jax
import numpy as np
from flax import nnx

from opvseg_jax.core.batch_norm import BatchNorm

SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from opvseg_jax.core.batch_norm import BatchNorm
from opvseg_jax.core.weights import blueprint, flatten

plan = blueprint(lambda: BatchNorm(3))
weights = {path: jnp.ones(shape.shape, jnp.float64) for path, shape in plan.shapes.items()}
x = jax.random.normal(jax.random.key(0), (8, 4, 2, 2, 3), jnp.float64)
mask = jnp.arange(4)[None] < jnp.arange(1, 9)[:, None] % 5

def step(weights, x, mask):
    norm = plan.merge(weights)
    y = norm(x, train=True, mask=mask)
    return y, flatten(norm), jax.grad(lambda x: (plan.merge(weights)(x, train=True) ** 3).sum())(x)

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
spread = [jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (x, mask)]
together, alone = jax.jit(step)(weights, *spread), jax.jit(step)(weights, x, mask)
assert len(together[0].sharding.device_set) == 4
for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
"""


def test_four_devices_see_the_statistics_of_one():
    flags = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    subprocess.run([sys.executable, "-c", SHARDED], check=True, env=os.environ | flags)


def test_training_uses_batch_statistics_and_moves_the_running_ones():
    norm, x = BatchNorm(3), np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    y = norm(x, train=True)
    flat = x.reshape(-1, 3)
    np.testing.assert_allclose(
        y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(norm.mean[...], 0.1 * flat.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.variance[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4)


def test_inference_uses_the_running_statistics_and_leaves_them():
    norm = BatchNorm(2)
    norm.mean[...], norm.variance[...] = np.float32([1, 2]), np.float32([4, 9])
    y = norm(np.full((3, 2), 7.0, np.float32))
    np.testing.assert_allclose(y[0], [6 / 2, 5 / 3], rtol=1e-4)
    assert jax.tree.leaves(nnx.state(norm, nnx.BatchStat))[0].tolist() == [1, 2]
