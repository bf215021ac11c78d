"""Label files -> arrays of class ids, and back to PNG.

Letters: H W image size.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from opvseg_jax.data.builders.benchmark import SampleError
from PIL import Image

INVALID = -1
ONE_VALUE = ("L", "P", "I", "I;16", "I;16L", "I;16B", "1")  # modes with one value per pixel
UPRIGHT_SWAPS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
EXIF_ORIENTATION = 274


def lookup_table(
    pairs: Mapping[int, int], *, ignore: int, ignored: Iterable[int] | None = None
) -> np.ndarray:
    """int32 [65536]: raw value -> id. `ignored` values (None: all others) become `ignore`."""
    table = np.full(65536, ignore if ignored is None else INVALID, np.int32)
    table[list(ignored or ())] = ignore
    for value, label in pairs.items():
        table[value] = label
    return table


def translate(raw: np.ndarray, table: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """raw [H, W] -> ids [H, W]; a value that the table does not know is an error."""
    out = table[raw]
    if (wrong := out == INVALID).any():
        raise SampleError(f"label value {int(raw[wrong][0])} does not belong to this data set")
    return out.astype(dtype)


def read_labels(path: Path) -> np.ndarray:
    """[H, W] integers as stored: palette indices, 8 or 16 bits."""
    with _opened(path) as image:
        if image.mode not in ONE_VALUE:
            raise SampleError(
                f"{path.name} is a colour image ({image.mode}), expected label values"
            )
        values = np.array(image)
    if values.min() < 0 or values.max() > 65535:
        raise SampleError(f"{path.name} has values outside of 0..65535")
    return values.astype(np.int32)


def read_colours(path: Path) -> np.ndarray:
    """int32 [H, W, 3] of an RGB-coded label file."""
    with _opened(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise SampleError(
                f"{path.name} has mode {image.mode}, expected an RGB-coded label file"
            )
        return np.array(image)[..., :3].astype(np.int32)


def read_image(path: Path) -> bytes:
    """The file's bytes, after it was decoded once: a cut-off file must not get any further."""
    if not path.is_file():
        raise SampleError(f"the image {path.name} is missing")
    with _opened(path) as image:
        if image.format not in ("JPEG", "MPO", "PNG"):
            raise SampleError(f"{path.name} is {image.format}, expected JPEG or PNG")
    return path.read_bytes()


def upright_size(data: bytes) -> tuple[int, int]:
    """(H, W) as the image is shown: photos may be stored lying, label maps never are."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        is_lying = image.getexif().get(EXIF_ORIENTATION, 1) in UPRIGHT_SWAPS
    return (width, height) if is_lying else (height, width)


def to_png(labels: np.ndarray) -> bytes:
    """uint8 or uint16 [H, W] -> PNG."""
    out = io.BytesIO()
    Image.fromarray(labels).save(out, "PNG")
    return out.getvalue()


def from_png(data: bytes) -> np.ndarray:
    """PNG -> uint8 or uint16 [H, W]."""
    with Image.open(io.BytesIO(data)) as image:
        values = np.array(image)
    return values if values.dtype == np.uint8 else values.astype(np.uint16)


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError as error:
        raise SampleError(f"{path.name} is missing") from error
    except Exception as error:  # decoders raise nearly every type on damaged files
        raise SampleError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
