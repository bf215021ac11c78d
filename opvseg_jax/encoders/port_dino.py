"""DINOv2's published names: Meta's files (META) and the Transformers layout (HUGGINGFACE)."""

from opvseg_jax.encoders.port_clip import norm, renamed, under
from opvseg_jax.port.rules import (
    CONV2D,
    FUSED_PAIR,
    FUSED_PAIR_BIAS,
    FUSED_QKV,
    FUSED_QKV_BIAS,
    LINEAR,
    SQUEEZE,
    SQUEEZE2,
    Rules,
    Skip,
    Take,
)

_QKV = ("query", "key", "value")
_UNUSED_MASK = "stands for hidden patches in training; no image needs it"


def _mlp(swiglu: bool, packed: str, last: str) -> Rules:
    """The plain feed-forward, or the gated one: the first half of its packed matrix is the gate."""
    if not swiglu:
        return (*renamed("mlp.fc1", "mlp/up", LINEAR), *renamed("mlp.fc2", "mlp/down", LINEAR))
    return (
        Take(f"mlp.{packed}.weight", ("mlp/gate/kernel", "mlp/up/kernel"), FUSED_PAIR),
        Take(f"mlp.{packed}.bias", ("mlp/gate/bias", "mlp/up/bias"), FUSED_PAIR_BIAS),
        *renamed(f"mlp.{last}", "mlp/down", LINEAR),
    )


def _meta_block(swiglu: bool) -> Rules:
    return (
        *norm("norm1", "norm1"),
        *norm("norm2", "norm2"),
        Take("attn.qkv.weight", tuple(f"attention/{part}/kernel" for part in _QKV), FUSED_QKV),
        Take("attn.qkv.bias", tuple(f"attention/{part}/bias" for part in _QKV), FUSED_QKV_BIAS),
        *renamed("attn.proj", "attention/out", LINEAR),
        Take("ls1.gamma", "scale1/scale"),
        Take("ls2.gamma", "scale2/scale"),
        *_mlp(swiglu, "w12", "w3"),
    )


def _meta(swiglu: bool) -> Rules:
    return (
        Take("cls_token", "class_embedding", SQUEEZE2),
        Take("pos_embed", "positions", SQUEEZE),
        Take("register_tokens", "registers", SQUEEZE),
        Skip("mask_token", _UNUSED_MASK),
        *renamed("patch_embed.proj", "patch", CONV2D),
        *under(_meta_block(swiglu), "blocks.{i}.", "blocks/{i}/"),
        # Training checkpoints group the blocks into chunks; {i} counts through all of them.
        *under(_meta_block(swiglu), "blocks.{chunk}.{i}.", "blocks/{i}/"),
        *norm("norm", "norm_post"),
    )


def _huggingface_block(swiglu: bool) -> Rules:
    return (
        *norm("norm1", "norm1"),
        *norm("norm2", "norm2"),
        *(
            rule
            for part in _QKV
            for rule in renamed(f"attention.attention.{part}", f"attention/{part}", LINEAR)
        ),
        *renamed("attention.output.dense", "attention/out", LINEAR),
        Take("layer_scale1.lambda1", "scale1/scale"),
        Take("layer_scale2.lambda1", "scale2/scale"),
        *_mlp(swiglu, "weights_in", "weights_out"),
    )


def _huggingface(swiglu: bool) -> Rules:
    return (
        Take("embeddings.cls_token", "class_embedding", SQUEEZE2),
        Take("embeddings.position_embeddings", "positions", SQUEEZE),
        Take("embeddings.register_tokens", "registers", SQUEEZE),
        Skip("embeddings.mask_token", _UNUSED_MASK),
        *renamed("embeddings.patch_embeddings.projection", "patch", CONV2D),
        *under(_huggingface_block(swiglu), "encoder.layer.{i}.", "blocks/{i}/"),
        *norm("layernorm", "norm_post"),
    )


# The gated tables are for the giant size.
META, META_SWIGLU = _meta(False), _meta(True)
HUGGINGFACE, HUGGINGFACE_SWIGLU = _huggingface(False), _huggingface(True)
