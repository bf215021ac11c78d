"""Fusion of attention: exact thresholds, and each side steering the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.hierarchy.attention_fusion import (
    fuse,
    kth_smallest,
    largest_threshold,
    resize_attention,
    stack_layers,
)


def attention(seed: int, *shape: int) -> jax.Array:
    return jax.nn.softmax(2 * jax.random.normal(jax.random.key(seed), shape), axis=-1)


@pytest.mark.parametrize("k", [1, 2, 50, 99, 100])
def test_kth_smallest_is_that_of_a_sort(k):
    rng = np.random.default_rng(0)
    values = (rng.random((4, 100)) * np.array([[0], [1e-37], [1], [1e6]])).astype(np.float32)
    values[2] = np.round(values[2], 1)  # many equal ones
    found = jax.jit(kth_smallest, static_argnums=1)(values, k)
    np.testing.assert_array_equal(found, np.sort(values, axis=-1)[:, k - 1])


def test_dino_counts_where_clip_is_among_its_largest():
    clip, dino = attention(0, 2, 3, 20, 20), attention(1, 2, 3, 20, 20)
    fused = fuse(clip, dino, alpha=0.0, quantile=0.9)
    kept = np.asarray(fused > 0).sum(axis=(2, 3))
    np.testing.assert_array_equal(kept, 400 - 360 + 1)  # the threshold itself is kept
    strong = clip >= largest_threshold(clip, 0.9)[..., None, None]
    np.testing.assert_array_equal(fused, np.where(strong, dino, 0))


def test_alpha_mixes_the_two_directions():
    clip, dino = attention(2, 1, 2, 12, 12), attention(3, 1, 2, 12, 12)
    ends = fuse(clip, dino, alpha=1.0), fuse(clip, dino, alpha=0.0)
    np.testing.assert_allclose(fuse(clip, dino), 0.7 * ends[0] + 0.3 * ends[1], atol=1e-7)
    # What DINO says about CLIP's queries is nearly uniform: about 1/N of the attention is left.
    np.testing.assert_allclose(ends[0].sum(axis=(2, 3)) / 12, 1 / 12, rtol=0.2)


def test_an_image_does_not_see_the_rest_of_its_batch():
    clip, dino = attention(4, 3, 2, 9, 9), attention(5, 3, 2, 9, 9)
    np.testing.assert_allclose(fuse(clip, dino)[1:2], fuse(clip[1:2], dino[1:2]), atol=1e-7)


def test_class_token_and_registers_are_cut_off():
    maps = [jnp.arange(36.0).reshape(1, 6, 6), -jnp.arange(36.0).reshape(1, 6, 6)]
    np.testing.assert_array_equal(stack_layers(maps, first=2)[0, 1], maps[1][0, 2:, 2:])


def test_resized_attention_has_the_size_of_the_other_grid():
    dino = attention(6, 1, 2, 16, 16)
    assert resize_attention(dino, 9).shape == (1, 2, 9, 9)
    assert resize_attention(dino, 16) is dino
