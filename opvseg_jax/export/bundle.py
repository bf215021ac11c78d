"""Writes a segmenter as functions that run without this package.

| file | content |
|---|---|
| segment-HxW.cpu.bin, .cuda.bin | StableHLO: weights, words, image, content -> label maps, scores |
| label.cpu.bin, .cuda.bin | StableHLO: scores -> labels of one tile of a photo of any size |
| weights.safetensors | the leaves that those functions read, by our names |
| words.safetensors | fixed vocabulary: embeddings and index maps |
| text.cpu.bin, .cuda.bin, text.safetensors, tokenizer.json | open vocabulary: the text tower |
| manifest.json | what everything is, versions, checksums |
| run.py | runs all this with jax, numpy and safetensors |

Weights are arguments: baked into the functions they would double memory and compile times.
"""

import calendar
import dataclasses
import datetime
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from opvseg_jax import __version__
from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import new_folder
from opvseg_jax.export import programs, run
from opvseg_jax.inference import segmenter as rules
from opvseg_jax.inference.segmenter import Segmenter
from opvseg_jax.text.features import TextFeatures, pad
from opvseg_jax.vocabulary import Vocabulary

PLATFORMS = ("cpu", "cuda")
KINDS = ("fixed", "open")
MANIFEST = "manifest.json"
# What an open vocabulary has room for, unless the vocabulary that it is written with needs more.
ROOM = {"objects": 32, "parts": 128, "generic": 64, "most_parts": 16, "background": 32}
PROMISE = 6  # months for which later versions of jax read what this one writes


def write_bundle(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    out: str | Path,
    *,
    kind: str = "fixed",
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes the folder `out`, whole or not at all; a bundle that is there is replaced.

    "fixed": an image in, label maps of `vocabulary` out. "open": words come with each call, as
    many as `ROOM` or `vocabulary` has.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind {kind!r}: expected {' or '.join(KINDS)}")
    if unknown := [name for name in platforms if name not in PLATFORMS] or not platforms:
        raise UserError(f"unknown platforms {unknown}: expected some of {', '.join(PLATFORMS)}")
    words = segmenter.words(vocabulary)
    if kind == "open":
        words = _roomy(words, has_generic=segmenter.encode_words.keeps_prompts)
    arrays = _arrays(words)
    with new_folder(out, MANIFEST) as folder:
        manifest = _manifest(segmenter, vocabulary, kind)
        manifest["programs"] = _write_programs(folder, segmenter, arrays, platforms)
        if kind == "fixed":
            _save(arrays, folder / "words.safetensors")
        else:
            manifest["text"], manifest["programs"]["text"] = _write_text(
                folder, segmenter, vocabulary, arrays, platforms
            )
        shutil.copyfile(run.__file__, folder / "run.py")
        manifest["files"] = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return Path(out).expanduser()


def six_months_after(day: datetime.date) -> datetime.date:
    """The same day six months on, or the last day of that month."""
    years, month = divmod(day.month - 1 + PROMISE, 12)
    year, month = day.year + years, month + 1
    return datetime.date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def _write_programs(
    folder: Path, segmenter: Segmenter, words: Mapping[str, np.ndarray], platforms: Sequence[str]
) -> dict:
    """Both functions for every platform, and the weights that any of them reads."""
    weights = {path: _shape(leaf) for path, leaf in segmenter.weights.items()}
    words = {name: _shape(array) for name, array in words.items()}
    photo = jax.ShapeDtypeStruct((2,), jnp.int32)

    def images(canvas: tuple[int, int]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*canvas, 3), jnp.uint8)

    first = segmenter.canvases[0]
    trial = programs.exported(
        programs.segment(segmenter, first), platforms[0], weights, words, images(first), photo
    )
    read = programs.leaves_read(trial, weights)
    absent = {path: leaf for path, leaf in weights.items() if path not in read}
    _save({path: segmenter.weights[path] for path in read}, folder / "weights.safetensors")
    weights = {path: weights[path] for path in read}
    segments, outputs = [], {}
    for canvas in segmenter.canvases:
        inputs = weights, words, images(canvas), photo
        name = f"segment-{canvas[0]}x{canvas[1]}"
        make = lambda canvas=canvas: programs.segment(segmenter, canvas, absent)  # noqa: E731
        files, outputs = _write_program(folder, name, make, platforms, inputs)
        segments.append({"canvas": list(canvas), "files": files, "outputs": _described(outputs)})
    inputs = (
        outputs["object_scores"],
        outputs["part_scores"],
        words["part_to_object"],
        jax.ShapeDtypeStruct((6,), jnp.float32),
    )
    files, _ = _write_program(
        folder, "label", lambda: programs.label(segmenter.tile), platforms, inputs
    )
    described = {"words": _described(words), "content": _described({"": photo})[""]}
    return {
        "segment": segments,
        "label": {"files": files},
        "inputs": {"image": "uint8 [H, W, 3] of a canvas, RGB", **described},
    }


