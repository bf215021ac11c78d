"""How fast a training runs: images per second, and the share of what the devices could do."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import jax

Item = TypeVar("Item")

# Dense bfloat16, 10^12 operations per second, by the makers' data sheets; float32 runs as TF32, at
# half of it. Matched by the beginning of JAX' name of the device, the longest first.
PEAKS: Mapping[str, float] = {
    "NVIDIA A10G": 70,
    "NVIDIA A10": 125,
    "NVIDIA A100": 312,
    "NVIDIA A40": 150,
    "NVIDIA B200": 2250,
    "NVIDIA GH200": 989,
    "NVIDIA H100": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H200": 989,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362,
    "NVIDIA RTX A6000": 155,
}


def peak_of(kind: str, dtype: str) -> float | None:
    """Operations per second of a device of this kind, if it is known."""
    names = sorted((name for name in PEAKS if kind.startswith(name)), key=len)
    if not names or dtype not in ("bfloat16", "float16", "float32"):
        return None
    return PEAKS[names[-1]] * 1e12 / (2 if dtype == "float32" else 1)


def operations_of(lowered: jax.stages.Lowered) -> float | None:
    """Of one step over all devices, as XLA counts them; hand-written kernels are not counted."""
    try:
        cost = lowered.cost_analysis()
    except Exception:  # an estimate for show: whatever is wrong with it stops no training
        return None
    return (cost or {}).get("flops")


class Meter:
    """Speed since it was last read. The first step, which is compiled, does not count, nor does
    what happens inside `pause`.
    """

    def __init__(self, batch_size: int, operations: float | None = None, peak: float | None = None):
        self.batch_size, self.operations, self.peak = batch_size, operations, peak
        self._is_warm = False
        self._begin()

    def next(self, batches: Iterator[Item]) -> Item:
        """The next batch; the time spent waiting for it is told."""
        began = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - began
        return batch

    def step(self) -> None:
        if self._is_warm:
            self._steps += 1
        else:
            self._is_warm = True
            self._begin()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """images_per_second, seconds_per_step, input_wait of that, share_of_peak if it is known."""
        steps, waited, seconds = self._steps, self._waited, time.perf_counter() - self._began
        if not steps:
            return {}
        self._begin()
        found = {
            "images_per_second": steps * self.batch_size / seconds,
            "seconds_per_step": seconds / steps,
            "input_wait": waited / steps,
        }
        if self.operations and self.peak:
            found["share_of_peak"] = self.operations * steps / seconds / self.peak
        return found

    def _begin(self) -> None:
        self._steps, self._waited, self._began = 0, 0.0, time.perf_counter()


def meter_for(batch_size: int, dtype: str, lower: Callable[[], jax.stages.Lowered]) -> Meter:
    """`lower()` gives the lowered step; it is asked only where the devices' peak is known."""
    peak = peak_of(jax.devices()[0].device_kind, dtype)
    if peak is None:
        return Meter(batch_size)
    return Meter(batch_size, operations_of(lower()), peak * jax.device_count())
