"""The weights that training starts from: pretrained encoders or a checkpoint, the rest drawn."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from ml_collections import ConfigDict

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.precision import dtype_of
from opvseg_jax.core.weights import Blueprint, part_of
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.encoders.sizes import ClipSize, DinoSize
from opvseg_jax.hub import encoders
from opvseg_jax.hub.presets import SHIPPED, shipped
from opvseg_jax.hub.sizes import TINY, makeup
from opvseg_jax.hub.trained import (
    METHODS,
    model_place,
    read_config,
    read_weights,
    size_in,
    size_of,
    tokenizer_of,
)
from opvseg_jax.train.draw import drawn

Weights = dict[str, jax.Array]


class References(NamedTuple):
    """Where the encoders come from; `dino` is "" for a method without one."""

    clip: str | Path
    dino: str | Path


class Start:
    """Reads and draws anew whenever it is asked, and keeps nothing."""

    def __init__(self, config: ConfigDict, size: Any, plan: Blueprint, references: References):
        self.config, self.size, self.plan, self.references = config, size, plan, references
        self.folder = checkpoint(config.model) if config.model.init else None

    def weights(self) -> Weights:
        """Every leaf of the plan."""
        if self.folder is not None:
            return self._stored()
        found = self.clip("clip/")
        if self.references.dino:
            found |= self._dino()
        self._must_fit(found)
        missing = [path for path in self.plan.shapes if path not in found]
        found |= drawn(self._build, missing, self.config.train.seed, self._origin)
        return {path: found[path] for path in self.plan.shapes}

    def clip(self, prefix: str = "") -> Weights:
        """The leaves of CLIP alone."""
        if self.folder is not None:
            return part_of(self._stored(), "clip")
        reference, size = self.references.clip, self.size.clip
        if isinstance(size, EvaClipSize):
            leaves = encoders.load_eva_clip(reference, size)
        else:
            leaves = encoders.load_clip(reference).weights
        return {f"{prefix}{path}": leaf for path, leaf in leaves.items()}

    def tokenizer(self) -> Path:
        """The folder with the tokenizer."""
        if self.folder is not None:
            return tokenizer_of(self.folder)
        if isinstance(self.size.clip, EvaClipSize):
            return encoders.tokenizer_beside(Path(self.references.clip).expanduser())
        return encoders.tokenizer_for(self.references.clip)

    def _stored(self) -> Weights:
        return read_weights(self.folder, self.plan, f"{self.config.model.method} as configured")

    def _dino(self) -> Weights:
        loaded = encoders.load_dino(self.references.dino)
        return {f"dino/{path}": leaf for path, leaf in loaded.weights.items()}

    def _must_fit(self, found: Weights) -> None:
        for path, leaf in found.items():
            want = self.plan.shapes.get(path)
            if want is None or want.shape != leaf.shape:
                which = path.split("/")[0]
                raise UserError(
                    f"model.{which} {getattr(self.references, which)} is not the encoder of size "
                    f"{self.config.model.size}: {path} has the shape {leaf.shape}, the size "
                    f"wants {want.shape if want else 'none'}"
                )

    def _build(self, rngs: Any) -> nnx.Module:
        model = self.config.model
        return METHODS[model.method].method(self.size, dtype=dtype_of(model.dtype), rngs=rngs)

    def _origin(self, path: str) -> str:
        return makeup(self.config.model.method).origin(path)


def size_and_encoders(model: ConfigDict) -> tuple[Any, References]:
    """The size of a method, and where its encoders come from."""
    options = model.options.to_dict()
    if model.size == TINY:
        if model.init and not model.clip:
            return size_in_checkpoint(model), References("", "")
        references = References(_place(model.clip or SHIPPED[0]), _place(model.dino or SHIPPED[1]))
        clip, dino = (encoders.encoder_size(place) for place in references)
        for name, found, kind in (("clip", clip, ClipSize), ("dino", dino, DinoSize)):
            if not isinstance(found, kind):
                raise UserError(f"model.{name} {getattr(model, name)} is not a {name.upper()}")
        size = size_of(model.method, TINY, options, clip=clip, dino=dino)
        return size, references if hasattr(size, "dino") else references._replace(dino="")
    size = size_of(model.method, model.size, options)
    clip = _place(model.clip or getattr(size.clip, "repository", ""))
    if not clip and not model.init:
        raise UserError(
            f"{model.method} {model.size} starts from an EVA-02-CLIP, which no program can fetch: "
            "set model.clip to its file, or to that of a DeCLIP"
        )
    dino = _place(model.dino or size.dino.repository) if hasattr(size, "dino") else ""
    return size, References(clip, dino)


def size_in_checkpoint(model: ConfigDict) -> Any:
    """That of the folder to start from, with the options of the config."""
    folder = checkpoint(model)
    config = read_config(folder)
    options = {**config.get("options", {}), **model.options.to_dict()}
    return size_in({**config, "options": options}, folder)


def checkpoint(model: ConfigDict) -> Path:
    """The folder of `model.init`, which must hold the same method and size."""
    folder = model_place(Path(model.init).expanduser())
    if folder is None:
        raise UserError(
            f"model.init {model.init} holds no model: expected a folder of opvseg convert or of a "
            "training run"
        )
    config = read_config(folder)
    if (config.get("method"), config.get("size")) != (model.method, model.size):
        raise UserError(
            f"model.init {model.init} is a {config.get('method')} of size {config.get('size')}: "
            f"the config wants a {model.method} of size {model.size}"
        )
    return folder


def _place(reference: str) -> str | Path:
    return shipped(reference) or reference
