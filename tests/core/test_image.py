"""Resizing equals PyTorch's, on numbers that PyTorch gave (make_resize_reference.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from opvseg_jax.core.image import (
    apply_matrices,
    resize,
    resize_matrix,
    sample_matrix,
    source_positions,
)

REFERENCE = load_file(Path(__file__).with_name("resize_reference.safetensors"))


def _pair(text: str, kind=int) -> tuple:
    return tuple(map(kind, text.split("x")))


@pytest.mark.parametrize("case", [key for key in REFERENCE if key.startswith("size/")])
def test_resize_to_a_size_equals_torch(case):
    _, source, size, method, *flags = case.split("/")
    image = REFERENCE[f"in/{source}"][..., None]
    options = {"align_corners": "corners" in flags, "antialias": "antialias" in flags}
    out = resize(jnp.asarray(image), _pair(size), method=method, **options)
    np.testing.assert_allclose(out[..., 0], REFERENCE[case], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", [key for key in REFERENCE if key.startswith("scale/")])
def test_a_kept_scale_factor_equals_torch(case):
    _, source, size, scale, method, *flags = case.split("/")
    image = jnp.asarray(REFERENCE[f"in/{source}"][..., None])
    options = {"method": method, "antialias": "antialias" in flags}
    out = resize(image, _pair(size), scale=_pair(scale, float), **options)
    np.testing.assert_allclose(out[..., 0], REFERENCE[case], rtol=0, atol=2e-6)


def test_nearest_reads_the_pixel_that_float32_arithmetic_names():
    cases = [key for key in REFERENCE if key.startswith("nearest/")]
    assert len(cases) > 50
    for case in cases:
        n_in, n_out = map(int, case.split("/")[1:])
        index = resize_matrix(n_in, n_out, method="nearest").argmax(axis=1)
        np.testing.assert_array_equal(index, REFERENCE[case], err_msg=case)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "nearest", "nearest-exact"])
def test_gradient_is_the_transposed_resize(method):
    x = jax.random.normal(jax.random.key(0), (2, 5, 8, 3))
    out, pull = jax.vjp(lambda x: resize(x, (9, 4), method=method), x)
    rows, cols = resize_matrix(5, 9, method=method), resize_matrix(8, 4, method=method)
    cotangent = jax.random.normal(jax.random.key(1), out.shape)
    np.testing.assert_allclose(
        pull(cotangent)[0], apply_matrices(cotangent, rows.T, cols.T), atol=1e-5
    )


def test_leading_axes_and_jit_change_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 3, 6, 7, 4))
    out = jax.jit(lambda x: resize(x, (11, 5), method="bicubic"))(x)
    assert out.shape == (2, 3, 11, 5, 4)
    np.testing.assert_allclose(out[1, 2], resize(x[1, 2], (11, 5), method="bicubic"), atol=1e-6)


def test_half_precision_goes_through_float32_and_labels_stay_labels():
    x = jax.random.normal(jax.random.key(0), (6, 6, 2)).astype(jnp.bfloat16)
    out = resize(x, (13, 13))
    assert out.dtype == jnp.bfloat16
    exact = resize(x.astype(jnp.float32), (13, 13))
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))
    labels = jnp.arange(12).reshape(3, 4, 1)
    assert resize(labels, (6, 8), method="nearest").dtype == labels.dtype
    assert resize(labels, (3, 4)).dtype == jnp.float32


def test_dynamic_positions_give_the_static_resize():
    """One compiled function, any size: the first `size` of a fixed number of pixels."""
    row = jax.random.normal(jax.random.key(0), (10, 10, 3))

    @jax.jit
    def to_size(x, valid, size):
        matrix = sample_matrix(10, source_positions(valid, 16, size), valid=valid)
        return apply_matrices(x, matrix, matrix)

    for valid, size in ((10, 16), (7, 13), (10, 4), (1, 5), (9, 9)):
        want = resize(row[:valid, :valid], (size, size))
        got = to_size(row, valid, size)
        np.testing.assert_allclose(got[:size, :size], want, atol=3e-6, err_msg=f"{valid} {size}")
    assert to_size._cache_size() == 1


def test_positions_outside_repeat_the_border():
    matrix = sample_matrix(4, jnp.array([-3.0, 0.25, 2.5, 9.0]))
    want = [[1, 0, 0, 0], [0.75, 0.25, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]]
    np.testing.assert_allclose(matrix, want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "cubic", "size": (3, 3)}, "expected a method of bilinear, .*, got 'cubic'"),
        ({"method": "nearest", "scale": 0.5}, "nearest has no align_corners, antialias or scale"),
        ({"method": "nearest", "antialias": True}, "nearest has no align"),
        ({"size": (0, 4)}, "cannot resize 3 pixels to 0"),
    ],
)
def test_impossible_requests_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        resize(jnp.zeros((3, 3, 1)), **{"size": (4, 4), **arguments})
