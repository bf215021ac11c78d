"""Loading encoders: every published form gives the same model, and every broken one a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.encoders import port_clip
from opvseg_jax.encoders.positions import DINOV2, DINOV2_REGISTERS, HUGGINGFACE
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower, from_hf_config
from opvseg_jax.hub.encoders import load_clip, load_dino, save_clip, save_dino
from opvseg_jax.port.rules import publish
from opvseg_jax.text.tokenizer import train_tokenizer

CLIP_CONFIG = {
    "model_type": "clip",
    "projection_dim": 12,
    "vision_config": {
        "image_size": 24,
        "patch_size": 8,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 40,
    },
    "text_config": {
        "vocab_size": 520,
        "max_position_embeddings": 16,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 48,
        "eos_token_id": 2,
    },
}
DINO_CONFIG = {
    "model_type": "dinov2",
    "image_size": 42,
    "patch_size": 14,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "mlp_ratio": 2,
}
DINO_CONFIGS = {
    "plain": DINO_CONFIG,
    "registers": {
        **DINO_CONFIG,
        "model_type": "dinov2_with_registers",
        "num_register_tokens": 2,
    },
    "swiglu": {**DINO_CONFIG, "use_swiglu_ffn": True},
}


def _random(size: ClipSize | DinoSize, seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers that half precision holds exactly, so that every form must give them back."""
    random = np.random.default_rng(seed)
    shapes = blueprint(lambda: size.build(rngs=nnx.Rngs(0))).shapes
    return {
        path: random.integers(-64, 64, leaf.shape).astype(np.float32) / 256
        for path, leaf in shapes.items()
    }


CLIP_WEIGHTS = _random(from_hf_config(CLIP_CONFIG))


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("OPVSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a dog", "the dog's tail"], 520, folder, context=16)
    return (folder / "tokenizer.json").read_text()


@pytest.fixture
def clip_folder(tmp_path, tokenizer_json) -> Path:
    folder = tmp_path / "clip"
    save_clip(folder, CLIP_WEIGHTS, CLIP_CONFIG)
    (folder / "tokenizer.json").write_text(tokenizer_json)
    return folder


def _same(weights, expected) -> None:
    assert weights.keys() == expected.keys()
    for path, leaf in weights.items():
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def _edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# CLIP


def test_a_saved_clip_is_an_ordinary_huggingface_folder(clip_folder):
    arrays = load_file(clip_folder / "model.safetensors")
    assert {array.dtype.name for array in arrays.values()} == {"float16"}
    assert arrays["vision_model.encoder.layers.1.self_attn.q_proj.weight"].shape == (64, 64)
    assert arrays["visual_projection.weight"].shape == (12, 64)
    assert json.loads((clip_folder / "config.json").read_text()) == CLIP_CONFIG


def test_what_was_saved_is_what_is_loaded_and_it_runs(clip_folder):
    clip = load_clip(clip_folder)
    _same(clip.weights, CLIP_WEIGHTS)
    assert clip.size == from_hf_config(CLIP_CONFIG)
    assert clip.tokenizer == clip_folder
    assert clip.mean == (0.48145466, 0.4578275, 0.40821073)
    tokens = jnp.array([[518, 3, 519, 0]])
    logits = jax.jit(lambda w, x: clip.plan.merge(w)(x, tokens))(
        clip.weights, jnp.ones((1, 24, 24, 3))
    )
    assert np.isfinite(logits).all()


def test_the_compute_type_is_chosen_and_weights_stay_float32(clip_folder):
    clip = load_clip(clip_folder, dtype=jnp.bfloat16)
    _same(clip.weights, CLIP_WEIGHTS)
    images = jnp.ones((1, 24, 24, 3))
    pooled = jax.eval_shape(lambda w: clip.plan.merge(w).vision.pooled(images), clip.weights)
    assert pooled.dtype == jnp.bfloat16


def test_shards_and_pickled_weights_give_the_same_model(clip_folder, write_torch_file):
    whole = load_file(clip_folder / "model.safetensors")
    (clip_folder / "model.safetensors").unlink()
    write_torch_file(clip_folder / "pytorch_model.bin", whole)
    _same(load_clip(clip_folder).weights, CLIP_WEIGHTS)

    files = {name: f"model-0000{i % 2}-of-2.safetensors" for i, name in enumerate(whole)}
    for file in set(files.values()):
        part = {name: array for name, array in whole.items() if files[name] == file}
        save_file(part, clip_folder / file)
    index = clip_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    (clip_folder / "pytorch_model.bin").unlink()
    _same(load_clip(clip_folder).weights, CLIP_WEIGHTS)


