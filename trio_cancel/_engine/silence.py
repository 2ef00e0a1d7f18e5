"""Whether the venue is there: how long it has shown no sign of life, and what that means for orders (sans-I/O).

A sign of life is an answer to one of our requests, other than a 5xx, a 408, a 429 or one that says nothing. Writes,
pongs, stray frames and new connections do not count: a gateway does all that with nothing behind it. A 429 says nothing
by itself; if other orders get through, their answers are the signs.

A silence begins at the last sign of life, as soon as a question is open: something was to be written, or the connection
is lost. If a pace leaves a pause of more than half of an order's time before the next question, the silence begins with
that question, because nobody answers a question that was not asked.

An order's time (``give_up_after``) runs from its first write, and stops while only the pace holds its next attempt
back. In a silence the time of every order runs, even of those not written: from the beginning of the silence or from
the order's call, whichever came later. So all of them have their outcomes ``give_up_after`` after the later of the two,
no matter how many there are. An item from a lazy input counts from the bulk's call; an item that is pushed into a
stream counts from its push. The next sign of life ends the silence; what has not been written then starts afresh.

Before its time is over in a silence, an order that has not been written is written anyway, beyond the window and within
any known pace (the *last chance*): a cancel that may work is worth more than a certain NotSent. Each order is written
once in this way. A pace's turns go to last chances before they go to further attempts of orders that were already
written. An answer that comes in time settles the order like any other; otherwise it is Unknown. It has no place in the
window (``_engine.in_flight``), so that a venue that comes back finds the window as it was.
"""

from __future__ import annotations

import math

LAST_CHANCE = 0.8
"""Share of an order's time after which it gets its last chance, if few others wait."""
UNPACED_EARLIEST, PACED_EARLIEST = 0.5, 0.25
"""Share of an order's time before which it does not, however many wait: without a known pace, and with one."""
EACH = 5e-5
"""Seconds allowed for writing one order then."""


class Silence:
    """How long a session's venue has shown no sign of life."""

    def __init__(self) -> None:
        self.alive_at: float = -math.inf  # trio's clock at the last sign of life
        self.asked_at: float | None = None  # trio's clock at the first open question since; None if there is no silence

    def ask(self, now: float) -> None:
        """Note that there is a question to be answered."""
        if self.asked_at is None:
            self.asked_at = now

    def alive(self, now: float) -> None:
        """Note a sign of life."""
        self.alive_at = now
        self.asked_at = None

    def since(self, give_up_after: float) -> float:
        """Return when the silence began, for an order with this ``give_up_after``; inf if there is none."""
        asked = self.asked_at
        if asked is None:
            return math.inf
        return self.alive_at if asked - self.alive_at <= give_up_after / 2 else asked


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
