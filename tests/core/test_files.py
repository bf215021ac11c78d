"""A result on the disk is whole or absent, and what stands in the way is said in one sentence."""

import os
from pathlib import Path

import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import writable_folder, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    assert write_whole(path, b"one") == path
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "a.txt"
    write_whole(path, b"old")
    real = Path.write_bytes

    def half(self, content):
        real(self, content[:1])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if expected is UserError:
        assert str(raised.value) == f"cannot write {path}: No space left on device"


def test_a_folder_is_made_with_those_above_it(tmp_path):
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    assert writable_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot") as error:
            writable_folder(folder)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="permission denied"):
        writable_folder(tmp_path)
