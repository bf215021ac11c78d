"""Cityscapes, 19 classes. Images are stored whole; CLIPer's two halves are cut when evaluating."""

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
from opvseg_jax.data.builders.labels import read_image, read_labels
from opvseg_jax.data.builders.listing import files_of
from opvseg_jax.data.builders.paint import raw_ids, stored_ids

PHOTOS = "leftImg8bit_trainvaltest.zip (cityscapes-dataset.com, after registration)"
MASKS = "gtFine_trainvaltest.zip (cityscapes-dataset.com, after registration)"
RAW_VALUES = (*range(34), 255)  # labelIds outside of the 19 classes are ignored
FIRST_INSTANCE = 1000  # smaller values stand for a class without separate objects


def items_of(paths, split: str) -> list[Item]:
    """Masks with train ids where they were made, else the label ids of the download."""
    photos = files_of(paths["images"], (".png",), ending="_leftImg8bit", recursive=True)
    endings = ("labelTrainIds", "labelIds", "instanceIds")
    maps = {
        ending: files_of(paths["masks"], (".png",), ending=f"_gtFine_{ending}", recursive=True)
        for ending in endings
    }
    return [
        Item(key, path, {ending: maps[ending].get(key) for ending in endings})
        for key, path in photos.items()
    ]


def read_sample(item: Item, labels: Labels) -> Sample:
    if path := item.facts["labelTrainIds"]:
        objects = stored_ids(path, labels, labels.num_objects)
    elif path := item.facts["labelIds"]:
        objects = raw_ids(path, labels, RAW_VALUES)
    else:
        raise SampleError(f"{item.key} has no label map")
    path = item.facts["instanceIds"]
    return Sample(read_image(item.image), objects, None, _instances(path) if path else None)


def _instances(path) -> np.ndarray:
    """class * 1000 + number -> 1, 2, ... in the order of the values."""
    values, positions = np.unique(read_labels(path), return_inverse=True)
    ranks = np.cumsum(values >= FIRST_INSTANCE) * (values >= FIRST_INSTANCE)
    return ranks.astype(np.uint16)[positions]


LAYOUT = Layout(
    title="fine annotations",
    inside=("cityscapes", "Cityscapes"),
    files={
        "images": Need("leftImg8bit/{split}", PHOTOS, "11 GB"),
        "masks": Need("gtFine/{split}", MASKS, "241 MB"),
    },
    items=items_of,
    read=read_sample,
    splits={"train": "train", "val": "val"},
    has_instances=True,
)
BENCHMARKS = (
    Benchmark(
        name="cityscapes19",
        title="Cityscapes, 19 classes",
        layouts=(LAYOUT,),
        published={"train": 2975, "val": 500},
        licence="not stated in our sources; registration is needed",
    ),
)
