"""What the files of `configs/` are written with: changes of `base()`, by name.

Every config has the variants `tiny`, the method on PartWorld in minutes, and `smoke`, a few steps
of that in seconds: both on the encoders that come with the package, without a download.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from opvseg_jax.core.errors import UserError
from opvseg_jax.hub.presets import nearest
from opvseg_jax.train.config import base, changed

Values = Mapping[str, Any]

TINY = {
    "model.size": "tiny",
    "model.clip": "",
    "model.dino": "",
    "data.name": "partworld",
    "data.split": "train",
    "data.classes": "seen",
    "data.recipe": "squeezed",
    "data.recipe_options": {"size": 128, "jitter": False},
    "train.steps": 400,
    "train.batch_size": 6,
    "train.optimizer": "muon",
    "train.lr": 4e-3,
    "train.betas": (0.9, 0.95),
    "train.warmup_steps": 20,
    "train.clip.value": 1.0,
    "train.save_every": 100,
    "train.pictures_every": 200,
    "train.best": "h_iou",
    "eval.name": "",
    "eval.split": "val_seen+val_unseen",
    "eval.shorter": 0,
    "eval.longest": 0,
    "eval.images": 100,
    "eval.batch_size": 8,
    "eval.protocols": ("standard", "partcatseg"),
    "eval.modes": ("pred_all", "oracle_obj"),
}
SMOKE = {
    **TINY,
    "data.images": 8,
    "train.steps": 2,
    "train.batch_size": 2,
    "train.warmup_steps": 0,
    "train.log_every": 1,
    "train.save_every": 1,
    "train.pictures_every": 0,
    "eval.images": 2,
    "eval.batch_size": 2,
    "eval.protocols": ("standard",),
    "eval.modes": ("pred_all",),
}


def vary(changes: Values, variant: str = "", /, **variants: Values) -> ConfigDict:
    """`base()` with `changes` and those of a variant; "" and "paper" are `changes` alone."""
    known = {"paper": {}, "tiny": TINY, "smoke": SMOKE, **variants}
    if variant and variant not in known:
        raise UserError(f"unknown variant {variant!r}: {nearest(variant, known)}")
    return changed(base(), {**changes, **known[variant or "paper"]})
