"""What a user gets for one photo: which pixels are which object and part, and ways to keep it."""

import dataclasses
import difflib
import functools
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opvseg_jax import __version__
from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import writable_folder, write_whole
from opvseg_jax.inference import draw, legend, masks
from opvseg_jax.vocabulary import Vocabulary

FORMAT = "opvseg_jax.segmentation/1"


@dataclasses.dataclass(frozen=True)
class Found:
    """An object or a part that is present. Of a part, `object` is the object it belongs to."""

    name: str  # "dog"; "head" for a part
    index: int  # in the vocabulary's objects or parts
    area: int  # pixels
    share: float  # of the image
    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    score: float | None  # mean confidence over its pixels, if the method told
    object: str | None = None

    @property
    def full_name(self) -> str:
        return self.name if self.object is None else f"{self.object}: {self.name}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """Labels for every pixel of `image`; -1 means that nothing of the vocabulary is there."""

    image: np.ndarray  # uint8 [H, W, 3]
    object_map: np.ndarray  # int [H, W], index into vocabulary.objects or -1
    part_map: np.ndarray  # int [H, W], index into vocabulary.parts or -1
    vocabulary: Vocabulary
    object_scores: np.ndarray | None = None  # [O], NaN where unknown
    part_scores: np.ndarray | None = None  # [T]
    model: str | None = None
    path: str | Path | None = None
    photo_size: tuple[int, int] | None = None  # (H, W) of the file, where `image` is a reduction
    passed_over: int = 0  # objects too many: found, and not looked at for parts

    def __post_init__(self):
        shape = self.image.shape
        if self.image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not self.image.size:
            raise ValueError(f"expected an image uint8 [H, W, 3], got {self.image.dtype} {shape}")
        for field, names in (("object", self.vocabulary.objects), ("part", self.vocabulary.parts)):
            labels, scores = getattr(self, f"{field}_map"), getattr(self, f"{field}_scores")
            if labels.shape != shape[:2] or labels.dtype.kind != "i":
                raise ValueError(
                    f"{field}_map: expected signed integers {list(shape[:2])}, "
                    f"got {labels.dtype} {list(labels.shape)}"
                )
            if labels.min() < -1 or labels.max() >= len(names):
                raise ValueError(
                    f"{field}_map: expected labels -1..{len(names) - 1}, "
                    f"got {labels.min()}..{labels.max()}"
                )
            if scores is not None and np.shape(scores) != (len(names),):
                raise ValueError(
                    f"{field}_scores: expected [{len(names)}], got {list(np.shape(scores))}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the label maps."""
        return self.object_map.shape

    @functools.cached_property
    def objects(self) -> list[Found]:
        """The objects that are present, the largest first; not the vocabulary's background."""
        words = self.vocabulary
        found = _found(self.object_map, words.objects, self.object_scores)
        return [entry for entry in found if entry.index != words.background_object]

    @functools.cached_property
    def parts(self) -> list[Found]:
        """The parts that are present, the largest first."""
        parts = self.vocabulary.parts
        names = [part.generic for part in parts]
        owners = [self.vocabulary.objects[part.object] for part in parts]
        found = _found(self.part_map, names, self.part_scores)
        return [dataclasses.replace(part, object=owners[part.index]) for part in found]

    def mask(self, name: str, part: str | None = None) -> np.ndarray:
        """`mask("dog")`, `mask("dog", "head")` -> bool [H, W]; all False if it was not found."""
        index = _index(name, self.vocabulary.objects, "object")
        if part is None:
            return self.object_map == index
        ids = [k for k, p in enumerate(self.vocabulary.parts) if p.object == index]
        names = [self.vocabulary.parts[k].generic for k in ids]
        return self.part_map == ids[_index(part, names, f"part of {name!r}")]

    def overlay(self, *, has_legend: bool = True, min_side: int = 480, max_side: int = 2048):
        """A PIL image: objects outlined, parts filled, what was not found dimmed, names beside."""
        return draw.overlay(
            self.image,
            self.object_map,
            self.part_map,
            self.vocabulary,
            has_legend=has_legend,
            min_side=min_side,
            max_side=max_side,
        )

    def groups(self) -> list[legend.Group]:
        """What is present with the colours in which `overlay` draws it."""
        return legend.groups(self.object_map, self.part_map, self.vocabulary)

    def save(self, folder: str | Path, name: str | None = None) -> list[Path]:
        """Writes NAME_overlay.png, NAME_objects.png, NAME_parts.png and NAME.json.

        In the label maps 0 is background and v > 0 stands for class v - 1 of the JSON's list, in 8
        bits, or 16 where there are more than 255 classes. `name` defaults to that of the photo.
        """
        name = name or (Path(self.path).stem if self.path else "") or "segmentation"
        if Path(name).name != name:
            raise UserError(f"expected a plain file name, got {name!r}: give the folder by itself")
        folder = writable_folder(folder)
        files = {kind: f"{name}_{kind}.png" for kind in ("overlay", "objects", "parts")}
        contents = {
            files["overlay"]: _png(self.overlay()),
            files["objects"]: _png(label_image(self.object_map, len(self.vocabulary.objects))),
            files["parts"]: _png(label_image(self.part_map, len(self.vocabulary.parts))),
            f"{name}.json": _json(self.to_dict(files)),  # last: where it is, all is complete
        }
        return [write_whole(folder / file, content) for file, content in contents.items()]

    def to_dict(self, files: dict[str, str] | None = None) -> dict[str, Any]:
        """Everything but the pixels of the photo, as plain values for JSON."""
        height, width = self.size
        photo_height, photo_width = self.photo_size or self.size
        return {
            "format": FORMAT,
            "version": __version__,
            "model": self.model,
            "image": {
                "path": None if self.path is None else str(self.path),
                "width": width,
                "height": height,
                "photo_width": photo_width,
                "photo_height": photo_height,
            },
            "files": files or {},
            "label_encoding": "0 is background; v > 0 is entry v - 1 of the vocabulary's list",
            "vocabulary": self.vocabulary.to_dict(),
            "objects": _entries(self.objects, self.object_map),
            "parts": _entries(self.parts, self.part_map),
            "objects_passed_over": self.passed_over,
        }

    def to_coco(self, *, image_id: int = 1, first_annotation_id: int = 1) -> dict[str, list]:
        """A COCO data set of one image: one annotation for every class present, with its RLE.

        Objects are the categories 1..O; parts follow, with their object as supercategory.
        """
        words, (height, width) = self.vocabulary, self.size
        name = "" if self.path is None else Path(self.path).name
        categories = [
            {"id": i + 1, "name": name, "supercategory": "object"}
            for i, name in enumerate(words.objects)
        ]
        first_part = len(words.objects) + 1
        categories += [
            {"id": first_part + k, "name": part.name, "supercategory": words.objects[part.object]}
            for k, part in enumerate(words.parts)
        ]
        annotations = []
        for found, labels, first in (
            (self.objects, self.object_map, 1),
            (self.parts, self.part_map, first_part),
        ):
            encoded = masks.encode_labels(labels)
            annotations += [
                {
                    "id": first_annotation_id + len(annotations) + i,
                    "image_id": image_id,
                    "category_id": first + entry.index,
                    "segmentation": encoded[entry.index],
                    "area": entry.area,
                    "bbox": list(entry.box),
                    "iscrowd": 0,
                    **({} if entry.score is None else {"score": entry.score}),
                }
                for i, entry in enumerate(found)
            ]
        image = {"id": image_id, "file_name": name, "width": width, "height": height}
        return {"images": [image], "annotations": annotations, "categories": categories}

    def __repr__(self) -> str:
        shown = self.groups()
        pieces = []
        for group in shown[:5]:
            names = [part.name for part in group.parts]
            if len(names) > 5:
                names = [*names[:4], f"{len(names) - 4} more parts"]
            inside = ": " + ", ".join(names) if names else ""
            pieces.append(f"{group.name} ({legend.percent(group.share)}{inside})")
        if len(shown) > 5:
            pieces.append(f"{len(shown) - 5} more")
        height, width = self.size
        rest = f"; {self.passed_over} not looked at for parts" if self.passed_over else ""
        return f"Segmentation {height}x{width}: {', '.join(pieces) or 'nothing found'}{rest}"


