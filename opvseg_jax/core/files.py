"""Files that are whole or absent: what is interrupted leaves no half of a result behind."""

import os
from pathlib import Path

from opvseg_jax.core.errors import UserError


def write_whole(path: Path, content: bytes) -> Path:
    """Writes beside `path` under a temporary name, then renames; a file in the way is replaced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:  # also after Ctrl-C; after the rename there is nothing left to remove
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def writable_folder(folder: str | Path) -> Path:
    """The folder, made if missing. What stands against it is told before work is spent."""
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"cannot write into {folder}: it is a file, not a folder") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot make the output folder {folder}: {reason}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {folder}: permission denied")
    return folder
