"""Published checkpoints of trained methods become models, or a sentence names what is wrong."""

import dataclasses
import json
import zipfile

import jax
import numpy as np
import pytest
from hub.conftest import _int, _tensor, _text
from methods import part_tiny, semantic_models
from PIL import Image
from safetensors.numpy import load_file

from opvseg_jax.cli.main import main
from opvseg_jax.core.errors import UserError
from opvseg_jax.hub import trained
from opvseg_jax.hub.convert import convert_checkpoint
from opvseg_jax.hub.load import load
from opvseg_jax.hub.presets import is_on_disk, presets
from opvseg_jax.methods.catseg.sizes import CatSegSize
from opvseg_jax.methods.hops.sizes import PAPER, HopsSize
from opvseg_jax.methods.partcatseg.sizes import PartCatSegSize
from opvseg_jax.methods.pcaseg.parts import of_partcatseg
from opvseg_jax.methods.pcaseg.sizes import PcaSegSize
from opvseg_jax.port.rules import publish
from opvseg_jax.text.tokenizer import train_tokenizer

CLIP = dataclasses.replace(semantic_models.CLIP, vocab_size=540, context=20)
WIDE = dataclasses.replace(CLIP, vision=dataclasses.replace(CLIP.vision, width=32))
SEMANTIC = {"head": semantic_models.HEAD, "image_size": 16, "hooks": (0, 1), "sliding": None}
EXPERTS = {**SEMANTIC, "head": dataclasses.replace(semantic_models.HEAD, num_experts=2)}
PARTS = {
    "dino": part_tiny.DINO,
    "head": part_tiny.HEAD,
    "templates": ("a {}", "the {}"),
    **part_tiny.SIDES,
}
ONE_SLOT = dataclasses.replace(PAPER, votes=2, num_slots=1)
SIZES = {
    "catseg": {"small": CatSegSize(CLIP, **SEMANTIC), "wide": CatSegSize(WIDE, **SEMANTIC)},
    "pcaseg": {"small": PcaSegSize(CLIP, **EXPERTS)},
    "pcaseg-parts": {"small": of_partcatseg(PartCatSegSize(CLIP, **PARTS), num_experts=1)},
    "partcatseg": {"small": PartCatSegSize(CLIP, **PARTS)},
    "hops": {"small": HopsSize(CLIP, **PARTS, options=ONE_SLOT)},
}

PUBLISHED_SIZES = {name: family.sizes for name, family in trained.METHODS.items()}


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    for name, sizes in SIZES.items():
        small = dataclasses.replace(trained.METHODS[name], sizes=sizes, default=None)
        monkeypatch.setitem(trained.METHODS, name, small)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a dog with a head and a wheel"] * 3, 540, folder, context=20)
    return folder


def published(method: str, size: str = "small"):
    """The tensors of a checkpoint with random numbers, and the leaves that they are."""
    family = trained.METHODS[method]
    leaves = semantic_models.random_leaves(family.plan(size))
    if method == "hops":  # or its objects nearly tie, as methods/test_hops.py says
        leaves["head/embedding/conv/kernel"] *= 10
    tensors = publish(family.rules(family.sizes[size]), leaves)
    return {name: array.astype(np.float32) for name, array in tensors.items()}, leaves


def write_checkpoint(path, tensors):
    """As detectron2 does: the model beside an optimizer's states and a count."""
    arrays = [np.ascontiguousarray(x).reshape(x.shape) for x in tensors.values()]
    items = [
        _text(name) + _tensor(str(i), x)
        for i, (name, x) in enumerate(zip(tensors, arrays, strict=True))
    ]
    momentum = np.zeros((2, 2), np.float32)
    state = _text("state") + _tensor(str(len(arrays)), momentum)
    content = _text("model") + b"}(" + b"".join(items) + b"u"
    content += _text("optimizer") + b"}(" + state + b"u" + _text("iteration") + _int(20000)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_final/data.pkl", b"\x80\x02}(" + content + b"u.")
        for i, array in enumerate([*arrays, momentum]):
            archive.writestr(f"model_final/data/{i}", array.tobytes())
    return path


@pytest.mark.parametrize("method", SIZES)
def test_every_leaf_comes_out_as_it_went_in(method, tmp_path):
    tensors, leaves = published(method)
    path = write_checkpoint(tmp_path / "model_final.pth", tensors)
    out, size = convert_checkpoint(path, method, tmp_path / "out")
    assert size == "small"
    found = load_file(out / "model.safetensors")
    assert found.keys() == leaves.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    config = json.loads((out / "config.json").read_text())
    assert (config["method"], config["size"]) == (method, "small")
    assert config["source"]["file"] == "model_final.pth"


@pytest.mark.parametrize("method", ["catseg", "hops"])
def test_a_converted_checkpoint_segments_photos(method, tokenizer, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "model.pth", published(method)[0])
    out = tmp_path / "converted"
    command = ["convert", "--method", method, str(path), "--out", str(out)]
    assert main([*command, "--tokenizer", str(tokenizer)]) == 0
    assert f"{method} small" in capsys.readouterr().out
    photo = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    segmenter = load(out)
    result = segmenter(photo, "dog: head, leg; car: wheel; sky")
    assert result.object_map.shape == result.part_map.shape == (40, 56)
    assert set(np.unique(result.object_map)) <= {-1, 0, 1, 2}
    owners = np.append(result.vocabulary.part_to_object, -1)
    labelled = result.part_map >= 0
    assert labelled.any()
    assert (owners[result.part_map][labelled] == result.object_map[labelled]).all()
    if method == "hops":  # the larger of dog and car alone has been searched
        assert result.passed_over == 1
        assert len(np.unique(owners[result.part_map[labelled]])) == 1
    else:
        _assert_stretched(segmenter, trained.METHODS[method].plan("small"), photo, result)


def _assert_stretched(segmenter, plan, photo, result):
    """The numbers are those of the method for the canvas that the photo is stretched to."""
    side = segmenter.canvases[0][0]
    canvas = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))
    text = segmenter.words(result.vocabulary)
    run = jax.jit(lambda weights, *inputs: plan.merge(weights)(*inputs))
    direct = run(segmenter.weights, canvas[None], text, np.ones((1, side, side), bool))
    content = np.asarray([side, side], np.int32)
    scores, *_ = segmenter._score(segmenter.weights, canvas[None], content, text)
    np.testing.assert_allclose(scores.objects, direct.objects[0], atol=1e-4)


