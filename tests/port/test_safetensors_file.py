"""Safetensors: whole, in shards, lazily, and broken in every way that downloads break."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from opvseg_jax.core.errors import UserError
from opvseg_jax.port.safetensors_file import read_safetensors

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(4, dtype=np.float16) / 8,
    "bfloat": (np.arange(4, dtype=np.float32) / 8).astype(jnp.bfloat16),
    "ids": np.arange(3),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def path(tmp_path):
    save_file(ARRAYS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def _check(stored):
    assert stored.keys() == ARRAYS.keys()
    for name, want in ARRAYS.items():
        got = stored[name]
        assert (got.dtype, got.shape, stored.shapes[name]) == (want.dtype, want.shape, want.shape)
        np.testing.assert_array_equal(got, want, err_msg=name)


def test_every_type_is_read(path):
    _check(read_safetensors(path))


def test_shards_are_one_mapping_and_a_missing_shard_is_named(tmp_path):
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(ARRAYS)}
    for file in set(shards.values()):
        save_file({name: ARRAYS[name] for name in ARRAYS if shards[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    _check(read_safetensors(index))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 2 weight files: model-1\.safetensors"):
        read_safetensors(index)


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_truncated_file_is_noticed_before_anything_is_read(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="cut short"):
        read_safetensors(path)


def test_a_file_that_changes_after_opening_is_noticed_too(path):
    stored = read_safetensors(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="cut short"):
        list(stored.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"<html>Not found</html>" * 9, "not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "header is unreadable"),
        ((4).to_bytes(8, "little") + b"{;;}", "header is unreadable"),
    ],
)
def test_other_files_are_told_apart(path, content, message):
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_safetensors(path)


def test_a_header_that_contradicts_itself_and_an_unknown_type(path):
    for about, message in (
        ({"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}, "header is unreadable"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}, "header is unreadable"),
        ({"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}, "arrays of type F4"),
    ):
        header = json.dumps({"w": about}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
        with pytest.raises(UserError, match=message):
            read_safetensors(path)
