"""Reads .safetensors files, whole or in shards, one array at a time."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.port.stored_array import StoredArray, StoredArrays, first_bytes

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: str | Path) -> StoredArrays:
    """The arrays of a .safetensors file, or of all shards that a .safetensors.index.json names."""
    path = Path(path)
    if path.name.endswith(".index.json"):
        return read_shards(path, read_safetensors)
    size = int.from_bytes(first_bytes(path, 8), "little")
    total = path.stat().st_size
    if size > total - 8:
        raise UserError(f"{path} is cut short, or not a safetensors file: fetch the file again")
    with path.open("rb") as file:
        file.seek(8)
        header = file.read(size)
    try:
        described = json.loads(header)
        described.pop("__metadata__", None)
        entries = {name: _entry(path, 8 + size, about) for name, about in described.items()}
        end = max((about["data_offsets"][1] for about in described.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a safetensors file: its header is unreadable") from error
    if 8 + size + end > total:
        missing = 8 + size + end - total
        raise UserError(f"{path} is cut short, {missing} bytes are missing: fetch the file again")
    return StoredArrays(entries)


def read_shards(index: Path, read) -> StoredArrays:
    """The union of the shards that an index file of HuggingFace's form names."""
    try:
        names = json.loads(index.read_text())["weight_map"]
        files = sorted(set(names.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of weight files: fetch it again") from error
    if absent := [file for file in files if not (index.parent / file).is_file()]:
        raise UserError(
            f"{index.parent} lacks {len(absent)} of {len(files)} weight files: {', '.join(absent)}"
        )
    entries = {}
    for file in files:
        entries |= read(index.parent / file).entries
    return StoredArrays(entries)


def _entry(path: Path, base: int, about: dict) -> StoredArray:
    if about["dtype"] not in DTYPES:
        raise UserError(f"{path} holds arrays of type {about['dtype']}: expected {list(DTYPES)}")
    begin, end = about["data_offsets"]
    entry = StoredArray(path, base + begin, np.dtype(DTYPES[about["dtype"]]), tuple(about["shape"]))
    sound = all(isinstance(n, int) and n >= 0 for n in (begin, *entry.shape))
    if not sound or entry.span * entry.dtype.itemsize != end - begin:
        raise ValueError("shape and offsets disagree")
    return entry
