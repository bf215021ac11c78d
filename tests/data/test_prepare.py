"""Preparing survives what happens to people: kills, full disks, wrong folders, broken files."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import originals
import pytest

pytest.importorskip("tensorflow_datasets", reason="the extra 'data' is not installed")
pytest.importorskip("array_record", reason="the extra 'data' is not installed")

from opvseg_jax.data.builders import prepare as prepare_module
from opvseg_jax.data.builders import records
from opvseg_jax.data.builders.prepare import prepare

from opvseg_jax.core.errors import UserError

ADE = "ADEChallengeData2016"


@pytest.fixture
def ade(tmp_path):
    """Eight images of ADE20K-150: four in each split."""
    root = tmp_path / "in"
    for split in ("training", "validation"):
        for i in range(4):
            originals.photo(root / f"{ADE}/images/{split}/{split}_{i}.jpg")
            values = originals.boxes([1, 150, 0, i + 10], 3)
            originals.labels(root / f"{ADE}/annotations/{split}/{split}_{i}.png", values)
    return root


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD", 2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(folder, split):
    source = records.encoded_source(folder, split)
    return [dict(source[i]) for i in range(len(source))]


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_running_twice_changes_nothing(ade, tmp_path):
    first = prepare("ade150", ade, tmp_path / "out", workers=0)
    before = contents(first.folder)
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    shutil.rmtree(ade)  # it does not even look at the source

    again = prepare("ade150", ade, tmp_path / "out", workers=0)

    assert again.was_ready
    assert not first.was_ready
    assert again.metadata == first.metadata
    assert contents(again.folder) == before
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == times


def test_an_interrupted_run_goes_on_where_it_stopped(ade, tmp_path, small_shards, monkeypatch):
    whole = prepare("ade150", ade, tmp_path / "whole", workers=0)

    def stop(done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("ade150", ade, tmp_path / "out", workers=0, on_progress=stop)
    assert not (tmp_path / "out/ade150/1.0.0").exists()
    written = []
    write = prepare_module.write_shard
    monkeypatch.setattr(
        prepare_module, "write_shard", lambda job: written.append(job.path.name) or write(job)
    )
    resumed = prepare("ade150", ade, tmp_path / "out", workers=0)

    assert len(written) == 2  # of four
    assert contents(resumed.folder) == contents(whole.folder)


def test_other_items_start_anew(ade, tmp_path, small_shards):
    """Shards of a source that has changed since are not mixed with the new ones."""

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("ade150", ade, tmp_path / "out", workers=0, on_progress=stop)
    (ade / f"{ADE}/images/training/training_0.jpg").unlink()
    (ade / f"{ADE}/annotations/training/training_0.png").unlink()
    prepared = prepare("ade150", ade, tmp_path / "out", workers=0)
    assert [r["key"] for r in stored(prepared.folder, "train")] == [
        b"training_1",
        b"training_2",
        b"training_3",
    ]


SCRIPT = """
import sys, time
from opvseg_jax.data.builders import labels, prepare
if __name__ == "__main__":
    prepare.SHARD = 1
    def show(done, total):
        print(done, flush=True)
        time.sleep(0.2)
    prepare.prepare("ade150", sys.argv[1], sys.argv[2], workers=int(sys.argv[3]), on_progress=show)
