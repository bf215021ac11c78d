"""The user's cache folder: compiled programs and text features, safe to delete at any time."""

import functools
import hashlib
import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """`$OPVSEG_CACHE`, else `$XDG_CACHE_HOME/opvseg_jax`, else `~/.cache/opvseg_jax`."""
    if own := os.environ.get("OPVSEG_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "opvseg_jax"


def keep_compiled() -> None:
    """From now on compiled programs are kept below the cache folder.

    A process that has chosen another place, by `jax_compilation_cache_dir`, keeps it.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(compiled_folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compiled_folder() -> Path:
    """Programs for one kind of processor: in a home shared by several machines they differ."""
    return cache_folder() / "compiled" / _processor()


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    known = "|".join([platform.machine(), platform.processor(), *facts])
    return hashlib.sha256(known.encode()).hexdigest()[:12]
