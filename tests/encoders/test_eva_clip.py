"""EVA-02-CLIP: rotary positions, dense modes, published sizes and names."""

import jax
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import blueprint, flatten
from opvseg_jax.encoders import port_eva_clip
from opvseg_jax.encoders.eva_clip import (
    EVA_CLIP,
    EvaClipSize,
    rotary_tables,
    rotate,
)
from opvseg_jax.encoders.sizes import Tower
from opvseg_jax.port.rules import convert, publish

SIZE = EvaClipSize(16, 4, Tower(16, 2, 2, 21), Tower(12, 1, 2, 24), 8, vocab_size=20, context=6)


def build():
    return SIZE.build(rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def clip():
    return build()


def images(count: int = 1, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, side, side, 3)).astype(np.float32)


def test_rotated_products_depend_on_the_distance_alone():
    grid, width = (4, 5), 8
    query, key = np.random.default_rng(0).standard_normal((2, width)).astype(np.float32)
    tables = rotary_tables(grid, width)

    def product(at: tuple[int, int], to: tuple[int, int]) -> float:
        places = [1 + row * grid[1] + column for row, column in (at, to)]
        turned = [
            rotate(vector.reshape(1, 1, 1, width), *(table[place : place + 1] for table in tables))
            for vector, place in zip((query, key), places, strict=True)
        ]
        return float((turned[0] * turned[1]).sum())

    assert product((0, 0), (1, 2)) == pytest.approx(product((2, 2), (3, 4)), rel=1e-4)
    assert product((0, 0), (1, 2)) != pytest.approx(product((0, 0), (2, 1)), rel=1e-2)


def test_the_class_token_is_not_turned():
    cosines, sines = rotary_tables((3, 3), 8)
    assert (cosines[0] == 1).all()
    assert (sines[0] == 0).all()


@pytest.mark.parametrize("mode", ["csa", "maskclip", "vanilla"])
def test_dense_features_of_an_image_do_not_depend_on_its_batch(clip, mode):
    forward = jax.jit(lambda x: clip.vision.dense(x, mode=mode)[0])
    together = forward(images(2))
    assert together.shape == (2, 4, 4, 8)
    np.testing.assert_allclose(forward(images(2)[1:])[0], together[1], rtol=1e-5, atol=1e-5)


def test_an_unknown_mode_is_refused_with_the_known_ones(clip):
    with pytest.raises(ValueError, match="csa, qq"):
        clip.vision.dense(images(), mode="severed")


def test_a_layer_that_is_never_reached_cannot_be_kept(clip):
    with pytest.raises(ValueError, match=r"\[1\]"):
        jax.eval_shape(lambda x: clip.vision.dense(x, hidden=(1,)), images())


def test_other_sizes_of_image_are_possible(clip):
    shape = jax.eval_shape(clip.vision.pooled, images(side=24)).shape
    assert shape == (1, 8)


def test_published_sizes():
    shapes = blueprint(lambda: EVA_CLIP["EVA02-B/16"].build(rngs=nnx.Rngs(0))).shapes
    assert shapes["vision/positions"].shape == (197, 768)
    assert shapes["vision/blocks/0/mlp/gate/kernel"].shape == (768, 2048)
    assert "vision/blocks/0/attention/key/bias" not in shapes
    assert EVA_CLIP["EVA02-L/14@336"].vision.mlp_dim == 2730


def test_published_names_there_and_back(clip):
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(clip).items()}
    published = publish(port_eva_clip.EVA_CLIP, leaves)
    assert published["visual.pos_embed"].shape == (1, 17, 16)
    assert published["visual.cls_token"].shape == (1, 1, 16)
    rope = {"visual.blocks.0.attn.rope.freqs_cos": np.ones((16, 8))}  # files hold it, unneeded
    again = convert(port_eva_clip.EVA_CLIP, published | rope, leaves)
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(again[path], leaf)


def test_every_problem_of_a_file_is_named(clip):
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(clip).items()}
    published = publish(port_eva_clip.EVA_CLIP, leaves)
    del published["visual.blocks.1.attn.q_bias"]
    published["visual.blocks.1.attn.k_bias"] = np.zeros(16)
    published["visual.norm.weight"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        convert(port_eva_clip.EVA_CLIP, published, leaves)
    for text in (
        "vision/blocks/1/attention/query/bias: missing",
        "k_bias: unexpected",
        "vision/norm_post/scale: misshapen",
    ):
        assert text in str(error.value)
