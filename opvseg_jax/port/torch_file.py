"""Reads PyTorch's .pt and .pth files without PyTorch, and without running what they contain.

A pickle is a program. This reader runs it with a short list of allowed names, none of which does
more than describe where a tensor lies; any other name stops it. Understood are zip archives of
torch.save, TorchScript archives of torch.jit.save (as OpenAI's CLIP), and the older files that are
a sequence of pickles. In a TorchScript archive the modules become plain holders of attributes; its
code is not looked at.
"""

import collections
import io
import pickle
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.port.stored_array import StoredArray, StoredArrays, first_bytes

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training programs call the weights
ZIP = b"PK\x03\x04"
HARMLESS = (  # what training checkpoints hold beside weights; becomes an empty holder
    "argparse.Namespace",
    "collections.Counter",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",
)
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def read_torch_file(path: str | Path) -> StoredArrays:
    """The tensors of the file by name; a state dict inside a training checkpoint is found."""
    path = Path(path)
    head = first_bytes(path, len(LEGACY))
    if not head.startswith((ZIP, LEGACY)):
        raise UserError(f"{path} is not a file of PyTorch: expected what torch.save writes")
    try:
        tree = _read_zip(path) if head.startswith(ZIP) else _read_legacy(path)
    except UserError:
        raise
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{path} is damaged or cut short: fetch the file again") from error
    except Exception as error:  # a broken pickle can end in an exception of nearly any kind
        raise UserError(f"{path} is not a file that torch.save writes: {error}") from error
    entries = dict(_tensors(state_dict_of(tree)))
    if not entries:
        raise UserError(f"{path} holds no tensors: expected a state dict or a model")
    return StoredArrays(without_prefix(entries, "module."))


def state_dict_of(tree: object) -> object:
    """The weights in a training checkpoint: the first of `WRAPPERS` that holds a dict."""
    if isinstance(tree, Mapping):
        for key in WRAPPERS:
            if isinstance(tree.get(key), Mapping):
                return state_dict_of(tree[key])
    return tree


def without_prefix(entries: Mapping[str, StoredArray], prefix: str) -> dict[str, StoredArray]:
    """The names without a prefix that all of them carry, as data-parallel training leaves one."""
    if all(name.startswith(prefix) for name in entries):
        return {name.removeprefix(prefix): entry for name, entry in entries.items()}
    return dict(entries)


class _Storage(NamedTuple):
    """A run of numbers of one type; `key` says which, until its place in the file is known."""

    key: str
    dtype: np.dtype
    size: int
    first: int = 0


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Holder:
    """Stands for an object that is no tensor: it keeps attributes and does nothing."""

    attributes: Mapping[str, object] = types.MappingProxyType({})

    def __init__(self, *ignored):
        pass

    def __setstate__(self, state):
        self.attributes = state if isinstance(state, Mapping) else {}


def _rebuild_tensor(storage, offset, shape, strides, *ignored) -> _Tensor:
    """Describes a tensor, after checking that all of it lies inside its storage."""
    tensor = _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    if not isinstance(storage, _Storage) or len(tensor.shape) != len(tensor.strides):
        raise pickle.UnpicklingError("a tensor without a storage")
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise pickle.UnpicklingError("a tensor with negative sizes")
    span = StoredArray(Path(), 0, storage.dtype, tensor.shape, tensor.strides).span
    if tensor.offset + span > storage.size:
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    return tensor


def _allowed(module: str, name: str) -> object | None:
    """What a pickle may ask for, made anew each time so that no file can change it for the next."""
    full = f"{module}.{name}"
    if module == "torch" and name in STORAGES:
        return np.dtype(STORAGES[name])
    if full.startswith("__torch__.") or full in HARMLESS:
        return type(name, (_Holder,), {})
    if full == "collections.OrderedDict":
        return collections.OrderedDict
    if full in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        return lambda *args: _rebuild_tensor(*args)
    if full in ("torch.Size", "torch.device"):
        return lambda *values: values
    # A parameter is its tensor, a typed list of TorchScript its values.
    wrappers = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
    if full in wrappers or module == "torch.jit._pickle":
        return lambda value, *ignored: value
    return None


