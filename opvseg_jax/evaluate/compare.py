"""Several evaluations side by side: each figure under its protocol, one column for each run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opvseg_jax.core.errors import UserError
from opvseg_jax.inference.sheet import Table

SHOWN = ("mIoU", "mIoU-seen", "mIoU-unseen", "h-IoU")


class Run(NamedTuple):
    """What `evaluation.json` says, under a short name."""

    name: str
    about: dict[str, Any]

    def figures(self) -> dict[tuple[str, str], dict[str, float | None]]:
        """{(protocol, setting): {figure: value}}."""
        reports = self.about["reports"]
        return {(r["protocol"], r["setting"]): r["figures"] for r in reports}


def read_run(place: str | Path) -> Run:
    """The folder of an evaluation, or its evaluation.json."""
    path = Path(place).expanduser()
    file = path / "evaluation.json" if path.is_dir() else path
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        Run("", about).figures()
    except OSError:
        raise UserError(
            f"{place} holds no evaluation.json: name a folder that opvseg evaluate wrote"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is not what opvseg evaluate writes: evaluate again") from None
    return Run(path.name if path.is_dir() else path.parent.name, about)


def tables(runs: Sequence[Run]) -> list[Table]:
    """A table of figures, and a note where runs were not made on the same data."""
    figures = [run.figures() for run in runs]
    keys = list(dict.fromkeys(key for found in figures for key in found))
    rows = []
    for protocol, setting in keys:
        for name in SHOWN:
            values = [found.get((protocol, setting), {}).get(name) for found in figures]
            if any(value is not None for value in values):
                scale = 100 if protocol.startswith("cliper") else 1
                cells = ["–" if v is None else f"{scale * v:.2f}" for v in values]
                rows.append((f"{protocol}, {setting}: {name}", *cells))
    names = _distinct([run.name for run in runs])
    return [Table("Comparison of runs", ("protocol, setting: figure", *names), rows, _note(runs))]


def _note(runs: Sequence[Run]) -> str:
    lines = [
        f"{name}: {run.about.get('model')} on {run.about.get('data')}, "
        f"{run.about.get('images')} images."
        for name, run in zip(_distinct([run.name for run in runs]), runs, strict=True)
    ]
    kinds = {(run.about.get("data"), run.about.get("images")) for run in runs}
    words = {json.dumps(run.about.get("vocabulary"), sort_keys=True) for run in runs}
    if len(kinds) > 1 or len(words) > 1:
        lines.append("These runs were not made on the same images and words: do not compare them.")
    return " ".join(lines)


def _distinct(names: Sequence[str]) -> list[str]:
    return [
        name if list(names).count(name) == 1 else f"{name} ({i + 1})"
        for i, name in enumerate(names)
    ]
