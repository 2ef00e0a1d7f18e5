"""A session's claim to a journal in a database, as far as the session itself can know (sans-I/O).

Whoever wants to take over a journal first waits until it has seen no beat for a whole lease, on its own clock. The
session also counts on its own clock, from *before* it sent the last beat that was confirmed, so its lease ends first::

                 ┌────── beat confirmed ──────┐
                 ▼                            │
               SURE ── none for too long ───► UNCERTAIN
                 │                            │
                 └──── the epoch is over ─────┴──────────► TAKEN_OVER

While the session is uncertain, another one may have the journal: only the database can tell. New holds are refused, and
nothing else is. Nothing leads out of TAKEN_OVER.
"""

from __future__ import annotations

import enum
import sys
import time

SURE_FOR = 0.9
"""The part of a lease for which a session is sure: two clocks drift apart by less than the rest."""
BEATS = 3
"""Beats per lease."""
LEAST, MOST = 1.0, 20.0
"""Seconds that a lease lasts."""

# As in ``_trio.environment``: the lease goes on while the machine is suspended.
_GOES_ON = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC if sys.platform == "darwin" else None)


def steady() -> float:
    """Return the seconds of a clock that nobody sets and that, if the system has one, goes on during suspend."""
    return time.monotonic() if _GOES_ON is None else time.clock_gettime(_GOES_ON)


class LeaseState(enum.StrEnum):
    """What a session knows of its claim to its journal."""

    SURE = "sure"
    """The journal is this session's, and nobody may take it over yet."""
    UNCERTAIN = "uncertain"
    """The database has not confirmed that for too long. No new order is held; cancels go on."""
    TAKEN_OVER = "taken_over"
    """Another session, or a guard, has the journal, for good."""


def commit_within(lease: float) -> float:
    """Return the seconds after which a beat that has not been confirmed is given up and sent again."""
    return min(2.0, lease * 2 / BEATS)


GUARD_SILENT = 5.0
"""Seconds without a beat after which guards do not count; they beat at least once per second."""


class Guards:
    """Whether a guard with the account's credentials watches a session's journal, as far as the session can know.

    It is told the sum of the beats of such guards: if that changes, one of them is alive.
    """

    def __init__(self) -> None:
        self._beats: int | None = None
        self._changed_at: float | None = None

    def saw(self, beats: int | None, now: float) -> None:
        """Note the sum of the beats now; None if there is no guard."""
        if beats is None:
            self._changed_at = None
        elif self._beats is not None and beats != self._beats:
            self._changed_at = now
        self._beats = beats

    def watch(self, now: float) -> bool:
        """Return True if a guard watches."""
        return self._changed_at is not None and now - self._changed_at < GUARD_SILENT


class Lease:
    """A session's lease, which lasts some seconds after each beat. Times are seconds on the clock :func:`steady`.

    Args:
        seconds: how long it lasts.
        sent_at: when the transaction was sent that began it.
    """

    def __init__(self, seconds: float, sent_at: float) -> None:
        self.seconds: float = seconds
        self._confirmed_at = sent_at
        self._tried_at = sent_at
        self._over = False

    def state(self, now: float) -> LeaseState:
        """Return its state."""
        if self._over:
            return LeaseState.TAKEN_OVER
        return LeaseState.SURE if now < self.sure_until else LeaseState.UNCERTAIN

    @property
    def sure_until(self) -> float:
        """When the session becomes uncertain unless a beat is confirmed before."""
        return self._confirmed_at + SURE_FOR * self.seconds

    @property
    def beat_at(self) -> float:
        """When the next beat is due."""
        return self._tried_at + self.seconds / BEATS

    def sending(self, now: float) -> None:
        """Note that a beat is sent now."""
        self._tried_at = max(self._tried_at, now)

    def confirmed(self, sent_at: float) -> None:
        """Note that the beat that was sent at that time has been confirmed."""
        self._confirmed_at = max(self._confirmed_at, sent_at)

    def lost(self) -> None:
        """Note that the epoch is over."""
        self._over = True
