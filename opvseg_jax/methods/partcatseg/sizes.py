"""The published variant of PartCATSeg, what trains in it, and how others are derived.

Source: kaist-cvml/part-catseg at commit 4a9a882.
"""

import dataclasses

from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.encoders.sizes import CLIP, DINOV2_SIZES, ClipSize, DinoSize


@dataclasses.dataclass(frozen=True)
class PartCatSegSize:
    """Everything about a model but its numbers.

    `image_size` and `dino_size`: what CLIP and DINO get. `pooling` of the class layer is the same
    in training and inference. `partless`: whether an object without parts is a "class" of its own
    when segmenting or, as in the reference and always in training, "background".
    `undo_padding`: images are filled up to multiples of 32; the reference stretches the scores of
    what is then seen over the image, which shifts them by up to 31 pixels.
    """

    clip: ClipSize
    dino: DinoSize
    head: HeadSize
    image_size: int = 384
    dino_size: int = 448
    pooling: tuple[int, int] = (2, 2)
    partless: str = "class"
    undo_padding: bool = True
    templates: str = "imagenet80"
    background_weight: float = 0.05  # of the background among the classes of a loss

    def __post_init__(self):
        if self.partless not in ("class", "background"):
            raise ValueError(f"partless must be class or background, got {self.partless!r}")


def part_head(clip: ClipSize, dino: DinoSize, **changes) -> HeadSize:
    """An aggregator that costs are made for by `clip` and that `dino` guides."""
    width = dino.tower.width
    size = HeadSize(
        embed_dim=clip.embed_dim,
        num_prompts=80,
        appearance_in=width,
        decoder_in=(width, width),
        attention="query",  # the published configuration says linear; the code does not read it
        class_limit=0,
    )
    return dataclasses.replace(size, **changes)


def published(clip: ClipSize, dino: DinoSize, image_size: int) -> PartCatSegSize:
    """A variant on these encoders with the published sizes of everything else."""
    return PartCatSegSize(clip, dino, part_head(clip, dino), image_size)


SIZES = {"B/16": published(CLIP["B/16"], DINOV2_SIZES["S/14"], 384)}


def tiny_head(clip: ClipSize, dino: DinoSize, image_size: int = 128, **changes) -> HeadSize:
    """A small aggregator for the four sentences of PartWorld: one layer, one step up."""
    small = {
        "num_prompts": 4,
        "hidden": 32,
        "num_layers": 1,
        "window": image_size // clip.patch_size // 2,
        "text_guidance": 32,
        "appearance": 32,
        "cost_gain": 10.0,
        "decoder": (16,),
        "decoder_in": (dino.tower.width,),
        "decoder_guidance": (8,),
    }
    return part_head(clip, dino, **(small | changes))


def tiny(clip: ClipSize, dino: DinoSize, image_size: int = 128) -> PartCatSegSize:
    """A variant for PartWorld on small encoders, that trains in minutes on a CPU."""
    head = tiny_head(clip, dino, image_size)
    sides = {"image_size": image_size, "dino_size": image_size}
    return PartCatSegSize(clip, dino, head, **sides, templates="partworld", background_weight=0.5)


# Leaves that begin as copies of others: the second pass as the first.
SAME_START = (
    (r"head/part_embedding/(.*)", r"head/embedding/\1"),
    (r"head/part_layers/(.*)", r"head/layers/\1"),
)

# Ordered tables over leaf paths, the first match counts. Learning rates are factors of the base
# rate; 0 freezes. The background vector never moved in the reference: its features were made
# without a gradient.
LEARNING_RATES = (
    (r"clip/.*", 0.0),
    (r"background", 0.0),
    (r"dino/.*", 0.01),
    (r".*", 1.0),
)
# LayerScale, biases, tokens and positions do decay.
WEIGHT_DECAY = (
    (r"(dino|head)/.*norm(\d|_post)?/(scale|bias)", 0.0),
    (r".*", 1e-4),
)
