"""CAT-Seg: one layer, the decoder, the whole aggregator, both ways to predict, a training step."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.aggregation.blocks import Classes, Mode
from opvseg_jax.aggregation.decoder import Decoder
from opvseg_jax.aggregation.head import CostHead
from opvseg_jax.aggregation.run import run_blocks
from opvseg_jax.core.weights import blueprint
from opvseg_jax.encoders.sizes import ClipSize, Tower
from opvseg_jax.methods.catseg import port
from opvseg_jax.methods.catseg.model import CatSeg
from opvseg_jax.methods.catseg.sizes import LEARNING_RATES, CatSegSize
from opvseg_jax.port.rules import convert
from parity.aggregation_cases import (
    head_size,
    layer_size,
    maps,
    pair,
    per_class,
    to_maps,
    to_volume,
    tokens,
    volume,
)
from parity.harness import Case, register
from parity.semantic_models import run_full, run_train_step, size_with


def suffixes(case: Case, prefix: str) -> dict[str, tuple[int, tuple[int, int]]]:
    """The runs of a layer: `T7_pool2x2` -> (7, (2, 2))."""
    runs = {}
    for name in case.wanted():
        if name.startswith(prefix):
            run = name.removeprefix(prefix)
            classes, pool = run[1:].split("_pool")
            runs[run] = (int(classes), tuple(int(side) for side in pool.split("x")))
    return runs


@register("catseg", "aggregation_layer")
def aggregation_layer(case: Case) -> dict:
    size = layer_size(case.config)
    plan = blueprint(lambda: size.block(rngs=nnx.Rngs(0)))
    has_padding = size.class_limit > 0
    rules = port.SERIAL_BLOCK if has_padding else port.SERIAL_BLOCK[: -len(port.CLASS_PADDING)]
    leaves = convert(rules, case.below("w."), plan.shapes)
    appearance = maps(case.tensors["in.appearance_guidance"])
    out = {}
    for name, (count, pooling) in suffixes(case, "out.y__").items():
        text = jnp.asarray(case.tensors[f"in.text_guidance__T{count}"])
        x = volume(case.tensors[f"in.x__T{count}"])
        results = _layer(plan, leaves, x, appearance, text, Mode(pooling))
        out |= {f"{key}__{name}": value for key, value in results.items()}
    return out


def _layer(plan, leaves, x, appearance, text, mode: Mode) -> dict:
    @jax.jit
    def run(leaves, x, appearance, text):
        block, taps = plan.merge(leaves), {}
        b, t = text.shape[:2]
        classes = Classes(text, jnp.ones((b, t), bool))
        y = run_blocks([block], x, appearance, classes, mode, taps=taps)
        taps = taps["block_0"]
        spatial = taps["spatial"]
        norm = jnp.repeat(spatial["guidance_norm"], t, axis=0)  # the reference repeats it
        windows = (len(norm), -1, x.shape[-1])
        out = {
            "out.y": to_volume(y),
            "mid.guidance_norm_out": norm.reshape(b * t, -1, norm.shape[-1]),
            "mid.swin_out": to_volume(taps["spatial_out"]),
            "mid.pooled": per_class(taps["classwise"]["pooled"]),
        }
        for index, part in (("1", "plain"), ("2", "shifted")):
            inside = spatial[part]["windows"]
            windows = (-1, *inside.shape[-2:])
            out[f"mid.block_{index}_attn_windows_out"] = inside.reshape(windows)
            out[f"mid.swin_block_{index}_out"] = tokens(spatial[part]["out"])
        return out | _padded_classes(block, taps["spatial_out"], classes, mode)

    return run(leaves, x, appearance, text)


def _padded_classes(block, x, classes: Classes, mode: Mode) -> dict:
    """What the class layer does with the padding classes written out, as the reference has them."""
    layer, taps = block.classwise, {}
    b, t, h, w, c = x.shape
    extra = max(layer.pad_to - t, 0)
    text = classes.text
    if extra:
        token = jnp.broadcast_to(layer.padding_token[...], (b, extra, h, w, c))
        guide = jnp.broadcast_to(layer.padding_guidance[...], (b, extra, text.shape[-1]))
        x, text = jnp.concatenate([x, token], axis=1), jnp.concatenate([text, guide], axis=1)
    layer.pad_to = 0
    layer(x, text, jnp.ones(text.shape[:2], bool), mode.pooling, taps)

    def by_pixel(value):  # [B, T', h, w, C] -> [(B h w), T', C]
        return value.transpose(0, 2, 3, 1, 4).reshape(-1, t + extra, c)

    names = {"norm1": "cls_norm1", "attention": "cls_attn_out", "mlp": "cls_mlp_out"}
    return {f"mid.{name}": by_pixel(taps[tap]) for tap, name in names.items()}


@register("pcaseg", "decoder")
@register("catseg", "decoder")
def decoder(case: Case) -> dict:
    c = case.config
    sizes = c["hidden_dim"], c["decoder_dims"], c["guidance_proj_dims"]
    plan = blueprint(lambda: Decoder(*sizes, rngs=nnx.Rngs(0)))
    leaves = convert(port.DECODER, case.below("w."), plan.shapes)
    guidance = [maps(case.tensors[f"in.guidance_{level}"]) for level in range(2)]

    @jax.jit
    def run(leaves, x, guidance):
        taps = {}
        out = {"out.logits": plan.merge(leaves)(x, guidance, taps)}
        first, second = taps["stage_0"], taps["stage_1"]
        return out | {
            "mid.decoder1_up_out": per_class(first["upsample"]),
            "mid.decoder1_first_groupnorm_out": per_class(first["norm1"]),
            "mid.decoder1_out": per_class(first["out"]),
            "mid.decoder2_up_out": per_class(second["upsample"]),
            "mid.decoder2_out": per_class(second["out"]),
        }

    return run(leaves, volume(case.tensors["in.x"]), guidance)


@register("catseg", "head")
def head(case: Case) -> dict:
    size = head_size(case.config)
    rules = port.HEAD if size.class_limit else port.head_rules(_without_padding(port.LAYER))
    out, taps = run_head(case, size, rules)
    for index, block in enumerate(taps["blocks"].values()):
        out[f"mid.layer_{index}_out"] = to_volume(block["out"])
    return out


def _without_padding(layer):
    return tuple(rule for rule in layer if "padding" not in rule.source)


def run_head(case: Case, size, rules) -> tuple[dict, dict]:
    """What all aggregators record, and the taps."""
    plan = blueprint(lambda: CostHead(size, rngs=nnx.Rngs(0)))
    leaves = convert(rules, case.below("w."), plan.shapes)
    pyramid = [maps(case.tensors[f"in.appearance_guidance_{level}"]) for level in range(3)]
    mode = Mode(pair(case.config["pooling_size"]))
    text = jnp.asarray(case.tensors["in.text_feats"])

    @jax.jit
    def run(leaves, features, text, pyramid):
        taps = {}
        logits = plan.merge(leaves)(features, text, pyramid, mode, taps=taps)
        return logits, taps

    features = maps(case.tensors["in.img_feats"])
    logits, taps = run(leaves, features, text, pyramid)
    costs = taps.get("all_costs", taps["costs"])  # before the best were chosen
    fine = taps["decoder_guidance"]
    out = {
        "out.logits": logits,
        "mid.corr": to_volume(costs),
        "mid.corr_embed": per_class(taps["embedded"]),
        "mid.projected_guidance": to_maps(taps["appearance"]),
        "mid.projected_decoder_guidance_0": to_maps(fine[0]),
        "mid.projected_decoder_guidance_1": to_maps(fine[1]),
        "mid.projected_text_guidance": taps["text"],
    }
    if "kept" in taps:
        out["mid.kept_classes_sorted"] = np.sort(taps["kept"]).astype(np.int32)
    return out, taps


def model_size(case: Case, weights: dict) -> CatSegSize:
    """Of a case with a whole model."""
    c, prefix = case.config["clip"], "sem_seg_head.predictor.clip_model."

    def tower(name: str, width: int, layers: int, heads: int) -> Tower:
        bias = weights[f"{prefix}{name}transformer.resblocks.0.mlp.c_fc.bias"]
        return Tower(width, layers, heads, bias.shape[0])

    clip = ClipSize(
        image_size=c["res"],
        patch_size=c["patch"],
        vision=tower("visual.", c["width"], c["layers"], c["heads"]),
        text=tower("", c["tw"], c["tl"], c["th"]),
        embed_dim=c["embed"],
        vocab_size=weights[f"{prefix}token_embedding.weight"].shape[0],
        context=weights[f"{prefix}positional_embedding"].shape[0],
    )
    return size_with(case, clip)


@register("catseg", "full")
def full(case: Case) -> dict:
    weights = case.below("w.")
    size = model_size(case, weights)
    out, taps, shown = run_full(case, lambda: CatSeg(size, rngs=nnx.Rngs(0)), port.RULES, weights)
    out["mid.clip_input_every8"] = to_maps(taps["views"][:, ::8, ::8])
    out["mid.clip_dense"] = shown(taps["dense_tokens"])
    for name, value in zip(("res4", "res5"), taps["upsampled"], strict=True):
        channels = case.tensors[f"mid.{name}_first_channels"].shape[1]
        out[f"mid.{name}_first_channels"] = shown(to_maps(value[..., :channels]))
    return out


@register("catseg", "train_step")
def train_step(case: Case) -> dict:
    weights = case.below("w.")
    size = model_size(case, weights)
    step = run_train_step(
        case, lambda: CatSeg(size, rngs=nnx.Rngs(0)), port.RULES, LEARNING_RATES, weights
    )
    return step.out | {"out.loss_sem_seg": step.losses["segmentation"]}
