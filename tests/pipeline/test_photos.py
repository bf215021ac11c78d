"""Every kind of picture that a user's folder may hold, each written here as a real file."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline import photos


def colours(height=24, width=36) -> np.ndarray:
    """A picture without symmetry: red to the right, green downwards, a blue corner."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 // width, y * 255 // height, 0 * x], axis=-1).astype(np.uint8)
    picture[: height // 4, : width // 4] = (0, 0, 255)
    return picture


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, with next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def one_sentence(error: pytest.ExceptionInfo, path) -> str:
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


# What is read


def test_rgb_comes_as_it_is(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    image = photos.read_photo(str(tmp_path / "a.png"))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, colours())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, ending):
    stored = {  # how a camera that is held so stores the upright picture
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[photos.EXIF_ORIENTATION] = orientation
    picture = np.ascontiguousarray(stored[orientation](colours()))
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 98, "subsampling": 0}}
    path = tmp_path / f"a.{ending}"
    Image.fromarray(picture).save(path, exif=exif, **lossless.get(ending, {}))
    photo = photos.open_photo(path)
    assert photo.size == (24, 36)
    assert not photo.is_reduced
    assert np.abs(photo.image.astype(int) - colours()).mean() < (6 if ending == "jpg" else 0.01)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_spoil_the_picture(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert photos.read_photo(tmp_path / "a.jpg").shape == (24, 36, 3)


def test_grey_and_black_and_white_become_rgb(tmp_path):
    grey = colours()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        photos.read_photo(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1)
    )
    Image.fromarray(grey > 100).save(tmp_path / "binary.png")
    assert set(np.unique(photos.read_photo(tmp_path / "binary.png"))) == {0, 255}


def test_cmyk_becomes_rgb(tmp_path):
    flat = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    for name in ("a.jpg", "a.tif"):
        Image.fromarray(flat).convert("CMYK").save(tmp_path / name)
        assert Image.open(tmp_path / name).mode == "CMYK"
        assert np.abs(photos.read_photo(tmp_path / name).astype(int) - flat).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_laid_on_white(tmp_path, mode):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (0, 0, 0, 255)  # left half transparent black, right half opaque black
    image = Image.fromarray(rgba)
    if mode == "LA":
        image = image.convert("LA")
    if mode == "P":
        image = image.quantize(4, method=Image.Quantize.FASTOCTREE)
        assert image.mode == "P"
    image.save(tmp_path / "a.png")
    read = photos.read_photo(tmp_path / "a.png")
    assert (read[:, :4] == 255).all()
    assert (read[:, 4:] == 0).all()


def test_palette_with_one_transparent_index(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.gif", transparency=0)
    read = photos.read_photo(tmp_path / "a.gif")
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[3, 3].tolist() == [0, 255, 0]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, ending):
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / f"a.{ending}")
    read = photos.read_photo(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(read[..., 0], np.arange(256).reshape(16, 16))


def test_float_tiff_is_read_by_its_range(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for name, scale in (("unit.tif", 1), ("byte.tif", 255)):
        Image.fromarray(ramp * scale).save(tmp_path / name)
        np.testing.assert_array_equal(
            photos.read_photo(tmp_path / name)[..., 1], np.arange(256).reshape(16, 16)
        )
    Image.fromarray(ramp * np.nan).save(tmp_path / "nan.tif")
    with pytest.raises(UserError, match="not finite"):
        photos.read_photo(tmp_path / "nan.tif")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes(tmp_path, size):
    height, width = size
    Image.new("RGB", (width, height), (9, 8, 7)).save(tmp_path / "a.png")
    photo = photos.open_photo(tmp_path / "a.png")
    assert photo.image.shape == (*size, 3)
    assert (photo.image == (9, 8, 7)).all()


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert photos.read_photo(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_an_open_image_is_made_rgb_and_upright():
    rgba = Image.fromarray(np.dstack([colours(), np.full((24, 36), 255, np.uint8)]))
    rgba.getexif()[photos.EXIF_ORIENTATION] = 3
    np.testing.assert_array_equal(photos.as_rgb(rgba), colours()[::-1, ::-1])


# Large pictures


def test_200_megapixels_are_decoded_small(tmp_path):
    Image.new("L", (20_000, 10_000), 200).save(tmp_path / "large.jpg", quality=50)
    photo = photos.open_photo(tmp_path / "large.jpg", working_pixels=2_000_000)
    assert photo.size == (10_000, 20_000)
    assert photo.is_reduced
    assert photo.image.shape == (1000, 2000, 3)
    assert (photo.image == 200).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "I;16", "L"])
def test_every_mode_is_reduced_in_the_right_shape_and_colour(tmp_path, mode):
    flat = np.full((300, 600, 3), 200, np.uint8)
    image = Image.fromarray(flat)
    if mode == "I;16":
        image = Image.fromarray(np.full((300, 600), 200 * 257, np.uint16))
    elif mode == "P":
        image = image.quantize(4)
    elif mode != "RGB":
        image = image.convert(mode)
    exif = Image.Exif()
    exif[photos.EXIF_ORIENTATION] = 6
    image.save(tmp_path / "a.tif", exif=exif)
    photo = photos.open_photo(tmp_path / "a.tif", working_pixels=20_000)
    assert photo.size == (600, 300)
    assert photo.image.shape == (200, 100, 3)
    assert np.abs(photo.image.astype(int) - 200).max() <= 1


@pytest.mark.filterwarnings("error")  # Pillow's own bomb warning would be a second opinion
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60_000, 60_000))
    with pytest.raises(UserError, match="60000 x 60000 pixels, more than the limit of 300") as e:
        photos.read_photo(path)
    one_sentence(e, path)


