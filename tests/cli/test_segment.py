"""`opvseg segment`: good photos, bad photos, bad words, bad folders, Ctrl-C."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from opvseg_jax.pipeline import photos as photos_module

WORDS = "dog: head, leg; car: wheel; cat; bird: wing"
KINDS = ("_overlay.png", "_objects.png", "_parts.png", ".json")


def written(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files_of(*names: str) -> set[str]:
    return {name + kind for name in names for kind in KINDS}


def test_a_photo_becomes_four_files(opvseg, photos, tmp_path):
    code, out, err = opvseg("segment", photos / "p0.png", "--vocab", WORDS, "--out", tmp_path / "o")
    assert (code, err) == (0, "")
    assert written(tmp_path / "o") == files_of("p0")
    assert "p0.png: Segmentation 96x96" in out
    found = json.loads((tmp_path / "o/p0.json").read_text())
    assert found["image"]["path"] == str(photos / "p0.png")
    assert found["model"] == "tiny"


def test_folders_patterns_and_files_together(opvseg, photos, tmp_path):
    (tmp_path / "more").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "more/p0.jpg")
    places = (photos, tmp_path / "more/*.jpg", photos / "p1.png")
    code, out, _ = opvseg("segment", *places, "--vocab", WORDS, "--out", tmp_path / "o")
    assert code == 0
    assert written(tmp_path / "o") == files_of("p0_png", "p0_jpg", "p1", "p2", "p3")
    assert "5 of 5 photos" in out


def test_nothing_is_written_elsewhere(opvseg, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    opvseg("segment", photos, "--vocab", WORDS, "--out", tmp_path / "o")
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert {path for path in after if path not in before} == {
        tmp_path / "o",
        *(tmp_path / "o" / name for name in files_of("p0", "p1", "p2", "p3")),
    }
    assert all(after[path] == stamp for path, stamp in before.items() if path != tmp_path)


def test_words_from_a_file_and_from_a_benchmark(opvseg, photos, tmp_path):
    (tmp_path / "words.yaml").write_text("dog: [head, leg]\ncar:\n")
    for words in (tmp_path / "words.yaml", "partworld"):
        place = tmp_path / f"out_{words if words == 'partworld' else 'file'}"
        code, *_ = opvseg("segment", photos / "p0.png", "--vocab", words, "--out", place)
        assert code == 0
    found = json.loads((tmp_path / "out_file/p0.json").read_text())
    assert found["vocabulary"]["objects"] == ["dog", "car"]


def test_broken_photos_are_named_and_the_others_written(opvseg, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "cut.png").write_bytes((photos / "p0.png").read_bytes()[:500])
    (photos / "empty.jpg").touch()
    code, _, err = opvseg("segment", photos, "--vocab", WORDS, "--out", tmp_path / "o")
    assert code == 1
    assert written(tmp_path / "o") == files_of("p0", "p1", "p2", "p3")
    *named, last = err.splitlines()
    assert sorted(re.findall(r"(\w+)\.(?:jpg|png)", " ".join(named))) == ["broken", "cut", "empty"]
    assert "4 of 7 photos" in last
    assert "3 could not be read" in last


def save_strange(folder) -> dict[str, tuple[int, int]]:
    """Photos that are unusual and fine -> the (height, width) of their label maps."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 65536, (40, 50)).astype(np.uint16)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    Image.fromarray(grey).save(folder / "sixteen.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("P").save(folder / "palette.png", transparency=3)
    rgb.convert("RGBA").save(folder / "alpha.webp")
    exif = Image.Exif()
    exif[photos_module.EXIF_ORIENTATION] = 6
    rgb.save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(folder / "one.png")
    Image.new("L", (5000, 1)).save(folder / "line.png")
    sizes = dict.fromkeys(("sixteen", "cmyk", "palette", "alpha"), (40, 50))
    return sizes | {"turned": (50, 40), "one": (1, 1), "line": (1, 5000)}


def test_strange_photos_are_segmented(opvseg, tmp_path):
    (tmp_path / "in").mkdir()
    sizes = save_strange(tmp_path / "in")
    code, _, err = opvseg("segment", tmp_path / "in", "--vocab", WORDS, "--out", tmp_path / "o")
    assert (code, err) == (0, "")
    for name, (height, width) in sizes.items():
        with Image.open(tmp_path / f"o/{name}_objects.png") as labels:
            assert labels.size == (width, height)


