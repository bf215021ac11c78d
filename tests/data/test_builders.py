"""Every benchmark, from every form in which it is handed out, to the label values of the papers."""

import io
import json
import os
from pathlib import Path

import numpy as np
import originals
import pytest
from PIL import Image

pytest.importorskip("tensorflow_datasets", reason="the extra 'data' is not installed")
pytest.importorskip("array_record", reason="the extra 'data' is not installed")

from opvseg_jax.data.builders import coco_masks, records, registry
from opvseg_jax.data.builders.benchmark import Item
from opvseg_jax.data.builders.labels import from_png
from opvseg_jax.data.builders.prepare import prepare

from opvseg_jax.published_lists import facts

SAMPLES = Path(os.environ.get("OPVSEG_SAMPLES", Path(__file__).parents[3] / "shared" / "samples"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real samples here")


def read_all(folder: Path, split: str) -> dict[str, dict]:
    return {record["key"].decode(): record for record in records.encoded_source(folder, split)}


@pytest.mark.parametrize("form", originals.WRITERS)
def test_a_downloaded_benchmark_becomes_the_label_values_of_the_papers(form, tmp_path):
    truths = originals.write_all(form, tmp_path / "in")
    name = form.split(":")[0]

    prepared = prepare(name, tmp_path / "in", tmp_path / "out", workers=0)

    assert prepared.num_images == {split: len(own) for split, own in truths.items()}
    assert prepared.metadata["vocabulary"] == name
    for split, own in truths.items():
        found = read_all(prepared.folder, split)
        assert sorted(found) == sorted(own)
        for key, truth in own.items():
            record = found[key]
            np.testing.assert_array_equal(from_png(record["object_map"]), truth.objects)
            assert ("part_map" in record) == (truth.parts is not None)
            if truth.parts is not None:
                np.testing.assert_array_equal(from_png(record["part_map"]), truth.parts)
            if truth.instances is not None:
                np.testing.assert_array_equal(from_png(record["instance_map"]), truth.instances)


def test_images_are_stored_byte_for_byte(tmp_path):
    originals.write_all("voc21", tmp_path)
    prepared = prepare("voc21", tmp_path, tmp_path / "out", workers=0)
    stored = read_all(prepared.folder, "val")["2007_000001"]["image"]
    assert stored == (tmp_path / "VOCdevkit/VOC2012/JPEGImages/2007_000001.jpg").read_bytes()


def test_tfds_users_get_arrays(tmp_path):
    """16-bit maps too, without TensorFlow."""
    import tensorflow_datasets as tfds

    truths = originals.write_all("ade20k_part_234:prepared", tmp_path)
    prepared = prepare("ade20k_part_234", tmp_path, tmp_path / "out", workers=0)
    source = tfds.builder_from_directory(str(prepared.folder)).as_data_source("val")
    example = next(iter(source))
    truth = truths["val"][example["key"].decode()]
    assert example["image"].shape == (*originals.SIZE, 3)
    assert example["part_map"].dtype == np.uint16
    np.testing.assert_array_equal(example["part_map"][..., 0], truth.parts)


def test_the_tfds_builder_writes_the_same_records(tmp_path):
    from opvseg_jax.data.builders.source import find

    originals.write_all("voc20", tmp_path)
    benchmark = registry.benchmark("voc20")
    layout = benchmark.layouts[0]
    paths = find(benchmark, tmp_path).paths
    builder = records.BenchmarkBuilder(
        benchmark=benchmark,
        layout=layout,
        has_instances=True,
        items={split: layout.items(own, split) for split, own in paths.items()},
        data_dir=str(tmp_path / "tfds"),
    )
    builder.download_and_prepare()
    prepared = prepare("voc20", tmp_path, tmp_path / "out", workers=0)
    for split in ("train", "val"):
        assert read_all(Path(builder.data_dir), split) == read_all(prepared.folder, split)


@pytest.mark.parametrize("name", registry.BENCHMARKS)
def test_label_values_fit_the_published_list(name):
    """Every raw value leads to one class, and the ignore value is none of them."""
    labels, published = registry.benchmark(name).labels, facts(name)
    assert labels.num_objects == published["counts"]["objects"]
    assert max(labels.num_objects, labels.num_parts) <= labels.ignore
    if all("raw" in entry for entry in published["objects"]):
        assert sorted(labels.raw.values()) == list(range(labels.num_objects))
    if published["kind"] == "parts" and "superclasses" in published:
        assert sorted(labels.part_of_raw.values()) == list(range(labels.num_parts))


def test_part_image_net_protocols_take_the_published_classes():
    from opvseg_jax.data.builders.partimagenet import _synsets

    counts = {
        (name, split): len(_synsets(name, split))
        for name in ("partimagenet", "partimagenet_158", "partimagenet_ood")
        for split in ("train", "val")
    }
    assert list(counts.values()) == [25, 40, 158, 158, 109, 19]


def test_ade847_is_reduced_as_published(tmp_path):
    """Shorter side to 512, nearest labels by OpenCV's rule: source index floor(i * in / out)."""
    cv2 = pytest.importorskip("cv2")
    from opvseg_jax.data.builders.ade20k import read_847

    size, noise = (600, 700), np.random.default_rng(0)
    image = originals.photo(tmp_path / "ADE_val_00000001.jpg", size)
    classes = noise.choice([312, 2978, 5], size)
    seg = tmp_path / "ADE_val_00000001_seg.png"
    originals.labels(seg, originals.ade_code(classes, classes * 0 + 9))
    labels = registry.benchmark("ade847").labels

    sample = read_847(Item("ADE_val_00000001", image, {"seg": seg}), labels)

    want = cv2.resize(classes.astype(np.int32), (597, 512), interpolation=cv2.INTER_NEAREST)
    table = {312: 1, 2978: 0, 5: 65535}
    np.testing.assert_array_equal(sample.object_map, np.vectorize(table.get)(want))
    assert Image.open(io.BytesIO(sample.image)).size == (597, 512)


def test_polygons_are_drawn_as_the_coco_tools_do():
    """Reference masks: pycocotools 2.0, `frPyObjects` and `decode`, of these outlines."""
    cases = json.loads((Path(__file__).parent / "coco_masks.json").read_text())
    for case in cases:
        want = coco_masks.decode({"size": case["size"], "counts": case["counts"]}, case["size"])
        got = coco_masks.decode([case["ring"]], tuple(case["size"]))
        np.testing.assert_array_equal(got, want)
        assert int(want.sum()) == case["area"]


def test_rings_of_a_polygon_are_united_and_short_ones_dropped():
    rings = [originals.polygon(0)[0], originals.polygon(1)[0], [1, 1, 2, 2], [1, 2, 3, 4, 5, 6, 7]]
    mask = coco_masks.decode(rings, originals.SIZE)
    np.testing.assert_array_equal(mask, originals.mask_of(0, 1).astype(bool))
    assert coco_masks.decode([[1, 1, 2, 2]], originals.SIZE) is None


@needs_samples
def test_real_matlab_annotations_give_the_sample_maps():
    from opvseg_jax.data.builders.pascal_part import read_original

    top = SAMPLES / "PascalPart116"
    labels = registry.benchmark("pascal_part_116").labels
    files = sorted(top.glob("Annotations_Part/*.mat"))
    assert len(files) == 9
    for file in files:
        (image,) = top.glob(f"images/*/{file.stem}.jpg")
        sample = read_original(Item(file.stem, image, {"mat": file}), labels)
        maps = {
            "annotations_detectron2_obj": sample.object_map,
            "annotations_detectron2_part": sample.part_map,
            "instances": sample.instance_map,
        }
        for folder, values in maps.items():
            want = np.array(Image.open(top / folder / image.parent.name / f"{file.stem}.png"))
            np.testing.assert_array_equal(values, want, err_msg=f"{file.stem} {folder}")


@needs_samples
def test_real_full_ade20k_agrees_with_the_prepared_sample(tmp_path):
    """They differ in size, hence at borders alone."""
    full = prepare(
        "ade20k_part_234",
        SAMPLES / "ADE20K_2021_17_01",
        tmp_path / "a",
        splits=["train"],
        workers=0,
    )
    ready = prepare(
        "ade20k_part_234", SAMPLES / "ADE20KPart234", tmp_path / "b", splits=["train"], workers=0
    )
    key = "ADE_train_00016964"
    a, b = (from_png(read_all(p.folder, "train")[key]["part_map"]) for p in (full, ready))
    rows, columns = (
        np.arange(small) * large // small for small, large in zip(b.shape, a.shape, strict=True)
    )
    assert (a[rows[:, None], columns] != b).mean() < 0.002
    assert np.unique(a).tolist() == np.unique(b).tolist()


@needs_samples
@pytest.mark.parametrize(
    ("name", "folder", "splits", "count"),
    [
        ("pascal_part_116", "PascalPart116", ["train", "val"], 9),
        ("ade20k_part_234", "ADE20KPart234", ["train"], 2),
        ("ade150", "ADEChallengeData2016", ["val"], 2),
        ("ade847", "ADE20K_2021_17_01", ["train"], 1),
    ],
)
def test_real_samples_are_prepared_without_a_problem(name, folder, splits, count, tmp_path):
    from opvseg_jax.data.builders.verify import verify

    prepared = prepare(name, SAMPLES / folder, tmp_path, splits=splits, workers=0)
    assert sum(prepared.num_images.values()) == count
    assert verify(name, prepared.folder).num_problems == 0