@pytest.mark.filterwarnings("error")
def test_the_limit_can_be_moved_both_ways_and_pillows_stays_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    Image.new("1", (15_000, 13_000)).save(tmp_path / "wide.png")  # beyond Pillow's own limit
    photo = photos.open_photo(tmp_path / "wide.png", working_pixels=10_000)
    assert photo.size == (13_000, 15_000)
    with pytest.raises(UserError, match="limit of 1 megapixels"):
        photos.open_photo(tmp_path / "wide.png", refused_pixels=1_000_000)
    assert before == Image.MAX_IMAGE_PIXELS


# What is refused, in one sentence


def test_missing_folder_and_empty_files_are_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    for path, words in (
        (tmp_path / "nothing.jpg", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "empty.jpg", "zero bytes"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "nul\0.jpg", "does not exist"),
    ):
        with pytest.raises(UserError, match=words) as error:
            photos.read_photo(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"hello, I am a text\n" * 50, b"\x00" * 4000, b"%!PS-Adobe\n"])
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not an image") as error:
        photos.read_photo(path)
    one_sentence(error, path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, ending, share):
    whole, path = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError) as error:
        photos.read_photo(path)
    one_sentence(error, path)


def test_scrambled_bytes_are_refused(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[60:200] = bytes(140)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged") as error:
        photos.read_photo(path)
    one_sentence(error, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        photos.read_photo(tmp_path / "a.png")


# Which photos


@pytest.fixture
def folder(tmp_path):
    for name in ("photo10.jpg", "photo9.JPG", "b.png", ".hidden.jpg", "notes.txt", "sub/c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_a_folder_gives_its_photos_in_natural_order(folder):
    assert names(photos.find_photos(folder)) == ["b.png", "photo9.JPG", "photo10.jpg"]


def test_globs_files_and_folders_together_name_each_photo_once(folder):
    found = photos.find_photos([f"{folder}/photo1*", folder, str(folder / "b.png")])
    assert names(found) == ["photo10.jpg", "b.png", "photo9.JPG"]
    assert names(photos.find_photos(f"{folder}/**/*")) == [
        *names(photos.find_photos(folder)),
        "c.webp",
    ]


def test_a_named_file_is_taken_whatever_its_ending(folder):
    assert names(photos.find_photos([folder / "notes.txt"])) == ["notes.txt"]
    strange = folder / "a[1].jpg"  # looks like a pattern
    strange.write_bytes(b"x")
    assert photos.find_photos(str(strange)) == [strange]


def test_nothing_found_says_what_was_looked_for(folder):
    (folder / "bare").mkdir()
    for pattern, words in (
        (folder / "none.jpg", "does not exist"),
        (f"{folder}/*.bmp", "no photo matches"),
        (folder / "bare", "holds no photo"),
        ([], "no photo was named"),
    ):
        with pytest.raises(UserError, match=words) as error:
            photos.find_photos(pattern)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"one.jpg .*; .*two.jpg .* \(and 2 more\)"):
        photos.find_photos(["one.jpg", "two.jpg", "three.jpg", "four.jpg", "five.jpg"])


def test_results_of_different_photos_get_different_names():
    paths = ["p/a.jpg", "p/a.png", "q/b.jpg", "r/b.jpg", "C.jpg", "c.jpg", "d.jpg", "d.jpg"]
    found = photos.output_names(paths)
    assert found[:4] == ["a_jpg", "a_png", "q_b_jpg", "r_b_jpg"]
    assert len({name.casefold() for name in found}) == len(paths)
    assert photos.output_names(["a.jpg", "b.png"]) == ["a", "b"]
    assert len(set(photos.output_names(["x/a_jpg.png", "a.jpg", "a.png"]))) == 3
    long = photos.output_names(["é" * 120 + "1.jpg", "é" * 120 + "2.jpg"])
    assert len(set(long)) == 2
    assert max(len(name.encode()) for name in long) < 200
