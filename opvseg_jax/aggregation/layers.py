"""Linear layers and convolutions of the aggregators, with guidance that is computed once per image.

A layer on `concat(x, guidance)` is the sum of two: one on x, for every class, and one on the
guidance, which has no class axis (or no pixel axis) and is broadcast. The `shared` form computes
it that way; the plain form concatenates. Both use the same leaves and give the same numbers.

Everything starts as PyTorch starts it: weights and biases uniform in +-1/sqrt(fan_in).
"""

import jax
import jax.numpy as jnp
from flax import nnx


def spread(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class Dense(nnx.Module):
    """x W + b."""

    def __init__(self, width_in: int, width: int, *, dtype=None, rngs: nnx.Rngs):
        self.kernel = nnx.Param(spread(rngs.params(), (width_in, width), width_in))
        self.bias = nnx.Param(spread(rngs.params(), (width,), width_in))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., C] -> [..., D]."""
        return _product(x, self.kernel[...], self.dtype) + self.bias[...].astype(
            self.dtype or x.dtype
        )


class GuidedDense(nnx.Module):
    """A linear layer on concat(x, guidance); the guidance broadcasts to x."""

    def __init__(
        self, width: int, guide: int, out: int, *, shared: bool = True, dtype=None, rngs: nnx.Rngs
    ):
        fan_in = width + guide
        self.kernel = nnx.Param(spread(rngs.params(), (fan_in, out), fan_in))
        self.bias = nnx.Param(spread(rngs.params(), (out,), fan_in))
        self.width, self.shared, self.dtype = width, shared, dtype

    def __call__(self, x: jax.Array, guidance: jax.Array) -> jax.Array:
        """x [..., C], guidance [..., G] with axes of size 1 where it does not vary -> [..., D]."""
        kernel, bias = self.kernel[...], self.bias[...].astype(self.dtype or x.dtype)
        if not self.shared:
            return _product(_beside(x, guidance), kernel, self.dtype) + bias
        constant = _product(guidance, kernel[self.width :], self.dtype) + bias
        return _product(x, kernel[: self.width], self.dtype) + constant


class Conv(nnx.Module):
    """A convolution with stride 1 that keeps the size: odd kernels, zero padding."""

    def __init__(
        self,
        width_in: int,
        width: int,
        size: int,
        *,
        use_bias: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        fan_in = width_in * size * size
        self.kernel = nnx.Param(spread(rngs.params(), (size, size, width_in, width), fan_in))
        self.bias = nnx.Param(spread(rngs.params(), (width,), fan_in)) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., H, W, C] -> [..., H, W, D]."""
        out = convolve(x, self.kernel[...], self.dtype)
        return out if self.bias is None else out + self.bias[...].astype(out.dtype)


class GuidedConv(nnx.Module):
    """A convolution without bias on concat(x, guidance); the guidance has no class axis."""

    def __init__(
        self,
        width: int,
        guide: int,
        out: int,
        size: int,
        *,
        shared: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, width + guide, out)
        self.kernel = nnx.Param(spread(rngs.params(), shape, size * size * (width + guide)))
        self.width, self.shared, self.dtype = width, shared, dtype

    def __call__(self, x: jax.Array, guidance: jax.Array) -> jax.Array:
        """x [B, T, H, W, C], guidance [B, 1, H, W, G] -> [B, T, H, W, D]."""
        kernel = self.kernel[...]
        if not self.shared:
            return convolve(_beside(x, guidance), kernel, self.dtype)
        constant = convolve(guidance, kernel[:, :, self.width :], self.dtype)
        return convolve(x, kernel[:, :, : self.width], self.dtype) + constant


class Upsample(nnx.Module):
    """A transposed convolution whose stride is its size: each pixel becomes a square of its own."""

    def __init__(self, width_in: int, width: int, size: int, *, dtype=None, rngs: nnx.Rngs):
        fan_in = width * size * size  # PyTorch counts it at the output here
        self.kernel = nnx.Param(spread(rngs.params(), (size, size, width, width_in), fan_in))
        self.bias = nnx.Param(spread(rngs.params(), (width,), fan_in))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., H, W, C] -> [..., sH, sW, D]."""
        *lead, height, width, _ = x.shape
        dtype = self.dtype or x.dtype
        kernel = self.kernel[...].astype(dtype)
        size, _, out, _ = kernel.shape
        squares = jnp.einsum("...hwi,yxoi->...hwyxo", x.astype(dtype), kernel)
        squares = jnp.moveaxis(squares, -3, -4)  # [..., H, s, W, s, D]
        whole = squares.reshape(*lead, height * size, width * size, out)
        return whole + self.bias[...].astype(dtype)


class GroupNorm(nnx.Module):
    """Each group of channels of each image is normalised; statistics in float32, in two passes."""

    def __init__(self, width: int, num_groups: int, *, epsilon: float = 1e-5, dtype=None):
        if num_groups < 1 or width % num_groups:
            raise ValueError(f"width {width} is not a multiple of num_groups {num_groups}")
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.num_groups, self.epsilon, self.dtype = num_groups, epsilon, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., H, W, C] -> the same shape."""
        *lead, height, width, c = x.shape
        members = c // self.num_groups
        area = height * width

        def by_group(moment: jax.Array) -> jax.Array:  # [..., C] -> the mean of its group, [..., C]
            groups = moment.reshape(*lead, self.num_groups, members).mean(axis=-1)
            return jnp.repeat(groups, members, axis=-1)[..., None, None, :]

        # Sums over pixels first: the group axis then never splits a large array.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = by_group(wide.sum(axis=(-3, -2)) / area)
        variance = by_group(jnp.square(wide - mean).sum(axis=(-3, -2)) / area)
        factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return ((wide - mean) * factor + self.bias[...]).astype(self.dtype or x.dtype)


def convolve(x: jax.Array, kernel: jax.Array, dtype=None) -> jax.Array:
    """x [..., H, W, C], kernel [k, k, C, D] -> [..., H, W, D], zero padding, stride 1."""
    *lead, height, width, c = x.shape
    dtype = dtype or x.dtype
    pad = kernel.shape[0] // 2
    out = jax.lax.conv_general_dilated(
        x.astype(dtype).reshape(-1, height, width, c),
        kernel.astype(dtype),
        window_strides=(1, 1),
        padding=[(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out.reshape(*lead, height, width, kernel.shape[-1])


def _product(x: jax.Array, kernel: jax.Array, dtype) -> jax.Array:
    dtype = dtype or x.dtype
    return x.astype(dtype) @ kernel.astype(dtype)


def _beside(x: jax.Array, guidance: jax.Array) -> jax.Array:
    wide = jnp.broadcast_to(guidance, (*x.shape[:-1], guidance.shape[-1]))
    return jnp.concatenate([x, wide.astype(x.dtype)], axis=-1)
