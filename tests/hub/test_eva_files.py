"""EVA-02-CLIP and DeCLIP from their files, and encoders whose size is all that is wanted."""

import numpy as np
import pytest

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.encoders.port_eva_clip import EVA_CLIP
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower
from opvseg_jax.hub.encoders import encoder_size, load_eva_clip, tokenizer_for
from opvseg_jax.hub.presets import shipped
from opvseg_jax.port.rules import publish

SIZE = EvaClipSize(16, 4, Tower(16, 2, 2, 21), Tower(12, 1, 2, 24), 8, vocab_size=20, context=6)
PLACES = "visual.pos_embed"


@pytest.fixture(scope="module")
def leaves():
    rng = np.random.default_rng(0)
    shapes = blueprint(lambda: SIZE.build(rngs=ShapeRngs())).shapes
    return {p: rng.standard_normal(s.shape).astype(np.float32) for p, s in shapes.items()}


@pytest.fixture
def file(leaves, tmp_path, write_torch_file):
    def write(**changes: np.ndarray):
        arrays = {**publish(EVA_CLIP, leaves), **changes}
        return write_torch_file(
            tmp_path / "declip.pt", {f"module.{name}": array for name, array in arrays.items()}
        )

    return write


def test_every_leaf_of_a_file_is_read(file, leaves):
    found = load_eva_clip(file(), SIZE)
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(found[path], leaf)


def test_positions_of_another_grid_are_resized(file, leaves):
    table = np.zeros((1, 1 + 35 * 35, 16), np.float32)
    table[0, 0], table[0, 1:] = 3.0, 7.0
    found = load_eva_clip(file(**{PLACES: table}), SIZE)["vision/positions"]
    assert found.shape == leaves["vision/positions"].shape
    np.testing.assert_allclose(found[0], 3.0)
    np.testing.assert_allclose(found[1:], 7.0, rtol=1e-6)


def test_a_file_of_another_size_is_refused(file):
    wide = np.zeros((1, 17, 24), np.float32)
    with pytest.raises(UserError, match=r"declip.pt.*visual.pos_embed.*misshapen|positions"):
        load_eva_clip(file(**{PLACES: wide}), SIZE)


def test_the_size_of_an_encoder_is_had_without_its_weights(tmp_path):
    clip, dino = encoder_size(shipped("tiny_clip")), encoder_size(shipped("tiny_dino"))
    assert isinstance(clip, ClipSize)
    assert isinstance(dino, DinoSize)
    assert (clip.patch_size, dino.patch_size) == (8, 8)
    assert tokenizer_for(shipped("tiny_clip")) == shipped("tiny_clip")
    (tmp_path / "config.json").write_text(
        (shipped("tiny_clip") / "config.json").read_text(encoding="utf-8")
    )
    assert encoder_size(tmp_path) == clip
