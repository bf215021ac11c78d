"""The tokenizer: CLIP's ids from any published form, over-long text cut, wrong files refused."""

import gzip
import itertools
import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.text.tokenizer import END, START, Tokenizer, clean, train_tokenizer

GOLDEN = Path(os.environ.get("OPVSEG_GOLDEN", Path(__file__).parents[1] / "parity" / "golden"))
TEXTS = [
    "A photo of a dog in the scene",
    "Dog's  HEAD",
    "  two   spaces ",
    "window-blind, no. 42",
    "café — naïve",
    "собака 犬 🐶",
    "we'll see they're 'it'",
    "",
]


def model_of(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    return model["vocab"], [tuple(m.split()) if isinstance(m, str) else m for m in model["merges"]]


@pytest.fixture(scope="session")
def three_forms(tokenizer_folder, tmp_path_factory):
    """The same tokenizer as tokenizer.json, as vocab.json + merges.txt and as OpenAI's file."""
    vocab, merges = model_of(tokenizer_folder)
    lines = "\n".join(["#version: 0.2", *map(" ".join, merges), ""])
    pair, openai = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("openai")
    (pair / "vocab.json").write_text(json.dumps(vocab))
    (pair / "merges.txt").write_text(lines)
    path = openai / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    return [tokenizer_folder, pair, openai, path, pair / "vocab.json", pair / "merges.txt"]


def test_three_forms_agree(three_forms):
    first, *others = [Tokenizer.from_folder(path)(TEXTS) for path in three_forms]
    assert first.dtype == np.int32
    assert first.shape == (len(TEXTS), 77)
    for other in others:
        np.testing.assert_array_equal(other, first)


def byte_pairs(text, vocab, merges):
    """An independent, slow reading of the algorithm for ASCII text."""
    rank = {tuple(pair): i for i, pair in enumerate(merges)}
    ids = []
    for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower()):
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            best = min(itertools.pairwise(symbols), key=lambda pair: rank.get(pair, 1e9))
            if best not in rank:
                break
            joined, i = [], 0
            while i < len(symbols):
                hit = tuple(symbols[i : i + 2]) == best
                joined.append("".join(best) if hit else symbols[i])
                i += 2 if hit else 1
            symbols = joined
        ids += [vocab[symbol] for symbol in symbols]
    return ids


@pytest.mark.parametrize("text", [text for text in TEXTS if text.isascii()])
def test_words_are_byte_pair_encoded(tokenizer_folder, text):
    vocab, merges = model_of(tokenizer_folder)
    assert Tokenizer.from_folder(tokenizer_folder).words(text) == byte_pairs(text, vocab, merges)


def test_a_row_is_start_words_end_padding(tokenizer_folder):
    tokenizer = Tokenizer.from_folder(tokenizer_folder, context=16)
    words = tokenizer.words("a dog")
    row = tokenizer(["a dog"])[0].tolist()
    assert (tokenizer.start, tokenizer.end) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)
    assert row == [tokenizer.start, *words, tokenizer.end] + [0] * (14 - len(words))
    padded = Tokenizer.from_folder(tokenizer_folder, context=16, pad=tokenizer.end)
    assert padded(["a dog"])[0, -1] == tokenizer.end
    assert tokenizer([]).shape == (0, 16)


def test_long_text_is_cut_and_keeps_its_end(tokenizer_folder, caplog):
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    long = "x" * 500
    with caplog.at_level(logging.WARNING):
        row = tokenizer([long, "dog"])[0]
    assert row[0] == tokenizer.start
    assert row[-1] == tokenizer.end
    assert row[1:-1].tolist() == tokenizer.words(long)[:75]
    assert "1 of 2 texts exceed 77 tokens" in caplog.text


def test_text_that_just_fits_is_not_cut(tokenizer_folder, caplog):
    count = len(Tokenizer.from_folder(tokenizer_folder).words("dog dog dog"))
    exact = Tokenizer.from_folder(tokenizer_folder, context=count + 2, overlong="raise")
    assert exact(["dog dog dog"])[0, -1] == exact.end
    assert caplog.text == ""


