"""PartCATSeg's published names; what HOPS shares with it.

A checkpoint is what detectron2 writes: an entry `model` with one flat dict of tensors.
"""

from opvseg_jax.encoders.port_clip import OPENAI, renamed, under
from opvseg_jax.encoders.port_dino import META
from opvseg_jax.methods.catseg.port import CLASS_LAYER, DECODER, GUIDANCE, SPATIAL_PAIR
from opvseg_jax.port.rules import CONV2D, SQUEEZE, Layout, Rules, Skip, Take

# [O, I, 1, 1] <-> [I, O]: a convolution of one pixel is a linear layer.
POINTWISE = Layout(lambda x: (x.reshape(x.shape[:2]).T,), lambda x: x.T[:, :, None, None])

# A layer without padding classes.
LAYER = (
    *under(SPATIAL_PAIR, "swin_block.", "spatial/"),
    *under(CLASS_LAYER, "attention.", "classwise/"),
)


def layers(published: str, ours: str, layer: Rules = LAYER) -> Rules:
    """A stack of aggregation layers."""
    return under(layer, f"{published}.{{i}}.", f"{ours}/{{i}}/")


def head_rules(layer: Rules = LAYER) -> Rules:
    """The aggregator whose layers are named as `layer` says."""
    return (
        *renamed("conv1", "embedding/conv", CONV2D),
        *renamed("conv2", "part_embedding/conv", CONV2D),
        *renamed("conv_proj_feat", "compose", POINTWISE),
        *GUIDANCE,
        *layers("layers", "layers", layer),
        *layers("layers_specific_part", "part_layers", layer),
        Skip("layers_object.*", "a copy of the first layers, made at the start and never used"),
        *under(DECODER, "", "decoder/"),
    )


def model_rules(head: Rules) -> Rules:
    """The whole checkpoint of a method on these encoders."""
    return (
        *under(OPENAI, "sem_seg_head.predictor.clip_model.", "clip/"),
        *under(META, "backbone.dinov2.", "dino/"),
        Take("sem_seg_head.predictor.non_object_embedding", "background", SQUEEZE),
        *under(head, "sem_seg_head.predictor.transformer.", "head/"),
    )


HEAD = head_rules()
RULES = model_rules(HEAD)
