"""The cost volume: how well every patch fits every sentence of every class.

Shapes: B images, T classes, P prompts of a class, E embedding, H W grid, C channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.layers import Conv
from opvseg_jax.core.shapes import dims


def cosine_costs(features: jax.Array, text: jax.Array) -> jax.Array:
    """features [B, H, W, E], text [B, T, P, E] -> cosines [B, T, H, W, P] in float32."""
    b, _, _, e = dims(features, "B H W E")
    dims(text, "B T P E", B=b, E=e)
    return jnp.einsum("bhwe,btpe->bthwp", unit(features), unit(text))


def own_cosine_costs(features: jax.Array, text: jax.Array) -> jax.Array:
    """The same where each class has features of its own: features [B, T, H, W, E]."""
    b, t, _, _, e = dims(features, "B T H W E")
    dims(text, "B T P E", B=b, T=t, E=e)
    return jnp.einsum("bthwe,btpe->bthwp", unit(features), unit(text))


def unit(x: jax.Array) -> jax.Array:
    """x / max(|x|, 1e-12) over the last axis, in float32; its gradient at zero is finite."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def best_classes(costs: jax.Array, mask: jax.Array, limit: int) -> jax.Array:
    """The `limit` classes of each image with the highest cost at any patch and prompt.

    costs [B, T, H, W, P], mask [B, T] -> indices [B, limit], real classes before masked ones.
    """
    b, t, *_ = dims(costs, "B T H W P")
    dims(mask, "B T", B=b, T=t)
    best = jnp.where(mask, costs.max(axis=(2, 3, 4)), -jnp.inf)
    return jax.lax.top_k(best, limit)[1]


class CostEmbedding(nnx.Module):
    """One convolution from the costs of a class to C channels, over the map of that class alone.

    `gain`: what costs are multiplied by before; cosines differ little from class to class.
    """

    def __init__(
        self, num_prompts: int, width: int, *, gain: float = 1.0, dtype=None, rngs: nnx.Rngs
    ):
        self.conv = Conv(num_prompts, width, 7, dtype=dtype, rngs=rngs)
        self.num_prompts, self.gain = num_prompts, gain

    def __call__(self, costs: jax.Array) -> jax.Array:
        """costs [B, T, H, W, P] -> [B, T, H, W, C]."""
        dims(costs, "B T H W P", P=self.num_prompts)
        return self.conv(costs if self.gain == 1.0 else self.gain * costs)
