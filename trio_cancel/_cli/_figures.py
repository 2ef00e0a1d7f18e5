"""Percentiles and a histogram of latencies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

ROWS_MOST = 10
"""Rows of a histogram, at most."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of values in ascending order; there must be at least one."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@attrs.frozen
class HistogramRow:
    """One row: how many values lie in [low, high). In the last row ``high`` is None: it has no upper bound."""

    low: float
    high: float | None
    count: int


def histogram(ordered: Sequence[float], rows: int = ROWS_MOST) -> list[HistogramRow]:
    """Sort values into rows of equal, round width, so that the slowest hundredth does not flatten the rest.

    The values are in ascending order, none negative. There are at most ``rows`` rows, which must be 3 or more.
    """
    if not ordered:
        return []
    low, most = ordered[0], percentile(ordered, 99)
    step = _round_up((most - low) / (rows - 2) or most / rows or 1e-6)
    first = math.floor(low / step)
    counts = [0] * rows
    for value in ordered:
        counts[min(rows - 1, math.floor(value / step) - first)] += 1
    while counts and not counts[-1]:
        counts.pop()
    return [
        HistogramRow(
            (first + index) * step,
            None if index == rows - 1 else (first + index + 1) * step,
            count,
        )
        for index, count in enumerate(counts)
    ]


def _round_up(value: float) -> float:
    """Return the next number of the series 1, 2, 5, 10, 20 and so on."""
    power: float = 10.0 ** math.floor(math.log10(value))
    for factor in (1, 2, 5):
        if value <= factor * power * (1 + 1e-9):
            return factor * power
    return 10 * power
