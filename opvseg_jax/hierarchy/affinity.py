"""Which patches belong together, read from the features of a self-supervised encoder.

Shapes: B images, N patches, C channels.
"""

import jax
import jax.numpy as jnp

from opvseg_jax.core.shapes import dims


def feature_affinity(features: jax.Array, *, threshold: float = 1.2, scale: float = 3.0):
    """features [B, N, C] -> row-stochastic affinity [B, N, N].

    Cosines below `threshold` times their mean over the image are cut; the rest is a softmax with
    `scale` (the proxy attention of ProxyCLIP, Lan et al. 2024; its default constants).
    """
    dims(features, "B N C")
    x = features.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
    cosine = jnp.einsum("bnc,bmc->bnm", x, x)
    centred = (cosine - threshold * cosine.mean(axis=(1, 2), keepdims=True)) * scale
    # A patch always sees itself, whatever the threshold says.
    keep = (centred >= 0) | jnp.eye(x.shape[1], dtype=bool)
    return jax.nn.softmax(jnp.where(keep, centred, -jnp.inf), axis=-1)
