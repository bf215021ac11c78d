"""CLIP's published names, in the three forms that files have.

| table | files |
|---|---|
| OPENAI | OpenAI's archives and what was built on them; q, k, v packed in one matrix |
| OPENAI_SPLIT | CAT-Seg's checkpoints: q, k, v matrices apart, their biases still packed |
| HUGGINGFACE | `openai/clip-*` and other repositories in the Transformers layout |

Each fills a `Clip`; `*_VISION` and `*_TEXT` fill one tower.
"""

from opvseg_jax.port.rules import (
    CONV2D,
    FUSED_QKV,
    FUSED_QKV_BIAS,
    LINEAR,
    Layout,
    Rules,
    Skip,
    Take,
)


def under(rules: Rules, source: str = "", target: str = "") -> Rules:
    """The table with a prefix before every published name and one before every leaf."""
    return tuple(
        rule._replace(source=source + rule.source)
        if isinstance(rule, Skip)
        else Take(source + rule.source, tuple(target + path for path in rule.paths), rule.layout)
        for rule in rules
    )


def renamed(published: str, ours: str, layout: Layout) -> Rules:
    """The weight and bias of one linear layer."""
    return (
        Take(f"{published}.weight", f"{ours}/kernel", layout),
        Take(f"{published}.bias", f"{ours}/bias"),
    )


def norm(published: str, ours: str) -> Rules:
    """The weight and bias of one LayerNorm."""
    return (
        Take(f"{published}.weight", f"{ours}/scale"),
        Take(f"{published}.bias", f"{ours}/bias"),
    )


_QKV = ("query", "key", "value")
_PACKED_WEIGHT = Take(
    "attn.in_proj_weight", tuple(f"attention/{part}/kernel" for part in _QKV), FUSED_QKV
)
_PACKED_BIAS = Take(
    "attn.in_proj_bias", tuple(f"attention/{part}/bias" for part in _QKV), FUSED_QKV_BIAS
)
_SPLIT_WEIGHT = tuple(
    Take(f"attn.{part[0]}_proj_weight", f"attention/{part}/kernel", LINEAR) for part in _QKV
)
_OPENAI_REST = (
    *renamed("attn.out_proj", "attention/out", LINEAR),
    *norm("ln_1", "norm1"),
    *norm("ln_2", "norm2"),
    *renamed("mlp.c_fc", "mlp/up", LINEAR),
    *renamed("mlp.c_proj", "mlp/down", LINEAR),
)
OPENAI_BLOCK = (_PACKED_WEIGHT, _PACKED_BIAS, *_OPENAI_REST)
OPENAI_SPLIT_BLOCK = (*_SPLIT_WEIGHT, _PACKED_BIAS, *_OPENAI_REST)


def _openai_vision(block: Rules) -> Rules:
    return (
        Take("conv1.weight", "patch/kernel", CONV2D),
        Take("class_embedding", "class_embedding"),
        Take("positional_embedding", "positions"),
        *norm("ln_pre", "norm_pre"),
        *under(block, "transformer.resblocks.{i}.", "blocks/{i}/"),
        *norm("ln_post", "norm_post"),
        Take("proj", "projection/kernel"),
    )


def _openai_text(block: Rules) -> Rules:
    return (
        Take("token_embedding.weight", "token_embedding"),
        Take("positional_embedding", "positions"),
        *under(block, "transformer.resblocks.{i}.", "blocks/{i}/"),
        *norm("ln_final", "norm_post"),
        Take("text_projection", "projection/kernel"),
    )


def _openai(vision: Rules, text: Rules) -> Rules:
    return (
        *under(vision, "visual.", "vision/"),
        *under(text, "", "text/"),
        Take("logit_scale", "logit_scale"),
        *(
            Skip(name, "a size that the archive notes, not a weight")
            for name in ("input_resolution", "context_length", "vocab_size")
        ),
    )


OPENAI_VISION, OPENAI_TEXT = _openai_vision(OPENAI_BLOCK), _openai_text(OPENAI_BLOCK)
OPENAI_SPLIT_VISION = _openai_vision(OPENAI_SPLIT_BLOCK)
OPENAI_SPLIT_TEXT = _openai_text(OPENAI_SPLIT_BLOCK)
OPENAI = _openai(OPENAI_VISION, OPENAI_TEXT)
OPENAI_SPLIT = _openai(OPENAI_SPLIT_VISION, OPENAI_SPLIT_TEXT)

HUGGINGFACE_BLOCK = (
    *(
        rule
        for part in _QKV
        for rule in renamed(f"self_attn.{part[0]}_proj", f"attention/{part}", LINEAR)
    ),
    *renamed("self_attn.out_proj", "attention/out", LINEAR),
    *norm("layer_norm1", "norm1"),
    *norm("layer_norm2", "norm2"),
    *renamed("mlp.fc1", "mlp/up", LINEAR),
    *renamed("mlp.fc2", "mlp/down", LINEAR),
)
_INDEX_BUFFER = "counts 0, 1, 2, ...: rebuilt, not learned"
HUGGINGFACE_VISION = (
    Take("vision_model.embeddings.patch_embedding.weight", "patch/kernel", CONV2D),
    Take("vision_model.embeddings.class_embedding", "class_embedding"),
    Take("vision_model.embeddings.position_embedding.weight", "positions"),
    *norm("vision_model.pre_layrnorm", "norm_pre"),  # spelt so in every published file
    *under(HUGGINGFACE_BLOCK, "vision_model.encoder.layers.{i}.", "blocks/{i}/"),
    *norm("vision_model.post_layernorm", "norm_post"),
    Take("visual_projection.weight", "projection/kernel", LINEAR),
    Skip("vision_model.embeddings.position_ids", _INDEX_BUFFER),
)
HUGGINGFACE_TEXT = (
    Take("text_model.embeddings.token_embedding.weight", "token_embedding"),
    Take("text_model.embeddings.position_embedding.weight", "positions"),
    *under(HUGGINGFACE_BLOCK, "text_model.encoder.layers.{i}.", "blocks/{i}/"),
    *norm("text_model.final_layer_norm", "norm_post"),
    Take("text_projection.weight", "projection/kernel", LINEAR),
    Skip("text_model.embeddings.position_ids", _INDEX_BUFFER),
)
HUGGINGFACE = (
    *under(HUGGINGFACE_VISION, "", "vision/"),
    *under(HUGGINGFACE_TEXT, "", "text/"),
    Take("logit_scale", "logit_scale"),
)

# DeOP's additions to a CLIP: names below its image tower, and below its prompt learner.
VISUAL_PROMPTS = (
    Take("learned_position", "input"),
    Take("transformer.resblocks.{i}.learned_position", "added/block_{i}"),
    Take("transformer.deep_prompt_embeddings", "prepended"),
)
TEXT_PROMPTS = (
    Take("prefix_prompt", "prefix"),
    Take("suffix_prompt", "suffix"),
    *(
        Skip(f"{name}_signal", "a copy of a row of the token embedding")
        for name in ("start", "dot", "end", "pad")
    ),
)
