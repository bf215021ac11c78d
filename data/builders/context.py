"""PASCAL Context (VOC2010): 59 classes, 59 and background, 459 classes."""

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
from opvseg_jax.data.builders.labels import lookup_table, read_image, translate
from opvseg_jax.data.builders.listing import annotations_by_image, read_json, read_names
from opvseg_jax.data.builders.paint import decoded, stored_ids

from opvseg_jax.core.errors import UserError

VOC2010 = "VOCtrainval_03-May-2010.tar (host.robots.ox.ac.uk/pascal/VOC/voc2010)"
MERGED = "trainval_merged.json (detail API, linked from the CAT-Seg data page)"
MATLAB = "trainval.tar.gz (Pascal-Context home page, roozbehm.info/pascal-context)"
CONVERTED = "SegmentationClassContext, made by the usual 60-class converter"
NOT_IN_PAPERS = "2010_001606"  # in the official val list, absent from the lists of all papers
NAMES = Need(
    (
        "ImageSets/SegmentationContext/{split}.txt",
        "pascalcontext_{split}.txt",
        "ImageSets/Main/{split}.txt",
    ),
    VOC2010,
    "1.35 GB",
)
PHOTOS = Need("JPEGImages", VOC2010, "1.35 GB")
INSIDE = ("VOCdevkit/VOC2010", "VOC2010")
SPLITS = {"train": "train", "val": "val"}


def json_items(paths, split: str) -> list[Item]:
    """The images whose phase in the file is this split."""
    file = read_json(paths["json"])
    if "annos_segmentation" not in file:
        raise UserError(f"{paths['json']} has no annos_segmentation: it is another JSON file")
    own = annotations_by_image(file["annos_segmentation"])
    items = []
    for image in sorted(file["images"], key=lambda entry: entry["file_name"]):
        name = image["file_name"].rsplit(".", 1)[0]
        if image["phase"] == split and name != NOT_IN_PAPERS:
            facts = {"annotations": own.get(image["image_id"], [])}
            facts["size"] = image["height"], image["width"]
            items.append(Item(name, paths["images"] / f"{name}.jpg", facts))
    return items


def read_json_item(item: Item, labels: Labels) -> Sample:
    """Masks in file order, later ones on top; all but 59 of the 459 categories are "other"."""
    raw = np.zeros(item.facts["size"], np.int32)
    for entry, mask in decoded(item.facts["annotations"], raw.shape):
        raw[mask] = entry["category_id"]
    background = labels.vocabulary.background_object
    other = labels.ignore if background is None else background
    table = lookup_table(labels.raw, ignore=other)
    return Sample(read_image(item.image), translate(raw, table, labels.dtype))


def named_items(paths, split: str) -> list[Item]:
    """One image and one label file for each name of the list."""
    suffix = ".mat" if paths["objects"].name == "trainval" else ".png"
    return [
        Item(name, paths["images"] / f"{name}.jpg", {"objects": paths["objects"] / (name + suffix)})
        for name in read_names(paths["names"])
        if name != NOT_IN_PAPERS
    ]


def read_60(item: Item, labels: Labels) -> Sample:
    return Sample(
        read_image(item.image), stored_ids(item.facts["objects"], labels, labels.num_objects)
    )


def read_459(item: Item, labels: Labels) -> Sample:
    from scipy.io import loadmat  # of the extra "data"

    path = item.facts["objects"]
    if not path.is_file():
        raise SampleError(f"{path.name} is missing")
    try:
        raw = np.asarray(loadmat(path)["LabelMap"], np.int32)
    except Exception as error:  # scipy raises nearly every type on damaged files
        raise SampleError(f"{path.name} cannot be read: {error}") from error
    table = lookup_table(labels.raw, ignore=labels.ignore, ignored=(0,))
    return Sample(read_image(item.image), translate(raw, table, labels.dtype))


FROM_JSON = Layout(
    title="detail API annotations",
    inside=INSIDE,
    files={"images": PHOTOS, "json": Need("trainval_merged.json", MERGED)},
    items=json_items,
    read=read_json_item,
    splits=SPLITS,
)
FROM_PNG = Layout(
    title="converted 60-class PNG files",
    inside=INSIDE,
    files={
        "images": PHOTOS,
        "names": NAMES,
        "objects": Need("SegmentationClassContext", CONVERTED),
    },
    items=named_items,
    read=read_60,
    splits=SPLITS,
)
FROM_MATLAB = Layout(
    title="original Pascal-Context release",
    inside=INSIDE,
    files={"images": PHOTOS, "names": NAMES, "objects": Need("trainval", MATLAB)},
    items=named_items,
    read=read_459,
    splits=SPLITS,
)


def _benchmark(name: str, title: str, *layouts: Layout) -> Benchmark:
    published = {"train": 4998, "val": 5104}
    terms = "photos: Flickr terms of use; annotations: not stated in our sources"
    return Benchmark(name, title, layouts, published, licence=terms)


BENCHMARKS = (
    _benchmark("context59", "PASCAL Context, 59 classes", FROM_JSON),
    _benchmark("context60", "PASCAL Context, 59 classes and background", FROM_PNG, FROM_JSON),
    _benchmark("context459", "PASCAL Context, 459 classes", FROM_MATLAB),
)
