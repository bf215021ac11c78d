"""A CLIP of its own for tests of export: random, tiny, in a folder as any other."""

import numpy as np
import pytest

CONFIG = {
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    },
    "text_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 540,
        "max_position_embeddings": 20,
        "eos_token_id": 2,  # the largest id of a text
    },
}
WORDS = {"dog": ["head", "leg"], "car": ["wheel"], "sky": []}


def random_clip(folder):
    """Writes the folder of a CLIP with random weights."""
    from opvseg_jax.core.weights import ShapeRngs, blueprint
    from opvseg_jax.encoders.sizes import from_hf_config
    from opvseg_jax.hub.encoders import save_clip
    from opvseg_jax.text.tokenizer import train_tokenizer

    train_tokenizer(["a dog with a head and a wheel"] * 3, 540, folder, context=20)
    plan = blueprint(lambda: from_hf_config(CONFIG).build(rngs=ShapeRngs()))
    rng = np.random.default_rng(0)
    weights = {}
    for path, leaf in sorted(plan.shapes.items()):
        # Positions and biases stay small, or every patch would look the same.
        size = 0.3 if path.endswith(("kernel", "token_embedding")) else 0.02
        leaf = size * rng.standard_normal(leaf.shape) + path.endswith("scale")
        weights[path] = leaf.astype(np.float32)
    weights["logit_scale"] = np.float32(3.0)
    save_clip(folder, weights, CONFIG)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return random_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def segmenter(clip_folder):
    from opvseg_jax.hub.load import load

    return load(
        clip_folder,
        canvases=((32, 48), (48, 32)),
        crop_size=32,
        templates=("a photo of a {}", "the {}"),
        part_templates=("a {}",),
        background=("grass", "sky"),
    )
