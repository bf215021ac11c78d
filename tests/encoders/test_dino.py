"""DINOv2: its tokens in their order, and its accessors consistent with each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from opvseg_jax.core.weights import blueprint, flatten
from opvseg_jax.encoders.dino import Dino


def build(dtype=None):
    return Dino(
        image_size=16,
        patch_size=4,
        width=24,
        num_layers=2,
        num_heads=3,
        mlp_dim=48,
        num_registers=2,
        dtype=dtype,
        rngs=nnx.Rngs(0),
    )


IMAGES = jax.random.normal(jax.random.key(0), (2, 12, 20, 3))


@pytest.fixture(scope="module")
def outputs():
    plan = blueprint(build)

    @jax.jit
    def run(leaves, images):
        dino = plan.merge(leaves)
        encoded = dino.encode(images, attention=(1,), per_head=True)
        return {
            "features": dino(images),
            "alone": dino(images[1:]),
            "layers": dino.intermediate(images, (0, 1)),
            "tokens": dino.norm_post(encoded.tokens),
            "map": encoded.attention[1],
            "class": dino.class_attention(images),
        }

    return run(flatten(build()), IMAGES)


def test_tokens_are_class_registers_patches(outputs):
    features, tokens = outputs["features"], outputs["tokens"]
    np.testing.assert_allclose(features.cls, tokens[:, 0], atol=1e-6)
    np.testing.assert_allclose(features.registers, tokens[:, 1:3], atol=1e-6)
    np.testing.assert_allclose(features.patches.reshape(2, 15, 24), tokens[:, 3:], atol=1e-6)
    assert features.patches.shape == (2, 3, 5, 24)


def test_the_last_intermediate_layer_is_the_output(outputs):
    first, last = outputs["layers"]
    np.testing.assert_allclose(last.patches, outputs["features"].patches, atol=1e-6)
    assert np.abs(first.patches - last.patches).max() > 1e-2


def test_class_attention_is_the_class_row_over_patches(outputs):
    want = outputs["map"][:, :, 0, 3:].reshape(2, 3, 3, 5)
    np.testing.assert_allclose(outputs["class"], want, atol=1e-6)


def test_the_rest_of_the_batch_does_not_matter(outputs):
    np.testing.assert_allclose(outputs["alone"].cls, outputs["features"].cls[1:], atol=1e-5)


def test_bfloat16_stays_near_float32(outputs):
    """Within 5 % of the range: bfloat16 has 8 bits."""
    plan = blueprint(lambda: build(jnp.bfloat16))
    half = jax.jit(lambda leaves, x: plan.merge(leaves)(x))(flatten(build()), IMAGES)
    want = outputs["features"].patches
    assert half.patches.dtype == jnp.bfloat16
    assert np.abs(half.patches.astype(jnp.float32) - want).max() < 0.05 * np.ptp(want)


def test_sides_must_be_multiples_of_the_patch():
    with pytest.raises(ValueError, match="multiples of 4, got 12x18"):
        build()(jnp.zeros((1, 12, 18, 3)))
