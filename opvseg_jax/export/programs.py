"""The functions of a bundle, and how they become StableHLO for a machine that is not here.

Shapes: H W canvas, n the side of the scores, O objects, T parts, L tokens, E embedding.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import export

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.layers import unit
from opvseg_jax.core.platform import tracing_for
from opvseg_jax.core.weights import Blueprint
from opvseg_jax.inference.segmenter import Segmenter, label_tile, score_canvas
from opvseg_jax.methods.base import Outputs
from opvseg_jax.text.features import TextFeatures

TEXT_BATCH = 64

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def segment(segmenter: Segmenter, canvas: tuple[int, int], absent: Shapes | None = None):
    """weights, words, image uint8 [H, W, 3], content (rows, columns) -> label maps and scores.

    `absent` are leaves that do not come with the weights because nothing reads them.
    """
    side, (height, width) = segmenter.side, canvas

    def function(weights, words, image, content):
        text = TextFeatures(**words)
        whole = {**weights, **_zeros(absent)}
        scores, *_ = score_canvas(segmenter.method, side, whole, image[None], content, text)
        place = jnp.asarray([0, 0, height, width, height / side, width / side], jnp.float32)
        labels = label_tile(side, scores, text.part_to_object, place)
        objects, parts = (x[:height, :width].astype(jnp.int32) for x in labels)
        return {
            "object_map": objects,  # [H, W]
            "part_map": parts,
            "object_scores": scores.objects,  # [n, n, O + 1], of a square canvas
            "part_scores": scores.parts,
        }

    return function


def label(tile: int) -> Callable:
    """object scores, part scores, part_to_object, place [6] -> labels [tile, tile] of both."""

    def function(objects, parts, part_to_object, place):
        return label_tile(tile, Outputs(objects, parts), part_to_object, place)

    return function


def text(plan: Blueprint, absent: Shapes) -> Callable:
    """weights, tokens int32 [64, L] -> unit-norm float32 [64, E]."""

    def function(weights, tokens):
        return unit(plan.merge({**weights, **_zeros(absent)}).text(tokens).astype(jnp.float32))

    return function


def exported(function: Callable, platform: str, *shapes) -> export.Exported:
    """Traced and lowered for "cpu" or "cuda", on whatever machine this is.

    Each platform is traced on its own, by a function of its own: attention takes another form on
    a CPU, and of both forms in one program the derivative would keep both.
    """
    with tracing_for(platform):
        return export.export(jax.jit(function), platforms=[platform])(*shapes)


def serialised(program: export.Exported) -> bytes:
    try:
        return bytes(program.serialize())
    except ImportError as error:
        raise UserError("export needs flatbuffers: pip install flatbuffers") from error


def leaves_read(program: export.Exported, weights: Shapes) -> set[str]:
    """The weights, which are its first argument, that a program does anything with."""
    paths = sorted(weights)  # the order in which a dict is flattened
    return {paths[i] for i in program.module_kept_var_idx if i < len(paths)}


def _zeros(absent: Shapes | None) -> dict[str, jax.Array]:
    return {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in (absent or {}).items()}
