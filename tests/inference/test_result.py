"""`Segmentation`: what was found, in words, masks, files and COCO's format."""

import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import write_whole
from opvseg_jax.inference import masks, result
from opvseg_jax.inference.result import Segmentation
from opvseg_jax.vocabulary import Vocabulary

WORDS = Vocabulary.of({"dog": ["head", "leg"], "sky": [], "car": ["wheel", "head"]})


def scene(**changes) -> Segmentation:
    """A dog with a head on the left, a car with a wheel on the right; neither sky nor legs."""
    objects = np.full((20, 40), -1, np.int16)
    objects[5:15, 2:22] = 0
    objects[10:20, 30:40] = 2
    parts = np.full((20, 40), -1, np.int16)
    parts[5:10, 2:12] = 0
    parts[16:20, 32:36] = 2
    image = np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8)
    values = {
        "object_scores": np.array([0.75, np.nan, 0.5]),
        "part_scores": np.array([0.25, 0.0, np.nan, 0.0], np.float32),
        "model": "tiny",
        "path": "photos/rex.jpg",
    } | changes
    return Segmentation(image, objects, parts, WORDS, **values)


def test_found_objects_and_parts_are_listed_by_size():
    dog, car = scene().objects
    assert dataclasses.asdict(dog) == {
        "name": "dog",
        "index": 0,
        "area": 200,
        "share": 0.25,
        "box": (2, 5, 20, 10),
        "score": 0.75,
        "object": None,
    }
    assert (car.name, car.index, car.area, car.box) == ("car", 2, 100, (30, 10, 10, 10))
    head, wheel = scene().parts
    assert (head.full_name, head.index, head.area, head.score) == ("dog: head", 0, 50, 0.25)
    assert (wheel.full_name, wheel.index, wheel.box) == ("car: wheel", 2, (32, 16, 4, 4))
    assert wheel.score is None  # unknown is not zero


def test_masks_by_name():
    found = scene()
    np.testing.assert_array_equal(found.mask("dog"), found.object_map == 0)
    np.testing.assert_array_equal(found.mask("dog", "head"), found.part_map == 0)
    assert found.mask("car", "head").sum() == 0  # the dog's head is no car's
    assert not found.mask("sky").any()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("dgo",), "'dgo' is no object .* did you mean 'dog'"),
        (("bird",), "there are: dog, sky, car"),
        (("dog", "wheel"), "no part of 'dog' .* there are: head, leg"),
        (("sky", "cloud"), "there are: none"),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(names, words):
    with pytest.raises(UserError, match=words):
        scene().mask(*names)


def test_repr_says_what_is_there():
    assert repr(scene()) == "Segmentation 20x40: dog (25%: head), car (12%: wheel)"
    assert repr(scene(passed_over=2)) == repr(scene()) + "; 2 not looked at for parts"
    assert scene(passed_over=2).to_dict()["objects_passed_over"] == 2
    empty = np.full((20, 40), -1)
    nothing = dataclasses.replace(scene(), object_map=empty, part_map=empty)
    assert repr(nothing) == "Segmentation 20x40: nothing found"


def test_the_background_of_a_benchmark_is_not_listed():
    words = dataclasses.replace(WORDS, background_object=2)
    found = dataclasses.replace(scene(), vocabulary=words)
    assert [entry.name for entry in found.objects] == ["dog"]


def test_saved_files_say_what_the_segmentation_says(tmp_path):
    found = scene(photo_size=(200, 400))
    paths = found.save(tmp_path / "out" / "deep")
    names = ["rex_overlay.png", "rex_objects.png", "rex_parts.png", "rex.json"]
    assert [path.name for path in paths] == names
    assert sorted(os.listdir(tmp_path / "out" / "deep")) == sorted(names)  # no temporary files
    objects, parts = (Image.open(path) for path in paths[1:3])
    assert objects.mode == parts.mode == "L"
    np.testing.assert_array_equal(np.asarray(objects).astype(int) - 1, found.object_map)
    np.testing.assert_array_equal(np.asarray(parts).astype(int) - 1, found.part_map)

    record = json.loads(paths[3].read_text(encoding="utf-8"))
    assert record["model"] == "tiny"
    assert record["files"]["objects"] == "rex_objects.png"
    assert record["image"] == {
        "path": "photos/rex.jpg",
        "width": 40,
        "height": 20,
        "photo_width": 400,
        "photo_height": 200,
    }
    assert "0 is background" in record["label_encoding"]
    assert Vocabulary.of(record["vocabulary"]) == WORDS
    (dog, car), (head, wheel) = record["objects"], record["parts"]
    assert (dog["name"], dog["label"], dog["area"], dog["box"]) == ("dog", 1, 200, [2, 5, 20, 10])
    assert (head["object"], head["name"], head["label"]) == ("dog", "head", 1)
    assert (car["label"], wheel["label"], wheel["score"]) == (3, 3, None)
    for entry, labels in ((dog, objects), (car, objects), (head, parts), (wheel, parts)):
        expected = np.asarray(labels) == entry["label"]
        np.testing.assert_array_equal(masks.decode(entry["rle"]), expected)


