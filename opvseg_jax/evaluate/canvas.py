"""Samples as a `Segmenter` looks at photos, so that any loaded model can be evaluated."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from opvseg_jax.inference.segmenter import Canvas, Segmenter, fit
from opvseg_jax.pipeline.evaluation import SIDES, evaluation_batches
from opvseg_jax.pipeline.loader import Batch
from opvseg_jax.pipeline.samples import Sample, Source
from opvseg_jax.pipeline.transforms import Transform


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
