"""What a training run is made of between two steps."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from opvseg_jax.core.weights import Blueprint
from opvseg_jax.parallel.rules import place, shardings
from opvseg_jax.train.optimizer import Rule

Weights = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """`optimizer` is about `trained` alone; `stats` are leaves that no gradient moves."""

    step: jax.Array  # int32 []
    trained: Weights
    frozen: Weights
    stats: Weights
    optimizer: Any
    ema: Weights | None  # a moving average of `trained`


def create(plan: Blueprint, weights: Mapping[str, Any], rule: Rule, mesh: Mesh) -> State:
    """Step 0 with these weights. Every device gets its shares; nothing is ever whole on one."""
    plan.merge(weights)  # names and shapes
    given = _divide({path: weights[path] for path in plan.shapes}, rule)
    cast = {
        group: {path: _as(leaf, plan.shapes[path].dtype) for path, leaf in leaves.items()}
        for group, leaves in given.items()
    }
    placed = place(cast, mesh)
    like = abstract_state(plan, rule, mesh)

    def begin(trained: Weights) -> tuple[jax.Array, Any, Weights | None]:
        ema = jax.tree.map(jnp.copy, trained) if rule.ema else None
        return jnp.zeros((), jnp.int32), rule.transform.init(trained), ema

    where = jax.tree.map(lambda leaf: leaf.sharding, (like.step, like.optimizer, like.ema))
    step, optimizer, ema = jax.jit(begin, out_shardings=where)(placed["trained"])
    return State(step=step, optimizer=optimizer, ema=ema, **placed)


def abstract_state(plan: Blueprint, rule: Rule, mesh: Mesh) -> State:
    """The shape, dtype and sharding of every leaf: what a checkpoint is restored like."""
    groups = _divide(plan.shapes, rule)
    trained = groups["trained"]
    state = State(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        optimizer=jax.eval_shape(rule.transform.init, trained),
        ema=dict(trained) if rule.ema else None,
        **groups,
    )

    def put(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(put, state, shardings(state, mesh))


def weights_of(state: State, ema: bool = False) -> Weights:
    """All leaves, for `plan.merge`; with `ema` the trained ones as their moving average."""
    if ema and state.ema is None:
        raise ValueError("this state has no moving average: it was made with train.ema=0")
    return {**state.frozen, **state.stats, **(state.ema if ema else state.trained)}


def _divide(leaves: Mapping[str, Any], rule: Rule) -> dict[str, dict[str, Any]]:
    return {
        "trained": {path: leaves[path] for path in rule.trained},
        "frozen": {path: leaves[path] for path in rule.frozen},
        "stats": {path: leaves[path] for path in rule.stats},
    }


def _as(leaf: Any, dtype: Any) -> Any:
    return leaf if leaf.dtype == dtype else leaf.astype(dtype)
