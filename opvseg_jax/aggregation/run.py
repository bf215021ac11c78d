"""Walks through aggregation blocks, with all classes at once or exactly the same in chunks.

In chunks, memory grows with the chunk: beside it there are only the embedded costs (rewritten in
place, block by block), the summaries, and the result. Class attention needs every class, so each
block takes two passes over the chunks; the second of one block is the first of the next, and the
last pass decodes at once.

Shapes: B images, T classes, H W grid, C channels, G guidance channels.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.attention_kinds import Summary
from opvseg_jax.aggregation.blocks import Block, Classes, Mode
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.parallel.rules import constrain, missing_classes


def run_blocks(
    blocks: Sequence[Block],
    x: jax.Array,
    appearance: jax.Array,
    classes: Classes,
    mode: Mode,
    *,
    remat: bool = False,
    taps: Taps = None,
) -> jax.Array:
    """x [B, T, H, W, C], appearance [B, H, W, G] -> [B, T, H, W, C].

    With `remat`, the backward pass computes the inside of each block again instead of keeping it;
    of the taps there are then only those that are single numbers, which losses need.
    """

    def step(block: Block, x: jax.Array, here: Taps) -> jax.Array:
        prepared = block.prepare(x, appearance, here)
        summary = block.summarise(prepared, classes, mode)
        return block.finish(prepared, appearance, classes, summary, mode, here)

    x = constrain(x, "B T H W C")
    for index, block in enumerate(blocks):
        here = within(taps, f"block_{index}")
        x = _step_again(step, block, x, here) if remat else step(block, x, here)
        x = constrain(x, "B T H W C")
        record(here, "out", x)
    return x


def fill_classes(tree: Any, count: int) -> Any:
    """Arrays [B, T, ...] of `count` classes, filled up to what the mesh divides; masks with false.

    Without a mesh that is nothing. The results of the classes that are added are to be cut off.
    """
    extra = missing_classes(count)
    return _padded(tree, extra) if extra else tree


def _step_again(step: Callable[..., jax.Array], block: Block, x: jax.Array, here: Taps):
    """The step under `jax.checkpoint`; state that it moves has to leave it as a result."""
    graphdef, leaves = nnx.split(block)

    @jax.checkpoint
    def inside(leaves: nnx.State, x: jax.Array) -> tuple[jax.Array, dict, nnx.State]:
        block, found = nnx.merge(graphdef, leaves), {}
        y = step(block, x, found)
        numbers = {name: v for name, v in found.items() if not isinstance(v, dict) and not v.ndim}
        return y, numbers, nnx.state(block, nnx.BatchStat)

    y, numbers, statistics = inside(leaves, x)
    nnx.update(block, statistics)
    if here is not None:
        here |= numbers
    return y


class _Carry(NamedTuple):
    state: jax.Array  # [B, T, H, W, C]
    summary: Summary


def run_blocks_in_chunks(
    blocks: Sequence[Block],
    embed: Callable[[Any], jax.Array],
    sources: Any,
    appearance: jax.Array,
    classes: Classes,
    mode: Mode,
    *,
    chunk: int,
    decode: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """The same for `chunk` classes at a time: embed(sources) -> blocks -> decode, [B, T, ...].

    `sources` is any tree of arrays [B, T, ...]; `embed` turns those of a chunk into
    [B, chunk, H, W, C], and `decode` a chunk's [B, chunk, H, W, C] into what is wanted.
    """
    if mode.train:
        raise ValueError("batch statistics need all classes at once: train without chunks")
    total = classes.mask.shape[1]
    count = -(-total // chunk)
    sources, classes = _padded((sources, classes), count * chunk - total)
    starts = jnp.arange(count) * chunk

    def first(start: jax.Array) -> jax.Array:
        return blocks[0].prepare(embed(_cut(sources, start, chunk)), appearance)

    carry = _pass(blocks[0], first, None, classes, mode, starts, chunk)
    for block, after in itertools.pairwise(blocks):
        state, summary = carry

        def onwards(x, start, block=block, after=after, summary=summary):
            here = _cut(classes, start, chunk)
            return after.prepare(block.finish(x, appearance, here, summary, mode), appearance)

        carry = _pass(after, onwards, state, classes, mode, starts, chunk)

    def last(start: jax.Array) -> jax.Array:
        x, here = _cut((carry.state, classes), start, chunk)
        return decode(blocks[-1].finish(x, appearance, here, carry.summary, mode))

    pieces = jax.lax.map(last, starts)  # [chunks, B, chunk, ...]
    whole = jnp.moveaxis(pieces, 0, 1).reshape(pieces.shape[1], -1, *pieces.shape[3:])
    return whole[:, :total]


def _pass(
    block: Block,
    make: Callable[..., jax.Array],
    state: jax.Array | None,
    classes: Classes,
    mode: Mode,
    starts: jax.Array,
    chunk: int,
) -> _Carry:
    """Fills or rewrites the state chunk by chunk, and gathers what `block` makes of it."""
    total = classes.mask.shape[1]

    def visit(start: jax.Array, state: jax.Array | None) -> tuple[jax.Array, Summary]:
        x = make(start) if state is None else make(_cut(state, start, chunk), start)
        return x, block.summarise(x, _cut(classes, start, chunk), mode)

    shape, part = jax.eval_shape(visit, starts[0], state)
    summary = block.attention.empty(part, total)
    fresh = state is None
    if fresh:
        state = jnp.zeros((shape.shape[0], total, *shape.shape[2:]), shape.dtype)

    def step(index: jax.Array, carry: _Carry) -> _Carry:
        start = starts[index]
        x, part = visit(start, None if fresh else carry.state)
        whole = jax.lax.dynamic_update_slice_in_dim(carry.state, x, start, axis=1)
        return _Carry(whole, block.attention.gather(carry.summary, part, start))

    # A loop whose carry is rewritten in place: a scan would hold the state twice.
    return jax.lax.fori_loop(0, len(starts), step, _Carry(state, summary))


def _cut(tree: Any, start: jax.Array, chunk: int) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, chunk, axis=1), tree)


def _padded(tree: Any, extra: int) -> Any:
    """Classes that are not real, so that chunks are full: zeros, and false in the mask."""

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2))

    return jax.tree.map(pad, tree)
