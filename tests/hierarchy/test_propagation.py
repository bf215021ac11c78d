"""Responses spread to patches that belong together, and from where they are told to."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.hierarchy.propagation import (
    Seeds,
    attention_affinity,
    component_boxes,
    doubly_stochastic,
    inside_boxes,
    propagate,
    seed_regions,
)


def attention(seed: int, *shape: int) -> jax.Array:
    return jax.nn.softmax(jax.random.normal(jax.random.key(seed), shape), axis=-1)


def test_columns_sum_to_one_and_rows_nearly():
    found = np.asarray(doubly_stochastic(attention(0, 2, 15, 15)))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-3)


def test_patches_without_any_attention_give_no_nan():
    dead = attention(1, 1, 3, 6, 6).at[:, :, 2].set(0).at[:, :, :, 2].set(0)
    assert np.isfinite(attention_affinity(dead)).all()


def test_affinity_is_symmetric():
    found = attention_affinity(attention(2, 2, 4, 10, 10))
    np.testing.assert_allclose(found, found.swapaxes(1, 2), atol=1e-7)


def test_steps_repeat_the_product():
    affinity = attention_affinity(attention(3, 1, 4, 12, 12))
    costs = jax.random.normal(jax.random.key(4), (1, 3, 3, 4, 2))
    twice = propagate(affinity, propagate(affinity, costs))
    np.testing.assert_allclose(propagate(affinity, costs, steps=2), twice, atol=1e-6)


def boxes_by_search(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """The box of each pixel's component, found by walking through it."""
    h, w = mask.shape
    boxes = np.zeros((h, w, 4), int)
    for start in zip(*np.nonzero(mask), strict=True):
        seen, queue = {start}, deque([start])
        while queue:
            y, x = queue.popleft()
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    step = (y + dy, x + dx)
                    reach = diagonal or 0 in (dy, dx)
                    inside = 0 <= step[0] < h and 0 <= step[1] < w
                    if reach and inside and mask[step] and step not in seen:
                        seen.add(step)
                        queue.append(step)
        ys, xs = zip(*seen, strict=True)
        boxes[start] = min(ys), min(xs), max(ys) + 1, max(xs) + 1
    return boxes


@pytest.mark.parametrize("diagonal", [True, False])
def test_boxes_are_those_of_connected_components(diagonal):
    masks = np.random.default_rng(0).random((4, 9, 12)) < 0.4
    found = np.asarray(component_boxes(jnp.asarray(masks), diagonal=diagonal))
    for mask, boxes in zip(masks, found, strict=True):
        np.testing.assert_array_equal(boxes[mask], boxes_by_search(mask, diagonal)[mask])


def test_the_union_of_boxes_covers_each_component():
    mask = np.zeros((8, 10), bool)
    mask[1:4, 1] = mask[3, 1:4] = True  # an L: its box is 3 x 3
    mask[6, 7] = True
    expected = np.zeros((8, 10), bool)
    expected[1:4, 1:4] = expected[6, 7] = True
    np.testing.assert_array_equal(inside_boxes(jnp.asarray(mask)), expected)


def test_a_class_spreads_from_its_seeds_unless_they_are_few():
    costs = np.zeros((1, 2, 8, 8, 1), np.float32)
    costs[0, 0, 2:5, 2:5] = 1.0  # 9 of 64 patches
    costs[0, 1, 2, 2] = 1.0  # 1 of 64: less than a tenth
    regions = np.asarray(seed_regions(jnp.asarray(costs), Seeds()))[0]
    assert regions[0].sum() == 9
    assert regions[1].all()


def test_seeds_let_gradients_through():
    affinity = attention_affinity(attention(5, 1, 3, 16, 16))
    costs = jax.random.normal(jax.random.key(6), (1, 2, 4, 4, 2))

    def total(costs):
        return (propagate(affinity, costs, steps=2, seeds=Seeds()) ** 2).sum()

    slope = jax.jit(jax.grad(total))(costs)
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0
