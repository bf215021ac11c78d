"""PCA-Seg for parts: PartCATSeg's promises, two streams kept apart, statistics of real classes."""

import dataclasses

import jax
import numpy as np
import pytest
from methods.part_tiny import CLIP, DINO, HEAD, SIDES, WORDS, Tiny, batch, features, padded
from methods.promises_parts import PartPromises
from methods.promises_semantic import patterns_without_a_leaf, rate_of
from methods.semantic_models import num_trained, quick_jit

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import ShapeRngs, blueprint, flatten
from opvseg_jax.methods.partcatseg import port as partcatseg_port
from opvseg_jax.methods.partcatseg.model import PartCatSeg
from opvseg_jax.methods.partcatseg.sizes import LEARNING_RATES as PARENTS_RATES
from opvseg_jax.methods.partcatseg.sizes import SIZES as PARENTS
from opvseg_jax.methods.pcaseg import parts
from opvseg_jax.methods.pcaseg.parts import (
    LEARNING_RATES,
    SIZES,
    WEIGHT_DECAY,
    PcaSegParts,
    PcaSegPartsSize,
)
from opvseg_jax.port.rules import convert, publish

SIZE = PcaSegPartsSize(CLIP, DINO, dataclasses.replace(HEAD, num_experts=2), **SIDES)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny(PcaSegParts, SIZE)


@pytest.fixture
def rules():
    return parts.RULES


class TestPromises(PartPromises):
    spatial_layer = "layers.0.swin_block_first"


def test_every_layer_of_both_stacks_is_a_pair_of_parallel_blocks():
    ours = blueprint(lambda: PcaSegParts(SIZES["B/16"], rngs=ShapeRngs()))
    parent = blueprint(lambda: PartCatSeg(PARENTS["B/16"], rngs=ShapeRngs()))
    # A parallel block has 1.03M parameters in the paper and a serial one 0.68M, each with the
    # padding token and guidance of a class layer, which is not padded here; two stacks of two.
    serial, parallel, padding = 677_120, 1_026_341, 2 * 128
    grown = 2 * 2 * (2 * (parallel - padding) - (serial - padding))
    queries_and_values = 12 * 2 * 768 * 768
    counts = [
        num_trained(ours, LEARNING_RATES, rate_of),
        num_trained(parent, PARENTS_RATES, rate_of),
    ]
    assert counts[0] - counts[1] == grown + queries_and_values
    for table in (LEARNING_RATES, WEIGHT_DECAY):
        assert not patterns_without_a_leaf(ours, table)


def step(tiny: Tiny, size, text):
    """The terms of the loss, and the leaves after it."""
    plan, data = tiny.plan_of(size), batch(features(WORDS))

    @quick_jit
    def run(leaves):
        model = plan.merge(leaves)
        return model.loss(data, text)[1], flatten(model)

    return jax.device_get(run(tiny.leaves))


def test_streams_of_both_stacks_are_kept_apart(tiny):
    found, _ = step(tiny, SIZE, features(WORDS))
    assert 0 < found["orthogonality"] < SIZE.orthogonality  # a mean of squared cosines, weighted
    head = dataclasses.replace(SIZE.head, remat=True)
    twice = dataclasses.replace(SIZE, orthogonality=2 * SIZE.orthogonality, head=head)
    doubled, _ = step(tiny, twice, features(WORDS))
    np.testing.assert_allclose(doubled["orthogonality"], 2 * found["orthogonality"], rtol=1e-5)
    gained = doubled["loss"] - found["loss"]
    np.testing.assert_allclose(gained, found["orthogonality"], rtol=1e-2)


def test_training_moves_the_running_statistics_and_sees_no_padded_class(tiny):
    _, after = step(tiny, SIZE, features(WORDS))
    _, grown = step(tiny, SIZE, padded(WORDS))
    moved = {path for path in after if not np.array_equal(after[path], tiny.leaves[path])}
    assert moved == {path for path in after if path.endswith(("norm/mean", "norm/variance"))}
    assert len(moved) == 2 * 2 * 2 * 2  # stacks, blocks, experts, mean and variance
    for path in moved:
        np.testing.assert_allclose(grown[path], after[path], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_partcatseg_is_refused(tiny):
    parent = dataclasses.replace(SIZE, head=HEAD)
    published = publish(partcatseg_port.RULES, Tiny(PartCatSeg, parent).leaves)
    with pytest.raises(UserError, match="head/layers/0/0/fusion/experts/0/expand/bias: missing"):
        convert(parts.RULES, published, tiny.plan.shapes)
