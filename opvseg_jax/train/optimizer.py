"""Which leaf learns how: groups from ordered tables, the learning rate over time, AdamW or Muon."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import Blueprint

Table = Sequence[tuple[str, float]]  # (pattern of a path, value); the first match counts
Schedule = Callable[[jax.Array], jax.Array]

MUON_RATE = 5.0  # times the learning rate: its steps have a spectral norm of one


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a step changes the leaves of a model, each of which is in exactly one of three groups.

    rates and decays: of each trained leaf, the factor of the learning rate and the weight decay.
    """

    transform: optax.GradientTransformation
    schedule: Schedule
    trained: tuple[str, ...]
    frozen: tuple[str, ...]
    stats: tuple[str, ...]
    rates: Mapping[str, float]
    decays: Mapping[str, float]
    ema: float = 0.0
    seed: int = 0


def make_rule(
    train: Mapping[str, Any], plan: Blueprint, learning_rates: Table, weight_decay: Table
) -> Rule:
    """The rule of `config.train` for the leaves of `plan`. A factor of 0 freezes."""
    parameters = sorted(parameters_of(plan))
    rates = assign(parameters, learning_rates, "learning rates")
    decays = assign(parameters, weight_decay, "weight decay")
    trained = tuple(path for path in parameters if rates[path])
    if not trained:
        raise UserError("the table of learning rates freezes every parameter: nothing can train")
    rates = {path: rates[path] for path in trained}
    decays = {path: train["weight_decay"] * decays[path] for path in trained}
    schedule = make_schedule(train)
    return Rule(
        transform=_transform(train, schedule, rates, decays),
        schedule=schedule,
        trained=trained,
        frozen=tuple(path for path in parameters if path not in rates),
        stats=tuple(sorted(plan.shapes.keys() - set(parameters))),
        rates=rates,
        decays=decays,
        ema=train["ema"],
        seed=train["seed"],
    )


def parameters_of(plan: Blueprint) -> frozenset[str]:
    """The leaves that could be trained; the others are state, such as batch statistics."""
    flat = nnx.to_flat_state(nnx.state(plan.merge(plan.shapes), nnx.Param))
    return frozenset("/".join(map(str, path)) for path, _ in flat)


def assign(paths: Iterable[str], table: Table, what: str) -> dict[str, float]:
    """The value of each path: that of the first pattern that matches all of it."""
    found, used = {}, set()
    for path in paths:
        row = next((i for i, (pattern, _) in enumerate(table) if re.fullmatch(pattern, path)), None)
        found[path] = None if row is None else table[row][1]
        used.add(row)
    problems = [f"no pattern matches {path}" for path, value in found.items() if value is None]
    problems += [
        f"the pattern {pattern!r} is the first to match for no parameter"
        for i, (pattern, _) in enumerate(table)
        if i not in used
    ]
    if problems:
        raise UserError(f"{what}: " + "; ".join(problems))
    return found


def make_schedule(train: Mapping[str, Any]) -> Schedule:
    """The learning rate of step i, counted from 0: lr * warm-up(i) * curve(i / steps).

    cosine: (1 + cos(pi x)) / 2; poly: (1 - x) ** poly_power; multistep: a tenth after each
    milestone; constant: 1. The curve runs from step 0 also during the warm-up, as in the
    references. The warm-up is (i + 1) / warmup_steps, or `warmup_factor` all along if that is set.
    """
    curves = {
        "constant": jnp.ones_like,
        "cosine": functools.partial(_cosine, steps=train["steps"]),
        "poly": functools.partial(_poly, steps=train["steps"], power=train["poly_power"]),
        "multistep": functools.partial(_multistep, milestones=tuple(train["milestones"])),
    }
    if train["schedule"] not in curves:
        known = ", ".join(curves)
        raise UserError(f"train.schedule={train['schedule']!r}: expected one of {known}")
    curve, warmup = curves[train["schedule"]], train["warmup_steps"]
    factor = train.get("warmup_factor")

    def schedule(step: jax.Array) -> jax.Array:
        i = jnp.asarray(step).astype(jnp.result_type(float))
        rate = train["lr"] * curve(i)
        if not warmup:
            return rate
        low = (i + 1) / warmup if factor is None else factor
        return jnp.where(i < warmup, low * rate if factor is None else low * train["lr"], rate)

    return schedule


def _cosine(i: jax.Array, steps: int) -> jax.Array:
    return (1 + jnp.cos(jnp.pi * jnp.minimum(i / steps, 1.0))) / 2


def _poly(i: jax.Array, steps: int, power: float) -> jax.Array:
    return jnp.maximum(1 - i / steps, 0.0) ** power


def _multistep(i: jax.Array, milestones: tuple[int, ...]) -> jax.Array:
    return 0.1 ** sum(((i >= milestone).astype(i.dtype) for milestone in milestones), i * 0)


def _transform(
    train: Mapping[str, Any],
    schedule: Schedule,
    rates: Mapping[str, float],
    decays: Mapping[str, float],
) -> optax.GradientTransformation:
    """Clipping over all trained leaves, then AdamW with a rate and a decay for each leaf."""
    kind, limit = train["clip"]["kind"], train["clip"]["value"]
    if kind not in ("norm", "none"):
        raise UserError(f"train.clip.kind={kind!r}: expected norm or none")
    first, second = train["betas"]
    direction = optax.scale_by_adam(first, second, train["eps"])
    if train["optimizer"] == "muon":
        direction = muon_or(direction)
    clip = [clip_norm(limit)] if kind == "norm" else []
    return optax.chain(*clip, direction, _decayed_descent(schedule, rates, decays))


def muon_or(other: optax.GradientTransformation) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for matrices and kernels, `other` for everything else.

    The momentum of a kernel [..., in, out], as one matrix, gets singular values of one; for a model
    that starts from nothing and has hundreds of steps, that is worth several times as many.
    """

    def is_matrix(leaf: jax.Array) -> bool:
        return leaf.ndim >= 2 and min(leaf.size // leaf.shape[-1], leaf.shape[-1]) > 1

    def axes(params):
        numbers = optax.contrib.MuonDimensionNumbers
        return jax.tree.map(lambda x: numbers(tuple(range(x.ndim - 1)), (x.ndim - 1,)), params)

    def widen(updates, params=None):
        del params
        shares = jax.tree.map(lambda x: x.shape[-1] / (x.size // x.shape[-1]), updates)
        return jax.tree.map(lambda x, s: MUON_RATE * max(1.0, s) ** 0.5 * x, updates, shares)

    muon = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=axes), optax.stateless(widen)
    )
    labels = {True: "muon", False: "other"}
    return optax.partition(
        {"muon": muon, "other": other},
        lambda params: jax.tree.map(lambda x: labels[is_matrix(x)], params),
    )


def clip_norm(limit: float) -> optax.GradientTransformation:
    """Gradients times min(1, limit / (norm + 1e-6)), the norm being that of all together.

    The 1e-6 is PyTorch's; with the published limit of 0.01 it is a ten-thousandth.
    """

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda x: (x * factor).astype(x.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _decayed_descent(
    schedule: Schedule, rates: Mapping[str, float], decays: Mapping[str, float]
) -> optax.GradientTransformation:
    """-rate * (update + decay * parameter), the rate being that of the step and of the leaf."""

    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        lr = schedule(state.count)
        moved = {
            path: (-lr * rates[path] * (x + decays[path] * params[path])).astype(x.dtype)
            for path, x in updates.items()
        }
        return moved, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)
