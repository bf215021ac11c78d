"""The words of an experiment as its method wants them: embeddings, or token ids to train on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax import templates as sentences
from opvseg_jax.core.weights import ShapeRngs, blueprint
from opvseg_jax.hub.encoders import CLIP_PIXELS, LoadedClip
from opvseg_jax.hub.load import WordEncoder, short_context
from opvseg_jax.hub.presets import Preset
from opvseg_jax.text.features import TextFeatures, pad
from opvseg_jax.vocabulary import Vocabulary


class Words:
    """Turns vocabularies into features for a method of this size; the weights come with the call.

    `multiple`: numbers of classes are filled up to multiples of it, as a sharded class axis wants.
    """

    def __init__(self, method: str, size: Any, tokenizer: Path, dtype, multiple: int = 1):
        self.templates = getattr(size, "template", None) or size.templates
        self.multiple = multiple
        plan = blueprint(lambda: size.clip.build(dtype=dtype, rngs=ShapeRngs()))
        clip = LoadedClip(size.clip, plan, {}, tokenizer, *CLIP_PIXELS)
        chosen = Preset(
            method, method, templates=self.templates, part_templates=None, background=()
        )
        self.encoder = WordEncoder(
            clip, chosen, str(jnp.dtype(dtype)), keeps_prompts=True, is_padded=False
        )

    def embeddings(
        self, vocabulary: Vocabulary, clip: Mapping[str, jax.Array], *, is_cached: bool
    ) -> TextFeatures:
        """Embeddings [T, P, E] by the text tower in `clip`, kept on disk if `is_cached`."""
        encode = self.encoder.with_weights(dict(clip), is_cached=is_cached)
        return self._filled(encode(vocabulary))

    def tokens(self, vocabulary: Vocabulary) -> TextFeatures:
        """Token ids [T, P, L] in their place, cut to the context that they need."""
        v, tokenizer = vocabulary, self.encoder.tokenizer
        texts = sentences.listed(self.templates)
        groups = ([texts[0] for texts in v.phrases], v.part_names, v.generic_parts, v.background)
        grids = [_tokens(tokenizer, texts, names) for names in groups]
        ends = [np.argmax(grid == tokenizer.end, axis=-1).max(initial=0) for grid in grids]
        length = short_context(1 + int(max(ends)), tokenizer.context)
        objects, parts, generic, background = (grid[..., :length] for grid in grids)
        return self._filled(TextFeatures.of(v, objects, parts, generic, background=background))

    def _filled(self, features: TextFeatures) -> TextFeatures:
        if self.multiple == 1:
            return features
        counts = {
            name: -(-len(getattr(features, name)) // self.multiple) * self.multiple
            for name in ("objects", "parts", "generic")
        }
        return pad(features, **counts)


def _tokens(tokenizer, templates: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """int32 [T, P, L]."""
    texts = [sentences.fill(template, name) for name in names for template in templates]
    shape = (len(names), len(templates), tokenizer.context)
    return tokenizer(texts).reshape(shape) if texts else np.zeros(shape, np.int32)
