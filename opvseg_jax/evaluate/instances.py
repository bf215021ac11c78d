"""Average precision of instances as COCO defines it, for boxes and for masks. NumPy alone.

IoU thresholds .50:.05:.95, areas all / small / medium / large, the best 100 detections of a
category and image. Detections are matched greedily, the surest first; crowds and what lies outside
the area in question are ignored, not missed.

Letters: D detections and G annotations of one category in one image, I thresholds, R recalls.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference import masks

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
MOST = 100
KINDS = ("bbox", "segm")


class Precision(NamedTuple):
    """Precision [I, R, categories] of each area, -1 where the truth has none, and `categories`."""

    table: dict[str, np.ndarray]
    categories: tuple[int, ...]

    def per_category(self) -> dict[int, float]:
        """AP of each category in percent, NaN where the truth has none."""
        return {c: _mean(self.table["all"][..., i]) for i, c in enumerate(self.categories)}

    def figures(self) -> dict[str, float]:
        """COCO's summary in percent."""
        whole = self.table["all"]
        out = {"AP": _mean(whole), "AP50": _mean(whole[0]), "AP75": _mean(whole[5])}
        return out | {f"AP{name[0]}": _mean(self.table[name]) for name in list(AREAS)[1:]}

    def group(self, categories: Sequence[int]) -> float:
        """The plain mean over those of these categories that have an AP."""
        found = self.per_category()
        values = [found[c] for c in categories if not np.isnan(found[c])]
        return float(np.mean(values)) if values else float("nan")


class _Cell(NamedTuple):
    """One category in one image: detections by falling score, and the truth."""

    scores: np.ndarray  # [D]
    areas: np.ndarray  # [D]
    overlaps: np.ndarray  # [D, G]
    true_areas: np.ndarray  # [G]
    is_crowd: np.ndarray  # [G]


class _Matched(NamedTuple):
    """[I, D]: whether a detection found something, and whether it is left out of account."""

    scores: np.ndarray  # [D]
    is_hit: np.ndarray
    is_ignored: np.ndarray
    wanted: int  # annotations that should be found


