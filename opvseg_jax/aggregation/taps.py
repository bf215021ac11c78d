"""Named intermediates: a dict that is filled on the way while tracing, if anybody handed one in."""

import jax

Taps = dict | None


def record(taps: Taps, name: str, value: jax.Array) -> None:
    """Keeps `value` under `name`."""
    if taps is not None:
        taps[name] = value


def within(taps: Taps, name: str) -> Taps:
    """The dict of the part called `name`."""
    return None if taps is None else taps.setdefault(name, {})
