"""Folders and name lists -> items. Hidden files are passed over: macOS leaves `._*` in archives."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from opvseg_jax.data.builders.benchmark import Item

from opvseg_jax.core.errors import UserError

PHOTOS = (".jpg", ".jpeg", ".png")
LABELS = (".png", ".tif", ".tiff")

log = logging.getLogger(__name__)


def files_of(
    folder: Path, suffixes: Sequence[str] = PHOTOS, *, ending: str = "", recursive: bool = False
) -> dict[str, Path]:
    """{name: path}, sorted; `ending` ("_seg") must stand before the suffix and leaves the name."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    return {
        path.stem.removesuffix(ending): path
        for path in sorted(found)
        if path.suffix.lower() in suffixes
        and path.stem.endswith(ending)
        and not path.name.startswith(".")
    }


def pair(
    paths: Mapping[str, Path],
    roles: Sequence[str],
    also: Sequence[str] = (),
    photos: Sequence[str] = PHOTOS,
) -> list[Item]:
    """The images that have a file of the same name in the folder of every role.

    As in the published loaders, an image without a label map leaves the split; it is said aloud.
    """
    images = files_of(paths["images"], photos)
    maps = {role: files_of(paths[role], LABELS) for role in (*roles, *also) if role in paths}
    keys = [key for key in images if all(key in maps[role] for role in roles)]
    if lonely := len(images) - len(keys):
        log.warning("%d images of %s have no label map: left out", lonely, paths["images"])
    return [Item(key, images[key], {r: maps[r].get(key) for r in maps}) for key in keys]


def read_names(path: Path) -> list[str]:
    """The first word of every line; paths and endings are cut off."""
    words = [
        line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.split()
    ]
    return sorted({Path(word).stem for word in words})


def read_json(path: Path) -> dict:
    """A JSON file, or one sentence."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): download it again") from error


def annotations_by_image(annotations: Iterable[Mapping]) -> dict[int, list[dict]]:
    """{image id: its annotations in file order}, keeping only what a reader needs."""
    found: dict[int, list[dict]] = {}
    for entry in annotations:
        kept = {key: entry.get(key) for key in ("category_id", "segmentation", "iscrowd")}
        found.setdefault(entry["image_id"], []).append(kept)
    return found


def sorted_items(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.key)
