"""Whether a work directory and a config belong together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import writable_folder, write_whole
from opvseg_jax.train.config import differences, from_json, to_json
from opvseg_jax.vocabulary import Vocabulary

CONFIG, MODEL = "config.json", "model"
# Keys that do not change what a step computes; all others make it another training.
MAY_CHANGE = frozenset(
    {
        "data.folder",
        "data.threads",
        "data.workers",
        "eval.batch_size",
        "mesh.classes",
        "mesh.data",
        "mesh.fsdp",
        "train.evaluate_every",
        "train.keep",
        "train.log_every",
        "train.pictures_every",
        "train.save_every",
        "train.steps",
    }
)
SHOWN = 6  # differing keys that are named


def prepared(workdir: str | Path, config: ConfigDict, stored: Mapping[str, Any] | None) -> Path:
    """The work directory, writable and of this config.

    `stored` is the metadata of its newest checkpoint, or None. Nothing is written yet.
    """
    folder = writable_folder(workdir)
    if stored is not None:
        _must_agree(folder, stored, config)
    elif (folder / MODEL).exists() and not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} holds a model that no training put there: name another work directory"
        )
    return folder


def must_know(folder: Path, stored: Mapping[str, Any] | None, vocabulary: Vocabulary) -> None:
    """A `UserError` if the words of the data are not those that the checkpoint has learned."""
    if stored is None:
        return
    known, given = Vocabulary.of(stored["vocabulary"]), vocabulary
    counts = [(len(words.objects), len(words.parts)) for words in (known, given)]
    if counts[0] != counts[1]:
        (objects, parts), (new_objects, new_parts) = counts
        raise UserError(
            f"the training in {folder} has {objects} objects and {parts} parts, the data now have "
            f"{new_objects} and {new_parts}: name another work directory, or put the data back"
        )
    names = [(*words.objects, *words.part_names) for words in (known, given)]
    if names[0] != names[1]:
        old, new = next(pair for pair in zip(*names, strict=True) if pair[0] != pair[1])
        raise UserError(
            f"the training in {folder} has the class {old!r} where the data now have {new!r}: "
            "name another work directory, or put the data back"
        )


def write_config(folder: Path, config: ConfigDict) -> None:
    """As the training goes on with it."""
    path, content = folder / CONFIG, (to_json(config) + "\n").encode()
    if jax.process_index() == 0 and not (path.is_file() and path.read_bytes() == content):
        write_whole(path, content)


def plain(config: ConfigDict) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(to_json(config))


def _must_agree(folder: Path, stored: Mapping[str, Any], config: ConfigDict) -> None:
    before = from_json(json.dumps(stored["config"]))
    changed = {
        key: values for key, values in differences(before, config).items() if key not in MAY_CHANGE
    }
    if not changed:
        return
    shown = [f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items()]
    more = f"; and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    raise UserError(
        f"the training in {folder} has another config: {'; '.join(shown[:SHOWN])}{more}: take "
        "these back, or name another work directory"
    )
