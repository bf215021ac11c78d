"""From a config to everything that training and evaluation need: model, weights, words, samples."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from opvseg_jax.core.cache import keep_compiled
from opvseg_jax.core.errors import UserError
from opvseg_jax.core.precision import dtype_of
from opvseg_jax.core.weights import Blueprint, ShapeRngs, blueprint, part_of
from opvseg_jax.hub.sizes import TINY, Table, makeup
from opvseg_jax.hub.trained import METHODS
from opvseg_jax.pipeline.loader import Loader
from opvseg_jax.pipeline.samples import Source
from opvseg_jax.pipeline.transforms import Transform
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.train import data
from opvseg_jax.train.start import Start, size_and_encoders
from opvseg_jax.train.words import Words
from opvseg_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config says, put together. Nothing large is held: `weights()` reads and draws anew.

    `vocabulary` is that of training, `eval_vocabulary` that of evaluation; the tables are ordered,
    (pattern of leaf paths, factor), the first match counts.
    """

    config: ConfigDict
    size: Any
    plan: Blueprint
    vocabulary: Vocabulary
    loader: Loader
    eval_source: Source
    eval_transforms: tuple[Transform, ...]
    eval_vocabulary: Vocabulary
    learning_rates: Table
    weight_decay: Table
    start: Start
    words: Words

    @property
    def trains_text(self) -> bool:
        """Whether words are encoded in every step, by weights that change."""
        return makeup(self.config.model.method).trains_text

    def weights(self) -> dict[str, jax.Array]:
        """All leaves as training starts: of encoders or of a checkpoint, the rest drawn."""
        return self.start.weights()

    @functools.cached_property
    def text(self) -> TextFeatures:
        """The training vocabulary: token ids where the text tower trains, else embeddings."""
        if self.trains_text:
            return self.words.tokens(self.vocabulary)
        return self.words.embeddings(self.vocabulary, self.start.clip(), is_cached=True)

    def eval_text(self, weights: Mapping[str, jax.Array]) -> TextFeatures:
        """The evaluation vocabulary as these weights read it."""
        if "frozen" in self._kept:  # what does not train reads the same at every step
            return self._kept["frozen"]
        found = self.words.embeddings(
            self.eval_vocabulary, part_of(weights, "clip"), is_cached=not self.trains_text
        )
        if not self.trains_text:
            self._kept["frozen"] = found
        return found

    def describe(self) -> dict[str, Any]:
        """What a folder with the trained model has to say of it."""
        model = self.config.model
        found = {"method": model.method, "size": model.size, "options": model.options.to_dict()}
        if model.size == TINY:
            found |= {"clip": dataclasses.asdict(self.size.clip)}
            if hasattr(self.size, "dino"):
                found |= {"dino": dataclasses.asdict(self.size.dino)}
        return found | {"vocabulary": self.vocabulary.to_dict()}

    @functools.cached_property
    def _kept(self) -> dict[str, TextFeatures]:
        return {}


def assemble(config: ConfigDict) -> Experiment:
    """The experiment of a checked config. Reads the sizes of encoders, not their weights."""
    keep_compiled()
    source, judged = data.training_source(config), data.evaluation_source(config)
    classes = source.vocabulary if config.data.classes == "all" else data.seen(source.vocabulary)
    method, made = config.model.method, makeup(config.model.method)
    size, references = size_and_encoders(config.model)
    dtype = dtype_of(config.model.dtype)
    try:
        plan = blueprint(lambda: METHODS[method].method(size, dtype=dtype, rngs=ShapeRngs()))
    except ValueError as error:  # sizes that do not go together
        name = f"{method} of size {config.model.size}"
        raise UserError(f"model.options do not make a {name}: {error}") from error
    start = Start(config, size, plan, references)
    return Experiment(
        config=config,
        size=size,
        plan=plan,
        vocabulary=classes.with_first_phrases(),
        loader=data.training_loader(config, source),
        eval_source=judged,
        eval_transforms=data.evaluation_transforms(config),
        eval_vocabulary=judged.vocabulary.with_first_phrases(),
        learning_rates=made.learning_rates(size),
        weight_decay=made.weight_decay,
        start=start,
        words=Words(method, size, start.tokenizer(), dtype, config.mesh.classes),
    )
