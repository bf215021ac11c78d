"""`opvseg_jax.load`: from a name, a folder or a file to a `Segmenter`."""

import copy
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax import templates as sentences
from opvseg_jax.core.cache import cache_folder, keep_compiled
from opvseg_jax.core.errors import UserError
from opvseg_jax.core.precision import dtype_of
from opvseg_jax.core.weights import Blueprint, blueprint, part_of
from opvseg_jax.encoders.sizes import ClipSize
from opvseg_jax.hub.download import is_repository
from opvseg_jax.hub.encoders import LoadedClip, LoadedDino, Weights, load_clip, load_dino
from opvseg_jax.hub.presets import Preset, by_hand, nearest, preset, presets, shipped
from opvseg_jax.hub.trained import load_trained, model_place
from opvseg_jax.inference.segmenter import Segmenter
from opvseg_jax.methods.zeroshot.model import ZeroShot, ZeroShotOptions
from opvseg_jax.text.features import TextFeatures, encode_vocabulary, pad_to_buckets
from opvseg_jax.text.tokenizer import Tokenizer
from opvseg_jax.vocabulary import Vocabulary

SHORT_CONTEXT = 24  # tokens: most names in most templates fit, at a third of the work of 77
PRESET_FIELDS = ("background", "canvases", "dino", "part_style", "part_templates", "templates")
TRAINED_FIELDS = ("background", "templates")
MAX_DETAIL = 4


def load(
    ref: str | os.PathLike = "tiny",
    *,
    like: str | None = None,
    detail: int = 1,
    dtype: str = "auto",
    **settings: Any,
) -> Segmenter:
    """A segmenter by the name of a model (`opvseg models`), or with the CLIP of `ref`.

    `ref` may be a folder as HuggingFace publishes CLIP, one of its repositories, or a .pt file of
    OpenAI; `like` then names a model whose settings it takes. `detail` n looks at photos n times
    as large, in windows. `settings` are fields of the method's options, or `background`,
    `canvases`, `dino`, `templates`, `part_templates`, `part_style`. A folder of `opvseg convert`
    takes `background` and `templates` alone.
    """
    keep_compiled()
    folder = Path(ref).expanduser()
    named = presets().get(os.fspath(ref))
    if named is not None and named.is_trained:
        folder = named.folder
        if model_place(folder) is None:
            raise UserError(by_hand(named))
    if place := model_place(folder):
        return _load_trained(place, like, detail, dtype, settings)
    chosen = _chosen(ref, like)
    if detail not in range(1, MAX_DETAIL + 1):
        raise UserError(f"detail {detail!r}: expected a whole number from 1 to {MAX_DETAIL}")
    changed = {key: settings.pop(key) for key in PRESET_FIELDS if key in settings}
    chosen = dataclasses.replace(chosen, **changed)
    options = _options({**chosen.settings, **settings})
    compute = dtype_of(dtype)
    clip = load_clip(shipped(chosen.clip) or chosen.clip, dtype=compute)
    dino = None
    if chosen.dino:
        dino = load_dino(shipped(chosen.dino) or chosen.dino, dtype=compute)
    options = dataclasses.replace(options, windows=options.windows * detail, **_pixels(clip, dino))
    canvases = _canvases(chosen, clip.size, options, detail)
    plan, weights = zeroshot(clip, dino, options)
    words = WordEncoder(clip, chosen, str(jnp.dtype(compute)))
    return Segmenter(
        name=chosen.name,
        method=plan,
        weights=weights,
        encode_words=words,
        canvases=canvases,
        tile=128 if clip.size.image_size <= 128 else 512,
    )


def _load_trained(
    folder: Path, like: str | None, detail: int, dtype: str, settings: dict[str, Any]
) -> Segmenter:
    """A converted checkpoint. What it has learnt fixes everything but the words."""
    if like is not None or detail != 1:
        raise UserError(f"{folder} is a trained model: `like` and `detail` are not for those")
    for key in settings:
        if key not in TRAINED_FIELDS:
            raise UserError(f"unknown setting {key!r}: {nearest(key, TRAINED_FIELDS)}")
    compute = dtype_of(dtype)
    trained = load_trained(folder, compute)
    own = {"background": (), "templates": trained.templates, "part_templates": None}
    chosen = Preset(name=str(folder), method=trained.method, clip="", **(own | settings))
    words = WordEncoder(trained.clip, chosen, str(jnp.dtype(compute)), keeps_prompts=True)
    return Segmenter(
        name=chosen.name,
        method=trained.plan,
        weights=trained.weights,
        encode_words=words,
        canvases=(trained.canvas,),
        stretch=True,
    )


