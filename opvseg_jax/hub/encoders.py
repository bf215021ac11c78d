"""Encoders with their weights, from every form in which they are published.

| reference | form |
|---|---|
| a folder | HuggingFace: config.json, model.safetensors or pytorch_model.bin (also in shards) |
| owner/name | the same, fetched |
| a .pt file | OpenAI's CLIP, sizes read off the tensors |
| a .pth file | Meta's DINOv2, sizes read off the tensors |
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.core.weights import Blueprint, ShapeRngs, blueprint
from opvseg_jax.encoders import port_clip
from opvseg_jax.encoders.eva_clip import EvaClipSize
from opvseg_jax.encoders.port_eva_clip import EVA_CLIP
from opvseg_jax.encoders.positions import HUGGINGFACE, PositionRule, resize_positions
from opvseg_jax.encoders.sizes import ClipSize, DinoSize, Tower, from_hf_config
from opvseg_jax.hub.download import CONFIG, TOKENIZER, WEIGHTS, absent, fetch, local_path
from opvseg_jax.port.rules import Rules, Skip, convert, publish
from opvseg_jax.port.safetensors_file import read_safetensors, read_shards
from opvseg_jax.port.stored_array import StoredArrays
from opvseg_jax.port.torch_file import read_torch_file
from opvseg_jax.text.tokenizer import OPENAI_FILE

CLIP_PIXELS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_PIXELS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI_TOKENIZER = "openai/clip-vit-base-patch16"  # one vocabulary serves all of OpenAI's models
MASK = Skip("*.attn_mask", "rebuilt from the context length")

Weights = dict[str, jax.Array]
Place = Callable[[np.ndarray], jax.Array]


def on_device(leaf: np.ndarray) -> jax.Array:
    """On the default device, when this returns: the host copy is free before the next is read."""
    return jax.block_until_ready(jax.device_put(leaf))


@dataclasses.dataclass(frozen=True)
class LoadedClip:
    """`plan.merge(weights)` is a `Clip`. `mean` and `std` are of pixels in 0..1."""

    size: ClipSize
    plan: Blueprint
    weights: Weights
    tokenizer: Path  # the folder with its files
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LoadedDino:
    """`plan.merge(weights)` is a `Dino`. `mean` and `std` are of pixels in 0..1."""

    size: DinoSize
    plan: Blueprint
    weights: Weights
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_clip(
    ref: str | os.PathLike,
    *,
    dtype=None,
    position_rule: PositionRule = HUGGINGFACE,
    place: Place = on_device,
) -> LoadedClip:
    """A CLIP that computes in `dtype`; weights are float32, put on devices one by one by `place`.

    At no time are more than the weights and one tensor in memory.
    """
    path = local_path(ref) or fetch(str(ref), CONFIG, WEIGHTS, TOKENIZER)
    if path.is_dir():
        size = _size_of(path, ClipSize, "CLIP")
        tokenizer, stored, rules = path, _read_folder(path), size.huggingface_rules
        if lacking := absent(path, [TOKENIZER]) if not (path / OPENAI_FILE).is_file() else []:
            raise UserError(f"{path} has no tokenizer: add {lacking[0]}")
        mean, std = _pixels(path, CLIP_PIXELS)
    else:
        stored = read_torch_file(path)
        size, rules = clip_size(stored.shapes, path), port_clip.OPENAI
        tokenizer, (mean, std) = tokenizer_beside(path), CLIP_PIXELS
    plan = blueprint(lambda: size.build(position_rule=position_rule, dtype=dtype, rngs=ShapeRngs()))
    weights = _fill((*rules, MASK), stored, plan, path, place)
    return LoadedClip(size, plan, weights, tokenizer, mean, std)


def load_dino(
    ref: str | os.PathLike,
    *,
    dtype=None,
    position_rule: PositionRule | None = None,
    place: Place = on_device,
) -> LoadedDino:
    """A DINOv2. Positions are resized as the code that published the file does, unless told."""
    path = local_path(ref) or fetch(str(ref), CONFIG, WEIGHTS)
    if path.is_dir():
        size = _size_of(path, DinoSize, "DINOv2")
        stored, rules, rule = _read_folder(path), size.huggingface_rules, size.huggingface_rule
        mean, std = _pixels(path, DINO_PIXELS)
    else:
        stored = read_torch_file(path)
        size = dino_size(stored.shapes, path)
        rules, rule, (mean, std) = size.meta_rules, size.original_rule, DINO_PIXELS
    rule = position_rule or rule
    plan = blueprint(lambda: size.build(position_rule=rule, dtype=dtype, rngs=ShapeRngs()))
    return LoadedDino(size, plan, _fill(rules, stored, plan, path, place), mean, std)


def load_eva_clip(
    ref: str | os.PathLike, size: EvaClipSize, *, place: Place = on_device
) -> Weights:
    """The weights of an EVA-02-CLIP (or of a DeCLIP, whose positions may be of another grid)."""
    path = Path(ref).expanduser()
    is_torch = path.suffix != ".safetensors"
    stored = read_torch_file(path) if is_torch else read_safetensors(path)
    plan = blueprint(lambda: size.build(rngs=ShapeRngs()))
    grid = size.image_size // size.patch_size
    return _fill(EVA_CLIP, _OnGrid(stored, (grid, grid)), plan, path, place)


class _OnGrid(Mapping[str, np.ndarray]):
    """Arrays of an EVA-02-CLIP with the positions of a grid."""

    def __init__(self, stored: StoredArrays, grid: tuple[int, int]):
        self.stored, self.grid = stored, grid

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.stored[name]
        if name != "visual.pos_embed" or array.shape[1] == 1 + self.grid[0] * self.grid[1]:
            return array
        return np.asarray(resize_positions(jnp.asarray(array[0]), self.grid, HUGGINGFACE))[None]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def encoder_size(ref: str | os.PathLike) -> ClipSize | DinoSize:
    """The size of an encoder, without reading its weights."""
    path = local_path(ref) or fetch(str(ref), CONFIG, WEIGHTS)
    if path.is_dir():
        return from_hf_config(_read_json(path / "config.json"))
    shapes = read_torch_file(path).shapes
    return clip_size(shapes, path) if "logit_scale" in shapes else dino_size(shapes, path)


def tokenizer_for(ref: str | os.PathLike) -> Path:
    """The folder with the tokenizer of a CLIP."""
    path = local_path(ref) or fetch(str(ref), TOKENIZER)
    return path if path.is_dir() else tokenizer_beside(path)


def save_clip(folder: str | os.PathLike, weights: Weights, config: Mapping, dtype=np.float16):
    """Writes `weights` of a `Clip` as HuggingFace does, beside a tokenizer that is there already.

    `config` is the content of config.json, as `from_hf_config` reads it.
    """
    _save(Path(folder), weights, config, dtype, CLIP_PIXELS)


def save_dino(folder: str | os.PathLike, weights: Weights, config: Mapping, dtype=np.float16):
    """Writes `weights` of a `Dino` as HuggingFace does; `config` is the content of config.json."""
    _save(Path(folder), weights, config, dtype, DINO_PIXELS)


def clip_size(shapes: Mapping[str, tuple[int, ...]], path: Path) -> ClipSize:
    """The size of an OpenAI CLIP, read off its tensors; their heads are 64 wide."""
    if "visual.layer1.0.conv1.weight" in shapes:
        raise UserError(f"{path} is a CLIP with a ResNet: expected one with a vision transformer")
    try:
        vision = _tower(shapes, "visual.transformer.resblocks.{}.", "mlp.c_fc.weight")
        text = _tower(shapes, "transformer.resblocks.{}.", "mlp.c_fc.weight")
        patch = shapes["visual.conv1.weight"][-1]
        grid = _side(shapes["visual.positional_embedding"][-2] - 1)
        vocab_size, _ = shapes["token_embedding.weight"]
        context, _ = shapes["positional_embedding"]
        _, embed_dim = shapes["text_projection"]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is not a CLIP with OpenAI's names ({error}): for files of HuggingFace give "
            "the folder with config.json"
        ) from error
    size = ClipSize(grid * patch, patch, vision, text, embed_dim)
    return dataclasses.replace(size, vocab_size=vocab_size, context=context)


def dino_size(shapes: Mapping[str, tuple[int, ...]], path: Path) -> DinoSize:
    """The size of a DINOv2 of Meta, read off its tensors; their heads are 64 wide."""
    swiglu = any(name.endswith("mlp.w12.weight") for name in shapes)
    chunked = "blocks.0.0.norm1.weight" in shapes
    try:
        block = "blocks.0.{}." if chunked else "blocks.{}."
        tower = _tower(shapes, block, "mlp.w12.weight" if swiglu else "mlp.fc1.weight")
        patch = shapes["patch_embed.proj.weight"][-1]
        grid = _side(shapes["pos_embed"][-2] - 1)
        registers = shapes["register_tokens"][-2] if "register_tokens" in shapes else 0
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is not a DINOv2 with Meta's names ({error}): for files of HuggingFace give "
            "the folder with config.json"
        ) from error
    if chunked:  # blocks.{chunk}.{i}: i counts through all chunks
        numbers = {name.split(".")[2] for name in shapes if name.startswith("blocks.")}
        tower = dataclasses.replace(tower, num_layers=len(numbers))
    if swiglu:
        tower = dataclasses.replace(tower, mlp_dim=tower.mlp_dim // 2)
    return DinoSize(tower, swiglu, registers, image_size=grid * patch, patch_size=patch)


def _tower(shapes: Mapping[str, tuple[int, ...]], block: str, up: str) -> Tower:
    mlp_dim, width = shapes[block.format(0) + up]
    num_layers = 1
    while block.format(num_layers) + up in shapes:
        num_layers += 1
    return Tower(width, num_layers, max(width // 64, 1), mlp_dim)


def _side(patches: int) -> int:
    side = round(patches**0.5)
    if side < 1 or side * side != patches:
        raise ValueError(f"{patches} positions are no square")
    return side


def _size_of(folder: Path, kind: type, name: str) -> ClipSize | DinoSize:
    config = _read_json(folder / "config.json")
    try:
        size = from_hf_config(config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    if not isinstance(size, kind):
        raise UserError(f"{folder} holds a {config['model_type']}: expected a {name}")
    return size


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} has no {path.name}: expected a folder as HuggingFace publishes it"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a description of a model: fetch it again")
    return content


def _read_folder(folder: Path) -> StoredArrays:
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} has no weights: expected one of {', '.join(WEIGHTS)}")
    if "safetensors" in found.name:
        return read_safetensors(found)
    return (
        read_shards(found, read_torch_file) if found.suffix == ".json" else read_torch_file(found)
    )


def _pixels(folder: Path, default: tuple) -> tuple[tuple[float, ...], tuple[float, ...]]:
    path = folder / "preprocessor_config.json"
    config = _read_json(path) if path.is_file() else {}
    return tuple(config.get("image_mean", default[0])), tuple(config.get("image_std", default[1]))


def tokenizer_beside(path: Path) -> Path:
    """OpenAI's archives have no tokenizer: the files beside it, or those of a repository."""
    if (path.parent / OPENAI_FILE).is_file() or not absent(path.parent, [TOKENIZER]):
        return path.parent
    try:
        return fetch(OPENAI_TOKENIZER, TOKENIZER)
    except UserError as error:
        raise UserError(
            f"{path} comes without its tokenizer: put {OPENAI_FILE} or tokenizer.json beside it; "
            f"{error}"
        ) from error


