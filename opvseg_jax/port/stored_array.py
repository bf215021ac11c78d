"""Arrays that still lie in their file: shape and type are known, numbers are read when asked for.

Plain reads, not a memory map: the pages of a map would count beside the weights made from them.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from opvseg_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array of `shape` in a file; `strides` (in elements) are None where it is contiguous."""

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    @property
    def span(self) -> int:
        """How many elements lie between the first and the last, both counted."""
        if self.strides is None or 0 in self.shape:
            return math.prod(self.shape)
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))

    def read(self) -> np.ndarray:
        try:
            flat = np.fromfile(self.path, self.dtype, self.span, offset=self.offset)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error
        if flat.size != self.span:
            raise UserError(f"{self.path} is cut short: fetch the file again")
        if self.strides is None or 0 in self.shape:
            return flat.reshape(self.shape)
        steps = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps)


class StoredArrays(Mapping[str, np.ndarray]):
    """`{name: array}` of one or several files; indexing reads, everything else does not."""

    def __init__(self, entries: Mapping[str, StoredArray]):
        self.entries = dict(entries)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def first_bytes(path: Path, count: int) -> bytes:
    """The head of a weights file, after the mistakes that every kind of file can suffer from."""
    try:
        with path.open("rb") as file:
            head = file.read(max(count, 24))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder, "
            "or download the file itself"
        )
    if not head:
        raise UserError(f"{path} is empty: fetch the file again")
    return head[:count]
