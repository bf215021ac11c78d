"""CLIP's tokenizer: lower-cased byte-pair encoding, a start and an end token, a fixed context.

Read from any of the three published forms; all give the same ids. `train_tokenizer` makes a small
one of the same kind. The `tokenizers` library is imported when the first tokenizer is made.
"""

import functools
import gzip
import hashlib
import html
import json
import logging
import os
import re
import tempfile
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opvseg_jax.core.errors import UserError

if TYPE_CHECKING:
    import tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
OPENAI_FILE = "bpe_simple_vocab_16e6.txt.gz"
OPENAI_MERGES = 49152 - 256 - 2  # the file holds more lines than the models use
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MENDED = {
    **dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
    **dict.fromkeys([*range(9), 11, *range(14, 32), 127, 0xFEFF]),  # control characters go
}
# Ligatures, digraphs and full-width letters, each one character for several or for a plain one.
COMPATIBLE = re.compile("[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06\uff01-\uffef]")

log = logging.getLogger(__name__)


class Tokenizer:
    """`tokenizer(texts) -> int32 [n, context]`: start, words, end, then the padding.

    An over-long text is cut and keeps its end token, or refused with `overlong="raise"`. OpenAI
    pads with 0; HuggingFace models that read tokens behind the end want `pad=tokenizer.end`.
    """

    def __init__(
        self,
        backend: "tokenizers.Tokenizer",
        *,
        context: int = 77,
        pad: int = 0,
        overlong: str = "cut",
        source: str = "tokenizer",
    ):
        if overlong not in ("cut", "raise"):
            raise ValueError(f"overlong: expected 'cut' or 'raise', got {overlong!r}")
        if context < 3:
            raise ValueError(f"context: expected at least 3 tokens, got {context}")
        backend.no_padding()
        backend.no_truncation()
        # "<|endoftext|>" typed by a user is text; as a token it would end the sentence there.
        backend.encode_special_tokens = True
        self.vocab_size = backend.get_vocab_size()
        self.start, self.end = _start_and_end(backend, source)
        self.context, self.pad, self.overlong = context, pad, overlong
        self._backend = backend

    @classmethod
    def from_folder(
        cls, path: str | Path, context: int = 77, *, pad: int = 0, overlong: str = "cut"
    ) -> "Tokenizer":
        """Reads tokenizer.json, vocab.json + merges.txt or OpenAI's file, or a folder with one."""
        path = Path(path)
        read = {
            "tokenizer.json": _read_tokenizer_json,
            "vocab.json": _read_vocab_and_merges,
            OPENAI_FILE: _read_openai,
        }
        if path.is_dir():
            found = [path / name for name in read if (path / name).is_file()]
            if not found:
                raise UserError(f"{path} has no tokenizer: expected one of {', '.join(read)}")
            path = found[0]
        if not path.is_file():
            raise UserError(f"tokenizer {path} does not exist")
        form = OPENAI_FILE if path.suffix == ".gz" else path.name
        if form == "merges.txt":
            form, path = "vocab.json", path.with_name("vocab.json")
        backend = read.get(form, _read_tokenizer_json)(path)
        return cls(backend, context=context, pad=pad, overlong=overlong, source=str(path))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> int32 [n, context]."""
        if isinstance(texts, str):
            raise TypeError("expected a list of texts, got one text: put it in a list")
        out = np.full((len(texts), self.context), self.pad, np.int32)
        cut = []
        for row, text in zip(out, texts, strict=True):
            words = self.words(text)
            if len(words) > self.context - 2:
                cut.append(text)
                words = words[: self.context - 2]
            row[: len(words) + 2] = [self.start, *words, self.end]
        if cut:
            problem = f"{len(cut)} of {len(texts)} texts exceed {self.context} tokens, "
            problem += f"the first starting {cut[0][:40]!r}"
            if self.overlong == "raise":
                raise UserError(problem + ": shorten them")
            log.warning("%s: cut", problem)
        return out

    def words(self, text: str) -> list[int]:
        """The ids of the text alone, without start and end, however many."""
        return self._backend.encode(clean(text), add_special_tokens=False).ids

    @functools.cached_property
    def digest(self) -> str:
        """Changes with anything that changes an id."""
        settings = f"{self.context} {self.pad} {self._backend.to_str()}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def to_json(self) -> str:
        """The content of a tokenizer.json."""
        return self._backend.to_str()

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} tokens, context {self.context})"


def clean(text: str) -> str:
    """What CLIP does before encoding: characters mended, white space collapsed, lower case.

    The original mends characters with a library that also repairs wrongly decoded text. Kept of
    it is what people do type: curly quotes, decomposed accents, ligatures, full-width letters.
    """
    text = html.unescape(html.unescape(text))
    text = COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return " ".join(unicodedata.normalize("NFC", text).translate(MENDED).split()).lower()


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, folder: str | Path, context: int = 77
) -> Tokenizer:
    """Writes `folder/tokenizer.json`, a small tokenizer of CLIP's kind that encodes any word.

    Ids: 256 bytes, the same ending a word, one per merge (as many as fit), start, end.
    """
    import tokenizers
    from tokenizers import models, trainers

    smallest = 2 * 256 + 2
    if vocab_size < smallest:
        raise ValueError(f"vocab_size: expected at least {smallest} (bytes), got {vocab_size}")
    learner = _pipeline(tokenizers, models.BPE(end_of_word_suffix=WORD_END))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        end_of_word_suffix=WORD_END,
        initial_alphabet=_byte_symbols(),
        show_progress=False,
    )
    learner.train_from_iterator((clean(text) for text in texts), trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in learnt]
    backend = _assemble(_ids(merges[: vocab_size - smallest]), merges[: vocab_size - smallest])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
        file.write(backend.to_str(pretty=False))
    os.chmod(file.name, 0o644)  # a temporary file is private, a tokenizer is not
    os.replace(file.name, folder / "tokenizer.json")
    return Tokenizer.from_folder(folder, context)


# The three published forms


def _read_tokenizer_json(path: Path) -> "tokenizers.Tokenizer":
    import tokenizers

    text = _read_text(path)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path} is not a tokenizer: {error}") from None


def _read_vocab_and_merges(path: Path) -> "tokenizers.Tokenizer":
    try:
        vocab = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not a vocabulary: {error}") from None
    lines = _read_text(path.with_name("merges.txt")).splitlines()
    return _assemble(vocab, _merges(lines, path.with_name("merges.txt")))


def _read_openai(path: Path) -> "tokenizers.Tokenizer":
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; fetch it again") from None
    merges = _merges(lines, path)[:OPENAI_MERGES]
    return _assemble(_ids(merges), merges)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; fetch it again") from None


def _merges(lines: Sequence[str], path: Path) -> list[tuple[str, str]]:
    """The pairs below the version line."""
    first = 1 if lines and "#version" in lines[0] else 0
    pairs = [tuple(line.split()) for line in lines[first:] if line.strip()]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise UserError(f"{path}: expected two symbols a line, got {' '.join(wrong[0])!r}")
    return pairs


# The pipeline


def _ids(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Bytes, bytes ending a word, merges, start, end: the order of OpenAI's models."""
    symbols = _byte_symbols()
    words = [*symbols, *(s + WORD_END for s in symbols), *map("".join, merges), START, END]
    ids = {word: i for i, word in enumerate(words)}
    if len(ids) != len(words):
        raise UserError(f"{len(words) - len(ids)} merges give a word that exists already")
    return ids


