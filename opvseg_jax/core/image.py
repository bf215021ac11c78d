"""Resizing that gives PyTorch's numbers, as two small matrix products.

`jax.image.resize` lacks the bicubic kernel (a = -0.75), `nearest`, `align_corners` and an explicit
scale, and shrinks with antialiasing unless told otherwise. Sizes are Python ints; for sizes known
only at run time there are `source_positions` and `sample_matrix`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("bilinear", "bicubic", "nearest", "nearest-exact")


def resize(
    x: jax.Array,
    size: tuple[int, int],
    *,
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    scale: tuple[float, float] | float | None = None,
) -> jax.Array:
    """x [..., H, W, C] -> [..., h, w, C], as torch.nn.functional.interpolate does.

    `scale` is PyTorch's `scale_factor` where it differs from out / in: it moves the positions that
    are read, not the size. The nearest methods keep integers and know no scale; the others return
    floats.
    """
    if x.ndim < 3:
        raise ValueError(f"expected [..., H, W, C], got {list(x.shape)}")
    *_, height, width, _ = x.shape
    scales = scale if isinstance(scale, tuple) else (scale, scale)
    options = {"method": method, "align_corners": align_corners, "antialias": antialias}
    _check(height, size[0], scale=scales[0], **options)
    _check(width, size[1], scale=scales[1], **options)
    if method.startswith("nearest"):
        rows = _nearest_index(height, size[0], method)
        cols = _nearest_index(width, size[1], method)
        return jnp.take(jnp.take(x, rows, axis=-3), cols, axis=-2)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    if (height, width) == tuple(size) and scales == (None, None):
        return x  # every method gives back its input at the same size
    rows = resize_matrix(height, size[0], scale=scales[0], **options)
    cols = resize_matrix(width, size[1], scale=scales[1], **options)
    return apply_matrices(x, rows, cols)


def apply_matrices(x: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """Float x [..., H, W, C], rows [h, H], cols [w, W] -> [..., h, w, C] in the dtype of x."""
    dtype = x.dtype
    work = jnp.promote_types(dtype, jnp.float32)  # a bf16 matrix would not add up to one
    x = x.astype(work)
    contract = functools.partial(jnp.einsum, precision="highest")
    by_rows = ("oh,...hwc->...owc", rows.astype(work))
    by_cols = ("pw,...hwc->...hpc", cols.astype(work))
    # The axis that shrinks most goes first: the other product is then over fewer numbers.
    first_rows = rows.shape[0] * cols.shape[1] <= cols.shape[0] * rows.shape[1]
    for formula, matrix in (by_rows, by_cols) if first_rows else (by_cols, by_rows):
        x = contract(formula, matrix, x)
    return x.astype(dtype)


@functools.lru_cache(maxsize=256)
def resize_matrix(
    n_in: int,
    n_out: int,
    *,
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """The matrix [n_out, n_in] that resizes one axis; read-only, computed once in float64."""
    _check(n_in, n_out, method, align_corners, antialias, scale)
    if method.startswith("nearest"):
        matrix = np.zeros((n_out, n_in))
        matrix[np.arange(n_out), _nearest_index(n_in, n_out, method)] = 1.0
    else:
        step = _step(n_in, n_out, align_corners, scale)
        # PyTorch's antialiased kernels take the step from align_corners but not the positions.
        first = 0.0 if align_corners and not antialias else 0.5 * step - 0.5
        centers = np.arange(n_out) * step + first
        weigh = functools.partial(_smooth_taps, step=step) if antialias else _plain_taps
        matrix = weigh(centers, n_in, cubic=method == "bicubic")
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def source_positions(n_in: jax.Array, n_out: int, size: jax.Array | None = None) -> jax.Array:
    """Where the `n_out` pixels of a row lie in a row of `n_in`, half-pixel convention. [n_out]

    `n_in` may be traced. With a traced `size`, only the first `size` of the `n_out` pixels make up
    the resized row; the others repeat its border and are to be masked or cropped.
    """
    size = n_out if size is None else size
    index = jnp.minimum(jnp.arange(n_out), size - 1)
    return (index + 0.5) * (n_in / size) - 0.5


def sample_matrix(n_in: int, positions: jax.Array, *, valid: jax.Array | None = None) -> jax.Array:
    """The matrix [n_out, n_in] that reads a row at float positions [n_out], bilinearly.

    Pixel i has its centre at position i; what lies outside repeats the border. Positions may be
    traced, so a compiled function resizes to, or crops from, a size known only at run time:
    `apply_matrices(x, sample_matrix(H, ys), sample_matrix(W, xs))`. A traced `valid` says that only
    the first pixels of the row are real: the border is then the last of those.
    """
    last = n_in - 1 if valid is None else valid - 1
    positions = jnp.clip(positions.astype(jnp.float32), 0, last)
    distance = jnp.abs(positions[:, None] - jnp.arange(n_in, dtype=jnp.float32))
    return jnp.maximum(0.0, 1.0 - distance)


def _check(
    n_in: int, n_out: int, method: str, align_corners: bool, antialias: bool, scale: float | None
) -> None:
    if method not in METHODS:
        raise ValueError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
    if min(n_in, n_out) < 1:
        raise ValueError(f"cannot resize {n_in} pixels to {n_out}: both must be at least 1")
    if method.startswith("nearest") and (align_corners or antialias or scale is not None):
        raise ValueError(f"{method} has no align_corners, antialias or scale")


def _step(n_in: int, n_out: int, align_corners: bool, scale: float | None) -> float:
    """The distance between neighbouring output pixels, in input pixels."""
    if align_corners:
        return (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
    return n_in / n_out if scale is None else 1 / scale


def _nearest_index(n_in: int, n_out: int, method: str) -> np.ndarray:
    """The source pixel of each output pixel, in float32 as PyTorch does: that is not exact."""
    half = np.float32(0.5 if method == "nearest-exact" else 0.0)
    index = (np.arange(n_out, dtype=np.float32) + half) * np.float32(n_in / n_out)
    return np.minimum(np.floor(index).astype(np.int32), n_in - 1)


def _kernel(distance: np.ndarray, *, cubic: bool, a: float) -> np.ndarray:
    """The weight of a pixel at this distance: a tent, or Keys' cubic with parameter `a`."""
    t = np.abs(distance)
    if not cubic:
        return np.maximum(0.0, 1 - t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _plain_taps(centers: np.ndarray, n_in: int, *, cubic: bool) -> np.ndarray:
    """Interpolation at points; taps outside repeat the border pixel."""
    reach = 2 if cubic else 1
    if not cubic:
        centers = np.maximum(centers, 0.0)
    floor = np.floor(centers).astype(int)
    matrix = np.zeros((len(centers), n_in))
    for tap in range(1 - reach, reach + 1):
        weight = _kernel(floor + tap - centers, cubic=cubic, a=-0.75)
        np.add.at(matrix, (np.arange(len(centers)), np.clip(floor + tap, 0, n_in - 1)), weight)
    return matrix


def _smooth_taps(centers: np.ndarray, n_in: int, *, step: float, cubic: bool) -> np.ndarray:
    """A kernel as wide as the step; taps outside are dropped, the rest weighs one again."""
    stretch = max(step, 1.0)
    reach = (2 if cubic else 1) * stretch
    matrix = np.zeros((len(centers), n_in))
    for row, center in zip(matrix, centers, strict=True):
        low = max(math.trunc(center + 1 - reach), 0)
        high = min(math.trunc(center + 1 + reach), n_in)
        weight = _kernel((np.arange(low, high) - center) / stretch, cubic=cubic, a=-0.5)
        row[low:high] = weight / weight.sum()
    return matrix