def zeroshot(
    clip: LoadedClip, dino: LoadedDino | None, options: ZeroShotOptions
) -> tuple[Blueprint, dict[str, jax.Array]]:
    """The training-free method around loaded encoders, and its weights (no copies)."""

    def build() -> ZeroShot:
        return ZeroShot(
            _unfilled(clip.plan).vision, options, dino=_unfilled(dino.plan) if dino else None
        )

    weights = {"logit_scale": clip.weights["logit_scale"]}
    weights |= {f"vision/{path}": x for path, x in part_of(clip.weights, "vision").items()}
    if dino is not None:
        weights |= {f"dino/{path}": x for path, x in dino.weights.items()}
    return blueprint(build), weights


class WordEncoder:
    """`encode(vocabulary) -> TextFeatures`: background words added, cached on disk, padded.

    `keeps_prompts`: templates stay apart and generic parts are there, as trained methods want.
    """

    def __init__(
        self,
        clip: LoadedClip,
        chosen: Preset,
        dtype_name: str,
        *,
        keeps_prompts: bool = False,
        is_padded: bool = True,
    ):
        self.clip, self.preset, self.dtype_name = clip, chosen, dtype_name
        self.keeps_prompts, self.is_padded, self.is_cached = keeps_prompts, is_padded, True
        self.tokenizer = Tokenizer.from_folder(clip.tokenizer, clip.size.context)
        if self.tokenizer.vocab_size > clip.size.vocab_size:
            raise UserError(
                f"{clip.tokenizer}: the tokenizer knows {self.tokenizer.vocab_size} tokens and "
                f"the model {clip.size.vocab_size}: they do not belong together"
            )
        self._run = jax.jit(lambda weights, tokens: _embed(clip.plan, weights, tokens))

    def __call__(self, vocabulary: Vocabulary) -> TextFeatures:
        features = encode_vocabulary(
            self._encode,
            self.tokenizer,
            with_background(vocabulary, self.preset.background),
            self.preset.templates,
            part_templates=self.preset.part_templates,
            part_style=self.preset.part_style,
            cache=cache_folder() if self.is_cached else None,
            weights_digest=self._digest if self.is_cached else "",
        )
        if self.keeps_prompts:
            features = dataclasses.replace(features, phrases=None, phrase_to_object=None)
        else:
            features = _needed(features)
        return pad_to_buckets(features) if self.is_padded else features

    def with_weights(self, weights: Weights, *, is_cached: bool = True) -> "WordEncoder":
        """The same with other numbers, and nothing to compile again.

        Features of weights that are gone after the next step are better not kept on disk.
        """
        other = copy.copy(self)
        other.clip, other.is_cached = dataclasses.replace(self.clip, weights=weights), is_cached
        vars(other).pop("_digest", None)
        return other

    def recipe(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """How words become sentences, for programs that do it without this package."""
        chosen = self.preset
        objects = [*sentences.listed(chosen.templates)]
        parts = objects
        if chosen.part_templates is not None:
            parts = [*sentences.listed(chosen.part_templates)]
        return {
            "templates": objects,
            "part_templates": parts,
            "part_phrase": sentences.PART_PHRASES[chosen.part_style or "possessive"],
            "background": list(vocabulary.background or chosen.background),
        }

    def _encode(self, tokens: jax.Array) -> jax.Array:
        """tokens [batch, context] -> [batch, E]; what is padding in every text is cut off."""
        tokens = np.asarray(tokens)
        length = 1 + int(np.argmax(tokens == self.tokenizer.end, axis=1).max())
        return self._run(self.clip.weights, tokens[:, : short_context(length, tokens.shape[1])])

    @functools.cached_property
    def _digest(self) -> str:
        """Of the text tower's numbers and of how they are computed with."""
        found = hashlib.sha256(self.dtype_name.encode())
        for path, leaf in sorted(part_of(self.clip.weights, "text").items()):
            found.update(path.encode())
            found.update(np.ascontiguousarray(leaf))
        return found.hexdigest()


def with_background(vocabulary: Vocabulary, words: tuple[str, ...]) -> Vocabulary:
    """Adds the words of `words` that the vocabulary does not have, if it brings no own ones."""
    if vocabulary.background:
        return vocabulary
    taken = {text.casefold() for texts in vocabulary.phrases for text in texts}
    taken |= {name.casefold() for name in vocabulary.objects}
    left = tuple(word for word in words if word.casefold() not in taken)
    return dataclasses.replace(vocabulary, background=left)


def _chosen(ref: str | os.PathLike, like: str | None) -> Preset:
    """The preset that a reference names, or one made for a folder, file or repository."""
    name = os.fspath(ref)
    if name in presets():
        return preset(name)
    is_place = is_repository(name) or os.path.exists(os.path.expanduser(name))
    if not is_place and os.sep not in name and not name.endswith((".pt", ".pth")):
        raise UserError(f"unknown model {name!r}: {nearest(name, presets())}")
    if like is not None and preset(like).is_trained:
        raise UserError(f"{like} is a trained model: a CLIP alone cannot be like it")
    if like is None:
        return Preset(name=name, method="zeroshot", clip=name)
    return dataclasses.replace(preset(like), name=name, clip=name)


def _options(settings: Mapping[str, Any]) -> ZeroShotOptions:
    known = [field.name for field in dataclasses.fields(ZeroShotOptions)]
    for key in settings:
        if key not in known:
            raise UserError(f"unknown setting {key!r}: {nearest(key, [*known, *PRESET_FIELDS])}")
    return ZeroShotOptions(**settings)


def _pixels(clip: LoadedClip, dino: LoadedDino | None) -> dict[str, tuple[float, ...]]:
    found = {"clip_mean": clip.mean, "clip_std": clip.std}
    return found if dino is None else found | {"dino_mean": dino.mean, "dino_std": dino.std}


def _canvases(
    chosen: Preset, size: ClipSize, options: ZeroShotOptions, detail: int
) -> tuple[tuple[int, int], ...]:
    """The canvases of the model, or two that hold 3 x 4 photos, at `detail` times their sides."""
    step = math.lcm(size.patch_size * (options.windows // detail), options.stride)
    canvases = chosen.canvases
    if canvases is None:
        short, long = (round(size.image_size * share / step) * step for share in (1.5, 2.0))
        canvases = ((short, long), (long, short))
    for canvas in canvases:
        if len(canvas) != 2 or min(canvas) < step or any(side % step for side in canvas):
            raise UserError(
                f"canvas {tuple(canvas)}: expected (height, width), both multiples of {step}"
            )
    if options.crop_size < size.patch_size:
        raise UserError(
            f"crop_size {options.crop_size}: expected at least a patch of {size.patch_size}"
        )
    return tuple((detail * height, detail * width) for height, width in canvases)


def short_context(length: int, context: int) -> int:
    return SHORT_CONTEXT if length <= SHORT_CONTEXT < context // 2 else context


def _embed(plan: Blueprint, weights: Mapping[str, jax.Array], tokens: jax.Array) -> jax.Array:
    return plan.merge(weights).text(tokens).astype(jnp.float32)


def _unfilled(plan: Blueprint) -> Any:
    """The module with zeros, for use under `blueprint`, where zeros cost nothing."""
    return plan.merge({path: jnp.zeros(x.shape, x.dtype) for path, x in plan.shapes.items()})


def _needed(features: TextFeatures) -> TextFeatures:
    """What the method reads: one row per word in the place of P, no generic parts.

    Sizes that do not matter must not decide whether a compiled function fits.
    """
    none = np.zeros((0, 1, features.objects.shape[-1]), np.float32)
    rows = {
        name: _mean(getattr(features, name))
        for name in ("objects", "parts", "background", "phrases")
        if getattr(features, name) is not None
    }
    return dataclasses.replace(
        features,
        **rows,
        generic=none,
        generic_mask=np.zeros(0, bool),
        part_to_generic=np.zeros_like(np.asarray(features.part_to_generic)),
    )


def _mean(rows: jax.Array) -> np.ndarray:
    """[n, P, E] -> unit-norm [n, 1, E], on the host."""
    mean = np.asarray(rows).mean(axis=1, keepdims=True)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
