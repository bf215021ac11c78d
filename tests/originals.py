"""Tiny copies of the benchmarks, written in the forms in which they are really downloaded.

Every writer fills a folder and returns what must come out of it: {split: {key: Truth}}. Label
values are written down here as the data sets publish them, not looked up where the builders do.
"""

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from opvseg_jax.vocabulary import Vocabulary

SIZE = (24, 32)  # height, width


@dataclasses.dataclass
class Truth:
    objects: np.ndarray
    parts: np.ndarray | None = None
    instances: np.ndarray | None = None


def write_all(name: str, root: Path) -> dict[str, dict[str, Truth]]:
    return WRITERS[name](root)


def box(k: int) -> tuple[slice, slice]:
    """The k-th of six rectangles that do not touch."""
    row, column = divmod(k % 6, 3)
    return np.s_[2 + 11 * row : 10 + 11 * row, 1 + 10 * column : 9 + 10 * column]


def boxes(values, rest: int, dtype=np.uint8) -> np.ndarray:
    out = np.full(SIZE, rest, dtype)
    for k, value in enumerate(values):
        out[box(k)] = value
    return out


def mask_of(*ks: int) -> np.ndarray:
    out = np.zeros(SIZE, np.uint8)
    for k in ks:
        out[box(k)] = 1
    return out


def polygon(k: int) -> list[list[float]]:
    rows, columns = box(k)
    x, y, right, low = columns.start, rows.start, columns.stop, rows.stop
    return [[x, y, right, y, right, low, x, low]]


def run_lengths(k: int) -> dict:
    """Uncompressed: numbers of pixels down the columns, beginning with background."""
    flat = mask_of(k).T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return {"size": list(SIZE), "counts": counts}


def photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(path.name.encode()))
    pixels = noise.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def labels(path: Path, values: np.ndarray, *, has_palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if has_palette:
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def pascal_part_prepared(root: Path):
    """OV-PARTS: 0..19 and 0..115, 255 elsewhere, with the `._*` files of the real archive."""
    out = {}
    for split, names in {"train": ("2008_000001", "2008_000002"), "val": ("2009_000003",)}.items():
        out[split] = {}
        for i, name in enumerate(names):
            truth = Truth(boxes([6, 6, 19, 3], 255), boxes([32, 41, 255, 255], 255))
            truth.parts[box(4)] = 255 if i else 12
            truth.objects[box(4)] = 2
            photo(root / f"PascalPart116/images/{split}/{name}.jpg")
            text(root / f"PascalPart116/images/{split}/._{name}.jpg", "Mac OS X")
            for kind, values in (("obj", truth.objects), ("part", truth.parts)):
                folder = root / f"PascalPart116/annotations_detectron2_{kind}/{split}"
                labels(folder / f"{name}.png", values)
                text(folder / f"._{name}.png", "Mac OS X")
            out[split][name] = truth
    photo(root / "PascalPart116/images/train/2008_000009.jpg")  # its label map was never written
    return out


def pascal_part_original(root: Path):
    """VOC2010 and one Matlab struct for each image."""
    voc = root / "VOCdevkit/VOC2010"
    splits = {"train": ["2008_000001"], "val": ["2008_000002", "2008_000003"]}
    scene = {
        "2008_000001": [
            ("car", (0, 1), {"wheel_1": (0,), "window_12": (1,), "headlight_2": (1,)}),
            ("boat", (1,), {}),  # in front of the car's second half; it has no parts
        ],
        "2008_000002": [("table", (2,), {}), ("dog", (3, 4), {"head": (3, 4), "leye": (4,)})],
        "2008_000003": [("person", (5,), {"hair": (5,)})],
    }
    none = 255
    wheel, hair, dog_head, dog_eye = 32, 93, 61, 62
    truths = {
        "2008_000001": Truth(boxes([6, 3], none), boxes([wheel, none], none), boxes([1, 2], 0)),
        "2008_000002": Truth(
            boxes([none, none, 10, 11, 11], none),
            boxes([none, none, none, dog_head, dog_eye], none),
            boxes([0, 0, 1, 2, 2], 0),
        ),
        "2008_000003": Truth(
            boxes([none] * 5 + [14], none),
            boxes([none] * 5 + [hair], none),
            boxes([0] * 5 + [1], 0),
        ),
    }
    for name, objects in scene.items():
        photo(voc / f"JPEGImages/{name}.jpg")
        matlab_annotation(root / f"Annotations_Part/{name}.mat", objects)
    for split, names in splits.items():
        text(voc / f"ImageSets/Main/{split}.txt", "\n".join(names) + "\n")
    return {split: {name: truths[name] for name in names} for split, names in splits.items()}


def matlab_annotation(path: Path, objects) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [(name, object) for name in ("class", "class_ind", "mask", "parts")]
    rows = np.empty(len(objects), fields)
    for row, (name, where, parts) in zip(rows, objects, strict=True):
        inner = np.empty(len(parts), [("part_name", object), ("mask", object)])
        for entry, (part, place) in zip(inner, parts.items(), strict=True):
            entry["part_name"], entry["mask"] = part, mask_of(*place)
        row["class"], row["class_ind"], row["mask"] = name, 1, mask_of(*where)
        row["parts"] = inner if len(parts) else np.empty((0, 0))
    savemat(path, {"anno": {"imname": path.stem, "objects": rows}})


def ade20k_part_prepared(root: Path):
    """16-bit part maps; objects as polygons and run lengths in a COCO file."""
    top = root / "ADE20KPart234"
    out = {}
    folders = {"train": "training", "val": "validation"}
    for split, folder in folders.items():
        out[split], images, annotations = {}, [], []
        for i in range(2):
            name = f"ADE_{split}_0000000{i}"
            photo(top / f"images/{folder}/{name}.jpg")
            parts = boxes([0, 233, 65535], 65535, np.uint16)
            labels(top / f"annotations_detectron2_part/{folder}/{name}.png", parts)
            images.append({"id": i + 7, "file_name": f"{name}.jpg", "height": 24, "width": 32})
            shapes = [(27, polygon(0)), (43, run_lengths(1)), (5, [*polygon(2), [1, 2, 3]])]
            shapes.append((9, [[4, 4, 8, 8]]))  # fewer than three corners: nothing to draw
            shapes.append((4, polygon(2)))  # painted later, so it hides the one before
            annotations += [
                {"image_id": i + 7, "category_id": c, "segmentation": s, "iscrowd": 0}
                for c, s in shapes
            ]
            objects = boxes([27, 43, 4], 65535, np.uint16)
            out[split][name] = Truth(objects, parts, boxes([1, 2, 4], 0, np.uint16))
        file = {"images": images, "annotations": annotations, "categories": []}
        text(top / f"ade20k_instance_{split}.json", json.dumps(file))
    return out


def ade_code(classes: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """RGB of the full release: (R // 10) * 256 + G is the class, B the instance."""
    red = classes // 256 * 10 + 3  # R is not always a multiple of ten in the real files
    return np.stack([red, classes % 256, instances], -1).astype(np.uint8)


def ade20k_full(root: Path, codes=(312, 2978, 100), parts=None):
    """Photos, `_seg.png` and, where somebody marked parts, `_parts_1.png`."""
    top = root / "ADE20K_2021_17_01/images/ADE"
    written = {}
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        path = photo(top / split / "urban" / "street" / f"{name}.jpg")
        classes = boxes(codes, 0, np.int32)
        seg = ade_code(classes, boxes(range(1, len(codes) + 1), 0, np.int32))
        labels(path.with_name(f"{name}_seg.png"), seg)
        if parts:
            values = boxes(parts, 0, np.int32)
            labels(path.with_name(f"{name}_parts_1.png"), ade_code(values, values * 0))
        written["train" if split == "training" else "val"] = name
    return written


def ade847(root: Path):
    """312 is "building", 2978 "wall"; 100 is not among the 847."""
    names = ade20k_full(root)
    objects = boxes([1, 0, 65535], 65535, np.uint16)
    return {s: {name: Truth(objects, None, boxes([1, 2, 3], 0))} for s, name in names.items()}


def ade20k_part_full(root: Path):
    """A car (401) with a wheel (3035), a wheel outside of any object, a car without parts."""
    names = ade20k_full(root, codes=(401, 0, 401), parts=(3035, 3035, 0))
    photo(root / "ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000002.jpg")
    bare = root / "ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000002_seg.png"
    labels(bare, ade_code(boxes([401], 0, np.int32), boxes([1], 0, np.int32)))
    car, wheel = 7, 132
    truth = Truth(
        boxes([car, 65535, car], 65535, np.uint16),
        boxes([wheel], 65535, np.uint16),
        boxes([1, 0, 3], 0),
    )
    return {split: {name: truth} for split, name in names.items()}


ANIMAL = {"head": (0, 0), "tail": (3, 1)}  # part: its number in the annotations, its place
CAR = {"body": (24, 0), "side mirror": (26, 0)}  # one over the other
FISH = {"fin": (11, 2), "tail": (12, 4)}
IMPALA, GAZELLE = ("impala", "n02422699", ANIMAL), ("gazelle", "n02423022", ANIMAL)
HARTEBEEST = ("hartebeest", "n02422106", ANIMAL)  # not one of the 40 classes
JEEP, GOLDFISH = ("jeep", "n03594945", CAR), ("goldfish", "n01443537", FISH)
UNSEEN = ("golden retriever", "n02099601", ANIMAL)  # of the 19 in OOD's val


def part_image_net(root: Path, name: str):
    """COCO files with polygons and ids 0..39; the OOD archive has a folder for each synset."""
    splits, kept = {
        "partimagenet": (
            {"train": [GAZELLE, GOLDFISH, IMPALA, HARTEBEEST], "val": [JEEP, GOLDFISH, HARTEBEEST]},
            {"train": [GAZELLE, GOLDFISH], "val": [JEEP, GOLDFISH]},
        ),
        "partimagenet_158": (
            {"train": [GAZELLE, HARTEBEEST], "val": [JEEP, HARTEBEEST], "test": [GOLDFISH]},
            {"train": [GAZELLE, HARTEBEEST], "val": [JEEP, HARTEBEEST], "test": [GOLDFISH]},
        ),
        "partimagenet_ood": (
            {"train": [GAZELLE, GOLDFISH], "val": [UNSEEN]},
            {"train": [GAZELLE, GOLDFISH], "val": [UNSEEN]},
        ),
    }[name]
    is_ood = name == "partimagenet_ood"
    top = root / ("PartImageNet_OOD" if is_ood else "PartImageNet_Seg")
    for split, kinds in splits.items():
        images, annotations = [], []
        for i, (_, synset, parts) in enumerate(kinds):
            file = f"{synset}_{i}.JPEG"
            photo(top / "images" / split / (synset if is_ood else "") / file)
            images.append({"id": i, "file_name": file, "height": 24, "width": 32})
            annotations += [
                {"image_id": i, "category_id": raw, "segmentation": polygon(k)}
                for raw, k in parts.values()
            ]
        path = f"{split}.json" if is_ood else f"annotations/{split}/{split}.json"
        text(top / path, json.dumps({"images": images, "annotations": annotations}))
    words = Vocabulary.named(name)
    return {
        split: {
            f"{kind[1]}_{splits[split].index(kind)}": truth_of_parts(words, kind) for kind in kinds
        }
        for split, kinds in kept.items()
    }


def truth_of_parts(words: Vocabulary, kind) -> Truth:
    owner, _, parts = kind
    truth = Truth(*(np.full(SIZE, 65535, np.uint16) for _ in range(2)))
    for part, (_, place) in parts.items():
        truth.objects[box(place)] = words.index(owner)
        truth.parts[box(place)] = words.parts.index(
            next(p for p in words.parts if (words.objects[p.object], p.generic) == (owner, part))
        )
    return truth


def voc(root: Path, change):
    """Palette PNG for val, grey SBD masks for train, which SegmentationClassAug has beside val."""
    top = root / "VOCdevkit/VOC2012"
    raw = boxes([1, 20, 0, 255, 15], 0)
    out = {"train": {}, "val": {}}
    for name in ("2007_000001", "2007_000002", "2011_000003"):
        split = "val" if name == "2007_000001" else "train"
        photo(top / f"JPEGImages/{name}.jpg")
        labels(top / f"SegmentationClassAug/{name}.png", raw)
        truth = Truth(change(raw), None, np.zeros(SIZE, np.uint8))
        if name.startswith("2007"):
            labels(top / f"SegmentationClass/{name}.png", raw, has_palette=True)
            instances = boxes([1, 2, 0, 255, 3], 0)
            labels(top / f"SegmentationObject/{name}.png", instances, has_palette=True)
            truth.instances = boxes([1, 2, 0, 0, 3], 0)
        out[split][name] = truth
    text(top / "ImageSets/Segmentation/val.txt", "2007_000001\n")
    return out


def voc20_ids(raw):
    return np.where(raw == 0, 255, raw - 1 + (raw == 255)).astype(np.uint8)


def voc20b_ids(raw):
    return np.where(raw == 0, 20, raw - 1 + (raw == 255)).astype(np.uint8)


def context_json(root: Path, change):
    """Category 2 is an aeroplane, 9 a bag, 420 a tree; 5 is not among the 59."""
    top = root / "VOCdevkit/VOC2010"
    file = {"images": [], "annos_segmentation": []}
    out = {"train": {}, "val": {}}
    for i, (name, phase) in enumerate(
        [("2008_000001", "train"), ("2008_000002", "val"), ("2010_001606", "val")]
    ):
        photo(top / f"JPEGImages/{name}.jpg")
        entry = {"image_id": i, "file_name": f"{name}.jpg", "phase": phase}
        file["images"].append(entry | {"height": 24, "width": 32})
        file["annos_segmentation"] += [
            {"image_id": i, "category_id": category, "segmentation": run_lengths(k)}
            for k, category in enumerate((2, 9, 5, 420))
        ]
        if name != "2010_001606":
            out[phase][name] = Truth(change([0, 1, None, 52]))
    text(top / "trainval_merged.json", json.dumps(file))
    return out


def context60_png(root: Path):
    top = root / "VOCdevkit/VOC2010"
    out = {}
    for split, name in (("train", "2008_000001"), ("val", "2008_000002")):
        values = boxes([0, 1, 59, 255], 0)
        photo(top / f"JPEGImages/{name}.jpg")
        labels(top / f"SegmentationClassContext/{name}.png", values, has_palette=True)
        text(top / f"ImageSets/SegmentationContext/{split}.txt", f"{name}\n")
        out[split] = {name: Truth(values)}
    return out


def context459(root: Path):
    """`LabelMap` holds 1..459; the official val list has one name more than the papers."""
    top = root / "VOCdevkit/VOC2010"
    out = {}
    for split, names in {"train": ["2008_000001"], "val": ["2008_000002", "2010_001606"]}.items():
        for name in names:
            photo(top / f"JPEGImages/{name}.jpg")
            (root / "trainval").mkdir(exist_ok=True)
            values = boxes([459, 1, 300], 7, np.uint16)
            savemat(root / f"trainval/{name}.mat", {"LabelMap": values})
        text(top / f"ImageSets/Main/{split}.txt", "\n".join(names))
        out[split] = {names[0]: Truth(boxes([458, 0, 299], 6, np.uint16))}
    return out


def coco_stuff(root: Path):
    """Values are COCO ids less one, with gaps: 12 is the 12th class, 181 the last, 11 is none."""
    out = {}
    for split, folder in (("train", "train2017"), ("val", "val2017")):
        name = f"00000000000{len(folder)}"
        photo(root / f"coco/images/{folder}/{name}.jpg")
        labels(root / f"coco/annotations/{folder}/{name}.png", boxes([0, 12, 11, 181, 255], 91))
        out[split] = {name: Truth(boxes([0, 11, 255, 170, 255], 80))}
    return out


def coco_stuff_converted(root: Path):
    values = boxes([0, 170, 255], 80)
    for folder, name in (("train2017", "000000000001"), ("val2017", "000000000002")):
        photo(root / f"coco2017/images/{folder}/{name}.jpg")
        labels(root / f"coco2017/stuff_anno164/{folder}/{name}_labelTrainIds.png", values)
    return {"train": {"000000000001": Truth(values)}, "val": {"000000000002": Truth(values)}}


def coco_object_listed(root: Path):
    out = {}
    for number in ("000000000009", "000000000007"):
        photo(root / f"val2014/COCO_val2014_{number}.jpg")
        values = boxes([1, 80, 255], 0)
        labels(root / f"coco_seg_anno/{number}.png", values)
        out[number] = Truth(values)
    photo(root / "val2014/COCO_val2014_000000000001.jpg")  # not on the list
    text(root / "val_5k.txt", "COCO_val2014_000000000009\nCOCO_val2014_000000000007\n")
    return {"val": out}


def coco_object_instances(root: Path, year: str = "2014"):
    """Category 90 is the 80th class; a crowd becomes ignore."""
    prefix = "COCO_val2014_" if year == "2014" else ""
    images, annotations, out = [], [], {}
    for i in (4, 7):
        number = f"{i:012d}"
        photo(root / f"val{year}/{prefix}{number}.jpg")
        images.append({"id": i, "file_name": f"{prefix}{number}.jpg", "height": 24, "width": 32})
        shapes = [(1, polygon(0), 0), (90, polygon(1), 0), (1, run_lengths(2), 1)]
        annotations += [
            {"image_id": i, "category_id": c, "segmentation": s, "iscrowd": crowd}
            for c, s, crowd in shapes
        ]
        if i == 7 or year == "2017":
            out[number] = Truth(boxes([1, 80, 255], 0), None, boxes([1, 2, 0], 0))
    file = {"images": images, "annotations": annotations}
    text(root / f"annotations/instances_val{year}.json", json.dumps(file))
    if year == "2014":
        text(root / "val_5k.txt", "COCO_val2014_000000000007\n")
    return {"val": out}


def ade150(root: Path):
    out = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        name = f"ADE_{split}_00000001"
        photo(root / f"ADEChallengeData2016/images/{folder}/{name}.jpg")
        values = boxes([1, 150, 0], 3)
        labels(root / f"ADEChallengeData2016/annotations/{folder}/{name}.png", values)
        out[split] = {name: Truth(boxes([0, 149, 255], 2))}
    return out


def cityscapes(root: Path):
    """val as downloaded (label ids: 7 road, 33 bicycle, 4 nothing), train with train ids made."""
    out = {}
    instances = boxes([7, 26000, 26001, 4], 4, np.int32)
    for split, city in (("train", "aachen"), ("val", "munster")):
        key = f"{city}_000000_000019"
        photo(root / f"leftImg8bit/{split}/{city}/{key}_leftImg8bit.png")
        stem = root / f"gtFine/{split}/{city}/{key}_gtFine"
        labels(Path(f"{stem}_labelIds.png"), boxes([7, 26, 26, 33], 4))
        labels(Path(f"{stem}_instanceIds.png"), instances.astype(np.uint16))
        labels(Path(f"{stem}_color.png"), np.zeros((*SIZE, 4), np.uint8))
        truth = boxes([0, 13, 13, 18], 255)
        if split == "train":
            labels(Path(f"{stem}_labelTrainIds.png"), truth)
        out[split] = {key: Truth(truth, None, boxes([0, 1, 2, 0], 0))}
    return out


def context59_ids(ids):
    return boxes([255 if i is None else i for i in ids], 255)


def context60_ids(ids):
    return boxes([0 if i is None else i + 1 for i in ids], 0)


# Key: the benchmark, and after a colon the form in which it is handed out.
WRITERS = {
    "pascal_part_116:prepared": pascal_part_prepared,
    "pascal_part_116:original": pascal_part_original,
    "ade20k_part_234:prepared": ade20k_part_prepared,
    "ade20k_part_234:full": ade20k_part_full,
    "partimagenet": lambda root: part_image_net(root, "partimagenet"),
    "partimagenet_158": lambda root: part_image_net(root, "partimagenet_158"),
    "partimagenet_ood": lambda root: part_image_net(root, "partimagenet_ood"),
    "coco_stuff_171:raw": coco_stuff,
    "coco_stuff_171:converted": coco_stuff_converted,
    "coco_object:listed": coco_object_listed,
    "coco_object:2014": coco_object_instances,
    "coco_object:2017": lambda root: coco_object_instances(root, "2017"),
    "voc20": lambda root: voc(root, voc20_ids),
    "voc20b": lambda root: voc(root, voc20b_ids),
    "voc21": lambda root: voc(root, lambda raw: raw),
    "context59": lambda root: context_json(root, context59_ids),
    "context60:json": lambda root: context_json(root, context60_ids),
    "context60:png": context60_png,
    "context459": context459,
    "ade150": ade150,
    "ade847": ade847,
    "cityscapes19": cityscapes,
}
