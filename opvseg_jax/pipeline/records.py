"""Reads the records of TFDS folders (array_record files of `tf.train.Example`), without TFDS.

A folder holds `dataset_info.json` (splits and how many records each shard has), `metadata.json`
(ours: the vocabulary) and `<name>-<split>.array_record-00000-of-00004` ...
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opvseg_jax.core.errors import UserError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protocol buffer wire types


class Split(NamedTuple):
    """Where the records of one split lie."""

    files: tuple[str, ...]
    num_records: int


def is_record_folder(path: Path) -> bool:
    """Whether `path`, or a version below it (`name/1.0.0`), was written by TFDS."""
    return _version_folder(path) is not None


def read_folder(path: str | Path) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits of a TFDS folder, complete on disk, and its metadata."""
    folder = _version_folder(Path(path))
    if folder is None:
        raise UserError(f"{path} holds no dataset_info.json: prepare the data set first")
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    if info.get("fileFormat", "array_record") != "array_record":
        raise UserError(
            f"{folder} holds {info['fileFormat']} files, expected array_record: prepare it again"
        )
    metadata = folder / "metadata.json"
    facts = json.loads(metadata.read_text(encoding="utf-8")) if metadata.exists() else {}
    return {entry["name"]: _split(folder, entry) for entry in info.get("splits", ())}, facts


def open_records(split: Split):
    """A list-like of serialized records."""
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError:
        raise UserError(
            "prepared data sets need array_record: pip install 'opvseg_jax[data]'"
        ) from None
    return ArrayRecordDataSource(list(split.files)) if split.files else []


def parse_example(record: bytes) -> dict[str, list]:
    """The features of a serialized `tf.train.Example`: lists of bytes, floats or ints."""
    out = {}
    for features in _messages(record, 1):
        for entry in _messages(features, 1):
            fields = dict(_fields(entry))
            out[fields[1].decode()] = _values(fields.get(2, b""))
    return out


def _version_folder(path: Path) -> Path | None:
    if (path / "dataset_info.json").is_file():
        return path
    versions = [
        folder.parent
        for folder in path.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.parent.name)
    ]
    return max(versions, key=lambda v: tuple(map(int, v.name.split("."))), default=None)


def _split(folder: Path, entry: dict[str, Any]) -> Split:
    counts = [int(count) for count in entry.get("shardLengths", ())]
    files = sorted(map(str, folder.glob(f"*-{entry['name']}.array_record*")))
    if len(files) != len(counts):
        raise UserError(
            f"{folder}: split {entry['name']!r} has {len(files)} of {len(counts)} files: "
            "the preparation did not finish or files were lost, prepare it again"
        )
    return Split(tuple(files), sum(counts))


def _values(feature: bytes) -> list:
    """bytes_list = 1, float_list = 2, int64_list = 3, each with the repeated field 1."""
    for kind, content in _fields(feature):
        if kind == 1:
            return list(_messages(content, 1))
        values: list = []
        for _, value in _fields(content):
            if kind == 2:
                values += np.frombuffer(value, "<f4").tolist()
            else:
                values += _varints(value) if isinstance(value, bytes) else [_signed(value)]
        return values
    return []


def _messages(data: bytes, field: int) -> Iterator[bytes]:
    return (value for number, value in _fields(data) if number == field)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protocol buffer message; numbers of fixed size stay bytes."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, place = _varint(data, place)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"not a tf.train.Example: wire type {kind}")
        if place + size > end:
            raise ValueError("the record is cut short")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data):
            raise ValueError("the record is cut short")
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _varints(data: bytes) -> list[int]:
    values, place = [], 0
    while place < len(data):
        value, place = _varint(data, place)
        values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
