"""Annotations of one image -> maps. Letters: H W image size."""

from collections.abc import Iterable

import numpy as np
from opvseg_jax.data.builders import coco_masks
from opvseg_jax.data.builders.benchmark import Labels
from opvseg_jax.data.builders.labels import lookup_table, read_labels, translate


def paint(
    masks: Iterable[tuple[int, np.ndarray]], size: tuple[int, int], labels: Labels
) -> np.ndarray:
    """[H, W] of `labels.ignore`, over which each (id, mask) is laid: later ones win."""
    out = np.full(size, labels.ignore, labels.dtype)
    for label, mask in masks:
        out[mask] = label
    return out


def decoded(annotations: Iterable[dict], size: tuple[int, int]) -> list[tuple[dict, np.ndarray]]:
    """(annotation, mask [H, W]) of those that have an area."""
    pairs = [(entry, coco_masks.decode(entry["segmentation"], size)) for entry in annotations]
    return [(entry, mask) for entry, mask in pairs if mask is not None]


def number(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """uint16 [H, W]: 0 where there is none, k on the k-th mask; later ones win."""
    out = np.zeros(size, np.uint16)
    for k, mask in enumerate(masks, start=1):
        out[mask] = k
    return out


def stored_ids(path, labels: Labels, count: int) -> np.ndarray:
    """A label file that already holds ids below `count`, and the ignore value."""
    ids = {i: i for i in range(count)}
    table = lookup_table(ids, ignore=labels.ignore, ignored=(labels.ignore,))
    return translate(read_labels(path), table, labels.dtype)


def raw_ids(path, labels: Labels, ignored: Iterable[int] | None) -> np.ndarray:
    """A label file with the published values; `ignored` ones (None: all others) are dropped."""
    table = lookup_table(labels.raw, ignore=labels.ignore, ignored=ignored)
    return translate(read_labels(path), table, labels.dtype)
