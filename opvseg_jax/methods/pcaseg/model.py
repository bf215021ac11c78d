"""PCA-Seg: CAT-Seg with spatial and class aggregation side by side, and other encoders.

Shapes: B images, T classes, P prompts, E embedding, H W image, h w patches.
"""

import jax

from opvseg_jax.aggregation.cost_volume import unit
from opvseg_jax.aggregation.taps import Taps, record
from opvseg_jax.encoders.eva_clip import EvaVision
from opvseg_jax.methods.catseg.losses import segmentation_loss
from opvseg_jax.methods.catseg.model import CatSeg
from opvseg_jax.methods.pcaseg.losses import mean_overlap


class PcaSeg(CatSeg):
    """Its size says which encoder and how many experts; their batch norms hold state."""

    def losses(
        self,
        images: jax.Array,
        labels: jax.Array,
        text: jax.Array,
        mask: jax.Array | None = None,
        taps: Taps = None,
    ) -> dict[str, jax.Array]:
        """Each term, weighted: images [B, H, W, 3], labels [B, H, W], text [T, P, E], mask [T]."""
        taps = {} if taps is None else taps
        logits = self.train_logits(images, text, mask, taps)
        overlap = mean_overlap(taps["head"]["blocks"])
        return {
            "segmentation": segmentation_loss(logits, labels, mask),
            "orthogonality": self.size.orthogonality * overlap,
        }

    def _dense_and_hidden(self, views: jax.Array, taps: Taps) -> tuple[jax.Array, list[jax.Array]]:
        """Dense features [B, h, w, E], of unit norm here, and the streams for the decoder."""
        vision = self.clip.vision
        if not isinstance(vision, EvaVision):
            return super()._dense_and_hidden(views, taps)
        mode = self.size.clip.dense_mode
        dense, kept = vision.dense(views, mode=mode, hidden=self.size.hooks)
        dense = unit(dense).astype(dense.dtype)
        record(taps, "dense", dense)
        return dense, [kept[layer] for layer in self.size.hooks]
