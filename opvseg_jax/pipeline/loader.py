"""Batches. What is in the batch of a step follows from the seed and the step's number alone.

`Loader.batch(step)` is a pure function; workers and threads only compute it ahead of time. So the
number of workers cannot change a batch, resuming is `batches(start_step=k)`, and the state of the
pipeline is that number. With several processes (hosts), process p of P makes rows p*B/P ...
(p+1)*B/P - 1 of the global batch of B: joined, they are the batch that one process makes.
"""

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.ahead import in_threads
from opvseg_jax.pipeline.samples import (
    LABEL,
    BrokenSampleError,
    Sample,
    Source,
    UnwantedSampleError,
)
from opvseg_jax.pipeline.sampling import Order
from opvseg_jax.pipeline.transforms import Transform, compose

Batch = dict[str, Any]

MOST_IN_A_ROW = 32  # broken or unwanted samples, one after the other
SMALL_READ = 1000  # before so many were read, shares say little
NAMED = 20  # broken samples that the log names; the others are counted

log = logging.getLogger(__name__)


class BrokenSamples:
    """Counts the broken samples of a run, names them in the log, stops the run when too many.

    `limit` is a share of the samples read so far, once 1,000 (or the whole source) were read.
    """

    def __init__(self, name: str, num_samples: int, limit: float = 0.01):
        if not 0 <= limit <= 1:
            raise UserError(f"limit of broken samples {limit}: expected a share, 0 to 1")
        self.name, self.num_samples, self.limit = name, num_samples, limit
        self.found: dict[str, str] = {}
        self.num_read = 0

    def add(self, num_read: int, broken: Sequence[tuple[str, str]]) -> None:
        """`broken` are pairs (where, reason); a sample that is met again counts once."""
        self.num_read = min(self.num_read + num_read, self.num_samples)
        for where, reason in broken:
            if where in self.found:
                continue
            self.found[where] = reason
            if len(self.found) <= NAMED:
                log.warning("skipped broken sample %s: %s", where, reason)
            elif len(self.found) == NAMED + 1:
                log.warning("more broken samples follow; they are counted")
        base = max(self.num_read, min(self.num_samples, SMALL_READ))
        if len(self.found) > self.limit * base:
            where, reason = next(iter(self.found.items()))
            raise UserError(
                f"{len(self.found)} of {base} samples of {self.name} are broken, more than the "
                f"limit of {self.limit:.2%}; the first: {where}: {reason}"
            )


class Loader:
    """Endless training batches of one source.

    A batch holds image uint8 [B, H, W, 3], object_map and part_map int32 [B, H, W], valid bool
    [B, H, W] (false: padding), instance_map where the source has it, and key, a list of B names.
    """

    def __init__(
        self,
        source: Source,
        transforms: Sequence[Transform] = (),
        *,
        batch_size: int,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
        shuffle: bool = True,
        repeats: Sequence[float] | None = None,
        broken_limit: float = 0.01,
    ):
        if not len(source):
            raise UserError(f"{source.name} is empty: there is nothing to train on")
        if batch_size < 1 or batch_size % num_processes:
            raise UserError(
                f"batch size {batch_size}: expected a multiple of the {num_processes} processes"
            )
        if not 0 <= process < num_processes:
            raise ValueError(f"process {process} of {num_processes}")
        self.source, self.transform = source, compose(transforms)
        self.transforms = tuple(transforms)
        self.order = Order(len(source), seed, shuffle=shuffle, repeats=repeats)
        self.batch_size, self.process, self.num_processes = batch_size, process, num_processes
        self.broken_limit = broken_limit

    def __getstate__(self):  # `compose` makes a closure, which cannot be pickled
        return {key: value for key, value in vars(self).items() if key != "transform"}

    def __setstate__(self, state):
        vars(self).update(state)
        self.transform = compose(self.transforms)

    @property
    def steps_per_epoch(self) -> float:
        return self.order.epoch_length / self.batch_size

    def batch(self, step: int) -> Batch:
        """This process's rows of the batch of `step`."""
        batch, broken = self.read(step)
        BrokenSamples(self.source.name, len(self.source), 1.0).add(0, broken)
        return batch

    def read(self, step: int, dtype=np.int32) -> tuple[Batch, list[tuple[str, str]]]:
        """The batch and the broken samples (where, reason) that were replaced in it."""
        rows = self.batch_size // self.num_processes
        first = step * self.batch_size + self.process * rows
        broken: list[tuple[str, str]] = []
        samples = [self._sample(place, broken) for place in range(first, first + rows)]
        return stack(samples, dtype), broken

    def batches(
        self, start_step: int = 0, *, workers: int = 0, threads: int = 2, ahead: int = 2
    ) -> Iterator[Batch]:
        """The batches of steps `start_step`, `start_step + 1` ...

        `workers` are processes (Grain's); with 0, `threads` of this process read instead, which
        is faster as long as decoding and resizing, which hold no lock, take most of the time.
        `ahead` batches for each worker or thread are made in advance.
        """
        if start_step < 0:
            raise UserError(f"step {start_step}: expected a number from 0")
        if workers:
            results = _from_workers(self.read, start_step, workers, ahead)
        else:
            results = in_threads(self.read, itertools.count(start_step), threads, ahead)
        broken = BrokenSamples(self.source.name, len(self.source), self.broken_limit)
        with contextlib.closing(results):
            for batch, found in results:
                broken.add(len(batch["key"]) + len(found), found)
                yield batch

    def _sample(self, place: int, broken: list[tuple[str, str]]) -> Sample:
        """The sample at a place of the stream; the next of the source if it cannot be used."""
        index = self.order[place]
        problems = []
        for k in range(min(MOST_IN_A_ROW, len(self.source))):
            try:
                sample = self.source[(index + k) % len(self.source)]
                return self.transform(sample, self.order.generator(place))
            except BrokenSampleError as error:
                broken.append((error.where, error.reason))
                problems.append(error)
            except UnwantedSampleError as error:
                problems.append(error)
        raise UserError(
            f"{len(problems)} samples of {self.source.name}, one after the other, cannot be used; "
            f"the first: {problems[0]}"
        )


