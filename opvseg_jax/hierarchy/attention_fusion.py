"""Bidirectional fusion: CLIP knows what belongs together by meaning, DINO by structure.

Each of the two steers the other, and the two results are mixed. Attention is averaged over heads
and freed of its class token; rows are not made to sum to one again, before or after.

Shapes: B images, L layers, N patches, M patches of another grid.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims


def stack_layers(maps: Sequence[jax.Array], *, first: int = 1) -> jax.Array:
    """Maps [B, first + N, first + N] of L layers -> [B, L, N, N]: patches looking at patches."""
    return jnp.stack([x[:, first:, first:] for x in maps], axis=1)


def resize_attention(attention: jax.Array, num_patches: int) -> jax.Array:
    """attention [..., M, M] -> [..., N, N], each matrix resized as if it were an image.

    Neighbours in a row of the matrix are neighbours in a row of the grid alone; the reference
    does not mind, and for grids of like shape the blurred rows land near their places.
    """
    if attention.shape[-1] == num_patches:
        return attention
    return resize(attention[..., None], (num_patches, num_patches))[..., 0]


def fuse(
    clip: jax.Array, dino: jax.Array, *, alpha: float = 0.7, quantile: float = 0.95
) -> jax.Array:
    """clip, dino [B, L, N, N] -> alpha clip<-dino + (1 - alpha) dino<-clip, [B, L, N, N].

    clip<-dino is CLIP's attention weighted by a softmax of DINO's; as that is a softmax of numbers
    between 0 and 1, it is nearly uniform, and the term is about 1/N of CLIP's attention.
    dino<-clip is DINO's attention where CLIP's is among its largest (1 - quantile).
    alpha = 0.7 is the paper's; the released program computes alpha = 1 and drops the result.
    """
    b, layers, n, _ = dims(clip, "B L N M")
    dims(dino, "B L N N", B=b, L=layers, N=n)
    # The reference normalises over the queries, the first of the two axes.
    by_dino = clip * jax.nn.softmax(dino, axis=-2)
    by_clip = dino * (clip >= largest_threshold(clip, quantile)[..., None, None])
    return alpha * by_dino + (1 - alpha) * by_clip


def largest_threshold(attention: jax.Array, quantile: float = 0.95) -> jax.Array:
    """attention [B, L, N, N], not negative -> the k-th smallest entry of each matrix, [B, L].

    k = int(N N quantile), counted from 1.
    """
    b, layers, n, m = dims(attention, "B L N M")
    k = max(1, int(n * m * quantile))
    return kth_smallest(attention.reshape(b, layers, n * m), k)


def kth_smallest(values: jax.Array, k: int) -> jax.Array:
    """values [..., R], not negative -> the k-th smallest of each row, counted from 1; exact.

    Floats that are not negative are ordered as their bits are, so the bits of the answer are found
    one by one, the highest first: 31 counts instead of a sort, which is far slower on a CPU.
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)

    def step(index: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (1 << (30 - index))
        below = jnp.sum(bits < tried[..., None], axis=-1)
        return jnp.where(below < k, tried, found)

    start = jnp.zeros(values.shape[:-1], jnp.int32)
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, step, start), jnp.float32)
