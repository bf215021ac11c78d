"""How a command ends: an exit code, and at most one line for what went wrong.

0 done, 1 done in part, 2 a mistake that the user can mend, 70 a defect of ours, 130 Ctrl-C.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from opvseg_jax.core.errors import UserError

PARTLY, MISTAKE, DEFECT, INTERRUPTED = 1, 2, 70, 130


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Runs a command and turns what it raises into one line and an exit code."""
    with _noticing_ctrl_c() as pressed:
        return _guarded(run, args, pressed)


def _guarded(
    run: Callable[[argparse.Namespace], int], args: argparse.Namespace, pressed: "Stop"
) -> int:
    try:
        return run(args) or 0
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "stopped", INTERRUPTED)
    except BrokenPipeError:  # the reader has seen enough: `opvseg models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if pressed.is_wanted:  # Ctrl-C inside an import surfaces as an error of that import
            return _say("stopped", INTERRUPTED)
        if getattr(args, "debug", False):
            raise
        if isinstance(error, UserError):
            return _say(str(error), MISTAKE)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            return _say("out of memory: use a smaller --detail or --model", MISTAKE)
        reason = f"{type(error).__name__}: {error}"
        return _say(f"unexpected error, --debug shows where ({reason})", DEFECT)


class Stop:
    """Whether Ctrl-C was pressed."""

    def __init__(self):
        self.is_wanted = False


@contextlib.contextmanager
def _noticing_ctrl_c() -> Iterator[Stop]:
    """Ctrl-C raises `KeyboardInterrupt` as ever and is remembered, whatever becomes of that."""
    pressed = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def on_signal(number, frame):
        pressed.is_wanted = True
        raise KeyboardInterrupt

    def on_dropped(dropped):  # raised in a finaliser: Python drops it and would print a traceback
        if dropped.exc_type is not KeyboardInterrupt:
            hook(dropped)

    hook, sys.unraisablehook = sys.unraisablehook, on_dropped
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


@contextlib.contextmanager
def stopping(message: str) -> Iterator[Stop]:
    """Ctrl-C asks to stop at the next good moment and says `message`; a second one stops now.

    A `KeyboardInterrupt` may surface anywhere, this does not.
    """
    stop = Stop()

    def on_signal(number, frame):
        if stop.is_wanted:
            raise KeyboardInterrupt
        stop.is_wanted = True
        print(f"\nopvseg: {message}", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals are handled in the main thread alone
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _say(message: str, code: int) -> int:
    print(f"opvseg: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
