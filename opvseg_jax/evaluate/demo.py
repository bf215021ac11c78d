"""What `opvseg demo` shows: figures on PartWorld, right words beside shuffled ones; pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from opvseg_jax.evaluate.confusion import Scores
from opvseg_jax.evaluate.scenes import Figures, count, figures, scenes_of, truth_of
from opvseg_jax.inference.result import Segmentation
from opvseg_jax.inference.segmenter import Segmenter
from opvseg_jax.inference.sheet import Row, Table, write_report
from opvseg_jax.pipeline.partworld import Scene, vocabulary
from opvseg_jax.vocabulary import Vocabulary

SPLITS = ("val_seen", "val_unseen")
SEEDS = (0, 1, 2)
SHOWN = {"val_seen": 4, "val_unseen": 8}  # scenes on the contact sheet
HEADER = (
    *("objects (mIoU)", "shuffled", "ratio"),
    *("parts (mIoU)", "shuffled", "ratio", "within objects", "ratio"),
)
LEAD = (
    "PartWorld is a small drawn world that comes with the library. Its CLIP has read captions that "
    "speak of every kind of object and has never been shown which pixels they mean. Seen kinds "
    "are those that training would label; the unseen ones are {unseen}."
)
NOTE = (
    "Percent, mean ± standard deviation over {seeds} worlds of {scenes} scenes for each split; "
    "parts by Pred-All. Shuffled: every class has the word of another. Within objects: parts have "
    "the words of other parts of their object, which is still found. A model that does not read "
    "would reach the same with both."
)

Progress = Callable[[], None]


class Demo(NamedTuple):
    """Rows of a table by split, and what to look at."""

    tables: list[Table]
    rows: list[Row]


def run(
    segmenter: Segmenter,
    scenes: int,
    on_scene: Progress = lambda: None,
    seeds: Sequence[int] = SEEDS,
) -> Demo:
    """Segments `scenes` scenes of each split and seed."""
    words = vocabulary()
    tables, rows = [], []
    for split in SPLITS:
        found = []
        for seed in seeds:
            pictures = _Pictures(split, words, SHOWN[split] if seed == seeds[0] else 0, on_scene)
            world = scenes_of(split, seed, scenes)
            counted = count(segmenter, words, world, pictures)
            found.append(figures(counted, words, seed))
            rows += pictures.rows
        tables.append(_table(split, found, scenes))
    return Demo(tables, rows)


def write(demo: Demo, segmenter: Segmenter, out: Path) -> list[Path]:
    """Writes index.html and contact_sheet.png."""
    words = vocabulary()
    unseen = [
        name for name, seen in zip(words.objects, words.seen_objects, strict=True) if not seen
    ]
    lead = LEAD.format(unseen=", ".join(unseen))
    title = f"opvseg demo: {segmenter.name} on PartWorld"
    return write_report(out, title, demo.rows, demo.tables, lead=lead)


class _Pictures:
    """Keeps the first results as rows of the contact sheet."""

    def __init__(self, split: str, words: Vocabulary, wanted: int, on_scene: Progress):
        self.rows: list[Row] = []
        self._split, self._words, self._wanted, self._on_scene = split, words, wanted, on_scene

    def __call__(self, scene: Scene, result: Segmentation) -> None:
        self._on_scene()
        if len(self.rows) >= self._wanted:
            return
        truth = truth_of(scene, self._words)
        pictures = {
            "image": scene.image,
            "truth": truth.overlay(has_legend=False),
            "prediction": result.overlay(has_legend=False),
        }
        caption = f"{self._split}: {scene.captions[0].text}"
        self.rows.append(Row(pictures, caption, result.groups()))


def _table(split: str, found: list[tuple[Figures, Figures, Figures]], scenes: int) -> Table:
    names = {"all": "all words", "seen": "seen", "unseen": "unseen", "harmonic": "h-IoU"}
    objects, parts, within = zip(*found, strict=True)
    rows = [
        (label, *_cells(objects, field), *_cells(parts, field), *_cells(within, field)[1:])
        for field, label in names.items()
    ]
    rows = [row for row in rows if any(row[1:])]
    if len(rows) == 2:  # only seen words: then they are all words
        rows = rows[1:]
    note = NOTE.format(seeds=len(found), scenes=scenes)
    return Table(f"PartWorld {split}", ("", *HEADER), rows, note)


def _cells(found: Sequence[Figures], field: str) -> tuple[str, str, str]:
    """Right, shuffled and their ratio; empty where the split has no such class."""
    right, shuffled = (
        np.array([getattr(pick(figure), field) for figure in found]) for pick in (_right, _shuffled)
    )
    if np.isnan(right).any():
        return "", "", ""
    ratio = f"{right.mean() / shuffled.mean():.1f}x" if shuffled.mean() > 0 else "-"
    return _spread(right), _spread(shuffled), ratio


def _right(figure: Figures) -> Scores:
    return figure.right


def _shuffled(figure: Figures) -> Scores:
    return figure.shuffled


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}"