def label_image(labels: np.ndarray, count: int) -> Image.Image:
    """labels int [H, W], -1 = nothing -> a grey picture of labels + 1, 8 bits if they fit."""
    return Image.fromarray((labels.astype(np.int32) + 1).astype(np.uint8 if count < 256 else "<u2"))


def _found(labels: np.ndarray, names: Sequence[str], scores: np.ndarray | None) -> list[Found]:
    areas = masks.areas(labels, len(names))
    found = []
    for i in np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)].tolist():
        score = math.nan if scores is None else float(scores[i])
        found.append(
            Found(
                name=names[i],
                index=i,
                area=int(areas[i]),
                share=float(areas[i] / labels.size),
                box=masks.box(labels == i),
                score=score if math.isfinite(score) else None,
            )
        )
    return found


def _entries(found: Sequence[Found], labels: np.ndarray) -> list[dict[str, Any]]:
    encoded = masks.encode_labels(labels)
    entries = []
    for entry in found:
        values = dataclasses.asdict(entry) | {"label": entry.index + 1}
        values |= {"box": list(entry.box), "rle": encoded[entry.index]}
        entries.append({key: values[key] for key in values if key != "object" or entry.object})
    return entries


def _index(name: str, names: Sequence[str], what: str) -> int:
    if name in names:
        return list(names).index(name)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names[:10]) or 'none'}"
    raise UserError(f"{name!r} is no {what} of this vocabulary; {hint}")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _json(values: dict[str, Any]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False)
    return (text + "\n").encode(errors="replace")  # a path may hold bytes that are no letters
