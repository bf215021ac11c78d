"""PCA-Seg for parts: PartCATSeg with spatial and class aggregation side by side.

The authors published figures of this variant and neither its code nor its settings. What is here is
our inference: in both of PartCATSeg's stacks every layer becomes PCA-Seg's pair of parallel blocks,
the class attention stays PartCATSeg's, and the term that keeps the streams apart is a mean over the
blocks of both stacks.

Shapes: B images, H W canvas.
"""

import dataclasses

import jax

from opvseg_jax.aggregation.taps import Taps
from opvseg_jax.encoders.sizes import ClipSize, DinoSize
from opvseg_jax.methods.catseg.port import CLASS_LAYER
from opvseg_jax.methods.partcatseg import port as partcatseg_port
from opvseg_jax.methods.partcatseg import sizes as partcatseg
from opvseg_jax.methods.partcatseg.model import PartCatSeg
from opvseg_jax.methods.partcatseg.sizes import PartCatSegSize
from opvseg_jax.methods.pcaseg.losses import mean_overlap
from opvseg_jax.methods.pcaseg.port import parallel_layer
from opvseg_jax.methods.pcaseg.sizes import PAPER_WEIGHT
from opvseg_jax.text.features import TextFeatures


@dataclasses.dataclass(frozen=True)
class PcaSegPartsSize(PartCatSegSize):
    """`orthogonality` weighs the term that keeps the two streams apart."""

    orthogonality: float = PAPER_WEIGHT


class PcaSegParts(PartCatSeg):
    """Its size says how many experts; their batch norms hold state, moved by a training step."""

    def losses(
        self,
        images: jax.Array,
        object_map: jax.Array,
        part_map: jax.Array,
        text: TextFeatures,
        taps: Taps = None,
    ) -> dict[str, jax.Array]:
        """PartCATSeg's terms and `orthogonality`, weighted. images [B, H, W, 3], maps [B, H, W]."""
        taps = {} if taps is None else taps
        terms = super().losses(images, object_map, part_map, text, taps)
        blocks = {
            f"{name}/{index}": block
            for name in ("first", "second")
            for index, block in taps[name]["layers"].items()
        }
        return terms | {"orthogonality": self.size.orthogonality * mean_overlap(blocks)}


def of_partcatseg(size: PartCatSegSize, num_experts: int = 4) -> PcaSegPartsSize:
    """The same with parallel blocks."""
    fields = {field.name: getattr(size, field.name) for field in dataclasses.fields(size)}
    fields["head"] = dataclasses.replace(size.head, num_experts=num_experts)
    return PcaSegPartsSize(**fields)


def tiny(clip: ClipSize, dino: DinoSize, image_size: int = 128) -> PcaSegPartsSize:
    """A variant for PartWorld on small encoders: a layer in each stack, of two experts."""
    return of_partcatseg(partcatseg.tiny(clip, dino, image_size), num_experts=2)


SAME_START = partcatseg.SAME_START
SIZES = {name: of_partcatseg(size) for name, size in partcatseg.SIZES.items()}

# Ordered tables over leaf paths, the first match counts. The paper says that CLIP's queries and
# values are tuned. Those of the text tower are not here: with 80 sentences for every part it would
# have to read some 14,000 of them in every step.
LEARNING_RATES = (
    (r"clip/vision/blocks/\d+/attention/(query|value)/kernel", 0.01),
    *partcatseg.LEARNING_RATES,
)
WEIGHT_DECAY = partcatseg.WEIGHT_DECAY  # the norms it names include those of the experts

# No checkpoint was published: the names are those that PCA-Seg's layers have, put where PartCATSeg
# has its own.
HEAD = partcatseg_port.head_rules(parallel_layer(CLASS_LAYER))
RULES = partcatseg_port.model_rules(HEAD)
