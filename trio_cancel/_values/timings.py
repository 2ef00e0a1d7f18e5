"""How long a session waits, as one value that the code that opens it passes down: tests use shorter times."""

from __future__ import annotations

import attrs


@attrs.frozen
class Timings:
    """Times to wait, in seconds. No user would change them; the ones that users may change are keywords.

    Attributes:
        ping_interval: between two pings: well under the 60 s after which the venue drops an idle connection.
        pong_deadline: without a pong until a connection counts as dead.
        write_deadline: for which a peer that does not read may stall one write, at most.
        journal_opening: that opening a journal may take; it is checked completely, which takes long if it is large.
        journal_closing: that the end of the block waits for the journal's last transaction.
        settle: in which the create of a held order may still reach the venue's book (general information: 10 s).
        ask_again: until an order that a resume does not find is asked for again.
    """

    ping_interval: float = 15.0
    pong_deadline: float = 10.0
    write_deadline: float = 5.0
    journal_opening: float = 30.0
    journal_closing: float = 2.0
    settle: float = 10.0
    ask_again: float = 1.0
