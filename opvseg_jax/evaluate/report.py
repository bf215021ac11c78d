"""What an evaluation leaves behind: figures, a table per class, the counts, and a page to look at.

evaluation.json     every figure under its protocol, and per class
per_class.csv       the standard protocol, one line a class
counts.npz          the matrices, so that other protocols can be applied later
index.html          all of it with pictures, in one file; contact_sheet.png: the pictures alone
"""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opvseg_jax import __version__
from opvseg_jax.core.files import writable_folder, write_whole
from opvseg_jax.evaluate import compare
from opvseg_jax.evaluate.chart import confusion_picture
from opvseg_jax.evaluate.protocols import PROTOCOLS, Counts, Report, score
from opvseg_jax.evaluate.shown import BestAndWorst, Kept
from opvseg_jax.inference.sheet import Chart, Row, Table, write_report
from opvseg_jax.vocabulary import Vocabulary

FORMAT = "opvseg_jax.evaluation/1"
JSON = "evaluation.json"
TITLES = {
    "objects": "Objects",
    "pred_all": "Parts, Pred-All (by predictions alone)",
    "oracle_obj": "Parts, Oracle-Obj (the objects are given)",
}
# Published names that say the same stand in one column.
COLUMNS = {
    "mIoU": ("mIoU",),
    "seen": ("mIoU-seen",),
    "unseen": ("mIoU-unseen",),
    "h-IoU": ("h-IoU",),
    "mBIoU": ("mBIoU",),
    "h-BIoU": ("h-BIoU", "h-bIoU"),
    "pAcc": ("pACC", "pAcc"),
    "mAcc": ("mACC", "mAcc"),
    "mUSI": ("mUSI",),
    "mOSI": ("mOSI",),
}
ZEROS = (
    "Mind the zeros: two published protocols, that of PartCATSeg (partcatseg) and that of HOPS "
    "(hops, hops_full), leave every class whose IoU is zero out of the means of seen and unseen "
    "classes. Ours (standard) does not: such a class counts as 0. Figures of different protocols "
    "must not be compared."
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was evaluated on what, the counts, and the figures of every protocol asked for."""

    model: str
    data: str
    vocabulary: Vocabulary
    counts: Counts
    reports: tuple[Report, ...]

    @classmethod
    def of(
        cls,
        model: str,
        data: str,
        vocabulary: Vocabulary,
        counts: Counts,
        protocols: Sequence[str] = ("standard",),
    ) -> "Evaluation":
        reports = [report for name in protocols for report in score(counts, vocabulary, name)]
        return cls(model, data, vocabulary, counts, tuple(reports))

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": __version__,
            "model": self.model,
            "data": self.data,
            "images": self.counts.images,
            "about": ZEROS,
            "vocabulary": self.vocabulary.to_dict(),
            "reports": [report.to_dict() for report in self.reports],
        }

    def report(self, protocol: str, setting: str) -> Report | None:
        wanted = (protocol, setting)
        return next((r for r in self.reports if (r.protocol, r.setting) == wanted), None)


def write(
    evaluation: Evaluation,
    out: str | Path,
    pictures: BestAndWorst | None = None,
    others: Sequence[compare.Run] = (),
) -> list[Path]:
    """Writes the files named above. -> their paths, the page first."""
    folder = writable_folder(out)
    text = json.dumps(evaluation.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
    paths = [
        write_whole(folder / JSON, (text + "\n").encode()),
        write_whole(folder / "per_class.csv", _csv(evaluation).encode()),
        write_whole(folder / "counts.npz", _npz(evaluation.counts)),
    ]
    tables = list(figure_tables(evaluation))
    if others:
        own = compare.Run("this run", evaluation.to_dict())
        tables += compare.tables([own, *others])
    page = write_report(
        folder,
        f"{evaluation.model} on {evaluation.data}",
        _rows(pictures) if pictures else (),
        [*tables, *class_tables(evaluation)],
        lead=f"{evaluation.counts.images} images. {ZEROS}",
        charts=_charts(evaluation),
    )
    return [*page, *paths]


def write_comparison(runs: Sequence[compare.Run], out: str | Path) -> list[Path]:
    """The page that sets evaluations side by side."""
    folder = writable_folder(out)
    return write_report(folder, "Evaluations", (), compare.tables(runs), lead=ZEROS)


def figure_tables(evaluation: Evaluation) -> list[Table]:
    """For each setting one table, a line for each protocol."""
    tables = []
    for setting, title in TITLES.items():
        reports = [r for r in evaluation.reports if r.setting == setting]
        columns = [name for name, keys in COLUMNS.items() if any(_cell(r, keys) for r in reports)]
        rows = [
            (report.protocol, *(_cell(report, COLUMNS[name]) or "–" for name in columns))
            for report in reports
        ]
        if rows:
            notes = " ".join(f"{r.protocol}: {r.note}" for r in reports)
            tables.append(Table(title, ("protocol", *columns), rows, notes))
    return tables


def class_tables(evaluation: Evaluation) -> list[Table]:
    """For each setting the classes of the first protocol that has it."""
    tables = []
    for setting, title in TITLES.items():
        report = next((r for r in evaluation.reports if r.setting == setting), None)
        if report is None:
            continue
        header, rows = _class_rows(evaluation, report)
        note = f"Protocol {report.protocol}. – stands for classes that the truth does not hold."
        tables.append(Table(f"{title}: classes", header, rows, note))
    return tables


def _class_rows(evaluation: Evaluation, report: Report) -> tuple[tuple, list[tuple]]:
    words = evaluation.vocabulary
    is_objects = report.setting == "objects"
    mask = words.seen_object_mask if is_objects else words.seen_part_mask
    table = evaluation.counts.tables.get(_main_table(report))
    columns = list(report.per_class)
    has_split = mask is not None and len(mask) == len(report.names)
    header = ("class", *(("split",) if has_split else ()), "pixels", *columns)
    rows = []
    for i, name in enumerate(report.names):
        split = (("seen" if mask[i] else "unseen"),) if has_split else ()
        is_counted = table is not None and len(report.names) == table.num_classes
        pixels = int(table.counts[i].sum()) if is_counted else "–"
        rows.append((name, *split, pixels, *(float(report.per_class[c][i]) for c in columns)))
    return header, rows


def _main_table(report: Report) -> str:
    return PROTOCOLS[report.protocol].settings[report.setting][0][0]


def _cell(report: Report, keys: Sequence[str]) -> str:
    """A figure of a report in percent, or "" if it has none."""
    scale = 100 if report.protocol.startswith("cliper") else 1
    for key in keys:
        value = report.figures.get(key, float("nan"))
        if not np.isnan(value):
            return f"{scale * value:.2f}"
    return ""


def _charts(evaluation: Evaluation) -> list[Chart]:
    note = (
        "Each row is a class, each column what was answered on its pixels; the darker, the larger "
        "the share. The last row holds the pixels that are labelled with nothing."
    )
    charts = []
    for table, title in (("objects", "objects"), ("pred_all", "parts, Pred-All")):
        found = evaluation.counts.tables.get(table)
        if found is None:
            continue
        words = evaluation.vocabulary
        names = words.objects if table == "objects" else words.part_names
        picture = confusion_picture(found.counts, names)
        charts.append(Chart(f"Confusion of {title}", picture, note))
    return charts


def _rows(pictures: BestAndWorst) -> list[Row]:
    groups = {"best": pictures.best, "worst": pictures.worst}
    return [
        _row(f"{name} {i}", kept)
        for name, found in groups.items()
        for i, kept in enumerate(found, 1)
    ]


def _row(name: str, kept: Kept) -> Row:
    shown = {
        "image": kept.truth.image,
        "truth": kept.truth.overlay(has_legend=False),
        "prediction": kept.prediction.overlay(has_legend=False),
    }
    caption = f"{name}: {kept.key}, mean IoU of its classes {100 * kept.iou:.1f}"
    return Row(shown, caption, kept.prediction.groups())


def _csv(evaluation: Evaluation) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    for report in evaluation.reports:
        if report.protocol != evaluation.reports[0].protocol:
            continue
        header, rows = _class_rows(evaluation, report)
        writer.writerow(("protocol", "setting", *header))
        for row in rows:
            cells = ("" if value != value else value for value in row)  # NaN
            writer.writerow((report.protocol, report.setting, *cells))
    return out.getvalue()


def _npz(counts: Counts) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: table.counts for name, table in counts.tables.items()})
    return buffer.getvalue()
