"""What an experiment is: every key with its default, read from a file, changed, checked, written.

A file of `configs/` has `get_config(variant)`, which says what differs from `base()`:

    cfg = load("configs/hops/partworld_tiny.py:aem", ["train.steps=100", "train.lr=1e-3"])
"""

import ast
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from opvseg_jax.core.assets import config_file
from opvseg_jax.core.errors import UserError
from opvseg_jax.hub.presets import nearest
from opvseg_jax.train import checks

FREE = ("model.options", "data.recipe_options")  # their keys are those of the method, the recipe
TRUTH = {"true": True, "false": False}

Values = Mapping[str, Any]  # {"train.steps": 100}


def base() -> ConfigDict:
    """Every key with its default."""
    groups = {
        "model": {
            "method": "hops",
            "size": "tiny",  # one of the method's published sizes, or tiny
            "dtype": "auto",  # what is computed in; parameters are float32
            "clip": "",  # a shipped encoder, a folder, a file, a HuggingFace repository;
            "dino": "",  # "": the one that the size was published with
            "options": {},  # fields of the method's size (and options) that are changed
            "init": "",  # a folder of `opvseg convert`, or of a training run, to start from
        },
        "data": {
            "name": "partworld",  # or a prepared benchmark, or "custom": a folder of your own
            "folder": "",  # custom: that folder; else where prepared data sets lie, "": as usual
            "split": "train",
            "classes": "seen",  # of a vocabulary with a split; "all" trains every class
            "recipe": "none",  # a name of pipeline/recipes.py
            "recipe_options": {},  # its numbers that are changed
            "images": 0,  # the first so many alone; 0: all
            "seed": 0,  # of the order and of the augmentation
            "workers": 0,  # reading processes; 0: threads of this one
            "threads": 2,
        },
        "train": {
            "steps": 1000,
            "batch_size": 4,  # over all devices and processes
            "accumulate": 1,  # parts that the batch is gone through in
            "optimizer": "adamw",  # or muon, for what trains from nothing in few steps
            "lr": 2e-4,  # the method's table says for which leaves it is multiplied by what
            "schedule": "cosine",
            "warmup_steps": 0,
            "milestones": (),  # multistep: steps at which the rate falls to a tenth
            "poly_power": 0.9,
            "clip": {"kind": "norm", "value": 0.01},  # of the gradient
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 1.0,  # a factor for the method's table
            "ema": 0.0,  # decay of a moving average of the weights; 0: none
            "remat": False,  # compute again in the backward pass what would need memory
            "seed": 0,  # of the weights that are drawn, and of what is random in a step
            "log_every": 20,
            "save_every": 1000,
            "keep": 3,  # checkpoints, besides the best
            "evaluate_every": 0,  # 0: only at the end
            "pictures_every": 0,  # 0: none
            "best": "h_iou",
        },
        "mesh": {"data": -1, "fsdp": 1, "classes": 1},  # devices along each axis; -1: what is left
        "eval": {
            "name": "",  # another data set than that of training
            "split": "val_seen+val_unseen",  # several are joined by +
            "shorter": 0,  # the size that images are brought to: their shorter side,
            "longest": 0,  # and at most this long; 0: as they are
            "images": 0,
            "batch_size": 1,
            "protocols": ("standard",),
            "modes": ("pred_all",),
        },
    }
    return _tree(groups)


