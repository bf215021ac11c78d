"""What `opvseg demo` shows: models side by side on PartWorld, by two protocols; pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from opvseg_jax.evaluate.confusion import Scores
from opvseg_jax.evaluate.rules import partcatseg_pred_all
from opvseg_jax.evaluate.scenes import Counted, Figures, count, figures, scenes_of, truth_of
from opvseg_jax.inference.result import Segmentation
from opvseg_jax.inference.segmenter import Segmenter
from opvseg_jax.inference.sheet import Row, Table, write_report
from opvseg_jax.pipeline.partworld import Scene, vocabulary
from opvseg_jax.vocabulary import Vocabulary

SPLITS = ("val_seen", "val_unseen")
SEEDS = (0, 1, 2)
SHOWN = {"val_seen": 4, "val_unseen": 8}  # scenes on the contact sheet
GROUPS = {"all": "all words", "seen": "seen", "unseen": "unseen", "harmonic": "h-IoU"}
HEADER = ("objects", "shuffled", "parts", "shuffled", "within objects", "parts, published")
LEAD = (
    "PartWorld is a small drawn world that comes with the library. Its CLIP has read captions that "
    "speak of every kind of object and has never been shown which pixels they mean. Seen kinds "
    "are those that training labels; the unseen ones are {unseen}."
)
NOTE = (
    "Percent mIoU, mean ± standard deviation over {seeds} worlds of {scenes} scenes for each "
    "split; parts by Pred-All. Classes never found count as zeros, except under the published "
    "protocol (PartCATSeg's), which leaves them out of its means, as it does what is answered "
    "outside of the labelled parts. Shuffled: every class has the word of another. Within objects: "
    "parts have the words of other parts of their object, which is still found. A model that does "
    "not read would reach the same with both."
)

Progress = Callable[[], None]
Segmenters = Mapping[str, Segmenter]


class Demo(NamedTuple):
    """One table for each split, what to look at, and parts' h-IoU by model and world."""

    tables: list[Table]
    rows: list[Row]
    h_iou: dict[str, np.ndarray]  # [worlds], standard, of `val_unseen`


class Judged(NamedTuple):
    """Everything that is said of one model in one world."""

    objects: Figures
    parts: Figures
    within: Figures
    published: Scores


def run(
    segmenters: Segmenters,
    scenes: int,
    on_scene: Progress = lambda: None,
    seeds: Sequence[int] = SEEDS,
) -> Demo:
    """Every model on `scenes` scenes of each split and seed; pictures show the last model."""
    words = vocabulary()
    tables, rows, h_iou = [], [], {}
    for split in SPLITS:
        found: dict[str, list[Judged]] = {}
        for name, segmenter in segmenters.items():
            is_shown = name == [*segmenters][-1]
            for seed in seeds:
                count_shown = SHOWN[split] if is_shown and seed == seeds[0] else 0
                pictures = _Pictures(split, words, count_shown, on_scene)
                counted = count(segmenter, words, scenes_of(split, seed, scenes), pictures)
                found.setdefault(name, []).append(judged(counted, words, seed))
                rows += pictures.rows
            h_iou[name] = np.array([one.parts.right.harmonic for one in found[name]])
        tables.append(_table(split, found, scenes))
    return Demo(tables, rows, h_iou)


def judged(found: Counted, words: Vocabulary, seed: int) -> Judged:
    """The figures of one world; `seed` shuffles the words."""
    positive = partcatseg_pred_all(found.parts.counts, words.seen_part_mask).figures
    names = ("mIoU", "mIoU-seen", "mIoU-unseen", "h-IoU")
    return Judged(*figures(found, words, seed), Scores(*(positive[name] for name in names)))


def write(demo: Demo, title: str, out: Path) -> list[Path]:
    """Writes index.html and contact_sheet.png."""
    words = vocabulary()
    unseen = [
        name for name, seen in zip(words.objects, words.seen_objects, strict=True) if not seen
    ]
    lead = LEAD.format(unseen=", ".join(unseen))
    return write_report(
        out, f"opvseg demo: {title} on PartWorld", demo.rows, demo.tables, lead=lead
    )


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


def _table(split: str, found: Mapping[str, list[Judged]], scenes: int) -> Table:
    rows = []
    for field, label in GROUPS.items():
        for name, worlds in found.items():
            cells = _cells(worlds, field)
            if any(cells):
                rows.append((f"{label}: {name}", *cells))
    if len(rows) == 2 * len(found):  # only seen words: then they are all words
        rows = rows[len(found) :]
    worlds = len(next(iter(found.values())))
    note = NOTE.format(seeds=worlds, scenes=scenes)
    return Table(f"PartWorld {split}", ("", *HEADER), rows, note)


def _cells(worlds: Sequence[Judged], field: str) -> tuple[str, ...]:
    """One for each column; empty where the split has no such class."""
    columns = [
        [getattr(scores, field) for scores in (*one.objects, *one.parts, one.within.shuffled)]
        + [getattr(one.published, field)]
        for one in worlds
    ]
    return tuple(_spread(np.array(column)) for column in zip(*columns, strict=True))


def _spread(values: np.ndarray) -> str:
    return "" if np.isnan(values).any() else f"{values.mean():.1f} ± {values.std():.1f}"
