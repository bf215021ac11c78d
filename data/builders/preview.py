"""A contact sheet of a prepared data set: are the labels right? A person sees it in seconds."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from opvseg_jax.data.builders import records, registry
from opvseg_jax.data.builders.benchmark import Labels
from opvseg_jax.data.builders.labels import from_png
from PIL import Image, ImageOps

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference.draw import overlay
from opvseg_jax.inference.sheet import Row, contact_sheet

NUM_SHOWN = 12
CELL = 520  # pixels of one picture on the sheet


def preview(name: str, folder: Path, split: str | None = None, num: int = NUM_SHOWN) -> Image.Image:
    """`num` images, evenly spread over the split, beside the same with coloured, named labels."""
    labels, metadata = registry.benchmark(name).labels, records.read_metadata(folder)
    splits = list(metadata["splits"])
    split = split or ("val" if "val" in splits else splits[0])
    if split not in splits:
        raise UserError(f"{folder} has the splits {', '.join(splits)}, not {split!r}")
    data = records.encoded_source(folder, split)
    chosen = sorted({int(i) for i in np.linspace(0, len(data) - 1, min(num, len(data)))})
    rows = [_row(data[i], labels) for i in chosen]
    return contact_sheet(rows, cell=CELL)


def _row(record: Mapping, labels: Labels) -> Row:
    with Image.open(io.BytesIO(record["image"])) as image:
        photo = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    objects = _shown(record["object_map"], labels)
    if (background := labels.vocabulary.background_object) is not None:
        objects[objects == background] = -1
    parts = np.full_like(objects, -1)
    if "part_map" in record:
        parts = _shown(record["part_map"], labels)
    drawn = overlay(photo, objects, parts, labels.vocabulary)
    return Row({"image": photo, "labels": drawn}, caption=record["key"].decode())


def _shown(data: bytes, labels: Labels) -> np.ndarray:
    """[H, W] with -1 for what is not labelled."""
    values = from_png(data).astype(np.int32)
    return np.where(values == labels.ignore, -1, values)
