"""Published sizes, and sizes from a config.json, without allocating a single weight."""

import dataclasses
import math

import pytest
from flax import nnx

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import blueprint
from opvseg_jax.encoders import sizes
from opvseg_jax.encoders.sizes import Tower, from_hf_config


def count(size, *towers: str) -> int:
    """Parameters of a size. Blocks are alike: one and two of them tell what many have."""

    def with_blocks(**number: int) -> int:
        change = {
            name: dataclasses.replace(getattr(size, name), num_layers=number.get(name, 1))
            for name in towers
        }
        plan = blueprint(lambda: dataclasses.replace(size, **change).build(rngs=nnx.Rngs(0)))
        return sum(math.prod(leaf.shape) for leaf in plan.shapes.values())

    one = with_blocks()
    more = (
        (with_blocks(**{name: 2}) - one) * (getattr(size, name).num_layers - 1) for name in towers
    )
    return one + sum(more)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("S/14", 22_056_576),
        ("B/14", 86_580_480),
        ("L/14", 304_368_640),
        ("g/14", 1_136_480_768),
        ("S/14-registers", 22_058_112),
        ("B/14-registers", 86_583_552),
        ("L/14-registers", 304_372_736),
        ("g/14-registers", 1_136_486_912),
    ],
)
def test_dinov2_has_the_published_number_of_parameters(name, published):
    size = sizes.DINOV2_SIZES[name]
    mask_token = size.tower.width  # published with the others, used by none
    assert count(size, "tower") + mask_token == published


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("B/32", 151_277_313),
        ("B/16", 149_620_737),
        ("L/14", 427_616_513),
        ("L/14@336", 427_944_193),
    ],
)
def test_clip_has_the_published_number_of_parameters(name, published):
    assert count(sizes.CLIP[name], "vision", "text") == published


def test_what_a_clip_config_leaves_out_has_its_default():
    config = {
        "model_type": "clip",
        "projection_dim": 512,
        "text_config": {"eos_token_id": 2},
        "vision_config": {"patch_size": 16},
    }
    size = from_hf_config(config)
    assert size.vision == sizes.CLIP["B/16"].vision
    assert size.text == sizes.CLIP["B/16"].text
    assert (size.patch_size, size.end_token, size.context) == (16, None, 77)


def test_every_key_of_a_clip_config_is_heard():
    def tower(**more):
        named = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
        return (
            named | {"intermediate_size": 40, "layer_norm_eps": 1e-6, "hidden_act": "gelu"} | more
        )

    size = from_hf_config(
        {
            "model_type": "clip",
            "projection_dim": 12,
            "vision_config": tower(image_size=32, patch_size=8),
            "text_config": tower(vocab_size=90, max_position_embeddings=16, eos_token_id=4),
        }
    )
    assert size.vision == size.text == Tower(24, 2, 3, 40)
    assert (size.image_size, size.patch_size, size.embed_dim) == (32, 8, 12)
    assert (size.vocab_size, size.context, size.end_token) == (90, 16, 4)
    assert (size.epsilon, size.vision_activation, size.text_activation) == (1e-6, "gelu", "gelu")


def test_dinov2_configs_are_heard():
    config = {
        "model_type": "dinov2_with_registers",
        "hidden_size": 1536,
        "num_hidden_layers": 40,
        "num_attention_heads": 24,
        "use_swiglu_ffn": True,
        "image_size": 518,
        "patch_size": 14,
    }
    got, want = from_hf_config(config), sizes.DINOV2_SIZES["g/14-registers"]
    assert (got.tower, got.num_registers, got.swiglu) == (want.tower, 4, True)
    assert from_hf_config(config | {"model_type": "dinov2"}).num_registers == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip"}, "expected model_type clip"),
        ({"model_type": "clip", "text_config": {"hidden_act": "swish"}}, "'swish' is not support"),
        ({"model_type": "dinov2", "qkv_bias": False}, "expected a DINOv2 with qkv_bias"),
        ({"model_type": "clip", "text_config": {"layer_norm_eps": 1e-6}}, "different layer_norm"),
    ],
)
def test_other_models_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        from_hf_config(config)
