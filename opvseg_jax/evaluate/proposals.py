"""How many segments are found: class-agnostic recall, and the ratios that DeOP's code prints.

A segment is one label of a map. Masks are bool [H, W], label maps int [H, W].
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Recall(NamedTuple):
    """Segments found and all segments, apart for seen and unseen classes."""

    found_seen: int
    found_unseen: int
    seen: int
    unseen: int

    def __add__(self, other: "Recall") -> "Recall":
        return Recall(*(a + b for a, b in zip(self, other, strict=True)))

    def figures(self) -> dict[str, float]:
        """Fractions; NaN where there is no segment."""
        found, count = self.found_seen + self.found_unseen, self.seen + self.unseen
        pairs = {
            "all": (found, count),
            "seen": (self.found_seen, self.seen),
            "unseen": (self.found_unseen, self.unseen),
        }
        return {name: a / b if b else float("nan") for name, (a, b) in pairs.items()}


def recall(
    proposals: Sequence[np.ndarray], truth: np.ndarray, is_seen: np.ndarray, least: float
) -> Recall:
    """A segment of `truth` is found if some proposal overlaps it with an IoU above `least`.

    Labels of truth that are no class (`is_seen` [K] has no entry) are no segments.
    """
    counts = [[0, 0], [0, 0]]
    for label in np.unique(truth):
        if not 0 <= label < len(is_seen):
            continue
        kind = 0 if is_seen[label] else 1
        counts[1][kind] += 1
        mask = truth == label
        counts[0][kind] += any(overlap(proposal, mask) > least for proposal in proposals)
    return Recall(*counts[0], *counts[1])


class Hits(NamedTuple):
    """What DeOP counts: answers that hit some segment, all answers, and the true segments."""

    seen: int
    unseen: int
    answers: int
    seen_segments: int
    unseen_segments: int

    def __add__(self, other: "Hits") -> "Hits":
        return Hits(*(a + b for a, b in zip(self, other, strict=True)))

    def figures(self) -> dict[str, float]:
        """`AP` is a precision although it is also printed as recall; the groups are no recall
        either, as several answers may hit one segment.
        """
        values = {
            "AP": (self.seen + self.unseen, self.answers),
            "R_Seen": (self.seen, self.seen_segments),
            "R_Unseen": (self.unseen, self.unseen_segments),
        }
        return {name: a / b if b else float("nan") for name, (a, b) in values.items()}


def deop_hits(
    answers: Iterable[np.ndarray], truth: np.ndarray, is_unseen: np.ndarray, least: float
) -> Hits:
    """answers bool [H, W], empty ones skipped; `is_unseen` [K]; every label of truth is a segment.

    The first segment, by ascending label, with an IoU above `least` decides whether a hit is seen;
    a label that is no class, such as the ignored one, counts as seen.
    """
    segments = [(_is_unseen(label, is_unseen), truth == label) for label in np.unique(truth)]
    hits, count = [0, 0], 0
    for answer in answers:
        if not answer.any():
            continue
        count += 1
        kind = next((kind for kind, mask in segments if overlap(answer, mask) > least), None)
        if kind is not None:
            hits[kind] += 1
    unseen = sum(kind for kind, _ in segments)
    return Hits(*hits, count, len(segments) - unseen, unseen)


def segments_of(labels: np.ndarray) -> list[np.ndarray]:
    """A mask for every label, ascending."""
    return [labels == label for label in np.unique(labels)]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks; 0 if both are empty."""
    both = np.count_nonzero(a & b)
    either = np.count_nonzero(a | b)
    return both / either if either else 0.0


def _is_unseen(label: int, is_unseen: np.ndarray) -> int:
    return int(0 <= label < len(is_unseen) and is_unseen[label])
