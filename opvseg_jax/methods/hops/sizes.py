"""The published size of HOPS, its two presets with every switch between them, and what trains.

Source: TJU-IDVLab/HOPS at commit 6273c65. That release computes the fused attention and drops it,
never runs the propagation, and uses the last of its two layers alone; the published ablations show
that the published figures had them. RELEASED is the program, PAPER our reading of the paper.
"""

import dataclasses

from opvseg_jax.encoders.sizes import CLIP, DINOV2_SIZES, ClipSize, DinoSize
from opvseg_jax.hierarchy.consistency import PAPER_VOTES, RELEASED_VOTES
from opvseg_jax.hierarchy.propagation import Seeds
from opvseg_jax.methods.partcatseg.sizes import (
    WEIGHT_DECAY,
    PartCatSegSize,
    published,
    tiny_head,
)

__all__ = ["LEARNING_RATES", "PAPER", "RELEASED", "SIZES", "WEIGHT_DECAY", "HopsOptions"]

CHOICES = {
    "attention": ("clip", "dino", "fused"),
    "layers": ("chained", "last"),
    "last_block": ("once", "twice"),
    "train_regions": ("found", "true"),
}


@dataclasses.dataclass(frozen=True)
class HopsOptions:
    """Every switch between the paper and the release; the defaults are the paper's.

    attention: whose attention filters objects and spreads parts; fused with weight `alpha`.
    learn_attention: whether DINO learns through its attention as well as through its features.
    filter_objects, votes: the filter of stage one (AFM), and how many layers must agree.
    normalise_filter: its rows sum to one; neither the paper nor the release says so.
    spread_parts, steps, sweeps, seeds: the propagation of stage two (AEM).
    layers: "chained", or "last": each layer sees the embedded costs and only the last counts.
    last_block: whether CLIP's last block runs "once", as a patch's own value, or, after that,
        once more as it was trained ("twice"), which is what the released program does.
    num_slots: objects of an image that get parts, the largest first; the release has no limit.
    train_regions: whether, in training, stage two cuts out the objects that stage one has "found"
        or the "true" ones, so that it learns from the first step.
    repeat_sigmoid: scores of parts are squashed once more after they are put together, to
        0.5 ... 0.73; that moves the borders between resized labels by fractions of a pixel.
    """

    attention: str = "fused"
    alpha: float = 0.7
    quantile: float = 0.95
    learn_attention: bool = True
    filter_objects: bool = True
    votes: int = PAPER_VOTES
    normalise_filter: bool = False
    spread_parts: bool = True
    steps: int = 1
    sweeps: int = 5
    seeds: Seeds | None = None
    layers: str = "chained"
    last_block: str = "once"
    num_slots: int = 8
    train_regions: str = "found"
    repeat_sigmoid: bool = False
    object_weight: float = 0.4
    part_weight: float = 0.6

    def __post_init__(self):
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                expected = ", ".join(choices)
                raise ValueError(f"{field} must be one of {expected}; got {getattr(self, field)!r}")
        if self.num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {self.num_slots}")


PAPER = HopsOptions()
RELEASED = HopsOptions(
    attention="clip",
    votes=RELEASED_VOTES,
    spread_parts=False,
    layers="last",
    last_block="twice",
    num_slots=40,  # the objects of PartImageNet
    repeat_sigmoid=True,
    object_weight=1.0,
    part_weight=1.0,
)


def ablation(
    options: HopsOptions = PAPER, *, afm: bool = True, aem: bool = True, attention: str = "fused"
) -> HopsOptions:
    """A row of the supplementary's tables 9 and 10."""
    return dataclasses.replace(options, filter_objects=afm, spread_parts=aem, attention=attention)


@dataclasses.dataclass(frozen=True)
class HopsSize(PartCatSegSize):
    """The sizes are PartCATSeg's; `options` say what is done with them."""

    options: HopsOptions = PAPER


def hops_size(
    clip: ClipSize, dino: DinoSize, image_size: int, options: HopsOptions = PAPER
) -> HopsSize:
    """A variant on these encoders with the published sizes of everything else."""
    base = published(clip, dino, image_size)
    size = HopsSize(clip, dino, base.head, image_size, options=options)
    if options.layers == "last":  # the program of the release, to the last pixel
        return dataclasses.replace(size, partless="background", undo_padding=False)
    return size


_ENCODERS = CLIP["B/16"], DINOV2_SIZES["S/14"], 384
SIZES = {
    "B/16": hops_size(*_ENCODERS, PAPER),
    "B/16-released": hops_size(*_ENCODERS, RELEASED),
}

# Of four layers instead of twelve, for scenes with few objects and trainings of few steps. The mean
# over all parts and pixels makes the parts' term small: each object covers few of both.
TINY = dataclasses.replace(
    PAPER,
    votes=2,
    num_slots=3,
    normalise_filter=True,
    train_regions="true",
    part_weight=10.0,
)


def tiny(
    clip: ClipSize, dino: DinoSize, image_size: int = 128, options: HopsOptions = TINY
) -> HopsSize:
    """A variant for PartWorld on small encoders, that trains in minutes on a CPU."""
    head = tiny_head(clip, dino, image_size)
    sides = {"image_size": image_size, "dino_size": image_size}
    return HopsSize(
        clip,
        dino,
        head,
        **sides,
        templates="partworld",
        background_weight=0.5,
        options=options,
    )


# Ordered tables over leaf paths, the first match counts. Learning rates are factors of the base
# rate; 0 freezes. With `layers="last"` the layers before the last get no gradient, and PyTorch's
# optimizer skips what has none: LEARNING_RATES_LAST keeps them from decaying as well.
LEARNING_RATES = (
    (r"clip/.*", 0.0),
    (r"background", 0.0),
    (r"dino/.*", 0.01),
    (r".*", 1.0),
)
LEARNING_RATES_LAST = ((r"head/(object|part)_layers/0/.*", 0.0), *LEARNING_RATES)
