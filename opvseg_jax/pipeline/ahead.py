"""Work done ahead of time by threads, its results in order."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator


def in_threads(read: Callable, steps: Iterable[int], threads: int, ahead: int) -> Iterator:
    """read(step) for every step; each thread has `ahead` of them waiting or done. 0: no thread."""
    if threads < 1:
        yield from map(read, steps)
        return
    steps = iter(steps)
    pool = concurrent.futures.ThreadPoolExecutor(threads, "batches")
    try:
        first = itertools.islice(steps, threads * max(1, ahead))
        waiting = collections.deque(pool.submit(read, step) for step in first)
        while waiting:
            result = waiting.popleft().result()
            for step in itertools.islice(steps, 1):
                waiting.append(pool.submit(read, step))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
