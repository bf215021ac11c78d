"""Decoding, resizing and colour spaces on the host.

OpenCV is used where it is installed and gives what Pillow gives: JPEG pixels are identical,
enlarged images differ by at most one grey level. Pillow does everything else. An enlargement has
no antialiasing to disagree about; a reduction does, and there Pillow's is what the papers used.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageOps

LABEL_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # without loss
ORIENTATION = 274  # the EXIF tag


@functools.cache
def opencv():
    """The module, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(1)  # samples are the unit of parallel work; threads within one only compete
    return cv2


def decode_image(data: bytes) -> np.ndarray:
    """An encoded image as upright RGB uint8 [H, W, 3]; raises whatever is wrong with it."""
    with Image.open(io.BytesIO(data)) as image:
        orientation = _orientation(image)
        is_plain = image.format == "JPEG" and image.mode == "RGB" and orientation == 1
        # OpenCV fills the missing rest of a truncated file with grey and says nothing; such a
        # file lacks its end marker, and Pillow refuses it.
        if is_plain and opencv() and data.rstrip(b"\0").endswith(b"\xff\xd9"):
            cv2 = opencv()
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            if pixels is not None:
                return pixels
        image.load()
        upright = image if orientation == 1 else ImageOps.exif_transpose(image)
        return np.array(upright.convert("RGB"))


def decode_labels(data: bytes) -> np.ndarray:
    """A mask as stored: palette indices, grey values, or R * 65536 + G * 256 + B for colours.

    uint8, uint16 or int32 [H, W]. The orientation tag is not applied: masks are made by programs.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.format not in LABEL_FORMATS:
            raise ValueError(f"masks are stored without loss (PNG, TIFF), this is {image.format}")
        if image.mode == "1":
            image = image.convert("L").point(lambda value: value > 0)
        values = np.asarray(image)
    if values.dtype.kind == "f":
        raise ValueError("a mask has whole numbers, this one has floating-point values")
    if values.ndim == 2:
        return values
    if values.shape[-1] == 2:  # grey and alpha
        return values[..., 0]
    if values.dtype != np.uint8:
        raise ValueError(f"a mask in colours has 8 bits per channel, this one is {values.dtype}")
    red, green, blue = np.moveaxis(values[..., :3].astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def encode_labels(labels: np.ndarray) -> bytes:
    """A PNG of uint8 or uint16 [H, W]."""
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "PNG")
    return stream.getvalue()


def resize_image(
    image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """image uint8 [H, W, 3] -> bilinear, antialiased where it shrinks.

    `window` (top, left, height, width) is the part of the resized image that is wanted; the rest
    is not computed.
    """
    height, width = image.shape[:2]
    top, left, crop_height, crop_width = window or (0, 0, *size)
    if size == (height, width):
        return image[top : top + crop_height, left : left + crop_width]
    if size[0] >= height and size[1] >= width and opencv():
        large = opencv().resize(image, size[::-1], interpolation=opencv().INTER_LINEAR)
        return large[top : top + crop_height, left : left + crop_width]
    down, across = height / size[0], width / size[1]
    bottom, right = (top + crop_height) * down, (left + crop_width) * across
    box = (left * across, top * down, min(right, width), min(bottom, height))
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((crop_width, crop_height), Image.Resampling.BILINEAR, box))


def nearest_index(n_in: int, n_out: int, start: int = 0, count: int | None = None) -> np.ndarray:
    """The source of output pixels start ... start + count - 1: floor(i * in / out) in float32.

    This is not the half-pixel rule; the papers' label maps were resized so.
    """
    i = np.arange(start, n_out if count is None else start + count, dtype=np.float32)
    index = np.floor(i * np.float32(n_in / n_out)).astype(np.int32)
    return np.minimum(index, n_in - 1)


def resize_labels(
    labels: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """labels [H, W] -> nearest, by the rule of `nearest_index`; `window` as in `resize_image`."""
    top, left, height, width = window or (0, 0, *size)
    rows = nearest_index(labels.shape[0], size[0], top, height)
    columns = nearest_index(labels.shape[1], size[1], left, width)
    return labels[rows][:, columns]


def flip(image: np.ndarray) -> np.ndarray:
    """Left to right; a view of reversed columns would be copied slowly later."""
    if image.ndim == 3 and opencv():
        return opencv().flip(image, 1)
    return image[:, ::-1]


def look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """values uint8 [H, W, ...] through table uint8 [256]."""
    return opencv().LUT(values, table) if opencv() else table[values]


def change_in_hsv(rgb: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """rgb uint8 [H, W, 3] with one channel of its HSV form sent through table uint8 [256]."""
    hsv = to_hsv(rgb)
    if opencv():
        changed = opencv().LUT(opencv().extractChannel(hsv, channel), table)
        opencv().insertChannel(changed, hsv, channel)
    else:
        hsv[..., channel] = table[hsv[..., channel]]
    return from_hsv(hsv)


def to_hsv(rgb: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] RGB -> H in 0..179, S and V in 0..255."""
    if opencv():
        return opencv().cvtColor(rgb, opencv().COLOR_RGB2HSV)
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    value = rgb.max(axis=-1).astype(np.int32)
    spread = value - rgb.min(axis=-1)
    by_value, by_spread = _hsv_tables()
    sector = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = (sector * by_spread[spread] + 2048) >> 12
    saturation = (spread * by_value[value] + 2048) >> 12
    return np.stack([np.where(hue < 0, hue + 180, hue), saturation, value], -1).astype(np.uint8)


def from_hsv(hsv: np.ndarray) -> np.ndarray:
    """The inverse of `to_hsv`, up to rounding."""
    if opencv():
        return opencv().cvtColor(hsv, opencv().COLOR_HSV2RGB)
    hue, saturation, value = np.moveaxis(hsv.astype(np.float32), -1, 0)
    hue, saturation = hue / np.float32(30), saturation / np.float32(255)
    sector = np.floor(hue)
    rest = hue - sector
    low, falling = value * (1 - saturation), value * (1 - saturation * rest)
    rising = value * (1 - saturation * (1 - rest))
    sector = sector.astype(np.int32) % 6
    red = np.choose(sector, [value, falling, low, low, rising, value])
    green = np.choose(sector, [rising, value, value, falling, low, low])
    blue = np.choose(sector, [low, low, rising, value, value, falling])
    return (np.stack([red, green, blue], axis=-1) + np.float32(1e-3)).astype(np.uint8)


@functools.cache
def _hsv_tables() -> tuple[np.ndarray, np.ndarray]:
    """255 / value and 30 / spread in fixed point of 12 bits; both 0 for 0."""
    divisor = np.arange(1, 256)
    scaled = [np.rint((top << 12) / divisor).astype(np.int32) for top in (255, 30)]
    return tuple(np.concatenate([[0], row]) for row in scaled)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken metadata does not spoil the picture
        return 1
