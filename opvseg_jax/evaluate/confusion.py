"""Which class was answered where which is true, counted in one matrix over all images.

Letters: K classes; label -1 is "nothing", which is no class but counts as a wrong answer; labels
below -1 in the truth are ignored, whatever was answered there. Counting happens where the labels
are: on the device (`count_labels`) or on the host; the sum is exact, int64, on the host.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Scores(NamedTuple):
    """Percent; NaN where there is no class to judge."""

    all: float
    seen: float
    unseen: float
    harmonic: float  # of seen and unseen


class Confusion:
    """Pixels by truth (rows) and answer (columns), the last of each for "nothing"."""

    def __init__(self, num_classes: int, counts: np.ndarray | None = None):
        shape = (num_classes + 1, num_classes + 1)
        self.num_classes = num_classes
        self.counts = np.zeros(shape, np.int64) if counts is None else np.asarray(counts, np.int64)
        if self.counts.shape != shape:
            raise ValueError(f"expected counts {list(shape)}, got {list(self.counts.shape)}")

    def add(self, truth: np.ndarray, answer: np.ndarray) -> None:
        """Counts the pixels of one image or of several: two int arrays of one shape."""
        k = self.num_classes
        if truth.shape != answer.shape:
            raise ValueError(f"expected one shape, got {truth.shape} and {answer.shape}")
        judged = truth >= -1
        rows, columns = truth[judged].astype(np.int64), answer[judged].astype(np.int64)
        for name, labels in (("truth", rows), ("answer", columns)):
            if labels.size and not -1 <= labels.min() <= labels.max() < k:
                raise ValueError(
                    f"{name}: expected labels -1..{k - 1}, got {labels.min()}..{labels.max()}"
                )
        index = (rows % (k + 1)) * (k + 1) + columns % (k + 1)  # -1 becomes k
        self.counts += np.bincount(index, minlength=(k + 1) ** 2).reshape(k + 1, k + 1)

    def iou(self) -> np.ndarray:
        """[K] in 0..1: a class never found is 0, a class that no truth holds is NaN."""
        hit = np.diagonal(self.counts)[:-1]
        truth, answer = self.counts.sum(axis=1)[:-1], self.counts.sum(axis=0)[:-1]
        return np.where(truth > 0, hit / np.maximum(truth + answer - hit, 1), np.nan)

    def scores(self, is_seen: np.ndarray | None = None) -> Scores:
        """Mean IoU in percent over the classes that the truth holds; `is_seen` [K] bool."""
        found = 100 * self.iou()
        seen = np.zeros(self.num_classes, bool) if is_seen is None else np.asarray(is_seen, bool)
        unseen = np.zeros(self.num_classes, bool) if is_seen is None else ~seen
        parts = [mean(found[chosen]) for chosen in (seen, unseen)]
        return Scores(mean(found), *parts, harmonic(*parts))


def count_labels(truth: jax.Array, answer: jax.Array, num_classes: int) -> jax.Array:
    """What `Confusion.add` counts, on the device: two int arrays -> int32 [K + 1, K + 1].

    Exact below 2^31 pixels. Labels beyond the classes are not looked for.
    """
    k = num_classes
    rows, columns = (jnp.where(labels < 0, k, labels) for labels in (truth, answer))
    judged = (truth >= -1).astype(jnp.int32)
    index = (rows * (k + 1) + columns).astype(jnp.int32)
    flat = jnp.zeros((k + 1) ** 2, jnp.int32).at[index.ravel()].add(judged.ravel())
    return flat.reshape(k + 1, k + 1)


def mean(values: np.ndarray) -> float:
    """The mean of what is not NaN, NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def harmonic(a: float, b: float) -> float:
    """2ab / (a + b): 0 if either is 0, NaN if either is NaN."""
    return 2 * a * b / (a + b) if a + b else (a + b)
