"""`prepare`: one benchmark from its downloaded form to a folder that TFDS and the pipeline read.

    OUT/<name>/1.0.0/            complete, or not there
    OUT/<name>/1.0.0.partial/    finished shards and what is known of them, until complete

A shard is written under a temporary name and renamed; then the facts about it are. A run that was
killed, or stopped by a full disk, goes on with the shards that are missing.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opvseg_jax.data.builders import pool, records, registry
from opvseg_jax.data.builders.benchmark import VERSION, Benchmark, Item, Layout, SampleError
from opvseg_jax.data.builders.source import Found, find, remove_unpacked

from opvseg_jax.core.errors import UserError

SHARD = 256  # samples: a killed run loses at most so many for each worker
MAX_SKIPPED = 0.01
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
LABEL_BYTES = 30_000  # of one image's maps, generously, when disk space is estimated


class Job(NamedTuple):
    """One shard. It names its benchmark instead of carrying it, so that it pickles small."""

    benchmark: str
    layout_index: int
    has_instances: bool
    split: str
    items: list[Item]
    path: Path

    @property
    def facts_path(self) -> Path:
        # Not named like the shard: readers take every file that is.
        return self.path.with_name(f"facts-{self.path.name.split('.')[0]}-{self.path.name[-14:-9]}")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a call of `prepare` left: the folder and its metadata."""

    folder: Path
    metadata: Mapping[str, Any]
    was_ready: bool

    @property
    def num_images(self) -> dict[str, int]:
        return {name: facts["images"] for name, facts in self.metadata["splits"].items()}

    def lines(self) -> list[str]:
        """What to tell the user."""
        splits = ", ".join(f"{name} {count}" for name, count in self.num_images.items())
        done = "was ready already, nothing to do" if self.was_ready else "is ready"
        out = [f"{self.folder} {done}: {splits}"]
        for name, facts in self.metadata["splits"].items():
            if skipped := facts["skipped"]:
                key, reason = skipped[0]
                out.append(
                    f"{name}: {len(skipped)} samples skipped, the first being {key}: {reason}"
                )
        return out


def prepare(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    max_skipped: float = MAX_SKIPPED,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Writes the benchmark; a second call finds it ready and does nothing.

    Samples that cannot be read are skipped and named in the metadata; more than `max_skipped` of
    all (a share) stop the run. `on_progress(done, total)` counts samples.
    """
    benchmark = registry.benchmark(name)
    folder = folder_of(benchmark.name, out)
    if folder.is_dir():
        return Prepared(folder, _metadata_for(folder, splits), was_ready=True)
    workers = pool.available_cores() if workers is None else workers
    unpacked = folder.with_name("unpacked.partial")
    partial = folder.with_name(folder.name + ".partial")
    with _only_one(folder.parent):
        found = find(benchmark, Path(source), splits, unpack_into=unpacked)
        layout = benchmark.layouts[found.layout_index]
        items = {split: _items(layout, paths, split) for split, paths in found.paths.items()}
        has_instances = _has_instances(layout, found)
        with _full_disk_is_said(partial / "plan"):
            _start(partial, benchmark, found, items)
        jobs = _jobs(benchmark, found, has_instances, items, partial)
        facts = _run(jobs, workers, max_skipped, on_progress)
        metadata = _metadata(benchmark, layout, items, facts)
        builder = records.BenchmarkBuilder(
            benchmark=benchmark,
            layout=layout,
            has_instances=has_instances,
            metadata=metadata,
            data_dir=str(partial),
        )
        _finish(builder, partial, folder, facts)
        remove_unpacked(unpacked)
    return Prepared(folder, metadata, was_ready=False)


def folder_of(name: str, out: str | Path) -> Path:
    """Where a benchmark lies in the output folder once it is complete."""
    return Path(out).expanduser() / registry.benchmark(name).name / VERSION


def _metadata_for(folder: Path, splits: Sequence[str] | None) -> dict[str, Any]:
    metadata = records.read_metadata(folder)
    if absent := sorted(set(splits or ()) - metadata["splits"].keys()):
        raise UserError(
            f"{folder} was prepared without {', '.join(absent)}: delete that folder, or give "
            "another --out"
        )
    return metadata


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """The system drops the lock with the process, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another run is preparing {folder}: wait for it to end") from error
        yield


def _items(layout: Layout, paths: Mapping[str, Path], split: str) -> list[Item]:
    try:
        items = layout.items(paths, split)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the files of {layout.title} ({split}) are not in the expected form: {error!r}"
        ) from error
    if not items:
        places = ", ".join(str(path) for path in paths.values())
        raise UserError(f"the split {split} is empty: no image with labels in {places}")
    return items


def _has_instances(layout: Layout, found: Found) -> bool:
    optional = layout.files.get("instances")
    is_given = all("instances" in paths for paths in found.paths.values())
    return layout.has_instances and (optional is None or not optional.optional or is_given)


def _start(partial: Path, benchmark: Benchmark, found: Found, items) -> None:
    """Keeps what an interrupted run of the same items left, drops what another one did."""
    text = json.dumps(
        [benchmark.name, VERSION, SHARD, found.layout_index]
        + [[split, [item.key for item in own]] for split, own in items.items()]
    )
    plan, path = hashlib.sha256(text.encode()).hexdigest(), partial / "plan"
    if partial.is_dir() and (not path.is_file() or path.read_text() != plan):
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    path.write_text(plan)


