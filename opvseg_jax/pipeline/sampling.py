"""Which sample stands at which place of the endless training stream, from the seed alone.

Letters: n samples of the source, N places of an epoch (n, or more with repeats).
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.ahead import in_threads
from opvseg_jax.pipeline.samples import BrokenSampleError, Source

ORDER, SAMPLE = 0, 1  # streams of random numbers that must not meet


class Order:
    """A new permutation for every epoch; `repeats` [n] >= 1 lets samples come more often.

    With repeats, an epoch holds every sample floor(r) or ceil(r) times, on average r, and has
    N = ceil(sum of r) places.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        *,
        shuffle: bool = True,
        repeats: Sequence[float] | None = None,
    ):
        if num_samples < 1:
            raise UserError("there are no samples to train on")
        if seed < 0:
            raise UserError(f"seed {seed}: expected a number from 0")
        self.num_samples, self.seed, self.shuffle = num_samples, int(seed), shuffle
        self.ends = None
        if repeats is not None:
            self.ends = _ends(np.asarray(repeats, np.float64), num_samples)
        self.epoch_length = num_samples if self.ends is None else round(self.ends[-1])
        self.epoch = functools.lru_cache(maxsize=3)(self._epoch)

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "epoch"}

    def __setstate__(self, state):
        vars(self).update(state)
        self.epoch = functools.lru_cache(maxsize=3)(self._epoch)

    def __getitem__(self, place: int) -> int:
        """The index of the sample at `place` (0, 1, 2 ... without end)."""
        epoch, offset = divmod(place, self.epoch_length)
        return int(self.epoch(epoch)[offset])

    def generator(self, place: int) -> np.random.Generator:
        """The random numbers of the sample at `place`."""
        return np.random.default_rng((self.seed, SAMPLE, place))

    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, ORDER, epoch))
        if self.ends is None:
            return (
                rng.permutation(self.num_samples) if self.shuffle else np.arange(self.num_samples)
            )
        # Systematic sampling: one offset decides for all, so that the epoch's length is fixed.
        marks = np.floor(np.concatenate([[0.0], self.ends]) + rng.random()).astype(np.int64)
        marks[-1] = marks[0] + self.epoch_length
        indices = np.repeat(np.arange(self.num_samples), np.diff(marks))
        return rng.permutation(indices) if self.shuffle else indices


def _ends(repeats: np.ndarray, num_samples: int) -> np.ndarray:
    if repeats.shape != (num_samples,) or not (repeats >= 1).all():
        raise ValueError(f"expected {num_samples} repeat factors of at least 1")
    total = math.ceil(repeats.sum() - 1e-6)
    ends = np.cumsum(repeats * (total / repeats.sum()))
    ends[-1] = total
    return ends


def repeat_factors(classes: Sequence[Sequence[int]], threshold: float) -> np.ndarray:
    """[n] of LVIS: max over a sample's classes of max(1, sqrt(threshold / share of samples)).

    `classes` are those present in each sample. A class in fewer than `threshold` of all samples
    is repeated; a sample without classes is seen once.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"repeat threshold {threshold}: expected a share of samples, 0 to 1")
    sizes = [len(set(some)) for some in classes]
    counts = np.bincount([c for some in classes for c in set(some)], minlength=1)
    share = np.maximum(counts, 1) / max(len(sizes), 1)
    factor = np.maximum(1.0, np.sqrt(threshold / share))
    return np.array([max((factor[c] for c in some), default=1.0) for some in classes])


def classes_of(source: Source, threads: int = 2) -> list[list[int]]:
    """The object classes in every sample, by reading every label map once."""

    def found(index: int) -> list[int]:
        try:
            labels = source.label_maps(index)["object_map"]
        except BrokenSampleError:
            return []  # counted when training meets it
        return np.flatnonzero(np.bincount(labels[labels >= 0])).tolist()

    return list(in_threads(found, range(len(source)), threads, 16))