def _write_text(
    folder: Path,
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    words: Mapping[str, np.ndarray],
    platforms: Sequence[str],
) -> tuple[dict, dict]:
    """The text tower -> how words become arrays, and the files of its function."""
    encoder = segmenter.encode_words
    weights = {path: _shape(leaf) for path, leaf in encoder.clip.weights.items()}
    read = {path: leaf for path, leaf in weights.items() if path.startswith("text/")}
    absent = {path: leaf for path, leaf in weights.items() if path not in read}
    tokens = jax.ShapeDtypeStruct((programs.TEXT_BATCH, encoder.clip.size.context), jnp.int32)
    files, _ = _write_program(
        folder,
        "text",
        lambda: programs.text(encoder.clip.plan, absent),
        platforms,
        (read, tokens),
    )
    _save({path: encoder.clip.weights[path] for path in read}, folder / "text.safetensors")
    (folder / "tokenizer.json").write_text(encoder.tokenizer.to_json(), encoding="utf-8")
    rule = encoder.recipe(vocabulary) | {
        "batch": programs.TEXT_BATCH,
        "context": encoder.tokenizer.context,
        "start": encoder.tokenizer.start,
        "end": encoder.tokenizer.end,
        "pad": encoder.tokenizer.pad,
        "prompts": "apart" if encoder.keeps_prompts else "mean",
        "generic": encoder.keeps_prompts,
        "inputs": _described(words),
    }
    return rule, {"files": files, "inputs": _described({"tokens": tokens})}


def _write_program(
    folder: Path,
    name: str,
    make: Callable[[], Callable],
    platforms: Iterable[str],
    inputs: tuple,
) -> tuple[dict[str, str], dict]:
    """Traces what `make` gives anew for each platform -> the files, and what comes out."""
    files = {}
    for platform in platforms:
        program = programs.exported(make(), platform, *inputs)
        files[platform] = f"{name}.{platform}.bin"
        (folder / files[platform]).write_bytes(programs.serialised(program))
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    return files, outputs


def _manifest(segmenter: Segmenter, vocabulary: Vocabulary, kind: str) -> dict:
    today = datetime.date.today()
    encoder = segmenter.encode_words
    dtypes = sorted({str(leaf.dtype) for leaf in segmenter.weights.values()})
    names = {"objects": list(vocabulary.objects), "parts": list(vocabulary.part_names)}
    return {
        "format": run.FORMAT,
        "kind": kind,
        "model": segmenter.name,
        "method": encoder.preset.method,
        "written": today.isoformat(),
        "compatible_until": six_months_after(today).isoformat(),
        "versions": {
            "opvseg_jax": __version__,
            "jax": jax.__version__,
            "python": sys.version.split()[0],
        },
        "dtypes": {"weights": dtypes, "compute": encoder.dtype_name, "scores": "float32"},
        "vocabulary": names if kind == "fixed" else None,
        "preprocessing": {
            "canvases": [list(canvas) for canvas in segmenter.canvases],
            "stretch": segmenter.stretch,
            "least": rules.LEAST,
            "grey": rules.GREY,
            "resampling": "bicubic",
            "reducing_gap": 3,
            "pixels": "RGB, 0..255; the functions normalise them",
        },
        "labels": {
            "side": segmenter.side,
            "tile": segmenter.tile,
            "max_side": segmenter.max_side,
            "nothing": -1,
        },
    }


def _roomy(words: TextFeatures, *, has_generic: bool) -> TextFeatures:
    """One row for each object, and room for other vocabularies."""
    words = dataclasses.replace(words, phrases=None, phrase_to_object=None)
    have = {
        "objects": len(words.objects),
        "parts": len(words.parts),
        "generic": len(words.generic),
        "most_parts": words.object_to_parts.shape[1],
        "background": len(words.background),
    }
    room = {name: max(count, ROOM[name]) for name, count in have.items()}
    if not has_generic:
        room["generic"] = 0
    return pad(words, **room)


def _arrays(words: TextFeatures) -> dict[str, np.ndarray]:
    """The fields that are there, by name."""
    fields = {field.name: getattr(words, field.name) for field in dataclasses.fields(words)}
    return {name: np.ascontiguousarray(x) for name, x in fields.items() if x is not None}


def _shape(leaf: jax.Array | np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _described(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, dict]:
    return {
        name: {"shape": list(x.shape), "dtype": str(np.dtype(x.dtype))}
        for name, x in shapes.items()
    }


def _save(arrays: Mapping[str, jax.Array], path: Path) -> None:
    try:
        save_file({name: np.asarray(x) for name, x in arrays.items()}, path)
    except SafetensorError as error:  # as a full disk comes out of that library
        raise OSError(str(error)) from error


def _fingerprint(path: Path) -> dict:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}
