"""TensorBoard's event files: records of a few hand-coded protocol buffer fields.

A record is its length (8 bytes), a checksum of that (4), the event, a checksum of that (4).
The fields are those of tensorflow/core/util/event.proto and framework/summary.proto.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from opvseg_jax.core.errors import UserError

POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits in reverse
VERSION = b"brain.Event:2"
WIRE_VARINT, WIRE_DOUBLE, WIRE_BYTES, WIRE_FLOAT = 0, 1, 2, 5


def _table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = _table()


class EventFile:
    """One file of scalars and pictures, begun at `start_step`."""

    def __init__(self, folder: Path, start_step: int):
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
        except OSError as error:
            raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
        self._write(_text(3, VERSION), 0)
        # A started session makes TensorBoard forget what older files say of later steps.
        self._write(_text(7, _number(1, 1)), start_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        shown = (_text(1, _text(1, tag.encode()) + _float(2, x)) for tag, x in values.items())
        self._write(_text(5, b"".join(shown)), step)

    def picture(self, step: int, tag: str, png: bytes, size: tuple[int, int]) -> None:
        """`png` of (width, height)."""
        width, height = size
        image = _number(1, height) + _number(2, width) + _number(3, 3) + _text(4, png)
        self._write(_text(5, _text(1, _text(1, tag.encode()) + _text(4, image))), step)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, what: bytes, step: int) -> None:
        event = _key(1, WIRE_DOUBLE) + struct.pack("<d", time.time()) + _number(2, step) + what
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked(length) + event + _masked(event))


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, WIRE_VARINT) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _key(field, WIRE_FLOAT) + struct.pack("<f", value)


def _text(field: int, content: bytes) -> bytes:
    return _key(field, WIRE_BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
