"""What a vocabulary promises: ids in order, index maps that agree, errors that name the entry."""

import json
import logging

import numpy as np
import pytest

from opvseg_jax import published_lists
from opvseg_jax.core.errors import UserError
from opvseg_jax.vocabulary import Part, Vocabulary

PUBLISHED = [name for name in Vocabulary.names() if name != "partworld"]
WITH_MAPS = [name for name in PUBLISHED if "objects_with_parts" in published_lists.facts(name)]
COUNTED = [name for name in PUBLISHED if "counts" in published_lists.facts(name)]


def test_every_published_list_is_offered():
    assert len(PUBLISHED) == 28
    assert len(WITH_MAPS) == 4
    assert len(COUNTED) == 16


@pytest.mark.parametrize("name", COUNTED)
def test_published_counts(name):
    v, data = Vocabulary.named(name), published_lists.facts(name)
    measured = {
        "objects": len(v),
        "objects_with_parts": len(v.objects_with_parts),
        "parts": len(v.parts),
        "generic_parts": len(v.generic_parts),
    }
    if v.seen_objects is not None:
        seen = int(v.seen_object_mask.sum())
        measured |= {"seen_objects": seen, "unseen_objects": len(v) - seen}
        measured |= {"seen": seen, "unseen": len(v) - seen}
    if v.seen_parts is not None:
        seen = int(v.seen_part_mask.sum())
        measured |= {"seen_parts": seen, "unseen_parts": len(v.parts) - seen}
        measured["train_generic_parts"] = len(v.seen_only().generic_parts)
    measured["with_synonyms"] = sum(len(texts) > 1 for texts in v.phrases)
    measured["text_classes"] = len(v.phrase_to_object)
    if name == "partimagenet_158":
        # Its 40 parts belong to superclasses; the vocabulary gives them to each of their classes.
        owner = [o["superclass"] for o in data["objects"]]
        measured["parts"] = len({(owner[part.object], part.generic) for part in v.parts})
        measured["superclasses"] = len(set(owner))
    counts = dict(data["counts"])
    for only_facts in ("things", "stuff", "names_spelt_differently_in_deop"):
        counts.pop(only_facts, None)
    assert {key: measured[key] for key in counts} == counts


