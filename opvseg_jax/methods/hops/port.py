"""HOPS' published names, which are PartCATSeg's and more."""

from opvseg_jax.encoders.port_clip import renamed, under
from opvseg_jax.methods.catseg.port import DECODER, GUIDANCE
from opvseg_jax.methods.partcatseg.port import layers, model_rules
from opvseg_jax.port.rules import CONV2D, Skip

_LEFT_OVER = "left over from the program it was made from; never used"
HEAD = (
    *renamed("conv1", "embedding/conv", CONV2D),
    *GUIDANCE,
    *layers("layers", "object_layers"),
    *layers("layers_part", "part_layers"),
    *under(DECODER, "", "decoder/"),
    *(
        Skip(f"{name}.*", _LEFT_OVER)
        for name in (
            "layers_object",
            "layers_specific_part",
            "conv2",
            "conv_proj_feat",
            "decoder1_part",
            "decoder2_part",
            "head_part",
        )
    ),
)
RULES = model_rules(HEAD)
