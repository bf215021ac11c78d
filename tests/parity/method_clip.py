"""CLIP under OpenAI's names: `clip`, packed or split projections."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.core.weights import blueprint
from opvseg_jax.encoders import port_clip
from opvseg_jax.encoders.clip import Clip
from opvseg_jax.encoders.sizes import ClipSize, Tower
from opvseg_jax.port.rules import convert
from parity.harness import Case, register


def channels_last(images: np.ndarray) -> jnp.ndarray:
    """[B, 3, H, W] -> [B, H, W, 3]."""
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def size_of(case: Case, weights: dict) -> ClipSize:
    """The size that a case's configuration and tensor shapes describe."""
    c = case.config

    def tower(prefix: str, width: int, layers: int, heads: int) -> Tower:
        hidden = weights[f"{prefix}transformer.resblocks.0.mlp.c_fc.bias"].shape[0]
        return Tower(width, layers, heads, hidden)

    return ClipSize(
        image_size=c["res"],
        patch_size=c["patch"],
        vision=tower("visual.", c["width"], c["layers"], c["heads"]),
        text=tower("", c["tw"], c["tl"], c["th"]),
        embed_dim=c["embed"],
        vocab_size=c["vocab"],
        context=c["ctx"],
    )


@register("clip", "towers", layers=("mid.pos_embed__*",))
def towers(case: Case) -> dict:
    weights = case.below("w.")
    size = size_of(case, weights)
    plan = blueprint(lambda: size.build(rngs=nnx.Rngs(0)))
    is_split = any(name.endswith("attn.q_proj_weight") for name in weights)
    rules = port_clip.OPENAI_SPLIT if is_split else port_clip.OPENAI
    leaves = convert(rules, weights, plan.shapes)
    images = {name: channels_last(x) for name, x in case.below("in.image__").items()}
    tokens = jnp.asarray(case.tensors["in.tokens"])

    @jax.jit
    def run(leaves, images, tokens):
        clip = plan.merge(leaves)
        out = text(clip, tokens)
        for side, x in images.items():
            out |= {f"{name}__{side}": value for name, value in vision(clip, x).items()}
            if x.shape[1:3] == (size.image_size, size.image_size):
                logits = clip(x, tokens)
                out |= {"out.logits_per_image": logits, "out.logits_per_text": logits.T}
        return out

    return run(leaves, images, tokens)


def vision(clip: Clip, images: jax.Array) -> dict:
    """All that the reference records of the image tower at one size."""
    tower = clip.vision
    layers = range(tower.num_layers)
    encoded = tower.encode(images, hidden=layers, attention=layers)
    out = {"mid.pos_embed": tower.positions_for(tower.grid(images))}
    for i in layers:
        out[f"mid.tokens_layer_{i}"] = encoded.hidden[i]
        out[f"mid.attn_layer_{i}"] = encoded.attention[i]
    for name, last in (("dense", "value_residual"), ("dense_cls_residual", "value_cls_residual")):
        cls, patches = tower.dense(images, last=last)
        flat = patches.reshape(len(patches), -1, patches.shape[-1])
        out[f"out.{name}"] = jnp.concatenate([cls[:, None], flat], axis=1)
    return out | {"out.pooled": tower.pooled(images)}


def text(clip: Clip, tokens: jax.Array) -> dict:
    """All that the reference records of the text tower."""
    tower = clip.text
    layers = range(len(tower.blocks))
    encoded = tower.encode(tower.embed(tokens), hidden=layers, attention=layers)
    out = {"out.text": tower(tokens)}
    for i in layers:
        out[f"mid.text_tokens_layer_{i}"] = encoded.hidden[i]
        out[f"mid.text_attn_layer_{i}"] = encoded.attention[i]
    return out
