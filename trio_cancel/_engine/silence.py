"""Is the venue there? How long it has given no sign of life, and what that does to the orders that wait (sans I/O).

A sign of life is an answer to one of our requests, other than a 5xx, a 408, a 429 or one that says nothing. Writes,
pongs, stray frames and new connections are none: a gateway does all that while nothing stands behind it. A 429 says
nothing by itself; where other orders get through, theirs are the signs.

A silence begins with the last sign of life, as soon as a question is open: something was to be written, or the
connection is lost. Where a pace leaves a pause of more than half of an order's time before the next question, it begins
with that question, for nobody answers what was not asked.

An order's time (``give_up_after``) runs from its first write, and stands still while only the pace holds its next
attempt back. In a silence the time of every order runs, that of those not written too: from the beginning of the
silence or from the order's call, whichever came later. So all of them have their outcomes ``give_up_after`` after the
later of the two, however many they are. What is taken from a lazy input counts from the bulk's call; what is pushed
into a stream from its push. The next sign of life ends the silence; what had not been written begins anew then.

Before its time is over in a silence, what has not been written is written all the same, beyond the window and within
any pace that is known (the *last chance*): a cancel that may work is worth more than a certain NotSent. Each order is
written once in this way. The turns of a pace go to last chances before they go to further attempts of what was written
before. An answer that comes in time settles it as any other does; else it is Unknown. It has no
place in the window (``_engine.in_flight``), so that a venue that comes back finds the window as it was.
"""

from __future__ import annotations

import math

LAST_CHANCE = 0.8
"""Share of an order's time after which it gets its last chance, if few others wait."""
UNPACED_EARLIEST, PACED_EARLIEST = 0.5, 0.25
"""Share of an order's time before which it does not, however many wait: where no pace is known, and where one is."""
EACH = 5e-5
"""Seconds that are allowed for writing one order then."""


class Silence:
    """How long a session's venue has given no sign of life.

    Attributes:
        last_sign: trio's clock at the last sign of life.
        asked_at: trio's clock at the first open question since; None if there is none, so that there is no silence.
    """

    __slots__ = ("asked_at", "last_sign")

    def __init__(self) -> None:
        self.last_sign: float = -math.inf
        self.asked_at: float | None = None

    def ask(self, now: float) -> None:
        """Note that there is a question to be answered."""
        if self.asked_at is None:
            self.asked_at = now

    def sign(self, now: float) -> None:
        """Note a sign of life."""
        self.last_sign = now
        self.asked_at = None

    def since(self, give_up_after: float) -> float:
        """Return when the silence began, for an order of such patience; inf if there is none."""
        asked = self.asked_at
        if asked is None:
            return math.inf
        return self.last_sign if asked - self.last_sign <= give_up_after / 2 else asked


def last_chance_after(give_up_after: float, waiting: int, rate: float | None) -> float:
    """Return the seconds of silence after which an order gets its last chance.

    Args:
        give_up_after: its whole time, in seconds.
        waiting: how many orders wait with it.
        rate: how many may be written a second, if that is known.
    """
    if rate is None:
        needed, earliest = waiting * EACH, UNPACED_EARLIEST
    else:
        needed, earliest = waiting / rate, PACED_EARLIEST
    return max(earliest * give_up_after, LAST_CHANCE * give_up_after - needed)
