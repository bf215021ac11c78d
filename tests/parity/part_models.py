"""Whole models on CLIP and DINO: sizes, words, training steps of PartCATSeg's and HOPS' cases."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.aggregation.head import HeadSize
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower
from opvseg_jax.methods.partcatseg.sizes import WEIGHT_DECAY, PartCatSegSize
from opvseg_jax.port.rules import Skip, convert, publish
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.vocabulary import Part, Vocabulary
from parity.aggregation_cases import to_maps, to_volume, tokens
from parity.harness import Case
from parity.semantic_models import rate_of


def part_head_size(c: dict, **more) -> HeadSize:
    """Of a case with an aggregator, or of the aggregator in a case with a whole model."""
    whole = "dino_dim" in c
    return HeadSize(
        embed_dim=c["embed_dim"] if whole else c["text"],
        num_prompts=len(c["templates"]) if whole else c["P"],
        hidden=c["hidden"] if whole else c["hid"],
        num_heads=c["nheads"] if whole else c["nh"],
        num_layers=c["nlayers"] if whole else c["nl"],
        window=c["win"],
        text_guidance=c["tproj"],
        appearance_in=c["dino_dim"] if whole else c["adim"],
        appearance=c["aproj"],
        decoder=tuple(c["dec"]),
        decoder_in=(c["dino_dim"],) * 2 if whole else tuple(c["ddim"]),
        decoder_guidance=tuple(c["decg"]),
        attention="query",
        class_limit=0,
        **more,
    )


def part_model_size(case: Case, weights: dict, **more) -> PartCatSegSize:
    """Of a case with a whole model. Patch sizes, contexts and MLPs are read from the weights."""
    c, clip_prefix = case.config, "sem_seg_head.predictor.clip_model."

    def tower(name: str, width: int, layers: int, heads: int) -> Tower:
        bias = weights[f"{clip_prefix}{name}transformer.resblocks.0.mlp.c_fc.bias"]
        return Tower(width, layers, heads, bias.shape[0])

    clip = ClipSize(
        image_size=c["clip_img"],
        patch_size=weights[f"{clip_prefix}visual.conv1.weight"].shape[-1],
        vision=tower("visual.", c["clip_width"], c["clip_layers"], c["clip_heads"]),
        text=tower("", c["text_width"], c["text_layers"], c["text_heads"]),
        embed_dim=c["embed_dim"],
        vocab_size=weights[f"{clip_prefix}token_embedding.weight"].shape[0],
        context=weights[f"{clip_prefix}positional_embedding"].shape[0],
    )
    mlp = weights["backbone.dinov2.blocks.0.mlp.fc1.bias"].shape[0]
    dino = DinoSize(
        Tower(c["dino_dim"], c["dino_layers"], c["dino_heads"], mlp),
        image_size=c["dino_img"],
        patch_size=weights["backbone.dinov2.patch_embed.proj.weight"].shape[-1],
    )
    return PartCatSegSize(
        clip=clip,
        dino=dino,
        head=part_head_size(c),
        image_size=c["R"],
        dino_size=c["D"],
        pooling=tuple(c["pool"]),
        partless="background",
        undo_padding=False,
        **more,
    )


def vocabulary_of(case: Case, split: str) -> Vocabulary:
    """The words of a case: objects without parts left out, the others sorted, as classes are.

    The reference builds its class lists from strings; that ours are the same is compared.
    """
    strings = [name.split("'s", 1) for name in case.config[f"{split}_stuff"]]
    owners = sorted({owner.strip() for owner, _ in strings})
    parts = tuple(Part(owners.index(owner.strip()), part.strip()) for owner, part in strings)
    vocabulary = Vocabulary(objects=tuple(owners), parts=parts)
    listed = [*vocabulary.generic_parts, *vocabulary.objects]
    assert listed == case.about[f"{split}_part_obj_names"]
    assert list(vocabulary.part_names) == case.about[f"{split}_text_names"]
    return vocabulary


class Words(NamedTuple):
    """Token ids in the place of embeddings, and what the reference records of the words."""

    vocabulary: Vocabulary
    generic_and_objects: jax.Array  # int [G + O, P, L]
    specific: jax.Array  # int [S, P, L]

    def features(self, model) -> TextFeatures:
        g = len(self.vocabulary.generic_parts)
        first = model.encode_tokens(self.generic_and_objects)
        parts = model.encode_tokens(self.specific)
        return TextFeatures.of(self.vocabulary, first[g:], parts, first[:g])


def words_of(case: Case, split: str) -> Words:
    vocabulary = vocabulary_of(case, split)
    assert len(case.tensors["in.vocab_ids"]) == len(
        case.tensors["w.sem_seg_head.predictor.clip_model.token_embedding.weight"]
    )
    tokens = (
        jnp.asarray(case.tensors[f"in.{split}.tokens_{name}"]) for name in ("part_obj", "specific")
    )
    return Words(vocabulary, *tokens)


def recorded_words(case: Case, split: str, words: Words, text: TextFeatures) -> dict:
    """text with the background in it -> what is recorded of it."""
    v, objects = words.vocabulary, case.config[f"{split}_obj"]
    place = {name: i for i, name in enumerate(v.objects)}
    ignore = case.config["ignore"]
    first = np.concatenate([text.generic, text.objects, text.background])
    return {
        f"mid.{split}.text_part_obj_features": first,
        f"mid.{split}.text_specific_part_features": np.concatenate([text.parts, text.background]),
        f"mid.{split}.text_to_part": v.part_to_generic,
        f"mid.{split}.text_to_obj": v.part_to_object,
        f"mid.{split}.obj_to_obj_in_part": np.array([place.get(x, ignore) for x in objects]),
    }


def batch_of(case: Case) -> dict[str, jax.Array]:
    """The training batch, with our labels: ids among the sorted objects, -1 for none."""
    objects, ignore = case.config["train_obj"], case.config["ignore"]
    place = {name: i for i, name in enumerate(vocabulary_of(case, "train").objects)}
    table = np.full(max(ignore, len(objects)) + 1, -1)
    table[: len(objects)] = [place.get(name, -1) for name in objects]
    parts = case.tensors["in.train.obj_part_sem_seg"]
    return {
        "image": jnp.asarray(case.tensors["in.train.image"]).transpose(0, 2, 3, 1),
        "object_map": jnp.asarray(table[case.tensors["in.train.sem_seg"]], jnp.int32),
        "part_map": jnp.asarray(np.where(parts == ignore, -1, parts), jnp.int32),
    }


def owned_by(case: Case, name: str) -> np.ndarray:
    """Which parts the reference takes for those of an object: its name stands in theirs."""
    return np.array([name in part for part in case.about["test_text_names"]])


def gradient_norms(rules, gradients: dict, prefix: str = "out.grad_norm.") -> dict:
    """Leaves -> the norm of each published tensor."""
    gradients = {path: np.asarray(x, np.float64) for path, x in gradients.items()}
    return {prefix + name: np.linalg.norm(x) for name, x in publish(rules, gradients).items()}


def total_norm(norms: dict) -> float:
    """Of all gradients together, from the norms of each."""
    return np.linalg.norm(list(norms.values()))


class AdamW:
    """The optimizer of the reference on flat leaves, as our tables of rates and decay say."""

    def __init__(self, leaves: dict, rates, *, rate: float = 2e-4, max_norm: float = 0.01):
        self.leaves = {path: np.asarray(x, np.float64) for path, x in leaves.items()}
        self.first = {path: np.zeros_like(x) for path, x in self.leaves.items()}
        self.second = dict(self.first)
        self.rates, self.rate, self.max_norm, self.count = rates, rate, max_norm, 0

    def step(self, gradients: dict, factor: float) -> None:
        total = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in gradients.values()))
        self.count += 1
        for path, gradient in gradients.items():
            g = np.asarray(gradient, np.float64) * min(1.0, self.max_norm / (total + 1e-6))
            self.first[path] = 0.9 * self.first[path] + 0.1 * g
            self.second[path] = 0.999 * self.second[path] + 0.001 * g * g
            rate = self.rate * factor * rate_of(path, self.rates)
            decay = rate_of(path, WEIGHT_DECAY)
            mean = self.first[path] / (1 - 0.9**self.count)
            square = self.second[path] / (1 - 0.999**self.count)
            moved = self.leaves[path] * (1 - rate * decay)
            self.leaves[path] = moved - rate * mean / (np.sqrt(square) + 1e-8)


def deltas(case: Case, rules, before: dict, after: dict, steps: int) -> dict:
    """What is recorded of the change of parameters; what our model leaves out does not change."""
    changed = publish(rules, {path: after[path] - np.asarray(before[path]) for path in before})
    out, prefix = {}, f"out.step{steps}_delta."
    for name in case.wanted():
        if not name.startswith(prefix):
            continue
        published = name.removeprefix(prefix)
        is_skipped = any(
            isinstance(rule, Skip) and re.fullmatch(skip_pattern(rule.source), published)
            for rule in rules
        )
        assert is_skipped or published in changed, f"{published} is neither a leaf nor skipped"
        recorded = case.tensors[name]
        value = changed.get(published, np.zeros(recorded.shape))
        # The reference adds each step to float32 parameters, with two roundings: for a parameter
        # near 1 and DINO's small rate they are percents of the change, and not ours to repeat.
        lost = 2 * steps * np.spacing(np.abs(case.tensors[f"w.{published}"]).astype(np.float32))
        out[name] = np.where(np.abs(value - recorded) <= lost, recorded, value)
    return out


def skip_pattern(template: str) -> str:
    """A rule's name template as a regular expression."""
    escaped = re.escape(template).replace(r"\*", ".*")
    return re.sub(r"\\\{\w+\\\}", r"\\d+", escaped)


