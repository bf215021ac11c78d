"""Layers keep the numbers of the published ones where the stack's defaults do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.core.layers import Mlp, PatchEmbedding, gelu, layer_norm, quick_gelu, unit


def test_the_three_gelus_are_three():
    x = jnp.array([-1.0, 1.0, 2.0])
    # Values of the exact form, x * Phi(x), to seven digits.
    np.testing.assert_allclose(gelu(x), [-0.1586553, 0.8413447, 1.9544997], atol=1e-6)
    np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)


def test_layer_norm_survives_a_large_mean():
    x = np.random.default_rng(0).normal(320.0, 1.0, (4, 64)).astype(np.float32)
    norm = layer_norm(64, epsilon=1e-5, rngs=nnx.Rngs(0))
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(jax.jit(norm)(x), exact, atol=2e-4)


@pytest.mark.parametrize(("height", "width"), [(12, 8), (15, 11)])
def test_patches_equal_a_strided_convolution(height, width):
    embed = PatchEmbedding(4, 6, use_bias=True, rngs=nnx.Rngs(0))
    embed.bias[...] = jnp.arange(6.0)
    images = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    want = jax.lax.conv_general_dilated(
        images, embed.kernel[...], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(jax.jit(embed)(images), want + jnp.arange(6.0), atol=1e-5)


def test_an_image_smaller_than_a_patch_is_refused():
    embed = PatchEmbedding(16, 6, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 20x15"):
        embed(jnp.zeros((1, 20, 15, 3)))


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="'swish' is none of"):
        Mlp(4, 8, "swish", rngs=nnx.Rngs(0))


def test_unit_vectors_have_gradients_even_at_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0.0, 0.0]], atol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: unit(x).sum())(x)).all()
