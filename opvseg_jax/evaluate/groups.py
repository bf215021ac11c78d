"""From a matrix of counts to figures: per class, over all classes, over seen and unseen ones.

Everything is float64, percent, NaN where undefined. Letters: K classes; a matrix has the truth in
its rows and the answers in its columns, "nothing" last.
"""

from typing import NamedTuple

import numpy as np

from opvseg_jax.evaluate.confusion import harmonic, mean

Figures = dict[str, float]


class Tally(NamedTuple):
    """Pixels of each class, float64 [K]: rightly answered, in the truth, in the answers."""

    hit: np.ndarray
    truth: np.ndarray
    answer: np.ndarray

    @property
    def is_there(self) -> np.ndarray:
        """[K] bool: in the truth."""
        return self.truth > 0

    @property
    def is_touched(self) -> np.ndarray:
        """[K] bool: in the truth or among the answers."""
        return self.truth + self.answer > 0

    def iou(self, where: np.ndarray) -> np.ndarray:
        """[K] percent, NaN where `where` [K] is false."""
        return _percent(self.hit, self.truth + self.answer - self.hit, where)

    def recall(self) -> np.ndarray:
        """[K] percent of the true pixels that were found."""
        return _percent(self.hit, self.truth, self.is_there)

    def missed(self) -> np.ndarray:
        """[K] percent of the true pixels that were not found: under-segmentation (USI)."""
        return _percent(self.truth - self.hit, self.truth, self.is_there)

    def intruding(self) -> np.ndarray:
        """[K] percent of the answered pixels that are wrong, of classes in the truth (OSI)."""
        return _percent(self.answer - self.hit, self.answer, self.is_there)


def tally(counts: np.ndarray) -> Tally:
    """Of a square matrix [K, K]."""
    matrix = counts.astype(np.float64)
    return Tally(np.diagonal(matrix).copy(), matrix.sum(axis=1), matrix.sum(axis=0))


def inner(counts: np.ndarray) -> np.ndarray:
    """Without "nothing", neither true nor answered: [K + 1, K + 1] -> [K, K]."""
    return counts[:-1, :-1]


def forgiven(counts: np.ndarray) -> np.ndarray:
    """As if the answer had been "nothing" wherever that is true."""
    out = counts.copy()
    out[-1], out[-1, -1] = 0, counts[-1].sum()
    return out


def unjudged(counts: np.ndarray) -> np.ndarray:
    """As if nobody had looked where "nothing" is true."""
    out = counts.copy()
    out[-1] = 0
    return out


def folded(counts: np.ndarray, owners: np.ndarray, num_owners: int) -> np.ndarray:
    """Classes [K] counted as their owners [K]: -> [W + 1, W + 1]."""
    index = np.append(owners, num_owners)
    out = np.zeros((num_owners + 1,) * 2, counts.dtype)
    np.add.at(out, (index[:, None], index), counts)
    return out


def overall(t: Tally, iou: np.ndarray) -> Figures:
    """mIoU over what is defined, and pixel accuracies."""
    there, recall = t.is_there, t.recall()
    total = t.truth[there].sum()
    weighted = (iou[there] * t.truth[there]).sum()
    return {
        "mIoU": mean(iou),
        "fwIoU": _share(weighted, total) / 100,
        "mACC": mean(recall),
        "pACC": _share(t.hit[there].sum(), total),
    }


def split(values: np.ndarray, is_seen: np.ndarray, name: str, joint: str) -> Figures:
    """`name-seen`, `name-unseen` and their harmonic mean `joint`: means over what is defined."""
    seen, unseen = mean(values[is_seen]), mean(values[~is_seen])
    return {f"{name}-seen": seen, f"{name}-unseen": unseen, joint: harmonic(seen, unseen)}


def split_touched(t: Tally, is_seen: np.ndarray, joint: str = "h-IoU") -> Figures:
    """Group means of IoU where a class that is absent but answered somewhere counts as 0."""
    return split(np.where(t.is_touched, zeroed(t.iou(t.is_there)), np.nan), is_seen, "mIoU", joint)


def split_accuracy(t: Tally, is_seen: np.ndarray) -> Figures:
    """Pixel accuracy within each group."""
    return {
        f"pAcc-{name}": _share(t.hit[group].sum(), t.truth[group].sum())
        for name, group in (("seen", is_seen), ("unseen", ~is_seen))
    }


def positive(values: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """`values` [K] of the classes that were ever hit, NaN for the others."""
    return np.where(zeroed(iou) > 0, values, np.nan)


def zeroed(values: np.ndarray) -> np.ndarray:
    """NaN becomes 0."""
    return np.nan_to_num(values, nan=0.0)


def known(figures: Figures) -> Figures:
    """Without what is undefined."""
    return {name: value for name, value in figures.items() if not np.isnan(value)}


def _percent(part: np.ndarray, whole: np.ndarray, where: np.ndarray) -> np.ndarray:
    where = where & (whole > 0)
    return np.where(where, 100 * part / np.where(where, whole, 1), np.nan)


def _share(part: float, whole: float) -> float:
    return float(100 * part / whole) if whole else float("nan")
