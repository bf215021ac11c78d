"""Templates: published sentences verbatim, names put in as they stand."""

import pytest

from opvseg_jax import published_lists, templates
from opvseg_jax.core.errors import UserError


def test_published_sets_have_their_sizes():
    sizes = {name: len(texts) for name, texts in templates.published().items()}
    assert sizes == {
        "imagenet80": 80,
        "imagenet_select8": 8,
        "catseg_single": 1,
        "vild14": 14,
        "cliper_car15": 15,
        "imagenet_select_clip32": 32,
    }
    assert templates.named("catseg_single") == ("A photo of a {} in the scene",)


@pytest.mark.parametrize("name", templates.names())
def test_every_sentence_takes_one_name(name):
    filled = [templates.fill(text, "dog") for text in templates.named(name)]
    assert all("dog" in text and "{" not in text for text in filled)
    assert len(set(filled)) == len(filled)


def test_part_phrases_follow_the_published_patterns():
    patterns = published_lists._load("templates")["part_class_text"]
    for style in ("possessive", "plain"):
        assert patterns[style].split("  (")[0] == templates.PART_PHRASES[style]
    assert templates.part_phrase("dog", "head") == "dog's head"
    assert templates.part_phrase("dog", "head", "plain") == "dog head"
    assert templates.part_phrase("dog", "head", "of") == "head of a dog"


def test_braces_in_a_name_stay():
    assert templates.fill("a {}.", "{part} {}") == "a {part} {}."
    assert templates.part_phrase("{part}", "{object}", "plain") == "{part} {object}"


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean 'imagenet80'"):
        templates.named("imagenet_80")
    with pytest.raises(UserError, match="exactly one"):
        templates.fill("a photo", "dog")
    with pytest.raises(UserError, match="unknown part style 'off'"):
        templates.part_phrase("dog", "head", "off")
