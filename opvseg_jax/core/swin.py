"""Windows of Swin attention: cut, shift, mask, attend, put back.

Shapes: ... any leading axes, H W grid, V windows (row-major), n = window * window tokens of one,
K heads, D = C // K.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

BARRED = -100.0  # what the reference adds between tokens that a shift has brought together


def fit_window(grid: tuple[int, int], window: int, shift: int) -> tuple[int, int]:
    """The window and shift that a grid gets: one window over the shorter side needs no shift."""
    if min(grid) <= window:
        window, shift = min(grid), 0
    if grid[0] % window or grid[1] % window:
        raise ValueError(f"a grid of {grid[0]}x{grid[1]} is not made of windows of {window}")
    return window, shift


def cut_windows(x: jax.Array, window: int, shift: int = 0) -> jax.Array:
    """x [..., H, W, C] -> [..., V, n, C], rolled up and left by `shift` first."""
    *lead, height, width, c = x.shape
    if shift:
        x = jnp.roll(x, (-shift, -shift), axis=(-3, -2))
    x = x.reshape(*lead, height // window, window, width // window, window, c)
    return jnp.swapaxes(x, -4, -3).reshape(*lead, -1, window * window, c)


def join_windows(windows: jax.Array, grid: tuple[int, int], shift: int = 0) -> jax.Array:
    """The inverse: windows [..., V, n, C] -> [..., H, W, C]."""
    *lead, count, area, c = windows.shape
    window = round((grid[0] * grid[1] // count) ** 0.5)
    if count * area != grid[0] * grid[1] or window * window != area:
        raise ValueError(f"{count} windows of {area} tokens do not tile {grid[0]}x{grid[1]}")
    rows, columns = grid[0] // window, grid[1] // window
    x = windows.reshape(*lead, rows, columns, window, window, c)
    x = jnp.swapaxes(x, -4, -3).reshape(*lead, *grid, c)
    return jnp.roll(x, (shift, shift), axis=(-3, -2)) if shift else x


@functools.lru_cache(maxsize=64)
def shift_mask(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """What to add to the scores [V, n, n] of shifted windows: tokens of two bands do not meet."""
    rows, columns = (_bands(size, window, shift) for size in grid)
    label = 3 * rows[:, None] + columns[None, :]
    label = label.reshape(grid[0] // window, window, grid[1] // window, window)
    label = label.swapaxes(1, 2).reshape(-1, window * window)
    mask = np.where(label[:, :, None] == label[:, None, :], 0.0, BARRED).astype(np.float32)
    mask.setflags(write=False)
    return mask


def window_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: np.ndarray | None = None
) -> jax.Array:
    """softmax(q k^T / sqrt(D) + mask) v on [..., V, n, K, D], mask [V, n, n] -> [..., V, n, K, D].

    Scores and softmax are float32, or float64 if that comes in.
    """
    shape = query.shape
    if mask is None:
        flat = (x.reshape(-1, *shape[-3:]) for x in (query, key, value))
        return _attend(*flat).reshape(shape)
    flat = (x.reshape(-1, *shape[-4:]) for x in (query, key, value))
    bias = jnp.asarray(mask)[:, None, None]  # [V, 1, 1, n, n]
    attend = jax.vmap(_attend, in_axes=(1, 1, 1, 0), out_axes=1)  # every window has its own mask
    return attend(*flat, bias).reshape(shape)


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    bias = None if bias is None else bias.astype(query.dtype)
    if query.dtype != jnp.float64:
        return jax.nn.dot_product_attention(query, key, value, bias=bias)
    # That one's softmax is float32 always. Sharded steps are compared with one device in float64.
    logits = jnp.einsum("bmkd,bnkd->bkmn", query, key) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits if bias is None else logits + bias, axis=-1)
    return jnp.einsum("bkmn,bnkd->bmkd", weights, value)


def _bands(size: int, window: int, shift: int) -> np.ndarray:
    place = np.arange(size)
    return (place >= size - window).astype(int) + (place >= size - shift)
