"""The table engine: nothing is lost, nothing is guessed, and the way back is exact."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.port.rules import (
    CONV2D,
    CONV_TRANSPOSE2D,
    FUSED_PAIR,
    FUSED_PAIR_BIAS,
    FUSED_QKV,
    FUSED_QKV_BIAS,
    LINEAR,
    SAME,
    SQUEEZE,
    SQUEEZE2,
    Skip,
    Take,
    convert,
    publish,
)

RULES = (
    Take("conv.weight", "patch/kernel", CONV2D),
    Take("cls", "cls", SQUEEZE2),
    Take(
        "net.{i}.qkv.weight",
        ("blocks/{i}/query/kernel", "blocks/{i}/key/kernel", "blocks/{i}/value/kernel"),
        FUSED_QKV,
    ),
    Take("net.{i}.norm.weight", "blocks/{i}/norm/scale"),
    Skip("*.position_ids", "an index"),
)


@pytest.fixture
def published() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0).standard_normal
    arrays = {"conv.weight": draw((8, 3, 2, 4)), "cls": draw((1, 1, 8))}
    for i in (0, 11):
        arrays[f"net.{i}.qkv.weight"] = draw((24, 8))
        arrays[f"net.{i}.norm.weight"] = draw(8)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture
def want(published) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in _leaves(published).items()}


def _leaves(published: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the table above means, written out by hand."""
    leaves = {
        "patch/kernel": published["conv.weight"].transpose(2, 3, 1, 0),
        "cls": published["cls"][0, 0],
    }
    for i in (0, 11):
        for k, part in enumerate(("query", "key", "value")):
            rows = published[f"net.{i}.qkv.weight"][8 * k : 8 * k + 8]
            leaves[f"blocks/{i}/{part}/kernel"] = rows.T
        leaves[f"blocks/{i}/norm/scale"] = published[f"net.{i}.norm.weight"]
    return leaves


def test_every_leaf_gets_the_array_the_table_says(published, want):
    leaves = convert(RULES, published, want)
    expected = _leaves(published)
    assert leaves.keys() == expected.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_publish_is_the_exact_inverse_of_convert(published, want):
    back = publish(RULES, convert(RULES, published, want))
    assert back.keys() == published.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, published[name], err_msg=name)
        # safetensors writes an array that is not contiguous in the wrong order, without a word.
        assert array.flags.c_contiguous, name


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (SAME, ()),
        (LINEAR, (3, 5)),
        (CONV2D, (2, 3, 4, 5)),
        (CONV_TRANSPOSE2D, (2, 3, 4, 5)),
        (FUSED_QKV, (6, 5)),
        (FUSED_QKV_BIAS, (6,)),
        (FUSED_PAIR, (6, 5)),
        (FUSED_PAIR_BIAS, (6,)),
        (SQUEEZE, (1, 4)),
        (SQUEEZE2, (1, 1, 4)),
    ],
)
def test_every_layout_goes_there_and_back(layout, shape):
    array = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_array_equal(layout.inverse(*layout.forward(array)), array)


def test_all_problems_are_told_at_once(published, want):
    published["stray.weight"] = np.zeros(3, np.float32)
    published["net.0.norm.weight"] = np.zeros(9, np.float32)
    published["net.7.norm.weight"] = np.zeros(8, np.float32)
    published["cls"] = np.zeros((2, 1, 8), np.float32)
    del published["net.11.qkv.weight"]
    with pytest.raises(UserError) as caught:
        convert(RULES, published, want)
    message = str(caught.value)
    assert "7 problems" in message
    assert "stray.weight: unexpected, no rule knows it" in message
    assert "net.0.norm.weight -> blocks/0/norm/scale: misshapen, model [8], file [9]" in message
    assert "net.7.norm.weight: unexpected, the model has no leaf blocks/7/norm/scale" in message
    assert "cls: misshapen, expected 2 leading axes of size 1, got [2, 1, 8]" in message
    for part in ("query", "key", "value"):
        assert f"blocks/11/{part}/kernel: missing" in message


def test_a_leaf_filled_twice_and_a_name_matched_twice_are_problems():
    twice = (Take("a", "leaf"), Take("b", "leaf"), Take("c.{i}", "x/{i}"), Take("c.{j}", "y/{j}"))
    zeros = np.zeros(2, np.float32)
    with pytest.raises(UserError) as caught:
        convert(twice, {"a": zeros, "b": zeros, "c.1": zeros}, {"leaf": (2,)})
    assert "leaf: filled twice, last by b" in str(caught.value)
    assert "c.1: unexpected, 2 rules match it" in str(caught.value)


def test_a_fused_array_that_does_not_split_is_named(published, want):
    published["net.0.qkv.weight"] = np.zeros((25, 8), np.float32)
    with pytest.raises(UserError, match=r"net\.0\.qkv\.weight: misshapen"):
        convert(RULES, published, want)


def test_a_placeholder_is_a_number_and_the_same_number_everywhere():
    rules = (Take("a.{i}.b.{i}", "a/{i}"), Skip("a.{i}.b.{j}", "off the diagonal"))
    one = np.ones(1, np.float32)
    with pytest.raises(UserError, match=r"a\.2\.b\.2: unexpected, 2 rules match it"):
        convert(rules, {"a.2.b.2": one}, {})
    assert convert(rules, {"a.2.b.3": one}, {}) == {}
    with pytest.raises(UserError, match=r"a\.x\.b\.x: unexpected, no rule knows it"):
        convert(rules, {"a.x.b.x": one}, {})


@pytest.mark.parametrize("stored", [np.float16, jnp.bfloat16, np.float64])
def test_floats_become_float32_and_integers_stay(stored):
    rules = (Take("w", "w", LINEAR), Take("n", "n"))
    source = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).astype(stored), "n": np.int64(7)}
    leaves = convert(rules, source, {"w": (3, 2), "n": ()})
    assert leaves["w"].dtype == np.float32
    assert leaves["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (leaves["n"].dtype, leaves["n"].shape) == (np.int64, ())
    assert convert(rules, source, {"w": (3, 2), "n": ()}, dtype=None)["w"].dtype == stored


class _Counted(Mapping):
    """A lazy source that knows what was read."""

    def __init__(self, arrays):
        self.arrays, self.read = arrays, []

    def __getitem__(self, name):
        self.read.append(name)
        return self.arrays[name]

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self):
        return len(self.arrays)


def test_arrays_are_read_once_skipped_ones_never_and_the_result_owns_its_memory(published, want):
    source = _Counted({**published, "text.position_ids": np.arange(4)})
    leaves = convert(RULES, source, want)
    assert sorted(source.read) == sorted(published)
    for path, leaf in leaves.items():
        assert leaf.flags.c_contiguous
        assert not any(np.shares_memory(leaf, array) for array in published.values()), path


def test_publish_tells_missing_and_unknown_leaves(published, want):
    leaves = convert(RULES, published, want)
    del leaves["blocks/11/key/kernel"]
    leaves["head/kernel"] = np.zeros(1)
    with pytest.raises(UserError) as caught:
        publish(RULES, leaves)
    assert "net.11.qkv.weight: missing the leaves blocks/11/key/kernel" in str(caught.value)
    assert "head/kernel: no rule publishes it" in str(caught.value)


def test_publish_writes_the_first_of_several_names():
    rules = (Take("new.{i}", "x/{i}"), Take("old.{i}", "x/{i}"))
    assert list(publish(rules, {"x/3": np.ones(1)})) == ["new.3"]
