"""Evaluation and pictures during training, with the compiled functions of `opvseg evaluate`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from opvseg_jax.core.errors import UserError
from opvseg_jax.evaluate.placing import whole
from opvseg_jax.evaluate.protocols import score, summary
from opvseg_jax.evaluate.run import evaluate
from opvseg_jax.evaluate.shown import ImageResult
from opvseg_jax.inference.sheet import Row, contact_sheet
from opvseg_jax.pipeline.evaluation import evaluation_batches
from opvseg_jax.pipeline.loader import Batch
from opvseg_jax.pipeline.samples import Source
from opvseg_jax.pipeline.selections import Subset
from opvseg_jax.train.experiment import Experiment
from opvseg_jax.train.stop import Stop

SHOWN = 4  # images on a sheet
SETTINGS = ("pred_all", "objects")  # where the best model is judged: parts if there are any


class Judge:
    """Asks how good some weights are; a `Stop` may cut it short by a `StoppedError`."""

    def __init__(self, experiment: Experiment, mesh: Mesh, stop: Stop):
        self.experiment, self.mesh, self.stop = experiment, mesh, stop

    def figures(self, weights: Mapping[str, jax.Array]) -> dict[str, float]:
        """{"standard/pred_all/h-IoU": 31.4, ...} over the evaluation data."""
        counts = self._counted(weights, self.experiment.eval_source, None)
        words = self.experiment.eval_vocabulary
        protocols = self.experiment.config.eval.protocols
        return summary(report for name in protocols for report in score(counts, words, name))

    def pictures(self, weights: Mapping[str, jax.Array]) -> Image.Image | None:
        """Some images beside their labels and what the model answers, from all over the data.

        Only process 0 draws.
        """
        source, rows = self.experiment.eval_source, []
        count = min(len(source), SHOWN * jax.process_count())
        indices = np.linspace(0, len(source) - 1, count).astype(int).tolist()
        self._counted(weights, Subset(source, indices), lambda result: rows.append(_row(result)))
        return contact_sheet(rows) if rows and jax.process_index() == 0 else None

    def _counted(self, weights: Mapping[str, jax.Array], source: Source, on_result) -> Any:
        experiment, cfg = self.experiment, self.experiment.config.eval
        weights = {path: whole(leaf) for path, leaf in weights.items()}
        return evaluate(
            experiment.plan,
            weights,
            experiment.eval_text(weights),
            experiment.eval_vocabulary,
            self.stop.watch(self._batches(source)),
            mesh=self.mesh,
            modes=cfg.modes,
            protocols=cfg.protocols,
            on_result=on_result,
        )

    def _batches(self, source: Source) -> Iterator[Batch]:
        config = self.experiment.config
        return evaluation_batches(
            source,
            self.experiment.eval_transforms,
            batch_size=config.eval.batch_size,
            process=jax.process_index(),
            num_processes=jax.process_count(),
            threads=config.data.threads,
        )


def chosen_figure(figures: Mapping[str, float], best: str) -> float | None:
    """The figure that the best model is chosen by: of the first protocol, parts before objects.

    "h_iou" means h-IoU; data without unseen classes have none, and are judged by their mIoU.
    """
    for wanted in dict.fromkeys((_plain(best), "miou")):
        for setting in (*SETTINGS, None):
            for name, value in figures.items():
                _, where, figure = name.split("/")
                if _plain(figure) == wanted and setting in (where, None) and math.isfinite(value):
                    return value
    if figures:
        known = sorted({name.split("/")[2] for name in figures})
        raise UserError(f"train.best {best!r} is no figure: there are {', '.join(known)}")
    return None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _row(result: ImageResult) -> Row:
    truth, found = result.truth(), result.prediction()
    pictures = {
        "image": found.image,
        "truth": truth.overlay(has_legend=False),
        "prediction": found.overlay(has_legend=False),
    }
    return Row(pictures, result.key)
