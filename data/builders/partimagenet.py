"""PartImageNet: all 158 classes, the 40 of the zero-shot protocol, and the class-disjoint OOD form.

Every image shows one object, whose class is the synset at the start of the file's name; the COCO
annotations are its parts. The PNG maps of the archive are not read: their class order is in doubt.
"""

import functools

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
from opvseg_jax.data.builders.paint import decoded, paint

from opvseg_jax import published_lists
from opvseg_jax.core.errors import UserError

SEG = "PartImageNet_Seg.zip (GitHub page TACJu/PartImageNet)"
OOD = "PartImageNet_OOD.zip (GitHub page TACJu/PartImageNet)"
PHOTOS = (".jpeg", ".jpg", ".png")


def synset_of(name: str) -> str:
    """ "n01440764/n01440764_10029.JPEG" -> "n01440764"."""
    return name.rsplit("/", 1)[-1].split("_")[0]


def items_of(benchmark: str, paths, split: str) -> list[Item]:
    """The images of this split whose class the protocol uses; they may lie in synset folders."""
    file = read_json(paths["annotations"])
    wanted = _synsets(benchmark, split)
    _refuse_other_release(benchmark, split, {synset_of(i["file_name"]) for i in file["images"]})
    photos = files_of(paths["images"], PHOTOS, recursive=True)
    own = annotations_by_image(file["annotations"])
    items = []
    for image in file["images"]:
        name = image["file_name"].rsplit("/", 1)[-1]
        key, synset = name.rsplit(".", 1)[0], synset_of(name)
        if synset in wanted:
            facts = {
                "synset": synset,
                "size": (image["height"], image["width"]),
                "annotations": own.get(image["id"], []),
            }
            items.append(Item(key, photos.get(key, paths["images"] / name), facts))
    return sorted_items(items)


def read_sample(item: Item, labels: Labels) -> Sample:
    """Masks in list order, later ones on top; the object map is the union of the parts."""
    object_id, size = labels.object_of_synset[item.facts["synset"]], item.facts["size"]
    pairs = decoded(item.facts["annotations"], size)
    part_of = labels.part_of_raw
    if wrong := [a for a, _ in pairs if (object_id, a["category_id"]) not in part_of]:
        name = labels.vocabulary.objects[object_id]
        raise SampleError(f"part category {wrong[0]['category_id']} is not one of {name!r}")
    parts = [(part_of[object_id, a["category_id"]], mask) for a, mask in pairs]
    objects = [(object_id, mask) for _, mask in pairs]
    maps = paint(objects, size, labels), paint(parts, size, labels)
    return Sample(read_image(item.image), *maps)


def _synsets(benchmark: str, split: str) -> set[str]:
    objects = published_lists.facts(benchmark)["objects"]
    if benchmark == "partimagenet_158":
        return {entry["wnid"] for entry in objects}
    wanted = {"train": (True,), "val": (False,)}[split]
    if benchmark == "partimagenet" and split == "val":
        wanted = (True, False)
    return {entry["wnid"] for entry in objects if entry["seen"] in wanted}


def _refuse_other_release(benchmark: str, split: str, found: set[str]) -> None:
    """The two archives look alike: in OOD no class of val is a class of train."""
    objects = published_lists.facts("partimagenet_158")["objects"]
    ood_val = {entry["wnid"] for entry in objects if entry["ood_split"] == "val"}
    if split != "val" or not found:
        return
    if benchmark == "partimagenet_ood" and found - ood_val:
        raise UserError(
            "val shows classes of train: this is PartImageNet_Seg, not PartImageNet_OOD"
        )
    if benchmark != "partimagenet_ood" and found <= ood_val:
        raise UserError("val shows the 19 OOD classes alone: this is PartImageNet_OOD, not ..._Seg")


def _layout(benchmark: str, origin: str, inside: str, splits: tuple[str, ...]) -> Layout:
    return Layout(
        title=origin.split()[0],
        inside=(inside, "PartImageNet"),
        files={
            "images": Need(("images/{split}", "{split}"), origin),
            "annotations": Need(
                ("annotations/{split}/{split}.json", "annotations/{split}.json", "{split}.json"),
                origin,
            ),
        },
        items=functools.partial(items_of, benchmark),
        read=read_sample,
        splits={split: split for split in splits},
    )


def _benchmark(name: str, title: str, layout: Layout, published: dict[str, int]) -> Benchmark:
    return Benchmark(name, title, (layout,), published, licence="not stated in our sources")


BENCHMARKS = (
    _benchmark(
        "partimagenet",
        "PartImageNet, 40 classes, zero-shot",
        _layout("partimagenet", SEG, "PartImageNet_Seg", ("train", "val")),
        {},
    ),
    _benchmark(
        "partimagenet_158",
        "PartImageNet, all 158 classes",
        _layout("partimagenet_158", SEG, "PartImageNet_Seg", ("train", "val", "test")),
        {},
    ),
    _benchmark(
        "partimagenet_ood",
        "PartImageNet OOD, 109 + 19 classes",
        _layout("partimagenet_ood", OOD, "PartImageNet_OOD", ("train", "val")),
        {"train": 16540, "val": 2957},
    ),
)
