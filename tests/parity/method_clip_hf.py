"""CLIP under the names of Transformers, and the same weights under OpenAI's."""

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
from parity.method_clip import channels_last


def size_of(config: dict, weights: dict) -> ClipSize:
    """The size that a case's configuration and tensor shapes describe."""

    def tower(kind: str) -> Tower:
        c = config[kind]
        hidden = weights[f"{kind}_model.encoder.layers.0.mlp.fc1.bias"].shape[0]
        return Tower(c["width"], c["layers"], c["heads"], hidden)

    return ClipSize(
        image_size=config["patch"] * config["native_grid"],
        patch_size=config["patch"],
        vision=tower("vision"),
        text=tower("text"),
        embed_dim=config["projection_dim"],
        vocab_size=config["text"]["vocab"],
        context=config["text"]["ctx"],
        end_token=None if config["text"]["eos"] == 2 else config["text"]["eos"],
        vision_activation=config["act"],
        text_activation=config["act"],
        epsilon=config["ln_eps"],
    )


@register("clip_hf", "towers", layers=("mid.vision.pos_embed.*",))
def towers(case: Case) -> dict:
    weights, openai = case.below("w."), case.below("w.openai.")
    weights = {name: x for name, x in weights.items() if not name.startswith("openai.")}
    size = size_of(case.config, weights)
    plan = blueprint(lambda: size.build(rngs=nnx.Rngs(0)))
    leaves = convert(port_clip.HUGGINGFACE, weights, plan.shapes)
    if openai:
        other = convert(port_clip.OPENAI, openai, plan.shapes)
        differing = [path for path in leaves if not np.array_equal(leaves[path], other[path])]
        assert not differing, f"the two namings fill these leaves differently: {differing}"
    images = {name: channels_last(x) for name, x in case.below("in.pixel_values.").items()}
    tokens = jnp.asarray(case.tensors["in.input_ids"])

    @jax.jit
    def run(leaves, images, tokens):
        clip = plan.merge(leaves)
        out = text(clip, tokens)
        for side, x in images.items():
            out |= {f"{name}.{side}": value for name, value in vision(clip, x).items()}
            out[f"out.logits_per_image.{side}"] = clip(x, tokens)
        return out

    return run(leaves, images, tokens)


def stacked(kept: dict[int, jax.Array]) -> jax.Array:
    """{layer: [B, ...]} -> [L, B, ...]."""
    return jnp.stack([kept[layer] for layer in sorted(kept)])


def vision(clip: Clip, images: jax.Array) -> dict:
    tower = clip.vision
    layers = range(tower.num_layers)
    encoded = tower.encode(images, hidden=(-1, *layers), attention=layers, per_head=True)
    return {
        "mid.vision.pos_embed": tower.positions_for(tower.grid(images))[None],
        "mid.vision.hidden_states": stacked(encoded.hidden),
        "mid.vision.attentions": stacked(encoded.attention),
        "mid.vision.pooler": tower.norm_post(encoded.tokens[:, 0]),
        "out.vision.last_hidden_state": encoded.tokens,
        "out.image_features": tower.pooled(images),
    }


def text(clip: Clip, tokens: jax.Array) -> dict:
    tower = clip.text
    layers = range(len(tower.blocks))
    encoded = tower.encode(
        tower.embed(tokens), hidden=(-1, *layers), attention=layers, per_head=True
    )
    last = tower.norm_post(encoded.tokens)
    return {
        "mid.text.hidden_states": stacked(encoded.hidden),
        "mid.text.attentions": stacked(encoded.attention),
        "mid.text.pooler": last[jnp.arange(len(tokens)), tower.end_of(tokens)],
        "out.text.last_hidden_state": last,
        "out.text_features": tower(tokens),
    }
