"""What a user downloaded: finds a benchmark's files in it, or says which ones are missing.

Files may lie in the folder itself or in the folders that an archive makes ("VOCdevkit/VOC2012").
Archives that were not unpacked are unpacked beside the output, and removed when it is complete.
"""

import contextlib
import dataclasses
import shutil
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from opvseg_jax.data.builders import registry
from opvseg_jax.data.builders.benchmark import Benchmark, Layout, Need

from opvseg_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Found:
    """A layout whose files all exist: {split: {role: path}}."""

    layout_index: int
    paths: Mapping[str, Mapping[str, Path]]


@dataclasses.dataclass(frozen=True)
class _Search:
    index: int
    paths: dict[str, dict[str, Path]]
    missing: list[tuple[Need, str, str]]  # need, our split, theirs

    @property
    def num_found(self) -> int:
        return sum(map(len, self.paths.values()))


def find(
    benchmark: Benchmark,
    source: Path,
    splits: Sequence[str] | None = None,
    unpack_into: Path | None = None,
) -> Found:
    """The first layout that is complete; `splits` None means all that it has."""
    source = source.expanduser()
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: --source names the downloaded data")
    roots = [source, *_unpacked(unpack_into)]
    searches = _search_all(benchmark, roots, splits)
    if unpack_into and all(search.missing for search in searches):
        wanted = {need.archive_of(theirs) for s in searches for need, _, theirs in s.missing}
        archives = [source / name for name in sorted(filter(None, wanted))]
        if archives := [path for path in archives if path.is_file()]:
            roots += [_unpack(path, unpack_into) for path in archives]
            searches = _search_all(benchmark, roots, splits)
    for search in searches:
        if not search.missing:
            return Found(search.index, search.paths)
    raise UserError(_explain(benchmark, source, searches, splits))


def _search_all(benchmark: Benchmark, roots, splits) -> list[_Search]:
    found = [_search(i, layout, roots, splits) for i, layout in enumerate(benchmark.layouts)]
    if found := [search for search in found if search is not None]:
        return found
    known = sorted({split for layout in benchmark.layouts for split in layout.splits})
    raise UserError(f"{benchmark.name} has the splits {', '.join(known)}, not {' '.join(splits)}")


def _search(index: int, layout: Layout, roots, splits) -> _Search | None:
    if splits and not set(splits) <= layout.splits.keys():
        return None
    search = _Search(index, {}, [])
    places = [root / inside for root in roots for inside in ("", *layout.inside)]
    for ours in splits or layout.splits:
        theirs, paths = layout.splits[ours], {}
        for role, need in layout.files.items():
            if need.only and ours not in need.only:
                continue
            candidates = [place / path for path in need.paths_of(ours, theirs) for place in places]
            if path := next((p for p in candidates if _is_there(p, need.suffix)), None):
                paths[role] = path
            elif not need.optional:
                search.missing.append((need, ours, theirs))
        search.paths[ours] = paths
    return search


def _is_there(path: Path, suffix: str) -> bool:
    """An empty folder or file is as good as none."""
    if path.is_dir():
        names = (entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        return any(name.endswith(suffix) for name in names)
    return path.is_file() and path.stat().st_size > 0


def _explain(benchmark: Benchmark, source: Path, searches: list[_Search], splits) -> str:
    """One sentence: what is missing of the layout that is nearest, or whose folder this is."""
    best = max(searches, key=lambda search: (search.num_found, -search.index))
    if not best.num_found and (other := _owner(benchmark, source)):
        return f"{source} holds {other.title} ({other.name}), not {benchmark.title}"
    names: dict[str, list[str]] = {}
    for need, ours, theirs in best.missing:
        origin = f"from {need.origin_of(theirs)}, {need.size}"
        names.setdefault(origin, []).append(" or ".join(need.paths_of(ours, theirs)))
    wanted = [f"{', '.join(dict.fromkeys(own))} {origin}" for origin, own in names.items()]
    text = f"{benchmark.title}: missing in {source}: " + "; ".join(wanted)
    gaps = {ours for _, ours, _ in best.missing}
    if complete := [split for split in best.paths if split not in gaps]:
        text += f" (or take what is there: --splits {' '.join(complete)})"
    others = [benchmark.layouts[s.index].title for s in searches if s is not best]
    return text + (f" (other accepted forms: {', '.join(others)})" if others else "")


def _owner(benchmark: Benchmark, source: Path) -> Benchmark | None:
    """Another benchmark that has a complete split here."""
    for other in registry.BENCHMARKS.values():
        if other.name == benchmark.name:
            continue
        for index, layout in enumerate(other.layouts):
            for split in layout.splits:
                search = _search(index, layout, [source], [split])
                if search and not search.missing:
                    return other
    return None


def _unpacked(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix != ".part")


def _unpack(archive: Path, into: Path) -> Path:
    """Extracts to a temporary name first: a killed run leaves nothing that looks complete."""
    target, part = into / archive.name, into / f"{archive.name}.part"
    if target.is_dir():
        return target
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                file.extractall(part)
        else:
            with tarfile.open(archive) as file:
                file.extractall(part, filter="data")
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"{archive} could not be unpacked into {into}: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"{archive} is damaged ({error}): download it again") from error
    part.rename(target)
    return target


def remove_unpacked(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
