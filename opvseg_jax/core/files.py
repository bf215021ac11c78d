"""Files that are whole or absent: what is interrupted leaves no half of a result behind."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
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


def free_place(out: str | Path, mark: str) -> Path:
    """`out`, after making sure that a folder may be put there: it is absent, empty, or older.

    `mark` is the file by which an older result of the same kind, to be replaced, is known.
    """
    out = Path(out).expanduser()
    if out.exists() and not (out / mark).is_file():
        if not out.is_dir():
            raise UserError(f"cannot write into {out}: it is a file, not a folder")
        if any(out.iterdir()):
            raise UserError(
                f"{out} is there, with files that are not to be replaced: name a new one"
            )
    writable_folder(out.parent)
    if out.exists():
        writable_folder(out)
    return out


@contextlib.contextmanager
def new_folder(out: str | Path, mark: str) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when all went well and vanishes otherwise."""
    out = free_place(out, mark)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        yield staging
        for path in (staging, *staging.iterdir()):  # temporary files are private, results are not
            path.chmod(0o755 if path.is_dir() else 0o644)
        _put_in_place(staging, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, out: Path) -> None:
    """Renames; what was there is removed last."""
    if not out.exists():
        staging.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    staging.rename(out)
    shutil.rmtree(old)
