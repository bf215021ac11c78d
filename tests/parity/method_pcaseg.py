"""PCA-Seg: the fusion, a layer, the aggregator, the encoders, predictions, a training step.

The decoder is CAT-Seg's.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.aggregation.blocks import Classes, Mode
from opvseg_jax.aggregation.cost_volume import unit
from opvseg_jax.aggregation.fusion import ExpertFusion, overlap
from opvseg_jax.aggregation.run import run_blocks
from opvseg_jax.core.weights import blueprint, flatten
from opvseg_jax.encoders import port_eva_clip
from opvseg_jax.encoders.eva_clip import EvaClipSize, rotary_tables
from opvseg_jax.encoders.sizes import Tower
from opvseg_jax.methods.pcaseg import port
from opvseg_jax.methods.pcaseg.losses import mean_overlap, similarity
from opvseg_jax.methods.pcaseg.model import PcaSeg
from opvseg_jax.methods.pcaseg.sizes import LEARNING_RATES, of_catseg
from opvseg_jax.port.rules import convert, publish
from parity.aggregation_cases import head_size, layer_size, maps, per_class, to_volume, volume
from parity.harness import Case, register
from parity.method_catseg import run_head, suffixes
from parity.semantic_models import run_full, run_train_step, size_with


@register("pcaseg", "epl")
def epl(case: Case) -> dict:
    c = case.config
    plan = blueprint(
        lambda: ExpertFusion(
            c["dim"],
            num_experts=c["experts"],
            reduction=c["reduction_ratio"],
            rngs=nnx.Rngs(0),
        )
    )
    leaves = convert(port.FUSION, case.below("w."), plan.shapes)

    @jax.jit
    def run(leaves, spatial, classwise):
        fusion, taps = plan.merge(leaves), {}
        fused = fusion(spatial, classwise, taps=taps)
        trained = fusion(spatial, classwise, train=True)
        everyone = jnp.ones(spatial.shape[:2], bool)
        return fused, trained, taps, overlap(spatial, classwise, everyone), flatten(fusion)

    streams = [volume(case.tensors[f"in.{name}"]) for name in ("spatial", "semantic")]
    fused, trained, taps, (squared, mean), after = run(leaves, *streams)
    out = {
        "out.y_eval": to_volume(fused),
        "out.y_train": to_volume(trained),
        "out.fod_loss": squared,
        "out.mean_cosine": mean,
        "mid.spatial_proj": per_class(taps["spatial"]),
        "mid.class_proj": per_class(taps["classwise"]),
        "mid.coefficients": per_class(taps["coefficients"]),
        "mid.residual": per_class(taps["residual"]),
    }
    for index in range(c["experts"]):
        out[f"mid.expert_{index}"] = per_class(taps[f"expert_{index}"])
        out[f"out.running_mean_after.{index}"] = after[f"experts/{index}/norm/mean"]
        out[f"out.running_var_after.{index}"] = after[f"experts/{index}/norm/variance"]
    return out


@register("pcaseg", "aggregation_layer")
def aggregation_layer(case: Case) -> dict:
    size = layer_size(case.config)
    plan = blueprint(lambda: size.layer(rngs=nnx.Rngs(0)))
    leaves = convert(port.LAYER, case.below("w."), plan.shapes)
    appearance = maps(case.tensors["in.appearance_guidance"])
    out = {}
    for name, (count, pooling) in suffixes(case, "out.y__").items():
        text = jnp.asarray(case.tensors[f"in.text_guidance__T{count}"])
        x = volume(case.tensors[f"in.x__T{count}"])
        y, taps = _layer(plan, leaves, x, appearance, text, Mode(pooling))
        out[f"out.y__{name}"] = y
        out[f"out.fod_loss__{name}"] = mean_overlap(taps)
        out[f"out.mean_cosine__{name}"] = similarity(taps) * 2
        for place, block in zip(("first", "second"), taps.values(), strict=True):
            out[f"mid.spatial_{place}__{name}"] = to_volume(block["spatial_out"])
            out[f"mid.semantic_{place}__{name}"] = to_volume(block["classwise_out"])
            out[f"mid.fused_{place}__{name}"] = to_volume(block["out"])
        if f"out.y_trainmode__{name}" in case.tensors:
            y, taps = _layer(plan, leaves, x, appearance, text, Mode(pooling, train=True))
            out[f"out.y_trainmode__{name}"] = y
            out[f"out.fod_loss_trainmode__{name}"] = mean_overlap(taps)
    return out


def _layer(plan, leaves, x, appearance, text, mode: Mode):
    @jax.jit
    def run(leaves, x, appearance, text):
        taps = {}
        classes = Classes(text, jnp.ones(text.shape[:2], bool))
        y = run_blocks(list(plan.merge(leaves)), x, appearance, classes, mode, taps=taps)
        return to_volume(y), taps

    return run(leaves, x, appearance, text)


@register("pcaseg", "head")
def head(case: Case) -> dict:
    out, taps = run_head(case, head_size(case.config, num_experts=_experts(case)), port.HEAD)
    blocks = taps["blocks"]
    out["out.similarity"] = similarity(blocks)
    # The cases record the released code's weight, whatever a model is trained with.
    out["out.fod_loss_weighted"] = 0.001 * mean_overlap(blocks)
    for index, block in enumerate(list(blocks.values())[1::2]):
        out[f"mid.layer_{index}_out"] = to_volume(block["out"])
    return out


def _experts(case: Case) -> int:
    """How many experts the weights hold: configurations of whole models do not say."""
    names = (name.split("expert_layers.") for name in case.tensors if ".expert_layers." in name)
    return 1 + max(int(parts[1].split(".")[0]) for parts in names)


def eva_size(case: Case, c: dict, weights: dict) -> EvaClipSize:
    """The encoders of a case; `weights` are named as in an EVA-02-CLIP file."""
    hidden = weights["visual.blocks.0.mlp.w1.bias"].shape[0]
    text_hidden = weights["text.transformer.resblocks.0.mlp.c_fc.bias"].shape[0]
    return EvaClipSize(
        image_size=c["res"],
        patch_size=c["patch"],
        vision=Tower(c["width"], c["layers"], c["width"] // c["head_width"], hidden),
        text=Tower(c["tw"], c["tl"], c["th"], text_hidden),
        embed_dim=c["embed"],
        dense_mode=case.config.get("dense_mode", "csa"),
        vocab_size=weights["text.token_embedding.weight"].shape[0],
        context=weights["text.positional_embedding"].shape[0],
    )


@register("pcaseg", "eva_clip", layers=("mid.rope_*", "mid.pos_embed__*"))
def eva_clip(case: Case) -> dict:
    weights = case.below("w.")
    size = eva_size(case, case.config, weights)
    plan = blueprint(lambda: size.build(rngs=nnx.Rngs(0)))
    leaves = convert(port_eva_clip.EVA_CLIP, weights, plan.shapes)
    out = _eva_text(case, plan, leaves)
    for side, image in case.below("in.image__").items():
        modes = [
            name.removeprefix("out.dense_").removesuffix(f"__{side}")
            for name in case.wanted()
            if name.startswith("out.dense_") and name.endswith(f"__{side}")
        ]
        values = _eva_vision(plan, leaves, maps(image), tuple(modes))
        out |= {f"{name}__{side}": value for name, value in values.items()}
    return out


def _eva_vision(plan, leaves, image, modes: tuple[str, ...]) -> dict:
    @jax.jit
    def run(leaves, image):
        tower = plan.merge(leaves).vision
        layers = range(tower.num_layers)
        _, kept = tower.encode(image, hidden=layers)
        cosines, sines = rotary_tables(tower.grid(image), tower.head_dim)
        out = {
            "mid.pos_embed": tower.positions_for(tower.grid(image))[None],
            "mid.rope_cos": cosines[1:],
            "mid.rope_sin": sines[1:],
            "out.pooled": tower.pooled(image),
        }
        out |= {f"mid.block_{layer}_out": kept[layer] for layer in layers}
        for name in modes:
            dense, _ = tower.dense(image, mode=name.removesuffix("_normalised"))
            dense = dense.reshape(len(dense), -1, dense.shape[-1])
            out[f"out.dense_{name}"] = unit(dense) if name.endswith("_normalised") else dense
        return out

    return run(leaves, image)


def _eva_text(case: Case, plan, leaves) -> dict:
    @jax.jit
    def run(leaves, tokens):
        tower = plan.merge(leaves).text
        layers = range(len(tower.blocks))
        return tower(tokens), tower.encode(tower.embed(tokens), hidden=layers).hidden

    features, hidden = run(leaves, jnp.asarray(case.tensors["in.tokens"]))
    out = {"out.text": features}
    for layer, stream in hidden.items():
        shown = case.tensors.get(f"mid.text_block_{layer}_out", stream.swapaxes(0, 1)).shape[0]
        out[f"mid.text_block_{layer}_out"] = stream.swapaxes(0, 1)[:shown]
    return out


def _model(case: Case, weights: dict, **more):
    prefix = "sem_seg_head.predictor.clip_model."
    names = [name for name in weights if name.startswith(prefix)]
    clip = {name.removeprefix(prefix): weights[name] for name in names}
    size = size_with(case, eva_size(case, case.config["clip"], clip), num_experts=_experts(case))
    size = dataclasses.replace(of_catseg(size), **more)
    return lambda: PcaSeg(size, rngs=nnx.Rngs(0))


@register("pcaseg", "full")
def full(case: Case) -> dict:
    weights = case.below("w.")
    out, taps, shown = run_full(case, _model(case, weights), port.RULES, weights)
    dense = shown(taps["dense"])
    return out | {"mid.clip_dense": dense.reshape(len(dense), -1, dense.shape[-1])}


@register("pcaseg", "train_step")
def train_step(case: Case) -> dict:
    weights = case.below("w.")
    build = _model(case, weights, orthogonality=case.config["fod_weight_in_code"])
    step = run_train_step(case, build, port.RULES, LEARNING_RATES, weights)
    published = publish(port.RULES, {path: np.asarray(x) for path, x in step.after.items()})
    return (
        step.out
        | {f"out.buffer_after.{name}": value for name, value in published.items()}
        | {
            "out.loss_sem_seg": step.losses["segmentation"],
            "out.loss_organ": step.losses["orthogonality"],
        }
    )
