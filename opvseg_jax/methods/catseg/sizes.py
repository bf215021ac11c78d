"""The published variants of CAT-Seg, what trains in them, and a size for PartWorld.

Source: cvlab-kaist/CAT-Seg at commit 6d3a188.
"""

import dataclasses

from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.encoders.sizes import CLIP, ClipSize


@dataclasses.dataclass(frozen=True)
class Sliding:
    """Inference at a larger scale: overlapping windows of the canvas, and all of it at once."""

    canvas: int = 640
    window: int = 384
    stride: int = 256


@dataclasses.dataclass(frozen=True)
class CatSegSize:
    """Everything about a model but its numbers.

    `image_size`: what CLIP gets; `hooks`: the blocks whose output guides the decoder.
    `pooling` of the class layer while training is published as 2x2, and as none for inference.
    """

    clip: ClipSize | EvaClipSize
    head: HeadSize
    image_size: int
    hooks: tuple[int, int]
    train_pooling: tuple[int, int] = (2, 2)
    test_pooling: tuple[int, int] = (1, 1)
    sliding: Sliding | None = Sliding()
    template: str = "A photo of a {} in the scene"


def published(
    clip: ClipSize | EvaClipSize, image_size: int, hooks: tuple[int, int], **head
) -> CatSegSize:
    """A published variant on this CLIP."""
    size = HeadSize(embed_dim=clip.embed_dim, appearance_in=clip.embed_dim, **head)
    return CatSegSize(clip, size, image_size, hooks)


SIZES = {
    "B/16": published(CLIP["B/16"], 384, (3, 7)),
    "L/14@336": published(CLIP["L/14@336"], 336, (7, 15)),
}


def tiny(clip: ClipSize | EvaClipSize, image_size: int = 128, **head) -> CatSegSize:
    """A variant for PartWorld on a small CLIP, that trains in minutes on a CPU."""
    depth, grid = clip.vision.num_layers, image_size // clip.patch_size
    small = HeadSize(
        embed_dim=clip.embed_dim,
        hidden=32,
        window=grid // 2,
        text_guidance=32,
        appearance_in=clip.embed_dim,
        appearance=32,
        decoder=(32, 16),
        decoder_in=(32, 16),
        decoder_guidance=(16, 8),
        class_limit=32,
        **head,
    )
    hooks = (max(depth // 3 - 1, 0), max(2 * depth // 3 - 1, 0))
    return CatSegSize(clip, small, image_size, hooks, sliding=None, template="a photo of a {}")


# Ordered tables over leaf paths, the first match counts. Learning rates are factors of the base
# rate; 0 freezes. The released code trains no position embeddings, though it seems to mean to.
LEARNING_RATES = (
    (r"clip/(vision|text)/blocks/\d+/attention/(query|value)/kernel", 0.01),
    (r"clip/.*", 0.0),
    (r".*", 1.0),
)
WEIGHT_DECAY = (
    (r"head/.*norm\d?/(scale|bias)", 0.0),
    (r".*", 1e-4),
)