def _byte_symbols() -> list[str]:
    """One printable character per byte: printable bytes first, the others moved past 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(moved))]


def _assemble(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> "tokenizers.Tokenizer":
    import tokenizers
    from tokenizers import models

    try:
        model = models.BPE(vocab=dict(vocab), merges=list(merges), end_of_word_suffix=WORD_END)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"vocabulary and merges do not belong together: {error}") from None
    backend = _pipeline(tokenizers, model)
    special = [tokenizers.AddedToken(word, special=True) for word in (START, END) if word in vocab]
    backend.add_special_tokens(special)
    return backend


def _pipeline(tokenizers, model) -> "tokenizers.Tokenizer":
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


def _start_and_end(backend: "tokenizers.Tokenizer", source: str) -> tuple[int, int]:
    """Their ids, after making sure that this is a CLIP tokenizer and a whole one."""
    vocab = backend.get_vocab()
    ids = vocab.get(START), vocab.get(END)
    if ids != (len(vocab) - 2, len(vocab) - 1):
        raise UserError(
            f"{source} is not a CLIP tokenizer: expected {START} and {END} as the last of "
            f"{len(vocab)} tokens, got ids {ids}"
        )
    symbols = _byte_symbols()
    missing = [s for s in [*symbols, *(s + WORD_END for s in symbols)] if s not in vocab]
    if missing:
        raise UserError(
            f"{source} is incomplete: {len(missing)} of 512 byte symbols are missing, so that "
            "words would vanish silently; fetch it again"
        )
    return ids