def average_precision(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], kind: str = "segm"
) -> Precision:
    """`truth` is a COCO data set, `detections` COCO results; `kind` "bbox" or "segm".

    A detection's area is that of its box or of its mask; an annotation without `area` has that of
    its box.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of instances {kind!r}: bbox or segm")
    categories = tuple(sorted(entry["id"] for entry in truth["categories"]))
    images = {entry["id"] for entry in truth["images"]}
    real, found = _grouped(truth["annotations"]), _grouped(detections)
    if strange := {image for image, _ in found} - images:
        raise UserError(f"the detections name image {min(strange)}, which the truth does not have")
    table = {
        name: np.full((len(THRESHOLDS), len(RECALLS), len(categories)), -1.0) for name in AREAS
    }
    for place, category in enumerate(categories):
        keys = [(image, category) for image in sorted(images)]
        cells = [_cell(real.get(key, []), found.get(key, []), kind) for key in keys]
        cells = [cell for cell in cells if cell is not None]
        for name, limits in AREAS.items():
            matched = [_match(cell, limits) for cell in cells]
            curve = _curve(matched)
            if curve is not None:
                table[name][..., place] = curve
    return Precision(table, categories)


def _grouped(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list]:
    out = defaultdict(list)
    for entry in entries:
        out[entry["image_id"], entry["category_id"]].append(entry)
    return out


def _cell(real: list, found: list, kind: str) -> _Cell | None:
    if not real and not found:
        return None
    order = np.argsort([-entry["score"] for entry in found], kind="stable")[:MOST]
    found = [found[i] for i in order]
    is_crowd = np.array([bool(entry.get("iscrowd")) for entry in real], bool)
    shapes = [_shapes(entries, kind) for entries in (found, real)]
    return _Cell(
        scores=np.array([entry["score"] for entry in found], np.float64),
        areas=_areas(shapes[0], kind),
        overlaps=_overlaps(*shapes, is_crowd, kind),
        true_areas=np.array([_true_area(entry) for entry in real], np.float64),
        is_crowd=is_crowd,
    )


def _shapes(entries: list, kind: str) -> np.ndarray:
    """Boxes float64 [n, 4] as x, y, width, height, or masks bool [n, pixels]."""
    if kind == "bbox":
        return np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    rows = [masks.decode(entry["segmentation"]).ravel() for entry in entries]
    return np.array(rows, bool) if rows else np.zeros((0, 0), bool)


def _areas(shapes: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bbox":
        return shapes[:, 2] * shapes[:, 3]
    return shapes.sum(axis=1).astype(np.float64) if len(shapes) else np.zeros(0)


def _true_area(entry: Mapping[str, Any]) -> float:
    return float(entry["area"]) if "area" in entry else entry["bbox"][2] * entry["bbox"][3]


def _overlaps(found: np.ndarray, real: np.ndarray, is_crowd: np.ndarray, kind: str) -> np.ndarray:
    """IoU [D, G]; of a crowd, the share of the detection that lies in it."""
    if not len(found) or not len(real):
        return np.zeros((len(found), len(real)))
    both = _box_intersections(found, real) if kind == "bbox" else _mask_intersections(found, real)
    areas = _areas(found, kind)[:, None]
    either = areas + _areas(real, kind) - both
    either = np.where(is_crowd, areas, either)
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def _box_intersections(found: np.ndarray, real: np.ndarray) -> np.ndarray:
    first, second = found[:, None], real[None]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    return np.maximum(high - low, 0).prod(axis=-1)


def _mask_intersections(found: np.ndarray, real: np.ndarray) -> np.ndarray:
    # Exact: an image has fewer pixels than float64 has whole numbers.
    return found.astype(np.float64) @ real.astype(np.float64).T


def _match(cell: _Cell, limits: tuple[float, float]) -> _Matched:
    """Each detection takes the annotation that it overlaps most; those to be ignored come last."""
    is_ignored = cell.is_crowd | _outside(cell.true_areas, limits)
    order = np.argsort(is_ignored, kind="stable")
    overlaps, crowd, ignored = cell.overlaps[:, order], cell.is_crowd[order], is_ignored[order]
    shape = (len(THRESHOLDS), len(cell.scores))
    is_hit, is_out = np.zeros(shape, bool), np.zeros(shape, bool)
    for i, threshold in enumerate(THRESHOLDS):
        is_free = np.ones(len(order), bool)
        for d in range(shape[1]):
            chosen = _choose(overlaps[d], threshold, is_free | crowd, ignored)
            if chosen is not None:
                is_hit[i, d], is_out[i, d] = True, ignored[chosen]
                is_free[chosen] = False
    is_out |= ~is_hit & _outside(cell.areas, limits)
    return _Matched(cell.scores, is_hit, is_out, int((~is_ignored).sum()))


def _choose(
    overlaps: np.ndarray, threshold: float, may: np.ndarray, ignored: np.ndarray
) -> int | None:
    """Of those with the largest overlap the last; an ignored one only if nothing else fits."""
    fits = may & (overlaps >= min(threshold, 1 - 1e-10))
    for group in (fits & ~ignored, fits & ignored):
        if group.any():
            best = overlaps[group].max()
            return int(np.flatnonzero(group & (overlaps == best))[-1])
    return None


def _outside(areas: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (areas < limits[0]) | (areas > limits[1])


def _curve(cells: list[_Matched]) -> np.ndarray | None:
    """Precision [I, R], never rising with recall; None if there is nothing to find."""
    wanted = sum(cell.wanted for cell in cells)
    if not wanted:
        return None
    scores = np.concatenate([cell.scores for cell in cells])
    order = np.argsort(-scores, kind="stable")
    is_hit, is_out = (
        np.concatenate([getattr(cell, field) for cell in cells], axis=1)[:, order]
        for field in ("is_hit", "is_ignored")
    )
    right = np.cumsum(is_hit & ~is_out, axis=1).astype(np.float64)
    wrong = np.cumsum(~is_hit & ~is_out, axis=1).astype(np.float64)
    out = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for row, hits, misses in zip(out, right, wrong, strict=True):
        precision = hits / (hits + misses + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits / wanted, RECALLS, side="left")
        reached = places < len(precision)
        row[reached] = precision[places[reached]]
    return out


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(100 * known.mean()) if known.size else float("nan")