def test_an_openai_archive_gives_the_same_model(tmp_path, write_torch_file, tokenizer_json):
    archive = publish(port_clip.OPENAI, CLIP_WEIGHTS)
    archive = {name: array.astype(np.float16) for name, array in archive.items()}
    archive["context_length"] = np.array(16)
    archive["transformer.resblocks.0.attn_mask"] = np.zeros((16, 16), np.float32)
    path = write_torch_file(tmp_path / "ViT-tiny.pt", archive)
    with pytest.raises(UserError, match=r"without its tokenizer: put bpe_simple_vocab_16e6"):
        load_clip(path)
    (tmp_path / "tokenizer.json").write_text(tokenizer_json)
    clip = load_clip(path)
    _same(clip.weights, CLIP_WEIGHTS)
    assert clip.size == from_hf_config(CLIP_CONFIG)
    assert clip.tokenizer == tmp_path


def test_a_repository_in_the_users_folder_is_found(clip_folder, tmp_path):
    own = tmp_path / "cache" / "models" / "owner--clip"
    own.parent.mkdir(parents=True)
    clip_folder.rename(own)
    _same(load_clip("owner/clip").weights, CLIP_WEIGHTS)
    with pytest.raises(UserError, match=r"download config\.json and .* of .* owner/other into"):
        load_clip("owner/other")


# DINOv2


@pytest.mark.parametrize("kind", DINO_CONFIGS)
def test_both_forms_of_dino_give_the_same_model(tmp_path, write_torch_file, kind):
    size = from_hf_config(DINO_CONFIGS[kind])
    weights = _random(size)
    save_dino(tmp_path / "dino", weights, DINO_CONFIGS[kind])
    published = publish(size.meta_rules, weights)
    published["mask_token"] = np.zeros((1, 64), np.float32)
    path = write_torch_file(tmp_path / "dinov2_vitt14_pretrain.pth", published)

    folder, meta = load_dino(tmp_path / "dino"), load_dino(path)
    for loaded in (folder, meta):
        _same(loaded.weights, weights)
        assert loaded.size == size
        assert loaded.mean == (0.485, 0.456, 0.406)
    images = jnp.ones((1, 42, 42, 3))
    out = jax.eval_shape(lambda w: meta.plan.merge(w)(images), meta.weights)
    assert out.patches.shape == (1, 3, 3, 64)


def test_positions_are_resized_as_the_publisher_does(tmp_path, write_torch_file):
    """Without registers Meta's code and Transformers differ at every size but the native one."""
    size = from_hf_config(DINO_CONFIG)
    weights = _random(size)
    save_dino(tmp_path / "dino", weights, DINO_CONFIG)
    path = write_torch_file(tmp_path / "dino.pth", publish(size.meta_rules, weights))

    def positions(loaded) -> np.ndarray:
        return jax.jit(lambda w: loaded.plan.merge(w).positions_for((5, 4)))(loaded.weights)

    folder, meta = positions(load_dino(tmp_path / "dino")), positions(load_dino(path))
    assert np.abs(folder - meta).max() > 1e-3
    told = positions(load_dino(tmp_path / "dino", position_rule=DINOV2))
    np.testing.assert_array_equal(told, meta)
    smooth = positions(load_dino(path, position_rule=DINOV2_REGISTERS))
    assert np.abs(smooth - meta).max() > 1e-3
    assert np.array_equal(positions(load_dino(path, position_rule=HUGGINGFACE)), folder)


def test_a_training_checkpoint_with_chunked_blocks_is_read(tmp_path, write_torch_file):
    size = from_hf_config(DINO_CONFIG)
    weights = _random(size)
    published = publish(size.meta_rules, weights)
    chunks = {"blocks.0.": "blocks.0.0.", "blocks.1.": "blocks.0.1.", "blocks.2.": "blocks.1.2."}
    for plain, chunked in chunks.items():
        for name in [name for name in published if name.startswith(plain)]:
            published[chunked + name.removeprefix(plain)] = published.pop(name)
    loaded = load_dino(write_torch_file(tmp_path / "teacher.pth", published))
    _same(loaded.weights, weights)


