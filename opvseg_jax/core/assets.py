"""Where the files lie that are not code."""

from pathlib import Path

from opvseg_jax.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]


def package_file(*parts: str) -> Path:
    """The path of a file or folder inside the package."""
    return _existing(PACKAGE.joinpath(*parts))


def data_file(*parts: str) -> Path:
    """The path below `data/`: inside an installed package, or beside it in a checkout."""
    return _existing(_room("data").joinpath(*parts))


def config_file(*parts: str) -> Path:
    """The path below `configs/`, found as those of `data/` are; whether it is there or not."""
    return _room("configs").joinpath(*parts)


def _room(name: str) -> Path:
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing from this installation: install opvseg_jax again")
    return path
