"""ADE20K-Part-234: the OV-PARTS archive, or the full ADE20K release."""

from collections.abc import Mapping

import numpy as np
from opvseg_jax.data.builders.ade20k import FULL_FILES, TERMS, full_items, read_codes
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
from opvseg_jax.data.builders.listing import annotations_by_image, files_of, read_json, sorted_items
from opvseg_jax.data.builders.paint import decoded, number, paint, stored_ids

from opvseg_jax.core.errors import UserError

OV_PARTS = "ADE20KPart234.tar.gz (Google Drive, linked on the OV_PARTS GitHub page)"
HIGHEST_CODE = 25 * 256 + 255  # of (R // 10) * 256 + G


def prepared_items(paths, split: str) -> list[Item]:
    """One item for each image of the instance file."""
    file = read_json(paths["instances"])
    if not {"images", "annotations"} <= file.keys():
        raise UserError(f"{paths['instances']} is not a COCO file: no images or annotations in it")
    own = annotations_by_image(file["annotations"])
    parts = files_of(paths["parts"], (".png",))
    items = []
    for image in file["images"]:
        path = paths["images"] / image["file_name"].rsplit("/", 1)[-1]
        facts = {"annotations": own.get(image["id"], []), "parts": parts.get(path.stem)}
        items.append(Item(path.stem, path, facts))
    return sorted_items(items)


def read_prepared(item: Item, labels: Labels) -> Sample:
    """Instances in list order, later ones on top; their ids are positions in that order."""
    if item.facts["parts"] is None:
        raise SampleError(f"the part map {item.key}.png is missing")
    parts = stored_ids(item.facts["parts"], labels, labels.num_parts)
    pairs = decoded(item.facts["annotations"], parts.shape)
    if wrong := [a for a, _ in pairs if not 0 <= a["category_id"] < labels.num_objects]:
        raise SampleError(f"category {wrong[0]['category_id']} is not one of {labels.num_objects}")
    objects = paint([(a["category_id"], mask) for a, mask in pairs], parts.shape, labels)
    instances = number([mask for _, mask in pairs], parts.shape)
    return Sample(read_image(item.image), objects, parts, instances)


def read_full(item: Item, labels: Labels) -> Sample | None:
    """A part pixel counts when the object's class and the part's both stand in the table.

    The authors' choice of images is not public: every image that shows a part is taken.
    """
    path = item.image.with_name(f"{item.key}_parts_1.png")
    if item.facts["seg"] is None:
        raise SampleError(f"{item.key}_seg.png is missing")
    if not path.is_file():
        return None  # the release has the file only where somebody marked parts
    (codes, instances), (part_codes, _) = read_codes(item.facts["seg"]), read_codes(path)
    if codes.shape != part_codes.shape:
        raise SampleError(f"{path.name} is {part_codes.shape}, its object map {codes.shape}")
    object_table, part_table = _tables(labels.facts, labels.ignore)
    objects = object_table[codes]
    parts = part_table[np.where(objects == labels.ignore, -1, objects), part_codes]
    if (parts == labels.ignore).all():
        return None
    instances = np.where(objects == labels.ignore, 0, instances)
    maps = objects.astype(labels.dtype), parts.astype(labels.dtype), instances.astype(np.uint16)
    return Sample(read_image(item.image), *maps)


def _tables(facts: Mapping, ignore: int) -> tuple[np.ndarray, np.ndarray]:
    """[code] -> object id and [object id or -1, code] -> part id."""
    objects = np.full(HIGHEST_CODE + 1, ignore, np.int32)
    parts = np.full((len(facts["objects"]) + 1, HIGHEST_CODE + 1), ignore, np.int32)
    for entry in facts["objects"]:
        objects[entry["ade_full_ids"]] = entry["id"]
    for entry in facts["parts"]:
        parts[entry["object_id"], entry["ade_full_ids"]] = entry["id"]
    return objects, parts


PREPARED = Layout(
    title="OV-PARTS archive",
    inside=("ADE20KPart234", "ADE20K-Part-234"),
    files={
        "images": Need("images/{split}", OV_PARTS),
        "parts": Need("annotations_detectron2_part/{split}", OV_PARTS),
        "instances": Need("ade20k_instance_{ours}.json", OV_PARTS),
    },
    items=prepared_items,
    read=read_prepared,
    splits={"train": "training", "val": "validation"},
    has_instances=True,
)
FROM_FULL = Layout(
    title="full ADE20K release",
    inside=("ADE20K_2021_17_01",),
    files=FULL_FILES,
    items=full_items,
    read=read_full,
    splits={"train": "training", "val": "validation"},
    has_instances=True,
)
BENCHMARKS = (
    Benchmark(
        name="ade20k_part_234",
        title="ADE20K-Part-234",
        layouts=(PREPARED, FROM_FULL),
        published={"train": 7347, "val": 1016},
        is_verified=False,
        licence=TERMS,
    ),
)
