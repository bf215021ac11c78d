"""Runs a function over jobs in processes; results come as they are ready."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from opvseg_jax.core.errors import UserError


def run(function: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    """Yields results in any order; 0 workers means this process. Closing it cancels the rest."""
    if workers == 0 or len(jobs) < 2:
        yield from map(function, jobs)
        return
    # Spawned, since forking a process that has threads (JAX, TFDS) may hang.
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(jobs))
    with ProcessPoolExecutor(count, context, _die_with_parent) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for memory: run the same command again with "
                "fewer --workers, what is finished is kept"
            ) from error
        finally:
            for future in futures:
                future.cancel()


def available_cores() -> int:
    """Those that this process may use: containers and job schedulers grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _die_with_parent() -> None:
    """A killed parent cannot tell its workers; without this they would wait for jobs for ever.

    Ctrl-C reaches them too, but it is the parent that stops: they finish what they are writing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
