"""Masks as COCO writes them: run-length encoding (RLE), boxes and areas.

COCO reads a mask column by column and counts runs, beginning with zeros. The compressed form takes
from every count, from the fourth on, the count two before it, and writes the difference in base 32,
lowest digit first, one printable character for each digit: 5 bits, and a sixth if more follow.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from opvseg_jax.core.errors import UserError

FIRST_CHARACTER = 48  # "0"


def encode(mask: np.ndarray, *, is_compressed: bool = True) -> dict[str, Any]:
    """mask bool [H, W] -> {"size": [H, W], "counts": str, or a list of int if not compressed}."""
    if mask.ndim != 2:
        raise ValueError(f"expected a mask [H, W], got {list(mask.shape)}")
    counts = _runs(mask.astype(bool).ravel(order="F"))
    packed = compress(counts) if is_compressed else counts.tolist()
    return {"size": list(mask.shape), "counts": packed}


def encode_labels(labels: np.ndarray) -> dict[int, dict[str, Any]]:
    """labels int [H, W] -> the compressed RLE of every label >= 0 that is present.

    The runs of all labels are found in one pass, so many labels cost little more than one.
    """
    if labels.ndim != 2:
        raise ValueError(f"expected labels [H, W], got {list(labels.shape)}")
    flat = labels.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])[: flat.size]
    ends = np.concatenate([starts[1:], [flat.size]])[: starts.size]
    result = {}
    for label in np.unique(flat[starts]):
        if label < 0:
            continue
        mine = flat[starts] == label
        edges = np.stack([starts[mine], ends[mine]], axis=1).ravel()
        last = [flat.size] if edges[-1] < flat.size else []
        counts = np.diff(np.concatenate([[0], edges, last]).astype(np.int64))
        result[int(label)] = {"size": list(labels.shape), "counts": compress(counts)}
    return result


def decode(rle: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `encode`, for both forms. -> bool [H, W]."""
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        counts = decompress(counts)
    counts = np.asarray(counts, np.int64)
    if counts.sum() != height * width or (counts < 0).any():
        raise UserError(
            f"the run lengths add up to {counts.sum()}, expected {height} x {width} pixels"
        )
    values = np.arange(counts.size) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """mask bool [H, W] -> (x, y, width, height) in pixels; all zero if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def areas(labels: np.ndarray, count: int) -> np.ndarray:
    """labels int [H, W], -1 = nothing -> pixels of each label, int [count]."""
    return np.bincount(labels.ravel() + 1, minlength=count + 1)[1:]


def compress(counts: np.ndarray) -> str:
    """Run lengths -> COCO's string."""
    left = np.array(counts, np.int64)
    left[3:] -= np.asarray(counts, np.int64)[1:-2]
    digits, is_used = [], []
    more = np.ones(left.shape, bool)
    while more.any():
        is_used.append(more)
        digit = left & 31
        left >>= 5  # keeps the sign, so a negative number ends in -1
        more = more & np.where(digit & 16, left != -1, left != 0)
        digits.append(digit | (more << 5))
    characters = np.stack(digits, axis=1)[np.stack(is_used, axis=1)] + FIRST_CHARACTER
    return characters.astype(np.uint8).tobytes().decode("ascii")


def decompress(text: str | bytes) -> np.ndarray:
    """COCO's string -> run lengths int64."""
    raw = text.encode() if isinstance(text, str) else text
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - FIRST_CHARACTER
    is_last = (digits & 32) == 0
    if not digits.size or not is_last[-1] or digits.min() < 0 or digits.max() > 63:
        raise UserError("the compressed run lengths are cut short or hold foreign characters")
    first = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    length = np.diff(np.concatenate([first, [digits.size]]))
    if length.max() > 12:  # 60 bits
        raise UserError("the compressed run lengths hold a number beyond any image")
    place = np.arange(digits.size) - np.repeat(first, length)
    counts = np.add.reduceat((digits & 31) << (5 * place), first)
    is_negative = (digits[is_last] & 16) != 0
    counts = np.where(is_negative, counts - (1 << (5 * length)), counts)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def _runs(flat: np.ndarray) -> np.ndarray:
    """The lengths of the runs of a bool vector, the first one of zeros (perhaps of length 0)."""
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if flat.size and flat[0] else [0]
    return np.diff(np.concatenate([start, changes, [flat.size]]).astype(np.int64))
