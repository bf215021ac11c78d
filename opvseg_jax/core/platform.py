"""Which kind of machine a function is traced for: this one, unless it is exported for another."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """ "cpu" or what kind of accelerator: ask while tracing, where a faster form depends on it."""
    return _chosen.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Functions traced inside are for machines of this kind. Trace new functions: old ones keep
    what they were traced for."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
