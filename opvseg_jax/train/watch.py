"""The numbers of each step, read one step late so that the devices never wait for Python."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import write_whole
from opvseg_jax.train.log import TRAIN, Bar, Log
from opvseg_jax.train.speed import Meter
from opvseg_jax.train.state import State

BROKEN = "not_finite.json"


class Pending(NamedTuple):
    """A step that has been started."""

    step: int
    keys: list[str]
    metrics: dict[str, jax.Array]


class Watch:
    """Logs every `every` steps; stops the training where loss or gradient is not finite."""

    def __init__(self, folder: Path, log: Log, bar: Bar, meter: Meter, every: int):
        self.folder, self.log, self.bar, self.meter, self.every = folder, log, bar, meter, every
        self.last: dict[str, float] = {}
        self._pending: Pending | None = None

    def started(self, step: int, keys: list[str], metrics: dict[str, Any], state: State) -> None:
        """`step` is under way; the one before it is looked at."""
        self.settle(state)
        self._pending = Pending(step, keys, metrics)
        self.meter.step()
        self.bar.step()

    def settle(self, state: State) -> None:
        """Looks at the step that is under way, waiting for it."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if not bool(pending.metrics["is_finite"]):
            raise self._not_finite(pending, state)
        if pending.step % self.every == 0:
            values = _plain(pending.metrics)
            self.last = {name: x for name, x in values.items() if name != "is_finite"}
            speed = self.meter.read()
            self.log.row(pending.step, TRAIN, self.last, speed)
            self.bar.say(_spoken(self.last, speed))

    def _not_finite(self, pending: Pending, state: State) -> UserError:
        """Writes down what may explain it. Such a step changes no weights: norms are of before."""
        found = {
            "step": pending.step,
            "batch_keys": pending.keys,
            "metrics": {name: repr(x) for name, x in _plain(pending.metrics).items()},
            "norms": {path: repr(x) for path, x in _plain(_norms(state.trained)).items()},
        }
        index = jax.process_index()
        path = self.folder / (f"process_{index}_{BROKEN}" if index else BROKEN)
        write_whole(path, (json.dumps(found, indent=2) + "\n").encode())
        return UserError(
            f"loss or gradient is not finite in step {pending.step}: its metrics, the batch and "
            f"the norms of the weights are in {path}; lower train.lr, or look at that batch"
        )


@jax.jit
def _norms(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {
        path: jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32))))
        for path, leaf in weights.items()
    }


def _plain(values: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in jax.device_get(values).items()}


def _spoken(values: dict[str, float], speed: dict[str, float]) -> dict[str, str]:
    facts = {"loss": f"{values['loss']:.4g}"}
    if "images_per_second" in speed:
        facts["images/s"] = f"{speed['images_per_second']:.3g}"
    if "share_of_peak" in speed:
        facts["of peak"] = f"{speed['share_of_peak']:.0%}"
    return facts
