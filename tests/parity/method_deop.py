"""DeOP: CLIP's image tower under every kind of severance and prompt, and learned text prompts."""

import math
import re

import jax
import jax.numpy as jnp
from flax import nnx

from opvseg_jax.core.layers import unit
from opvseg_jax.core.weights import blueprint
from opvseg_jax.encoders import port_clip
from opvseg_jax.encoders.clip_text import ClipText
from opvseg_jax.encoders.clip_vision import ClipVision
from opvseg_jax.encoders.positions import DEOP
from opvseg_jax.encoders.prompts import VisualPrompts
from opvseg_jax.encoders.severance import Gps, GpsMask, Mps, Severance
from opvseg_jax.encoders.text_prompts import TextPrompts
from opvseg_jax.port.rules import Skip, Take, convert
from parity.harness import Case, register
from parity.method_clip import channels_last

TOWERS = {"add_vpt": "added", "no_vpt": None, "prepend_vpt": "prepended"}
MODE = re.compile(r"(plain|plain_cls|gps_alpha|(?:gps_mask|gps_identity|mps)(?:_p\d+)?)(?:\.(.+))?")


class PromptedTower(nnx.Module):
    """The image tower with both kinds of visual prompts, of which a run uses one."""

    def __init__(self, case: Case, shapes: dict[str, tuple[int, ...]], rngs: nnx.Rngs):
        c = case.config
        width = c["vision_width"]
        self.vision = ClipVision(
            image_size=c["image_resolution"],
            patch_size=c["patch"],
            width=width,
            num_layers=c["vision_layers"],
            num_heads=c["vision_heads"],
            mlp_dim=shapes["transformer.resblocks.0.mlp.c_fc.bias"][0],
            embed_dim=c["embed_dim"],
            position_rule=DEOP,
            rngs=rngs,
        )
        tables = {
            int(match[1]): math.isqrt(shape[0] - 1)
            for name, shape in shapes.items()
            if (match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.learned_position", name))
        }
        root = shapes.get("learned_position")
        self.added = VisualPrompts(
            width,
            input_grid=math.isqrt(root[0] - 1) if root else None,
            layer_grid=next(iter(tables.values()), None),
            layers=tuple(sorted(tables)),
            rngs=rngs,
        )
        deep = shapes.get("transformer.deep_prompt_embeddings", (0, 0))
        self.prepended = VisualPrompts(
            width,
            prepend_layers=tuple(c["prepend_prompt_layers"]) if deep[0] else (),
            num_prepended=deep[1],
            rngs=rngs,
        )


PROMPTED_TOWER = (
    *port_clip.under(port_clip.OPENAI_VISION, "", "vision/"),
    *(
        port_clip.under((rule,), "", "prepended/" if "prepended" in rule.paths else "added/")[0]
        for rule in port_clip.VISUAL_PROMPTS
    ),
)


@register("deop", "clip_visual")
def clip_visual(case: Case) -> dict:
    weights = case.below("w.visual.")
    shapes = {name: x.shape for name, x in weights.items()}
    plan = blueprint(lambda: PromptedTower(case, shapes, nnx.Rngs(0)))
    leaves = convert(PROMPTED_TOWER, weights, plan.shapes)
    inputs = case.below("in.")
    images = {name: channels_last(x) for name, x in inputs.items() if name.endswith("image")}
    masks = {
        name: jnp.asarray(x).transpose(0, 2, 3, 1)
        for name, x in inputs.items()
        if name.endswith("mask_logits")
    }
    runs = sorted({run for name in case.wanted() if (run := run_of(name))})

    @jax.jit
    def run_all(leaves, images, masks):
        tower = plan.merge(leaves)
        return {
            name: value
            for run in runs
            for name, value in one_run(case, tower, run, images, masks).items()
        }

    return run_all(leaves, images, masks)


def run_of(name: str) -> str | None:
    """`out.add_vpt.mps.last` -> `add_vpt.mps.last`; also of its intermediates. None if unknown."""
    run = re.sub(r"\.block_(input_\d+|output_last)$", "", name.split(".", 1)[1])
    parts = run.split(".", 2 if run.startswith("edge") else 1)
    known = parts[-2] in TOWERS and MODE.fullmatch(parts[-1])
    return run if known else None


def one_run(case: Case, tower: PromptedTower, run: str, images: dict, masks: dict) -> dict:
    """All that one way of running the tower computes, under the names of the reference."""
    *prefix, kind, rest = run.split(".", 2 if run.startswith("edge") else 1)
    source = prefix[0].split("_")[0] + "_" if prefix else ""  # edge_... reads in.edge_image
    x, mask_logits = images[f"{source}image"], masks.get(f"{source}mask_logits")
    vision, prompts = tower.vision, getattr(tower, TOWERS[kind] or "", None)
    last = case.config.get("severed_layer_last", vision.num_layers - 1)
    mode, option = MODE.fullmatch(rest).groups()
    encoded = vision.encode(
        x,
        severance=severance_of(mode, option or "", last, mask_logits),
        prompts=prompts,
        hidden=(-1, *range(vision.num_layers)),
    )
    cls, patches = vision.split(vision.project(encoded.tokens), vision.grid(x))
    out = {f"out.{run}": cls if mode == "plain_cls" else patches}
    for i in range(vision.num_layers):
        out[f"mid.{run}.block_input_{i}"] = encoded.hidden[i - 1]
    return out | {f"mid.{run}.block_output_last": encoded.hidden[vision.num_layers - 1]}


def severance_of(mode: str, option: str, last: int, mask_logits) -> dict[int, Severance]:
    """The severed blocks of a run named e.g. `gps_mask.last2` or `gps_alpha.0.5_1.0`."""
    if mode.startswith("plain"):
        return {}
    if mode == "gps_alpha":
        alphas = [float(alpha) for alpha in option.split("_")]
        first = last - len(alphas) + 1
        return {first + i: Gps(alpha=alpha) for i, alpha in enumerate(alphas)}
    shortcut = float(option.removeprefix("shortcut")) if option.startswith("shortcut") else 1.0
    depth = int(option.removeprefix("last") or 1) if option.startswith("last") else 1
    name = re.sub(r"_p\d+$", "", mode)
    severance = {
        "gps_identity": Gps(shortcut=shortcut),
        "gps_mask": GpsMask(mask_logits, shortcut=shortcut),
        "mps": Mps(mask_logits, shortcut=shortcut),
    }[name]
    return dict.fromkeys(range(last - depth + 1, last + 1), severance)


class PromptedText(nnx.Module):
    """The text tower, learned words around the class names, and a row for no object."""

    def __init__(self, case: Case, shapes: dict, prompts: dict, rngs: nnx.Rngs):
        c, below = case.config, "clip_model."
        context, width = shapes[below + "positional_embedding"]
        self.text = ClipText(
            vocab_size=shapes[below + "token_embedding.weight"][0],
            context=context,
            width=width,
            num_layers=c["text_layers"],
            num_heads=c["text_heads"],
            mlp_dim=shapes[below + "transformer.resblocks.0.mlp.c_fc.bias"][0],
            embed_dim=c["embed_dim"],
            rngs=rngs,
        )
        rows = {name: len(x) for name, x in prompts.items()}
        self.prompts = TextPrompts(
            width, rows.get("prefix_prompt", 0), rows.get("suffix_prompt", 0), rngs=rngs
        )
        self.non_object = nnx.Param(jnp.zeros(shapes["non_object_embedding"]))


PROMPTED_TEXT = (
    *port_clip.under(port_clip.OPENAI_TEXT, "clip_model.", "text/"),
    *port_clip.under(port_clip.TEXT_PROMPTS, "prompt_learner.", "prompts/"),
    Take("non_object_embedding", "non_object"),
    Skip("clip_model.logit_scale", "DeOP's temperature is a constant"),
)


@register("deop", "text_prompt", layers=("mid.*.input_embeddings",))
def text_prompt(case: Case) -> dict:
    real = list(case.tensors["in.compact_to_real"])
    for name, compact in case.below("in.").items():
        if name.endswith("token_ids_compact"):
            ids = case.tensors["in." + name.replace("compact", "real")]
            assert [real[i] for i in compact.flat] == list(ids.flat), f"{name}: not those of real"
    common = case.below("w.clip_adapter.")
    out = predefined(case, common)
    for i in range(len(case.config["prompt_shapes"])):
        own = case.below(f"w.variant{i}.prompt_learner.")
        learned = own or {
            name: x
            for name, x in case.below("w.clip_adapter.prompt_learner.").items()
            if name.endswith("_prompt")
        }
        results = learnable(case, common, learned, full_stop=real.index(269), pad=real.index(0))
        out |= {name.replace("learnable", f"learnable{i}"): x for name, x in results.items()}
    return out


def loaded(case: Case, common: dict, prompts: dict):
    """The plan and the leaves of a text tower with these prompts."""
    rest = {name: x for name, x in common.items() if not name.endswith("_prompt")}
    weights = rest | {f"prompt_learner.{name}": x for name, x in prompts.items()}
    shapes = {name: x.shape for name, x in weights.items()}
    plan = blueprint(lambda: PromptedText(case, shapes, prompts, nnx.Rngs(0)))
    return plan, convert(PROMPTED_TEXT, weights, plan.shapes)


def learnable(case: Case, common: dict, prompts: dict, *, full_stop: int, pad: int) -> dict:
    plan, leaves = loaded(case, common, prompts)

    @jax.jit
    def run(leaves, names):
        model = plan.merge(leaves)
        embeddings, end = model.prompts(model.text, names, full_stop=full_stop, pad=pad)
        rows = [model.text.from_embeddings(embeddings, end), model.non_object[...]]
        return {
            "mid.learnable.input_embeddings": embeddings,
            "mid.learnable.eot_index": end,
            "out.learnable.text_features": unit(jnp.concatenate(rows)),
        }

    return run(leaves, jnp.asarray(case.tensors["in.token_ids_compact"]))


def predefined(case: Case, common: dict) -> dict:
    """Unit-norm mean over templates of unit-norm features."""
    names = sorted(name for name in case.tensors if re.match(r"in\.template\d+\..*compact", name))
    if not names:
        return {}
    plan, leaves = loaded(case, common, {})
    tokens = jnp.stack([case.tensors[name] for name in names])
    encode = jax.jit(lambda leaves, tokens: unit(plan.merge(leaves).text(tokens)))
    mean = sum(encode(leaves, each) for each in tokens) / len(tokens)
    return {"out.predefined.text_features": unit(mean)}