@pytest.mark.parametrize("name", WITH_MAPS)
def test_index_maps_equal_the_published_ones(name):
    v, data = Vocabulary.named(name), published_lists.facts(name)
    assert v.objects == tuple(entry["name"] for entry in data["objects"])
    assert v.part_names == tuple(entry["name"] for entry in data["parts"])
    assert v.part_to_object.tolist() == [entry["object_id"] for entry in data["parts"]]
    assert list(v.objects_with_parts) == data["objects_with_parts"]
    assert v.part_to_object_with_parts.tolist() == data["part_to_object_with_parts"]
    assert list(v.generic_parts) == data["generic_parts"]
    assert v.part_to_generic.tolist() == data["part_to_generic"]
    assert np.flatnonzero(v.seen_part_mask).tolist() == data["seen"]
    assert np.flatnonzero(~v.seen_object_mask).tolist() == data["unseen_objects"]
    trained = v.seen_only()
    assert list(trained.objects_with_parts) == data["train_objects_with_parts"]
    assert list(trained.generic_parts) == data["train_generic_parts"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists_round_trip_and_know_their_ids(name):
    v = Vocabulary.named(name)
    again = Vocabulary.of(json.loads(json.dumps(v.to_dict())))
    assert again == v
    assert again.digest == v.digest
    assert again.name == name
    assert Vocabulary.of(name) == v
    for o, row in enumerate(v.object_to_parts):
        assert [p for p in row if p >= 0] == np.flatnonzero(v.part_to_object == o).tolist()


def test_joint_instance_lists_agree_with_the_part_benchmark():
    joint, parts = Vocabulary.of("langhops_instance/pps116"), Vocabulary.of("pascal_part_116")
    assert joint.parts == parts.parts
    upper = Vocabulary.of("langhops_instance/partimagenet").parts[0]
    assert upper == Part(0, "Head", "Quadruped Head")


def test_phrases_are_what_the_published_models_were_prompted_with():
    assert Vocabulary.of("ade150").phrases[7] == ("bed ",)  # the blank is part of the prompt
    assert Vocabulary.of("ade150").objects[7] == "bed"
    assert Vocabulary.of("ade847").phrases[1] == ("building", "edifice")
    assert Vocabulary.of("ade847").with_first_phrases().phrases[1] == ("building",)
    assert Vocabulary.of("ade20k_part_234").phrases[0] == ("airplane",)  # its synonyms are notes
    person = Vocabulary.of("cliper_prompts/voc21").phrases[14]
    assert person == ("person with clothes, people, human",)


def test_prompted_classes_of_voc20b_count_for_the_background():
    v, data = Vocabulary.of("voc20b"), published_lists.facts("voc20b")
    assert [text for texts in v.phrases for text in texts] == data["text_classes"]
    assert v.phrase_to_object.tolist() == data["text_to_class"]
    assert v.background_object == 20
    assert Vocabulary.of("voc21").background_object == 0
    # For part benchmarks the background is an extra channel and no object.
    assert Vocabulary.of("pascal_part_116").background_object is None


def test_competitors_are_no_objects():
    v = Vocabulary.of("cliper_prompts/voc21")
    assert (len(v), len(v.background)) == (20, 25)
    assert v.background[0] == "ground"


SAME = [
    {"dog": ["head", "leg"], "car": ["wheel"], "sky": []},
    {"dog": ["head", "leg"], "car": "wheel", "sky": None},
    "dog: head, leg; car: wheel; sky",
    " dog :  head,leg;\n car: wheel\n\nsky;",
    ["dog", "car", "sky"],
    [{"dog": ["head", "leg"]}, {"name": "car", "parts": ["wheel"]}, "sky"],
    {"objects": ["dog", "car", "sky"], "parts": {"dog": ["head", "leg"], "car": ["wheel"]}},
    {
        "objects": ["dog", "car", "sky"],
        "parts": [
            {"object": "dog", "part": "head"},
            {"object": "dog", "part": "leg"},
            {"object": "car", "part": "wheel"},
        ],
    },
]


@pytest.mark.parametrize("words", SAME, ids=range(len(SAME)))
def test_one_vocabulary_in_many_forms(words):
    v = Vocabulary.of(words)
    assert v.objects == ("dog", "car", "sky")
    if isinstance(words, list) and words[0] == "dog":
        assert v.parts == ()
        return
    assert v == Vocabulary(("dog", "car", "sky"), ((0, "head"), (0, "leg"), (1, "wheel")))
    assert hash(v) == hash(Vocabulary.of(SAME[0]))
    assert v.part_names == ("dog's head", "dog's leg", "car's wheel")
    assert v.object_to_parts.tolist() == [[0, 1], [2, -1], [-1, -1]]
    assert v.objects_with_parts == ("car", "dog")
    assert v.object_to_object_with_parts.tolist() == [1, 0, -1]
    assert v.object_with_parts_to_object.tolist() == [1, 0]
    assert v.generic_parts == ("head", "leg", "wheel")


def test_names_without_a_colon_are_objects():
    assert Vocabulary.of("sky, grass; dog: head").objects == ("sky", "grass", "dog")


def test_several_phrases_count_for_one_object():
    v = Vocabulary.of("dog | puppy: head; sky")
    assert v.objects == ("dog", "sky")
    assert v.phrases == (("dog", "puppy"), ("sky",))
    assert v.phrase_to_object.tolist() == [0, 0, 1]
    assert v.part_names == ("dog's head",)
    assert Vocabulary.of(v.to_dict()) == v


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("words.yaml", "dog: [head, leg]\ncar:\n  - wheel\nsky:\n"),
        ("words.yml", "dog: head, leg\ncar: wheel\nsky: []\n"),
        ("words.json", json.dumps(SAME[0])),
        ("words.txt", "dog: head, leg\ncar: wheel\nsky\n"),
    ],
)
def test_files(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    assert Vocabulary.of(tmp_path / file) == Vocabulary.of(SAME[0])
    assert Vocabulary.of(str(tmp_path / file)) == Vocabulary.of(SAME[0])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", "empty"),
        ([], "empty"),
        ({}, "empty"),
        (["dog", " "], "' '|''"),
        (["dog", "cat", "dog"], "'dog' is listed twice"),
        ({"dog": [], "Dog": []}, "'Dog' is listed beside 'dog'"),
        ({"dog": ["leg", "LEG"]}, "dog: LEG"),
        ("dog: leg; dog: head", "'dog' is listed twice"),
        ("dog: head,, leg", "dog"),
        (": head", "'head' has no object"),
        ("dog: head: nose", "two colons"),
        ({"objects": ["dog"], "parts": {"dogs": ["head"]}}, "'dogs' is not listed.*'dog'"),
        ({"objects": ["dog"], "parts": [{"part": "head"}]}, "has no object"),
        ({"objects": ["dog"], "part": {}}, "unknown key 'part'.*'parts'"),
        ({"objects": "dog"}, "expected a list"),
        ({"dog": 3}, "dog.*3"),
        ({"dog": ["head", None]}, "dog.*None"),
        ({"dog": ["head | nose"]}, "only objects take several phrases"),
        (["dog", True], "True.*quotes"),
        ([7], "7.*quotes"),
        (7, "int"),
        ({"objects": ["dog"], "seen_objects": [True, False]}, "seen_objects has 2"),
        ("pascal_part_11", "did you mean 'pascal_part_116'"),
    ],
)
def test_mistakes_are_named(words, named):
    with pytest.raises(UserError, match=named):
        Vocabulary.of(words)


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'coco_stuff_171'"):
        Vocabulary.named("coco_stuff_117")


