"""Whole runs of HOPS: what is recorded of images, of regions, and of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.image import resize
from opvseg_jax.core.weights import Blueprint
from opvseg_jax.hierarchy import propagation
from opvseg_jax.methods.hops import port
from opvseg_jax.methods.hops.sizes import LEARNING_RATES, HopsOptions, HopsSize
from parity import part_models as models
from parity.aggregation_cases import maps, to_maps
from parity.harness import Case
from parity.part_models import recorded_encoders, recorded_stage, to_costs


class Listed:
    """A region in the reference's order: by image, then by object."""

    def __init__(self, image: int, slot: int, label: int, box):
        top, left, bottom, right = (int(edge) for edge in box)
        self.image, self.slot, self.label = image, slot, label
        self.row = (image, label, left, top, right - left, bottom - top)

    def mask(self, found) -> np.ndarray:
        return np.asarray(found.slots[self.image] == self.slot).astype(np.uint8)


def listed_regions(found) -> list[Listed]:
    objects, present, boxes = (np.asarray(x) for x in (found.objects, found.present, found.boxes))
    every = [
        Listed(image, slot, int(objects[image, slot]), boxes[image, slot])
        for image, slot in np.argwhere(present)
    ]
    return sorted(every, key=lambda region: region.row[:2])


def size_of(case: Case, options: HopsOptions) -> HopsSize:
    """The reference has no limit of regions, and runs the last layer alone."""
    base = models.part_model_size(case, case.below("w."))
    shared = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return HopsSize(**shared, options=dataclasses.replace(options, num_slots=1000, layers="last"))


def inference(case: Case, plan: Blueprint, leaves: dict, name: str, about: dict) -> dict:
    """One image, by its own stage one or by recorded logits of it."""
    words, given = models.words_of(case, "test"), case.tensors.get(f"in.{name}.obj_logits")

    @jax.jit
    def run(leaves, image):
        model, taps = plan.merge(leaves), {}
        text = model.known(words.features(model))
        logits = None if given is None else jnp.asarray(given)
        stages = model.stages(image, text, object_logits=logits, taps=taps)
        scores = stages.parts.scores(repeat_sigmoid=True)
        return scores, resize(scores, tuple(about["output"]))[0], text, taps

    @jax.jit
    def as_called(leaves, image):
        model = plan.merge(leaves)
        return model(image, words.features(model)).parts

    image = maps(case.tensors[f"in.{name}.image"][None])
    scores, resized, text, taps = jax.device_get(run(leaves, image))
    if name == "eval0":
        np.testing.assert_allclose(as_called(leaves, image), scores, atol=1e-5)
    mine = models.owned_by(case, about["gt_object_class"])
    out = {
        f"out.{name}.sem_seg_all": resized.transpose(2, 0, 1),
        f"out.{name}.sem_seg": np.where(mine, resized[..., :-1], -1).transpose(2, 0, 1),
        **models.recorded_words(case, "test", words, text),
        **recorded_regions(case, taps, words.vocabulary, f"mid.{name}"),
    }
    if given is None:
        layers = case.config["nlayers"]
        out |= recorded_encoders(taps["objects"], f"mid.{name}")
        out |= recorded_maps(taps["objects"], f"mid.{name}")
        out |= recorded_stage(taps["objects"], f"mid.{name}", "layers", layers)
        out[f"mid.{name}.obj_logits"] = taps["objects"]["logits"]
    return out


def recorded_maps(taps: dict, prefix: str) -> dict:
    """Attention of the encoders, [L, B, 1 + N, 1 + N]."""
    out = {f"{prefix}.clip_attn": np.stack(taps["clip_maps"])}
    if taps["dino_maps"]:
        out[f"{prefix}.dino_attn_head_mean"] = np.stack(taps["dino_maps"])
    return out


