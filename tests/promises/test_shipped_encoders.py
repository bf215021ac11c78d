"""The tiny encoders come with the package: they load, they are small, and their logs are there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.core.assets import package_file
from opvseg_jax.hub.encoders import load_clip, load_dino
from opvseg_jax.hub.shipped import problems
from opvseg_jax.text.tokenizer import Tokenizer

NAMES = ("tiny_clip", "tiny_dino")


def test_together_they_take_at_most_eight_megabytes():
    sizes = [p.stat().st_size for name in NAMES for p in package_file("hub", name).rglob("*")]
    assert sum(sizes) <= 8_000_000


def test_no_file_differs_from_what_was_published():
    assert problems() == []


@pytest.mark.parametrize("name", NAMES)
def test_the_log_of_the_training_is_there(name):
    rows = [json.loads(line) for line in package_file("hub", name, "train_log.jsonl").open()]
    assert rows[-1]["step"] >= 100
    losses = [v for row in rows for key, v in row.items() if key.startswith("loss")]
    assert losses
    assert np.isfinite(losses).all()


def test_the_clip_loads_with_its_tokenizer():
    folder = package_file("hub", "tiny_clip")
    loaded = load_clip(folder)
    tokens = Tokenizer.from_folder(folder, loaded.size.context)(["a dog", "dog's head"])

    @jax.jit
    def both(weights, images, tokens):
        clip = loaded.plan.merge(weights)
        return clip.vision.pooled(images), clip.text(tokens)

    size = loaded.size.image_size
    pooled, texts = both(loaded.weights, jnp.zeros((1, size, size, 3)), tokens)
    assert pooled.shape[-1] == texts.shape[-1] == loaded.size.embed_dim
    assert np.isfinite(pooled).all()
    assert np.isfinite(texts).all()


def test_the_dino_loads_and_has_not_collapsed():
    loaded = load_dino(package_file("hub", "tiny_dino"))
    images = jax.random.normal(jax.random.key(0), (2, 64, 96, 3))
    features = jax.jit(lambda weights, x: loaded.plan.merge(weights)(x))(loaded.weights, images)
    assert features.patches.shape == (2, 8, 12, loaded.size.tower.width)
    assert np.isfinite(features.patches).all()
    assert features.patches.std(axis=(0, 1, 2)).mean() > 0.1
