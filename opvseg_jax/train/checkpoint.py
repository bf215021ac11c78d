"""Checkpoints: all that a training needs to go on as if it had never stopped.

    WORKDIR/frozen/            the weights that training leaves alone, stored once
    WORKDIR/checkpoints/120/   everything else after 120 steps, with the metadata

Orbax writes under a temporary name and renames, so a step that is there is complete. It does not
notice bytes that have changed since, so the metadata holds a checksum of every tensor, and of
itself: a damaged step is told and the one before it is used.
"""

import contextlib
import dataclasses
import json
import logging
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.files import writable_folder, write_whole
from opvseg_jax.parallel.processes import barrier
from opvseg_jax.train.checksum import checksums

STEPS, FROZEN = "checkpoints", "frozen"
METADATA = "_CHECKPOINT_METADATA"  # where Orbax puts what is handed to it as custom metadata
ASIDE = ".damaged"

Leaves = dict[str, jax.Array]  # {"optimizer/0/mu/head/kernel": array}
log = logging.getLogger(__name__)


class DamagedError(Exception):
    """What is stored cannot be what was saved."""


class Checkpoints:
    """The checkpoints of one work directory: the last `keep`, and the best by a metric.

    A state is a dataclass of pytrees with a field `step`, a scalar, and a field `frozen`, a dict.
    All processes call every method.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, best: str | None = None):
        if keep < 1:
            raise UserError(f"train.keep {keep}: expected at least one checkpoint to keep")
        self.folder = Path(folder).expanduser().absolute()
        self.keep, self.best = keep, best
        logging.getLogger("absl").addFilter(_is_not_of_orbax)
        self._writer: ocp.training.Checkpointer | None = None
        self._damaged: list[int] = []
        self._has_frozen = (self.folder / FROZEN).is_dir()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps that are stored, in order."""
        if not (self.folder / STEPS).is_dir():
            return []
        names = [path.name for path in (self.folder / STEPS).iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def peek(self) -> dict[str, Any] | None:
        """The metadata of the newest step that has any; its tensors are not read."""
        for step in reversed(self.steps()):
            try:
                return _described(self._place(step))["metadata"]
            except DamagedError:
                continue
        return None

    def save(
        self,
        state: Any,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copies the state and returns; files are written meanwhile, one step at a time.

        `metadata` and `metrics` are what JSON can hold.
        """
        step = int(state.step)
        try:
            self._save_frozen(state.frozen)
            leaves = _leaves(_changing(state))
            self._open().save_async(
                step,
                leaves,
                metrics=None if metrics is None else dict(metrics),
                custom_metadata=_description(leaves, metadata, metrics),
            )
        except Exception as error:
            raise _unwritable(error, self.folder) from error

    def restore(
        self,
        like: Any,
        remake_frozen: Callable[[], Mapping[str, Any]] | None = None,
        only: int | None = None,
    ) -> tuple[Any, dict[str, Any]] | None:
        """The newest undamaged state (or that of one step) and its metadata; None if there is none.

        `like` is the state with `jax.ShapeDtypeStruct`s as leaves, whose shardings are obeyed:
        they need not be those of the state that was saved. Frozen weights that are damaged are
        made again by `remake_frozen`, and must come out as they were.
        """
        steps = self.steps() if only is None else [only]
        for step in reversed(steps):
            try:
                leaves, stored = self._load(self._place(step), _leaves(_changing(like)))
                if int(leaves["step"]) != step:
                    raise DamagedError(f"it holds step {int(leaves['step'])}")
            except DamagedError as error:
                log.warning("checkpoint %s is damaged and left out: %s", self._place(step), error)
                self._damaged.append(step)
                continue
            state = _filled(_changing(like), leaves)
            frozen = self._load_frozen(like.frozen, remake_frozen)
            return dataclasses.replace(like, **state, frozen=frozen), stored["metadata"]
        if only is not None:
            raise UserError(f"checkpoint {self._place(only)} is damaged: choose another step")
        if steps:
            raise UserError(
                f"all checkpoints in {self.folder / STEPS} are damaged: remove the folder to begin "
                "again, or name another work directory"
            )
        return None

    def wait(self) -> None:
        """Returns when everything is written; what went wrong meanwhile is raised here."""
        if self._writer is None:
            return
        try:
            self._writer.wait()
        except Exception as error:
            raise _unwritable(error, self.folder) from error

    def close(self) -> None:
        """Waits and lets go."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            writer.close()
        except Exception as error:
            raise _unwritable(error, self.folder) from error

    def _open(self) -> ocp.training.Checkpointer:
        if self._writer is not None:
            return self._writer
        place = self.folder / STEPS
        if jax.process_index() == 0:
            writable_folder(place)
            for step in self.steps():
                self._mend(step)
        barrier(f"checkpoints of {self.folder}")
        keep = [ocp.training.preservation_policies.LatestN(self.keep)]
        if name := self.best:
            keep.append(
                ocp.training.preservation_policies.BestN(
                    get_metric_fn=lambda metrics: metrics[name],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._writer = ocp.training.Checkpointer(
            place,
            cleanup_tmp_directories=True,
            # Orbax' own default skips a save in silence while another is being written.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.AnyPreservationPolicy(keep),
        )
        return self._writer

    def _mend(self, step: int) -> None:
        """Damaged steps would count as the newest that are kept, and stop Orbax at the start."""
        place = self._place(step)
        try:
            description = _described(place)
        except DamagedError:
            description = None
        if description is None or step in self._damaged:
            _set_aside(place)
            return
        stored, wanted = place / "metrics" / "metrics", description["metrics"]
        if wanted is not None and _json(stored) != wanted:
            writable_folder(stored.parent)
            write_whole(stored, json.dumps(wanted).encode())

    def _save_frozen(self, frozen: Mapping[str, jax.Array]) -> None:
        if self._has_frozen or not frozen:
            return
        if jax.process_index() == 0:
            writable_folder(self.folder)
        frozen = dict(frozen)
        ocp.save(self.folder / FROZEN, frozen, custom_metadata=_description(frozen, {}))
        self._has_frozen = True

    def _load_frozen(self, like: Mapping[str, Any], remake: Callable | None) -> Leaves:
        if not like:
            return {}
        place = self.folder / FROZEN
        try:
            return self._load(place, dict(like))[0]
        except DamagedError as error:
            reason = f"the frozen weights in {place} are damaged ({error})"
        try:
            wanted = _description_of(place)["tensors"]
        except DamagedError:
            wanted = None
        if remake is None or wanted is None:
            raise UserError(f"{reason}: put them back, or begin again in another work directory")
        log.warning("%s and are made again", reason)
        made = {path: jax.device_put(leaf, like[path].sharding) for path, leaf in remake().items()}
        if _tensors(made) != wanted:
            raise UserError(f"{reason}, and what the config makes today differs from them")
        return made

    def _load(self, place: Path, like: Mapping[str, Any]) -> tuple[Leaves, dict]:
        """The tensors of a folder, checked, and its description."""
        stored = _description_of(place)
        _check_fits(place, stored["tensors"], like)
        leaves, problem = {}, ""
        try:
            with _own_words():
                leaves = ocp.load(place, {path: _placed(leaf) for path, leaf in like.items()})
        except Exception as error:  # of many kinds: whatever a broken file leads to
            problem = f"it cannot be read ({type(error).__name__})"
        _agree(not problem, problem)
        found = _tensors(leaves)
        wrong = [path for path in like if found[path] != stored["tensors"][path]]
        if wrong:
            raise DamagedError(f"{len(wrong)} tensors have changed, the first: {sorted(wrong)[0]}")
        return leaves, stored

    def _place(self, step: int) -> Path:
        return self.folder / STEPS / str(step)


def _changing(state: Any) -> dict[str, Any]:
    """The fields of a state that every step stores; what is None is not there."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if name != "frozen"}


def _leaves(tree: Any) -> Leaves:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _filled(like: Any, leaves: Leaves) -> Any:
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in _leaves(like)])


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _tensors(leaves: Leaves) -> dict[str, list]:
    """{path: [checksum, dtype, shape]}, as JSON gives it back."""
    sums = checksums(leaves)
    return {
        path: [sums[path], np.dtype(leaf.dtype).name, list(leaf.shape)]
        for path, leaf in leaves.items()
    }


def _description(
    leaves: Leaves, metadata: Mapping[str, Any], metrics: Mapping[str, float] | None = None
) -> dict[str, Any]:
    content = {
        "metadata": dict(metadata),
        "metrics": None if metrics is None else dict(metrics),
        "tensors": _tensors(leaves),
    }
    return {"content": content, "crc32": _crc32(content)}


def _description_of(place: Path) -> dict[str, Any]:
    """What `_description` said of the step in a folder, if all processes can read it."""
    problem, content = "", {}
    try:
        content = _described(place)
    except DamagedError as error:
        problem = str(error)
    _agree(not problem, problem)
    return content


def _described(place: Path) -> dict[str, Any]:
    try:
        stored = _json(place / METADATA)["custom_metadata"]
        content, crc32 = stored["content"], stored["crc32"]
    except (KeyError, TypeError):
        raise DamagedError("its metadata cannot be read") from None
    if crc32 != _crc32(content):
        raise DamagedError("its metadata have changed")
    return content


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _crc32(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _check_fits(place: Path, stored: Mapping[str, list], like: Mapping[str, Any]) -> None:
    """A state of another model is a mistake, not damage."""
    want = {path: [np.dtype(leaf.dtype).name, list(leaf.shape)] for path, leaf in like.items()}
    problems = [f"{path} is not in it" for path in want.keys() - stored.keys()]
    problems += [f"{path} is not in the model" for path in stored.keys() - want.keys()]
    problems += [
        f"{path} is {' '.join(map(str, stored[path][1:]))} and should be "
        f"{' '.join(map(str, want[path]))}"
        for path in want.keys() & stored.keys()
        if stored[path][1:] != want[path]
    ]
    if problems:
        raise UserError(
            f"{place} holds another model than the config describes: {sorted(problems)[0]}"
            f"{f', and {len(problems) - 1} more' if len(problems) > 1 else ''}"
        )


def _agree(is_fine: bool, problem: str) -> None:
    """Raises in all processes if it is not fine in one."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        problem = problem or "another process cannot read it"
        is_fine = bool(np.all(multihost_utils.process_allgather(np.array(is_fine))))
    if not is_fine:
        raise DamagedError(problem)


@contextlib.contextmanager
def _own_words() -> Iterator[None]:
    """A broken file is told in one line by us, not by a trace from each of Orbax' threads.

    Their complaints may come late, so after an error these two stay unheard.
    """

    def on_dropped(dropped):
        if str(dropped.exc_value) != "Event loop is closed":
            hook(dropped)

    def is_other(record: logging.LogRecord) -> bool:
        return "Task exception was never retrieved" not in record.getMessage()

    hook, sys.unraisablehook = sys.unraisablehook, on_dropped
    logging.getLogger("asyncio").addFilter(is_other)
    yield
    sys.unraisablehook = hook
    logging.getLogger("asyncio").removeFilter(is_other)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """What fails is raised as well, and told in one line, not in a trace for each thread."""
    return "orbax" not in Path(record.pathname).parts


def _set_aside(place: Path) -> None:
    target, number = place.with_name(place.name + ASIDE), 1
    while target.exists():
        target, number = place.with_name(f"{place.name}{ASIDE}.{number}"), number + 1
    place.rename(target)


def _unwritable(error: Exception, folder: Path) -> Exception:
    """A full or read-only disk is the user's to mend; anything else stays what it is."""
    if isinstance(error, UserError):
        return error
    chain, text = error, ""
    while chain is not None:
        text += f" {chain}"
        chain = chain.__cause__ or chain.__context__
    marks = ("No space left", "Read-only file", "Permission denied", "quota", "File too large")
    found = next((mark for mark in marks if mark.lower() in text.lower()), None)
    if found is None and not isinstance(error, OSError):
        return error
    reason = found or str(error)
    return UserError(
        f"cannot write a checkpoint into {folder} ({reason}): make room or name another work "
        "directory; the checkpoints before it are whole"
    )
