"""PartCATSeg: its aggregator, and whole runs in inference and training."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from opvseg_jax.aggregation.blocks import Mode
from opvseg_jax.core.image import resize
from opvseg_jax.core.weights import blueprint
from opvseg_jax.methods.partcatseg import port
from opvseg_jax.methods.partcatseg.head import PartHead
from opvseg_jax.methods.partcatseg.model import PartCatSeg
from opvseg_jax.methods.partcatseg.sizes import LEARNING_RATES
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.vocabulary import Part, Vocabulary
from parity import part_models as models
from parity.aggregation_cases import maps, to_maps, to_volume
from parity.harness import Case, register
from parity.part_models import recorded_encoders, recorded_layers, to_costs
from parity.semantic_models import labels_of


def words_of(case: Case) -> TextFeatures:
    """Of the aggregator's case: rows of parts, objects, background; of specific parts as well."""
    c = case.config
    g, o = c["parts"], c["objs"]
    # A part may be listed twice for an object there, which no real vocabulary has.
    owned = [Part(owner, f"part {i}") for i, owner in enumerate(c["obj_map"])]
    vocabulary = Vocabulary(tuple(f"object {i}" for i in range(o)), tuple(owned))
    first, specific = (
        jnp.asarray(case.tensors[f"in.{name}"])[0] for name in ("text_part_obj", "text_specific")
    )
    many = jnp.zeros((len(owned), *first.shape[1:]))
    text = TextFeatures.of(
        vocabulary, first[g : g + o], specific[:-1], many, background=first[g + o :]
    )
    return dataclasses.replace(
        text,
        generic=first[:g],
        generic_mask=jnp.ones(g, bool),
        part_to_generic=jnp.asarray(c["part_map"]),
    )


@register("partcatseg", "aggregator", layers=("mid.costs.*_cost",))
def aggregator(case: Case) -> dict:
    size = models.part_head_size(case.config)
    plan = blueprint(lambda: PartHead(size, rngs=nnx.Rngs(0)))
    leaves = models.converted(case, port.HEAD, plan)
    text = words_of(case)
    assert np.array_equal(case.tensors["in.text_specific"][0, -1], np.asarray(text.background[0]))
    pyramid = [maps(case.tensors[f"in.guidance{level}"]) for level in range(3)]
    weights = [
        jnp.asarray(case.tensors[f"in.loss_weight_{name}"]) for name in ("part_obj", "specific")
    ]
    mode = Mode(tuple(case.config["pool"]))

    def run(leaves, features, first_guidance):
        head, taps = plan.merge(leaves), {"first": {}, "second": {}}
        guides = head.guides([first_guidance, *pyramid[1:]], taps)
        first = head.first(features, text, guides, mode, taps["first"])
        second = head.second(first.hidden, text, guides, mode, taps["second"])
        logits = [head.decode(x.hidden, guides) for x in (first, second)]
        loss = sum((a * b).sum() for a, b in zip(logits, weights, strict=True))
        return loss, (logits, taps)

    inputs = leaves, maps(case.tensors["in.img_feats"]), pyramid[0]
    gradient = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))
    norms, (logits, taps) = jax.device_get(gradient(*inputs))
    of_leaves, of_features, of_guidance = norms
    out = models.gradient_norms(port.HEAD, of_leaves)
    out["out.grad_norm.IN.img_feats"] = np.linalg.norm(of_features)
    out["out.grad_norm.IN.guidance0"] = np.linalg.norm(of_guidance)
    out["out.part_obj_logits"], out["out.specific_logits"] = logits
    out["mid.appearance_guidance"] = to_maps(taps["appearance"])
    out["mid.specific_feats"] = taps["second"]["own_features"].transpose(0, 1, 4, 2, 3)
    out |= recorded_layers(taps["first"]["layers"], "mid.layers")
    out |= recorded_layers(taps["second"]["layers"], "mid.layers_specific_part")
    for name, short, volume in (
        ("part_obj", "part_obj", taps["first"]),
        ("specific_part", "specific", taps["second"]),
    ):
        last = list(volume["layers"].values())[-1]["out"]
        out[f"mid.{short}_cost_embed"] = to_volume(volume["embedded"])
        out[f"mid.costs.{name}_cost"] = to_costs(volume["costs"])
        out[f"mid.costs.{name}_cost_emb"] = to_volume(last)
    return out


@register("partcatseg", "full")
def full(case: Case) -> dict:
    size = models.part_model_size(case, case.below("w."))
    plan = blueprint(lambda: PartCatSeg(size, rngs=nnx.Rngs(0)))
    leaves = models.converted(case, port.RULES, plan)
    out = {}
    for index, about in enumerate(case.about["eval"]):
        out |= _inference(case, plan, leaves, f"eval{index}", about)
    return {**out, **_training(case, plan, leaves)}


