"""A session's claim to a journal in a database, as far as the session itself can know (pure; told the time).

Whoever wants to take a journal over waits until it has seen no beat for a whole lease, on its own clock. The session
counts on its own clock, too: from *before* it sent the last beat that was confirmed, so that its lease ends first. The
drawing shows the steps, :data:`STEPS` is their table::

                 ┌────── beat confirmed ──────┐
                 ▼                            │
               SURE ── no beat for so long ─► UNCERTAIN
                 │                            │
                 └──── the epoch is over ─────┴──────────► TAKEN_OVER

While it is uncertain another may have the journal, or nobody: only the database can tell. New holds are refused, and
nothing else is. Nothing leads out of TAKEN_OVER.
"""

from __future__ import annotations

import enum
import sys
import time

SURE_FOR = 0.9
"""The part of a lease for which a session is sure: two clocks run apart by less than the rest."""
BEATS = 3
"""Beats in a lease."""
LEAST, MOST = 1.0, 20.0
"""Seconds that a lease lasts."""

# As in ``_trio.environment``: the lease goes on while the machine is suspended.
_GOES_ON = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC if sys.platform == "darwin" else None)


def steady() -> float:
    """Return the seconds of a clock that nobody sets, and that goes on in suspend where there is such a one."""
    return time.monotonic() if _GOES_ON is None else time.clock_gettime(_GOES_ON)


class LeaseState(enum.StrEnum):
    """What a session knows of its claim to its journal."""

    SURE = "sure"
    """The journal is this session's, and nobody may take it over yet."""
    UNCERTAIN = "uncertain"
    """The database has not confirmed that for too long. No new order is held; cancels go on."""
    TAKEN_OVER = "taken_over"
    """Another session, or a guard, has the journal, for good."""


STEPS: dict[LeaseState, frozenset[LeaseState]] = {
    LeaseState.SURE: frozenset({LeaseState.UNCERTAIN, LeaseState.TAKEN_OVER}),
    LeaseState.UNCERTAIN: frozenset({LeaseState.SURE, LeaseState.TAKEN_OVER}),
    LeaseState.TAKEN_OVER: frozenset(),
}
"""Which state each leads to."""


def commit_within(lease: float) -> float:
    """Return the seconds after which a beat that has not come through is given up and sent anew."""
    return min(2.0, lease * 2 / BEATS)


GUARD_SILENT = 5.0
"""Seconds without a beat of theirs from which guards do not count; they beat at least once in a second."""


class Guards:
    """Whether anybody watches a session's journal who has its account's credentials, as far as the session can know.

    Told by what the beats of such guards add up to: if that changes, one of them lives.
    """

    def __init__(self) -> None:
        self._beats: int | None = None
        self._changed_at: float | None = None

    def saw(self, beats: int | None, now: float) -> None:
        """Note what the beats add up to now; None if there is no guard."""
        if beats is None:
            self._changed_at = None
        elif self._beats is not None and beats != self._beats:
            self._changed_at = now
        self._beats = beats

    def watch(self, now: float) -> bool:
        """Return True if one does."""
        return self._changed_at is not None and now - self._changed_at < GUARD_SILENT


class Lease:
    """One session's. Times are seconds of one clock, :func:`steady`'s.

    Args:
        seconds: how long it lasts after a beat.
        sent_at: when the transaction was sent that began it.
    """

    def __init__(self, seconds: float, sent_at: float) -> None:
        self.seconds: float = seconds
        self._confirmed_at = sent_at
        self._tried_at = sent_at
        self._over = False

    def state(self, now: float) -> LeaseState:
        """Return how it stands."""
        if self._over:
            return LeaseState.TAKEN_OVER
        return LeaseState.SURE if now < self.sure_until else LeaseState.UNCERTAIN

    @property
    def sure_until(self) -> float:
        """When it becomes uncertain unless a beat is confirmed before."""
        return self._confirmed_at + SURE_FOR * self.seconds

    @property
    def beat_at(self) -> float:
        """When the next beat is due."""
        return self._tried_at + self.seconds / BEATS

    def sending(self, now: float) -> None:
        """Note that a beat is sent now."""
        self._tried_at = max(self._tried_at, now)

    def confirmed(self, sent_at: float) -> None:
        """Note that a beat that was sent then has come through."""
        self._confirmed_at = max(self._confirmed_at, sent_at)

    def lost(self) -> None:
        """Note that the epoch is over."""
        self._over = True
