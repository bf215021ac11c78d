"""Learned words around a class name, as DeOP and its ancestors train them for a frozen CLIP.

Shapes: T classes, L context, C channels, P learned vectors before the name, S after it.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.shapes import dims
from opvseg_jax.encoders.clip_text import ClipText


class TextPrompts(nnx.Module):
    """[start][prefix x P][name][suffix x S][full stop][end][pad ...] up to the context."""

    def __init__(self, width: int, num_prefix: int, num_suffix: int = 0, *, rngs: nnx.Rngs):
        def learned(rows: int) -> nnx.Param | None:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, width)))

        self.prefix = learned(num_prefix) if num_prefix else None
        self.suffix = learned(num_suffix) if num_suffix else None
        self.num_prefix, self.num_suffix, self.width = num_prefix, num_suffix, width

    def __call__(
        self, text: ClipText, names: jax.Array, *, full_stop: int, pad: int = 0
    ) -> tuple[jax.Array, jax.Array]:
        """names int [T, L'], tokenised with start and end -> embeddings [T, L, C], end [T].

        `full_stop` and `pad` are token ids. Names that leave no room are cut.
        """
        t, _ = dims(names, "T L")
        p, s, context = self.num_prefix, self.num_suffix, text.context
        end = text.end_of(names)
        length = jnp.minimum(end - 1, context - p - s - 3)[:, None]
        place = jnp.broadcast_to(jnp.arange(context), (t, context))

        word = jnp.clip(place - p, 0, names.shape[1] - 1)
        stop = 1 + p + length + s  # where the full stop stands
        ids = jnp.take_along_axis(names, word, axis=1)
        ids = jnp.where(place == 0, names[:, :1], ids)
        ids = jnp.where(place == stop, full_stop, ids)
        ids = jnp.where(place == stop + 1, jnp.take_along_axis(names, end[:, None], axis=1), ids)
        embeddings = text.embed(jnp.where(place > stop + 1, pad, ids))
        embeddings = _put(embeddings, self.prefix, place - 1)
        embeddings = _put(embeddings, self.suffix, place - (stop - s))
        return embeddings, stop[:, 0] + 1


def _put(embeddings: jax.Array, learned: nnx.Param | None, row: jax.Array) -> jax.Array:
    """embeddings [T, L, C] with `learned` [R, C] wherever row [T, L] is one of its rows."""
    if learned is None:
        return embeddings
    rows = learned[...]
    chosen = rows[jnp.clip(row, 0, len(rows) - 1)]
    inside = (row >= 0) & (row < len(rows))
    return jnp.where(inside[..., None], chosen, embeddings)
