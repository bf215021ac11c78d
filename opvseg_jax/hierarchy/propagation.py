"""Affinity-guided enhancement: responses of parts spread to patches that belong together.

Shapes: B images, L layers, N = H * W patches, T classes, P prompts.
"""

import dataclasses

import jax
import jax.numpy as jnp

from opvseg_jax.core.shapes import dims
from opvseg_jax.hierarchy.consistency import spread_costs


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Propagation starts from boxes around each class's best patches.

    A guess at what the paper does with its two thresholds, gamma = 0.45 and sigma = 0.1; no
    recorded run exists. A class whose boxes cover less than `small` of the patches starts from all.
    """

    threshold: float = 0.45
    small: float = 0.1


def doubly_stochastic(matrix: jax.Array, sweeps: int = 5) -> jax.Array:
    """matrix [..., N, N], not negative: in turn, rows and columns are divided by their sums.

    After the last sweep columns sum to one, rows nearly.
    """
    for _ in range(sweeps):
        for axis in (-1, -2):
            matrix = matrix / jnp.maximum(matrix.sum(axis=axis, keepdims=True), 1e-30)
    return matrix


def attention_affinity(attention: jax.Array, sweeps: int = 5) -> jax.Array:
    """attention [B, L, N, N] -> the symmetric affinity of the mean over layers, [B, N, N]."""
    dims(attention, "B L N M")
    stochastic = doubly_stochastic(attention.mean(axis=1), sweeps)
    return (stochastic + stochastic.swapaxes(-1, -2)) / 2


def propagate(
    affinity: jax.Array, costs: jax.Array, *, steps: int = 1, seeds: Seeds | None = None
) -> jax.Array:
    """costs [B, T, H, W, P] multiplied `steps` times by affinity [B, N, N].

    With `seeds`, a class hears only the patches of its boxes, which are found once, beforehand.
    """
    if seeds is None:
        for _ in range(steps):
            costs = spread_costs(affinity, costs)
        return costs
    region = seed_regions(jax.lax.stop_gradient(costs), seeds)[..., None]  # [B, T, H, W, 1]
    for _ in range(steps):
        costs = spread_costs(affinity, costs * region)
    return costs


def seed_regions(costs: jax.Array, seeds: Seeds) -> jax.Array:
    """costs [B, T, H, W, P] -> the patches from which each class spreads, bool [B, T, H, W]."""
    _, _, h, w, _ = dims(costs, "B T H W P")
    scores = costs.mean(axis=-1)
    low = scores.min(axis=(-2, -1), keepdims=True)
    span = scores.max(axis=(-2, -1), keepdims=True) - low
    region = inside_boxes(above_share((scores - low) / jnp.maximum(span, 1e-12), seeds.threshold))
    is_small = region.sum(axis=(-2, -1), keepdims=True) < seeds.small * h * w
    return region | is_small


def above_share(scores: jax.Array, share: float) -> jax.Array:
    """scores [..., H, W] in 0..1 -> where they exceed a share of the largest, bool.

    In steps of 1/255, both sides rounded down, as the helper in the release has it.
    """
    levels = jnp.floor(scores * 255)
    largest = levels.max(axis=(-2, -1), keepdims=True)
    return levels > jnp.floor(share * largest)


def inside_boxes(mask: jax.Array) -> jax.Array:
    """mask [..., H, W] bool -> the union of the boxes around its connected components, bool.

    As in the release, a box ends before the last row and column of the map.
    """
    *_, h, w = mask.shape
    boxes = component_boxes(mask).reshape(*mask.shape[:-2], h * w, 1, 1, 4)
    top, left, bottom, right = jnp.moveaxis(boxes, -1, 0)
    y, x = jnp.arange(h)[:, None], jnp.arange(w)
    within = (y >= top) & (x >= left)
    within &= (y < jnp.minimum(bottom, h - 1)) & (x < jnp.minimum(right, w - 1))
    return (within & mask.reshape(*mask.shape[:-2], h * w, 1, 1)).any(axis=-3)


def component_boxes(mask: jax.Array, *, diagonal: bool = True) -> jax.Array:
    """mask [..., H, W] bool -> the box of each pixel's connected component, int [..., H, W, 4].

    (top, left, bottom, right) as edges; what lies outside the mask means nothing. Neighbours tell
    one another their boxes until nothing changes.
    """
    *_, h, w = mask.shape
    y, x = jnp.mgrid[:h, :w]
    start = jnp.stack([-y, -x, y + 1, x + 1], axis=-1)  # all four grow
    nothing = -(h + w)
    start = jnp.where(mask[..., None], start, nothing)

    def listen(boxes: jax.Array) -> jax.Array:
        rows, columns = _largest_of_three(boxes, -3, nothing), _largest_of_three(boxes, -2, nothing)
        both = _largest_of_three(rows, -2, nothing) if diagonal else jnp.maximum(rows, columns)
        return jnp.where(mask[..., None], both, nothing)

    def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        boxes, _ = carry
        wider = listen(boxes)
        return wider, jnp.any(wider != boxes)

    boxes, _ = jax.lax.while_loop(lambda carry: carry[1], step, (start, jnp.any(mask)))
    return boxes * jnp.array([-1, -1, 1, 1])


def _largest_of_three(x: jax.Array, axis: int, nothing: int) -> jax.Array:
    """Of each entry and its two neighbours along `axis`."""
    size = x.shape[axis]
    ends = [(0, 0)] * x.ndim
    ends[axis] = (1, 1)
    padded = jnp.pad(x, ends, constant_values=nothing)
    parts = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3))
    first, second, third = parts
    return jnp.maximum(jnp.maximum(first, second), third)
