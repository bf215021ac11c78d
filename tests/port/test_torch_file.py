"""PyTorch's files, read without PyTorch (the good ones were written by make_torch_files.py)."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.port.torch_file import read_torch_file

FILES = Path(__file__).with_name("torch_files")
COUNT = np.arange(24, dtype=np.float32)
EXPECTED = {
    "plain": COUNT.reshape(2, 3, 4),
    "transposed": COUNT.reshape(4, 6).T,
    "rows": COUNT.reshape(6, 4)[1:5:2, 1:3],
    "expanded": np.full((3, 2), 7, np.float32),
    "half": (COUNT / 8).astype(np.float16),
    "bfloat": (COUNT / 8).astype(jnp.bfloat16),
    "double": COUNT.astype(np.float64) / 3,
    "long": np.arange(5) - 2,
    "byte": np.arange(5, dtype=np.uint8),
    "flags": np.array([True, False, True]),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": COUNT[:3],
}


@pytest.mark.parametrize("name", ["flat.pth", "training.pth", "legacy.pth"])
def test_every_kind_of_tensor_is_restored(name):
    stored = read_torch_file(FILES / name)
    assert list(stored) == list(EXPECTED)
    for key, want in EXPECTED.items():
        got = stored[key]
        assert (got.dtype, got.shape) == (want.dtype, want.shape), key
        assert stored.shapes[key] == want.shape
        np.testing.assert_array_equal(got, want, err_msg=key)


@pytest.mark.parametrize(("name", "kind"), [("scripted.pt", np.float32), ("traced.pt", np.float16)])
def test_a_torchscript_archive_gives_the_names_of_its_state_dict(name, kind):
    stored = read_torch_file(FILES / name)
    blocks = [
        f"visual.{i}.{leaf}"
        for i in (0, 1)
        for leaf in ("proj", "size", "norm.weight", "norm.bias")
    ]
    assert set(stored) == {"scale", *blocks}
    assert stored["visual.1.proj"].tolist() == [[10, 11], [12, 13]]
    assert stored["visual.1.proj"].dtype == kind
    assert stored["scale"].tolist() == 4.5


class _Attack:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def _zip_of(path: Path, pickled: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in members.items():
            archive.writestr(f"archive/data/{name}", data)
    return path


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, r"posix\.system"),
        (eval, r"__builtin__\.eval|asks for builtins\.eval"),
        (getattr, r"__builtin__\.getattr|asks for builtins\.getattr"),
        (__import__, r"__builtin__\.__import__|asks for builtins\.__import__"),
    ],
)
def test_a_pickle_that_asks_for_code_is_refused_by_name(tmp_path, function, named):
    marker = tmp_path / "ran"
    attack = _Attack(function, f"open({str(marker)!r}, 'w')")
    for protocol in (0, 2, 4):
        path = _zip_of(tmp_path / "bad.pth", pickle.dumps({"w": attack}, protocol))
        with pytest.raises(UserError, match=f"asks for {named}"):
            read_torch_file(path)
    assert not marker.exists()


def test_a_class_of_a_library_is_refused_by_name():
    with pytest.raises(UserError, match=r"asks for __main__\.Block.*save only its state_dict"):
        read_torch_file(FILES / "module.pth")


def test_a_legacy_file_cannot_run_code_either(tmp_path):
    path = tmp_path / "bad.pth"
    good = (FILES / "legacy.pth").read_bytes()
    parts = io.BytesIO(good)
    for _ in range(3):
        pickle.load(parts)
    path.write_bytes(good[: parts.tell()] + pickle.dumps(_Attack(os.system, "true"), 2))
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        read_torch_file(path)


def test_names_of_the_reader_itself_cannot_be_reached(tmp_path):
    """Dotted names, and attributes set on what is allowed, are the usual ways around a list."""
    dotted = b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93."
    with pytest.raises(UserError, match=r"collections\.OrderedDict\.__class__"):
        read_torch_file(_zip_of(tmp_path / "dotted.pth", dotted))
    # GLOBAL __torch__.X, then BUILD with {} on the class: poisons nothing, is no state dict.
    poison = b"\x80\x02c__torch__\nX\n}X\x04\x00\x00\x00evilK\x01sb."
    with pytest.raises(UserError):
        read_torch_file(_zip_of(tmp_path / "poison.pth", poison))
    assert list(read_torch_file(FILES / "flat.pth")) == list(EXPECTED)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    """Bytes of a neighbour, or of the file's own directory, are not weights."""
    with zipfile.ZipFile(FILES / "flat.pth") as archive:
        pickled = archive.read("flat/data.pkl")
    short = {str(i): b"\0" * 8 for i in range(12)}
    with pytest.raises(UserError, match="damaged or cut short"):
        read_torch_file(_zip_of(tmp_path / "short.pth", pickled, **short))


@pytest.mark.parametrize("name", ["flat.pth", "legacy.pth"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_one_sentence(tmp_path, name, kept):
    data = (FILES / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match="cut short"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<html>404</html>", "not a file of PyTorch"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_torch_file(path)


def test_missing_files_zips_of_something_else_and_empty_checkpoints(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_torch_file(tmp_path / "none.pth")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(UserError, match="not one of PyTorch"):
        read_torch_file(tmp_path / "photos.zip")
    with pytest.raises(UserError, match="holds no tensors"):
        read_torch_file(_zip_of(tmp_path / "empty.pth", pickle.dumps({"epoch": 3}, 2)))
