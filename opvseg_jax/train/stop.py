"""SIGTERM and Ctrl-C ask a training to stop at the next good moment."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax

Item = TypeVar("Item")
SIGTERM, CTRL_C = "SIGTERM", "Ctrl-C"


class StoppedError(Exception):
    """What was being done for the training is given up."""


class Stop:
    """`reason` is what asked to stop, or None."""

    def __init__(self):
        self.reason: str | None = None

    def is_wanted(self, step: int) -> bool:
        """Whether to stop before the next step; the same in all processes, which ask each step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # SIGTERM reaches processes at different steps; JAX' service agrees on one.
            if multihost_utils.reached_preemption_sync_point(step):
                self.reason = SIGTERM
        return self.reason is not None

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; a `StoppedError` comes between two of them when it is time to stop."""
        for item in items:
            if self.reason is not None and jax.process_count() == 1:
                raise StoppedError
            yield item


@contextlib.contextmanager
def stopping(on_signal: Callable[[str], None]) -> Iterator[Stop]:
    """While inside, SIGTERM and the first Ctrl-C are noted; the second Ctrl-C stops at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield stop  # of several processes JAX itself watches for SIGTERM
        return

    reasons = {signal.SIGTERM: SIGTERM, signal.SIGINT: CTRL_C}

    def on_arrival(number, frame):
        if stop.reason == reasons[number] == CTRL_C:
            raise KeyboardInterrupt
        stop.reason = reasons[number]
        on_signal(stop.reason)

    before = {number: signal.signal(number, on_arrival) for number in reasons}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
