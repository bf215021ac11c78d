"""A source of small random images, importable by worker processes."""

import hashlib
import itertools

import numpy as np

from opvseg_jax.pipeline.loader import Loader
from opvseg_jax.pipeline.samples import BrokenSampleError, Sample
from opvseg_jax.pipeline.transforms import ColorSSD, Flip, Pad, Resize
from opvseg_jax.vocabulary import Vocabulary

WORDS = Vocabulary.of(["one", "two", "three"])


class Toy:
    """Sample i has key str(i) and pixels drawn with seed i."""

    name, vocabulary = "toy", WORDS

    def __init__(self, size: int, broken=()):
        self.size, self.broken = size, frozenset(broken)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise BrokenSampleError(f"toy/{index}", "cut short")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
        labels = rng.integers(-2, 3, (30, 30)).astype(np.int16)
        return Sample(image, labels, labels[::-1], str(index))


def toy_loader(size: int = 30, broken=(), **options) -> Loader:
    transforms = [Resize((24, 36), 60, 20), ColorSSD(), Flip(), Pad(24)]
    return Loader(Toy(size, broken), transforms, **{"batch_size": 8, "seed": 0, **options})


def rows_of_process(process: int, start: int, count: int) -> list[list[str]]:
    """The keys of `count` batches of one of two processes."""
    batches = toy_loader(process=process, num_processes=2).batches(start)
    return [batch["key"] for batch in itertools.islice(batches, count)]


def digest(batch: dict) -> str:
    found = hashlib.sha256()
    for name in sorted(batch):
        value = batch[name]
        found.update(repr((name, value)).encode() if isinstance(value, list) else value.tobytes())
        if not isinstance(value, list):
            found.update(repr((name, value.dtype, value.shape)).encode())
    return found.hexdigest()
