"""Images are decoded and resized the same with and without OpenCV."""

import io

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.pipeline import pixels


def _photo(size=(60, 90), seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def _jpeg(image, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", **options)
    return stream.getvalue()


def test_decoded_pixels_are_those_of_pillow():
    data = _jpeg(_photo())
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels.decode_image(data), np.asarray(image))


def test_a_photo_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[pixels.ORIENTATION] = 6
    assert pixels.decode_image(_jpeg(_photo((60, 90)), exif=exif)).shape == (90, 60, 3)


@pytest.mark.parametrize("cut", [1, 100])
def test_a_truncated_jpeg_is_refused(cut):
    """OpenCV alone would fill the rest with grey. One byte less: the end marker is broken."""
    data = _jpeg(_photo((200, 300)))
    with pytest.raises(Exception, match="truncated"):
        pixels.decode_image(data[: len(data) - cut - (0 if cut == 1 else len(data) // 2)])


@pytest.mark.parametrize("size", [(40, 60), (61, 91), (120, 181), (45, 120)])
def test_a_window_is_cut_from_the_image_that_pillow_resizes(size):
    image = _photo()
    whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    window = (7, 11, 30, 40)
    part = pixels.resize_image(image, size, window)
    assert part.shape == (30, 40, 3)
    difference = part.astype(int) - whole[7:37, 11:51]
    assert np.abs(difference).max() <= 1


def test_labels_follow_the_floor_rule():
    labels = np.arange(12).reshape(1, 12)
    np.testing.assert_array_equal(
        pixels.resize_labels(labels, (1, 5))[0], [0, 2, 4, 7, 9]
    )  # floor(i * 2.4)
    np.testing.assert_array_equal(
        pixels.resize_labels(labels, (1, 24), (0, 3, 1, 4))[0], [1, 2, 2, 3]
    )


def test_hsv_without_opencv_equals_opencv(monkeypatch):
    pytest.importorskip("cv2")
    levels = np.linspace(0, 255, 32).astype(np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(32, -1, 3)
    hsv = pixels.to_hsv(rgb)
    back = pixels.from_hsv(hsv)
    monkeypatch.setattr(pixels, "opencv", lambda: None)
    np.testing.assert_array_equal(pixels.to_hsv(rgb), hsv)
    # OpenCV releases differ among themselves in the last rounding.
    assert np.abs(pixels.from_hsv(hsv).astype(int) - back).max() <= 1


def test_pillow_alone_decodes_flips_and_changes_colours_the_same(monkeypatch):
    pytest.importorskip("cv2")
    image, data = _photo(), _jpeg(_photo())
    table = np.arange(256, dtype=np.uint8)[::-1].copy()

    def results():
        changed = pixels.change_in_hsv(image, 1, table // 2)
        return pixels.decode_image(data), pixels.flip(image), pixels.look_up(image, table), changed

    with_both = results()
    monkeypatch.setattr(pixels, "opencv", lambda: None)
    alone = results()
    for one, other in zip(with_both[:3], alone[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(with_both[3].astype(int) - alone[3]).max() <= 1


def test_masks_are_read_as_stored():
    wide = np.array([[0, 300, 65535]], np.uint16)
    np.testing.assert_array_equal(pixels.decode_labels(pixels.encode_labels(wide)), wide)
    palette = Image.fromarray(np.array([[3, 1]], np.uint8)).convert("P")
    palette.putpalette([200, 10, 10] * 256)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    assert pixels.decode_labels(stream.getvalue()).tolist() == [[3, 1]]
    colours = np.array([[[1, 2, 3], [255, 0, 0]]], np.uint8)
    assert pixels.decode_labels(pixels.encode_labels(colours)).tolist() == [[0x010203, 0xFF0000]]


def test_a_mask_with_loss_is_refused():
    with pytest.raises(ValueError, match="JPEG"):
        pixels.decode_labels(_jpeg(_photo()))
