"""The published ways from a matrix of counts to figures, and ours; `protocols.py` names them.

Each takes matrices int [K + 1, K + 1] (truth in the rows, "nothing" last) and says which classes
are seen, bool [K]. It returns figures in percent and vectors per class [K]. What is left out of a
mean is the only thing in which most of them differ, and it matters: the same matrix can give 20 or
60.
"""

from typing import NamedTuple

import numpy as np

from opvseg_jax.evaluate import groups
from opvseg_jax.evaluate.confusion import mean
from opvseg_jax.evaluate.groups import Figures, Tally, tally


class Result(NamedTuple):
    figures: Figures
    per_class: dict[str, np.ndarray]


def standard(matrix: np.ndarray, is_seen: np.ndarray, boundary: np.ndarray | None = None) -> Result:
    """Ours: every class that the truth holds counts, with 0 if it was never found.

    Answers where nothing is true count as wrong. `boundary` holds the pixels that lie within a
    class's own border, in truth and answer (see `boundary.py`).
    """
    t = without_nothing(matrix)
    iou, recall, missed = t.iou(t.is_there), t.recall(), t.missed()
    figures = groups.overall(t, iou) | groups.split(iou, is_seen, "mIoU", "h-IoU")
    figures |= groups.split_accuracy(t, is_seen)
    figures |= {"mUSI": mean(missed)} | groups.split(missed, is_seen, "mUSI", "h-USI")
    per_class = {"IoU": iou, "Recall": recall, "USI": missed}
    if boundary is not None:
        edge = without_nothing(boundary)
        per_class["BoundaryIoU"] = edge.iou(edge.is_there)
        figures["mBIoU"] = mean(per_class["BoundaryIoU"])
        figures |= groups.split(per_class["BoundaryIoU"], is_seen, "mBIoU", "h-BIoU")
    return Result(figures, per_class)


def ov_parts(matrix: np.ndarray, is_seen: np.ndarray) -> Result:
    """OV-PARTS and LangHOPS: Oracle-Obj; in a mean, absent but answered classes are zeros."""
    t = tally(groups.inner(matrix))
    iou = t.iou(t.is_there)
    touched = groups.split_touched(t, is_seen)
    figures = groups.overall(t, iou) | {"mIoU": _mean_of_touched(t, iou)} | touched
    return Result(figures, {"IoU": iou})


def partclipseg_oracle(
    matrix: np.ndarray, is_seen: np.ndarray, difference: np.ndarray | None = None
) -> Result:
    """PartCLIPSeg, Oracle-Obj: means over the classes that the truth holds."""
    t = tally(groups.inner(matrix))
    result = _partclipseg(t, t.iou(t.is_there), is_seen)
    if difference is None:
        return result
    edge = tally(groups.inner(difference))
    return _with_edges(result, edge.iou(edge.is_touched), is_seen, is_seen)


def partclipseg_pred_all(
    matrix: np.ndarray, is_seen: np.ndarray, difference: np.ndarray | None = None
) -> Result:
    """PartCLIPSeg, Pred-All: what is answered outside the labelled parts does not count."""
    t = tally(groups.unjudged(matrix))
    result = _partclipseg(t, t.iou(t.is_touched), is_seen)
    if difference is None:
        return result
    edge = tally(difference)
    # "Nothing" is among the unseen there.
    return _with_edges(result, edge.iou(edge.is_touched), np.append(is_seen, False), is_seen)


def _partclipseg(t: Tally, iou: np.ndarray, is_seen: np.ndarray) -> Result:
    k, recall = len(is_seen), t.recall()
    there = np.where(t.is_there, iou, np.nan)[:k]
    figures = groups.overall(t, iou) | {"mRecall": mean(recall)}
    figures |= groups.split(there, is_seen, "mIoU", "h-IoU")
    figures |= groups.split(recall[:k], is_seen, "mRecall", "h-Recall")
    figures |= groups.split_accuracy(Tally(*(values[:k] for values in t)), is_seen)
    return Result(figures, {"IoU": iou[:k], "ACC": recall[:k], "Recall": recall[:k]})


def _with_edges(
    result: Result, edges: np.ndarray, is_seen_edge: np.ndarray, is_seen: np.ndarray
) -> Result:
    figures = groups.split(edges, is_seen_edge, "Boundary-mIoU", "h-bIoU")
    vectors = {"BoundaryIoU": edges[: len(is_seen)]}
    return Result(result.figures | figures, result.per_class | vectors)


def partcatseg_oracle(matrix: np.ndarray, is_seen: np.ndarray) -> Result:
    """PartCATSeg, Oracle-Obj: groups hold the classes of IoU above zero alone."""
    return _positive_only(groups.inner(matrix), is_seen)


def partcatseg_pred_all(matrix: np.ndarray, is_seen: np.ndarray) -> Result:
    """PartCATSeg, Pred-All; HOPS "with GT": as in Oracle-Obj, and answers on nothing are free."""
    return _positive_only(groups.forgiven(matrix), is_seen)


