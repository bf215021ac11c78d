"""What a training leaves behind to read: metrics.jsonl, TensorBoard's files, pictures, a bar.

A row of metrics.jsonl is {"step": 20, "kind": "train", "loss": ..., "time": {...}}. What is
measured by a clock is under "time"; everything else a resumed training writes exactly as an
uninterrupted one does.
"""

import io
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from PIL import Image
from tqdm import tqdm

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import write_whole
from opvseg_jax.train.events import EventFile

METRICS, EVENTS, PICTURES = "metrics.jsonl", "tensorboard", "pictures"
TRAIN, EVAL = "train", "eval"

Row = Mapping[str, float]


class Sink(Protocol):
    """Where rows and pictures go besides the work directory."""

    def row(self, step: int, kind: str, values: Row) -> None: ...

    def picture(self, step: int, image: Image.Image) -> None: ...

    def close(self) -> None: ...


class Log:
    """Writes from process 0 alone; in the others every call does nothing.

    Rows of steps after `step`, and evaluations after `evaluated`, are of a run that was cut off:
    they are removed, as they will be written again.
    """

    def __init__(
        self, folder: Path, step: int = 0, evaluated: int = 0, sinks: tuple[Sink, ...] = ()
    ):
        self.is_writer = jax.process_index() == 0
        if not self.is_writer:
            return
        self.folder, self._sinks = folder, sinks
        _cut(folder / METRICS, step, evaluated)
        try:
            self._rows = (folder / METRICS).open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(folder, error) from error
        self._events = EventFile(folder / EVENTS, step)

    def row(self, step: int, kind: str, values: Row, time: Row | None = None) -> None:
        """Values that are not finite become null."""
        if not self.is_writer:
            return
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        row = {"step": step, "kind": kind, **finite} | ({"time": dict(time)} if time else {})
        shown = {f"{kind}/{name}": x for name, x in {**values, **(time or {})}.items()}
        try:
            self._rows.write(json.dumps(row) + "\n")
            self._rows.flush()  # what is written survives the end of this process
            self._events.scalars(step, shown)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        for sink in self._sinks:
            sink.row(step, kind, shown)

    def picture(self, step: int, image: Image.Image | None) -> None:
        """As pictures/STEP.png, and in TensorBoard."""
        if not self.is_writer or image is None:
            return
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        try:
            (self.folder / PICTURES).mkdir(exist_ok=True)
            write_whole(self.folder / PICTURES / f"{step:07d}.png", buffer.getvalue())
            self._events.picture(step, "predictions", buffer.getvalue(), image.size)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        for sink in self._sinks:
            sink.picture(step, image)

    def sync(self) -> None:
        """Puts the rows on the disk: a checkpoint must not know more than they say."""
        if not self.is_writer:
            return
        try:
            os.fsync(self._rows.fileno())
            self._events.flush()
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def close(self) -> None:
        if not self.is_writer:
            return
        for closing in (self._rows, self._events, *self._sinks):
            closing.close()


class Wandb:
    """Weights & Biases; a training that goes on goes on in the same run."""

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise UserError("--wandb needs wandb: pip install 'opvseg_jax[wandb]'") from None
        note = folder / "wandb_run.txt"
        known = note.read_text(encoding="utf-8").strip() if note.is_file() else None
        self._wandb = wandb
        self._run = wandb.init(
            project=project, dir=str(folder), id=known, resume="allow", config=dict(config)
        )
        if known is None:
            write_whole(note, f"{self._run.id}\n".encode())

    def row(self, step: int, kind: str, values: Row) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, image: Image.Image) -> None:
        self._run.log({"predictions": self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


class Bar:
    """The progress of a run on stderr, if somebody looks: steps, time left, what was last said."""

    def __init__(self, steps: int, start: int):
        is_hidden = True if jax.process_index() else None  # None: unless stderr is no terminal
        self._bar = tqdm(
            total=steps, initial=start, unit="step", file=sys.stderr, disable=is_hidden
        )

    def step(self) -> None:
        self._bar.update()

    def say(self, facts: Mapping[str, str]) -> None:
        self._bar.set_postfix(facts, refresh=False)

    def close(self) -> None:
        self._bar.close()


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a work directory; half a row at the end is left out."""
    path = Path(folder) / METRICS
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _cut(path: Path, step: int, evaluated: int) -> None:
    if not path.is_file():
        return
    rows = read_rows(path.parent)
    last = {TRAIN: step, EVAL: evaluated}
    kept = [row for row in rows if row["step"] <= last.get(row["kind"], step)]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    if text != path.read_text(encoding="utf-8"):
        write_whole(path, text.encode())


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the log of {folder} ({error.strerror or error}): make room or name another "
        "work directory"
    )
