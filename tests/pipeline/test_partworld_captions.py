"""PartWorld's captions: true, made of known words, telling images apart."""

import re

import numpy as np
import pytest

from opvseg_jax.pipeline.partworld import KINDS, PARTS, PARTWORLD, PartWorld, caption_words, true_of

WORD = re.compile(r"'s|[a-z]+|[^\sa-z]")


@pytest.fixture(scope="module")
def pretrain():
    return [PartWorld("pretrain", 64)[i] for i in range(1500)]


def test_captions_use_known_words_alone(pretrain):
    used = {word for s in pretrain for c in s.captions for word in WORD.findall(c.text)}
    assert used <= set(caption_words())
    assert set(caption_words()) - used == set()
    assert len(caption_words()) < 100


def test_captions_are_true_of_their_image_and_not_of_every_other(pretrain):
    for scene in pretrain:
        assert all(true_of(scene.facts, caption.facts) for caption in scene.captions)
        assert all(caption.facts for caption in scene.captions)
    claims = [scene.captions[0].facts for scene in pretrain[:100]]
    also_true = np.mean([[true_of(s.facts, c) for c in claims] for s in pretrain[:100]])
    assert also_true < 0.15


def test_a_caption_claims_what_it_says(pretrain):
    for caption in (c for s in pretrain for c in s.captions):
        words = set(WORD.findall(caption.text))
        assert set(KINDS) & words == {w for f in caption.facts for w in f[1:] if w in KINDS}
        for fact in caption.facts:
            if fact[0] == "look":
                assert set(fact[1:]) <= words
            elif fact[0] != "background":
                assert fact[-1] in words
                assert fact[1] in words


def test_articles_and_spaces_are_right(pretrain):
    for caption in (c for s in pretrain for c in s.captions):
        assert not re.search(r"\ba [aeio]|\ban [^aeio]|  |[{}]", caption.text), caption.text


def test_every_kind_and_part_is_spoken_of(pretrain):
    said = {fact for s in pretrain for c in s.captions for fact in c.facts}
    assert {("part", *pair) for pair in PARTS} <= said
    assert {("generic", part) for _, part in PARTS} - said == set()
    assert {("kind", kind) for kind in KINDS} <= said


def test_facts_agree_with_the_maps():
    scenes = [PartWorld(split, 128)[i] for split in ("val_seen", "val_unseen") for i in range(80)]
    for scene in scenes:
        areas = np.bincount(scene.part_map[scene.part_map >= 0], minlength=len(PARTS))
        area = {pair: n for pair, n in zip(PARTS, areas.tolist(), strict=True)}
        looks = {(*o.attributes, KINDS[o.kind]) for o in scene.objects}
        kinds = {fact[1] for fact in scene.facts if fact[0] == "kind"}
        for kind in KINDS:
            total = sum(area[kind, part] for part in PARTWORLD[kind].parts)
            assert total > 100 or kind not in kinds
            assert total < 0.2 * 128 * 128 or kind in kinds
        for fact in scene.facts:
            if fact[0] == "part":
                assert area[fact[1:]] >= 16
                assert fact[1] in kinds
            if fact[0] == "generic":
                assert any(area[pair] >= 16 for pair in PARTS if pair[1] == fact[1])
            if fact[0] == "look":
                assert fact[1:] in looks
            if fact[0] == "background":
                assert fact[1] == scene.background
