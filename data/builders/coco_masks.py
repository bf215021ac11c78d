"""Masks of COCO annotations: polygons and run lengths, as the COCO tools draw them.

Letters: H W image size. Pixels are counted down the columns: position = x * H + y.
"""

import numpy as np
from opvseg_jax.data.builders.benchmark import SampleError

SCALE = 5  # polygons are traced on a grid this much finer, then reduced


def decode(segmentation, size: tuple[int, int]) -> np.ndarray | None:
    """bool [H, W], or None where no ring of the polygon has an area."""
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, size)
    rings = [ring for ring in segmentation if len(ring) >= 6 and len(ring) % 2 == 0]
    if not rings:
        return None
    return np.logical_or.reduce([_from_ring(np.asarray(ring, float), size) for ring in rings])


def _from_runs(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
    height, width = segmentation.get("size", size)
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        counts = _unpack(counts.encode() if isinstance(counts, str) else counts)
    if sum(counts) != height * width or (height, width) != tuple(size):
        raise SampleError(
            f"a run-length mask of {height} x {width} does not fit {size[0]} x {size[1]}"
        )
    values = np.arange(len(counts)) % 2 == 1  # runs alternate, beginning with background
    return np.repeat(values, counts).reshape(width, height).T


def _unpack(text: bytes) -> list[int]:
    """Numbers in groups of five bits, low first; from the third on, differences to two before."""
    counts: list[int] = []
    place = number = 0
    for byte in text:
        group = byte - 48
        number |= (group & 31) << place
        place += 5
        if not group & 32:
            if group & 16:
                number -= 1 << place
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            place = number = 0
    return counts


def _from_ring(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Even-odd fill below the outline: every crossing of a column toggles the rest of it."""
    height, width = size
    x, y = _outline(np.trunc(SCALE * ring.reshape(-1, 2) + 0.5).astype(np.int64))
    moves = np.flatnonzero(x[1:] != x[:-1])
    column = (np.minimum(x[moves + 1], x[moves + 1] - 1 + (x[moves + 1] < x[moves])) + 0.5) / SCALE
    column -= 0.5
    row = (np.minimum(y[moves], y[moves + 1]) + 0.5) / SCALE - 0.5
    keep = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    row = np.ceil(np.clip(row[keep], 0, height)).astype(np.int64)
    toggles = np.bincount(
        column[keep].astype(np.int64) * height + row, minlength=height * width + 1
    )
    inside = np.cumsum(toggles[: height * width]) % 2 == 1
    return inside.reshape(width, height).T


def _outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All grid points of the closed line through `corners` [K, 2], in order."""
    pieces = [
        _line(start, end) for start, end in zip(corners, np.roll(corners, -1, 0), strict=True)
    ]
    points = np.concatenate(pieces)
    return points[:, 0], points[:, 1]


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points [n, 2] from start to end, one for each step of the longer axis."""
    extent = np.abs(end - start)
    axis = 0 if extent[0] >= extent[1] else 1
    is_backward = start[axis] > end[axis]
    low, high = (end, start) if is_backward else (start, end)
    steps = np.arange(extent[axis] + 1)
    slope = (high[1 - axis] - low[1 - axis]) / extent[axis] if extent[axis] else 0.0
    points = np.empty((len(steps), 2), np.int64)
    points[:, axis] = low[axis] + steps
    # Rounded from the lower end in both directions, so that shared edges of two rings coincide.
    points[:, 1 - axis] = np.trunc(low[1 - axis] + slope * steps + 0.5).astype(np.int64)
    return points[::-1] if is_backward else points
