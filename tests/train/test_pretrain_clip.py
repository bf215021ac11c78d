"""The tiny CLIP is trained as promised: on towers of one block and fifty images, in seconds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opvseg_jax.core.weights import blueprint, part_of
from opvseg_jax.hub.encoders import load_clip
from opvseg_jax.pipeline.partworld import render_many, true_of
from opvseg_jax.text.tokenizer import Tokenizer
from opvseg_jax.train import pretrain_clip
from opvseg_jax.train.small import make_optimizer

IMAGES, STEPS = 50, 100
SMALL = {"width": 32, "num_layers": 1, "num_heads": 1, "mlp_dim": 32, "embed_dim": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder that the program leaves behind, its corpus, and the arguments it had."""
    folder, seen = tmp_path_factory.mktemp("clip"), {}
    draw = pretrain_clip.draw_corpus

    def remember(args):
        seen["args"], (corpus, size) = args, draw(args)
        seen["corpus"] = corpus
        return corpus, size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_clip, "VISION", {**SMALL, "image_size": 32, "patch_size": 8})
        patch.setattr(pretrain_clip, "TEXT", {**SMALL, "context": pretrain_clip.TEXT["context"]})
        patch.setattr(pretrain_clip, "draw_corpus", remember)
        sizes = {"images": IMAGES, "steps": STEPS, "text-steps": 20, "batch": 10, "workers": 1}
        flags = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
        pretrain_clip.main(["--out", str(folder), *flags])
    return folder, seen["corpus"], seen["args"]


def test_pairs_marked_true_are_the_captions_true_of_the_image(run):
    _, corpus, _ = run
    drawn = render_many("pretrain", 0, IMAGES, 32)
    names = pretrain_clip.plain_names()
    for i in range(0, IMAGES, 7):
        own = range(corpus.first[i], corpus.first[i + 1])
        assert pretrain_clip.truth(corpus, np.array([i]), np.array(own)).all()
        np.testing.assert_array_equal(corpus.images[i], drawn.images[i])
    marked = pretrain_clip.truth(corpus, np.arange(IMAGES), corpus.names)
    for j, name in enumerate(names):
        true = [true_of(facts, name.facts) for facts in drawn.facts]
        np.testing.assert_array_equal(marked[:, j], true, err_msg=name.text)


def test_a_batch_asks_for_every_plain_name(run):
    _, corpus, args = run
    words = np.eye(len(corpus.tokens), dtype=np.float32)
    images, said, is_true, prior = next(iter(pretrain_clip.batches(corpus, words, args)))
    assert images.shape == (10, 32, 32, 3)
    asked = said.argmax(axis=1)
    np.testing.assert_array_equal(asked[: len(corpus.names)], corpus.names)
    assert is_true.shape == (10, len(asked))
    assert prior.shape == (len(asked),)
    assert is_true[:, len(corpus.names) :].any(axis=0).all()  # each caption fits its own image


def test_losses_fall_on_a_fixed_batch(run):
    folder, corpus, args = run
    loaded = load_clip(folder)
    words = pretrain_clip.encode_all(
        blueprint_of_text(loaded), part_of(loaded.weights, "text"), corpus.tokens
    )
    batch = next(iter(pretrain_clip.batches(corpus, words, args)))
    weights, optimizer = loaded.weights, make_optimizer(args.lr, args.steps, loaded.weights)

    @jax.jit
    def step(weights, state):
        def loss(weights):
            return pretrain_clip.loss_of(loaded.plan.merge(weights), *batch)

        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, state = optimizer.update(grads, state, weights)
        return jax.tree.map(jnp.add, weights, updates), state, value

    state, values = optimizer.init(weights), []
    for _ in range(12):
        weights, state, value = step(weights, state)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert values[-1] < 0.97 * values[0]


def blueprint_of_text(loaded):
    size = loaded.size
    return blueprint(lambda: size.build_text(rngs=pretrain_clip.nnx.Rngs(0)))


def test_the_folder_is_a_model_that_loads_with_its_tokenizer(run):
    folder, *_ = run
    loaded = load_clip(folder)
    tokens = Tokenizer.from_folder(folder, loaded.size.context)(["a dog", "a red car on grass"])

    @jax.jit
    def both(weights, images, tokens):
        clip = loaded.plan.merge(weights)
        return clip.vision.pooled(images), clip.text(tokens)

    pooled, texts = both(loaded.weights, jnp.zeros((1, 32, 32, 3)), tokens)
    assert pooled.shape == (1, 16)
    assert texts.shape == (2, 16)
    assert np.isfinite(pooled).all()
    assert jnp.abs(texts[0] - texts[1]).max() > 1e-3


def test_the_log_tells_how_it_went(run):
    folder, *_ = run
    rows = [json.loads(line) for line in (folder / "train_log.jsonl").open()]
    assert rows[-1]["step"] == STEPS
    assert {"loss_class", "loss_patch", "seconds"} <= rows[-1].keys()
