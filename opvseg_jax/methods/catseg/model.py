"""CAT-Seg: the cosines of patches and classes, refined by looking around and at one another.

CLIP's dense features give the cost volume and steer the spatial aggregation; two of its middle
layers guide the decoder.

Shapes: B images, T classes, O objects, K background words, P prompts, L tokens, E embedding,
H W image, h w patches, C width of CLIP.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.aggregation.cost_volume import unit
from opvseg_jax.aggregation.head import CostHead
from opvseg_jax.aggregation.layers import Upsample
from opvseg_jax.aggregation.taps import Taps, record, within
from opvseg_jax.core.image import resize
from opvseg_jax.core.shapes import dims
from opvseg_jax.encoders.severance import Gps
from opvseg_jax.methods.base import Method, Outputs
from opvseg_jax.methods.catseg import predict
from opvseg_jax.methods.catseg.losses import segmentation_loss
from opvseg_jax.methods.catseg.sizes import CatSegSize
from opvseg_jax.text.features import TextFeatures


class ImageFeatures(NamedTuple):
    """dense [B, h, w, E], and the guidance: dense, [B, 2h, 2w, A1], [B, 4h, 4w, A2]."""

    dense: jax.Array
    pyramid: tuple[jax.Array, jax.Array, jax.Array]


class CatSeg(Method):
    """Text features or, to train the text tower with it, token ids in their place: both do."""

    def __init__(self, size: CatSegSize, *, dtype=None, rngs: nnx.Rngs):
        self.clip = self._build_clip(size, dtype=dtype, rngs=rngs)
        first, second = size.head.decoder_in
        width = size.clip.vision.width
        self.upsample = nnx.List(
            [
                Upsample(width, first, 2, dtype=dtype, rngs=rngs),
                Upsample(width, second, 4, dtype=dtype, rngs=rngs),
            ]
        )
        self.head = CostHead(size.head, dtype=dtype, rngs=rngs)
        self.size = size

    def __call__(
        self, images: jax.Array, text: TextFeatures, valid: jax.Array | None = None
    ) -> Outputs:
        """images [B, H, W, 3] in 0..255, valid [B, H, W] -> scores at the size of the canvas.

        Objects and object-specific parts are two vocabularies for the same weights. Background
        words, if there are any, compete with both: the best of them is the last channel.
        """
        text = self.embed(text)
        objects = self._scores(images, text.objects, text.object_mask, text, valid)
        if not text.parts.shape[0]:
            return Outputs(objects, None)
        return Outputs(objects, self._scores(images, text.parts, text.part_mask, text, valid))

    def loss(
        self, batch: Mapping[str, jax.Array], text: TextFeatures
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss and metrics of batch image [B, H, W, 3], object_map and part_map int [B, H, W].

        Parts are trained if the vocabulary has any. Batch statistics, where a descendant has
        them, are moved inside the module: read its state afterwards.
        """
        text = self.embed(text)
        losses = self.losses(batch["image"], batch["object_map"], text.objects, text.object_mask)
        if text.parts.shape[0]:
            more = self.losses(batch["image"], batch["part_map"], text.parts, text.part_mask)
            losses |= {f"{name}_parts": value for name, value in more.items()}
        total = sum(losses.values())
        return total, losses | {"loss": total}

    def losses(
        self,
        images: jax.Array,
        labels: jax.Array,
        text: jax.Array,
        mask: jax.Array | None = None,
        taps: Taps = None,
    ) -> dict[str, jax.Array]:
        """Each term, weighted: images [B, H, W, 3], labels [B, H, W], text [T, P, E], mask [T]."""
        logits = self.train_logits(images, text, mask, taps)
        return {"segmentation": segmentation_loss(logits, labels, mask)}

    def train_logits(
        self, images: jax.Array, text: jax.Array, mask: jax.Array | None, taps: Taps = None
    ) -> jax.Array:
        """images [B, H, W, 3] in 0..255 -> logits [B, T, 4h, 4w]."""
        mode = Mode(self.size.train_pooling, train=True)
        views = predict.whole(images, self.size.image_size)
        logits = self.logits(views, text, mask, mode, taps)
        record(taps, "logits", logits)
        return logits

    def logits(
        self,
        views: jax.Array,
        text: jax.Array,
        mask: jax.Array | None,
        mode: Mode,
        taps: Taps = None,
    ) -> jax.Array:
        """views [B, S, S, 3] normalised, text [T, P, E], mask [T] -> logits [B, T, 4h, 4w]."""
        record(taps, "views", views)
        features = self.encode_images(views, taps)
        return self.head(
            features.dense,
            text[None],
            features.pyramid,
            mode,
            mask=None if mask is None else mask[None],
            taps=within(taps, "head"),
        )

    def encode_images(self, views: jax.Array, taps: Taps = None) -> ImageFeatures:
        """views [B, S, S, 3] normalised -> features and guidance."""
        dense, hidden = self._dense_and_hidden(views, taps)
        b, h, w, _ = dense.shape
        grids = [x[:, 1:].reshape(b, h, w, -1) for x in hidden]
        fine = [up(grid) for up, grid in zip(self.upsample, grids, strict=True)]
        record(taps, "hidden", grids)
        record(taps, "upsampled", fine)
        return ImageFeatures(dense, (dense, *fine))

    def embed(self, text: TextFeatures) -> TextFeatures:
        """Token ids [.., P, L] become unit-norm embeddings [.., P, E]; embeddings stay."""
        names = ("objects", "parts", "background")
        tokens = {name: getattr(text, name) for name in names}
        changed = {
            name: self.encode_tokens(value)
            for name, value in tokens.items()
            if jnp.issubdtype(value.dtype, jnp.integer)
        }
        return dataclasses.replace(text, **changed) if changed else text

    def encode_tokens(self, tokens: jax.Array) -> jax.Array:
        """tokens int [T, P, L] -> unit norm [T, P, E]."""
        t, p, length = dims(tokens, "T P L")
        if not t:
            return jnp.zeros((0, p, self.size.clip.embed_dim))
        return unit(self.clip.text(tokens.reshape(t * p, length))).reshape(t, p, -1)

    def predict(
        self, images: jax.Array, text: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:
        """images [B, H, W, 3] in 0..255, text [T, P, E] -> scores [B, y, x, T] of the canvas."""
        size, mode = self.size, Mode(self.size.test_pooling)

        def score(views: jax.Array) -> jax.Array:
            return self.logits(views, text, mask, mode)

        if size.sliding is None:
            return predict.plain(score, images, size.image_size)
        return predict.sliding(score, images, size.image_size, size.sliding)

    def _scores(
        self,
        images: jax.Array,
        names: jax.Array,
        real: jax.Array,
        text: TextFeatures,
        valid: jax.Array | None,
    ) -> jax.Array:
        """Scores [B, y, x, T + 1] of names [T, P, E]; the last channel is background."""
        words = jnp.concatenate([names, text.background])
        mask = jnp.concatenate([real, text.background_mask])
        scores = jnp.where(mask, self.predict(images, words, mask), 0.0)
        named, rest = jnp.split(scores, [names.shape[0]], axis=-1)
        rest = rest.max(axis=-1, keepdims=True, initial=0.0)
        scores = jnp.concatenate([named, rest], axis=-1)
        if valid is None:
            return scores
        inside = resize(valid[..., None].astype(jnp.float32), scores.shape[1:3]) > 0.5
        return jnp.where(inside, scores, jnp.zeros(scores.shape[-1]).at[-1].set(1.0))

    def _build_clip(self, size: CatSegSize, *, dtype, rngs: nnx.Rngs) -> nnx.Module:
        return size.clip.build(dtype=dtype, rngs=rngs)

    def _dense_and_hidden(self, views: jax.Array, taps: Taps) -> tuple[jax.Array, list[jax.Array]]:
        """Dense features [B, h, w, E] and the streams [B, 1 + N, C] that guide the decoder."""
        vision, last = self.clip.vision, self.size.clip.vision.num_layers - 1
        encoded = vision.encode(
            views, severance={last: Gps(residual="class")}, hidden=self.size.hooks
        )
        tokens = vision.project(encoded.tokens)
        record(taps, "dense_tokens", tokens)
        _, dense = vision.split(tokens, vision.grid(views))
        return dense, [encoded.hidden[layer] for layer in self.size.hooks]
