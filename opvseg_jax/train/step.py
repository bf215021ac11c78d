"""The training step: loss, gradients, update; one compiled function for any mesh.

Gradients are those of the trained leaves alone. The frozen ones are another argument of the
function, so that nothing is computed, kept or clipped for them.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from opvseg_jax.core.weights import Blueprint, flatten
from opvseg_jax.parallel.mesh import check_batch
from opvseg_jax.parallel.rules import batch_sharding, on_mesh, place_whole
from opvseg_jax.text.features import TextFeatures
from opvseg_jax.train.optimizer import Rule
from opvseg_jax.train.state import State, Weights, abstract_state

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]


class Step:
    """step(state, batch) -> (state, metrics). The state given is used up."""

    def __init__(self, function: Callable, text: TextFeatures):
        self._function, self._text = function, text

    def __call__(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        moving, metrics = self._function(*_parts(state), self._text, batch)
        return dataclasses.replace(moving, frozen=state.frozen), metrics

    def lower(self, state: State, batch: Batch) -> jax.stages.Lowered:
        """For its cost and its memory; arrays may be shapes with shardings."""
        return self._function.lower(*_parts(state), self._text, batch)


def make_step(
    plan: Blueprint,
    text: TextFeatures,
    rule: Rule,
    *,
    mesh: Mesh,
    accumulate: int = 1,
    remat: bool = False,
) -> Step:
    """The step of `rule` for the model `plan` with these words.

    Metrics are numbers on the devices: the loss and its terms, grad_norm before clipping, lr, and
    is_finite. Where loss or norm is not finite nothing but the number of the step changes.

    `accumulate` goes through the batch in that many parts and uses the mean of their gradients.
    That equals the whole batch for losses that are means over all pixels (CAT-Seg, HOPS). It does
    not where a mean is over chosen pixels alone (PartCATSeg's parts), whose number differs between
    parts, nor with batch statistics (PCA-Seg), which are those of a part and move once for each.

    `remat` keeps only the products of matrices for the backward pass and computes norms,
    activations and softmaxes again. (`HeadSize.remat` keeps less: the inputs of blocks.)
    """
    losses = functools.partial(_loss, plan)
    if remat:
        losses = jax.checkpoint(losses, policy=jax.checkpoint_policies.dots_saveable)
    gradients = jax.value_and_grad(losses, has_aux=True)

    def step(state: State, frozen: Weights, text: TextFeatures, batch: Batch):
        check_batch(len(batch["image"]), mesh, accumulate)
        key = jax.random.fold_in(jax.random.key(rule.seed), state.step)
        with on_mesh(mesh):
            metrics, stats, grads = _mean_gradients(
                gradients, accumulate, state, frozen, text, batch, key
            )
        norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        after = _advance(rule, state, grads, stats)
        after = jax.tree.map(functools.partial(jnp.where, is_finite), after, state)
        after = dataclasses.replace(after, step=state.step + 1)
        lr = rule.schedule(state.step)
        return after, metrics | {"grad_norm": norm, "lr": lr, "is_finite": is_finite}

    like, frozen = _parts(abstract_state(plan, rule, mesh))
    moving, still = jax.tree.map(lambda leaf: leaf.sharding, (like, frozen))
    text = place_whole(text, mesh)
    whole = jax.tree.map(lambda leaf: leaf.sharding, text)
    compiled = jax.jit(
        step,
        in_shardings=(moving, still, whole, batch_sharding(mesh)),
        out_shardings=(moving, None),
        donate_argnums=0,
    )
    return Step(compiled, text)


def _parts(state: State) -> tuple[State, Weights]:
    """What a step changes, and the frozen leaves."""
    return dataclasses.replace(state, frozen={}), state.frozen


def _loss(
    plan: Blueprint,
    trained: Weights,
    frozen: Weights,
    stats: Weights,
    text: TextFeatures,
    batch: Batch,
    key: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, Weights]]:
    """The loss, and beside it its terms and the statistics that it moved."""
    module = plan.merge({**frozen, **stats, **trained})
    takes_key = "key" in inspect.signature(module.loss).parameters
    loss, metrics = module.loss(batch, text, **({"key": key} if takes_key else {}))
    leaves = flatten(module)
    return loss, (metrics | {"loss": loss}, {path: leaves[path] for path in stats})


def _mean_gradients(
    gradients: Callable,
    accumulate: int,
    state: State,
    frozen: Weights,
    text: TextFeatures,
    batch: Batch,
    key: jax.Array,
) -> tuple[Metrics, Weights, Weights]:
    """Metrics, moved statistics and gradients of a batch, gone through in parts."""
    if accumulate == 1:
        (_, (metrics, stats)), grads = gradients(
            state.trained, frozen, state.stats, text, batch, key
        )
        return metrics, stats, grads

    def add(carry: tuple[Weights, Weights], part: tuple[Batch, jax.Array]):
        stats, total = carry
        rows, index = part
        (_, (metrics, stats)), grads = gradients(
            state.trained, frozen, stats, text, rows, jax.random.fold_in(key, index)
        )
        return (stats, jax.tree.map(jnp.add, total, grads)), metrics

    zeros = jax.tree.map(jnp.zeros_like, state.trained)
    parts = jax.tree.map(functools.partial(_interleave, accumulate), dict(batch))
    (stats, total), metrics = jax.lax.scan(
        add, (state.stats, zeros), (parts, jnp.arange(accumulate))
    )
    mean = functools.partial(jnp.mean, axis=0)
    return jax.tree.map(mean, metrics), stats, jax.tree.map(lambda x: x / accumulate, total)


def _interleave(count: int, rows: jax.Array) -> jax.Array:
    """rows [B, ...] -> [count, B / count, ...]. Every device has rows of every part: none move."""
    return jnp.moveaxis(rows.reshape(-1, count, *rows.shape[1:]), 1, 0)


def _advance(rule: Rule, state: State, grads: Weights, stats: Weights) -> State:
    updates, optimizer = rule.transform.update(grads, state.optimizer, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    ema = state.ema
    if ema is not None:
        # In the first steps the average would otherwise be what the weights were drawn as.
        keep = jnp.minimum(rule.ema, (state.step + 1) / (state.step + 10))
        ema = jax.tree.map(lambda a, x: (keep * a + (1 - keep) * x).astype(a.dtype), ema, trained)
    return dataclasses.replace(state, trained=trained, optimizer=optimizer, stats=stats, ema=ema)
