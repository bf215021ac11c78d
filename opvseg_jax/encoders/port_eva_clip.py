"""EVA-02-CLIP's published names, which DeCLIP's and PCA-Seg's checkpoints share."""

from opvseg_jax.encoders.port_clip import OPENAI_TEXT, norm, renamed, under
from opvseg_jax.port.rules import CONV2D, LINEAR, SQUEEZE, SQUEEZE2, Rules, Skip, Take

_ROPE = "angles, which follow from the grid"
_BLOCK = (
    *norm("norm1", "norm1"),
    *(
        Take(f"attn.{part[0]}_proj.weight", f"attention/{part}/kernel", LINEAR)
        for part in ("query", "key", "value")
    ),
    Take("attn.q_bias", "attention/query/bias"),
    Take("attn.v_bias", "attention/value/bias"),
    *norm("attn.inner_attn_ln", "attention/norm"),
    *renamed("attn.proj", "attention/out", LINEAR),
    *norm("norm2", "norm2"),
    *renamed("mlp.w1", "mlp/gate", LINEAR),
    *renamed("mlp.w2", "mlp/up", LINEAR),
    *norm("mlp.ffn_ln", "mlp/norm"),
    *renamed("mlp.w3", "mlp/down", LINEAR),
    Skip("attn.rope.freqs_cos", _ROPE),
    Skip("attn.rope.freqs_sin", _ROPE),
)
EVA_VISION: Rules = (
    Take("cls_token", "class_embedding", SQUEEZE2),
    Take("pos_embed", "positions", SQUEEZE),
    *renamed("patch_embed.proj", "patch", CONV2D),
    Skip("rope.freqs_cos", _ROPE),
    Skip("rope.freqs_sin", _ROPE),
    *under(_BLOCK, "blocks.{i}.", "blocks/{i}/"),
    *norm("norm", "norm_post"),
    *renamed("head", "projection", LINEAR),
)
EVA_CLIP: Rules = (
    *under(EVA_VISION, "visual.", "vision/"),
    *under(OPENAI_TEXT, "text.", "text/"),
    Take("logit_scale", "logit_scale"),
)
