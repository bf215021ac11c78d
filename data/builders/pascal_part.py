"""Pascal-Part-116: the OV-PARTS archive, or the original Pascal-Part release (VOC2010, `.mat`)."""

import re

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
from opvseg_jax.data.builders.listing import pair, read_names
from opvseg_jax.data.builders.paint import number, paint, stored_ids

OV_PARTS = "PascalPart116.tar.gz (Google Drive, linked on the OV_PARTS GitHub page)"
VOC2010 = "VOCtrainval_03-May-2010.tar (host.robots.ox.ac.uk/pascal/VOC/voc2010)"
MATLAB = "trainval.tar.gz (Pascal-Part home page, roozbehm.info/pascal-parts)"


def read_prepared(item: Item, labels: Labels) -> Sample:
    instances = item.facts.get("instances")
    return Sample(
        read_image(item.image),
        stored_ids(item.facts["objects"], labels, labels.num_objects),
        stored_ids(item.facts["parts"], labels, labels.num_parts),
        read_labels(instances).astype(np.uint16) if instances else None,
    )


def original_items(paths, split: str) -> list[Item]:
    return [
        Item(name, paths["images"] / f"{name}.jpg", {"mat": paths["mat"] / f"{name}.mat"})
        for name in read_names(paths["names"])
    ]


def read_original(item: Item, labels: Labels) -> Sample:
    """Objects in file order; inside an object larger parts first, so that small ones stay visible.

    The benchmark's own rule for overlapping masks is not public: its maps may differ there.
    """
    ids = {name: i for i, name in enumerate(labels.vocabulary.objects)}
    objects, parts = [], []
    for entry in _structs(_annotation(item.facts["mat"]).objects):
        name = _aliases(labels).get(str(entry["class"]), str(entry["class"]))
        if name not in ids:
            raise SampleError(f"{item.key}.mat has an object {name!r}, not one of the 20")
        objects.append((ids[name], entry["mask"].astype(bool)))
        own = [(p["part_name"], p["mask"].astype(bool)) for p in _structs(entry["parts"])]
        own.sort(key=lambda part: -int(part[1].sum()))
        parts.append((labels.ignore, objects[-1][1]))  # it hides the parts of what is behind it
        parts += [(_part_id(name, part, labels), mask) for part, mask in own]
    if not objects:
        return None
    size = objects[0][1].shape
    return Sample(
        read_image(item.image),
        paint(objects, size, labels),
        paint(parts, size, labels),
        number((mask for _, mask in objects), size),
    )


def _part_id(name: str, part: str, labels: Labels) -> int:
    known = labels.facts["raw_pascal_part_merge"]["map"].get(name, {})
    for spelling in (part, re.sub(r"\d+$", "#", part)):
        if spelling in known:
            return known[spelling]
    raise SampleError(f"part {part!r} of {name!r} is not in the table of Pascal-Part names")


def _aliases(labels: Labels) -> dict[str, str]:
    return labels.facts["raw_pascal_part_merge"].get("class_alias", {})


def _annotation(path):
    from scipy.io import loadmat  # of the extra "data"

    if not path.is_file():
        raise SampleError(f"{path.name} is missing")
    try:
        return loadmat(path, squeeze_me=True, struct_as_record=False)["anno"]
    except Exception as error:  # scipy raises nearly every type on damaged files
        raise SampleError(f"{path.name} cannot be read: {error}") from error


def _structs(value) -> list[dict]:
    """Matlab gives one struct, an array of them, or an empty array."""
    return [vars(entry) for entry in np.atleast_1d(value) if hasattr(entry, "_fieldnames")]


PREPARED = Layout(
    title="OV-PARTS archive",
    inside=("PascalPart116", "Pascal-Part-116"),
    files={
        "images": Need("images/{split}", OV_PARTS),
        "objects": Need("annotations_detectron2_obj/{split}", OV_PARTS),
        "parts": Need("annotations_detectron2_part/{split}", OV_PARTS),
        "instances": Need("instances/{split}", "not part of the archive", optional=True),
    },
    items=lambda paths, split: pair(paths, ("objects", "parts"), ("instances",)),
    read=read_prepared,
    splits={"train": "train", "val": "val"},
    has_instances=True,
)
ORIGINAL = Layout(
    title="original Pascal-Part release",
    inside=("VOCdevkit/VOC2010", "VOC2010"),
    files={
        "images": Need("JPEGImages", VOC2010, "1.35 GB"),
        "names": Need(("{split}.txt", "ImageSets/Main/{split}.txt"), VOC2010, "1.35 GB"),
        "mat": Need("Annotations_Part", MATLAB),
    },
    items=original_items,
    read=read_original,
    splits={"train": "train", "val": "val"},
    has_instances=True,
)
BENCHMARKS = (
    Benchmark(
        name="pascal_part_116",
        title="Pascal-Part-116",
        layouts=(PREPARED, ORIGINAL),
        published={"train": 8431, "val": 850},
        is_verified=False,
        licence="photos: Flickr terms of use (PASCAL VOC); annotations: published for research",
    ),
)