def _fill(rules: Rules, stored: StoredArrays, plan: Blueprint, path: Path, place: Place) -> Weights:
    try:
        return convert(rules, stored, plan.shapes, place=place)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _save(folder: Path, weights: Weights, config: Mapping, dtype, pixels: tuple) -> None:
    from safetensors.numpy import save

    size = from_hf_config(config)
    published = publish(size.huggingface_rules, weights)
    # A config of another size would only be noticed by whoever loads the folder.
    convert(
        size.huggingface_rules, published, blueprint(lambda: size.build(rngs=ShapeRngs())).shapes
    )
    for name, array in published.items():
        if jnp.issubdtype(array.dtype, jnp.floating):
            with np.errstate(over="ignore"):  # told below, with the name
                published[name] = array.astype(dtype, order="C")
        if not np.isfinite(published[name]).all():
            raise ValueError(f"{name} has values that are not finite in {np.dtype(dtype)}")
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = pixels
    files = {
        "model.safetensors": save(published, metadata={"format": "pt"}),
        "preprocessor_config.json": _json_bytes({"image_mean": mean, "image_std": std}),
        "config.json": _json_bytes(config),
    }
    for name, content in files.items():
        _write(folder / name, content)


def _json_bytes(content: Mapping) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    """Under a temporary name first: nobody ever finds half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)  # a temporary file is private, a model is not
    os.replace(file.name, path)
