"""A model over a data set: labels at the images' own size, counted on the device.

One compiled function for each bucket of image and label sizes takes a batch to small integer
matrices; on the host arrives nothing but those, and the label maps that somebody asks for. With
several processes each counts its own images, and the sums are exact whoever counted what.

Shapes: B images, H W canvas, h w label maps, O objects, T parts.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import Blueprint
from opvseg_jax.evaluate import boundary, decisions, placing
from opvseg_jax.evaluate.confusion import Confusion, count_labels
from opvseg_jax.evaluate.protocols import MODES, Counts, num_classes, tables_of
from opvseg_jax.evaluate.shown import ImageResult
from opvseg_jax.pipeline.samples import IGNORE
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.vocabulary import Vocabulary

MOST = 2**31 - 1  # pixels that int32 counts for sure
ARRAYS = ("image", "object_map", "part_map", "valid", "size", "label_size")

Batch = Mapping[str, Any]


def evaluate(
    plan: Blueprint,
    weights: Mapping[str, jax.Array],
    text: TextFeatures,
    vocabulary: Vocabulary,
    batches: Iterable[Batch],
    *,
    mesh: Mesh | None = None,
    modes: Sequence[str] = ("pred_all",),
    protocols: Sequence[str] = ("standard",),
    on_result: Callable[[ImageResult], None] | None = None,
) -> Counts:
    """Counts what these protocols read, over batches of `evaluation_batches`.

    With a mesh, a batch is divided over its devices. Every process calls this with its own
    batches, whose number may differ, and gets the sums over all; `on_result` sees its own images.
    """
    _check(text, vocabulary, modes)
    tables = tables_of(protocols, modes, vocabulary)
    place = placing.placing(mesh)
    weights, text = place.everywhere(dict(weights)), place.everywhere(text)
    count = _program(Same(plan), vocabulary, tables)
    running = Running(tables, vocabulary)
    waiting = None
    for batch in batches:
        arrays = place.divided({name: np.asarray(batch[name]) for name in ARRAYS})
        with place.context():
            counted, labels, ious = count(weights, text, arrays)
        running.add(counted, batch["part_map"].size, sum(1 for key in batch["key"] if key))
        if on_result is not None:
            _tell(on_result, waiting)  # of the batch before: this one is being computed
            waiting = (batch, labels, ious, vocabulary)
    if on_result is not None:
        _tell(on_result, waiting)
    return running.total()


class Same:
    """Equal to itself alone: a key for what cannot be hashed by its content."""

    def __init__(self, plan: Blueprint):
        self.plan = plan

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.plan is other.plan

    def __hash__(self) -> int:
        return id(self.plan)


@functools.lru_cache(maxsize=4)  # evaluation during training meets its compiled functions again
def _program(plan: Same, vocabulary: Vocabulary, tables: tuple[str, ...]):
    return jax.jit(functools.partial(count_batch, plan.plan, vocabulary, tables))


class Running:
    """Sums on the device for as long as int32 holds them, then on the host."""

    def __init__(self, tables: Sequence[str], vocabulary: Vocabulary, most: int = MOST):
        self.tables = {name: Confusion(num_classes(name, vocabulary)) for name in tables}
        self.most, self.images = most, 0
        self._seen: set[str] = set()
        self._device: dict[str, jax.Array] | None = None
        self._pixels = 0

    def add(self, counted: dict[str, jax.Array], pixels: int, images: int) -> None:
        """Matrices of one batch, in which each pixel was counted at most once."""
        if self._pixels + pixels > self.most:
            self._flush()
        self._device = counted if self._device is None else _sum(self._device, counted)
        self._pixels += pixels
        self.images += images
        self._seen |= counted.keys()

    def total(self) -> Counts:
        """Over all processes; without tables that the method cannot fill."""
        self._flush()
        names = list(self.tables)
        has = np.array([name in self._seen for name in names], np.int64)
        sums = placing.sum_over_processes(
            [np.array([self.images], np.int64), has, *(t.counts for t in self.tables.values())]
        )
        images, is_filled, *counts = sums
        tables = {
            name: Confusion(self.tables[name].num_classes, matrix)
            for name, matrix, filled in zip(names, counts, is_filled, strict=True)
            if filled
        }
        return Counts(tables, int(images[0]))

    def _flush(self) -> None:
        for name, matrix in (self._device or {}).items():
            self.tables[name].counts += np.asarray(matrix, np.int64)
        self._device, self._pixels = None, 0


@jax.jit
def _sum(total: dict[str, jax.Array], more: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return jax.tree.map(jnp.add, total, more)


def count_batch(
    plan: Blueprint,
    vocabulary: Vocabulary,
    tables: Sequence[str],
    weights: Mapping[str, jax.Array],
    text: TextFeatures,
    batch: Mapping[str, jax.Array],
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], jax.Array]:
    """-> matrices int32 [K + 1, K + 1], labels "objects" and "parts" int32 [B, h, w], IoU [B]."""
    answers = _answers(plan, vocabulary, tables, weights, text, batch)
    objects, parts = (batch[name].astype(jnp.int32) for name in ("object_map", "part_map"))
    counted = {}
    for name in tables:
        source = "pred_all" if name == "part_owners" else _source(name)
        if source in answers:
            truth = objects if source == "objects" else parts
            k = num_classes(name, vocabulary)
            pair = (truth, answers[source])
            if name == "part_owners":
                pair = _owners(vocabulary, objects, answers[source])
            counted[name] = count_labels(*_changed(name, pair, objects, batch, k), k)
    has_parts = "pred_all" in answers
    best = (parts, answers["pred_all"]) if has_parts else (objects, answers["objects"])
    count = len(vocabulary.parts if has_parts else vocabulary.objects)
    ious = jax.vmap(functools.partial(image_iou, num_classes=count))(*best)
    shown = {"objects": answers.get("objects"), "parts": answers.get("pred_all")}
    return counted, {name: x for name, x in shown.items() if x is not None}, ious


def image_iou(truth: jax.Array, answer: jax.Array, num_classes: int) -> jax.Array:
    """Mean IoU of one image over the classes that it holds, 0..1; NaN if it holds none."""
    k = num_classes
    judged = truth >= -1

    def areas(labels: jax.Array, where: jax.Array) -> jax.Array:
        slots = jnp.where(where & (labels >= 0), labels, k)
        return jnp.zeros(k + 1, jnp.int32).at[slots.ravel()].add(1)[:k]

    hit, true = areas(truth, judged & (truth == answer)), areas(truth, judged)
    iou = hit / jnp.maximum(true + areas(answer, judged) - hit, 1)
    return jnp.where(true > 0, iou, 0).sum() / (true > 0).sum()


def _answers(
    plan: Blueprint,
    vocabulary: Vocabulary,
    tables: Sequence[str],
    weights: Mapping[str, jax.Array],
    text: TextFeatures,
    batch: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Label maps int32 [B, h, w]: of objects, and of parts as each table's mode decides."""
    images, valid, truth = batch["image"], batch["valid"], batch["object_map"].astype(jnp.int32)
    outputs = plan.merge(weights)(images, text, valid)
    content = jnp.stack([valid.any(axis=2).sum(axis=1), valid.any(axis=1).sum(axis=1)], axis=1)
    read = functools.partial(
        decisions.full_size_labels,
        content=content,
        sizes=batch["label_size"],
        truth=truth,
        canvas=images.shape[1:3],
    )
    answers = {}
    if outputs.objects is not None:
        none = jnp.zeros((len(images), 2, len(vocabulary.objects)), bool)
        answers = read(outputs.objects, kept=none, rules={"objects": decisions.pred_all})
    if outputs.parts is not None and vocabulary.parts:
        wanted = {"pred_all", *(_source(name) for name in tables)}
        rules = {k: v for k, v in decisions.decisions(vocabulary).items() if k in wanted}
        names = decisions.parts_by_name(vocabulary)
        kept = jax.vmap(lambda objects: decisions.kept_parts(objects, *names))(truth)
        answers |= read(outputs.parts, kept=kept, rules=rules)
    return answers