def test_a_blueprint_without_random_numbers_is_the_same_blueprint():
    """`ShapeRngs` is what loading uses, because tracing `nnx.Rngs` takes ten times as long."""
    size = from_hf_config(DINO_CONFIGS["swiglu"])
    fast, usual = (blueprint(lambda r=r: size.build(rngs=r())) for r in (ShapeRngs, _zero_rngs))
    assert fast.shapes == usual.shapes
    assert fast.graphdef == usual.graphdef


def _zero_rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


# What goes wrong


def test_broken_folders_are_one_sentence_each(clip_folder):
    weights = clip_folder / "model.safetensors"
    whole = weights.read_bytes()
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (whole[:-100], "cut short, 100 bytes are missing"),
        (b"", "is empty"),
    ):
        weights.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            load_clip(clip_folder)
        assert str(weights) in str(caught.value)
        assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(UserError, match=r"has no weights: expected one of model\.safetensors"):
        load_clip(clip_folder)
    (clip_folder / "tokenizer.json").unlink()
    weights.write_bytes(whole)
    with pytest.raises(UserError, match=r"has no tokenizer: add tokenizer\.json"):
        load_clip(clip_folder)


def test_another_architecture_is_told_by_its_name(clip_folder, tmp_path):
    with pytest.raises(UserError, match="holds a clip: expected a DINOv2"):
        load_dino(clip_folder)
    _edit(clip_folder / "config.json", model_type="siglip")
    with pytest.raises(UserError, match=r"clip: config\.json is of a 'siglip'"):
        load_clip(clip_folder)
    (clip_folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="is not a description of a model"):
        load_clip(clip_folder)
    (clip_folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_clip(clip_folder)
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_clip(tmp_path / "nowhere")


def test_all_tensors_that_do_not_fit_are_listed(clip_folder):
    path = clip_folder / "model.safetensors"
    arrays = load_file(path)
    arrays["extra.weight"] = arrays.pop("logit_scale")
    arrays["visual_projection.weight"] = np.zeros((13, 64), np.float32)
    save_file(arrays, path)
    with pytest.raises(UserError) as caught:
        load_clip(clip_folder)
    message = str(caught.value)
    assert message.startswith(f"{clip_folder}: the weights do not fit the model, 3 problems")
    assert "extra.weight: unexpected" in message
    assert "logit_scale: missing" in message
    assert "visual_projection.weight -> vision/projection/kernel: misshapen" in message


def test_other_torch_files_are_told_apart(tmp_path, write_torch_file):
    resnet = {"visual.layer1.0.conv1.weight": np.zeros((1, 1, 1, 1), np.float32)}
    path = write_torch_file(tmp_path / "RN50.pt", resnet)
    with pytest.raises(UserError, match="is a CLIP with a ResNet"):
        load_clip(path)
    path = write_torch_file(tmp_path / "other.pth", {"fc.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match="is not a CLIP with OpenAI's names"):
        load_clip(path)
    with pytest.raises(UserError, match="is not a DINOv2 with Meta's names"):
        load_dino(path)


def test_saving_refuses_what_could_not_be_loaded(tmp_path):
    config = {**CLIP_CONFIG, "projection_dim": 13}
    with pytest.raises(UserError, match="misshapen"):
        save_clip(tmp_path, CLIP_WEIGHTS, config)
    large = {**CLIP_WEIGHTS, "logit_scale": np.float32(1e6)}
    with pytest.raises(ValueError, match="logit_scale has values that are not finite in float16"):
        save_clip(tmp_path, large, CLIP_CONFIG)
    assert list(tmp_path.iterdir()) == []


# Memory

PEAK = """
import sys
import jax
from pathlib import Path
from opvseg_jax.hub.encoders import load_dino

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

jax.block_until_ready(jax.numpy.ones(3) + 1)
before = kilobytes("VmRSS")
weights = jax.block_until_ready(load_dino(sys.argv[1]).weights)
used = 1024 * (kilobytes("VmHWM") - before)
print(used / sum(leaf.nbytes for leaf in weights.values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own counters")
def test_loading_needs_little_more_memory_than_the_weights(tmp_path):
    config = {**DINO_CONFIG, "hidden_size": 768, "num_hidden_layers": 8, "mlp_ratio": 4}
    size = from_hf_config({**config, "num_attention_heads": 12})
    shapes = blueprint(lambda: size.build(rngs=nnx.Rngs(0))).shapes
    leaves = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    published = publish(size.huggingface_rules, leaves)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(published, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size > 200e6
    run = [sys.executable, "-c", PEAK, str(tmp_path)]
    ratio = float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert 0.95 < ratio < 1.3
    assert size.tower == Tower(768, 8, 12, 3072)
