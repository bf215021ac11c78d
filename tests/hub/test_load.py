"""Models by name, folder or file, and what is told when that goes wrong."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.hub import shipped
from opvseg_jax.hub.load import load, with_background
from opvseg_jax.hub.presets import SHIPPED, is_on_disk, preset, presets
from opvseg_jax.hub.presets import shipped as folder_of
from opvseg_jax.vocabulary import Vocabulary

WORDS = Vocabulary.of("dog: head, leg; car: wheel")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A user's own copy of the tiny CLIP."""
    return shutil.copytree(folder_of("tiny_clip"), tmp_path / "my_clip")


def test_a_folder_is_loaded_like_the_model_that_it_holds(tiny, folder, photo):
    mine = load(folder, like="tiny")
    assert mine.canvases == tiny.canvases
    expected, found = tiny(photo, WORDS), mine(photo, WORDS)
    np.testing.assert_array_equal(found.object_map, expected.object_map)
    np.testing.assert_array_equal(found.part_map, expected.part_map)
    assert found.model == str(folder)


def test_a_folder_without_a_likeness_gets_canvases_of_whole_patches(folder):
    segmenter = load(str(folder))
    assert len(segmenter.canvases) == 2
    assert all(side % 8 == 0 for canvas in segmenter.canvases for side in canvas)


def test_detail_enlarges_the_canvas(tiny):
    assert load("tiny", detail=2).canvases == tuple((2 * h, 2 * w) for h, w in tiny.canvases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ref": "tinny"}, "unknown model 'tinny': did you mean 'tiny'"),
        ({"ref": "xyzzy"}, "unknown model 'xyzzy': there are tiny, "),
        ({"ref": "./nowhere/clip"}, "does not exist"),
        ({"ref": "clip.pt"}, "does not exist"),
        ({"ref": "tiny", "like": "big"}, ""),
        ({"detail": 0}, "detail 0: expected a whole number from 1 to 4"),
        ({"detail": 1.5}, "detail 1.5"),
        ({"dtype": "float64"}, "unknown dtype 'float64'"),
        ({"num_slot": 4}, "unknown setting 'num_slot': did you mean 'num_slots'"),
        ({"canvases": ((100, 128),)}, r"canvas \(100, 128\): expected \(height, width\)"),
        ({"crop_size": 4}, "crop_size 4"),
    ],
)
def test_mistakes_are_told_in_a_sentence(options, message):
    if options.get("like") == "big":
        options, message = {"ref": "owner/name", "like": "big"}, "unknown model 'big'"
    with pytest.raises(UserError, match=message):
        load(**{"ref": "tiny", **options})


def test_a_model_that_cannot_be_fetched_says_what_to_put_where(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"clip-vit-base-patch16.*download config.json"):
        load("zeroshot-b16")
    assert not is_on_disk(preset("zeroshot-b16"))


def test_a_tokenizer_of_another_model_is_noticed(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["unheard"] = len(words) - 2  # the start and the end stay last
    for i, special in enumerate(("<|startoftext|>", "<|endoftext|>"), start=len(words) - 2):
        words[special] = i
    for added in tokenizer["added_tokens"]:
        added["id"] = words[added["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="do not belong together"):
        load(folder)


def test_background_words_that_are_asked_for_compete_no_longer():
    words = Vocabulary.of("Grass; dog | hound: head")
    assert with_background(words, ("grass", "sky", "hound")).background == ("sky",)
    own = dataclasses.replace(words, background=("street",))
    assert with_background(own, ("sky",)).background == ("street",)


def test_the_users_background_counts():
    text = load("tiny", background=("street", "cat")).words(Vocabulary.of("cat"))
    assert text.background_mask.sum() == 1


def test_every_preset_is_whole():
    for name, entry in presets().items():
        assert entry.name == name
        assert entry.about
        assert entry.licence
        assert entry.source
        assert entry.megabytes > 0
        assert all("/" in ref or ref in SHIPPED for ref in entry.encoders)
        assert len(set(entry.background)) == len(entry.background)


def test_text_features_are_kept_and_found_again(photo, cache_folder, tiny):
    words = "zebra: mane; lorry: trailer"
    tiny(photo, words)
    before = {path: path.stat().st_mtime_ns for path in (cache_folder / "text").iterdir()}
    again = load("tiny")
    again.words.__wrapped__._encode = None  # a second encoding would fail
    again(photo, words)
    assert {path: path.stat().st_mtime_ns for path in (cache_folder / "text").iterdir()} == before


def test_shipped_files_are_the_published_ones():
    """After new weights: python -m opvseg_jax.hub.shipped"""
    assert shipped.problems() == []
    assert sum((shipped.FOLDER / name).stat().st_size for name in shipped.checksums()) < 8e6
