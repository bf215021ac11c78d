"""Text embeddings of a vocabulary: computed once in batches of one size, kept on disk, padded.

Letters: O objects, T object-specific parts, G generic parts, R phrases, K background names,
M the most parts of an object, P templates, E the embedding. -1 in an index is padding.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax import templates as sentences
from opvseg_jax.core.shapes import dims
from opvseg_jax.text import feature_cache
from opvseg_jax.text.tokenizer import Tokenizer
from opvseg_jax.vocabulary import Vocabulary

BUCKETS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Unit-norm embeddings and index maps of a vocabulary, padded or not.

    `objects` holds one row per object; where some object has several phrases, `phrases` holds one
    row for each of them, so that a method can let every phrase compete and count for its object.
    """

    objects: jax.Array  # [O, P, E]
    parts: jax.Array  # [T, P, E]
    generic: jax.Array  # [G, P, E]
    object_mask: jax.Array  # [O] true where the row is a class of the vocabulary
    part_mask: jax.Array  # [T]
    generic_mask: jax.Array  # [G]
    part_to_object: jax.Array  # [T]
    part_to_generic: jax.Array  # [T]
    object_to_parts: jax.Array  # [O, M]
    background: jax.Array  # [K, P, E] competitors, mostly none
    background_mask: jax.Array  # [K]
    phrases: jax.Array | None = None  # [R, P, E]
    phrase_to_object: jax.Array | None = None  # [R]

    @classmethod
    def of(
        cls,
        vocabulary: Vocabulary,
        objects,
        parts=None,
        generic=None,
        *,
        background=None,
        phrases=None,
    ) -> "TextFeatures":
        """Embeddings [O, P, E], [T, P, E], [G, P, E], ... with the index maps of `vocabulary`."""
        v = vocabulary
        _, p, e = dims(objects, "O P E", O=len(v.objects))
        parts = np.zeros((0, p, e), np.float32) if parts is None else parts
        generic = np.zeros((0, p, e), np.float32) if generic is None else generic
        background = np.zeros((0, p, e), np.float32) if background is None else background
        dims(parts, "T P E", T=len(v.parts), E=e)
        dims(generic, "G P E", G=len(v.generic_parts), E=e)
        dims(background, "K P E", P=p, E=e)
        return cls(
            objects=jax.device_put(objects),
            parts=jax.device_put(parts),
            generic=jax.device_put(generic),
            object_mask=np.ones(len(objects), bool),
            part_mask=np.ones(len(parts), bool),
            generic_mask=np.ones(len(generic), bool),
            part_to_object=jax.device_put(v.part_to_object),
            part_to_generic=jax.device_put(v.part_to_generic),
            object_to_parts=jax.device_put(v.object_to_parts),
            background=jax.device_put(background),
            background_mask=np.ones(len(background), bool),
            phrases=None if phrases is None else jax.device_put(phrases),
            phrase_to_object=None if phrases is None else jax.device_put(v.phrase_to_object),
        )

    def averaged(self) -> "TextFeatures":
        """One template instead of P: the unit-norm mean."""
        change = {
            name: _unit(value.astype(jnp.float32).mean(axis=1, keepdims=True))
            for name in ("objects", "parts", "generic", "background", "phrases")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **change)


def encode_vocabulary(
    encode: Callable[[jax.Array], jax.Array],
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    templates: str | Sequence[str],
    *,
    part_templates: str | Sequence[str] | None = None,
    part_style: str | None = None,
    batch_size: int = 64,
    cache: Path | None = None,
    weights_digest: str = "",
    pad_to: str | Mapping[str, int] | None = None,
) -> TextFeatures:
    """The features of `vocabulary`; `encode` is a jitted tokens [batch, context] -> [batch, E].

    `templates` is a set's name, a sentence or several; parts and generic parts take
    `part_templates` (default: the same). A part is prompted by its name ("dog's head") or as
    `part_style` says, see `templates.PART_PHRASES`. Each text is encoded once. With a `cache`
    folder and the digest of the weights the result is read from disk next time.
    `pad_to="buckets"` or the sizes of `pad` let vocabularies of like size share a compiled
    function.
    """
    object_set = _sentences(templates)
    part_set = object_set if part_templates is None else _sentences(part_templates)
    v = vocabulary
    owners = [v.objects[part.object] for part in v.parts]
    part_texts = [
        part.name if part_style is None else sentences.part_phrase(owner, part.generic, part_style)
        for owner, part in zip(owners, v.parts, strict=True)
    ]
    phrases = [phrase for texts in v.phrases for phrase in texts]
    grids = {
        "phrases": _fill(object_set, phrases),
        "parts": _fill(part_set, part_texts),
        "generic": _fill(part_set, v.generic_parts),
        "background": _fill(object_set, v.background),
    }
    found = _embed(encode, tokenizer, grids, batch_size, cache, weights_digest)
    several = len(phrases) > len(v.objects)
    features = TextFeatures.of(
        v,
        _mean_of_phrases(found["phrases"], v) if several else found["phrases"],
        found["parts"],
        found["generic"],
        background=found["background"],
        phrases=found["phrases"] if several else None,
    )
    if pad_to is None:
        return features
    return pad_to_buckets(features) if pad_to == "buckets" else pad(features, **pad_to)


