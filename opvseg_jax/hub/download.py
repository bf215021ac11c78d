"""Files of published models: from the user's folders, HuggingFace's cache, or HuggingFace."""

import json
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from opvseg_jax.core.cache import cache_folder
from opvseg_jax.core.errors import UserError

# Groups of alternatives, the best first: a model needs one file of each group.
CONFIG = ("config.json",)
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER = ("tokenizer.json", "vocab.json")
OPTIONAL = ("preprocessor_config.json",)
COMPANIONS = {  # what comes with a file
    "vocab.json": "merges.txt",
    "model.safetensors.index.json": "model-*.safetensors",
    "pytorch_model.bin.index.json": "pytorch_model-*.bin",
}
TIMEOUT = 5.0  # seconds without an answer, after which HuggingFace counts as unreachable


def is_repository(ref: str) -> bool:
    """Whether it reads like `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", ref) is not None


def model_folder(repo_id: str) -> Path:
    """Where a user puts the files of a repository by hand; looked up before anything else."""
    return cache_folder() / "models" / repo_id.replace("/", "--")


def fetch(repo_id: str, *groups: Sequence[str]) -> Path:
    """A folder with one file of each group of a HuggingFace repository.

    Nothing is asked of the network when the files are here already. Without a network this fails
    at once, with one sentence that says which files are wanted and where to put them.
    """
    own = model_folder(repo_id)
    if own.is_dir() and not absent(own, groups):
        return own
    known = _cached(repo_id, groups)
    if known is not None and not absent(known, groups):
        return known
    wanted = " and ".join(absent(own, groups))
    by_hand = (
        f"download {wanted} of the HuggingFace repository {repo_id} into {own}, "
        "or give the path of a folder that has them"
    )
    return _download(repo_id, groups, by_hand)


def on_disk(repo_id: str, *groups: Sequence[str]) -> Path | None:
    """The folder in which the files of a repository are already, or None."""
    for folder in (model_folder(repo_id), _cached(repo_id, groups)):
        if folder is not None and folder.is_dir() and not absent(folder, groups):
            return folder
    return None


def absent(folder: Path, groups: Sequence[Sequence[str]]) -> list[str]:
    """What a folder lacks, in words; empty when it is complete."""
    lacking = []
    for group in groups:
        found = next((name for name in group if (folder / name).is_file()), None)
        if found is None:
            lacking.append(group[0] + (f" (or {', '.join(group[1:])})" if group[1:] else ""))
        elif found.endswith(".index.json"):
            lacking += [name for name in _shards(folder / found) if not (folder / name).is_file()]
        elif found in COMPANIONS and not (folder / COMPANIONS[found]).is_file():
            lacking.append(COMPANIONS[found])
    return lacking


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # reading the weights will say what is wrong with the index


def _cached(repo_id: str, groups: Sequence[Sequence[str]]) -> Path | None:
    """The repository's folder in HuggingFace's own cache, complete or not."""
    # The library takes a third of a second to import: only those who need it pay.
    import huggingface_hub

    for name in groups[0]:
        path = huggingface_hub.try_to_load_from_cache(repo_id, name)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _download(repo_id: str, groups: Sequence[Sequence[str]], by_hand: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        # `repo_info` does not retry; asking for single files would wait 23 s without a network.
        info = huggingface_hub.HfApi().repo_info(repo_id, timeout=TIMEOUT)
        offered = [file.rfilename for file in info.siblings or ()]
        chosen = _choose(repo_id, offered, groups)
        folder = huggingface_hub.snapshot_download(
            repo_id, allow_patterns=chosen, etag_timeout=TIMEOUT
        )
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo_id} asks for a login: accept its terms on HuggingFace and run `hf auth login`, "
            f"or {by_hand}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"HuggingFace has no repository {repo_id}, or it is private: check the name"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(
            f"{repo_id} is not on this machine and HF_HUB_OFFLINE is set: {by_hand}"
        ) from error
    except Exception as error:  # many kinds: no route, a proxy, a timeout, a full disk
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{repo_id} is not on this machine and could not be fetched ({reason}): {by_hand}"
        ) from error
    return Path(folder)


def _choose(repo_id: str, offered: Sequence[str], groups: Sequence[Sequence[str]]) -> list[str]:
    """The files to fetch: the first alternative of each group that the repository has."""
    chosen = [name for name in OPTIONAL if name in offered]
    for group in groups:
        found = next((name for name in group if name in offered), None)
        if found is None:
            raise UserError(f"{repo_id} has no {' or '.join(group)}: it is no model for this")
        companions = COMPANIONS.get(found)
        chosen.append(found)
        chosen += [name for name in offered if companions and fnmatch(name, companions)]
    return chosen


def local_path(ref: str | os.PathLike) -> Path | None:
    """The file or folder that a reference names, or None if it can only be a repository."""
    path = Path(ref).expanduser()
    if path.exists():
        return path
    if isinstance(ref, str) and is_repository(ref) and path.suffix not in (".pt", ".pth"):
        return None
    raise UserError(
        f"{ref} does not exist: expected a folder with config.json and weights, a .pt or .pth "
        "file, or a HuggingFace repository such as openai/clip-vit-base-patch16"
    )
