"""Photos as they come: any file that Pillow reads becomes an upright RGB array of bounded size.

Two limits keep memory in bounds. A picture of more than `REFUSED_PIXELS` is refused by what its
header says, before anything is decoded: a few kilobytes of PNG can claim any size. A picture of
more than `WORKING_PIXELS` is reduced on load (a JPEG already while it is decoded), and `Photo.size`
remembers how large it was; label maps then have the size of `Photo.image`.
"""

import collections
import contextlib
import dataclasses
import functools
import glob
import math
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from opvseg_jax.core.errors import UserError

WORKING_PIXELS = 32_000_000
REFUSED_PIXELS = 300_000_000

# Named one by one: among Pillow's other formats some start programs (EPS) or are no photos.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff")
SUFFIXES += (".bmp", ".gif", ".ppm", ".pgm", ".avif", ".jp2")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_ORIENTATION = 274
_opening = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Photo:
    """An upright photo: image uint8 [H, W, 3], and the (height, width) that its file has."""

    image: np.ndarray
    size: tuple[int, int]
    path: Path

    @property
    def is_reduced(self) -> bool:
        return self.image.shape[:2] != self.size


def read_photo(path: str | Path, **limits: int) -> np.ndarray:
    """The upright photo as uint8 [H, W, 3]; `open_photo` also says whether it was reduced."""
    return open_photo(path, **limits).image


def open_photo(
    path: str | Path,
    *,
    working_pixels: int = WORKING_PIXELS,
    refused_pixels: int = REFUSED_PIXELS,
) -> Photo:
    """Reads the first frame; alpha is laid on white, 16 bits are scaled to 8."""
    path = Path(path).expanduser()
    _check_file(path)
    try:
        with _without_pillow_limit():
            image = Image.open(path, formats=_formats())
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image: use JPEG, PNG, WebP, TIFF, BMP or GIF") from error
    except Exception as error:  # decoders raise nearly every type on broken headers
        raise UserError(f"{path} cannot be read as an image: {_reason(error)}") from error
    with image:
        _check_pixels(path, image, refused_pixels)
        try:
            upright, size = _decode(image, working_pixels)
            return Photo(np.array(upright), size, path)
        except UserError:
            raise
        except Exception as error:  # as above, and MemoryError
            raise UserError(f"{path} is damaged or cut short: {_reason(error)}") from error


