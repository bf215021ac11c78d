"""Runs a bundle of `opvseg export`. This one file is all that is needed beside the bundle.

Needs jax (with flatbuffers, which `jax.export` reads its files with), numpy and safetensors.
Pillow, if it is there, opens photos and fits them into the canvas; without it an image must have
the size of the canvas. tokenizers, if it is there, turns words into tokens (open vocabulary).

    bundle = load("bundle/")
    result = bundle(image)                      # uint8 [H, W, 3], fixed vocabulary
    words = bundle.words({"dog": ["head", "leg"], "car": []})
    result = bundle(image, words)               # open vocabulary

    python run.py BUNDLE photo.png [--words "dog: head, leg; car"] [--out FOLDER]
"""

import argparse
import datetime
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

FORMAT = 1


class BundleError(ValueError):
    """What is wrong with a bundle or with what it was given, in one sentence."""


class Result(NamedTuple):
    """Label maps int32 [H, W] of the photo, -1 where there is nothing, and scores.

    object_scores [h, w, O + 1] and part_scores [h, w, T + 1] are those of the canvas, at the
    method's own resolution; the last channel is "none".
    """

    object_map: np.ndarray
    part_map: np.ndarray
    object_scores: np.ndarray
    part_scores: np.ndarray
    objects: tuple[str, ...]
    parts: tuple[str, ...]


class Words(NamedTuple):
    """A vocabulary as the functions of a bundle take it."""

    arrays: Mapping[str, np.ndarray]
    objects: tuple[str, ...]
    parts: tuple[str, ...]


def load(folder: str | Path, platform: str | None = None) -> "Bundle":
    """The bundle in a folder, every file of it checked, for this machine's cpu or cuda."""
    return Bundle(Path(folder), platform)


class Bundle:
    """`bundle(image) -> Result`, or `bundle(image, words)` if the vocabulary is open."""

    def __init__(self, folder: Path, platform: str | None = None):
        self.folder, self.manifest = folder, read_manifest(folder)
        check_files(folder, self.manifest)
        backend = jax.default_backend()
        self.platform = platform or {"gpu": "cuda"}.get(backend, backend)
        programs = self.manifest["programs"]
        self._segment = {
            tuple(one["canvas"]): self._program(one["files"]) for one in programs["segment"]
        }
        self._label = self._program(programs["label"]["files"])
        self._weights = self._on_device("weights.safetensors")
        self._own = None
        if self.manifest["kind"] == "fixed":
            names = self.manifest["vocabulary"]
            arrays = self._on_device("words.safetensors")
            self._own = Words(arrays, tuple(names["objects"]), tuple(names["parts"]))
        else:
            self._text = self._program(programs["text"]["files"])
            self._text_weights = self._on_device("text.safetensors")

    def __call__(self, image: np.ndarray, words: Words | None = None) -> Result:
        """image uint8 [H, W, 3], RGB."""
        words = self._own if words is None else words
        if words is None:
            raise BundleError("this bundle has an open vocabulary: give words, see Bundle.words")
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or not image.size:
            raise BundleError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        canvas, content = fit(image, list(self._segment), self.manifest["preprocessing"])
        found = self._segment[canvas.shape[:2]](self._weights, words.arrays, canvas, content)
        return self._result(found, words, content, image.shape[:2], canvas.shape[:2])

    def words(
        self,
        vocabulary: Mapping[str, Sequence[str]],
        background: Sequence[str] | None = None,
        *,
        embed: Callable[[list[str]], np.ndarray] | None = None,
    ) -> Words:
        """{object: its parts} -> what the second argument of a call is.

        `background` are words for what else may be in the picture (default: the model's own).
        `embed` turns n sentences into [n, E]; by default the text tower of the bundle does.
        """
        if self._own is not None:
            raise BundleError("this bundle has a fixed vocabulary: call it with the image alone")
        return make_words(vocabulary, background, self.manifest["text"], embed or self._embed_texts)

    def embed(self, tokens: np.ndarray) -> np.ndarray:
        """Token ids int32 [n, context] -> unit-norm float32 [n, E]."""
        rule = self.manifest["text"]
        size, rows = rule["batch"], []
        for first in range(0, len(tokens), size):
            batch = np.asarray(tokens[first : first + size], np.int32)
            filler = np.repeat(batch[:1], size - len(batch), axis=0)
            done = self._text(self._text_weights, np.concatenate([batch, filler]))
            rows.append(np.asarray(done)[: len(batch)])
        return np.concatenate(rows)

    def _embed_texts(self, texts: list[str]) -> np.ndarray:
        return self.embed(tokenize(texts, self.folder / "tokenizer.json", self.manifest["text"]))

    def _result(self, found, words: Words, content, photo, canvas) -> Result:
        rule = self.manifest["labels"]
        shrink = min(1.0, rule["max_side"] / max(photo))
        size = tuple(max(1, round(side * shrink)) for side in photo)
        share = content / rule["side"]
        tile = rule["tile"]
        maps = np.empty((2, *size), np.int32)
        for top in range(0, size[0], tile):
            for left in range(0, size[1], tile):
                place = np.asarray([top, left, *size, *share], np.float32)
                scores = found["object_scores"], found["part_scores"]
                pieces = self._label(*scores, words.arrays["part_to_object"], place)
                cut = maps[:, top : top + tile, left : left + tile]
                cut[...] = np.stack(pieces)[:, : cut.shape[1], : cut.shape[2]]
        objects, parts = (copy_up(labels, photo) for labels in maps)
        counts = len(words.objects), len(words.parts)
        scores = (
            on_canvas(np.asarray(found[name]), count, canvas, rule["side"])
            for name, count in zip(("object_scores", "part_scores"), counts, strict=True)
        )
        return Result(objects, parts, *scores, words.objects, words.parts)

    def _on_device(self, name: str) -> dict[str, jax.Array]:
        return jax.device_put(load_file(self.folder / name))

    def _program(self, files: Mapping[str, str]) -> Callable:
        if self.platform not in files:
            known = ", ".join(files)
            raise BundleError(f"{self.folder} is for {known}, not for {self.platform}: export anew")
        try:
            program = export.deserialize(
                bytearray((self.folder / files[self.platform]).read_bytes())
            )
        except ImportError as error:
            raise BundleError("jax.export needs flatbuffers: pip install flatbuffers") from error
        except Exception as error:  # the format of a jax from another time
            until = datetime.date.fromisoformat(self.manifest["compatible_until"])
            late = ", and that day is past" if datetime.date.today() > until else ""
            raise BundleError(
                f"jax {jax.__version__} cannot read {self.folder}, written with jax "
                f"{self.manifest['versions']['jax']} and promised to work until {until}{late}: "
                f"export anew ({error})"
            ) from error
        return jax.jit(program.call)


