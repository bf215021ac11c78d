"""What every method is: images and words in, scores for objects and parts out."""

import dataclasses

import jax
from flax import nnx

from opvseg_jax.text.features import TextFeatures


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """Probabilities of one batch at the method's own resolution; the last channel is "none".

    objects [B, H, W, O + 1] and parts [B, H, W, T + 1]; either may be absent. dropped [B]: how many
    objects of an image were found but not looked at for parts, because a method's slots were full.
    """

    objects: jax.Array | None
    parts: jax.Array | None
    dropped: jax.Array | None = None


class Method(nnx.Module):
    """A segmentation method. It knows nothing of data sets, files, devices and meshes."""

    def __call__(
        self, images: jax.Array, text: TextFeatures, valid: jax.Array | None = None
    ) -> Outputs:
        """images [B, H, W, 3] RGB in 0..255, valid [B, H, W] true where there is no padding."""
        raise TypeError(f"{type(self).__name__} does not define __call__")
