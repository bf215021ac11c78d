"""Recorded figures under our names, and label maps as we write them."""

import numpy as np

from opvseg_jax.evaluate.confusion import Confusion
from opvseg_jax.pipeline.pixels import resize_labels
from opvseg_jax.pipeline.samples import BACKGROUND, IGNORE
from parity.harness import Case

RENAMED = {
    "osi-base": "mOSI-seen",
    "osi-unbase": "mOSI-unseen",
    "hIoU-base": "h-IoU",
    "h-osi": "h-OSI",
    "minIoU_B-Iou": "min(IoU, BoundaryIoU)",
}


def our_name(recorded: str) -> str:
    """`mIoU-unbase` is our `mIoU-unseen`, and so on."""
    if recorded in RENAMED:
        return RENAMED[recorded]
    return recorded.replace("-unbase", "-unseen").replace("-base", "-seen")


def outputs(case: Case, result, figures: str, vectors: str | None = None) -> dict:
    """What the case records of one evaluator: `figures` and `vectors` are beginnings of names.

    A figure that we do not have stays away, so that the comparison complains.
    """
    out = {}
    groups = [(figures, result.figures)]
    groups += [(vectors, result.per_class)] if vectors is not None else []
    for prefix, values in groups:
        for name in case.wanted():
            ours = our_name(name.removeprefix(prefix))
            if name.startswith(prefix) and ours in values:
                out[name] = np.asarray(values[ours], case.tensors[name].dtype)
    return out


def labels(array: np.ndarray, num_classes: int, ignored: int = IGNORE) -> np.ndarray:
    """A recorded map: what is no class becomes `ignored`."""
    return np.where((array >= 0) & (array < num_classes), array, ignored).astype(np.int32)


def counted(pairs, num_classes: int) -> np.ndarray:
    """The matrix of (truth, answer) pairs."""
    confusion = Confusion(num_classes)
    for truth, answer in pairs:
        confusion.add(truth, answer)
    return confusion.counts


def with_nothing(array: np.ndarray, num_classes: int) -> np.ndarray:
    """A recorded map whose foreign values mean "nothing"."""
    return labels(array, num_classes, BACKGROUND)


def resized_to(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """The truth at the size of the answer, as the published evaluators bring it there."""
    return resize_labels(truth, answer.shape)


def nonzero_rows(matrix: np.ndarray) -> np.ndarray:
    """Our matrix as recorded: rows (answer, truth, count) in that order of sorting."""
    recorded = matrix.T
    answer, truth = np.nonzero(recorded)
    return np.stack([answer, truth, recorded[answer, truth]], axis=1)
