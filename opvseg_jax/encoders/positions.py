"""Positional tables of a square training grid, resized to the grid of an image.

Published systems differ in four ways, and each difference moves features visibly: the rule is part
of a checkpoint's meaning.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims


@dataclasses.dataclass(frozen=True)
class PositionRule:
    """How a table is resized.

    `offset` is added to the target size before the scale is taken (an old safeguard against
    rounding that DINOv2's published weights were trained with).
    `keep` says when the table is used as stored: "same_grid" or "same_count" of tokens.
    """

    method: str = "bicubic"
    antialias: bool = False
    offset: float = 0.0
    keep: str = "same_grid"

    def __post_init__(self):
        if self.keep not in ("same_grid", "same_count"):
            raise ValueError(f"keep must be same_grid or same_count, got {self.keep!r}")


HUGGINGFACE = PositionRule()
DEOP = PositionRule(keep="same_count")
DINOV2 = PositionRule(offset=0.1)
DINOV2_REGISTERS = PositionRule(antialias=True)


def resize_positions(table: jax.Array, grid: tuple[int, int], rule: PositionRule) -> jax.Array:
    """table [1 + M * M, C], class token first -> [1 + h * w, C]."""
    rows, width = dims(table, "R C")
    side = math.isqrt(rows - 1)
    if side * side != rows - 1:
        raise ValueError(f"expected 1 + a square number of rows, got {rows}")
    h, w = grid
    if grid == (side, side) or (rule.keep == "same_count" and h * w == side * side):
        return table
    scale = ((h + rule.offset) / side, (w + rule.offset) / side) if rule.offset else None
    patches = table[1:].reshape(side, side, width).astype(jnp.float32)
    patches = resize(patches, grid, method=rule.method, antialias=rule.antialias, scale=scale)
    return jnp.concatenate([table[:1], patches.reshape(h * w, width).astype(table.dtype)])