def stack(samples: Sequence[Sample], dtype=np.int32) -> Batch:
    """Samples of one size as a batch, label maps as `dtype`."""
    sizes = {sample.image.shape for sample in samples}
    if len(sizes) > 1:
        raise UserError(
            f"the images of a batch have {len(sizes)} sizes, such as "
            f"{' and '.join(f'{w} x {h}' for h, w, _ in sorted(sizes)[:2])}: crop or pad them"
        )
    batch: Batch = {"image": np.stack([sample.image for sample in samples])}
    for name in samples[0].label_maps():
        batch[name] = np.stack([getattr(sample, name) for sample in samples], dtype=dtype)
    batch["valid"] = np.stack([sample.is_valid() for sample in samples])
    batch["key"] = [sample.key for sample in samples]
    return batch


def _from_workers(read, start: int, workers: int, ahead: int) -> Iterator:
    """The same by Grain's worker processes: step s comes from worker s mod `workers`."""
    try:
        import grain
        from absl import flags
    except ImportError:
        raise UserError(
            "worker processes need grain: pip install 'opvseg_jax[data]', or use workers=0"
        ) from None
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads its flags, and only absl programs parse them
    steps = grain.MapDataset.range(start, 2**62).map(_Read(read))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    settings = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
    iterator = iter(steps.to_iter_dataset(options).mp_prefetch(settings))
    try:
        for keys, batch, broken in iterator:
            # Copied: shared memory that outlives the workers is reported as leaked.
            arrays = {name: _own(value) for name, value in batch.items()}
            del batch
            yield {**arrays, "key": _split(keys)}, list(zip(*map(_split, broken), strict=True))
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


class _Read:
    """A step's batch as arrays alone, which go to the parent through shared memory."""

    def __init__(self, read):
        self.read = read

    def __call__(self, step: int):
        batch, broken = self.read(int(step), LABEL)  # half the bytes to hand over
        arrays = {name: value for name, value in batch.items() if name != "key"}
        places, reasons = zip(*broken, strict=True) if broken else ((), ())
        return _join(batch["key"]), arrays, (_join(places), _join(reasons))


def _own(array: np.ndarray) -> np.ndarray:
    """A copy, label maps as batches hold them."""
    return np.array(array, np.int32 if array.dtype == LABEL else None)


def _join(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(f"{text}\0" for text in texts).encode(), np.uint8)


def _split(joined: np.ndarray) -> list[str]:
    return np.asarray(joined).tobytes().decode().split("\0")[:-1]