def _inference(case: Case, plan, leaves: dict, name: str, about: dict) -> dict:
    words = models.words_of(case, "test")

    @jax.jit
    def run(leaves, image):
        model, taps = plan.merge(leaves), {}
        text = words.features(model)
        outputs = model(image, text)
        text = model.known(text)
        model.logits(image, text, train=True, taps=taps)
        return resize(outputs.parts, tuple(about["output"]))[0], text, taps

    image = maps(case.tensors[f"in.{name}.image"][None])
    scores, text, taps = jax.device_get(run(leaves, image))
    first, second = taps["first"], taps["second"]
    mine = models.owned_by(case, about["gt_object_class"])
    out = {
        f"out.{name}.sem_seg_all": scores.transpose(2, 0, 1),
        f"out.{name}.sem_seg": np.where(mine, scores[..., :-1], -1).transpose(2, 0, 1),
        **recorded_encoders(taps, f"mid.{name}"),
        f"mid.{name}.text_guidance_part_obj": first["text"],
        f"mid.{name}.text_guidance_specific": second["text"],
        f"mid.{name}.specific_feats": second["own_features"].transpose(0, 1, 4, 2, 3),
        f"mid.{name}.part_obj_logits": taps["first_logits"],
        f"mid.{name}.specific_logits": taps["second_logits"],
        **recorded_layers(first["layers"], f"mid.{name}.layers"),
        **recorded_layers(second["layers"], f"mid.{name}.layers_specific_part"),
        **models.recorded_words(case, "test", words, text),
    }
    for short, volume in (("part_obj", first), ("specific", second)):
        last = list(volume["layers"].values())[-1]["out"]
        out[f"mid.{name}.{short}_cost"] = to_costs(volume["costs"])
        out[f"mid.{name}.{short}_cost_embed"] = to_volume(volume["embedded"])
        out[f"mid.{name}.decoder_in_{short}"] = to_volume(last)
    if (labels := f"out.{name}.argmax_all") in case.tensors:
        out[labels] = labels_of(np.asarray(scores), case.tensors[labels])
    return out


TERMS = {
    "specific_part_loss_on_part_pixels": "parts",
    "specific_part_loss_on_background_pixels": "parts_on_background",
    "part_loss": "generic_parts",
    "obj_loss": "objects",
    "jsd_loss": "composition",
}


def _training(case: Case, plan, leaves: dict) -> dict:
    words, batch = models.words_of(case, "train"), models.batch_of(case)
    trained, frozen = models.trained_and_frozen(leaves, LEARNING_RATES)

    @jax.jit
    def gradient(trained):
        def loss(trained):
            model, taps = plan.merge(trained | frozen), {}
            text = words.features(model)
            arrays = batch["image"], batch["object_map"], batch["part_map"]
            terms = model.losses(*arrays, text, taps)
            recorded = [taps[name] for name in ("first_logits", "second_logits", "composition")]
            return sum(terms.values()), (terms, recorded, model.with_background(text))

        return jax.value_and_grad(loss, has_aux=True)(trained)

    (total, (terms, recorded, text)), gradients = jax.device_get(gradient(trained))
    norms = models.gradient_norms(port.RULES, gradients)
    first, second, composition = recorded
    out = {f"out.train.{theirs}": terms[ours] for theirs, ours in TERMS.items()}
    out |= {
        "out.train.loss": total,
        "mid.train.part_obj_logits": first,
        "mid.train.specific_logits": second,
        **norms,
        "out.train.total_grad_norm": models.total_norm(norms),
        **models.recorded_words(case, "train", words, text),
    }
    for name, value in zip(("p", "q"), composition, strict=True):
        out[f"mid.train.jsd_{name}"] = value.reshape(*value.shape[:2], -1)
    return out | _steps(case, leaves, trained, gradient)


def _steps(case: Case, leaves: dict, trained: dict, gradient) -> dict:
    """Three steps of the optimizer on the same batch."""
    about = case.about["optimizer"]
    horizon = int(re.search(r"pi\*it/(\d+)", about["schedule"])[1])
    adam = models.AdamW(
        trained, LEARNING_RATES, rate=about["lr"], max_norm=about["clip_total_norm"]
    )
    losses, out = [], {}
    for step in range(len(case.tensors["out.train.losses_3steps"])):
        now = {path: jnp.asarray(x, jnp.float32) for path, x in adam.leaves.items()}
        (total, _), gradients = gradient(now)
        losses.append(total)
        adam.step(gradients, 0.5 * (1 + np.cos(np.pi * step / horizon)))
        out |= models.deltas(case, port.RULES, leaves, {**leaves, **adam.leaves}, step + 1)
    return out | {"out.train.losses_3steps": np.array(losses, np.float32)}
