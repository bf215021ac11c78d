"""What a work directory holds, judged on the test data of its config: a model or a checkpoint."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax

from opvseg_jax.core.errors import UserError
from opvseg_jax.evaluate.protocols import Counts
from opvseg_jax.evaluate.run import evaluate
from opvseg_jax.evaluate.shown import ImageResult
from opvseg_jax.hub.trained import model_place, read_weights
from opvseg_jax.parallel.mesh import make_mesh, one_device
from opvseg_jax.pipeline.evaluation import evaluation_batches
from opvseg_jax.pipeline.loader import Batch
from opvseg_jax.pipeline.transforms import LabelRoundTrip
from opvseg_jax.train.checkpoint import Checkpoints
from opvseg_jax.train.experiment import Experiment
from opvseg_jax.train.optimizer import make_rule
from opvseg_jax.train.state import abstract_state, weights_of

LAST, BEST = "last", "best"


def require_workdir(workdir: Path) -> Path:
    """The folder, or a sentence that says that nothing was trained there."""
    folder = Path(workdir).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no work directory {folder}: run opvseg train first")
    if model_place(folder) is None and not Checkpoints(folder).steps():
        raise UserError(f"{folder} holds neither a model nor a checkpoint: run opvseg train first")
    return folder


def weights_in(
    experiment: Experiment, workdir: Path, checkpoint: str = BEST
) -> tuple[dict[str, jax.Array], str]:
    """The best model, or the checkpoint of a step or the last one -> weights, and their name."""
    folder = require_workdir(workdir)
    place = model_place(folder)
    if checkpoint == BEST and place is not None:
        return read_weights(place, experiment.plan, "the config"), str(place)
    with Checkpoints(folder) as stored:
        step = _step(stored, checkpoint)
        tables = experiment.learning_rates, experiment.weight_decay
        rule = make_rule(experiment.config.train, experiment.plan, *tables)
        like = abstract_state(experiment.plan, rule, one_device())
        state, _ = stored.restore(like, only=step)
    return weights_of(state, ema=state.ema is not None), f"{folder}, step {step}"


def batches_of(experiment: Experiment, *, published_labels: bool = False) -> Iterator[Batch]:
    """This process's share of the test images."""
    round_trip = (LabelRoundTrip(),) if published_labels else ()
    return evaluation_batches(
        experiment.eval_source,
        (*round_trip, *experiment.eval_transforms),
        batch_size=experiment.config.eval.batch_size,
        process=jax.process_index(),
        num_processes=jax.process_count(),
        threads=experiment.config.data.threads,
    )


def judge(
    experiment: Experiment,
    weights: Mapping[str, jax.Array],
    batches: Iterable[Batch],
    on_result: Callable[[ImageResult], None] | None = None,
) -> Counts:
    """What the config's protocols and modes count with these weights, on all devices."""
    config = experiment.config
    return evaluate(
        experiment.plan,
        weights,
        experiment.eval_text(weights),
        experiment.eval_vocabulary,
        batches,
        mesh=make_mesh(**config.mesh),
        modes=tuple(config.eval.modes),
        protocols=tuple(config.eval.protocols),
        on_result=on_result,
    )


def _step(stored: Checkpoints, wanted: str) -> int:
    steps = stored.steps()
    if not steps:
        raise UserError(f"{stored.folder} holds no checkpoint: run opvseg train first")
    if wanted in (LAST, BEST):
        return steps[-1]
    if not wanted.isdecimal() or int(wanted) not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"--checkpoint {wanted}: there are {BEST}, {LAST} and the steps {known}")
    return int(wanted)
