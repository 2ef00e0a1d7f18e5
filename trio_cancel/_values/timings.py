"""How long a session waits, as one value that the code that opens it passes down: tests use shorter times."""

from __future__ import annotations

import attrs


@attrs.frozen
class Timings:
    """Times to wait, in seconds. No user would change them; the ones that users may change are keywords."""

    ping_interval: float = 15.0  # between two pings: the venue drops a connection that is idle for 60 s
    pong_deadline: float = 10.0  # without a pong until a connection counts as dead
    write_deadline: float = 5.0  # for which a peer that does not read may stall one write, at most
    journal_opening: float = 30.0  # that opening a journal may take; it is checked completely, and may be large
    journal_closing: float = 2.0  # that the end of the block waits for the journal's last transaction
    settle: float = 10.0  # in which the create of a held order may still reach the book (general information: 10 s)
    ask_again: float = 1.0  # until an order that a resume does not find is asked for again
