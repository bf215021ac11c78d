"""The models that have a name: `models.json`, read without loading anything else."""

import dataclasses
import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opvseg_jax.core.assets import package_file
from opvseg_jax.core.errors import UserError
from opvseg_jax.hub.download import CONFIG, TOKENIZER, WEIGHTS, model_folder, on_disk

SHIPPED = ("tiny_clip", "tiny_dino")
# What photos are full of besides what one asks for.
BACKGROUND = (
    "sky",
    "cloud",
    "grass",
    "tree",
    "bush",
    "ground",
    "road",
    "sand",
    "rock",
    "mountain",
    "water",
    "snow",
    "wall",
    "floor",
    "ceiling",
    "window",
    "curtain",
    "building",
    "fence",
    "shadow",
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named model. `clip` and `dino` are shipped folders or HuggingFace repositories.

    A trained model has a `size` in place of encoders: it is whole in one `checkpoint`, the name of
    the file that its authors published and that no program can fetch; "" if they published none.
    """

    name: str
    method: str
    clip: str = ""
    canvases: tuple[tuple[int, int], ...] | None = None  # (height, width), None: from the encoder
    dino: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the method
    templates: str | tuple[str, ...] = "zeroshot"
    part_templates: str | tuple[str, ...] = "zeroshot_parts"
    part_style: str | None = None
    background: tuple[str, ...] = BACKGROUND
    about: str = ""
    licence: str = ""
    source: str = ""
    megabytes: int = 0
    size: str = ""
    checkpoint: str = ""
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # as published

    @property
    def encoders(self) -> tuple[str, ...]:
        return tuple(ref for ref in (self.clip, self.dino) if ref)

    @property
    def is_shipped(self) -> bool:
        return not self.is_trained and all(ref in SHIPPED for ref in self.encoders)

    @property
    def is_trained(self) -> bool:
        return bool(self.size)

    @property
    def folder(self) -> Path:
        """Where the converted checkpoint of a trained model is looked for."""
        return model_folder(self.name)


def shipped(ref: str) -> Path | None:
    """The folder of an encoder that comes with the package, None for any other reference."""
    return package_file("hub", ref) if ref in SHIPPED else None


@functools.cache
def presets() -> dict[str, Preset]:
    """All of them by name, in the order of the file."""
    entries = json.loads(package_file("hub", "models.json").read_text(encoding="utf-8"))
    return {name: _preset(name, entry) for name, entry in entries.items()}


def preset(name: str) -> Preset:
    """The preset of this name."""
    known = presets()
    if name not in known:
        raise UserError(f"unknown model {name!r}: {nearest(name, known)}")
    return known[name]


def is_on_disk(preset: Preset) -> bool:
    """Whether nothing has to be fetched."""
    if preset.is_trained:
        return (preset.folder / WEIGHTS[0]).is_file()
    wanted = {preset.clip: (CONFIG, WEIGHTS, TOKENIZER), preset.dino: (CONFIG, WEIGHTS)}
    return all(ref in SHIPPED or on_disk(ref, *wanted[ref]) for ref in preset.encoders)


def by_hand(preset: Preset) -> str:
    """What to do to have a trained model that is not on this machine, as a sentence."""
    if not preset.checkpoint:
        return (
            f"{preset.name}: its authors published no weights ({preset.source}): train it, or "
            f"convert a checkpoint of your own into {preset.folder}"
        )
    return (
        f"{preset.name} is not on this machine: fetch {preset.checkpoint} ({preset.source}), then "
        f"run opvseg convert --method {preset.method} {preset.checkpoint} --out {preset.folder}"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """The second half of a sentence that helps whoever mistyped a name."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def _preset(name: str, entry: dict[str, Any]) -> Preset:
    canvases = entry.pop("canvases", None)
    canvases = canvases and tuple(tuple(canvas) for canvas in canvases)
    background = tuple(entry.pop("background", BACKGROUND))
    return Preset(name=name, canvases=canvases, background=background, **entry)
