"""Sliding windows: one gather takes a large image apart, one scatter puts the results together.

Shapes: B images, V windows (rows, then columns), H W the whole, h w one window, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.shapes import dims


def starts(total: int, window: int, stride: int) -> np.ndarray:
    """Where the windows of one axis begin: every `stride`, the last flush with the end."""
    if not 0 < stride <= window <= total:
        raise ValueError(
            f"expected 0 < stride <= window <= {total}, got stride {stride}, window {window}"
        )
    regular = np.arange(0, total - window, stride)
    return np.append(regular, total - window)


def split_windows(x: jax.Array, window: tuple[int, int], stride: tuple[int, int]) -> jax.Array:
    """x [B, H, W, C] -> [B, V, h, w, C]."""
    b, height, width, c = dims(x, "B H W C")
    rows, columns = _indices((height, width), window, stride)  # [Vy, h], [Vx, w]
    cut = x[:, rows[:, None, :, None], columns[None, :, None, :]]  # [B, Vy, Vx, h, w, C]
    return cut.reshape(b, -1, *window, c)


def merge_windows(windows: jax.Array, size: tuple[int, int], stride: tuple[int, int]) -> jax.Array:
    """windows [B, V, h, w, C] -> [B, H, W, C], the mean where windows overlap."""
    b, _, h, w, c = dims(windows, "B V h w C")
    rows, columns = _indices(size, (h, w), stride)
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    tiles = windows.reshape(b, rows.shape[0], columns.shape[1], h, w, c)
    total = jnp.zeros((b, *size, c), windows.dtype).at[:, rows, columns].add(tiles)
    counts = np.zeros(size, np.float32)
    np.add.at(counts, (rows, columns), 1.0)
    return total / counts[:, :, None].astype(windows.dtype)


def _indices(size, window, stride) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        starts(total, one, step)[:, None] + np.arange(one)
        for total, one, step in zip(size, window, stride, strict=True)
    )
