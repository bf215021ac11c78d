"""HOPS' losses: objects on logits, parts on the probabilities that were pasted together.

Shapes: B images, H W labels, O objects, S object-specific parts.
"""

import jax
import jax.numpy as jnp

from opvseg_jax.core.shapes import dims
from opvseg_jax.pipeline.targets import one_hot

WORST = 100.0  # PyTorch's bound of -log p


def pasted_part_loss(
    logits: jax.Array, covered: jax.Array, labels: jax.Array, mask: jax.Array
) -> jax.Array:
    """Mean cross-entropy of the probabilities of parts, which are 0 where no object was pasted.

    logits [B, H, W, S]; covered [B, H, W, S]: where a part's object was found; labels int
    [B, H, W], negative where there is no part; mask [S] of the real parts.

    A part outside of its object's mask costs 100, whatever the network says, and teaches nothing.
    On logits this is stable; log p of the pasted zeros would give gradients that are no numbers.
    """
    b, h, w, s = dims(logits, "B H W S")
    dims(covered, "B H W S", B=b, H=h, W=w, S=s)
    dims(labels, "B H W", B=b, H=h, W=w)
    wide = jnp.where(covered, logits.astype(jnp.float32), 0.0)
    positive = one_hot(labels, s) > 0
    inside = jnp.minimum(jax.nn.softplus(jnp.where(positive, -wide, wide)), WORST)
    each = jnp.where(covered, inside, jnp.where(positive, WORST, 0.0))
    each = each * mask.astype(jnp.float32)
    return each.sum() / jnp.maximum(b * h * w * mask.sum(), 1)
