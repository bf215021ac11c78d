"""Bundles: the same numbers as the live model, with nothing of ours, or a sentence that says why
not."""

import ast
import datetime
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import jax
import numpy as np
import pytest
from export.conftest import WORDS

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.platform import platform
from opvseg_jax.export import bundle, programs
from opvseg_jax.export.bundle import six_months_after, write_bundle
from opvseg_jax.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of(WORDS)


def _photo(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3))
    return coarse.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def fixed(segmenter, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "fixed"
    return write_bundle(segmenter, VOCABULARY, out)


@pytest.fixture(scope="module")
def opened(segmenter, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "open"
    return write_bundle(segmenter, VOCABULARY, out, kind="open", platforms=("cpu",))


@pytest.fixture(scope="module")
def run(fixed):
    """The run.py of the bundle itself."""
    spec = importlib.util.spec_from_file_location("bundle_run", fixed / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _live_scores(segmenter, photo):
    """[h, w, K] of a photo that is as large as the canvas."""
    content = np.asarray(photo.shape[:2], np.int32)
    scores, *_ = segmenter._score(
        segmenter.weights, photo[None], content, segmenter.words(VOCABULARY)
    )
    rows, columns = (round(len(scores.objects) * n / segmenter.side) for n in photo.shape[:2])
    counts = len(VOCABULARY.objects), len(VOCABULARY.parts)
    return [
        np.asarray(x)[:rows, :columns][..., [*range(count), -1]]
        for x, count in zip((scores.objects, scores.parts), counts, strict=True)
    ]


def _assert_same(result, live):
    assert result.object_map.dtype == result.part_map.dtype == np.int32
    np.testing.assert_array_equal(result.object_map, live.object_map)
    np.testing.assert_array_equal(result.part_map, live.part_map)
    assert len(np.unique(live.object_map)) > 1, "a test of one label tests nothing"
    assert live.part_map.max() >= 0


def test_a_fixed_bundle_gives_the_live_scores_and_labels(segmenter, fixed, run):
    loaded = run.load(fixed)
    photo = _photo(32, 48)
    result = loaded(photo)
    for found, want in zip(result[2:4], _live_scores(segmenter, photo), strict=True):
        np.testing.assert_allclose(found, want, atol=1e-5, rtol=0)
    _assert_same(result, segmenter(photo, VOCABULARY))
    upright = _photo(104, 72)  # another canvas, another size, labels at that size
    _assert_same(loaded(upright), segmenter(upright, VOCABULARY))


def test_the_function_alone_labels_an_image_of_the_canvas(segmenter, fixed, run):
    loaded, photo = run.load(fixed), _photo(32, 48)
    content = np.asarray((32, 48), np.int32)
    found = loaded._segment[32, 48](loaded._weights, loaded._own.arrays, photo, content)
    np.testing.assert_array_equal(found["object_map"], segmenter(photo, VOCABULARY).object_map)


def test_an_open_bundle_takes_words_that_it_was_not_written_with(segmenter, opened, run):
    loaded, photo = run.load(opened), _photo(32, 48)
    _assert_same(loaded(photo, loaded.words(WORDS)), segmenter(photo, VOCABULARY))
    other = {"wheel": [], "a Car": ["head", "wheel", "dog"], "dog": ["leg"]}
    live = segmenter(photo, Vocabulary.of(other))
    result = loaded(photo, loaded.words(other))
    np.testing.assert_array_equal(result.object_map, live.object_map)
    np.testing.assert_array_equal(result.part_map, live.part_map)
    with pytest.raises(run.BundleError, match="give words"):
        loaded(photo)
    with pytest.raises(run.BundleError, match="do not fit into"):
        loaded.words({f"thing {i}": [] for i in range(40)})


def test_the_manifest_says_what_the_bundle_is(fixed, opened):
    manifest = json.loads((fixed / "manifest.json").read_text())
    assert manifest["kind"] == "fixed"
    assert manifest["method"] == "zeroshot"
    assert manifest["vocabulary"]["parts"] == ["dog's head", "dog's leg", "car's wheel"]
    assert manifest["versions"]["jax"] == jax.__version__
    written = datetime.date.fromisoformat(manifest["written"])
    assert manifest["compatible_until"] == six_months_after(written).isoformat()
    files = {path.name for path in fixed.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    assert {"segment-32x48.cpu.bin", "segment-48x32.cuda.bin", "label.cuda.bin"} <= files
    assert json.loads((opened / "manifest.json").read_text())["vocabulary"] is None
    assert (opened / "tokenizer.json").is_file()


def test_each_platform_gets_a_function_traced_for_it(fixed):
    scalar = jax.ShapeDtypeStruct((), np.float32)
    for name, exact in (("cpu", "1.000000e+00"), ("cuda", "2.000000e+00")):
        program = programs.exported(
            lambda x: x * (1.0 if platform() == "cpu" else 2.0), name, scalar
        )
        assert exact in program.mlir_module()
        blob = bytearray((fixed / f"segment-32x48.{name}.bin").read_bytes())
        assert jax.export.deserialize(blob).platforms == (name,)
    assert platform() == jax.default_backend()


@pytest.mark.parametrize("name", ["weights.safetensors", "segment-32x48.cpu.bin", "run.py"])
def test_a_flipped_byte_is_refused_by_name(fixed, run, tmp_path, name):
    copy = shutil.copytree(fixed, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(run.BundleError, match=f"{name} was changed or damaged"):
        run.load(copy)


def test_what_is_wrong_with_a_bundle_is_said(fixed, run, tmp_path):
    with pytest.raises(run.BundleError, match="is no bundle"):
        run.load(tmp_path)
    with pytest.raises(run.BundleError, match="is for cpu, cuda, not for tpu"):
        run.load(fixed, platform="tpu")
    loaded = run.load(fixed)
    with pytest.raises(run.BundleError, match=r"expected uint8 \[H, W, 3\], got float32"):
        loaded(np.zeros((32, 48, 3), np.float32))
    with pytest.raises(run.BundleError, match="fixed vocabulary"):
        loaded.words(WORDS)
    copy = shutil.copytree(fixed, tmp_path / "copy")
    (copy / "label.cpu.bin").unlink()
    with pytest.raises(run.BundleError, match=r"label\.cpu\.bin cannot be read"):
        run.load(copy)


def test_without_pillow_the_canvas_is_demanded(fixed, run, monkeypatch):
    loaded = run.load(fixed)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(run.BundleError, match="give one of 32 x 48 or 48 x 32, or install Pillow"):
        loaded(_photo(40, 48))
    assert loaded(_photo(32, 48)).object_map.shape == (32, 48)


def test_half_a_bundle_never_stays(segmenter, tmp_path, monkeypatch):
    def full_disk(*ignored):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_write_programs", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*/out: No space left"):
        write_bundle(segmenter, VOCABULARY, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_a_bundle_is_replaced(segmenter, tmp_path):
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(UserError, match="not to be replaced: name a new one"):
        write_bundle(segmenter, VOCABULARY, tmp_path)
    with pytest.raises(UserError, match="is a file, not a folder"):
        write_bundle(segmenter, VOCABULARY, tmp_path / "thesis.tex" / "bundle")
    with pytest.raises(UserError, match="unknown kind 'closed'"):
        write_bundle(segmenter, VOCABULARY, tmp_path / "out", kind="closed")


def test_six_months_are_months():
    assert six_months_after(datetime.date(2026, 11, 21)) == datetime.date(2027, 5, 21)
    assert six_months_after(datetime.date(2026, 8, 31)) == datetime.date(2027, 2, 28)


def test_run_imports_nothing_of_ours(fixed):
    tree = ast.parse((fixed / "run.py").read_text())
    found = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    foreign = found - set(sys.stdlib_module_names)
    assert foreign == {"jax", "numpy", "safetensors", "PIL", "tokenizers"}


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """An environment with jax, flatbuffers, numpy and safetensors, and nothing else."""
    from importlib.metadata import version

    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    names = ("jax", "jaxlib", "flatbuffers", "numpy", "safetensors")
    wanted = [f"{name}=={version(name)}" for name in names]
    command = [python, "-m", "pip", "install", "-q", "--retries", "0", "--timeout", "10", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install jax into a fresh environment: {done.stderr[-200:]}")
    return python


def test_a_bundle_runs_where_nothing_of_ours_is(segmenter, fixed, bare_python, tmp_path):
    photo = _photo(32, 48)
    np.save(tmp_path / "photo.npy", photo)
    moved = shutil.copytree(fixed, tmp_path / "moved")
    environment = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    command = [bare_python, moved / "run.py", moved, "photo.npy", "--out", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dog" in done.stdout or "car" in done.stdout
    found = np.load(tmp_path / "out" / "photo.npz")
    live = segmenter(photo, VOCABULARY)
    np.testing.assert_array_equal(found["object_map"], live.object_map)
    np.testing.assert_array_equal(found["part_map"], live.part_map)
    objects, parts = _live_scores(segmenter, photo)
    np.testing.assert_allclose(found["object_scores"], objects, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["part_scores"], parts, atol=1e-5, rtol=0)
