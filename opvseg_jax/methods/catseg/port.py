"""CAT-Seg's published names, and those of the pieces that its descendants share.

A checkpoint is what detectron2 writes: an entry `model` with one flat dict of tensors.
"""

from opvseg_jax.encoders.port_clip import OPENAI_SPLIT, norm, renamed, under
from opvseg_jax.port.rules import CONV2D, CONV_TRANSPOSE2D, LINEAR, SQUEEZE2, Rules, Skip, Take

_WINDOW_BLOCK = (
    *norm("norm1", "norm1"),
    *renamed("attn.q", "query", LINEAR),
    *renamed("attn.k", "key", LINEAR),
    *renamed("attn.v", "value", LINEAR),
    *renamed("attn.proj", "out", LINEAR),
    *norm("norm2", "norm2"),
    *renamed("mlp.fc1", "up", LINEAR),
    *renamed("mlp.fc2", "down", LINEAR),
    Skip("attn_mask", "follows from the grid and the window"),
)
SPATIAL_PAIR = (
    *norm("guidance_norm", "guidance_norm"),
    *under(_WINDOW_BLOCK, "block_1.", "plain/"),
    *under(_WINDOW_BLOCK, "block_2.", "shifted/"),
)
CLASS_LAYER = (
    *norm("norm1", "norm1"),
    *renamed("attention.q", "query", LINEAR),
    *renamed("attention.k", "key", LINEAR),
    *renamed("attention.v", "value", LINEAR),
    *norm("norm2", "norm2"),
    *renamed("MLP.0", "up", LINEAR),
    *renamed("MLP.2", "down", LINEAR),
)
CLASS_PADDING = (
    Take("padding_tokens", "padding_token", SQUEEZE2),
    Take("padding_guidance", "padding_guidance", SQUEEZE2),
)
# One serial block; descendants without padding take CLASS_LAYER alone.
SERIAL_BLOCK = (
    *under(SPATIAL_PAIR, "swin_block.", "spatial/"),
    *under((*CLASS_LAYER, *CLASS_PADDING), "attention.", "classwise/"),
)

_UP_STAGE = (
    *renamed("up", "upsample", CONV_TRANSPOSE2D),
    Take("conv.double_conv.0.weight", "conv1/kernel", CONV2D),
    *norm("conv.double_conv.1", "norm1"),
    Take("conv.double_conv.3.weight", "conv2/kernel", CONV2D),
    *norm("conv.double_conv.4", "norm2"),
)
DECODER = (
    *under(_UP_STAGE, "decoder1.", "stages/0/"),
    *under(_UP_STAGE, "decoder2.", "stages/1/"),
    *renamed("head", "head", CONV2D),
)
GUIDANCE = (
    *renamed("guidance_projection.0", "image_guidance/levels/0", CONV2D),
    *renamed("decoder_guidance_projection.0.0", "image_guidance/levels/1", CONV2D),
    *renamed("decoder_guidance_projection.1.0", "image_guidance/levels/2", CONV2D),
    *renamed("text_guidance_projection.0", "text_guidance/project", LINEAR),
)


def head_rules(layer: Rules) -> Rules:
    """The aggregator whose layers are named as `layer` says."""
    return (
        *renamed("conv1", "embedding/conv", CONV2D),
        *GUIDANCE,
        *under(layer, "layers.{i}.", "layers/{i}/"),
        *under(DECODER, "", "decoder/"),
    )


def model_rules(clip: Rules, layer: Rules) -> Rules:
    """The whole checkpoint of a method that is built as CAT-Seg is."""
    return (
        *under(clip, "sem_seg_head.predictor.clip_model.", "clip/"),
        *under(head_rules(layer), "sem_seg_head.predictor.transformer.", "head/"),
        *renamed("upsample1", "upsample/0", CONV_TRANSPOSE2D),
        *renamed("upsample2", "upsample/1", CONV_TRANSPOSE2D),
    )


LAYER = under(SERIAL_BLOCK, "", "0/")
HEAD = head_rules(LAYER)
RULES = model_rules(OPENAI_SPLIT, LAYER)
