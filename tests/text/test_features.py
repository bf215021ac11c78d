"""Text features: one compilation, unit norms, padding that changes nothing, a cache that holds."""

import logging
import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.text import feature_cache
from opvseg_jax.text.features import (
    TextFeatures,
    bucket,
    encode_vocabulary,
    pad,
    pad_to_buckets,
)
from opvseg_jax.text.tokenizer import Tokenizer
from opvseg_jax.vocabulary import Vocabulary

TEMPLATES = ("a photo of a {}.", "the {}", "{}")
WORDS = Vocabulary.of("dog: head, leg; car: wheel; sky")


class Encoder:
    """A toy text tower that counts its compilations and the rows it is asked for."""

    def __init__(self, width=8, vocab_size=600):
        self.compiled, self.rows = 0, []
        table = jax.random.normal(jax.random.key(0), (vocab_size, width))
        place = 1 + jnp.arange(77)[:, None] / 7

        def encode(tokens):
            self.compiled += 1
            return (jnp.take(table, tokens, axis=0) * place * (tokens > 0)[..., None]).sum(1)

        self._encode = jax.jit(encode)

    def __call__(self, tokens):
        self.rows.append(tokens.shape)
        return self._encode(tokens)


@pytest.fixture
def tokenizer(tokenizer_folder):
    return Tokenizer.from_folder(tokenizer_folder)


def by_hand(tokenizer, name, templates=TEMPLATES):
    rows = Encoder()(tokenizer([t.replace("{}", name) for t in templates]))
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_row_is_the_unit_norm_embedding_of_its_sentence(tokenizer):
    text = encode_vocabulary(Encoder(), tokenizer, WORDS, TEMPLATES, batch_size=4)
    assert text.objects.shape == (3, 3, 8)
    assert text.parts.shape == (3, 3, 8)
    assert text.generic.shape == (3, 3, 8)
    assert text.background.shape == (0, 3, 8)
    for row, name in zip(text.objects, WORDS.objects, strict=True):
        np.testing.assert_allclose(row, by_hand(tokenizer, name), atol=1e-6)
    for row, name in zip(text.parts, WORDS.part_names, strict=True):
        np.testing.assert_allclose(row, by_hand(tokenizer, name), atol=1e-6)
    for row, name in zip(text.generic, WORDS.generic_parts, strict=True):
        np.testing.assert_allclose(row, by_hand(tokenizer, name), atol=1e-6)
    np.testing.assert_array_equal(text.object_to_parts, WORDS.object_to_parts)
    np.testing.assert_array_equal(text.part_to_object, WORDS.part_to_object)
    np.testing.assert_array_equal(text.part_to_generic, WORDS.part_to_generic)
    assert text.object_mask.all()


def test_batches_have_one_size_and_identical_texts_are_encoded_once(tokenizer):
    encoder = Encoder()
    words = Vocabulary.of({"dog": ["head"], "cat": ["head"], "head": []})  # "head" twice
    encode_vocabulary(encoder, tokenizer, words, TEMPLATES, batch_size=4)
    texts = 3 * len(TEMPLATES) + 2 * len(TEMPLATES)  # 3 objects (one is the generic part), 2 parts
    assert encoder.rows == [(4, 77)] * -(-texts // 4)
    assert encoder.compiled == 1


def test_batch_size_does_not_change_a_number(tokenizer):
    small = encode_vocabulary(Encoder(), tokenizer, WORDS, TEMPLATES, batch_size=1)
    large = encode_vocabulary(Encoder(), tokenizer, WORDS, TEMPLATES, batch_size=64)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), small, large)


def test_averaged_is_the_unit_norm_mean_of_templates(tokenizer):
    text = encode_vocabulary(Encoder(), tokenizer, WORDS, TEMPLATES)
    mean = np.asarray(text.parts).mean(axis=1)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(text.averaged().parts[:, 0], mean, atol=1e-6)
    assert text.averaged().objects.shape == (3, 1, 8)
    padded = pad(text, objects=8).averaged()
    assert not padded.objects[3:].any()  # and no division by zero