def recorded_regions(case: Case, taps: dict, vocabulary, prefix: str) -> dict:
    """Masks, boxes, and what was made of each region."""
    found, inside = taps["regions"], taps["parts"]
    listed = listed_regions(found)
    slots = found.present.shape[1]
    stage = recorded_stage(inside, "stage", "layers_part", case.config["nlayers"])
    out = {
        f"{prefix}.region_masks": np.stack([region.mask(found) for region in listed]),
        f"{prefix}.regions_batch_class_xywh": np.array([x.row for x in listed], np.int32),
    }
    for index, region in enumerate(listed):
        row, name = region.image * slots + region.slot, f"{prefix}.region{index}"
        count = int((vocabulary.part_to_object == region.label).sum())
        out |= {
            f"{name}.crop": inside["crops"][region.image, region.slot].transpose(2, 0, 1),
            f"{name}.clip_features": inside["clip_tokens"][row][None],
            f"{name}.dino.res4": to_maps(inside["pyramid"][0][row][None]),
            f"{name}.part_logits": inside["logits"][row][None, :count],
        }
        for what in ("cost", "cost_propagated"):
            out[f"{name}.{what}"] = stage[f"stage.{what}"][row][None, :, :count]
        last = f"layers_part.{case.config['nlayers'] - 1}"
        out[f"{name}.{last}"] = stage[f"stage.{last}"][row][None, :, :count]
        if "attention" in inside:
            # The recorder kept what was fused last: for the last region, not for the image.
            out[f"{prefix}.fused_attention_alpha0.7"] = inside["attention"][row][None]
            mean = inside["attention"][row].mean(axis=0)
            out[f"{name}.mean_attention"] = mean
            out[f"{name}.sinkhorn"] = propagation.doubly_stochastic(mean)
    return out


def training(case: Case, plan: Blueprint, leaves: dict) -> dict:
    """Losses and gradients of a batch, with stage one's logits and with recorded ones; a step."""
    words, batch = models.words_of(case, "train"), models.batch_of(case)
    trained, frozen = models.trained_and_frozen(leaves, LEARNING_RATES)

    @jax.jit
    def gradient(trained, given):
        def loss(trained):
            model, taps = plan.merge(trained | frozen), {}
            text = words.features(model)
            arrays = batch["image"], batch["object_map"], batch["part_map"]
            terms = model.losses(*arrays, text, object_logits=given, taps=taps)
            return sum(terms.values()), (terms, taps, model.with_background(text))

        return jax.value_and_grad(loss, has_aux=True)(trained)

    out = {}
    for name in ("train", "trainF"):
        given = case.tensors.get(f"in.{name}.obj_logits")
        given = None if given is None else jnp.asarray(given)
        (total, (terms, taps, text)), gradients = jax.device_get(gradient(trained, given))
        out |= {
            f"out.{name}.loss": total,
            f"out.{name}.specific_part_loss": terms["parts"],
            f"out.{name}.obj_loss": terms["objects"],
            **recorded_regions(case, taps, words.vocabulary, f"mid.{name}"),
        }
        norms = models.gradient_norms(port.RULES, gradients)
        if given is not None:
            out |= models.gradient_norms(port.RULES, gradients, f"out.{name}.grad_norm.")
            continue
        pasted = taps["pasted"]
        probabilities = np.where(pasted.covered, 1 / (1 + np.exp(-pasted.logits)), 0.0)
        out |= norms | {
            "out.train.total_grad_norm": models.total_norm(norms),
            "mid.train.specific_part_probs": probabilities,
            "mid.train.cost_after_afm": to_costs(taps["objects"]["refined"]),
            "mid.train.obj_logits": taps["objects"]["logits"],
            **recorded_stage(taps["objects"], "mid.train", "layers", case.config["nlayers"]),
            **models.recorded_words(case, "train", words, text),
        }
        adam = models.AdamW(trained, LEARNING_RATES)
        adam.step(gradients, 1.0)
        out |= models.deltas(case, port.RULES, leaves, {**leaves, **adam.leaves}, 1)
    return out