def load(spec: str | Path, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config of "path/to/file.py[:variant]", changed by "group.key=value", checked, locked.

    A path below `configs/` that is not in the working directory is one that comes with the package.
    """
    path, variant = _place(str(spec))
    get_config = _read(path)
    takes = inspect.signature(get_config).parameters
    if variant and not takes:
        raise UserError(f"{path} has no variants, so none is called {variant!r}")
    config = _run(path, get_config, *filter(None, [variant]))
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config must return a ConfigDict, as base() does")
    return checked(override(config, overrides))


def changed(config: ConfigDict, changes: Values) -> ConfigDict:
    """A copy, not locked, with other values: {"train.steps": 100}."""
    config = _tree(config.to_dict())
    for key, value in changes.items():
        _put(config, key, value)
    return config


def override(config: ConfigDict, overrides: Iterable[str]) -> ConfigDict:
    """A copy, changed as on the command line: "train.steps=100", "--config.train.steps=100"."""
    changes, known = {}, flat(base())
    for text in overrides:
        key, equals, word = text.removeprefix("--").removeprefix("config.").partition("=")
        if not equals:
            raise UserError(f"{text!r}: expected group.key=value, such as train.steps=100")
        is_free = any(key.startswith(f"{free}.") for free in FREE)
        if key not in known and not is_free:
            raise UserError(f"unknown key {key!r}: {nearest(key, known)}")
        changes[key] = _value(key, word, None if is_free else known[key])
    return changed(config, changes)


def checked(config: ConfigDict) -> ConfigDict:
    """A locked copy, or one sentence with everything that is wrong."""
    given, known = flat(config), flat(base())
    problems = [f"unknown key {key!r}: {nearest(key, known)}" for key in given.keys() - known]
    problems += [f"{key} is missing" for key in known.keys() - given]
    for key in known.keys() & given.keys():
        problems += checks.type_problems(key, known[key], given[key])
    if problems := sorted(problems) or checks.problems(given):
        raise UserError("; ".join(problems))
    return changed(base(), given).lock()


def flat(config: ConfigDict) -> dict[str, Any]:
    """{"train.steps": 100}; options stay dicts."""
    found: dict[str, Any] = {}

    def walk(values: Values, above: str) -> None:
        for name, value in values.items():
            key = f"{above}{name}"
            if isinstance(value, Mapping) and key not in FREE:
                walk(value, f"{key}.")
            else:
                found[key] = value

    walk(config.to_dict() if isinstance(config, ConfigDict) else config, "")
    return found


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> ConfigDict:
    """What `to_json` wrote, checked and locked. Keys that are newer have their defaults."""
    return checked(changed(base(), flat(json.loads(text))))


def differences(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{key: (value in a, value in b)} where they differ; None where a key is absent."""
    left, right = flat(a), flat(b)
    keys = sorted(left.keys() | right.keys())
    pairs = {key: (left.get(key), right.get(key)) for key in keys}
    return {key: (x, y) for key, (x, y) in pairs.items() if x != y}


def _place(spec: str) -> tuple[Path, str]:
    """The file and the variant of a reference; the file exists."""
    text, variant = spec, ""
    if ":" in spec and not Path(spec).is_file():
        text, _, variant = spec.rpartition(":")
    path = Path(text).expanduser()
    if path.is_file():
        return path, variant
    names = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    shipped = None if path.is_absolute() else config_file(*names)
    if shipped is None or not shipped.is_file():
        known = [f"configs/{p.relative_to(config_file())}" for p in config_file().glob("*/*.py")]
        raise UserError(f"there is no config {text}: {nearest(text, sorted(known))}")
    return shipped, variant


def _read(path: Path):
    spec = importlib.util.spec_from_file_location(f"opvseg_config_{path.stem}", path)
    if spec is None:
        raise UserError(f"{path} is no config: expected a Python file with get_config()")
    module = importlib.util.module_from_spec(spec)
    _run(path, spec.loader.exec_module, module)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path} has no get_config(): expected one that returns a config")
    return module.get_config


def _run(path: Path, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except UserError:
        raise
    except Exception as error:  # a user's program may raise anything
        raise UserError(f"{path} cannot be run: {type(error).__name__}: {error}") from error


class Tree(ConfigDict):
    """A ConfigDict that keeps what it is given: the original makes 1.0 of 1, unasked."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self:
            super().__setitem__(key, value)
            return
        with self.unlocked():
            del self[key]
            super().__setitem__(key, value)


def _tree(values: Values) -> ConfigDict:
    made = Tree(type_safe=False, convert_dict=False)
    for key, value in values.items():
        made[key] = _own(value)
    return made


def _own(value: Any) -> Any:
    """Mappings as trees and lists as tuples: there is one form of each value."""
    if isinstance(value, list | tuple):
        return tuple(_own(item) for item in value)
    return _tree(value) if isinstance(value, Mapping) else value


def _put(config: ConfigDict, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        if group not in config:
            config[group] = _tree({})
        config = config[group]
        if not isinstance(config, ConfigDict):
            raise UserError(f"{key}: {group} is a value, not a group of keys")
    config[name] = _own(value)


def _value(key: str, word: str, default: Any) -> Any:
    """A word of the command line; its type is checked later, by `checked`."""
    if isinstance(default, str):
        return word
    if word.lower() in TRUTH:
        return TRUTH[word.lower()]
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):
        value = word
    if isinstance(default, tuple) and not isinstance(value, tuple | list):
        return tuple(word.split(",")) if isinstance(value, str) and word else (value,)
    if isinstance(default, Mapping) and not isinstance(value, Mapping):
        raise UserError(f"{key}: expected a key below it, such as {key}.name=value")
    return value
