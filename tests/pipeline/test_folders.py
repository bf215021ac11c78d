"""A folder of one's own needs no code, and its mistakes are named with the file."""

import logging

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE, BrokenSampleError
from opvseg_jax.pipeline.sources import open_source

WORDS = "objects: [dog, car]\nparts: {dog: [head, leg], car: [wheel]}\n"


def write(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)


def image(height=4, width=6) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def mask(*rows, dtype=np.uint8) -> np.ndarray:
    return np.array(rows, dtype)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocabulary.yaml").write_text(WORDS)
    for name in ("a", "b"):
        write(tmp_path / f"images/{name}.jpg", image(1, 4))
        write(tmp_path / f"labels/{name}.png", mask([0, 1, 2, 255]))
    return tmp_path


def test_the_usual_values_need_no_rules(folder):
    source = open_source(folder)
    sample = source[0]
    assert len(source) == 2
    assert sample.key == "a"
    assert sample.image.shape == (1, 4, 3)
    assert sample.object_map.tolist() == [[BACKGROUND, 0, 1, IGNORE]]
    assert (sample.part_map == IGNORE).all()  # nobody labelled parts


def test_parts_beside_objects(folder):
    write(folder / "parts/a.png", mask([0, 2, 3, 65535], dtype=np.uint16))
    write(folder / "parts/b.png", mask([0, 1, 3, 0]))
    sample = open_source(folder)[0]
    assert sample.part_map.tolist() == [[BACKGROUND, 1, 2, IGNORE]]


def test_objects_follow_from_parts_alone(folder):
    (folder / "labels").rename(folder / "parts")
    write(folder / "parts/a.png", mask([0, 2, 3, 255]))
    sample = open_source(folder)[0]
    assert sample.object_map.tolist() == [[BACKGROUND, 0, 1, IGNORE]]


def test_instances_are_counted_from_one_in_the_file(folder):
    for name in ("a", "b"):
        write(folder / f"instances/{name}.png", mask([0, 1, 2, 1]))
    assert open_source(folder)[0].instance_map.tolist() == [[-1, 0, 1, 0]]


def test_rules_may_count_from_zero(folder):
    (folder / "labels.yaml").write_text("first: 0\nbackground: 255\nignore: []\n")
    write(folder / "labels/a.png", mask([0, 1, 1, 255]))
    assert open_source(folder)[0].object_map.tolist() == [[0, 1, 1, BACKGROUND]]


def test_rules_may_name_values_and_colours(folder):
    rules = (
        "objects: {dog: [255, 0, 0], car: '#0000ff'}\nparts: {dog: {head: 7}}\nignore: '#ffffff'"
    )
    (folder / "labels.yaml").write_text(rules)
    colours = [[[0, 0, 0], [255, 0, 0], [0, 0, 255], [255, 255, 255]]]
    for name in ("a", "b"):
        write(folder / f"labels/{name}.png", np.array(colours, np.uint8))
        write(folder / f"parts/{name}.png", mask([0, 7, 7, 0]))
    sample = open_source(folder)[1]
    assert sample.object_map.tolist() == [[BACKGROUND, 0, 1, IGNORE]]
    assert sample.part_map.tolist() == [[BACKGROUND, 0, 0, BACKGROUND]]


def test_splits_by_subfolder_or_by_list(folder):
    for split, name in (("train", "x"), ("train", "deep/y"), ("val", "z")):
        write(folder / f"images/{split}/{name}.png", image(1, 4))
        write(folder / f"labels/{split}/{name}.png", mask([0, 1, 2, 2]))
    for name in ("a", "b"):
        (folder / f"images/{name}.jpg").unlink()
    assert [s.key for s in _all(open_source(f"{folder}:train"))] == ["train/deep/y", "train/x"]
    (folder / "few.txt").write_text("images/train/x.png\nval/z\n")
    (folder / "README.txt").write_text("not a list of images")
    assert [s.key for s in _all(open_source(folder, "few"))] == ["train/x", "val/z"]
    with pytest.raises(UserError, match="the splits all, few, train, val: choose one"):
        open_source(folder)
    with pytest.raises(UserError, match="no split 'test'"):
        open_source(folder, "test")


def test_part_of_a_split(folder):
    assert [s.key for s in _all(open_source(folder, "all[50%:]"))] == ["b"]
    assert [s.key for s in _all(open_source(folder, "[:1]"))] == ["a"]


def _all(source):
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "vocabulary.yaml").unlink(), "has no vocabulary.yaml: write one"),
        (lambda f: (f / "labels").rename(f / "masks"), r"holds no masks: expected labels/"),
        (lambda f: (f / "labels.yaml").write_text("fist: 0"), "'fist' is not one of first"),
        (lambda f: (f / "labels.yaml").write_text("objects: {cow: 1}"), "'cow' is not in the voc"),
        (lambda f: (f / "labels.yaml").write_text("objects: {dog: 1, car: 1}"), "two meanings"),
        (lambda f: (f / "labels.yaml").write_text("ignore: [-1]"), "-1 is no mask value"),
        (lambda f: write(f / "images/a.png", image()), "have the same name: rename one"),
        (lambda f: [p.unlink() for p in f.glob("labels/*")], r"a.jpg needs .*labels/a.png"),
        (lambda f: [p.unlink() for p in f.glob("images/*")], "holds no images"),
        (lambda f: (f / "val.txt").write_text("a\nnobody.jpg\n"), "no image 'nobody.jpg'"),
    ],
)
def test_a_mistake_in_the_folder_is_one_sentence(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        open_source(folder, "val" if (folder / "val.txt").exists() else None)


def test_images_without_masks_are_left_out_and_named(folder, caplog):
    (folder / "labels/b.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(open_source(folder)) == 1
    assert "1 of 2 images are left out" in caplog.text
    assert "b.jpg" in caplog.text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda f: write(f / "labels/a.png", mask([0, 9, 2, 9])), "labels/a.png: .*no class: 9 "),
        (
            lambda f: write(f / "labels/a.png", mask([0, 1])),
            "object map has 2 x 1 .*the image 4 x 1",
        ),
        (lambda f: write(f / "labels/a.png", mask([0], [1], [1], [0])), "turned upright"),
        (lambda f: (f / "images/a.jpg").write_bytes(b"\xff\xd8no"), "a.jpg: it is not an image"),
        (lambda f: (f / "labels/a.png").write_bytes(b""), "labels/a.png: it is not an image"),
        (lambda f: write(f / "labels/a.png", image(1, 4)), "no class: #5a5a5a"),
    ],
)
def test_a_broken_sample_names_its_file(folder, broken, message):
    broken(folder)
    source = open_source(folder)
    with pytest.raises(BrokenSampleError, match=message):
        source[0]
    assert source[1].key == "b"
