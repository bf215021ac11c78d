"""PCA-Seg's published names: CAT-Seg's, but for the layers and the encoders."""

from opvseg_jax.encoders.port_clip import OPENAI_SPLIT, norm, renamed, under
from opvseg_jax.encoders.port_eva_clip import EVA_CLIP
from opvseg_jax.methods.catseg.port import (
    CLASS_LAYER,
    CLASS_PADDING,
    SPATIAL_PAIR,
    head_rules,
    model_rules,
)
from opvseg_jax.port.rules import CONV2D, Layout, Rules, Skip, Take


def _flat(x):
    """[O, I, 1, 1] -> [I, O]."""
    if x.ndim != 4 or x.shape[2:] != (1, 1):
        raise ValueError(f"expected a 1x1 convolution, got {list(x.shape)}")
    return (x[:, :, 0, 0].T,)


CONV1X1 = Layout(_flat, lambda x: x.T[:, :, None, None])

_EXPERT = (
    *renamed("0", "expand", CONV1X1),
    *norm("1", "norm"),
    Take("1.running_mean", "norm/mean"),
    Take("1.running_var", "norm/variance"),
    Skip("1.num_batches_tracked", "a count that momentum 0.1 does not use"),
    *renamed("3", "conv", CONV2D),
)
FUSION = (
    *renamed("spatial_proj", "spatial", CONV1X1),
    *renamed("class_proj", "classwise", CONV1X1),
    *under(_EXPERT, "expert_layers.{j}.", "experts/{j}/"),
    *renamed("gate_net.0", "mapper_in", CONV1X1),
    *renamed("gate_net.2", "mapper_out", CONV1X1),
    *renamed("residual", "residual", CONV1X1),
    Take("res_scale", "residual_scale"),
)


def parallel_layer(class_layer: Rules) -> Rules:
    """The two parallel blocks of a layer."""
    return tuple(
        rule
        for index, name in enumerate(("first", "second"))
        for rule in (
            *under(SPATIAL_PAIR, f"swin_block_{name}.", f"{index}/spatial/"),
            *under(class_layer, f"attention_{name}.", f"{index}/classwise/"),
            *under(FUSION, f"fusion_by_channel_{name}.", f"{index}/fusion/"),
        )
    )


LAYER = parallel_layer((*CLASS_LAYER, *CLASS_PADDING))
HEAD = head_rules(LAYER)
RULES = model_rules(EVA_CLIP, LAYER)
OPENAI_RULES = model_rules(OPENAI_SPLIT, LAYER)
