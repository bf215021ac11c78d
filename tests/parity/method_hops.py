"""HOPS: fusion and filter of attention, propagation, regions, both stages, whole runs."""

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
from parity import part_models as models
from parity.aggregation_cases import maps, to_maps, to_volume
from parity.harness import Case, register
from parity.part_models import costs_of, recorded_layers, to_costs


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
    listed = listed_regions(found, num_objects)
    out = {"out.batch_class_xywh": np.array([region.row for region in listed], np.int32)}
    for index, region in enumerate(listed):
        out[f"out.mask.{index}"] = region.mask(found)
        out[f"out.crop.{index}"] = crops[region.image, region.slot].transpose(2, 0, 1)
    return out


class Listed:
    """A region in the reference's order: by image, then by object."""

    def __init__(self, image: int, slot: int, label: int, box):
        top, left, bottom, right = (int(edge) for edge in box)
        self.image, self.slot = image, slot
        self.row = (image, label, left, top, right - left, bottom - top)

    def mask(self, found) -> np.ndarray:
        return np.asarray(found.slots[self.image] == self.slot).astype(np.uint8)


def listed_regions(found, num_objects: int) -> list[Listed]:
    objects, present, boxes = (np.asarray(x) for x in (found.objects, found.present, found.boxes))
    every = [
        Listed(image, slot, int(objects[image, slot]), boxes[image, slot])
        for image, slot in np.argwhere(present)
    ]
    return sorted(every, key=lambda region: region.row[:2])


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
    norms, (logits, taps) = gradient(leaves, features, pyramid[0])
    plain = jax.jit(functools.partial(objects, refine=unchanged))
    return {
        "out.object_logits_afm_on": logits,
        "out.object_logits_afm_off": plain(leaves, features, pyramid[0]),
        **recorded_stage(taps, "mid.object_afm_on", "layers", size.num_layers),
        **parts(leaves),
        **models.gradient_norms(port.HEAD, norms[0], "out.grad_norm.object."),
        "out.grad_norm.object.IN.img_feats": jnp.linalg.norm(norms[1]),
        "out.grad_norm.object.IN.guidance0": jnp.linalg.norm(norms[2]),
    }


def recorded_stage(taps: dict, prefix: str, layers: str, num_layers: int) -> dict:
    """What the reference records of the aggregator in one stage; the last layer alone ran."""
    return {
        f"{prefix}.cost": to_costs(taps["costs"]),
        f"{prefix}.cost_refined": to_costs(taps["refined"]),
        f"{prefix}.cost_before_afm": to_costs(taps["costs"]),
        f"{prefix}.cost_after_afm": to_costs(taps["refined"]),
        f"{prefix}.cost_propagated": to_costs(taps["refined"]),
        f"{prefix}.cost_embed": to_volume(taps["embedded"]),
        f"{prefix}.aggregated": to_volume(taps["aggregated"]),
        f"{prefix}.appearance_guidance": to_maps(taps["appearance"]),
        f"{prefix}.text_guidance": taps["text"],
        **recorded_layers(taps["layers"], f"{prefix}.{layers}", first=num_layers - 1),
    }
