"""Medians and spread of the samples, by what was measured. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import attrs

from benchmarks.job import Sample


@attrs.frozen
class Spread:
    """One figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise one figure's values, at least one."""
        return cls(statistics.median(values), min(values), max(values))


@attrs.frozen
class Summary:
    """The figures of a run: looked up by work, scheme, competitor and figure."""

    rounds: int
    _spreads: dict[tuple[str, str, str, int, str], Spread]

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Summary:
        """Summarise the samples of a run."""
        values: dict[tuple[str, str, str, int, str], list[float]] = {}
        for sample in samples:
            job = sample.job
            for figure, value in sample.figures.items():
                values.setdefault((job.work, job.scheme, job.peer, job.orders, figure), []).append(value)
        spreads = {key: Spread.of(rounds) for key, rounds in values.items()}
        return cls(max(map(len, values.values()), default=0), spreads)

    def spread(self, work: str, scheme: str, peer: str, figure: str, orders: int | None = None) -> Spread | None:
        """One figure; None if it was not measured. Without `orders`, whatever size the work was done in."""
        for (a_work, a_scheme, a_peer, size, a_figure), spread in self._spreads.items():
            wanted = (a_work, a_scheme, a_peer, a_figure) == (work, scheme, peer, figure)
            if wanted and orders in (None, size):
                return spread
        return None

    def peers(self, work: str, scheme: str = "") -> list[str]:
        """Who took part in a work, in the order of the run."""
        return list(dict.fromkeys(key[2] for key in self._spreads if key[:2] == (work, scheme)))

    def sizes(self, work: str) -> list[int]:
        """The sizes a work was done in, ascending."""
        return sorted({key[3] for key in self._spreads if key[0] == work})
