"""Takes in input that is ready when a deadline comes, before the deadline is judged.

A process that was stopped, or whose event loop was blocked, wakes up with deadlines that have passed and with input
that arrived long before them. trio runs the tasks that wait for either in one pass, in any order; and a system call
that was interrupted may report a timeout before it has looked for input. So whoever judges a deadline first lets the
other tasks run, for as many passes of the scheduler as it takes until nothing more comes, within a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

QUIET = 10
"""After this many passes without input, no more is ready; a pass takes about 10 µs. A piece that was read may take a
few passes until it shows, and a foreign stream may need some for each piece."""
PASSES_MOST = 2_000
"""Passes at most, for a peer that sends without end."""
SECONDS_MOST = 2.0
"""Seconds at most."""


async def take_in(progress: Callable[[], object]) -> None:
    """Let other tasks take in input that is ready.

    Args:
        progress: returns a different value when something has been taken in.

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