def trained_and_frozen(leaves: dict, rates) -> tuple[dict, dict]:
    trained = {path: x for path, x in leaves.items() if rate_of(path, rates)}
    return trained, {path: x for path, x in leaves.items() if path not in trained}


def converted(case: Case, rules, plan) -> dict:
    """The leaves of a case, on the device."""
    return convert(rules, case.below("w."), plan.shapes, place=jnp.asarray)


def costs_of(x) -> jax.Array:
    """[B, P, T, H, W] -> [B, T, H, W, P]."""
    return jnp.asarray(x).transpose(0, 2, 3, 4, 1)


def to_costs(x):
    """[B, T, H, W, P] -> [B, P, T, H, W]."""
    return x.transpose(0, 4, 1, 2, 3)


def recorded_layers(taps: dict, prefix: str, first: int = 0) -> dict:
    """What the reference records of each layer, counted from `first`, and of some their inside."""
    out = {}
    for index, inside in enumerate(taps.values()):
        name = f"{prefix}.{first + index}"
        plain = inside["spatial"]["plain"]
        windows = plain["windows"]
        mixed = inside["classwise"]["attention"]  # [B, T, h, w, C]
        out |= {
            name: to_volume(inside["out"]),
            f"{name}.swin": to_volume(inside["spatial_out"]),
            f"{name}.swin_block_1": tokens(plain["out"]),
            f"{name}.window_attention_1": windows.reshape(-1, *windows.shape[-2:]),
            f"{name}.class_attention_pooled": mixed.transpose(0, 2, 3, 1, 4).reshape(
                -1, mixed.shape[1], mixed.shape[-1]
            ),
        }
    return out


def recorded_encoders(taps: dict, prefix: str) -> dict:
    """Views, features and guidance of one image."""
    patches = taps["dino_patches"]
    fourfold = dict(zip(("res4", "res3", "res2"), taps["pyramid"], strict=True))
    return {
        f"{prefix}.clip_image": to_maps(taps["clip_view"]),
        f"{prefix}.clip_features": taps["clip_tokens"],
        f"{prefix}.dino_image": to_maps(taps["dino_view"]),
        f"{prefix}.dino_patch_tokens": patches.reshape(len(patches), -1, patches.shape[-1]),
        **{f"{prefix}.dino.{level}": to_maps(x) for level, x in fourfold.items()},
        f"{prefix}.appearance_guidance": to_maps(taps["appearance"]),
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