def test_part_needs_an_existing_object():
    with pytest.raises(UserError, match="'head' has no object"):
        Vocabulary(("dog",), ((1, "head"),))


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("a.yaml", b"dog: [head", "not YAML"),
        ("a.yaml", b"dog: [head]\ndog: [leg]", "'dog' is listed twice"),
        ("a.yaml", b"no: [head]", "False.*quotes"),
        ("a.yaml", b"", "empty"),
        ("a.yaml", b"!!python/object/apply:os.getcwd []", "not YAML"),
        ("a.json", b'{"dog": [}', "not JSON"),
        ("a.json", b'{"dog": [], "dog": []}', "'dog' is listed twice"),
        ("a.json", b"\xff\xfe\x00", "not UTF-8"),
        ("a.json", b"[" * 100_000, "nested|JSON"),
    ],
)
def test_unreadable_files_are_named(tmp_path, file, content, named):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=f"(?s){file}.*({named})"):
        Vocabulary.of(tmp_path / file)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        Vocabulary.of(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="cannot be read"):
        Vocabulary.of(tmp_path)


def test_three_thousand_words():
    words = {f"object {i}": [f"part {i % 7}", "edge"] for i in range(3000)}
    v = Vocabulary.of(words)
    assert v.object_to_parts.shape == (3000, 2)
    assert len(v.generic_parts) == 8
    assert len(repr(v)) < 120
    assert Vocabulary.of(v.to_dict()) == v


def test_any_script_is_a_word():
    v = Vocabulary.of({"собака": ["голова"], "犬": ["頭"], "café": None})
    assert v.objects == ("собака", "犬", "café")
    assert v.part_names[1] == "犬's 頭"
    with pytest.raises(UserError, match="listed beside"):  # composed and decomposed accent
        Vocabulary.of(["caf\u00e9", "cafe\u0301"])


def test_very_long_names_are_kept_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        v = Vocabulary.of(["x" * 500, "dog"])
    assert v.objects[0] == "x" * 500
    assert "1 name(s) longer than" in caplog.text
    assert len(repr(v)) < 120


def test_blanks_around_names_do_not_count():
    assert Vocabulary.of({" dog ": [" head\t"]}) == Vocabulary.of({"dog": ["head"]})
    assert Vocabulary.of(["traffic  light"]).objects == ("traffic light",)


def test_equality_is_of_words_and_order():
    a = Vocabulary.of(["dog", "cat"])
    assert a == Vocabulary(("dog", "cat"), name="mine")
    assert a.digest == Vocabulary(("dog", "cat"), name="mine").digest
    for other in (
        ["cat", "dog"],
        ["dog", "cat", "sky"],
        {"dog": ["leg"], "cat": []},
        "dog|pup;cat",
    ):
        assert Vocabulary.of(other) != a
        assert Vocabulary.of(other).digest != a.digest


def test_subset_renumbers_objects_and_keeps_their_parts():
    v = Vocabulary.of("dog|puppy: head, leg; car: wheel; sky").subset(["car", 0])
    assert v.objects == ("car", "dog")
    assert v.part_names == ("dog's head", "dog's leg", "car's wheel")
    assert v.part_to_object.tolist() == [1, 1, 0]
    assert v.phrases == (("car",), ("dog", "puppy"))
    with pytest.raises(UserError, match="'bus' is not among"):
        v.subset(["bus"])
    with pytest.raises(UserError, match="no seen/unseen split"):
        v.seen_only()


def test_index_maps_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        Vocabulary.of({"dog": ["head"]}).part_to_object[0] = 1


def test_partworld_is_a_benchmark_too():
    v = Vocabulary.of("partworld")
    assert v.name == "partworld"
    assert "partworld" in Vocabulary.names()
    assert 0 < len(v.seen_only()) < len(v)
    assert Vocabulary.of(v.to_dict()) == v
