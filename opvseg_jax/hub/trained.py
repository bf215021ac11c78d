"""The trained methods: a converted checkpoint's folder, from its files to a `Segmenter`.

The folder holds config.json (method, size, and the options that were changed), model.safetensors
(our leaves by name) and, if it was at hand, tokenizer.json.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import Blueprint, ShapeRngs, blueprint, part_of
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.encoders.sizes import ClipSize, DinoSize
from opvseg_jax.hub.download import TOKENIZER, absent, fetch
from opvseg_jax.hub.encoders import CLIP_PIXELS, OPENAI_TOKENIZER, LoadedClip, on_device
from opvseg_jax.hub.presets import nearest
from opvseg_jax.hub.sizes import TINY, changed_size, clip_from, dino_from, makeup
from opvseg_jax.methods.base import Method
from opvseg_jax.methods.catseg import port as catseg_port
from opvseg_jax.methods.catseg import sizes as catseg_sizes
from opvseg_jax.methods.catseg.model import CatSeg
from opvseg_jax.methods.hops import port as hops_port
from opvseg_jax.methods.hops import sizes as hops_sizes
from opvseg_jax.methods.hops.model import Hops
from opvseg_jax.methods.partcatseg import port as partcatseg_port
from opvseg_jax.methods.partcatseg import sizes as partcatseg_sizes
from opvseg_jax.methods.partcatseg.model import PartCatSeg
from opvseg_jax.methods.pcaseg import parts as pcaseg_parts
from opvseg_jax.methods.pcaseg import port as pcaseg_port
from opvseg_jax.methods.pcaseg import sizes as pcaseg_sizes
from opvseg_jax.methods.pcaseg.model import PcaSeg
from opvseg_jax.port.rules import Rules
from opvseg_jax.port.safetensors_file import read_safetensors

FORMAT = 1
MODEL = "model"  # where a training run keeps the folder with its model
KIND = "opvseg_jax"  # the model_type in config.json
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Family:
    """A method, its published sizes by name, and the names of its checkpoints' tensors.

    `mark` begins a tensor name that, of the families so far, this one alone has.
    """

    method: Callable[..., Method]
    sizes: Mapping[str, Any]
    rules: Callable[[Any], Rules]
    mark: str
    default: str | None = None  # of several sizes with the same tensors

    def plan(self, size: str, dtype=None) -> Blueprint:
        """The model of a size, without numbers."""
        return blueprint(lambda: self.method(self.sizes[size], dtype=dtype, rngs=ShapeRngs()))


def _pcaseg_rules(size: Any) -> Rules:
    is_eva = isinstance(size.clip, EvaClipSize)
    return pcaseg_port.RULES if is_eva else pcaseg_port.OPENAI_RULES


HEAD = "sem_seg_head.predictor.transformer."
# In this order: the tensors of PartCATSeg are all in HOPS' checkpoints as well, and the marks of
# PCA-Seg and of PartCATSeg both fit PCA-Seg for parts.
METHODS: dict[str, Family] = {
    "pcaseg-parts": Family(
        pcaseg_parts.PcaSegParts,
        pcaseg_parts.SIZES,
        lambda size: pcaseg_parts.RULES,
        HEAD + "layers_specific_part.0.swin_block_first",
    ),
    "pcaseg": Family(PcaSeg, pcaseg_sizes.SIZES, _pcaseg_rules, HEAD + "layers.0.swin_block_first"),
    "hops": Family(
        Hops,
        hops_sizes.SIZES,
        lambda size: hops_port.RULES,
        HEAD + "layers_part.",
        default="B/16-released",
    ),
    "partcatseg": Family(
        PartCatSeg,
        partcatseg_sizes.SIZES,
        lambda size: partcatseg_port.RULES,
        HEAD + "layers_specific_part.",
    ),
    "catseg": Family(
        CatSeg, catseg_sizes.SIZES, lambda size: catseg_port.RULES, HEAD + "layers.0.swin_block."
    ),
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model with its numbers; `clip` is the part of it that encodes words."""

    method: str
    size_name: str
    size: Any
    plan: Blueprint
    weights: dict[str, Any]
    clip: LoadedClip

    @property
    def canvas(self) -> tuple[int, int]:
        """The square that a photo is stretched to: published inference does not keep its shape."""
        sliding = getattr(self.size, "sliding", None)
        side = sliding.canvas if sliding else self.size.image_size
        # HOPS cuts objects out of the canvas: the finer it is, the more is seen of their parts.
        side *= 2 if self.method == "hops" else 1
        return side, side

    @property
    def templates(self) -> str:
        """A sentence, or the name of a set of sentences that stay apart."""
        return getattr(self.size, "template", None) or self.size.templates


