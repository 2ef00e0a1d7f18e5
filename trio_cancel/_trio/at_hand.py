"""What is at hand when a deadline comes: it is to be taken in before the deadline is judged.

A process that was stopped, or whose loop was blocked, wakes with deadlines that have passed and with input that came
long before them. trio runs whoever waits for either in one pass, in any order; and a system call that was interrupted
may report a timeout before it has looked for input. So whoever judges a deadline first lets the others run, for as
many passes of the scheduler as it takes until nothing more comes, within a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

QUIET = 10
"""Passes in which nothing came, after which nothing is at hand: some 10 µs each. A piece that was read may take a few
until it shows, and a stream of somebody else's may need some for each piece."""
PASSES_MOST = 2_000
"""Passes at most, for a peer that never ends."""
SECONDS_MOST = 2.0
"""Seconds at most."""


async def take_in(progress: Callable[[], object]) -> None:
    """Let other tasks take in what is at hand.

    Args:
        progress: returns something that is another one when something has been taken in.

    Cancelled: it ends.
    """
    until = trio.current_time() + SECONDS_MOST
    seen, quiet = progress(), 0
    for _ in range(PASSES_MOST):
        await trio.lowlevel.checkpoint()
        now = progress()
        quiet = quiet + 1 if now == seen else 0
        if quiet == QUIET or trio.current_time() > until:
            return
        seen = now
