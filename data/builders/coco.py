"""COCO: COCO-Stuff with 171 classes, COCO-Object with 80 and background."""

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
from opvseg_jax.data.builders.labels import read_image
from opvseg_jax.data.builders.listing import (
    annotations_by_image,
    files_of,
    pair,
    read_json,
    read_names,
)
from opvseg_jax.data.builders.paint import decoded, number, raw_ids, stored_ids

PHOTOS_2017 = "{split}.zip (images.cocodataset.org/zips)"
STUFF = "stuffthingmaps_trainval2017.zip (COCO-Stuff GitHub page)"
CLIPER_STUFF = "stuff_anno164: masks with ids 0..170, made by the converter that CLIPer names"
VAL_2017 = "val2017.zip (images.cocodataset.org/zips)"
VAL_2014 = "val2014.zip (images.cocodataset.org/zips)"
FIRST_5000 = "val_5k.txt (list of CLIPer: 5000 names of val2014)"
OBJECT_MASKS = "coco_seg_anno (archive common in weakly supervised segmentation)"
INSTANCES_2014 = "annotations_trainval2014.zip (images.cocodataset.org/annotations)"
INSTANCES_2017 = "annotations_trainval2017.zip (images.cocodataset.org/annotations)"
GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)  # raw values without a class
UNLABELED = 255
TERMS = "photos: each its own Creative Commons licence; annotations: CC BY 4.0"


def read_stuff(item: Item, labels: Labels) -> Sample:
    ignored = (*GAPS, UNLABELED)
    return Sample(read_image(item.image), raw_ids(item.facts["objects"], labels, ignored))


def converted_items(paths, split: str) -> list[Item]:
    """CLIPer's masks may carry the ending of the converter that wrote them."""
    images = files_of(paths["images"], (".jpg",))
    masks = files_of(paths["objects"], (".png",))
    masks |= files_of(paths["objects"], (".png",), ending="_labelTrainIds")
    return [Item(key, images[key], {"objects": masks[key]}) for key in images if key in masks]


def read_stored(item: Item, labels: Labels) -> Sample:
    objects = stored_ids(item.facts["objects"], labels, labels.num_objects)
    return Sample(read_image(item.image), objects)


def listed_items(paths, split: str) -> list[Item]:
    """COCO_val2014_<number>.jpg with <number>.png, in the order of the numbers."""
    keys = [name.rsplit("_", 1)[-1] for name in read_names(paths["names"])]
    photos = {path.stem.rsplit("_", 1)[-1]: path for path in files_of(paths["images"]).values()}
    return [_item(paths, photos, key, {"objects": paths["objects"] / f"{key}.png"}) for key in keys]


def instance_items(paths, split: str) -> list[Item]:
    """The images of the instance file, those of the list alone where there is one."""
    file = read_json(paths["instances"])
    own = annotations_by_image(file["annotations"])
    photos = {path.stem.rsplit("_", 1)[-1]: path for path in files_of(paths["images"]).values()}
    names = read_names(paths["names"]) if "names" in paths else None
    wanted = None if names is None else {name.rsplit("_", 1)[-1] for name in names}
    items = []
    for image in sorted(file["images"], key=lambda entry: entry["id"]):
        key = Path(image["file_name"]).stem.rsplit("_", 1)[-1]
        if wanted is None or key in wanted:
            size = image["height"], image["width"]
            facts = {"size": size, "annotations": own.get(image["id"], [])}
            items.append(_item(paths, photos, key, facts))
    return items


def read_instances(item: Item, labels: Labels) -> Sample:
    """Crowd regions become ignore, our choice; then instances in file order, later ones on top."""
    size = item.facts["size"]
    pairs = decoded(item.facts["annotations"], size)
    objects = np.zeros(size, labels.dtype)  # 0 is the background class
    for entry, mask in pairs:
        if entry["iscrowd"]:
            objects[mask] = labels.ignore
    single = [(entry["category_id"], mask) for entry, mask in pairs if not entry["iscrowd"]]
    for category, mask in single:
        if category not in labels.raw:
            raise SampleError(f"category {category} is not one of COCO's 80")
        objects[mask] = labels.raw[category]
    instances = number([mask for _, mask in single], size)
    return Sample(read_image(item.image), objects, None, instances)


def _item(paths, photos, key: str, facts) -> Item:
    return Item(key, photos.get(key, paths["images"] / f"{key}.jpg"), facts)


# Both archives have the folders train2017 and val2017: the endings tell photos from masks.
STUFF_IMAGES = Need(
    ("images/{split}", "{split}"), PHOTOS_2017, "18 GB for train, 1 GB for val", suffix=".jpg"
)
RAW_STUFF = Layout(
    title="stuffthingmaps",
    inside=("coco", "coco-stuff", "coco_stuff164k"),
    files={
        "images": STUFF_IMAGES,
        "objects": Need(
            (
                "annotations/{split}",
                "stuffthingmaps/{split}",
                "stuffthingmaps_trainval2017/{split}",
                "{split}",
            ),
            STUFF,
            "659 MB",
            suffix=".png",
        ),
    },
    items=lambda paths, split: pair(paths, ("objects",), photos=(".jpg",)),
    read=read_stuff,
    splits={"train": "train2017", "val": "val2017"},
)
CONVERTED_STUFF = Layout(
    title="converted COCO-Stuff masks",
    inside=("coco2017", "coco"),
    files={
        "images": STUFF_IMAGES,
        "objects": Need(("stuff_anno164/{split}", "annotations_detectron2/{split}"), CLIPER_STUFF),
    },
    items=converted_items,
    read=read_stored,
    splits={"train": "train2017", "val": "val2017"},
)
LISTED_OBJECTS = Layout(
    title="masks and list of CLIPer",
    inside=("coco2014", "coco"),
    files={
        "images": Need(("val2014", "images/val2014"), VAL_2014, "6 GB"),
        "names": Need(("val_5k.txt", "ImageSets/val_5k.txt"), FIRST_5000),
        "objects": Need("coco_seg_anno", OBJECT_MASKS),
    },
    items=listed_items,
    read=read_stored,
    splits={"val": "val"},
)
OBJECTS_2014 = Layout(
    title="COCO 2014 instances, 5000 images of val",
    inside=("coco2014", "coco"),
    files={
        "images": Need(("val2014", "images/val2014"), VAL_2014, "6 GB"),
        "names": Need(("val_5k.txt", "ImageSets/val_5k.txt"), FIRST_5000),
        "instances": Need("annotations/instances_val2014.json", INSTANCES_2014),
    },
    items=instance_items,
    read=read_instances,
    splits={"val": "val"},
    has_instances=True,
)
OBJECTS_2017 = Layout(
    title="COCO 2017 instances, all of val (another convention than the papers' list)",
    inside=("coco2017", "coco"),
    files={
        "images": Need(("val2017", "images/val2017"), VAL_2017, "1 GB"),
        "instances": Need("annotations/instances_val2017.json", INSTANCES_2017, "241 MB"),
    },
    items=instance_items,
    read=read_instances,
    splits={"val": "val"},
    has_instances=True,
)
BENCHMARKS = (
    Benchmark(
        name="coco_stuff_171",
        title="COCO-Stuff, 171 classes (156 seen, 15 unseen)",
        layouts=(RAW_STUFF, CONVERTED_STUFF),
        published={"train": 118287, "val": 5000},
        licence=TERMS,
    ),
    Benchmark(
        name="coco_object",
        title="COCO-Object, 80 classes and background",
        layouts=(LISTED_OBJECTS, OBJECTS_2014, OBJECTS_2017),
        published={"val": 5000},
        licence=TERMS,
    ),
)
