"""The user's cache folder: compiled programs and text features, safe to delete at any time."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$OPVSEG_CACHE`, else `$XDG_CACHE_HOME/opvseg_jax`, else `~/.cache/opvseg_jax`."""
    if own := os.environ.get("OPVSEG_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "opvseg_jax"