def test_a_name_can_be_given_and_must_be_plain(tmp_path):
    assert scene().save(tmp_path, "Käfer 1")[-1].name == "Käfer 1.json"
    assert scene(path=None).save(tmp_path)[-1].name == "segmentation.json"
    for name in ("a/b", "../x", "/etc/x"):
        with pytest.raises(UserError, match="plain file name"):
            scene().save(tmp_path / "below", name)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


def test_the_json_comes_last(tmp_path, monkeypatch):
    """Who finds it finds all: a run that was interrupted is resumed by what is missing."""
    written = []

    def full_disk(path, content):
        if path.name.endswith("_parts.png"):
            raise UserError(f"cannot write {path}: No space left on device")
        written.append(path.name)
        return write_whole(path, content)

    monkeypatch.setattr(result, "write_whole", full_disk)
    with pytest.raises(UserError, match="No space left"):
        scene().save(tmp_path)
    assert "rex.json" not in os.listdir(tmp_path)
    assert written


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it is a file, not a folder"):
        scene().save(tmp_path / "file")


def test_many_classes_are_written_in_16_bits(tmp_path):
    words = Vocabulary.of([f"thing {i}" for i in range(300)])
    labels = np.array([[-1, 0], [255, 299]], np.int32)
    empty = np.full((2, 2), -1)
    image = np.zeros((2, 2, 3), np.uint8)
    paths = Segmentation(image, labels, empty, words).save(tmp_path)
    assert np.array(Image.open(paths[1])).tolist() == [[0, 1], [256, 300]]
    assert np.array(Image.open(paths[2])).max() == 0
    limit = result.label_image(np.array([[254, -1]]), 255)
    assert limit.mode == "L"
    assert np.array(limit).tolist() == [[255, 0]]


def test_names_in_any_script_survive_the_json(tmp_path):
    words = Vocabulary.of({"犬": ["頭"], "собака": []})
    found = dataclasses.replace(
        scene(object_scores=None, part_scores=None, path="a\udcff.jpg"),
        vocabulary=words,
        object_map=np.zeros((20, 40), int),
        part_map=np.zeros((20, 40), int),
    )
    text = found.save(tmp_path, "x")[-1].read_text(encoding="utf-8")
    assert "犬" in text
    assert json.loads(text)["parts"][0]["object"] == "犬"


def test_coco_categories_annotations_and_ids():
    data = scene().to_coco(image_id=7, first_annotation_id=100)
    assert data["images"] == [{"id": 7, "file_name": "rex.jpg", "width": 40, "height": 20}]
    assert [(c["id"], c["name"], c["supercategory"]) for c in data["categories"]] == [
        (1, "dog", "object"),
        (2, "sky", "object"),
        (3, "car", "object"),
        (4, "dog's head", "dog"),
        (5, "dog's leg", "dog"),
        (6, "car's wheel", "car"),
        (7, "car's head", "car"),
    ]
    assert [(a["id"], a["category_id"], a["area"]) for a in data["annotations"]] == [
        (100, 1, 200),
        (101, 3, 100),
        (102, 4, 50),
        (103, 6, 16),
    ]
    dog = data["annotations"][0]
    assert dog["image_id"] == 7
    assert dog["bbox"] == [2, 5, 20, 10]
    np.testing.assert_array_equal(masks.decode(dog["segmentation"]), scene().mask("dog"))
    json.dumps(data, allow_nan=False)  # plain values only


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"object_map": np.full((20, 39), -1)}, r"expected signed integers \[20, 40\]"),
        ({"object_map": np.zeros((20, 40), np.uint8)}, "expected signed integers"),
        ({"object_map": np.full((20, 40), 3)}, r"expected labels -1..2, got 3..3"),
        ({"part_map": np.full((20, 40), -2)}, r"expected labels -1..3"),
        ({"image": np.zeros((20, 40), np.uint8)}, "expected an image"),
        ({"image": np.zeros((20, 40, 3))}, "expected an image"),
        ({"object_scores": np.zeros(2)}, r"object_scores: expected \[3\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(scene(), **changes)
