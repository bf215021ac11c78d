"""HOPS: fusion and filter of attention, propagation, regions, both stages, whole runs."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.core.weights import blueprint
from opvseg_jax.hierarchy import attention_fusion, consistency, propagation
from opvseg_jax.hierarchy.regions import crop_objects, largest_regions
from opvseg_jax.methods.hops import port
from opvseg_jax.methods.hops.head import HopsHead, unchanged
from opvseg_jax.methods.hops.model import Hops
from opvseg_jax.methods.hops.sizes import PAPER, RELEASED, HopsOptions
from parity import hops_models
from parity import part_models as models
from parity.aggregation_cases import maps
from parity.harness import Case, register
from parity.hops_models import listed_regions
from parity.part_models import costs_of, recorded_stage, to_costs


@register("hops", "aem", layers=("*",))
def aem(case: Case) -> dict:
    attention = jnp.asarray(case.tensors["in.attention"])
    affinity = propagation.attention_affinity(attention)
    costs = costs_of(case.tensors["in.cost"])
    out = {
        "mid.mean_attention": attention.mean(axis=1)[0],
        "mid.affinity": affinity[0],
        "out.cost": to_costs(propagation.propagate(affinity, costs)),
    }
    for name in case.wanted():
        if sweeps := re.fullmatch(r"mid\.sinkhorn(\d+)", name):
            stochastic = propagation.doubly_stochastic(attention.mean(axis=1), int(sweeps[1]))
            out[name] = stochastic[0]
        if share := re.fullmatch(r"out\.boxes_thr(.+)", name):
            scores = jnp.asarray(case.tensors["in.scoremap"])
            out[name] = contour_boxes(propagation.above_share(scores, float(share[1])))
    return out


def contour_boxes(mask: jax.Array) -> np.ndarray:
    """mask [H, W] -> int [n, 4] sorted: x0, y0, x1, y1 of every outline, those of holes included.

    A hole is a piece of background that does not reach the border; its outline runs on the pixels
    around it.
    """
    h, w = mask.shape
    holes = np.array(propagation.component_boxes(~mask, diagonal=False))[np.asarray(~mask)]
    inner = (holes[:, :2] > 0).all(axis=1) & (holes[:, 2] < h) & (holes[:, 3] < w)
    holes = holes[inner] + np.array([-1, -1, 1, 1])
    boxes = np.asarray(propagation.component_boxes(mask))[np.asarray(mask)]
    found = np.concatenate([np.unique(boxes, axis=0), np.unique(holes, axis=0)])
    found[:, 2:] = np.minimum(found[:, 2:], [h - 1, w - 1])
    found = found[:, [1, 0, 3, 2]].astype(np.int32)
    return found[np.lexsort(found.T[::-1])]


@register("hops", "fusion_afm", layers=("*",))
def fusion_afm(case: Case) -> dict:
    n = int(np.prod(case.config["grid"]))
    clip = attention_fusion.stack_layers(list(jnp.asarray(case.tensors["in.attn_clip_with_cls"])))
    heads = jnp.asarray(case.tensors["in.attn_dino_heads_with_cls"])
    dino = attention_fusion.stack_layers(list(heads.mean(axis=2)))
    dino = attention_fusion.resize_attention(dino, n)
    threshold = attention_fusion.largest_threshold(clip)
    out = {
        "mid.attn_clip": clip.swapaxes(0, 1),
        "mid.attn_dino_resized": dino.swapaxes(0, 1),
        "mid.softmax_dino_over_rows_axis": jax.nn.softmax(dino, axis=-2).swapaxes(0, 1),
        "mid.clip_quantile_threshold": threshold.T,
        "mid.clip_quantile_mask": (clip >= threshold[..., None, None]).swapaxes(0, 1),
    }
    for name in case.wanted():
        if about := re.fullmatch(r"out\.fused\.(?:\w+?_)?alpha(.+?)(?:_y(\d+))?_(un)?masked", name):
            fused = attention_fusion.fuse(clip, dino, alpha=float(about[1]))
            kept = fused if about[3] else consistency.keep_agreed(fused, at_least=int(about[2]))
            out[name] = kept
    return {**out, **_filtered(case, clip, dino), **_coarse(case, clip)}


def _filtered(case: Case, clip: jax.Array, dino: jax.Array) -> dict:
    out = {}
    costs = costs_of(case.tensors["in.cost"])
    for name in case.wanted():
        if not (about := re.fullmatch(r"out\.afm\.(clip|fused_alpha(.+))\.cost", name)):
            continue
        attention = attention_fusion.fuse(clip, dino, alpha=float(about[2])) if about[2] else clip
        operator = consistency.filter_operator(attention, at_least=consistency.RELEASED_VOTES)
        agreed = consistency.votes(attention) >= consistency.RELEASED_VOTES
        out[f"mid.afm.{about[1]}.vote_mask"] = agreed
        out[f"mid.afm.{about[1]}.operator"] = operator
        out[name] = to_costs(consistency.spread_costs(operator, costs))
    return out


def _coarse(case: Case, clip: jax.Array) -> dict:
    """The stand-alone module; its masks are recorded for the defaults."""
    coarse = jnp.asarray(case.tensors["in.module.P_coarse"])
    out = {
        "mid.module.M_attn": (consistency.votes(clip) >= 7).astype(jnp.float32),
        "mid.module.M_cls": consistency.confident_classes(coarse).astype(jnp.float32),
    }
    for name in case.wanted():
        if about := re.fullmatch(r"out\.module\.K(\d+)_tau(.+)", name):
            options = {"at_least": int(about[1]) + 1, "margin": float(about[2])}
            out[name] = consistency.filter_coarse(clip, coarse, **options)
    return out


@register("hops", "regions", layers=("*",))
def regions(case: Case) -> dict:
    num_objects, side = case.config["num_object_classes"], case.config["crop_resolution"]
    logits = maps(case.tensors["in.obj_logits"])
    found = largest_regions(jnp.argmax(logits, axis=-1), num_objects, num_objects)
    crops = crop_objects(maps(case.tensors["in.image"]), found, (side, side))
    listed = listed_regions(found)
    out = {"out.batch_class_xywh": np.array([region.row for region in listed], np.int32)}
    for index, region in enumerate(listed):
        out[f"out.mask.{index}"] = region.mask(found)
        out[f"out.crop.{index}"] = crops[region.image, region.slot].transpose(2, 0, 1)
    return out


@register("hops", "aggregator", layers=("mid.*.cost",))
def aggregator(case: Case) -> dict:
    size = models.part_head_size(case.config)
    plan = blueprint(lambda: HopsHead(size, chained=False, rngs=nnx.Rngs(0)))
    leaves = models.converted(case, port.HEAD, plan)
    text, first = jnp.asarray(case.tensors["in.text_part_obj_feats"])[0], case.config["np_"]
    attention = jnp.asarray(case.tensors["in.attention"])
    agreed = consistency.filter_operator(attention, at_least=consistency.RELEASED_VOTES)
    affinity = propagation.attention_affinity(attention[:1])
    pyramid = [maps(case.tensors[f"in.guidance{level}"]) for level in range(3)]
    features, mode = maps(case.tensors["in.img_feats"]), Mode(tuple(case.config["pool"]))

    def objects(leaves, features, guidance, refine, taps=None):
        words = jnp.broadcast_to(text[first:], (len(features), *text[first:].shape))
        mask = jnp.ones(words.shape[:2], bool)
        levels = [guidance, *pyramid[1:]]
        head = plan.merge(leaves)
        return head.objects(features, words, mask, levels, mode, refine=refine, taps=taps)

    def weighted(leaves, features, guidance):
        taps, refine = {}, functools.partial(consistency.spread_costs, agreed)
        logits = objects(leaves, features, guidance, refine, taps)
        loss = (logits * case.tensors["in.loss_weight"]).sum()
        return loss, (logits, taps)

    @jax.jit
    def parts(leaves):
        words = text[jnp.asarray(case.tensors["in.part_index"])][None]
        levels, mask = [level[:1] for level in pyramid], jnp.ones(words.shape[:2], bool)
        out = {}
        for name, refine in {
            "off": unchanged,
            "on": functools.partial(propagation.propagate, affinity),
        }.items():
            taps, head = {}, plan.merge(leaves)
            logits = head.parts(features[:1], words, mask, levels, mode, refine=refine, taps=taps)
            out |= recorded_stage(taps, f"mid.part_aem_{name}", "layers_part", size.num_layers)
            out[f"out.part_logits_aem_{name}"] = logits
        return out

    gradient = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))
    norms, (logits, taps) = jax.device_get(gradient(leaves, features, pyramid[0]))
    plain = jax.jit(functools.partial(objects, refine=unchanged))
    return {
        "out.object_logits_afm_on": logits,
        "out.object_logits_afm_off": plain(leaves, features, pyramid[0]),
        **recorded_stage(taps, "mid.object_afm_on", "layers", size.num_layers),
        **parts(leaves),
        **models.gradient_norms(port.HEAD, norms[0], "out.grad_norm.object."),
        "out.grad_norm.object.IN.img_feats": np.linalg.norm(norms[1]),
        "out.grad_norm.object.IN.guidance0": np.linalg.norm(norms[2]),
    }


@register("hops", "full")
def full(case: Case) -> dict:
    """The program as it was released."""
    return whole_run(case, RELEASED)


@register("hops", "paper_reading")
def paper_reading(case: Case) -> dict:
    """The reference's functions put together as the paper says, on its other habits."""
    options = dataclasses.replace(
        PAPER, last_block="twice", repeat_sigmoid=True, object_weight=1.0, part_weight=1.0
    )
    return whole_run(case, options)


def whole_run(case: Case, options: HopsOptions) -> dict:
    size = hops_models.size_of(case, options)
    plan = blueprint(lambda: Hops(size, rngs=nnx.Rngs(0)))
    leaves = models.converted(case, port.RULES, plan)
    out = {}
    runs = {f"eval{index}": about for index, about in enumerate(case.about["eval"])}
    for name, about in {**runs, "evalF": case.about["evalF"]}.items():
        out |= hops_models.inference(case, plan, leaves, name, about)
    return out | hops_models.training(case, plan, leaves)
