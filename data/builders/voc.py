"""PASCAL VOC 2012: 20, 20 and background ("20b"), or 21 classes; train is augmented."""

import functools

import numpy as np
from opvseg_jax.data.builders.benchmark import Benchmark, Item, Labels, Layout, Need, Sample
from opvseg_jax.data.builders.labels import read_image, read_labels
from opvseg_jax.data.builders.listing import files_of, read_names
from opvseg_jax.data.builders.paint import raw_ids

VOC2012 = "VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012)"
AUGMENTED = "SegmentationClassAug.zip (SBD masks in VOC format, DeepLab re-implementation pages)"
VOID = 255


def items_of(paths, split: str) -> list[Item]:
    """val: the official list. train: every augmented mask that is not in val (10582 of them)."""
    names = read_names(paths["names"])
    masks = paths["masks"]
    if split == "train":
        masks = paths["augmented"]
        names = sorted(files_of(masks, (".png",)).keys() - set(names))
    instances = paths["instances"]
    return [
        Item(
            name,
            paths["images"] / f"{name}.jpg",
            {"objects": masks / f"{name}.png", "instances": instances / f"{name}.png"},
        )
        for name in names
    ]


def read_sample(ignored: tuple[int, ...], item: Item, labels: Labels) -> Sample:
    """Instances are known for the images of VOC itself, not for those that SBD added."""
    path = item.facts["instances"]
    instances = read_labels(path).astype(np.uint16) if path.is_file() else None
    if instances is not None:
        instances[instances == VOID] = 0
    objects = raw_ids(item.facts["objects"], labels, ignored)
    return Sample(read_image(item.image), objects, None, instances)


def _benchmark(name: str, title: str, ignored: tuple[int, ...]) -> Benchmark:
    layout = Layout(
        title="VOC 2012 with SBD masks",
        inside=("VOCdevkit/VOC2012", "VOC2012", "TrainVal/VOCdevkit/VOC2012"),
        files={
            "images": Need("JPEGImages", VOC2012, "2 GB"),
            "names": Need("ImageSets/Segmentation/val.txt", VOC2012, "2 GB"),
            "masks": Need("SegmentationClass", VOC2012, "2 GB"),
            "augmented": Need("SegmentationClassAug", AUGMENTED, only=("train",)),
            "instances": Need("SegmentationObject", VOC2012, "2 GB"),
        },
        items=items_of,
        read=functools.partial(read_sample, ignored),
        splits={"train": "train", "val": "val"},
        has_instances=True,
    )
    published = {"train": 10582, "val": 1449}
    terms = "photos: Flickr terms of use; masks of SBD: not stated in our sources"
    return Benchmark(name, title, (layout,), published, licence=terms)


BENCHMARKS = (
    _benchmark("voc20", "PASCAL VOC 2012, 20 classes", ignored=(0, VOID)),
    _benchmark("voc20b", "PASCAL VOC 2012, 20 classes and background", ignored=(VOID,)),
    _benchmark("voc21", "PASCAL VOC 2012, 21 classes", ignored=(VOID,)),
)
