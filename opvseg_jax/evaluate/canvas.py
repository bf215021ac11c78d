"""Samples as a `Segmenter` looks at photos, so that any loaded model can be evaluated."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference.segmenter import Canvas, Segmenter, fit
from opvseg_jax.pipeline.evaluation import SIDES, evaluation_batches
from opvseg_jax.pipeline.loader import Batch
from opvseg_jax.pipeline.samples import Sample, Source
from opvseg_jax.pipeline.transforms import Transform
from opvseg_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class OnCanvas:
    """The image fitted into the canvas that suits it best; the labels keep their size."""

    canvases: tuple[Canvas, ...]
    stretch: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, content = fit(sample.image, self.canvases, stretch=self.stretch)
        valid = np.zeros(image.shape[:2], bool)
        valid[: content[0], : content[1]] = True
        return dataclasses.replace(sample, image=image, valid=valid)


def batches_for(
    segmenter: Segmenter, source: Source, *transforms: Transform, batch_size: int = 1, **options
) -> Iterator[Batch]:
    """Evaluation batches of canvases; `transforms` come first."""
    canvases = segmenter.canvases
    sides = sorted({*SIDES, *(side for canvas in canvases for side in canvas)})
    fitted = OnCanvas(tuple(canvases), segmenter.stretch)
    return evaluation_batches(
        source, (*transforms, fitted), batch_size=batch_size, sides=sides, **options
    )


def words_for(vocabulary: Vocabulary, words: Any = None) -> Vocabulary:
    """The data set's words, or other ones that stand for its classes in the same order.

    What is seen and unseen, and which object a part belongs to, stays as the data set says.
    """
    if words is None:
        return vocabulary
    other = Vocabulary.of(words)
    counts = [(len(v.objects), len(v.parts)) for v in (other, vocabulary)]
    if counts[0] != counts[1]:
        raise UserError(
            f"the vocabulary has {counts[0][0]} objects and {counts[0][1]} parts, the data set "
            f"{counts[1][0]} and {counts[1][1]}: give one word for each class, in its order"
        )
    if not np.array_equal(other.part_to_object, vocabulary.part_to_object):
        raise UserError(
            "the parts of the vocabulary belong to other objects than in the data set: keep its "
            "order of objects and parts"
        )
    return dataclasses.replace(
        other,
        background_object=vocabulary.background_object,
        seen_objects=vocabulary.seen_objects,
        seen_parts=vocabulary.seen_parts,
        name=vocabulary.name,
    )
