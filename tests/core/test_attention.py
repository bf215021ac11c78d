"""Attention with and without its matrix is the same attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.core.attention import Attention


@pytest.fixture(scope="module")
def attention():
    return Attention(24, 3, rngs=nnx.Rngs(0))


def tokens(n=7):
    return jax.random.normal(jax.random.key(1), (2, n, 24))


@pytest.mark.parametrize("causal", [False, True])
def test_asking_for_the_map_changes_nothing(attention, causal):
    x = tokens()
    plain = jax.jit(lambda x: attention(x, causal=causal))(x)
    mapped, weights = jax.jit(lambda x: attention.with_map(x, causal=causal))(x)
    np.testing.assert_allclose(mapped, plain, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    assert weights.shape == (2, 3, 7, 7)


def test_a_causal_map_never_looks_ahead(attention):
    weights = jax.jit(lambda x: attention.with_map(x, causal=True)[1])(tokens())
    assert (np.triu(weights, 1) == 0).all()


def test_the_first_queries_get_what_they_get_among_all(attention):
    x = tokens()
    both = jax.jit(lambda x: (attention(x), attention(x, num_queries=2)))(x)
    np.testing.assert_allclose(both[1], both[0][:, :2], atol=1e-6)


def test_bfloat16_stays_near_float32(attention):
    half = Attention(24, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = tokens()
    got = jax.jit(half)(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), jax.jit(attention)(x), atol=2e-2)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 24 is not a multiple of num_heads 5"):
        Attention(24, 5, rngs=nnx.Rngs(0))
