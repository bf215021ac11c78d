"""The training loop, from top to bottom.

Going on after a stop, wherever it came, takes this order: the config is compared with that of the
newest checkpoint; the experiment is put together; the mesh and, on it, the shapes of a state; the
newest undamaged state is restored into these; rows of the log beyond it are cut off; and since the
batch of a step follows from its number alone, reading goes on at that number. So a run that was
stopped ends with the same bits as one that was not.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.precision import dtype_of
from opvseg_jax.evaluate.placing import whole
from opvseg_jax.parallel.mesh import check_batch, make_mesh, process_share
from opvseg_jax.parallel.processes import barrier
from opvseg_jax.parallel.rules import shard_batch
from opvseg_jax.train import workdir as place
from opvseg_jax.train.checkpoint import Checkpoints
from opvseg_jax.train.during import Judge, chosen_figure
from opvseg_jax.train.experiment import Experiment, assemble
from opvseg_jax.train.log import EVAL, Bar, Log, Wandb
from opvseg_jax.train.model_folder import write_model
from opvseg_jax.train.optimizer import Rule, make_rule
from opvseg_jax.train.speed import meter_for
from opvseg_jax.train.state import State, abstract_state, create, weights_of
from opvseg_jax.train.step import make_step
from opvseg_jax.train.stop import Stop, StoppedError, stopping
from opvseg_jax.train.watch import Watch

BEST = "best"
OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclasses.dataclass
class Notes:
    """What a checkpoint knows besides the state."""

    evaluated: int = 0  # the last step that was
    figures: dict[str, float] = dataclasses.field(default_factory=dict)  # found then
    best_step: int = 0
    best: float | None = None


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    on_event: OnEvent = lambda kind, facts: None,
    wandb: str = "",
    assemble: Callable[[ConfigDict], Experiment] = assemble,
) -> dict[str, Any]:
    """Trains, or goes on training, until `config.train.steps`. -> step, loss terms and figures.

    `on_event` hears "resumed", "evaluated", "saved", "stopping" and "stopped" with their facts.
    SIGTERM and Ctrl-C save once and end early: then "stopped" in the result says which it was.
    `wandb` is a project of Weights & Biases to report to.
    """
    cfg = config.train
    with (
        stopping(lambda reason: on_event("stopping", {"reason": reason})) as stop,
        Checkpoints(workdir, keep=cfg.keep, best=BEST) as checkpoints,
    ):
        # Mistakes first, those that are found fast before the others. Nothing is written yet.
        stored = checkpoints.peek()
        folder = place.prepared(workdir, config, stored)
        experiment = assemble(config)
        place.must_know(folder, stored, experiment.vocabulary)
        mesh = make_mesh(**config.mesh)
        check_batch(cfg.batch_size, mesh, cfg.accumulate)
        tables = experiment.learning_rates, experiment.weight_decay
        rule = make_rule(cfg, experiment.plan, *tables)
        state, notes = begin(experiment, rule, mesh, checkpoints)
        barrier("the first step")  # some draw and read slower, and collectives do not wait long
        with contextlib.closing(
            Run(experiment, folder, checkpoints, stop, notes, rule, mesh, state, on_event, wandb)
        ) as run:
            return run.through(state)


def begin(
    experiment: Experiment, rule: Rule, mesh: Mesh, checkpoints: Checkpoints
) -> tuple[State, Notes]:
    """The newest state that is stored, or the first one."""
    found = checkpoints.restore(
        abstract_state(experiment.plan, rule, mesh),
        remake_frozen=lambda: _only(rule.frozen, experiment.weights()),
    )
    if found is None:
        return create(experiment.plan, experiment.weights(), rule, mesh), Notes()
    state, metadata = found
    steps = experiment.config.train.steps
    if int(state.step) > steps:
        raise UserError(
            f"the training in {checkpoints.folder} has taken {int(state.step)} steps already, "
            f"more than train.steps={steps}"
        )
    return state, Notes(**metadata["notes"])


class Run:
    """One process's way through the steps."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        checkpoints: Checkpoints,
        stop: Stop,
        notes: Notes,
        rule: Rule,
        mesh: Mesh,
        state: State,
        on_event: OnEvent,
        wandb: str,
    ):
        self.experiment, self.folder, self.checkpoints = experiment, folder, checkpoints
        self.config, self.cfg = experiment.config, experiment.config.train
        self.stop, self.notes, self.mesh, self.on_event = stop, notes, mesh, on_event
        self.saved = first = int(state.step)
        self.judge = Judge(experiment, mesh, stop)
        self.loader = experiment.loader
        self.loader.process, self.loader.num_processes = process_share(mesh)
        self.step = make_step(
            experiment.plan,
            experiment.text,
            rule,
            mesh=mesh,
            accumulate=self.cfg.accumulate,
            remat=self.cfg.remat,
        )
        self.meter = meter_for(
            self.cfg.batch_size,
            dtype_of(self.config.model.dtype).__name__,
            lambda: self.step.lower(state, shard_batch(self.loader.batch(first), mesh)),
        )
        place.write_config(folder, self.config)
        is_reporting = wandb and jax.process_index() == 0
        sinks = (Wandb(folder, wandb, place.plain(self.config)),) if is_reporting else ()
        self.log = Log(folder, first, notes.evaluated, sinks)
        self.bar = Bar(self.cfg.steps, first)
        self.watch = Watch(folder, self.log, self.bar, self.meter, self.cfg.log_every)
        if first:
            on_event("resumed", {"step": first})

    def through(self, state: State) -> dict[str, Any]:
        """Step after step; between two of them what is due."""
        step, data = int(state.step), self.config.data
        batches = self.loader.batches(step, workers=data.workers, threads=data.threads)
        with contextlib.closing(batches):
            while not self.ends(state, step):
                batch = self.meter.next(batches)
                state, metrics = self.step(state, shard_batch(batch, self.mesh))
                step += 1
                self.watch.started(step, batch["key"], metrics, state)
        self.checkpoints.wait()
        found = {"step": step, **self.watch.last, **self.notes.figures}
        return found | ({"stopped": self.stop.reason} if self.stop.reason else {})

    def ends(self, state: State, step: int) -> bool:
        """Evaluates, draws and saves if it is time to. -> whether this was the last step."""
        is_last, is_stopped = step == self.cfg.steps, self.stop.is_wanted(step)
        must_judge = self.notes.evaluated < step and (
            is_last or _due(step, self.cfg.evaluate_every)
        )
        must_draw = self.saved < step and _due(step, self.cfg.pictures_every)
        must_save = is_last or must_judge or is_stopped or _due(step, self.cfg.save_every)
        if not (must_judge or must_draw or must_save):
            return False
        self.watch.settle(state)
        with self.meter.pause():
            try:
                if must_judge and not is_stopped:
                    self.evaluate(state, step)
                if must_draw and not is_stopped:
                    self.log.picture(step, self.judge.pictures(self.weights(state)))
            except StoppedError:
                is_stopped = True
            if must_save:
                self.save(state, step)
        if is_stopped:
            self.on_event("stopped", {"step": step, "reason": self.stop.reason})
        return is_last or is_stopped

    def evaluate(self, state: State, step: int) -> None:
        """Notes the figures, and keeps the model if it is the best so far."""
        weights = self.weights(state)
        figures = self.judge.figures(weights)
        value = chosen_figure(figures, self.cfg.best)
        self.log.row(step, EVAL, figures)
        self.notes.evaluated, self.notes.figures = step, figures
        best = self.notes.best
        if best is None or (value is not None and value > best):
            self.notes.best, self.notes.best_step = value, step
            weights = {path: whole(leaf) for path, leaf in weights.items()}
            if jax.process_index() == 0:
                write_model(self.experiment, weights, self.folder / place.MODEL)
        facts = {"step": step, "best": self.cfg.best, "chosen": value, "figures": figures}
        self.on_event("evaluated", facts)

    def save(self, state: State, step: int) -> None:
        """Once for each step; what the log says of it is on the disk before."""
        if step == self.saved:
            return
        self.log.sync()
        is_judged = self.notes.evaluated == step and self.notes.best is not None
        value = chosen_figure(self.notes.figures, self.cfg.best) if is_judged else None
        self.checkpoints.save(
            state,
            {
                "config": place.plain(self.config),
                "vocabulary": self.experiment.vocabulary.to_dict(),
                "notes": dataclasses.asdict(self.notes),
            },
            None if value is None else {BEST: value},
        )
        self.saved = step
        self.on_event("saved", {"step": step})

    def weights(self, state: State) -> dict[str, jax.Array]:
        """Those that are judged: the moving average if there is one."""
        return weights_of(state, ema=state.ema is not None)

    def close(self) -> None:
        self.bar.close()
        self.log.close()


def _due(step: int, every: int) -> bool:
    return step > 0 and every > 0 and step % every == 0


def _only(paths: Iterable[str], weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: weights[path] for path in paths}
