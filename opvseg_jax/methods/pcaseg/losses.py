"""Feature orthogonalisation: the two streams of a parallel block should say different things."""

from collections.abc import Mapping

import jax


def mean_overlap(blocks: Mapping[str, Mapping]) -> jax.Array:
    """Mean over the blocks' taps of the mean squared cosine between their two streams.

    Every layer has as many blocks, so that this is the reference's mean over layers of means over
    a layer's blocks.
    """
    return sum(block["overlap"] for block in blocks.values()) / len(blocks)


def similarity(blocks: Mapping[str, Mapping]) -> jax.Array:
    """The mean cosine, summed over blocks and halved: watched by the reference, not trained on.

    A layer has two blocks: their sum halved is the layer's mean; layers are summed, and halved.
    """
    return sum(block["cosine"] for block in blocks.values()) / 4