def test_long_text_is_refused_on_demand(tokenizer_folder):
    strict = Tokenizer.from_folder(tokenizer_folder, overlong="raise")
    with pytest.raises(UserError, match=r"1 of 1 texts exceed 77 tokens.*'xxx"):
        strict(["x" * 500])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (" Dog \n head ", "dog head"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("dog\u2019s head", "dog's head"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufb01sh", "fish"),
        ("\uff26\uff35\uff2c\uff2c", "full"),
        ("do\x00g", "dog"),
        ("STRASSE", "strasse"),
    ],
)
def test_cleaning(text, same):
    assert clean(text) == same


def test_special_tokens_in_a_name_are_text(tokenizer_folder):
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    assert not {tokenizer.start, tokenizer.end} & set(tokenizer.words(f"a {START} dog {END}"))


def test_any_word_encodes_and_comes_back(tokenizer_folder):
    vocab, _ = model_of(tokenizer_folder)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(moved)}
    name_of = {i: name for name, i in vocab.items()}
    for word in ("собака", "犬", "🐶", "naïve"):
        ids = Tokenizer.from_folder(tokenizer_folder).words(word)
        symbols = "".join(name_of[i] for i in ids).replace("</w>", "")
        assert bytes(byte_of[s] for s in symbols).decode() == word


def test_digest_tells_tokenizers_apart(tokenizer_folder, tmp_path):
    one = Tokenizer.from_folder(tokenizer_folder)
    other = train_tokenizer(["a robot with a petal"] * 3, 560, tmp_path)
    assert one.digest == Tokenizer.from_folder(tokenizer_folder).digest
    assert one.digest != other.digest
    assert one.digest != Tokenizer.from_folder(tokenizer_folder, context=32).digest


def test_training_is_deterministic_and_ordered(tokenizer_folder, tmp_path):
    texts = [f"the {w} of a robot" for w in ("arm", "leg", "head")] * 2
    first, second = (train_tokenizer(texts, 540, tmp_path / name) for name in "ab")
    assert first.digest == second.digest
    assert first.vocab_size <= 540
    assert len(first.words("robot")) < len("robot")  # it has learnt something
    vocab, _ = model_of(tmp_path / "a")
    assert vocab["!"] == 0
    assert vocab["!</w>"] == 256
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["tokenizer.json"]
    with pytest.raises(ValueError, match="at least 514"):
        train_tokenizer(texts, 500, tmp_path)


def edited(folder, tmp_path, change):
    data = json.loads((folder / "tokenizer.json").read_text())
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    return tmp_path


def test_other_tokenizers_are_refused(tokenizer_folder, tmp_path):
    def rename(data):
        data["added_tokens"] = []
        del data["model"]["vocab"][END]

    with pytest.raises(UserError, match="not a CLIP tokenizer"):
        Tokenizer.from_folder(edited(tokenizer_folder, tmp_path, rename))


def test_incomplete_alphabets_are_refused(tmp_path):
    vocab = {"a": 0, "a</w>": 1, START: 2, END: 3}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match="510 of 512 byte symbols are missing"):
        Tokenizer.from_folder(tmp_path)


def test_missing_and_broken_files_are_named(three_forms, tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer: expected one of tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        Tokenizer.from_folder(tmp_path / "tokenizer.json")
    (tmp_path / "vocab.json").write_bytes((three_forms[1] / "vocab.json").read_bytes())
    with pytest.raises(UserError, match=r"merges\.txt cannot be read"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq zzz\n")
    with pytest.raises(UserError, match="do not belong together"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="is not a tokenizer"):
        Tokenizer.from_folder(tmp_path)
    cut = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    cut.write_bytes(three_forms[3].read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.from_folder(cut)


def test_one_text_instead_of_a_list_is_refused(tokenizer_folder):
    with pytest.raises(TypeError, match="put it in a list"):
        Tokenizer.from_folder(tokenizer_folder)("dog")


@pytest.mark.skipif(
    "OPVSEG_CLIP_TOKENIZER" not in os.environ,
    reason="set OPVSEG_CLIP_TOKENIZER to a folder or file with CLIP's own vocabulary",
)
def test_ids_of_the_published_vocabulary():
    golden = json.loads((GOLDEN / "clip" / "tokenizer.json").read_text())
    tokenizer = Tokenizer.from_folder(os.environ["OPVSEG_CLIP_TOKENIZER"])
    assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end) == (49408, 49406, 49407)
    for text, ids, row in zip(
        golden["texts"], golden["token_ids"], tokenizer(golden["texts"]), strict=True
    ):
        assert row.tolist() == ids + [golden["pad"]] * (77 - len(ids)), text
