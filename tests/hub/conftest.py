"""Files as PyTorch writes them, written without PyTorch."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _int(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _tensor(key: str, array: np.ndarray) -> bytes:
    """The opcodes of torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, ())."""
    kind = f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _int(array.size)) + b"Q"
    strides = [step // array.itemsize for step in array.strides]
    sizes = [_tuple(*map(_int, numbers)) for numbers in (array.shape, strides)]
    call = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return call + _tuple(storage, _int(0), *sizes, b"\x89", b")") + b"R"


@pytest.fixture
def write_torch_file():
    def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        items = [_text(name) + _tensor(str(i), a) for i, (name, a) in enumerate(arrays.items())]
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}(" + b"".join(items) + b"u.")
            for i, array in enumerate(arrays.values()):
                archive.writestr(f"archive/data/{i}", array.tobytes())
        return path

    return write