def test_what_does_not_fit_is_all_named(tmp_path):
    tensors, _ = published("catseg")
    head = "sem_seg_head.predictor.transformer."
    tensors["surprise.weight"] = np.zeros(3, np.float32)
    tensors[head + "conv1.weight"] = tensors[head + "conv1.weight"][:, :, 1:]
    del tensors["upsample1.bias"]
    path = write_checkpoint(tmp_path / "model.pth", tensors)
    with pytest.raises(UserError) as caught:
        convert_checkpoint(path, "catseg", tmp_path / "out")
    told = str(caught.value)
    assert "3 problems" in told
    assert "surprise.weight: unexpected" in told
    assert "conv1.weight -> head/embedding/conv/kernel: misshapen" in told
    assert "upsample/0/bias: missing" in told
    assert not (tmp_path / "out").exists()


def test_another_method_or_size_is_one_sentence(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "hops.pth", published("hops")[0])
    out = str(tmp_path / "out")
    for asked in ("partcatseg", "catseg", "pcaseg"):
        assert main(["convert", "--method", asked, str(path), "--out", out]) == 2
        told = capsys.readouterr().err
        assert "is a checkpoint of hops: convert it with --method hops" in told
        assert len(told.splitlines()) == 1
    wide = write_checkpoint(tmp_path / "wide.pth", published("catseg", "wide")[0])
    with pytest.raises(UserError, match=r"is not of size small: it has the encoder of wide"):
        convert_checkpoint(wide, "catseg", out, size="small")
    with pytest.raises(UserError, match="unknown size 'huge' of catseg"):
        convert_checkpoint(wide, "catseg", out, size="huge")
    assert convert_checkpoint(wide, "catseg", out)[1] == "wide"
    other = write_checkpoint(tmp_path / "other.pth", {"layer.weight": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match="is no checkpoint of a method known here"):
        convert_checkpoint(other, "catseg", tmp_path / "another")


def test_a_folder_that_was_tampered_with_is_refused(tokenizer, tmp_path):
    path = write_checkpoint(tmp_path / "model.pth", published("catseg")[0])
    out, _ = convert_checkpoint(path, "catseg", tmp_path / "out", tokenizer=tokenizer)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"size": "wide"}))
    with pytest.raises(UserError, match="does not fit catseg wide, convert it again"):
        load(out)
    (out / "config.json").write_text(json.dumps(config | {"method": "catsek"}))
    with pytest.raises(UserError, match="unknown method 'catsek': did you mean 'catseg'"):
        load(out)
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="`like` and `detail` are not for those"):
        load(out, detail=2)
    with pytest.raises(UserError, match="unknown setting 'crop_size'"):
        load(out, crop_size=32)


def test_a_published_model_that_is_not_here_says_what_to_fetch(tokenizer, tmp_path):
    with pytest.raises(
        UserError, match=r"fetch model_base\.pth .* --method catseg model_base\.pth"
    ):
        load("catseg-b16")
    with pytest.raises(UserError, match="its authors published no weights"):
        load("hops-b16-partimagenet")


def test_every_published_model_has_a_size_that_exists():
    found = [preset for preset in presets().values() if preset.is_trained]
    assert {preset.method for preset in found} == set(SIZES)
    for preset in found:
        assert preset.size in PUBLISHED_SIZES[preset.method], preset.name
        assert not preset.is_shipped
        assert not is_on_disk(preset)
