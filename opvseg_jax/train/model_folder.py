"""Writes a trained model as the folder that `opvseg_jax.load` and `opvseg segment` take."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from opvseg_jax.core.files import new_folder
from opvseg_jax.hub.trained import CONFIG, FORMAT, KIND, WEIGHTS
from opvseg_jax.train.config import flat
from opvseg_jax.train.experiment import Experiment


def write_model(
    experiment: Experiment, weights: Mapping[str, jax.Array], folder: str | Path
) -> Path:
    """The whole folder or, when something stands against it, what was there before.

    `weights` are the leaves of the plan; a `State` gives them by `weights_of`.
    """
    wanted, given = experiment.plan.shapes.keys(), weights.keys()
    if wanted != given:
        raise ValueError(f"leaves that are missing or too many: {sorted(wanted ^ given)[:3]}")
    config = {"model_type": KIND, "format": FORMAT, **experiment.describe()}
    config["training"] = flat(experiment.config)
    # Arrays of a device may have any layout, and safetensors writes the memory as it lies.
    leaves = {path: np.asarray(leaf, order="C") for path, leaf in weights.items()}
    with new_folder(folder, CONFIG) as place:
        save_file(leaves, place / WEIGHTS)
        (place / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tokenizer = experiment.words.encoder.tokenizer
        (place / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    return Path(folder)