def hops_with_truth(matrix: np.ndarray, is_seen: np.ndarray) -> Result:
    """PartCATSeg's Pred-All and mUSI."""
    forgiven = groups.forgiven(matrix)
    return _with_missed(_positive_only(forgiven, is_seen), forgiven, is_seen)


def hops_full(
    matrix: np.ndarray, is_seen: np.ndarray, owners: np.ndarray, is_seen_owner: np.ndarray
) -> Result:
    """HOPS "without GT": answers on nothing count; with mUSI, and mOSI of `owners` [W+1, W+1]."""
    result = _with_missed(_positive_only(matrix, is_seen), matrix, is_seen)
    t = tally(matrix)
    missed = groups.positive(t.missed(), t.iou(t.is_touched))[: len(is_seen)]
    figures = result.figures | groups.split(missed, is_seen, "mUSI", "h-USI")
    return Result(figures | over_segmentation(owners, is_seen_owner), result.per_class)


def over_segmentation(owners: np.ndarray, is_seen: np.ndarray) -> Figures:
    """mOSI: the wrong share of the pixels answered as an object's parts."""
    values = without_nothing(owners).intruding()
    return {"mOSI": mean(values)} | groups.split(values, is_seen, "mOSI", "h-OSI")


def _positive_only(matrix: np.ndarray, is_seen: np.ndarray) -> Result:
    t, k = tally(matrix), len(is_seen)
    iou, recall = t.iou(t.is_touched), t.recall()
    figures = groups.overall(t, iou) | {"mRecall": mean(recall)}
    figures |= groups.split(groups.positive(iou, iou)[:k], is_seen, "mIoU", "h-IoU")
    found = groups.positive(recall, iou)[:k]
    figures |= groups.split(found, is_seen, "mRecall", "h-Recall")
    figures |= {f"pACC-{name}": figures[f"mRecall-{name}"] for name in ("seen", "unseen")}
    return Result(figures, {"IoU": iou[:k], "ACC": recall[:k], "Recall": recall[:k]})


def _with_missed(result: Result, matrix: np.ndarray, is_seen: np.ndarray) -> Result:
    missed = tally(matrix).missed()  # "nothing" is counted too
    figures = result.figures | {"mUSI": mean(missed)}
    return Result(figures, result.per_class | {"USI": missed[: len(is_seen)]})


def detectron2(matrix: np.ndarray, difference: np.ndarray | None = None) -> Result:
    """detectron2 since October 2022: means over the classes that the truth holds."""
    t = tally(groups.inner(matrix))
    iou, recall = t.iou(t.is_there), t.recall()
    per_class = {"IoU": iou, "ACC": recall}
    if difference is not None:
        edge = tally(groups.inner(difference))
        borders = edge.iou(edge.is_touched)
        per_class["BoundaryIoU"] = borders
        per_class["min(IoU, BoundaryIoU)"] = np.where(borders < iou, borders, iou)
    return Result(groups.overall(t, iou), per_class)


def detectron2_06(matrix: np.ndarray) -> Result:
    """detectron2 0.6: a class that is absent but answered somewhere counts as 0."""
    t = tally(groups.inner(matrix))
    iou, recall = t.iou(t.is_there), t.recall()
    figures = groups.overall(t, iou) | {"mIoU": _mean_of_touched(t, iou)}
    return Result(figures, {"IoU": iou, "ACC": recall})


def deop(matrix: np.ndarray, is_seen: np.ndarray) -> Result:
    """DeOP, zero-shot: detectron2 0.6 over all, seen and unseen classes."""
    result, t = detectron2_06(matrix), tally(groups.inner(matrix))
    figures = groups.split_touched(t, is_seen) | groups.split_accuracy(t, is_seen)
    return Result(result.figures | figures, result.per_class)


def cliper(matrix: np.ndarray, *, has_background: bool) -> Result:
    """CLIPer, as fractions: matrix [K, K] with the background first.

    Without a background to judge, its pixels are left out and answers of it are misses. Accuracy
    is a mean over all classes, present or not.
    """
    counts = matrix.astype(np.float64)
    if not has_background:
        counts[0] = 0
    hit, truth, answer = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    iou = hit / (truth + answer - hit + 1e-5)
    total = counts.sum()
    figures = {
        "pAcc": float(hit.sum() / total) if total else float("nan"),
        "mAcc": float(np.mean(hit / (truth + 1e-5))),
        "mIoU": mean(iou[truth > 0]),
    }
    return Result(figures, {"IoU": iou})


def without_nothing(matrix: np.ndarray) -> Tally:
    """The classes of a full matrix; what was answered where nothing is true is still counted."""
    return Tally(*(values[:-1] for values in tally(matrix)))


def _mean_of_touched(t: Tally, iou: np.ndarray) -> float:
    return mean(np.where(t.is_touched, groups.zeroed(iou), np.nan))
