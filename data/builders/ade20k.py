"""ADE20K: 150 classes (MIT scene parsing) and 847 classes (full release, RGB-coded masks)."""

import io
from pathlib import Path

import numpy as np
from opvseg_jax.data.builders.benchmark import (
    Benchmark,
    Item,
    Labels,
    Layout,
    Need,
    Sample,
    SampleError,
)
from opvseg_jax.data.builders.labels import lookup_table, read_colours, read_image, translate
from opvseg_jax.data.builders.listing import files_of, pair, sorted_items
from opvseg_jax.data.builders.paint import raw_ids
from PIL import Image

CHALLENGE = "ADEChallengeData2016.zip (data.csail.mit.edu/places/ADEchallenge)"
FULL = "ADE20K_2021_17_01 (groups.csail.mit.edu/vision/datasets/ADE20K, after registration)"
TERMS = "annotations: BSD-3; photos: non-commercial research and education only"
SHORT_SIDE = 512  # of the 847-class protocol: metrics are computed at the reduced size


def read_150(item: Item, labels: Labels) -> Sample:
    return Sample(read_image(item.image), raw_ids(item.facts["objects"], labels, ignored=(0,)))


def read_codes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """[H, W] class numbers of the full release and [H, W] instance numbers."""
    red, green, blue = np.moveaxis(read_colours(path), -1, 0)
    return red // 10 * 256 + green, blue


def full_items(paths, split: str) -> list[Item]:
    """Photos with their `_seg.png`; index_ade20k.pkl is not needed, and pickles can run code."""
    masks = files_of(paths["images"], (".png",), ending="_seg", recursive=True)
    photos = files_of(paths["images"], (".jpg",), recursive=True)
    return sorted_items(Item(key, photos[key], {"seg": masks.get(key)}) for key in photos)


def read_847(item: Item, labels: Labels) -> Sample:
    if item.facts["seg"] is None:
        raise SampleError(f"{item.key}_seg.png is missing")
    data, (codes, instances) = read_image(item.image), read_codes(item.facts["seg"])
    if min(codes.shape) > SHORT_SIDE:
        data, codes, instances = _reduced(data, codes, instances)
    table = lookup_table(labels.raw, ignore=labels.ignore)
    objects = translate(codes, table, labels.dtype)
    return Sample(data, objects, None, instances.astype(np.uint16))


def _reduced(data: bytes, *maps: np.ndarray) -> tuple:
    """Brings the shorter side to 512 as the published preparation does: bilinear and nearest."""
    import cv2  # of the extra "data"; Pillow's filter averages when it reduces, OpenCV's does not

    height, width = maps[0].shape
    scale = SHORT_SIDE / min(height, width)
    size = round(height * scale), round(width * scale)
    photo = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    if photo.shape[:2] != (height, width):
        raise SampleError(f"image of {photo.shape[:2]} with a label map of {height, width}")
    out = io.BytesIO()
    smaller = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_LINEAR)
    Image.fromarray(smaller).save(out, "JPEG", quality=95)
    return out.getvalue(), *(_nearest(values, size) for values in maps)


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """OpenCV's rule: source index floor(i * in / out)."""
    rows, columns = (
        np.minimum(np.floor(np.arange(out) * (n / out)).astype(int), n - 1)
        for n, out in zip(values.shape, size, strict=True)
    )
    return values[rows[:, None], columns]


ADE_150 = Layout(
    title="MIT scene parsing benchmark",
    inside=("ADEChallengeData2016",),
    files={
        "images": Need("images/{split}", CHALLENGE, "about 1 GB"),
        "objects": Need("annotations/{split}", CHALLENGE, "about 1 GB"),
    },
    items=lambda paths, split: pair(paths, ("objects",)),
    read=read_150,
    splits={"train": "training", "val": "validation"},
)
FULL_FILES = {"images": Need(("images/ADE/{split}", "ADE/{split}"), FULL)}
ADE_847 = Layout(
    title="full release",
    inside=("ADE20K_2021_17_01",),
    files=FULL_FILES,
    items=full_items,
    read=read_847,
    splits={"train": "training", "val": "validation"},
    has_instances=True,
)
BENCHMARKS = (
    Benchmark(
        name="ade150",
        title="ADE20K, 150 classes",
        layouts=(ADE_150,),
        published={"train": 20210, "val": 2000},
        licence=TERMS,
    ),
    Benchmark(
        name="ade847",
        title="ADE20K, 847 classes",
        layouts=(ADE_847,),
        published={"train": 25574, "val": 2000},
        licence=TERMS,
    ),
)
