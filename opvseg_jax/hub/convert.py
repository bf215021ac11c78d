"""From the authors' checkpoints, as detectron2 writes them, to folders that `load` takes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import new_folder
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.hub.download import TOKENIZER, on_disk
from opvseg_jax.hub.encoders import OPENAI_TOKENIZER
from opvseg_jax.hub.presets import nearest
from opvseg_jax.hub.trained import CONFIG, FORMAT, KIND, METHODS, WEIGHTS, Family, family_of
from opvseg_jax.port.rules import convert
from opvseg_jax.port.torch_file import read_torch_file
from opvseg_jax.text.tokenizer import Tokenizer

CLIP = "sem_seg_head.predictor.clip_model.visual."
PATCH = {False: CLIP + "conv1.weight", True: CLIP + "patch_embed.proj.weight"}  # is it EVA?

Shapes = Mapping[str, tuple[int, ...]]


def convert_checkpoint(
    path: str | Path,
    method: str,
    out: str | Path,
    *,
    size: str | None = None,
    tokenizer: str | Path | None = None,
) -> tuple[Path, str]:
    """Writes the folder `out` whole or not at all -> the folder, and the name of the size.

    The size is read off the tensors unless told. `tokenizer` is a folder or file; by default
    OpenAI's is taken along if it is on this machine.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}: {nearest(method, METHODS)}")
    family = METHODS[method]
    if size is not None:
        family_of(method, size)
    words = _tokenizer(tokenizer)
    path = Path(path).expanduser()
    stored = read_torch_file(path)
    found = method_of(stored.shapes)
    if found != method:
        what = f"a checkpoint of {found}" if found else "no checkpoint of a method known here"
        advice = f"convert it with --method {found}" if found else f"expected one of {method}"
        raise UserError(f"{path} is {what}: {advice}")
    size = checked_size(family, stored.shapes, size, path)
    try:
        leaves = convert(family.rules(family.sizes[size]), stored, family.plan(size).shapes)
    except UserError as error:
        raise UserError(f"{path} as {method} {size}: {error}") from error
    config = {
        "model_type": KIND,
        "format": FORMAT,
        "method": method,
        "size": size,
        "source": {"file": path.name, "sha256": _digest(path)},
    }
    with new_folder(out, CONFIG) as folder:
        save_file(leaves, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if words is not None:
            (folder / "tokenizer.json").write_text(words.to_json(), encoding="utf-8")
    return Path(out), size


def method_of(shapes: Shapes) -> str | None:
    """The method whose tensors these are."""
    for name, family in METHODS.items():
        if any(tensor.startswith(family.mark) for tensor in shapes):
            return name
    return None


def checked_size(family: Family, shapes: Shapes, wanted: str | None, path: Path) -> str:
    """The size that the encoder's tensors have; one that is asked for must be it."""
    fitting = [name for name, size in family.sizes.items() if _encoder_fits(size, shapes)]
    if wanted is not None and wanted not in fitting:
        has = f"it has the encoder of {' or '.join(fitting)}" if fitting else "its encoder is other"
        raise UserError(f"{path} is not of size {wanted}: {has}")
    if not fitting:
        known = ", ".join(family.sizes)
        raise UserError(f"{path} has an encoder of an unknown size: there are {known}")
    return wanted or (family.default if family.default in fitting else fitting[0])


def _encoder_fits(size: Any, shapes: Shapes) -> bool:
    """Whether the first layer is as wide, its patches as large, and the tower as deep."""
    patch, depth = PATCH[isinstance(size.clip, EvaClipSize)], size.clip.vision.num_layers
    if patch not in shapes:
        return False
    width, _, side, _ = shapes[patch]
    block = CLIP + ("blocks" if isinstance(size.clip, EvaClipSize) else "transformer.resblocks")
    blocks = {name[len(block) + 1 :].split(".")[0] for name in shapes if name.startswith(block)}
    found = (width, side, len(blocks))
    return found == (size.clip.vision.width, size.clip.patch_size, depth)


def _tokenizer(place: str | Path | None) -> Tokenizer | None:
    if place is None:
        place = on_disk(OPENAI_TOKENIZER, TOKENIZER)
    return None if place is None else Tokenizer.from_folder(place)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
