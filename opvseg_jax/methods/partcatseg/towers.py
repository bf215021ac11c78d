"""What PartCATSeg and HOPS are built on: CLIP, DINO, and a background that is not a word.

Shapes: O objects, K background words, T classes, P prompts, L tokens, E embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.cost_volume import unit
from opvseg_jax.core.errors import UserError
from opvseg_jax.core.shapes import dims
from opvseg_jax.methods.base import Method
from opvseg_jax.methods.partcatseg.losses import with_parts
from opvseg_jax.methods.partcatseg.sizes import PartCatSegSize
from opvseg_jax.text.features import TextFeatures


class ClipAndDino(Method):
    """CLIP for costs and words, DINO for guidance."""

    def __init__(self, size: PartCatSegSize, *, dtype=None, rngs: nnx.Rngs):
        self.clip = size.clip.build(dtype=dtype, rngs=rngs)
        rule = size.dino.original_rule
        self.dino = size.dino.build(position_rule=rule, dtype=dtype, rngs=rngs)
        width = size.clip.embed_dim
        self.background = nnx.Param(jax.random.normal(rngs.params(), (width,)) * width**-0.5)
        self.size = size

    def known(self, text: TextFeatures) -> TextFeatures:
        """The words as inference sees them: with the background, objects without parts or not."""
        text = self.with_background(text)
        if self.size.partless == "class" or not len(text.parts):
            return text
        return dataclasses.replace(text, object_mask=with_parts(text))

    def trained_on(self, text: TextFeatures) -> TextFeatures:
        """The words as training sees them: objects without parts are background."""
        if not len(text.parts):
            raise UserError("training needs a vocabulary with parts: none of its objects has any")
        text = self.with_background(text)
        return dataclasses.replace(text, object_mask=with_parts(text))

    def with_background(self, text: TextFeatures) -> TextFeatures:
        """The model's own vector becomes the first of the background words."""
        own = unit(self.background[...])
        own = jnp.broadcast_to(own, (1, text.objects.shape[1], len(own)))
        return dataclasses.replace(
            text,
            background=jnp.concatenate([own, text.background]),
            background_mask=jnp.concatenate([jnp.ones(1, bool), text.background_mask]),
        )

    def encode_tokens(self, tokens: jax.Array) -> jax.Array:
        """tokens int [T, P, L] -> unit norm [T, P, E]."""
        t, p, length = dims(tokens, "T P L")
        return unit(self.clip.text(tokens.reshape(t * p, length))).reshape(t, p, -1)
