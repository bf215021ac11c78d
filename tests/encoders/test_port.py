"""Every table goes both ways, and knows exactly the published names."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import blueprint
from opvseg_jax.encoders import port_clip, port_dino
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower
from opvseg_jax.port.rules import convert, publish

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
CLIP = ClipSize(16, 4, Tower(12, 3, 2, 20), Tower(8, 3, 2, 16), 6, vocab_size=11, context=5)
DINO = DinoSize(Tower(12, 2, 2, 16), num_registers=2, image_size=28)
DINO_SWIGLU = DinoSize(Tower(12, 2, 2, 16), swiglu=True, image_size=28)
TABLES = [
    ("openai", CLIP, port_clip.OPENAI),
    ("openai split", CLIP, port_clip.OPENAI_SPLIT),
    ("clip huggingface", CLIP, port_clip.HUGGINGFACE),
    ("meta", DINO, port_dino.META),
    ("meta swiglu", DINO_SWIGLU, port_dino.META_SWIGLU),
    ("dino huggingface", DINO, port_dino.HUGGINGFACE),
    ("dino huggingface swiglu", DINO_SWIGLU, port_dino.HUGGINGFACE_SWIGLU),
]


def shapes_of(size) -> dict:
    return blueprint(lambda: size.build(rngs=nnx.Rngs(0))).shapes


def random_leaves(size) -> dict:
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in shapes_of(size).items()
    }


@pytest.mark.parametrize(("size", "rules"), [t[1:] for t in TABLES], ids=[t[0] for t in TABLES])
def test_tables_go_both_ways(size, rules):
    leaves = random_leaves(size)
    published = publish(rules, leaves)
    back = convert(rules, published, shapes_of(size))
    assert back.keys() == leaves.keys()
    assert all(np.array_equal(back[path], leaves[path]) for path in leaves)
    again = publish(rules, back)
    assert all(np.array_equal(again[name], published[name]) for name in published)


def test_the_openai_names_are_those_of_the_archives():
    stored = json.loads((GOLDEN / "clip" / "fp16_storage.json").read_text())
    names = set(stored["dtype_after_fp16_conversion"])
    assert set(publish(port_clip.OPENAI, random_leaves(CLIP))) == names


def test_half_precision_archives_become_float32():
    published = publish(port_clip.OPENAI, random_leaves(CLIP))
    half = {name: array.astype(np.float16) for name, array in published.items()}
    leaves = convert(port_clip.OPENAI, half, shapes_of(CLIP))
    assert {leaf.dtype for leaf in leaves.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("rules", "extra"),
    [
        (port_clip.OPENAI, "input_resolution"),
        (port_clip.OPENAI, "context_length"),
        (port_clip.HUGGINGFACE, "text_model.embeddings.position_ids"),
        (port_clip.HUGGINGFACE, "vision_model.embeddings.position_ids"),
    ],
)
def test_what_files_hold_besides_weights_is_left_out(rules, extra):
    published = publish(rules, random_leaves(CLIP)) | {extra: np.arange(3)}
    assert convert(rules, published, shapes_of(CLIP)).keys() == shapes_of(CLIP).keys()


def test_chunked_training_checkpoints_are_understood():
    leaves = random_leaves(DINO)
    published = {
        name.replace("blocks.", "blocks.0.", 1): array
        for name, array in publish(port_dino.META, leaves).items()
    }
    back = convert(port_dino.META, published, shapes_of(DINO))
    assert all(np.array_equal(back[path], leaves[path]) for path in leaves)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_all_named():
    published = publish(port_clip.OPENAI, random_leaves(CLIP))
    del published["visual.proj"]
    published["visual.head"] = np.zeros(3)
    published["ln_final.bias"] = np.zeros(9)
    with pytest.raises(UserError) as error:
        convert(port_clip.OPENAI, published, shapes_of(CLIP))
    for name in ("vision/projection/kernel", "visual.head", "ln_final.bias"):
        assert name in str(error.value)