def test_a_very_large_photo_is_reduced(opvseg, tmp_path, monkeypatch):
    """Of 200 megapixels in earnest; here the limit is lowered in place of the photo raised."""
    monkeypatch.setattr(
        photos_module.open_photo,
        "__kwdefaults__",
        {
            "working_pixels": 3000,
            "refused_pixels": 20_000,
        },
    )
    Image.new("RGB", (200, 90)).save(tmp_path / "large.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "vast.png")
    large = ("segment", tmp_path / "large.png", "--vocab", WORDS, "--out", tmp_path / "o")
    assert opvseg(*large)[0] == 0
    facts = json.loads((tmp_path / "o/large.json").read_text())["image"]
    assert (facts["photo_width"], facts["photo_height"]) == (200, 90)
    assert facts["width"] * facts["height"] <= 3000
    vast = ("segment", tmp_path / "vast.png", "--vocab", WORDS, "--out", tmp_path / "o")
    code, _, err = opvseg(*vast)
    assert code == 2
    assert "200 x 200 pixels" in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.jpg", b"hello", "is not an image"),
        ("empty.png", b"", "is empty"),
        ("missing.png", None, "does not exist"),
    ],
)
def test_a_photo_that_cannot_be_read_is_one_sentence(opvseg, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = opvseg("segment", tmp_path / name, "--vocab", WORDS, "--out", tmp_path / "o")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert name in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "empty"),
        (" ; ", "empty"),
        ("dog; Dog", "listed"),
        ("dog: head, head", "listed"),
        (": head", "has no object"),
        ("nowhere.yaml", "nowhere.yaml"),
        ("pascal_part_117", "did you mean 'pascal_part_116'"),
    ],
)
def test_bad_words_are_one_sentence(opvseg, photos, tmp_path, words, message):
    code, out, err = opvseg("segment", photos / "p0.png", "--vocab", words, "--out", tmp_path / "o")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "o").exists()


def test_many_long_and_foreign_words(opvseg, photos, tmp_path):
    """Thousands of words work, by other compiled functions; long ones are cut with a warning."""
    words = {
        "many": "; ".join(f"thing{i}" for i in range(3000)),
        "foreign": "собака: голова; 犬: 頭; piñata; 🐕",
        "long": "a very long name " * 30 + ": head; dog",
    }
    for name, text in words.items():
        code, *_ = opvseg("segment", photos / "p0.png", "--vocab", text, "--out", tmp_path / name)
        assert code == 0
        assert written(tmp_path / name) == files_of("p0")
    found = json.loads((tmp_path / "foreign/p0.json").read_text())
    assert found["vocabulary"]["objects"] == ["собака", "犬", "piñata", "🐕"]


def test_an_unknown_model_is_one_sentence(typed, photos, tmp_path):
    command = ("segment", photos / "p0.png", "--vocab", WORDS, "--out", tmp_path / "o")
    out, err = (process := typed(*command, "--model", "tinny")).communicate()
    assert (process.returncode, out) == (2, "")
    assert err == "opvseg: unknown model 'tinny': did you mean 'tiny'?\n"


def test_a_folder_that_cannot_be_written_is_told_before_work_is_done(opvseg, photos, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = opvseg("segment", photos, "--vocab", WORDS, "--out", tmp_path / "file/inside")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert str(tmp_path / "file") in err


def test_results_that_cannot_be_written_stop_the_run(opvseg, photos, tmp_path, monkeypatch):
    """A full disk is not a broken photo."""
    from opvseg_jax.inference import result

    def full(path, content):
        raise result.UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(result, "write_whole", full)
    code, _, err = opvseg("segment", photos, "--vocab", WORDS, "--out", tmp_path / "o")
    assert code == 2
    assert "No space left" in err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_whole_results_and_one_line(typed, photos, tmp_path):
    """A real process with a real signal, while it works through many photos."""
    content = (photos / "p0.png").read_bytes()
    for i in range(300):
        (photos / f"copy{i}.png").write_bytes(content)
    out = tmp_path / "o"
    process = typed("segment", photos, "--vocab", WORDS, "--out", out)
    deadline = time.monotonic() + 120
    while not list(out.glob("*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("opvseg: stopped: ")
    assert "Traceback" not in err
    done = sorted(path.name.removesuffix(".json") for path in out.glob("*.json"))
    assert 1 <= len(done) < 304
    assert written(out) == files_of(*done)
    for name in done:
        json.loads((out / f"{name}.json").read_text())


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_loading(typed, photos, tmp_path):
    process = typed("segment", photos, "--vocab", WORDS, "--out", tmp_path / "o")
    deadline = time.monotonic() + 60
    while not (tmp_path / "o").exists():  # made before the model is loaded
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out == ""
