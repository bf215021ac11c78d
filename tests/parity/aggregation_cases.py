"""What the aggregators' cases share: sizes from configurations, PyTorch's order of axes."""

import jax.numpy as jnp

from opvseg_jax.aggregation.head import HeadSize


def maps(x) -> jnp.ndarray:
    """[B, C, H, W] -> [B, H, W, C]."""
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def volume(x) -> jnp.ndarray:
    """[B, C, T, H, W] -> [B, T, H, W, C]."""
    return jnp.asarray(x).transpose(0, 2, 3, 4, 1)


def to_maps(x):
    """[B, H, W, C] -> [B, C, H, W]."""
    return x.transpose(0, 3, 1, 2)


def to_volume(x):
    """[B, T, H, W, C] -> [B, C, T, H, W]."""
    return x.transpose(0, 4, 1, 2, 3)


def per_class(x):
    """[B, T, H, W, C] -> [(B T), C, H, W]."""
    return x.reshape(-1, *x.shape[2:]).transpose(0, 3, 1, 2)


def tokens(x):
    """[B, T, H, W, C] -> [(B T), (H W), C]."""
    return x.reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])


def pair(value) -> tuple[int, int]:
    """A size that may be one number."""
    return (value, value) if isinstance(value, int) else tuple(value)


def layer_size(c: dict) -> HeadSize:
    """Of a case with one aggregation layer."""
    return HeadSize(
        hidden=c["hidden_dim"],
        appearance=c["appearance_guidance_dim"],
        text_guidance=c["text_guidance_dim"],
        num_heads=c["heads"],
        window=c["window_size"],
        attention=c.get("attention_type", "linear"),
        class_limit=c["pad_len"],
        num_experts=c.get("experts", 0),
    )


def head_size(c: dict, **more) -> HeadSize:
    """Of a case with a whole aggregator."""
    return HeadSize(
        embed_dim=c["text_guidance_dim"],
        num_prompts=c["prompt_channel"],
        hidden=c["hidden_dim"],
        num_heads=c["nheads"],
        num_layers=c["num_layers"],
        window=c["window_size"],
        text_guidance=c["text_guidance_proj_dim"],
        appearance_in=c["appearance_guidance_dim"],
        appearance=c["appearance_guidance_proj_dim"],
        decoder=tuple(c["decoder_dims"]),
        decoder_in=tuple(c["decoder_guidance_dims"]),
        decoder_guidance=tuple(c["decoder_guidance_proj_dims"]),
        attention=c["attention_type"],
        class_limit=c["pad_len"],
        **more,
    )