def _source(table: str) -> str:
    """The answer that a table is about."""
    first = table.partition("/")[0]
    return "oracle_name" if first == "oracle_inside" else first


def _owners(vocabulary: Vocabulary, objects: jax.Array, answer: jax.Array):
    """True objects and answered parts as numbers of objects with parts."""
    of_object = jnp.asarray(np.append(vocabulary.object_to_object_with_parts, -1))
    of_part = jnp.asarray(np.append(vocabulary.part_to_object_with_parts, -1))
    return jnp.where(objects < -1, objects, of_object[objects]), of_part[answer]


def _changed(
    name: str, pair, objects: jax.Array, batch: Mapping[str, jax.Array], k: int
) -> tuple[jax.Array, jax.Array]:
    """(truth, answer) [B, h, w] as the table looks at them."""
    truth, answer = pair
    if name == "oracle_inside":
        return truth, jnp.where(objects < 0, -1, answer)
    if name.endswith("/border"):
        return tuple(_edges(boundary.border_labels, labels, batch) for labels in pair)
    if name.endswith("/difference"):
        if not name.startswith("objects"):
            answer = jnp.where(truth < 0, -1, answer)
        named = (jnp.where(labels < 0, k, labels) for labels in (truth, answer))
        edges = (_edges(boundary.label_difference, labels, batch) for labels in named)
        true, found = (jnp.where(edge == k, -1, edge) for edge in edges)
        return jnp.where(_is_image(truth.shape, batch["label_size"]), true, IGNORE), found
    return truth, answer


def _edges(find, labels: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    return jax.vmap(find)(labels, batch["label_size"], batch["reach"])


def _is_image(shape: tuple[int, ...], sizes: jax.Array) -> jax.Array:
    rows, columns = (jnp.arange(n) < sizes[:, i : i + 1] for i, n in enumerate(shape[1:]))
    return rows[:, :, None] & columns[:, None]


def _tell(on_result: Callable[[ImageResult], None], waiting) -> None:
    if waiting is None:
        return
    batch, labels, ious, vocabulary = waiting
    values = placing.on_host(ious)
    for row, key in enumerate(batch["key"]):
        if key:
            on_result(ImageResult(key, float(values[row]), batch, labels, row, vocabulary))


def _check(text: TextFeatures, vocabulary: Vocabulary, modes: Sequence[str]) -> None:
    for mode in modes:
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}: {' or '.join(MODES)}")
    for what, mask, names in (
        ("objects", text.object_mask, vocabulary.objects),
        ("parts", text.part_mask, vocabulary.parts),
    ):
        encoded = int(np.sum(placing.on_host(mask)))
        if encoded != len(names):
            raise UserError(
                f"the words that were encoded are {encoded} {what}, the data set has {len(names)}: "
                "evaluate with the vocabulary of the data set"
            )
