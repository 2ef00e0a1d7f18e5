"""What the soak's callers were told, and the task that has it checked against the venue a little later."""

from __future__ import annotations

import math
from collections import Counter, deque

import trio

from trio_cancel import Observer, Outcome, TradingWS, Unknown
from trio_cancel.types import CancelReport

from .check import honest, violations
from .venue import Venue

SETTLE = 3.0
"""Seconds after which an outcome is checked: by then what was on its way to the venue has come there or never will."""
EVERY, SLICE = 0.5, 200
"""Seconds between two looks at what is due, and outcomes asked for at once."""
SHOWN = 50
"""Violations that are kept."""


class Ledger:
    """Counts, and nothing that grows with the run.

    Attributes:
        sessions: those that are open.
        counts: what was done and seen, by name.
        outcomes: outcomes told, by kind.
        checked: how many of them were checked.
        violations: what was wrong.
    """

    def __init__(self, venue: Venue) -> None:
        self.sessions: set[TradingWS] = set()
        self.counts: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.checked = 0
        self.violations: list[str] = []
        self._venue = venue
        self._waiting: deque[tuple[float, Outcome]] = deque()
        self._ended = False

    def told(self, outcome: Outcome) -> None:
        """Take up a final outcome; it is checked later."""
        self.outcomes[outcome.kind] += 1
        self._waiting.append((trio.current_time() + SETTLE, outcome))

    def told_all(self, report: CancelReport) -> None:
        """Take up the final ones of a report."""
        for outcome in report.outcomes:
            if outcome.final:
                self.told(outcome)
            else:
                self.counts["never final"] += 1

    def wrong(self, text: str) -> None:
        """Note a violation."""
        self.counts["violations"] += 1
        if len(self.violations) < SHOWN:
            self.violations.append(text)

    def within(self, seconds: float, bound: float, what: str) -> None:
        """Note a violation of invariant 6 if something took longer than its bound."""
        if seconds > bound:
            self.wrong(f"6: {what} took {seconds:.2f} s")

    def pending(self) -> int:
        """Return how many orders wait, over all open sessions."""
        return sum(session.statistics().pending for session in self.sessions)

    def refused_for_good(self) -> None:
        """Say that nothing more will be told."""
        self._ended = True

    async def check(self) -> None:
        """Check what was told, until nothing more will be."""
        while self._waiting or not self._ended:
            await trio.sleep(EVERY)
            now = trio.current_time()
            while self._waiting and self._waiting[0][0] <= now:
                due = [self._waiting.popleft()[1] for _ in range(min(SLICE, self._due(now)))]
                await self._check(due)

    def _due(self, now: float) -> int:
        return next((i for i, (due, _) in enumerate(self._waiting) if due > now), len(self._waiting))

    async def _check(self, outcomes: list[Outcome]) -> None:
        asked = [(o.request, [attempt.request_id for attempt in o.attempts]) for o in outcomes]
        for outcome, truth in zip(outcomes, await self._venue.truth(asked), strict=True):
            self.checked += 1
            for text in violations(outcome, truth):
                self.wrong(text)
            if isinstance(outcome, Unknown) and honest(outcome, truth):
                self.counts[f"unknown, answered in full: {outcome.cause}"] += 1


class Watcher(Observer):
    """Hears of what settled after its caller had left."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def settled_late(self, outcome: Outcome) -> None:
        self._ledger.counts["settled late"] += 1
        self._ledger.told(outcome)

    def connection_opened(self, number: int) -> None:
        self._ledger.counts["connections"] += 1

    def connection_lost(self, number: int, cause: BaseException | None) -> None:
        self._ledger.counts["lost" if cause is not None else "closed by us"] += 1

    def connection_failed(self, error: BaseException) -> None:
        self._ledger.counts["not opened"] += 1

    def paced(self, rate: float) -> None:
        self._ledger.counts["paced"] += 1


def age(outcome: Outcome, now: float) -> float:
    """Seconds from the first write of an order to ``now`` (Unix time); less than nothing if it was not written."""
    written = [attempt.written_at for attempt in outcome.attempts if attempt.written_at is not None]
    return now - min(written) if written else -math.inf
