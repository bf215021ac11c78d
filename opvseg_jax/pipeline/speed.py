"""How fast images become training batches, beside Pillow and OpenCV used plainly.

The work is CAT-Seg's: decode a 500 x 375 JPEG, shorter side to 384, random crop of 384 x 384,
colour jitter of SSD, flip, stack. One contender is one function from JPEG bytes to pixels.
"""

import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from opvseg_jax.pipeline import pixels
from opvseg_jax.pipeline.loader import Loader
from opvseg_jax.pipeline.recipes import augmentation
from opvseg_jax.pipeline.samples import IGNORE, LABEL, Sample
from opvseg_jax.vocabulary import Vocabulary

SIZE = (375, 500)
CROP, SHORTER, LONGEST = 384, 384, 1333
PHOTOS = 32  # different ones, so that no cache holds all

Contender = Callable[[bytes, np.random.Generator], np.ndarray]


class Speed(NamedTuple):
    """Images per second of one way to make batches."""

    name: str
    images_per_second: float


@dataclasses.dataclass(frozen=True)
class Photos:
    """A source of JPEG (and PNG label) bytes in memory, decoded when asked for."""

    images: tuple[bytes, ...]
    labels: tuple[bytes, ...] | None = None
    name: str = "synthetic photos"
    vocabulary: Vocabulary = dataclasses.field(default_factory=lambda: Vocabulary.of(["thing"]))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = pixels.decode_image(self.images[index])
        if self.labels is None:
            labels = np.zeros(image.shape[:2], LABEL)
            return Sample(image, labels, labels, str(index))
        objects = pixels.decode_labels(self.labels[index]).astype(LABEL)
        parts = pixels.decode_labels(self.labels[index - 1]).astype(LABEL)
        return Sample(image, objects, np.where(parts > 9, LABEL(IGNORE), parts), str(index))


def synthetic_photos(count: int = PHOTOS, *, has_labels: bool = False) -> Photos:
    """Smooth shapes with some grain: JPEG files of a photo's size, about 45 kB."""
    images, labels = [], []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 5, (*SIZE, 1))
        stream = io.BytesIO()
        picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        picture.save(stream, "JPEG", quality=85)
        images.append(stream.getvalue())
        areas = Image.fromarray(rng.integers(0, 12, (8, 10), dtype=np.uint8))
        labels.append(pixels.encode_labels(np.asarray(areas.resize(SIZE[::-1], 0))))
    return Photos(tuple(images), tuple(labels) if has_labels else None)


def compare(photos: Photos, *, batch_size: int = 16, seconds: float = 3.0) -> list[Speed]:
    """Ours, Pillow and OpenCV, each in one thread, in turns, by the processor time they take."""
    contenders: dict[str, Contender] = {"opvseg_jax": _ours(), "plain Pillow": with_pillow}
    if pixels.opencv():
        contenders["plain OpenCV"] = with_opencv
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds * len(contenders)
    rounds = 0
    while time.perf_counter() < end or rounds < 2:
        for name, contender in contenders.items():
            start = time.thread_time()  # a core's time, whatever else runs on it
            _batch(contender, photos, batch_size, rounds)
            times[name].append((time.thread_time() - start) / batch_size)
        rounds += 1
    return [Speed(name, float(1 / np.median(some[1:]))) for name, some in times.items()]


def loaders(
    photos: Photos,
    *,
    batch_size: int = 16,
    seconds: float = 5.0,
    threads: tuple[int, ...] = (0, 1, 2),
    workers: tuple[int, ...] = (1, 2),
) -> Iterator[Speed]:
    """The whole loader with its threads or worker processes, label maps included."""
    recipe = augmentation("semantic", size=CROP, shorter=SHORTER, longest=LONGEST)
    loader = Loader(photos, recipe, batch_size=batch_size, seed=0)
    for count in threads:
        yield Speed(f"{count} threads", _rate(loader, seconds, threads=count))
    for count in workers:
        name = f"{count} worker process" + ("es" if count > 1 else "")
        yield Speed(name, _rate(loader, seconds, workers=count))


def _rate(loader: Loader, seconds: float, **options: int) -> float:
    """Batches that were made ahead are used up before the clock starts."""
    batches = loader.batches(**options)
    for _ in range(12):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    rate = count * loader.batch_size / (time.perf_counter() - start)
    batches.close()
    return rate


def _batch(contender: Contender, photos: Photos, batch_size: int, step: int) -> np.ndarray:
    rows = range(step * batch_size, (step + 1) * batch_size)
    images = [contender(photos.images[i % len(photos)], np.random.default_rng(i)) for i in rows]
    return np.stack(images)


def _ours() -> Contender:
    resize, *others, _ = augmentation("semantic", size=CROP, shorter=SHORTER, longest=LONGEST)
    nothing = np.zeros((1, 1), LABEL)

    def prepare(data: bytes, rng: np.random.Generator) -> np.ndarray:
        sample = Sample(pixels.decode_image(data), nothing, nothing, "")
        # Labels of one pixel: the others handle none either.
        for transform in (dataclasses.replace(resize, has_labels=False), *others):
            sample = transform(sample, rng)
        return sample.image

    return prepare


def with_pillow(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """The same steps as one would write them with Pillow."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    scale = SHORTER / min(width, height)
    size = round(width * scale), round(height * scale)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (int(rng.integers(side - CROP + 1)) for side in size)
    image = image.crop((left, top, left + CROP, top + CROP))
    image = _pillow_colours(image, rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def _pillow_colours(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    def scaled(factor: float, offset: float = 0.0) -> list[int]:
        return [int(min(max(v * factor + offset, 0), 255)) for v in range(256)]

    if rng.random() < 0.5:
        image = image.point(scaled(1.0, rng.uniform(-32, 32)) * 3)
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    is_first = rng.random() < 0.5
    if contrast and is_first:
        image = image.point(scaled(contrast) * 3)
    same = list(range(256))
    if rng.random() < 0.5:
        saturated = image.convert("HSV").point(same + scaled(rng.uniform(0.5, 1.5)) + same)
        image = saturated.convert("RGB")
    if rng.random() < 0.5:
        shift = int(rng.integers(-25, 26))
        turned = [(v + shift) % 256 for v in range(256)]
        image = image.convert("HSV").point(turned + same + same).convert("RGB")
    if contrast and not is_first:
        image = image.point(scaled(contrast) * 3)
    return image


def with_opencv(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """The same steps as detectron2's users write them with OpenCV (no antialiasing)."""
    cv2 = pixels.opencv()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    scale = SHORTER / min(width, height)
    size = round(width * scale), round(height * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    left, top = (int(rng.integers(side - CROP + 1)) for side in size)
    image = _opencv_colours(image[top : top + CROP, left : left + CROP], rng)
    return cv2.flip(image, 1) if rng.random() < 0.5 else image


def _opencv_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cv2 = pixels.opencv()

    def scaled(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
        changed = values.astype(np.float32) * np.float32(factor) + np.float32(offset)
        return np.clip(changed, 0, 255).astype(np.uint8)

    if rng.random() < 0.5:
        image = scaled(image, 1.0, rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    is_first = rng.random() < 0.5
    if contrast and is_first:
        image = scaled(image, contrast)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 1] = scaled(hsv[:, :, 1], rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + int(rng.integers(-18, 19))) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if contrast and not is_first:
        image = scaled(image, contrast)
    return image