def test_parts_have_templates_and_a_phrase_of_their_own(tokenizer):
    text = encode_vocabulary(
        Encoder(),
        tokenizer,
        WORDS,
        TEMPLATES,
        part_templates="a close-up of the {}",
        part_style="of",
    )
    assert text.objects.shape[1] == 3
    assert text.parts.shape[1] == text.generic.shape[1] == 1
    want = by_hand(tokenizer, "head of a dog", ["a close-up of the {}"])
    np.testing.assert_allclose(text.parts[0], want, atol=1e-6)


def test_a_named_template_set(tokenizer):
    text = encode_vocabulary(Encoder(), tokenizer, Vocabulary.of("dog"), "vild14")
    assert text.objects.shape == (1, 14, 8)
    with pytest.raises(ValueError, match="unknown template set"):
        encode_vocabulary(Encoder(), tokenizer, WORDS, "vild15")


def test_phrases_average_to_their_object_and_stay_apart(tokenizer):
    words = Vocabulary.of("dog | puppy; sky")
    text = encode_vocabulary(Encoder(), tokenizer, words, TEMPLATES)
    dog, puppy = by_hand(tokenizer, "dog"), by_hand(tokenizer, "puppy")
    mean = (dog + puppy) / jnp.linalg.norm(dog + puppy, axis=-1, keepdims=True)
    np.testing.assert_allclose(text.objects[0], mean, atol=1e-5)
    np.testing.assert_allclose(text.phrases[1], puppy, atol=1e-6)
    assert text.phrase_to_object.tolist() == [0, 0, 1]
    plain = encode_vocabulary(Encoder(), tokenizer, WORDS, TEMPLATES)
    assert plain.phrases is None


def test_background_names_are_encoded_as_objects_are(tokenizer):
    words = Vocabulary(("dog",), background=("grass", "water"))
    text = encode_vocabulary(Encoder(), tokenizer, words, TEMPLATES, pad_to="buckets")
    np.testing.assert_allclose(text.background[1], by_hand(tokenizer, "water"), atol=1e-6)
    assert text.background_mask.tolist() == [True, True, False, False]


def test_padding_keeps_the_real_rows_and_marks_the_others(tokenizer):
    text = encode_vocabulary(Encoder(), tokenizer, WORDS, TEMPLATES)
    big = pad(text, objects=8, parts=16, generic=4, most_parts=5)
    assert big.objects.shape == (8, 3, 8)
    assert big.parts.shape == (16, 3, 8)
    assert big.object_to_parts.shape == (8, 5)
    np.testing.assert_array_equal(big.objects[:3], text.objects)
    np.testing.assert_array_equal(big.parts[:3], text.parts)
    assert not big.parts[3:].any()
    assert big.part_mask.tolist() == [True] * 3 + [False] * 13
    assert big.part_to_object.tolist() == [0, 0, 1] + [-1] * 13
    assert big.object_to_parts[0].tolist() == [0, 1, -1, -1, -1]
    assert (big.object_to_parts[3:] == -1).all()
    with pytest.raises(ValueError, match="parts: 3 do not fit into 2"):
        pad(text, parts=2)


def test_vocabularies_of_like_size_share_a_compiled_function(tokenizer):
    traced = []

    @jax.jit
    def method(text: TextFeatures):
        traced.append(text.objects.shape)
        return text.objects.sum()

    for words in ("dog: head; car", "cat: leg, tail; bus: door; sky", "cow: horn; sea; rock; sun"):
        method(
            encode_vocabulary(
                Encoder(), tokenizer, Vocabulary.of(words), TEMPLATES, pad_to="buckets"
            )
        )
    assert traced == [(4, 3, 8)]


def test_buckets():
    assert [bucket(n) for n in (0, 1, 4, 5, 116, 128, 129)] == [0, 4, 4, 8, 128, 128, 256]
    assert bucket(4097) == 8192
    objects_only = Vocabulary.of("dog; cat")
    text = TextFeatures.of(objects_only, np.ones((2, 1, 4), np.float32))
    assert pad_to_buckets(text).parts.shape == (0, 1, 4)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="T=3"):
        TextFeatures.of(WORDS, np.ones((3, 1, 4)), np.ones((2, 1, 4)), np.ones((3, 1, 4)))


