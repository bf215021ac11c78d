"""Every sample of a source once, at full size, in batches of few shapes.

An image is padded at the right and bottom to a bucket, so that a compiled function is met again;
`valid` says which pixels are real and `size` how many.
"""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.ahead import in_threads
from opvseg_jax.pipeline.loader import Batch, BrokenSamples, stack
from opvseg_jax.pipeline.samples import (
    BACKGROUND,
    IGNORE,
    BrokenSampleError,
    Sample,
    Source,
    UnwantedSampleError,
)
from opvseg_jax.pipeline.sampling import SAMPLE
from opvseg_jax.pipeline.transforms import Transform, compose, padded

SIDES = (64, 128, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)


def bucket(size: tuple[int, int], sides: Sequence[int] = SIDES) -> tuple[int, int]:
    """The smallest allowed height and width that hold `size`; past the last, its multiples."""
    return tuple(_side(length, sorted(sides)) for length in size)


def evaluation_batches(
    source: Source,
    transforms: Sequence[Transform] = (),
    *,
    batch_size: int = 1,
    sides: Sequence[int] = SIDES,
    process: int = 0,
    num_processes: int = 1,
    threads: int = 2,
    broken_limit: float = 0.01,
) -> Iterator[Batch]:
    """Batches as the loader's, with a key "" for rows that only fill up.

    `size` and `label_size` int32 [B, 2] say how much of the image and of the label maps is real.

    Samples of one bucket are collected until they are `batch_size`; what is left at the end is
    filled up with rows that are not valid and whose labels are ignored. Broken samples are left
    out and counted. Process p reads every P-th sample, so that processes may have different
    numbers of batches.
    """
    if not len(source):
        raise UserError(f"{source.name} is empty: there is nothing to evaluate")
    transform = compose(transforms)
    broken = BrokenSamples(source.name, len(source), broken_limit)

    def read(index: int) -> Sample | BrokenSampleError | None:
        try:
            return transform(source[index], np.random.default_rng((0, SAMPLE, index)))
        except UnwantedSampleError:
            return None
        except BrokenSampleError as error:
            return error

    waiting: dict[tuple, list[Sample]] = {}
    indices = range(process, len(source), num_processes)
    for sample in in_threads(read, indices, threads, 2 * batch_size):
        is_broken = isinstance(sample, BrokenSampleError)
        broken.add(1, [(sample.where, sample.reason)] if is_broken else [])
        if is_broken or sample is None:
            continue
        shape = bucket(sample.image.shape[:2], sides), bucket(sample.object_map.shape, sides)
        group = waiting.setdefault(shape, [])
        group.append(sample)
        if len(group) == batch_size:
            yield _batch(waiting.pop(shape), shape, batch_size)
    for shape, group in waiting.items():
        yield _batch(group, shape, batch_size)


def _batch(samples: list[Sample], shape: tuple, batch_size: int) -> Batch:
    image_size, label_size = shape
    sizes = [(*sample.image.shape[:2], *sample.object_map.shape) for sample in samples]
    rows = [_padded(sample, image_size, label_size) for sample in samples]
    rows += [_filler(rows[0])] * (batch_size - len(rows))
    sizes += [(0, 0, 0, 0)] * (batch_size - len(sizes))
    size, label_size = np.split(np.array(sizes, np.int32), 2, axis=1)
    return {**stack(rows), "size": size, "label_size": label_size}


def _padded(sample: Sample, image_size: tuple[int, int], label_size: tuple[int, int]) -> Sample:
    valid = padded(sample.is_valid(), image_size, False)
    maps = {
        name: padded(labels, label_size, BACKGROUND if name == "instance_map" else IGNORE)
        for name, labels in sample.label_maps().items()
    }
    # Zeros, not the grey of training: whoever looks at them instead of `valid` notices.
    return dataclasses.replace(
        sample, image=padded(sample.image, image_size, 0), valid=valid, **maps
    )


def _filler(row: Sample) -> Sample:
    empty = row.map_labels(lambda labels: np.full_like(labels, IGNORE))
    return dataclasses.replace(
        empty, image=np.zeros_like(row.image), valid=np.zeros_like(row.valid), key=""
    )


def _side(length: int, sides: Sequence[int]) -> int:
    place = bisect.bisect_left(sides, length)
    if place < len(sides):
        return sides[place]
    return -(-length // sides[-1]) * sides[-1]