def is_trained_folder(path: Path) -> bool:
    """Whether a folder is what `opvseg convert` writes, by its config.json."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == KIND


def model_place(folder: Path) -> Path | None:
    """The folder with the model: this one, or its `model/` if a training run made it."""
    places = (folder, folder / MODEL)
    return next((place for place in places if is_trained_folder(place)), None)


def load_trained(folder: Path, dtype=None) -> Trained:
    """The model of a converted or trained folder, computing in `dtype`."""
    config = read_config(folder)
    method, size_name, size = config["method"], config["size"], size_in(config, folder)
    plan = blueprint(lambda: METHODS[method].method(size, dtype=dtype, rngs=ShapeRngs()))
    weights = read_weights(folder, plan, f"{method} {size_name}")
    clip = LoadedClip(
        size=size.clip,
        plan=blueprint(lambda: size.clip.build(dtype=dtype, rngs=ShapeRngs())),
        weights=part_of(weights, "clip"),
        tokenizer=tokenizer_of(folder),
        mean=CLIP_PIXELS[0],
        std=CLIP_PIXELS[1],
    )
    return Trained(method, size_name, size, plan, weights, clip)


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def read_weights(folder: Path, plan: Blueprint, name: str) -> dict[str, jax.Array]:
    """The leaves of a folder, which must be those of `plan`, one by one on the device."""
    stored = read_safetensors(folder / WEIGHTS)
    problems = [f"{path}: missing" for path in plan.shapes.keys() - stored.shapes.keys()]
    problems += [f"{path}: unexpected" for path in stored.shapes.keys() - plan.shapes.keys()]
    problems += [
        f"{path}: misshapen, model {list(want.shape)}, file {list(stored.shapes[path])}"
        for path, want in plan.shapes.items()
        if path in stored.shapes and tuple(stored.shapes[path]) != want.shape
    ]
    if problems:
        raise UserError(
            f"{folder / WEIGHTS} does not fit {name}, convert it again: "
            + "; ".join(sorted(problems))
        )
    return {path: on_device(_owned(stored[path], plan.shapes[path])) for path in plan.shapes}


def size_in(config: Mapping[str, Any], folder: Path) -> Any:
    """The size that the config.json of a folder describes."""
    try:
        clip = clip_from(config["clip"]) if "clip" in config else None
        dino = dino_from(config["dino"]) if "dino" in config else None
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG} does not describe its encoders: {error}") from error
    options = config.get("options", {})
    return size_of(config.get("method"), config.get("size"), options, clip=clip, dino=dino)


def size_of(
    method: str,
    name: str,
    options: Mapping[str, Any],
    *,
    clip: ClipSize | None = None,
    dino: DinoSize | None = None,
) -> Any:
    """A size with `options` changed. "tiny" is made around encoders of these sizes."""
    if name != TINY:
        family, name = family_of(method, name)
        return changed_size(family.sizes[name], options)
    if clip is None:
        raise UserError(f"a {method} of size {TINY} does not say which encoders it is made around")
    return changed_size(makeup(method).tiny(clip, dino), options)


def family_of(method: Any, size: Any) -> tuple[Family, str]:
    """The family of a method and the name of one of its sizes, after checking both."""
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}: {nearest(method, METHODS)}")
    family = METHODS[method]
    if size not in family.sizes:
        raise UserError(f"unknown size {size!r} of {method}: {nearest(size, family.sizes)}")
    return family, size


def tokenizer_of(folder: Path) -> Path:
    """The folder itself, or OpenAI's tokenizer, which all these methods read words with."""
    if not absent(folder, [TOKENIZER]):
        return folder
    try:
        return fetch(OPENAI_TOKENIZER, TOKENIZER)
    except UserError as error:
        raise UserError(
            f"{folder} has no tokenizer: put tokenizer.json of {OPENAI_TOKENIZER} into it; {error}"
        ) from error


def _owned(array: np.ndarray, want) -> np.ndarray:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return np.array(array, dtype=want.dtype if floating else None, order="C")
