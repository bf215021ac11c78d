"""A training that takes seconds: two convolutions look at eight small PartWorld scenes."""

import types

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from opvseg_jax.core.batch_norm import BatchNorm
from opvseg_jax.core.cache import keep_compiled
from opvseg_jax.core.weights import ShapeRngs, blueprint, flatten
from opvseg_jax.methods.base import Method, Outputs
from opvseg_jax.pipeline.loader import Loader
from opvseg_jax.pipeline.sources import open_source
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.train.config import base, checked, override

WIDTH = 8
FROZEN, TRAINED = "clip/kernel", "head/kernel"


class ToyMethod(Method):
    def __init__(self, classes: int, *, rngs: nnx.Rngs):
        self.clip = nnx.Conv(3, WIDTH, (3, 3), rngs=rngs)
        self.norm = BatchNorm(WIDTH)
        self.head = nnx.Conv(WIDTH, classes + 1, (3, 3), rngs=rngs)

    def __call__(self, images, text, valid=None) -> Outputs:
        return Outputs(jax.nn.softmax(self._logits(images)), None)

    def loss(self, batch, text):
        labels = batch["object_map"]
        logits = self._logits(batch["image"], train=True)
        is_object = labels >= 0  # what is around them does not count, so that they are answered
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        loss = jnp.sum(each * is_object) / jnp.maximum(jnp.sum(is_object), 1)
        return loss, {"segmentation": loss}

    def _logits(self, images, train=False):
        x = self.clip(images.astype(jnp.float32) / 255)
        return self.head(jax.nn.relu(self.norm(x, train=train)))


def config(*overrides: str):
    return checked(
        override(
            base(),
            [
                "train.steps=6",
                "train.lr=0.03",
                "train.clip.value=10.0",
                "train.log_every=1",
                "train.save_every=2",
                "train.evaluate_every=4",
                "data.threads=1",
                "eval.batch_size=2",
                *overrides,
            ],
        )
    )


def assemble(config):
    """What the loop needs of an `Experiment`."""
    keep_compiled()
    source = open_source("partworld", "train", size=32, num_images=8)
    judged = open_source("partworld", "val_seen", size=32, num_images=2)
    words = source.vocabulary
    plan = blueprint(lambda: ToyMethod(len(words.objects), rngs=ShapeRngs()))
    text = TextFeatures.of(
        words,
        *(jnp.ones((len(x), 1, 2)) for x in (words.objects, words.parts, words.generic_parts)),
    )
    tokenizer = types.SimpleNamespace(to_json=lambda: "{}")

    def weights():
        return flatten(ToyMethod(len(words.objects), rngs=nnx.Rngs(config.train.seed)))

    return types.SimpleNamespace(
        config=config,
        plan=plan,
        weights=weights,
        text=text,
        vocabulary=words,
        loader=Loader(source, batch_size=config.train.batch_size, seed=config.data.seed),
        eval_source=judged,
        eval_transforms=(),
        eval_vocabulary=words,
        eval_text=lambda weights: text,
        learning_rates=(("clip/.*", 0.0), (".*", 1.0)),
        weight_decay=((".*", 1e-4),),
        words=types.SimpleNamespace(encoder=types.SimpleNamespace(tokenizer=tokenizer)),
        describe=lambda: {"method": "toy", "size": "tiny"},
    )


def spoiled(batch, is_spoiled):
    """A batch whose loss is not finite, if it is to be."""
    return batch | {"image": batch["image"] * (float("nan") if is_spoiled else 1)}
