"""Counts what a prepared data set holds, and compares it with the published numbers."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from opvseg_jax.data.builders import pool, records, registry
from opvseg_jax.data.builders.benchmark import Benchmark, Labels, SampleError
from opvseg_jax.data.builders.labels import from_png, upright_size

SHOWN = 12  # names in a list of classes


@dataclasses.dataclass
class Counts:
    """Of one split. `pixels` and `images` are per class, for "object" and "part"."""

    num_images: int = 0
    pixels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    images: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    num_stray: int = 0  # part pixels on another object's pixels
    damaged: list[str] = dataclasses.field(default_factory=list)
    keys: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: "Counts") -> None:
        self.num_images += other.num_images
        for kind, pixels in other.pixels.items():
            self.pixels[kind] = self.pixels.get(kind, 0) + pixels
            self.images[kind] = self.images.get(kind, 0) + other.images[kind]
        self.num_stray += other.num_stray
        self.damaged += other.damaged
        self.keys += other.keys


class Findings(NamedTuple):
    """`lines` to print; `num_problems` counts what must not be (a differing total may be)."""

    lines: list[str]
    num_problems: int
    counts: Mapping[str, Counts]


class _Job(NamedTuple):
    benchmark: str
    has_instances: bool
    split: str
    path: Path


def verify(name: str, folder: Path, workers: int = 0) -> Findings:
    """Reads every record of a prepared folder."""
    benchmark, metadata = registry.benchmark(name), records.read_metadata(folder)
    counts = {split: Counts() for split in metadata["splits"]}
    has_instances = "instance_map" in records.feature_names(folder)
    jobs = [
        _Job(benchmark.name, has_instances, split, path)
        for split in counts
        for path in sorted(folder.glob(f"{benchmark.name}-{split}.array_record-*-of-*"))
    ]
    for split, result in pool.run(_count, jobs, workers):
        counts[split].add(result)
    return _findings(benchmark, metadata, counts)


def _count(job: _Job) -> tuple[str, Counts]:
    labels = registry.benchmark(job.benchmark).labels
    counts = Counts()
    for record in records.read_records(job.path, labels, job.has_instances):
        counts.num_images += 1
        key = record["key"].decode()
        counts.keys[key] += 1
        try:
            _count_record(record, labels, counts)
        except (SampleError, OSError, SyntaxError) as error:
            counts.damaged.append(f"{key}: {error}")
    return job.split, counts


def _count_record(record: Mapping[str, bytes], labels: Labels, counts: Counts) -> None:
    size, maps = upright_size(record["image"]), {}
    for kind, total in (("object", labels.num_objects), ("part", labels.num_parts)):
        if not total:
            continue
        values = maps[kind] = from_png(record[f"{kind}_map"])
        if values.shape != size:
            raise SampleError(f"{kind} map of {values.shape} for an image of {size}")
        found = np.bincount(values.ravel(), minlength=labels.ignore + 1)
        if found[total : labels.ignore].any():
            raise SampleError(f"{kind} labels up to {values.max()}, expected below {total}")
        counts.pixels[kind] = counts.pixels.get(kind, 0) + found[:total]
        counts.images[kind] = counts.images.get(kind, 0) + (found[:total] > 0)
    if "part" in maps:
        is_part = maps["part"] != labels.ignore
        owner = labels.vocabulary.part_to_object[maps["part"][is_part]]
        counts.num_stray += int((maps["object"][is_part] != owner).sum())


def _findings(benchmark: Benchmark, metadata: Mapping, counts: Mapping[str, Counts]) -> Findings:
    lines = [f"{benchmark.title} ({benchmark.name}), from: {metadata['layout']}"]
    problems = 0
    for split, own in counts.items():
        lines.append(_total_line(benchmark, split, own.num_images))
        lines += _left_out_lines(split, metadata["splits"][split])
        lines += _class_lines(benchmark.labels, split, own)
        twice = [key for key, times in own.keys.items() if times > 1]
        faults = [f"{key} is there {own.keys[key]} times" for key in twice] + own.damaged
        said = metadata["splits"][split]["images"]
        if said != own.num_images:
            faults.append(f"{said} images were written, {own.num_images} are there")
        problems += len(faults)
        lines += [f"{split}: PROBLEM {fault}" for fault in faults[:SHOWN]]
        if len(faults) > SHOWN:
            lines.append(f"{split}: and {len(faults) - SHOWN} more problems")
    lines.append("no problem found" if not problems else f"{problems} problems found")
    return Findings(lines, problems, counts)


def _total_line(benchmark: Benchmark, split: str, count: int) -> str:
    published = benchmark.published.get(split)
    if published is None:
        return f"{split}: {count} images; no published number is known"
    source = "published" if benchmark.is_verified else "published (from memory of a paper)"
    if count == published:
        return f"{split}: {count} images, as {source}"
    return f"{split}: {count} images; {source} {published}, DIFFERS by {count - published:+d}"


def _left_out_lines(split: str, facts: Mapping) -> Iterator[str]:
    if facts["left_out"]:
        yield f"{split}: {facts['left_out']} images of the source show no class and were left out"
    if skipped := facts["skipped"]:
        yield f"{split}: {len(skipped)} samples were skipped, being unusable:"
        yield from (f"{split}:   {key}: {reason}" for key, reason in skipped[:SHOWN])


def _class_lines(labels: Labels, split: str, counts: Counts) -> Iterator[str]:
    """Range, classes that never occur, the rarest and the most frequent."""
    names = {"object": labels.vocabulary.objects, "part": labels.vocabulary.part_names}
    for kind, images in counts.images.items():
        seen = np.flatnonzero(images)
        if not seen.size:
            yield f"{split}: no {kind} label at all"
            continue
        order = seen[np.argsort(images[seen], kind="stable")]
        rare, often = names[kind][order[0]], names[kind][order[-1]]
        yield (
            f"{split}: {kind} labels {seen.min()}..{seen.max()}, {seen.size} of {images.size} "
            f"classes occur; in most images {often!r} ({images[order[-1]]}), in fewest {rare!r} "
            f"({images[order[0]]})"
        )
        if (never := np.flatnonzero(images == 0)).size:
            shown = ", ".join(names[kind][i] for i in never[:SHOWN])
            more = f" and {never.size - SHOWN} more" if never.size > SHOWN else ""
            yield f"{split}: {kind} classes that never occur: {shown}{more}"
    if counts.num_stray:
        total = int(counts.pixels["part"].sum())
        share = counts.num_stray / total
        yield f"{split}: {share:.2%} of the part pixels lie on pixels of another object"


def class_table(labels: Labels, counts: Mapping[str, Counts]) -> str:
    """Tab-separated: kind, id, name, then images and pixels of every split."""
    head = ["kind", "id", "name", *(f"{s}_{what}" for s in counts for what in ("images", "pixels"))]
    rows = ["\t".join(head)]
    names = {"object": labels.vocabulary.objects, "part": labels.vocabulary.part_names}
    for kind in ("object", "part"):
        for i, name in enumerate(names[kind]):
            numbers = [
                str(int(values[kind][i]) if kind in values else 0)
                for own in counts.values()
                for values in (own.images, own.pixels)
            ]
            rows.append("\t".join([kind, str(i), name, *numbers]))
    return "\n".join(rows) + "\n"