class _Unpickler(pickle.Unpickler):
    """Resolves nothing but the names above, imports nothing."""

    def __init__(self, file, path: Path, storage: Callable[..., _Storage]):
        super().__init__(file, encoding="utf-8")
        self.path, self.storage = path, storage

    def find_class(self, module: str, name: str) -> object:
        found = _allowed(module, name)
        if found is None:
            raise UserError(
                f"{self.path} asks for {module}.{name}, which is not part of weights: refused. "
                "If you trust the file, load it where it was made and save only its state_dict()"
            )
        return found

    def persistent_load(self, saved: tuple) -> _Storage:
        if saved[0] != "storage" or not isinstance(saved[1], np.dtype):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return self.storage(*saved[1:])


def _read_zip(path: Path) -> object:
    """A zip archive: `<name>/data.pkl` describes the tensors, `<name>/data/<key>` hold numbers."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path} is a zip file but not one of PyTorch: it has no data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if root + "byteorder" in members and archive.read(root + "byteorder") != b"little":
            raise UserError(f"{path} was written on a big-endian machine: save it on another")

        def storage(dtype, key, device, size, *ignored) -> _Storage:
            member = members[f"{root}data/{key}"]
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{path} was compressed after saving: use the original file")
            if member.file_size < size * dtype.itemsize:
                raise pickle.UnpicklingError("a storage shorter than its tensor")
            return _Storage(member.filename, dtype, size)

        tree = _Unpickler(io.BytesIO(archive.read(pickles[0])), path, storage).load()
    with path.open("rb") as file:
        return _locate(tree, path, lambda storage: _data_offset(file, members[storage.key]))


def _data_offset(file, member: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed member begin: behind its local header of 30 bytes."""
    file.seek(member.header_offset + 26)
    lengths = file.read(4)
    name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    return member.header_offset + 30 + name + extra


def _read_legacy(path: Path) -> object:
    """Before PyTorch 1.6: five pickles (the fifth lists the storages), then size and numbers."""
    kinds = {}

    def storage(dtype, key, device, size, view=None) -> _Storage:
        kinds[key] = dtype
        return _Storage(key, dtype, size if view is None else view[2], view[1] if view else 0)

    offsets = {}
    with path.open("rb") as file:

        def load() -> object:
            return _Unpickler(file, path, storage).load()

        load(), load(), load()  # a magic number, the version, the sizes of C types
        tree = load()
        for key in load():
            count = int.from_bytes(file.read(8), "little")
            offsets[key] = file.tell()
            file.seek(count * kinds[key].itemsize, io.SEEK_CUR)
        if file.tell() > path.stat().st_size:
            raise UserError(f"{path} is cut short: fetch the file again")
    return _locate(tree, path, lambda storage: offsets[storage.key])


def _locate(tree: object, path: Path, place: Callable[[_Storage], int]) -> object:
    """The tree with every tensor as a StoredArray; dicts, modules and lists become dicts."""
    if isinstance(tree, _Tensor):
        dtype = tree.storage.dtype
        offset = place(tree.storage) + (tree.storage.first + tree.offset) * dtype.itemsize
        return StoredArray(path, offset, dtype, tree.shape, tree.strides)
    if isinstance(tree, _Holder):
        tree = tree.attributes
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if isinstance(tree, Mapping):
        return {str(key): _locate(value, path, place) for key, value in tree.items()}
    return None


def _tensors(tree: object, prefix: str = "") -> Iterator[tuple[str, StoredArray]]:
    if isinstance(tree, StoredArray):
        yield prefix.removesuffix("."), tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, f"{prefix}{key}.")
