"""Weights as one flat dict `{"blocks/0/query/kernel": array}`; modules are merged from it in jit.

Flat dicts are among the fastest arguments of a compiled function, and the same container serves
optimizer groups, sharding rules, checkpoints, safetensors and export.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
from flax import nnx, traverse_util


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """A module without its numbers: the graph, and the shape of every leaf."""

    graphdef: nnx.GraphDef
    shapes: dict[str, jax.ShapeDtypeStruct]

    def merge(self, weights: Mapping[str, jax.Array]) -> nnx.Module:
        """The module with these weights. Call it inside the jitted function."""
        if missing := self.shapes.keys() - weights.keys():
            raise ValueError(f"{len(missing)} leaves missing, the first: {sorted(missing)[0]}")
        if extra := weights.keys() - self.shapes.keys():
            raise ValueError(f"{len(extra)} unknown leaves, the first: {sorted(extra)[0]}")
        for path, want in self.shapes.items():
            if weights[path].shape != want.shape:
                raise ValueError(f"{path}: expected {want.shape}, got {weights[path].shape}")
        return nnx.merge(self.graphdef, _unflatten(weights))


class ShapeRngs:
    """Stands in for `nnx.Rngs` inside `blueprint`: one key for everything.

    Flax asks each random count for its sharding; on a traced count that builds an error text from
    all equations so far. A DINOv2 g/14 takes 23 s to trace with `nnx.Rngs` and 1.3 s with this
    (`blueprint` of it on a 2-core x86 CPU, no GPU, 2026-11-21).
    """

    def __init__(self):
        self._key = jax.random.key(0)

    def __getattr__(self, stream: str) -> Callable[[], jax.Array]:
        if stream.startswith("_"):
            raise AttributeError(stream)
        return lambda: self._key


def blueprint(build: Callable[[], nnx.Module]) -> Blueprint:
    """Traces `build` without computing or storing a single number."""
    module = nnx.eval_shape(build)
    return Blueprint(nnx.graphdef(module), _flat_values(module))


def flatten(module: nnx.Module) -> dict[str, jax.Array]:
    """All leaves of a module as `{path: array}`."""
    return _flat_values(module)


def part_of(weights: Mapping[str, jax.Array], prefix: str) -> dict[str, jax.Array]:
    """The leaves below `prefix/`, with the prefix taken off."""
    head = prefix + "/"
    return {path[len(head) :]: leaf for path, leaf in weights.items() if path.startswith(head)}


def _flat_values(module: nnx.Module) -> dict[str, jax.Array]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {"/".join(map(str, path)): variable.get_value() for path, variable in flat}


def _unflatten(weights: Mapping[str, jax.Array]) -> dict:
    def key(part: str) -> str | int:
        return int(part) if part.isdigit() else part

    return traverse_util.unflatten_dict(
        {tuple(key(part) for part in path.split("/")): leaf for path, leaf in weights.items()}
    )