def _jobs(benchmark, found, has_instances, items, partial: Path) -> list[Job]:
    jobs = []
    for split, own in items.items():
        count = math.ceil(len(own) / SHARD)
        for index in range(count):
            path = partial / records.shard_name(benchmark, split, index, count)
            chunk = own[index * SHARD : (index + 1) * SHARD]
            jobs.append(Job(benchmark.name, found.layout_index, has_instances, split, chunk, path))
    return jobs


def _run(jobs: list[Job], workers: int, max_skipped: float, on_progress) -> list[dict[str, Any]]:
    """The facts of every shard, in order; only what is not there yet is written."""
    facts = {job.path.name: _finished(job) for job in jobs}
    todo = [job for job in jobs if facts[job.path.name] is None]
    total = sum(len(job.items) for job in jobs)
    done = total - sum(len(job.items) for job in todo)
    on_progress(done, total)
    if todo:
        _check_space(todo)
    with contextlib.closing(pool.run(write_shard, todo, workers)) as results:
        for result in results:
            facts[result["name"]] = result
            done += result["seen"]
            on_progress(done, total)
            _check_skipped(facts.values(), total, max_skipped)
    return [facts[job.path.name] for job in jobs]


def _finished(job: Job) -> dict[str, Any] | None:
    """None if the shard must be written: absent, or with skipped samples, perhaps mended since."""
    try:
        facts = json.loads(job.facts_path.read_text())
    except (OSError, ValueError):
        return None
    return facts if job.path.is_file() and not facts["skipped"] else None


def _check_space(jobs: list[Job]) -> None:
    needed = 0
    for job in jobs:
        for item in job.items:
            with contextlib.suppress(OSError):
                needed += item.image.stat().st_size + LABEL_BYTES
    free = shutil.disk_usage(jobs[0].path.parent).free
    if needed > free:
        raise UserError(
            f"about {_amount(needed)} are needed in {jobs[0].path.parent.parent}, "
            f"{_amount(free)} are free: make room or give another --out"
        )


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _check_skipped(facts, total: int, share: float) -> None:
    skipped = [pair for fact in facts if fact for pair in fact["skipped"]]
    if len(skipped) > share * total:
        key, reason = skipped[0]
        raise UserError(
            f"{len(skipped)} of {total} samples cannot be used, more than the allowed "
            f"{share:.1%} (--max-skipped), the first being {key}: {reason}"
        )


def write_shard(job: Job) -> dict[str, Any]:
    """Reads the items of one shard and writes what can be used. Runs in a worker."""
    part = job.path.with_name(job.path.name + ".part")
    benchmark = registry.benchmark(job.benchmark)
    layout = benchmark.layouts[job.layout_index]
    facts = {"name": job.path.name, "split": job.split, "seen": len(job.items)}
    facts |= {"written": 0, "bytes": 0, "left_out": 0, "skipped": []}
    with _full_disk_is_said(part):
        writer = records.Writer(part, benchmark.labels, job.has_instances)
        for item in job.items:
            _add(writer, item, layout, benchmark, job.has_instances, facts)
        writer.close()
        part.replace(job.path)
        text = job.facts_path.with_name(job.facts_path.name + ".part")
        text.write_text(json.dumps(facts))
        text.replace(job.facts_path)
    return facts


def _add(writer, item: Item, layout: Layout, benchmark: Benchmark, has_instances, facts) -> None:
    try:
        sample = layout.read(item, benchmark.labels)
        if sample is None:
            facts["left_out"] += 1
            return
        values = records.example(item.key, sample, benchmark.labels, has_instances)
    except SampleError as error:
        facts["skipped"].append([item.key, str(error)])
        return
    facts["bytes"] += writer.add(values)
    facts["written"] += 1


@contextlib.contextmanager
def _full_disk_is_said(part: Path) -> Iterator[None]:
    """array_record raises RuntimeError with the system's words in it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        words = [os.strerror(number) for number in FULL]
        is_full = getattr(error, "errno", None) in FULL or any(w in str(error) for w in words)
        if not is_full:
            raise
        raise UserError(
            f"no room left in {part.parent.parent}: make some and run the same command again, "
            "finished shards are kept"
        ) from error


def _metadata(benchmark: Benchmark, layout: Layout, items, facts) -> dict[str, Any]:
    splits = {}
    for split in items:
        own = [fact for fact in facts if fact["split"] == split]
        total = functools.partial(lambda key, own: sum(fact[key] for fact in own), own=own)
        splits[split] = {
            "images": total("written"),
            "left_out": total("left_out"),
            "skipped": [pair for fact in own for pair in fact["skipped"]],
        }
    if empty := [split for split, own in splits.items() if not own["images"]]:
        raise UserError(
            f"the split {empty[0]} is empty: none of its images belongs to {benchmark.title}"
        )
    labels = benchmark.labels
    return {
        "benchmark": benchmark.name,
        "vocabulary": labels.name,
        "ignore": labels.ignore,
        # The part models train unlabelled pixels as background; elsewhere they do not count.
        "unlabelled": "background" if labels.num_parts else "ignore",
        "layout": layout.title,
        "splits": splits,
    }


def _finish(builder, partial: Path, folder: Path, facts) -> None:
    """Metadata last, then one rename makes the folder."""
    splits: dict[str, tuple[list[int], int]] = {}
    for fact in facts:
        lengths, size = splits.get(fact["split"], ([], 0))
        splits[fact["split"]] = ([*lengths, fact["written"]], size + fact["bytes"])
    with _full_disk_is_said(partial / "dataset_info.json"):
        records.write_metadata(builder, partial, splits)
    partial.rename(folder)
    for path in (folder / "plan", *folder.glob("facts-*")):
        path.unlink(missing_ok=True)