def read_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} is no bundle: {path} cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is not of format {FORMAT}: use the run.py beside it")
    return manifest


def check_files(folder: Path, manifest: Mapping) -> None:
    """Every file is there, and its bytes are those that were written."""
    for name, known in manifest["files"].items():
        try:
            with (folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{folder / name} cannot be read: {error.strerror}") from error
        if digest != known["sha256"]:
            raise BundleError(f"{folder / name} was changed or damaged: copy the bundle again")


def fit(
    photo: np.ndarray, canvases: Sequence[tuple[int, int]], rule: Mapping
) -> tuple[np.ndarray, np.ndarray]:
    """photo uint8 [H, W, 3] -> the canvas uint8 [h, w, 3], and the rows and columns it fills."""
    height, width = photo.shape[:2]
    if (height, width) in canvases:
        return photo, np.asarray((height, width), np.int32)
    try:
        from PIL import Image
    except ImportError as error:
        sizes = " or ".join(f"{h} x {w}" for h, w in canvases)
        raise BundleError(
            f"got an image of {height} x {width}: give one of {sizes}, or install Pillow"
        ) from error
    scale, _, canvas = max((min(h / height, w / width), -h * w, (h, w)) for h, w in canvases)
    content = canvas
    if not rule["stretch"]:
        content = tuple(
            min(max(rule["least"], round(side * scale)), most)
            for side, most in zip((height, width), canvas, strict=True)
        )
    resized = Image.fromarray(photo).resize(
        content[::-1], Image.Resampling.BICUBIC, reducing_gap=rule["reducing_gap"]
    )
    filled = np.full((*canvas, 3), rule["grey"], np.uint8)
    filled[: content[0], : content[1]] = np.asarray(resized)
    return filled, np.asarray(content, np.int32)


def copy_up(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """labels [h, w] -> [H, W], every pixel copied from the nearest."""
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * m // n, m - 1).astype(int)
        for n, m in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def on_canvas(scores: np.ndarray, count: int, canvas: tuple[int, int], side: int) -> np.ndarray:
    """scores [n, n, K] of a square of `side` pixels -> [h, w, count + 1] of the canvas."""
    rows, columns = (round(scores.shape[0] * length / side) for length in canvas)
    kept = [*range(min(count, scores.shape[-1] - 1)), scores.shape[-1] - 1]
    return scores[:rows, :columns, kept]


def make_words(vocabulary, background, rule: Mapping, embed) -> Words:
    """Sentences, their embeddings, and the index maps between objects and parts, padded."""
    objects = [str(name) for name in vocabulary]
    owners = [i for i, parts in enumerate(vocabulary.values()) for _ in parts]
    generic_of = [str(part) for parts in vocabulary.values() for part in parts]
    generic = sorted(set(generic_of))
    if background is None:
        taken = {name.casefold() for name in objects}
        background = [word for word in rule["background"] if word.casefold() not in taken]
    phrases = [
        rule["part_phrase"].replace("{object}", objects[o]).replace("{part}", part)
        for o, part in zip(owners, generic_of, strict=True)
    ]
    names = [f"{objects[o]}'s {part}" for o, part in zip(owners, generic_of, strict=True)]
    rows_of_parts: list[list[int]] = [[] for _ in objects]
    for i, owner in enumerate(owners):
        rows_of_parts[owner].append(i)
    most = max(map(len, rows_of_parts), default=0)
    table = np.asarray([row + [-1] * (most - len(row)) for row in rows_of_parts], np.int32)
    table = table.reshape(len(objects), most)
    texts = {"objects": objects, "parts": phrases, "generic": generic, "background": background}
    if not rule["generic"]:
        del texts["generic"]
    found = dict(zip(texts, embed_all(list(texts.values()), rule, embed), strict=True))
    found |= {
        "part_to_object": np.asarray(owners, np.int32),
        "part_to_generic": np.asarray([generic.index(part) for part in generic_of], np.int32),
        "object_to_parts": table,
        "object_mask": np.ones(len(objects), bool),
        "part_mask": np.ones(len(names), bool),
        "background_mask": np.ones(len(background), bool),
        "generic_mask": np.ones(len(generic) if rule["generic"] else 0, bool),
    }
    if not rule["generic"]:  # these functions never look at generic parts
        found["part_to_generic"] = np.zeros(len(names), np.int32)
    arrays = {name: pad(found.get(name), spec, name) for name, spec in rule["inputs"].items()}
    return Words(jax.device_put(arrays), tuple(objects), tuple(names))


def embed_all(lists: list[list[str]], rule: Mapping, embed) -> list[np.ndarray]:
    """Lists of names -> [n, P, E] each; objects and background have one set of templates."""
    sets = [rule["templates"], *(rule["part_templates"],) * (len(lists) - 2), rule["templates"]]
    grids = [
        [[template.replace("{}", name) for template in templates] for name in names]
        for names, templates in zip(lists, sets, strict=True)
    ]
    texts = list(dict.fromkeys(text for grid in grids for row in grid for text in row))
    rows = unit(np.asarray(embed(texts), np.float32))
    place = {text: i for i, text in enumerate(texts)}
    done = []
    for grid, templates in zip(grids, sets, strict=True):
        index = np.asarray([[place[text] for text in row] for row in grid], int)
        found = rows[index.reshape(len(grid), len(templates))]
        done.append(unit(found.mean(axis=1, keepdims=True)) if rule["prompts"] == "mean" else found)
    return done


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def pad(array: np.ndarray | None, spec: Mapping, name: str) -> np.ndarray:
    """Grows an array to the sizes of the function: embeddings by 0, masks by False, maps by -1."""
    shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
    fill = -1 if np.issubdtype(dtype, np.integer) else 0
    whole = np.full(shape, fill, dtype)
    if array is None or not array.size:
        return whole
    if any(have > room for have, room in zip(array.shape, shape, strict=True)):
        raise BundleError(
            f"{name} of size {list(array.shape)} do not fit into {list(shape)}: export the bundle "
            "with a --vocab that is as large as the largest one to come"
        )
    whole[tuple(slice(0, length) for length in array.shape)] = array
    return whole


def tokenize(texts: Sequence[str], path: Path, rule: Mapping) -> np.ndarray:
    """Sentences -> int32 [n, context]; what is too long is cut and keeps its end."""
    try:
        import tokenizers
    except ImportError as error:
        raise BundleError("words need tokenizers: pip install tokenizers") from error
    backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    backend.encode_special_tokens = True  # "<|endoftext|>" in a word is text
    out = np.full((len(texts), rule["context"]), rule["pad"], np.int32)
    for row, text in zip(out, texts, strict=True):
        plain = " ".join(text.split()).lower()
        ids = backend.encode(plain, add_special_tokens=False).ids[: rule["context"] - 2]
        row[: len(ids) + 2] = [rule["start"], *ids, rule["end"]]
    return out


def read_words(text: str) -> dict[str, list[str]]:
    """ "dog: head, leg; car" -> {"dog": ["head", "leg"], "car": []}."""
    entries = [entry.partition(":") for entry in text.split(";") if entry.strip()]
    return {
        name.strip(): [part.strip() for part in parts.split(",") if part.strip()]
        for name, _, parts in entries
    }


def read_photo(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise BundleError(f"{path} needs Pillow: install it, or give a .npy file") from error
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise BundleError(f"{path} cannot be read as a photo: {error}") from error


def tell(result: Result) -> list[str]:
    """A line for every object and part that was found: its name and its share of the photo."""
    lines = []
    for labels, names in ((result.object_map, result.objects), (result.part_map, result.parts)):
        for i in np.unique(labels[labels >= 0]):
            lines.append(f"{names[i]}: {(labels == i).mean():.1%}")
    return lines or ["nothing found"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Runs a bundle of `opvseg export` on a photo.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photo", type=Path, help="an image file, or .npy with uint8 [H, W, 3]")
    parser.add_argument("--words", help='for an open vocabulary: "dog: head, leg; car"')
    parser.add_argument("--out", type=Path, help="write scores and label maps there, as .npz")
    args = parser.parse_args(argv)
    try:
        bundle = load(args.bundle)
        words = bundle.words(read_words(args.words)) if args.words else None
        result = bundle(read_photo(args.photo), words)
    except BundleError as error:
        sys.stderr.write(f"run.py: {error}\n")
        return 2
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(args.out / f"{args.photo.stem}.npz", **result._asdict())
    sys.stdout.write("\n".join(tell(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
