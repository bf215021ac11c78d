"""What the values of a config may be."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.precision import DTYPES
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower
from opvseg_jax.evaluate.protocols import MODES, PROTOCOLS
from opvseg_jax.hub.presets import nearest
from opvseg_jax.hub.sizes import MAKEUPS, TINY
from opvseg_jax.hub.trained import METHODS, size_of
from opvseg_jax.pipeline.recipes import RECIPES
from opvseg_jax.vocabulary import Vocabulary

SCHEDULES = ("constant", "cosine", "poly", "multistep")
CLIPS = ("norm", "value", "none")
# Encoders that the options of a tiny size are tried on; the real ones are looked at later.
TOWER = Tower(64, 3, 1, 64)
STAND_IN = {"clip": ClipSize(64, 8, TOWER, TOWER, 64), "dino": DinoSize(TOWER, patch_size=8)}
ELEMENTS = {
    "train.milestones": int,
    "train.betas": float,
    "eval.protocols": str,
    "eval.modes": str,
}
AT_LEAST = {
    "data.images": 0,
    "data.seed": 0,
    "data.workers": 0,
    "data.threads": 1,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.lr": 0.0,
    "train.warmup_steps": 0,
    "train.poly_power": 0.0,
    "train.clip.value": 0.0,
    "train.eps": 0.0,
    "train.weight_decay": 0.0,
    "train.ema": 0.0,
    "train.seed": 0,
    "train.log_every": 1,
    "train.save_every": 1,
    "train.keep": 1,
    "train.evaluate_every": 0,
    "train.pictures_every": 0,
    "mesh.data": -1,
    "mesh.fsdp": 1,
    "mesh.classes": 1,
    "eval.shorter": 0,
    "eval.longest": 0,
    "eval.images": 0,
    "eval.batch_size": 1,
}


def type_problems(key: str, default: Any, value: Any) -> list[str]:
    """A value has its default's type; nothing is converted, or 1 would do for 1.0."""
    if isinstance(default, Mapping):
        return [] if isinstance(value, Mapping) else [f"{key}: expected keys, got {value!r}"]
    if isinstance(default, tuple):
        if not isinstance(value, tuple | list):
            return [f"{key}: expected several values, got {value!r}"]
        element = ELEMENTS[key]
        wrong = [item for item in value if type(item) is not element]
        return [_expected(key, element, item) for item in wrong[:1]]
    return [] if type(value) is type(default) else [_expected(key, type(default), value)]


def problems(values: Mapping[str, Any]) -> list[str]:
    """Every value that is out of range or unknown, in words; types are right already."""
    found = [
        f"{key} is {values[key]}: expected at least {least}"
        for key, least in AT_LEAST.items()
        if not values[key] >= least  # so that NaN is one, too
    ]
    found += _choices(values) + _training(values) + _data(values)
    return found or _model(values)


def _choices(values: Mapping[str, Any]) -> list[str]:
    choices = {
        "model.method": MAKEUPS,
        "model.dtype": ("auto", *DTYPES),
        "data.classes": ("seen", "all"),
        "data.recipe": RECIPES,
        "train.optimizer": ("adamw", "muon"),
        "train.schedule": SCHEDULES,
        "train.clip.kind": CLIPS,
    }
    found = [
        f"{key} {values[key]!r} is not known: {nearest(values[key], known)}"
        for key, known in choices.items()
        if values[key] not in known
    ]
    several = {"eval.modes": MODES, "eval.protocols": PROTOCOLS}
    for key, known in several.items():
        wrong = [name for name in values[key] if name not in known]
        found += [f"{key}: {name!r} is not known: {nearest(name, known)}" for name in wrong]
        if not values[key]:
            found.append(f"{key} is empty: there are {', '.join(known)}")
    return found


def _training(values: Mapping[str, Any]) -> list[str]:
    found = []
    size, parts = values["train.batch_size"], values["train.accumulate"]
    if size % parts:
        found.append(f"train.batch_size {size} is not a multiple of train.accumulate {parts}")
    betas = values["train.betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        found.append(f"train.betas {betas}: expected two numbers from 0 to below 1")
    if not values["train.ema"] < 1:
        found.append(f"train.ema is {values['train.ema']}: expected less than 1")
    marks = list(values["train.milestones"])
    if values["train.schedule"] == "multistep" and not marks:
        found.append("train.milestones is empty: multistep needs the steps at which the rate falls")
    if marks != sorted(set(marks)) or (marks and marks[0] < 1):
        found.append(f"train.milestones {tuple(marks)}: expected rising steps from 1")
    if values["mesh.data"] == 0:
        found.append("mesh.data is 0: expected a number of devices, or -1 for what is left")
    if values["train.clip.kind"] != "none" and not values["train.clip.value"] > 0:
        found.append("train.clip.value is 0: to clip nothing, set train.clip.kind to none")
    return found


def _data(values: Mapping[str, Any]) -> list[str]:
    found = []
    data_sets = ("custom", *(name for name in Vocabulary.names() if "/" not in name))
    for key in ("data.name", "eval.name"):
        if values[key] not in data_sets and (values[key] or key == "data.name"):
            found.append(f"{key} {values[key]!r} is not known: {nearest(values[key], data_sets)}")
    if values["data.name"] == "custom" and not values["data.folder"]:
        found.append("data.folder is empty: a custom data set needs its folder")
    if (folder := values["data.folder"]) and not Path(folder).expanduser().is_dir():
        found.append(f"data.folder {folder} is no folder")
    for side in ("data.split", "eval.split"):
        if not values[side]:
            found.append(f"{side} is empty: name a split, such as train")
    if values["data.recipe"] in RECIPES:
        known = inspect.signature(RECIPES[values["data.recipe"]]).parameters
        found += [
            f"data.recipe_options has no {key!r} for {values['data.recipe']}: {nearest(key, known)}"
            for key in values["data.recipe_options"]
            if key not in known
        ]
    return found


def _model(values: Mapping[str, Any]) -> list[str]:
    method, size = values["model.method"], values["model.size"]
    known = (*METHODS[method].sizes, TINY)
    if size not in known:
        return [f"model.size {size!r} of {method} is not known: {nearest(size, known)}"]
    try:
        size_of(method, size, values["model.options"], **STAND_IN)
    except UserError as error:
        return [str(error)]
    return []


def _expected(key: str, kind: type, value: Any) -> str:
    wanted = {
        float: "a float such as 1.0",
        int: "an int such as 1",
        bool: "a bool, true or false",
        str: "a word",
    }
    return f"{key}: expected {wanted[kind]}, got the {type(value).__name__} {value!r}"
