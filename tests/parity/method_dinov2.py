"""DINOv2: Transformers' outputs, and those of Meta's code where positions are resized otherwise."""

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.weights import blueprint
from opvseg_jax.encoders.dino import Dino
from opvseg_jax.encoders.positions import PositionRule
from opvseg_jax.encoders.sizes import DinoSize, Tower, swiglu_dim
from opvseg_jax.port.rules import convert
from parity.harness import Case, register
from parity.method_clip import channels_last
from parity.method_clip_hf import stacked


def size_of(c: dict) -> DinoSize:
    ratio = c["mlp_ratio"]
    hidden = swiglu_dim(c["hidden_size"], ratio) if c["swiglu"] else int(c["hidden_size"] * ratio)
    return DinoSize(
        tower=Tower(c["hidden_size"], c["layers"], c["heads"], hidden),
        swiglu=c["swiglu"],
        num_registers=c["num_register_tokens"],
        image_size=c["native_image"],
        patch_size=c["patch"],
        epsilon=c["ln_eps"],
    )


@register("dinov2", "backbone", layers=("mid.pos_embed.*", "mid.fb_pos_embed.*"))
def backbone(case: Case) -> dict:
    weights = case.below("w.")
    size = size_of(case.config)
    original = PositionRule(**case.config["original_interpolation"])
    plan, meta_plan = (
        blueprint(lambda rule=rule: size.build(position_rule=rule, rngs=nnx.Rngs(0)))
        for rule in (None, original)
    )
    rules = size.meta_rules if "cls_token" in weights else size.huggingface_rules
    leaves = convert(rules, weights, plan.shapes)
    images = {name: channels_last(x) for name, x in case.below("in.pixel_values.").items()}

    @jax.jit
    def run(leaves, images):
        return {
            f"{name}.{side}": value
            for side, x in images.items()
            for outputs in (
                as_transformers(plan.merge(leaves), x),
                as_meta(meta_plan.merge(leaves), x),
            )
            for name, value in outputs.items()
        }

    return run(leaves, images)


def as_transformers(dino: Dino, images: jax.Array) -> dict:
    layers = range(dino.num_layers)
    encoded = dino.encode(images, hidden=(-1, *layers), attention=layers, per_head=True)
    return {
        "mid.pos_embed": dino.positions_for(dino.grid(images))[None],
        "mid.hidden_states": stacked(encoded.hidden),
        "out.last_hidden_state": dino.norm_post(encoded.tokens),
        "out.attn_mean": stacked(encoded.attention).mean(axis=2),
        "out.attn_heads_last": encoded.attention[layers[-1]],
    }


def as_meta(dino: Dino, images: jax.Array) -> dict:
    features = dino(images)
    b, _, _, c = features.patches.shape
    return {
        "mid.fb_pos_embed": dino.positions_for(dino.grid(images))[None],
        "out.fb_cls": features.cls,
        "out.fb_patch_tokens": jnp.reshape(features.patches, (b, -1, c)),
    }