def test_numbers_that_are_not_finite_are_refused(tokenizer):
    with pytest.raises(ValueError, match="not finite"):
        encode_vocabulary(lambda t: jnp.full((len(t), 4), jnp.nan), tokenizer, WORDS, TEMPLATES)


def test_three_thousand_words_of_any_script_and_length(tokenizer):
    names = [f"слово {i}" for i in range(2998)] + ["犬" * 500, "x" * 500]
    encoder = Encoder()
    text = encode_vocabulary(
        encoder, tokenizer, Vocabulary.of(names), ("a {}",), batch_size=512, pad_to="buckets"
    )
    assert text.objects.shape == (4096, 1, 8)
    assert encoder.compiled == 1
    np.testing.assert_allclose(jnp.linalg.norm(text.objects[:3000], axis=-1), 1, atol=1e-5)


# The cache


def cached(tokenizer, folder, encoder, words=WORDS, digest="weights", templates=TEMPLATES):
    return encode_vocabulary(
        encoder, tokenizer, words, templates, cache=folder, weights_digest=digest
    )


def test_the_second_time_nothing_is_encoded(tokenizer, tmp_path):
    first = cached(tokenizer, tmp_path, Encoder())
    encoder = Encoder()
    same(cached(tokenizer, tmp_path, encoder), first)
    assert encoder.rows == []


def test_other_weights_words_templates_or_tokenizers_are_other_questions(
    tokenizer, tokenizer_folder, tmp_path
):
    cached(tokenizer, tmp_path, Encoder())
    for change in (
        {"digest": "other"},
        {"words": Vocabulary.of("dog: head, leg; car: wheel; sea")},
        {"templates": TEMPLATES[:2]},
    ):
        encoder = Encoder()
        cached(tokenizer, tmp_path, encoder, **change)
        assert encoder.rows, change
    encoder = Encoder()
    padded = Tokenizer.from_folder(tokenizer_folder, pad=1)
    cached(padded, tmp_path, encoder)
    assert encoder.rows


def test_without_a_digest_of_the_weights_nothing_is_kept(tokenizer, tmp_path):
    cached(tokenizer, tmp_path, Encoder(), digest="")
    assert list(tmp_path.iterdir()) == []


def other_numbers(path):
    rows = np.zeros((1, 8), np.float32)
    path.write_bytes(feature_cache.safetensors.numpy.save({"embeddings": rows}))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else entirely"),
        other_numbers,
        flipped,
    ],
    ids=["truncated", "empty", "foreign", "other_numbers", "flipped_bit"],
)
def test_spoilt_files_are_computed_again_and_mended(tokenizer, tmp_path, spoil):
    first = cached(tokenizer, tmp_path, Encoder())
    (path,) = tmp_path.rglob("*.safetensors")
    spoil(path)
    encoder = Encoder()
    same(cached(tokenizer, tmp_path, encoder), first)
    assert encoder.rows
    encoder = Encoder()
    same(cached(tokenizer, tmp_path, encoder), first)
    assert encoder.rows == []
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_a_folder_that_cannot_be_written_costs_one_warning(tokenizer, tmp_path, caplog):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        text = cached(tokenizer, blocked, Encoder())
    assert text.objects.shape == (3, 3, 8)
    assert len(caplog.records) == 1
    assert "not cached" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_used_without_writing(tokenizer, tmp_path, caplog):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with caplog.at_level(logging.WARNING):
        cached(tokenizer, tmp_path, Encoder())
    assert len(caplog.records) == 1


RACE = """
import sys
import numpy as np
from pathlib import Path
from opvseg_jax.text import feature_cache as cache

folder, rows = Path(sys.argv[1]), np.arange(40_000, dtype=np.float32).reshape(100, 400)
question = cache.key("weights", "tokenizer", ["text"] * 100)
for _ in range(60):
    cache.write(folder, question, rows)
    found = cache.read(folder, question, 100)
    if found is None or not np.array_equal(found, rows):
        sys.exit("a reader met half a file")
"""


def test_two_processes_may_write_the_same_file(tmp_path):
    start = [sys.executable, "-c", RACE, str(tmp_path)]
    both = [subprocess.Popen(start, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