def as_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of a picture that the caller opened: upright, alpha on white, 8 bits."""
    try:
        return np.array(_decode(image, image.width * image.height)[0])
    except Exception as error:  # a lazily opened file is only decoded here
        raise UserError(f"the image given cannot be decoded: {_reason(error)}") from error


def find_photos(patterns: str | Path | Iterable[str | Path]) -> list[Path]:
    """The photos that files, folders and globs name, each once, every pattern in natural order.

    A folder stands for the pictures directly in it (`folder/**/*` for those below); hidden files
    and other kinds of file are passed over. A file that is named is taken whatever its ending.
    """
    if isinstance(patterns, str | Path):
        patterns = [patterns]
    found: dict[Path, Path] = {}
    problems = []
    for pattern in patterns:
        matches = _matches(str(pattern))
        if isinstance(matches, str):
            problems.append(matches)
            continue
        for path in sorted(matches, key=_natural_order):
            found.setdefault(path.resolve(), path)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError("; ".join(problems[:3]) + more)
    if not found:
        raise UserError(
            "no photo was named: give files, folders or patterns such as 'photos/*.jpg'"
        )
    return list(found.values())


def output_names(paths: Iterable[str | Path]) -> list[str]:
    """One file stem for each photo, all different: a.jpg and a.png become a_jpg and a_png.

    Case is ignored when names are compared, since some file systems ignore it.
    """
    paths = [Path(path) for path in paths]
    stems = [_clean(path.stem) for path in paths]
    clashing = _repeated(stems)
    names = [
        _clean(f"{stem}_{path.suffix.lstrip('.').lower()}")
        if stem.casefold() in clashing and path.suffix
        else stem
        for stem, path in zip(stems, paths, strict=True)
    ]
    clashing = _repeated(names)
    names = [
        _clean(f"{path.absolute().parent.name}_{name}") if name.casefold() in clashing else name
        for name, path in zip(names, paths, strict=True)
    ]
    return _numbered(names)


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a photo: name the files in it")
        if not path.exists():
            raise UserError(f"{path} does not exist")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file")
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty: it has zero bytes")
    except (OSError, ValueError) as error:  # no permission, a name too long, a null character
        if isinstance(error, UserError):
            raise
        raise UserError(f"{str(path)!r} cannot be read: {_reason(error)}") from error


def _check_pixels(path: Path, image: Image.Image, refused: int) -> None:
    width, height = image.size
    if width * height > refused:
        raise UserError(
            f"{path} has {width} x {height} pixels, more than the limit of "
            f"{refused / 1e6:g} megapixels: reduce it first"
        )


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """`_check_pixels` does Pillow's check with our limit; Pillow's own is a global variable."""
    with _opening:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = kept


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decode(image: Image.Image, working_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """The upright RGB picture of at most `working_pixels`, and its (height, width) in the file."""
    width, height = image.size
    target = None
    if width * height > working_pixels:
        shrink = math.sqrt(working_pixels / (width * height))
        target = max(1, int(width * shrink)), max(1, int(height * shrink))
        image.draft(None, target)  # a JPEG then decodes at 1/2, 1/4 or 1/8; others ignore it
    image.load()
    orientation = _orientation(image)
    rgb = _to_rgb(image, target)
    upright = rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb
    return upright, (width, height) if orientation in range(5, 9) else (height, width)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # broken metadata does not spoil the picture
        return 1


def _to_rgb(image: Image.Image, target: tuple[int, int] | None) -> Image.Image:
    """Converts any mode; shrinks first where the mode allows, so that memory stays low."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "1":
        image = image.convert("L")
    is_blendable = image.mode in ("L", "RGB", "CMYK") and not image.has_transparency_data
    if target and is_blendable:
        return image.resize(target, Image.Resampling.BICUBIC, reducing_gap=2).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if target:
            rgba = rgba.resize(target, Image.Resampling.BICUBIC, reducing_gap=2)
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    rgb = image.convert("RGB")
    return rgb.resize(target, Image.Resampling.BICUBIC, reducing_gap=2) if target else rgb


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """uint8 of a 16-bit, 32-bit or float picture: the smallest usual white that holds them all."""
    top = float(values.max())
    if not math.isfinite(top):
        raise ValueError("it has pixels that are not finite numbers")
    if values.dtype.kind == "f":
        white = next((w for w in (1.0, 255.0, 65535.0) if top <= w), top)
    else:
        white = 65535.0 if top <= 65535 else 2.0**31 - 1
    if values.dtype.kind != "f" and white == 65535.0:
        table = np.round(np.arange(65536) / 257).astype(np.uint8)
        return table[np.clip(values, 0, 65535)]
    return np.round(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


def _matches(pattern: str) -> list[Path] | str:
    """The files that a pattern names, or the sentence that says why there are none."""
    path = Path(pattern).expanduser()
    try:
        if path.is_dir():
            photos = [p for p in path.iterdir() if _is_photo(p)]
            return photos or f"{path} holds no photo: '{path}/**/*' also looks in its subfolders"
        if path.exists():
            return [path]
        if not glob.has_magic(pattern):
            return f"{path} does not exist"
        photos = [p for p in map(Path, glob.glob(str(path), recursive=True)) if _is_photo(p)]
        return photos or f"no photo matches '{pattern}'"
    except (OSError, ValueError) as error:
        return f"{pattern!r} cannot be read: {_reason(error)}"


def _is_photo(path: Path) -> bool:
    is_named_so = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    return is_named_so and path.is_file()


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    """photo9 before photo10."""
    pieces = re.split(r"(\d+)", str(path).casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces if p]


def _clean(stem: str, max_bytes: int = 180) -> str:
    """A stem that leaves room for an ending: file systems allow 255 bytes."""
    return stem.encode(errors="replace")[:max_bytes].decode(errors="ignore").strip() or "photo"


def _repeated(names: list[str]) -> set[str]:
    counts = collections.Counter(name.casefold() for name in names)
    return {name for name, count in counts.items() if count > 1}


def _numbered(names: list[str]) -> list[str]:
    """Later holders of a name get the first free number."""
    used = {name.casefold() for name in names}
    seen: set[str] = set()
    result = []
    for name in names:
        number, free = 2, name
        if name.casefold() in seen:
            while (free := f"{name}_{number}").casefold() in used | seen:
                number += 1
        seen.add(free.casefold())
        result.append(free)
    return result


def _reason(error: Exception) -> str:
    """The message of a foreign error, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