"""


def test_a_killed_process_leaves_no_half_and_no_workers(ade, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(ade), str(tmp_path / "out")]
    process = subprocess.Popen([*command, "1"], stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 2:
        pass
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    assert children
    assert not (tmp_path / "out/ade150/1.0.0").exists()
    deadline = time.monotonic() + 20
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, children))
    subprocess.run([*command, "0"], check=True, capture_output=True)
    assert len(stored(tmp_path / "out/ade150/1.0.0", "train")) == 4


def children_of(pid: int) -> list[int]:
    path = f"/proc/{pid}/task/{pid}/children"
    if not os.path.exists(path):
        pytest.skip("needs Linux's /proc")
    with open(path) as file:
        return [int(child) for child in file.read().split()]


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_processes_write_what_one_process_writes(ade, tmp_path, small_shards):
    alone = prepare("ade150", ade, tmp_path / "a", workers=0)
    shared = prepare("ade150", ade, tmp_path / "b", workers=2)
    assert contents(shared.folder) == contents(alone.folder)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(ade, tmp_path):
    """A limit on the size of files fails as a full disk does, deep inside array_record."""
    for path in (ade / f"{ADE}/images/training").glob("*.jpg"):
        originals.photo(path, (400, 400))
        originals.labels(
            ade / f"{ADE}/annotations/training/{path.stem}.png", np.ones((400, 400), np.uint8)
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="no room left") as error:
            prepare("ade150", ade, tmp_path / "out", workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message(error)
    left = [p.name for p in (tmp_path / "out/ade150").rglob("*") if "array_record" in p.name]
    assert left == []
    assert prepare("ade150", ade, tmp_path / "out", workers=0).num_images["train"] == 4


def test_too_little_space_is_said_before_anything_is_read(ade, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"MB are needed.*MB are free"):
        prepare("ade150", ade, tmp_path / "out", workers=0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncated image", "cannot be read"),
        ("empty image", "cannot be read"),
        ("mask of another size", "object map of 5 x 6 for an image of 24 x 32"),
        ("label out of range", "label value 151 does not belong"),
        ("colour mask", "colour image"),
        ("truncated mask", "cannot be read"),
    ],
)
def test_a_broken_sample_is_skipped_counted_and_named(ade, tmp_path, damage, reason):
    image = ade / f"{ADE}/images/training/training_2.jpg"
    mask = ade / f"{ADE}/annotations/training/training_2.png"
    if "image" in damage:
        image.write_bytes(image.read_bytes()[:200] if "truncated" in damage else b"")
    elif damage == "mask of another size":
        originals.labels(mask, np.ones((5, 6), np.uint8))
    elif damage == "label out of range":
        originals.labels(mask, np.full(originals.SIZE, 151, np.uint8))
    elif damage == "colour mask":
        originals.labels(mask, np.zeros((*originals.SIZE, 3), np.uint8))
    else:
        mask.write_bytes(mask.read_bytes()[:60])

    prepared = prepare("ade150", ade, tmp_path / "out", workers=0, max_skipped=0.2)

    assert prepared.num_images == {"train": 3, "val": 4}
    ((key, why),) = prepared.metadata["splits"]["train"]["skipped"]
    assert key == "training_2"
    assert reason in why
    assert any("1 samples skipped" in line and key in line for line in prepared.lines())


def test_more_broken_samples_than_allowed_stop_the_run_until_mended(ade, tmp_path, small_shards):
    image = ade / f"{ADE}/images/validation/validation_3.jpg"
    sound = image.read_bytes()
    image.write_bytes(sound[:100])
    with pytest.raises(UserError, match=r"1 of 8 samples cannot be used.*validation_3") as error:
        prepare("ade150", ade, tmp_path / "out", workers=0)
    assert "1.0%" in message(error)
    assert not (tmp_path / "out/ade150/1.0.0").exists()
    image.write_bytes(sound)  # the shard with the broken sample is written again
    assert prepare("ade150", ade, tmp_path / "out", workers=0).num_images == {"train": 4, "val": 4}


def test_images_without_annotations_leave_the_split_and_it_is_said(ade, tmp_path, caplog):
    (ade / f"{ADE}/annotations/training/training_0.png").unlink()
    prepared = prepare("ade150", ade, tmp_path / "out", workers=0)
    assert prepared.num_images["train"] == 3
    assert "1 images of" in caplog.text


def test_an_empty_split_is_one_sentence(ade, tmp_path):
    for path in (ade / f"{ADE}/annotations/training").iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    with pytest.raises(UserError, match="split train is empty"):
        prepare("ade150", ade, tmp_path / "out", workers=0)


def test_what_is_missing_is_named_with_its_origin_and_size_before_the_start(tmp_path):
    originals.write_all("voc21", tmp_path)
    shutil.rmtree(tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug")
    (tmp_path / "VOCdevkit/VOC2012/SegmentationObject").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError) as error:
        prepare("voc21", tmp_path, tmp_path / "out", workers=0)
    text = message(error)
    assert "SegmentationClassAug from SegmentationClassAug.zip" in text
    assert "SegmentationObject from VOCtrainval_11-May-2012.tar" in text
    assert "2 GB" in text
    assert not list(tmp_path.glob("out/voc21/1.0.0*"))


def test_a_split_that_is_not_there_can_be_left_out(tmp_path):
    originals.write_all("voc21", tmp_path)
    shutil.rmtree(tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug")
    with pytest.raises(UserError, match="--splits val"):
        prepare("voc21", tmp_path, tmp_path / "out", workers=0)
    prepared = prepare("voc21", tmp_path, tmp_path / "out", workers=0, splits=["val"])
    assert prepared.num_images == {"val": 1}
    with pytest.raises(UserError, match="was prepared without train"):
        prepare("voc21", tmp_path, tmp_path / "out", workers=0, splits=["train"])
    with pytest.raises(UserError, match="has the splits train, val, not test"):
        prepare("voc20", tmp_path, tmp_path / "out", workers=0, splits=["test"])


@pytest.mark.parametrize(
    ("form", "asked", "said"),
    [
        ("ade150", "voc21", "ADE20K, 150 classes"),
        ("cityscapes19", "ade150", "Cityscapes"),
        ("pascal_part_116:prepared", "coco_stuff_171", "Pascal-Part-116"),
        ("partimagenet_ood", "partimagenet", "PartImageNet OOD"),
    ],
)
def test_another_benchmarks_folder_is_recognised(form, asked, said, tmp_path):
    originals.write_all(form, tmp_path / "in")
    with pytest.raises(UserError, match=r"holds .*, not") as error:
        prepare(asked, tmp_path / "in", tmp_path / "out", workers=0)
    assert said in message(error)


@pytest.mark.parametrize(
    ("form", "asked", "said"),
    [
        ("partimagenet", "partimagenet_ood", "PartImageNet_Seg, not PartImageNet_OOD"),
        ("partimagenet_ood", "partimagenet", "this is PartImageNet_OOD"),
        ("partimagenet_ood", "partimagenet_158", "this is PartImageNet_OOD"),
    ],
)
def test_the_two_releases_of_part_image_net_are_told_apart_by_their_classes(
    form, asked, said, tmp_path
):
    """Their folders are alike."""
    originals.write_all(form, tmp_path)
    (source,) = tmp_path.iterdir()
    with pytest.raises(UserError) as error:
        prepare(asked, source, tmp_path / "out", workers=0, splits=["train", "val"])
    assert said in message(error)


def test_a_json_file_of_another_kind_is_one_sentence(tmp_path):
    originals.write_all("ade20k_part_234:prepared", tmp_path)
    file = tmp_path / "ADE20KPart234/ade20k_instance_val.json"
    for content in ('{"images": [], "anno', json.dumps({"info": {}}), json.dumps({"images": [1]})):
        file.write_text(content)
        with pytest.raises(UserError) as error:
            prepare("ade20k_part_234", tmp_path, tmp_path / "out", workers=0)
        message(error)


def test_archives_need_not_be_unpacked(ade, tmp_path):
    loose = prepare("ade150", ade, tmp_path / "a", workers=0)
    source = tmp_path / "downloads"
    source.mkdir()
    with zipfile.ZipFile(source / "ADEChallengeData2016.zip", "w") as archive:
        for path in sorted(ade.rglob("*")):
            archive.write(path, path.relative_to(ade))
    packed = prepare("ade150", source, tmp_path / "b", workers=0)
    assert contents(packed.folder) == contents(loose.folder)
    assert [path.name for path in packed.folder.parent.iterdir() if path.is_dir()] == ["1.0.0"]


def test_several_archives_are_laid_over_each_other(tmp_path):
    truths = originals.write_all("context459", tmp_path / "in")
    source = tmp_path / "downloads"
    source.mkdir()
    for name, mode, folder in (
        ("VOCtrainval_03-May-2010.tar", "w", "VOCdevkit"),
        ("trainval.tar.gz", "w:gz", "trainval"),
    ):
        with tarfile.open(source / name, mode) as archive:
            archive.add(tmp_path / "in" / folder, folder)
    prepared = prepare("context459", source, tmp_path / "out", workers=0)
    assert prepared.num_images == {split: len(own) for split, own in truths.items()}


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_coco_archives_share_folder_names(is_unpacked, tmp_path):
    """train2017.zip and the masks' archive both hold train2017/, also when laid into one folder."""
    truths = originals.write_all("coco_stuff_171:raw", tmp_path / "in")
    source = tmp_path / "downloads"
    source.mkdir()
    for archive, kind, folders in (
        ("train2017.zip", "images", ["train2017"]),
        ("val2017.zip", "images", ["val2017"]),
        ("stuffthingmaps_trainval2017.zip", "annotations", ["train2017", "val2017"]),
    ):
        with zipfile.ZipFile(source / archive, "w") as file:
            for folder in folders:
                for path in (tmp_path / "in/coco" / kind / folder).iterdir():
                    file.write(path, f"{folder}/{path.name}")
        if is_unpacked:
            with zipfile.ZipFile(source / archive) as file:
                file.extractall(source)
    prepared = prepare("coco_stuff_171", source, tmp_path / "out", workers=0)
    for split, own in truths.items():
        assert [record["key"].decode() for record in stored(prepared.folder, split)] == list(own)


def test_a_damaged_archive_is_one_sentence(tmp_path):
    (tmp_path / "ADEChallengeData2016.zip").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(UserError, match="damaged"):
        prepare("ade150", tmp_path, tmp_path / "out", workers=0)


def test_two_runs_do_not_write_into_each_other(ade, tmp_path):
    def second(done, total):
        with pytest.raises(UserError, match="another run"):
            prepare("ade150", ade, tmp_path / "out", workers=0)

    prepare("ade150", ade, tmp_path / "out", workers=0, on_progress=second)


def test_wrong_names_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="did you mean 'pascal_part_116'"):
        prepare("pascal-part-117", tmp_path, tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        prepare("voc20", tmp_path / "none", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        prepare("voc20", tmp_path, tmp_path / "file", workers=0)
