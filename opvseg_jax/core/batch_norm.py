"""Batch normalisation as PyTorch counts it: running statistics that are state, not parameters."""

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.shapes import dims


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias for each channel.

    While training, mean and variance are those of the whole batch: inside jit the batch axis is the
    global one, so the statistics are the same on one device and on many. The running variance is
    the unbiased one; new = (1 - momentum) * old + momentum * batch.
    """

    def __init__(self, width: int, *, epsilon: float = 1e-5, momentum: float = 0.1):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.BatchStat(jnp.zeros(width))
        self.variance = nnx.BatchStat(jnp.ones(width))
        self.width, self.epsilon, self.momentum = width, epsilon, momentum

    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x [B, ..., C] -> the same shape. `mask` [B, T] of x [B, T, H, W, C]: what is real."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean, variance = self._measure(wide, mask)
        else:
            mean, variance = self.mean[...], self.variance[...]
        factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return ((wide - mean) * factor + self.bias[...]).astype(x.dtype)

    def _measure(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Mean and biased variance of the batch; the running statistics move towards them."""
        axes = tuple(range(x.ndim - 1))
        weight = jnp.ones((1,) * x.ndim, x.dtype)
        if mask is not None:
            dims(mask, "B T", B=x.shape[0], T=x.shape[1])
            weight = mask.astype(x.dtype).reshape(*mask.shape, *(1,) * (x.ndim - 2))
        count = jnp.maximum(jnp.broadcast_to(weight, (*x.shape[:-1], 1)).sum(), 1.0)
        mean = (x * weight).sum(axis=axes) / count
        variance = (jnp.square(x - mean) * weight).sum(axis=axes) / count
        unbiased = variance * count / jnp.maximum(count - 1, 1.0)
        self._move(self.mean, mean)
        self._move(self.variance, unbiased)
        return mean, variance

    def _move(self, running: nnx.BatchStat, batch: jax.Array) -> None:
        moved = (1 - self.momentum) * running[...] + self.momentum * jax.lax.stop_gradient(batch)
        running[...] = moved.astype(running[...].dtype)
