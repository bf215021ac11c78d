"""Positional tables: when they are resized, and by which rule."""

import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.encoders import positions
from opvseg_jax.encoders.positions import PositionRule, resize_positions

TABLE = np.random.default_rng(0).normal(size=(17, 3)).astype(np.float32)  # a 4 x 4 grid


@pytest.mark.parametrize("rule", ["HUGGINGFACE", "DEOP", "DINOV2", "DINOV2_REGISTERS"])
def test_the_native_grid_is_used_as_stored(rule):
    got = resize_positions(jnp.asarray(TABLE), (4, 4), getattr(positions, rule))
    np.testing.assert_array_equal(got, TABLE)


def test_equal_token_counts_are_kept_by_deop_alone():
    kept = resize_positions(jnp.asarray(TABLE), (2, 8), positions.DEOP)
    np.testing.assert_array_equal(kept, TABLE)
    resized = resize_positions(jnp.asarray(TABLE), (2, 8), positions.HUGGINGFACE)
    assert np.abs(resized - TABLE).max() > 0.1


@pytest.mark.parametrize("rule", ["HUGGINGFACE", "DEOP", "DINOV2", "DINOV2_REGISTERS"])
def test_the_class_row_is_never_resized(rule):
    got = resize_positions(jnp.asarray(TABLE), (5, 3), getattr(positions, rule))
    assert got.shape == (16, 3)
    np.testing.assert_array_equal(got[0], TABLE[0])


def test_the_rules_differ_where_published_systems_do():
    plain, offset, smooth = (
        resize_positions(jnp.asarray(TABLE), (3, 3), getattr(positions, rule))
        for rule in ("HUGGINGFACE", "DINOV2", "DINOV2_REGISTERS")
    )
    assert np.abs(plain - offset).max() > 1e-3
    assert np.abs(plain - smooth).max() > 1e-3


def test_a_table_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="1 \\+ a square number of rows, got 16"):
        resize_positions(jnp.zeros((16, 3)), (2, 2), positions.HUGGINGFACE)


def test_an_unknown_keep_is_refused():
    with pytest.raises(ValueError, match="same_grid or same_count"):
        PositionRule(keep="never")
