"""Only what enough layers agree on is let through."""

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.hierarchy.consistency import filter_coarse, filter_operator, spread_costs, votes


def layers_that_agree(pairs: dict[tuple[int, int], int], num_layers: int, n: int) -> jax.Array:
    """Attention in which each pair stands out in so many layers."""
    attention = np.full((1, num_layers, n, n), 0.01, np.float32)
    for (i, j), count in pairs.items():
        attention[0, :count, i, j] = 1.0
    return jnp.asarray(attention)


def test_votes_count_the_layers_above_their_mean():
    attention = layers_that_agree({(0, 1): 3, (2, 2): 5}, 6, 4)
    found = np.asarray(votes(attention)[0])
    assert found[0, 1] == 3
    assert found[2, 2] == 5
    # In the last layer all entries are equal: none lies above the mean.
    assert found.sum() == 8


def test_the_filter_keeps_the_mean_of_agreed_pairs():
    attention = layers_that_agree({(0, 1): 3, (2, 2): 5}, 6, 4)
    operator = np.asarray(filter_operator(attention, at_least=4)[0])
    assert np.count_nonzero(operator) == 1
    np.testing.assert_allclose(operator[2, 2], (5 * 1.0 + 0.01) / 6, rtol=1e-6)


def test_a_normalised_filter_averages_costs_and_leaves_lonely_patches_alone():
    attention = layers_that_agree({(0, 1): 6, (0, 3): 5, (2, 2): 5}, 6, 4)
    operator = np.asarray(filter_operator(attention, at_least=4, normalise=True)[0])
    np.testing.assert_allclose(operator.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(operator[[1, 3]], np.eye(4)[[1, 3]])  # nobody agrees on these
    assert operator[0, 1] > operator[0, 3] > 0
    assert operator[0, [0, 2]].sum() == 0


def test_costs_are_spread_for_every_class_and_prompt():
    key = jax.random.key(0)
    costs = jax.random.normal(key, (2, 3, 2, 4, 5))
    operator = jax.random.uniform(key, (2, 8, 8))
    spread = spread_costs(operator, costs)
    one = operator[1] @ costs[1, 2, :, :, 3].reshape(8)
    np.testing.assert_allclose(spread[1, 2, :, :, 3].reshape(8), one, atol=1e-5)


def test_nothing_agreed_gives_zeros_not_nan():
    flat = jnp.full((1, 12, 4, 4), 0.25)
    costs = jnp.ones((1, 2, 2, 2, 1))
    np.testing.assert_array_equal(spread_costs(filter_operator(flat), costs), 0)


def test_coarse_filter_drops_classes_far_from_the_best():
    attention = layers_that_agree({(0, 0): 9, (1, 1): 9}, 10, 2)
    coarse = jnp.array([[[0.6, 0.5, 0.1], [0.2, 0.9, 0.8]]])
    found = np.asarray(filter_coarse(attention, coarse)[0])
    np.testing.assert_array_equal(found > 0, [[True, True, False], [False, True, True]])
