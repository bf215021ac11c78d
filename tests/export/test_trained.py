"""Trained methods export as the training-free one does, without the text tower they don't need."""

import dataclasses

import numpy as np
import pytest
from hub.test_convert import SIZES, published, write_checkpoint
from safetensors import safe_open

from opvseg_jax.export import run
from opvseg_jax.export.bundle import write_bundle
from opvseg_jax.hub import trained
from opvseg_jax.hub.convert import convert_checkpoint
from opvseg_jax.hub.load import load
from opvseg_jax.text.tokenizer import train_tokenizer
from opvseg_jax.vocabulary import Vocabulary

WORDS = {"dog": ["head", "leg"], "car": ["wheel"], "sky": []}


@pytest.mark.parametrize("method", SIZES)
def test_a_trained_method_runs_from_its_bundle(method, tmp_path, monkeypatch):
    small = dataclasses.replace(trained.METHODS[method], sizes=SIZES[method], default=None)
    monkeypatch.setitem(trained.METHODS, method, small)
    train_tokenizer(["a dog with a head and a wheel"] * 3, 540, tmp_path, context=20)
    path = write_checkpoint(tmp_path / "model.pth", published(method)[0])
    out, _ = convert_checkpoint(path, method, tmp_path / "model", tokenizer=tmp_path)
    segmenter = load(out)
    side = segmenter.side
    photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    folder = write_bundle(
        segmenter, Vocabulary.of(WORDS), tmp_path / "bundle", kind="open", platforms=("cpu",)
    )
    bundle = run.load(folder)
    result = bundle(photo, bundle.words(WORDS))
    content = np.asarray([side, side], np.int32)
    text = segmenter.words(Vocabulary.of(WORDS))
    scores, *_ = segmenter._score(segmenter.weights, photo[None], content, text)
    kept = [0, 1, 2, -1]  # both are padded, the bundle more
    np.testing.assert_allclose(result.object_scores, scores.objects[..., kept], atol=1e-5)
    np.testing.assert_allclose(result.part_scores, scores.parts[..., kept], atol=1e-5)
    live = segmenter(photo, WORDS)
    np.testing.assert_array_equal(result.object_map, live.object_map)
    np.testing.assert_array_equal(result.part_map, live.part_map)
    with safe_open(folder / "weights.safetensors", "np") as file:
        assert not [name for name in file.keys() if name.startswith("clip/text/")]  # noqa: SIM118
