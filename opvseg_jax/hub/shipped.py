"""The weights that come with the package, and whether they are the ones that were published.

After new weights:  python -m opvseg_jax.hub.shipped
"""

import hashlib
import json
from pathlib import Path

from opvseg_jax.core.assets import PACKAGE
from opvseg_jax.core.files import write_whole

FOLDER = PACKAGE / "hub"
CHECKSUMS = FOLDER / "checksums.json"
KINDS = (".json", ".safetensors")


def checksums() -> dict[str, str]:
    """SHA-256 of every shipped file, by its path below `hub`."""
    files = sorted(path for path in FOLDER.glob("tiny_*/*") if path.suffix in KINDS)
    return {path.relative_to(FOLDER).as_posix(): _sha256(path) for path in files}


def problems() -> list[str]:
    """What is wrong with the shipped files, in words; empty when they are as published."""
    want, have = json.loads(CHECKSUMS.read_text()), checksums()
    missing = [f"{name} is missing" for name in want if name not in have]
    changed = [
        f"{name} has been changed" for name in want if have.get(name, want[name]) != want[name]
    ]
    return missing + changed + [f"{name} is not known" for name in have if name not in want]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    write_whole(CHECKSUMS, (json.dumps(checksums(), indent=2) + "\n").encode())
