"""The published variants of PCA-Seg, and what trains in them.

Source: PixelSegTech/PCA-Seg at commit 59c90ea; encoders from xiaomoguhz/DeCLIP at 2c0b3de.
"""

import dataclasses

from opvseg_jax.encoders.eva_clip import EVA_CLIP, EvaClipSize
from opvseg_jax.encoders.sizes import CLIP, ClipSize
from opvseg_jax.methods.catseg import sizes as catseg
from opvseg_jax.methods.catseg.sizes import CatSegSize, published

PAPER_WEIGHT, CODE_WEIGHT = 0.01, 0.001


@dataclasses.dataclass(frozen=True)
class PcaSegSize(CatSegSize):
    """`orthogonality` weighs the term that keeps the two streams apart.

    Paper: 0.01, and its own ablation is 0.7 better with it than with the 0.001 of the code.
    """

    orthogonality: float = PAPER_WEIGHT


def of_catseg(size: CatSegSize) -> PcaSegSize:
    """The same with nothing more said."""
    fields = {field.name: getattr(size, field.name) for field in dataclasses.fields(size)}
    return PcaSegSize(**fields)


def tiny(clip: ClipSize | EvaClipSize, image_size: int = 128) -> PcaSegSize:
    """A variant for PartWorld on a small CLIP: one layer, which is two blocks, of two experts."""
    return of_catseg(catseg.tiny(clip, image_size, num_experts=2, num_layers=1))


def _parallel(clip: ClipSize | EvaClipSize, image_size: int, hooks: tuple[int, int]) -> PcaSegSize:
    return of_catseg(published(clip, image_size, hooks, num_experts=4))


SIZES = {
    "B/16": _parallel(EVA_CLIP["EVA02-B/16"], 384, (3, 7)),
    "L/14@336": _parallel(EVA_CLIP["EVA02-L/14@336"], 336, (7, 15)),
    "openai-B/16": _parallel(CLIP["B/16"], 384, (3, 7)),
    "openai-L/14@336": _parallel(CLIP["L/14@336"], 336, (7, 15)),
}

# Ordered tables over leaf paths, the first match counts. With EVA-02-CLIP the text tower's keys
# train too, as they share a packed matrix with queries and values; on OpenAI's CLIP they do not.
LEARNING_RATES = (
    (r"clip/vision/blocks/\d+/attention/(query|value)/kernel", 0.01),
    (r"clip/text/blocks/\d+/attention/(query|key|value)/kernel", 0.01),
    (r"clip/.*", 0.0),
    (r".*", 1.0),
)
OPENAI_LEARNING_RATES = catseg.LEARNING_RATES
WEIGHT_DECAY = catseg.WEIGHT_DECAY  # the norms it names include those of the experts
