"""Attention-aware filtering: of the attention, only what many layers agree on is let through.

A pair of patches gets a vote from every layer in which its attention lies above that layer's mean.
Where the votes suffice, the mean attention of the layers spreads the costs; elsewhere nothing does.

Shapes: B images, L layers, N = H * W patches, T classes, P prompts.
"""

import jax
import jax.numpy as jnp

from opvseg_jax.core.shapes import dims

PAPER_VOTES = 4  # of 12 layers
RELEASED_VOTES = 5  # the released program asks for more than 4


def votes(attention: jax.Array) -> jax.Array:
    """attention [B, L, N, N] -> in how many layers a pair lies above the mean, int [B, N, N]."""
    dims(attention, "B L N M")
    mean = attention.mean(axis=(-2, -1), keepdims=True)
    return jnp.sum(attention > mean, axis=1)


def keep_agreed(attention: jax.Array, *, at_least: int = PAPER_VOTES) -> jax.Array:
    """attention [B, L, N, N] without the pairs that fewer layers vote for."""
    return attention * (votes(attention) >= at_least)[:, None]


def filter_operator(
    attention: jax.Array, *, at_least: int = PAPER_VOTES, normalise: bool = False
) -> jax.Array:
    """attention [B, L, N, N] -> the mean over layers where the votes suffice, [B, N, N].

    With `normalise`, rows sum to one, and a patch without any such pair keeps its own costs. As
    published they do not: of fused attention little is left, and costs shrink by one or two orders
    of magnitude, which takes long to learn.
    """
    operator = attention.mean(axis=1) * (votes(attention) >= at_least)
    if not normalise:
        return operator
    total = operator.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, operator / jnp.maximum(total, 1e-30), jnp.eye(total.shape[-2]))


def spread_costs(operator: jax.Array, costs: jax.Array) -> jax.Array:
    """operator [B, N, N] times costs [B, T, H, W, P], for every class and prompt."""
    b, t, h, w, p = dims(costs, "B T H W P")
    dims(operator, "B N N", B=b, N=h * w)
    flat = costs.reshape(b, t, h * w, p)
    return jnp.einsum("bij,btjp->btip", operator.astype(flat.dtype), flat).reshape(costs.shape)


def filter_coarse(
    attention: jax.Array, probabilities: jax.Array, *, at_least: int = 7, margin: float = 0.2
) -> jax.Array:
    """The filter for coarse class probabilities [B, N, T] that the release holds and never calls.

    Beside the votes, a class counts at a patch only if it comes within `margin` of the best there.
    """
    operator = filter_operator(attention, at_least=at_least)
    return operator @ (probabilities * confident_classes(probabilities, margin=margin))


def confident_classes(probabilities: jax.Array, *, margin: float = 0.2) -> jax.Array:
    """probabilities [B, N, T] -> which classes come within `margin` of the best, bool."""
    return probabilities - probabilities.max(axis=-1, keepdims=True) > -margin
