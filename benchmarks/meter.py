"""What a client process measures of itself: processor time, wall time, latencies, memory."""

from __future__ import annotations

import gc
import pathlib
import resource
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

_STATM = pathlib.Path("/proc/self/statm")
_STATUS = pathlib.Path("/proc/self/status")
_MIB = 2**20
_QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "worst": 1.0}


class Meter:
    """Measures the steady part of a job: used as a `with` block around exactly the cancels that count.

    Processor time is that of the whole process, all its threads included. `latencies` (seconds) is filled by the
    works that have one, and is empty otherwise.
    """

    def __init__(self, orders: int) -> None:
        self.latencies: list[float] = []
        self._orders = orders
        self._cpu = self._wall = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cpu, self._wall = time.process_time() - self._cpu, time.perf_counter() - self._wall

    def figures(self) -> dict[str, float]:
        """Processor and wall time per cancel, cancels per second, percentiles, peak memory of the process."""
        figures = {
            "cpu_us": self._cpu / self._orders * 1e6,
            "wall_us": self._wall / self._orders * 1e6,
            "rate": self._orders / self._wall,
            "peak_mib": peak_memory() / _MIB,
        }
        if self.latencies:
            ordered = sorted(self.latencies)
            figures["p50_us"] = ordered[len(ordered) // 2] * 1e6
            figures["p99_us"] = ordered[len(ordered) * 99 // 100] * 1e6
        return figures


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes.

    Linux hands `ru_maxrss` on across fork and exec, so that a small child shows what its parent took. `VmHWM` is of
    the program that runs now.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int:
    """The resident memory of this process in bytes, after a garbage collection; where unknown, its peak."""
    gc.collect()
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    return peak_memory()


def quantiles(name: str, seconds: Iterable[float]) -> dict[str, float]:
    """The figures of one distribution, in ms; none if the bulk was over before there was one value."""
    ordered = sorted(seconds)
    return {
        f"{name}_{quantile}_ms": ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3
        for quantile, share in _QUANTILES.items()
        if ordered
    }