def pad(
    features: TextFeatures,
    *,
    objects: int | None = None,
    parts: int | None = None,
    generic: int | None = None,
    most_parts: int | None = None,
    background: int | None = None,
    phrases: int | None = None,
) -> TextFeatures:
    """Grows O, T, G, M, K and R to these sizes: embeddings by 0, masks by False, maps by -1."""
    f = jax.tree.map(np.asarray, features)  # on the host, where growing compiles nothing
    m = {"to": most_parts, "axis": 1, "what": "most_parts", "fill": -1}
    grown = TextFeatures(
        objects=_grow(f.objects, objects, "objects"),
        parts=_grow(f.parts, parts, "parts"),
        generic=_grow(f.generic, generic, "generic"),
        object_mask=_grow(f.object_mask, objects, "objects"),
        part_mask=_grow(f.part_mask, parts, "parts"),
        generic_mask=_grow(f.generic_mask, generic, "generic"),
        part_to_object=_grow(f.part_to_object, parts, "parts", fill=-1),
        part_to_generic=_grow(f.part_to_generic, parts, "parts", fill=-1),
        object_to_parts=_grow(_grow(f.object_to_parts, objects, "objects", fill=-1), **m),
        background=_grow(f.background, background, "background"),
        background_mask=_grow(f.background_mask, background, "background"),
        phrases=None if f.phrases is None else _grow(f.phrases, phrases, "phrases"),
        phrase_to_object=None
        if f.phrase_to_object is None
        else _grow(f.phrase_to_object, phrases, "phrases", fill=-1),
    )
    return jax.tree.map(jax.device_put, grown)


def pad_to_buckets(features: TextFeatures, buckets: Sequence[int] = BUCKETS) -> TextFeatures:
    """Pads every axis to the next bucket. An empty axis stays empty: no parts, no part stage."""
    return pad(
        features,
        objects=bucket(len(features.objects), buckets),
        parts=bucket(len(features.parts), buckets),
        generic=bucket(len(features.generic), buckets),
        most_parts=bucket(features.object_to_parts.shape[1], buckets),
        background=bucket(len(features.background), buckets),
        phrases=None if features.phrases is None else bucket(len(features.phrases), buckets),
    )


def bucket(count: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds `count`; beyond the last, its next multiple; 0 for 0."""
    if count == 0:
        return 0
    last = max(buckets)
    return min((size for size in buckets if size >= count), default=-(-count // last) * last)


def _sentences(templates: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(templates, str):
        return (templates,) if sentences.BARE in templates else sentences.named(templates)
    found = tuple(templates)
    if not found:
        raise ValueError("templates: expected at least one sentence, got none")
    return found


def _fill(templates: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    return [[sentences.fill(template, name) for template in templates] for name in names]


def _embed(encode, tokenizer, grids, batch_size, cache, weights_digest) -> dict[str, np.ndarray]:
    """Grids of texts [n, P] -> unit-norm [n, P, E] each."""
    texts = list(dict.fromkeys(t for grid in grids.values() for row in grid for t in row))
    place = {text: i for i, text in enumerate(texts)}
    key = feature_cache.key(weights_digest, tokenizer.digest, texts)
    usable = cache is not None and bool(weights_digest)
    rows = feature_cache.read(cache, key, len(texts)) if usable else None
    if rows is None:
        rows = _encode_all(encode, tokenizer(texts), batch_size)
        if usable:
            feature_cache.write(cache, key, rows)
    width = max(len(row) for grid in grids.values() for row in grid)
    index = {
        name: np.array([[place[t] for t in row] for row in grid], np.int64).reshape(
            len(grid), len(grid[0]) if grid else width
        )
        for name, grid in grids.items()
    }
    return {name: rows[i] for name, i in index.items()}


def _encode_all(encode, tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """tokens [n, context] -> unit-norm float32 [n, E], in batches of one size: one compilation."""
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    done = []
    for first in range(0, len(tokens), batch_size):
        batch = tokens[first : first + batch_size]
        # The last batch is filled with its own first row, which any encoder can take.
        filler = np.repeat(batch[:1], batch_size - len(batch), axis=0)
        out = encode(jax.device_put(np.concatenate([batch, filler])))
        dims(out, "B E", B=batch_size)
        done.append(np.asarray(out.astype(jnp.float32))[: len(batch)])
    rows = np.concatenate(done)
    if not np.isfinite(rows).all():
        raise ValueError("the text encoder gave numbers that are not finite: check its weights")
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _mean_of_phrases(rows: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Phrases [R, P, E] -> objects [O, P, E]: per template the unit-norm mean of the phrases."""
    sums = np.zeros((len(vocabulary.objects), *rows.shape[1:]), np.float32)
    np.add.at(sums, vocabulary.phrase_to_object, rows)
    return sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-12)


def _grow(x: np.ndarray, to: int | None, what: str, *, axis: int = 0, fill=0) -> np.ndarray:
    extra = 0 if to is None else to - x.shape[axis]
    if extra < 0:
        raise ValueError(f"{what}: {x.shape[axis]} do not fit into {to}")
    widths = [(0, extra if i == axis else 0) for i in range(x.ndim)]
    return np.pad(x, widths, constant_values=fill)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
