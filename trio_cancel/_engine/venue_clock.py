"""The venue's clock compared with ours, the correction before signing, and when to ask again (sans-I/O).

What an upgrade shows is believed until our clock moves against a steady one (it was set, or the machine was suspended).
A refused signature contradicts what is believed, and is a reason for a probe; refusals that go on (a wrong secret) are
not a reason for many. A probe is a separate connection, whose upgrade shows the venue's clock. The session's task makes
it when :attr:`VenueClock.wanted` rings, and ends it with :meth:`VenueClock.probed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.observer import logger

CLOCK_MOVED = 0.1
"""Seconds by which our clock and a steady one must have moved apart for ours to count as set."""
FRESH_FOR = 10.0
"""Seconds for which what was seen of the venue's clock is not doubted, if that does not change the signature."""
PROBE_EVERY = 60.0
"""Seconds between two probes because of refused signatures."""


class VenueClock:
    """What is known of the venue's clock.

    Args:
        wall: returns our Unix seconds.
        steady: returns the seconds of a clock that nobody sets.
        correct: whether what is known corrects the signed times.
        correction: seconds that are added to our clock before signing until something is known.

    Attributes:
        interval: the bounds of the venue's clock minus ours; None if nothing is known.
        correction: seconds to add to our clock before signing.
        wanted: rings when a probe is wanted.
    """

    def __init__(
        self, wall: Callable[[], float], steady: Callable[[], float], *, correct: bool = False, correction: float = 0.0
    ) -> None:
        self.interval: OffsetInterval | None = None
        self.correction: float = correction
        self.wanted: Wakeup = Wakeup()
        self._wall = wall
        self._steady = steady
        self._correct = correct
        self._drift: float | None = None  # our clock minus the steady one when the venue's was seen; None if it was not
        self._saw_at = -math.inf  # trio's clock at that time
        self._saw_after = 0  # how many requests had been signed by then
        self._probing = False
        self._probed_at = -math.inf  # trio's clock when a probe was last wanted

    def saw(self, seen: OffsetInterval | None, signed: int, now: float) -> None:
        """Take note of what an upgrade showed, after ``signed`` requests had been signed."""
        self.check(now)
        if seen is None:
            return
        self.interval = seen if self.interval is None else self.interval.intersect(seen)
        if self._correct:
            self.correction = self.interval.nearest_to_zero / 1000
        self._drift = self._wall() - self._steady()
        self._saw_at = now
        self._saw_after = signed

    def check(self, now: float) -> None:
        """Forget what is known if our clock has been set since: it was known relative to ours."""
        if self._drift is None:
            return
        moved = self._wall() - self._steady() - self._drift
        if abs(moved) < CLOCK_MOVED:
            return
        self._drift = self.interval = None
        logger.warning("our clock was set by %+.1f s, or the machine suspended: the venue's is not known now", moved)
        if self._correct:
            self.correction = 0.0
            self._want_probe(now)

    def sign_again_at(self, number: int, now: float) -> float | None:
        """Return when to sign again the request with this number, whose signature was refused; None for never.

        The refusal contradicts what is believed of the two clocks: one of them may have been set. Any probe that is
        newer than the signature will do.
        """
        self.check(now)
        if self._probing:
            return math.inf
        if number <= self._saw_after:
            return now
        fresh = self._drift is not None and now - self._saw_at < FRESH_FOR
        if (fresh and not self._correct) or now - self._probed_at < PROBE_EVERY:
            return None
        self._want_probe(now)
        return math.inf

    def probed(self) -> None:
        """Note that a probe has ended, with whatever result."""
        self._probing = False

    def _want_probe(self, now: float) -> None:
        if not self._probing:
            self._probing = True
            self._probed_at = now
            self.wanted.ring()
