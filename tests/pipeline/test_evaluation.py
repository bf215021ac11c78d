"""Evaluation sees every sample once, whole, in few shapes."""

import itertools

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.evaluation import bucket, evaluation_batches
from opvseg_jax.pipeline.samples import IGNORE, BrokenSampleError, Sample


class Shapes:
    """Sample i has the i-th size; every pixel of it is i."""

    name = "shapes"

    def __init__(self, *sizes, broken=()):
        self.sizes, self.broken = sizes, broken

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        if i in self.broken:
            raise BrokenSampleError(f"file {i}", "cut short")
        image = np.full((*self.sizes[i], 3), i, np.uint8)
        labels = np.full(self.sizes[i], i, np.int16)
        return Sample(image, labels, labels, str(i))


def test_buckets_are_the_smallest_sides_that_fit():
    assert bucket((375, 500), (256, 384, 512)) == (384, 512)
    assert bucket((384, 513), (256, 384, 512)) == (384, 1024)


def test_every_sample_comes_once_at_its_own_size():
    source = Shapes((20, 30), (40, 30), (18, 25), (20, 31), (64, 64))
    batches = list(evaluation_batches(source, batch_size=2, sides=(32, 64)))
    keys = [key for batch in batches for key in batch["key"] if key]
    assert sorted(keys) == list("01234")
    for batch in batches:
        assert set(batch["image"].shape[1:3]) <= {32, 64}
        for row, key in enumerate(batch["key"]):
            height, width = batch["size"][row]
            assert batch["valid"][row].sum() == height * width
            assert batch["valid"][row, :height, :width].all()
            labels = batch["object_map"][row]
            assert (labels[:height, :width] == int(key or 0)).all()
            assert (labels[height:] == IGNORE).all()
            if key:
                assert (height, width) == source.sizes[int(key)]


def test_a_batch_that_is_not_full_is_filled_with_nothing():
    (batch,) = evaluation_batches(Shapes((9, 9)), batch_size=3, sides=(16,))
    assert batch["key"] == ["0", "", ""]
    assert not batch["valid"][1:].any()
    assert (batch["part_map"][1:] == IGNORE).all()


def test_processes_share_the_samples():
    source = Shapes(*[(9, 9)] * 7)
    seen = [
        [b["key"][0] for b in evaluation_batches(source, process=p, num_processes=3)]
        for p in range(3)
    ]
    assert sorted(itertools.chain(*seen)) == list("0123456")


def test_broken_samples_are_left_out_until_they_are_too_many():
    source = Shapes(*[(9, 9)] * 5, broken=(2,))
    keys = [b["key"][0] for b in evaluation_batches(source, broken_limit=0.2)]
    assert keys == list("0134")
    with pytest.raises(UserError, match=r"1 of 5 samples of shapes are broken.*file 2: cut short"):
        list(evaluation_batches(source))


def test_an_empty_source_is_refused():
    with pytest.raises(UserError, match="shapes is empty"):
        next(evaluation_batches(Shapes()))
