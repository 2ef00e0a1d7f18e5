"""What happened to the orders of a run, and the exit status that follows."""

from __future__ import annotations

import enum

from trio_cancel._cli._failure import counted
from trio_cancel._values.outcomes import KINDS, Canceled, Outcome, Rejected

NAMED_MOST = 10
"""How many entries a list on stderr names at most; a count of the rest follows."""


class Status(enum.IntEnum):
    """The exit status of a command."""

    OK = 0
    """Every order was canceled or already closed."""
    LEFT = 1
    """At least one was not found, rejected or not sent, or a bad line was skipped."""
    USAGE = 2
    """Usage, or everything was refused because of the credentials (40011 or 401): nothing was done."""
    UNKNOWN = 3
    """At least one order is unknown; or the program itself failed, which amounts to the same."""
    NOTHING = 4
    """The input names no order."""
    HUNG_UP = 129
    """SIGHUP: the terminal was closed; the report was given."""
    INTERRUPTED = 130
    """Ctrl-C; the report was given."""
    TERMINATED = 143
    """SIGTERM; the report was given."""


class Tally:
    """Counts of outcomes; an order that was asked for several times counts once.

    Attributes:
        counts: orders of each kind.
        repeats: how many times more than once orders were asked for, all in all.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KINDS, 0)
        self.repeats = 0
        self.partly_filled = 0
        self.credentials_refused = 0
        self.left: list[Outcome] = []  # the first of them
        self.left_count = 0

    def add(self, outcome: Outcome, places: int = 1) -> None:
        """Count an outcome of an order that was asked for in ``places`` places."""
        self.counts[outcome.kind] += 1
        self.repeats += places - 1
        if isinstance(outcome, Canceled):
            if (outcome.order.executed_amount or 0) > 0:
                self.partly_filled += 1
        elif isinstance(outcome, Rejected) and outcome.error and outcome.error.refuses_credentials:
            self.credentials_refused += 1
        if not outcome.off_book:
            self.left_count += 1
            if len(self.left) < NAMED_MOST:
                self.left.append(outcome)

    @property
    def total(self) -> int:
        """How many outcomes were counted."""
        return sum(self.counts.values())

    @property
    def off_book(self) -> int:
        """How many orders are surely off the book."""
        return self.total - self.left_count

    def status(self, *, skipped: int = 0) -> Status:
        """Return the exit status of a run that came to its end and left out so many bad lines."""
        total = self.total
        if total and self.credentials_refused == total:
            return Status.USAGE
        if self.counts["unknown"]:
            return Status.UNKNOWN
        if self.left_count or skipped:
            return Status.LEFT
        return Status.OK

    def sentence(self) -> str:
        """Return the counts as one sentence."""
        total = self.total
        if not total:
            return "no orders"
        parts = [f"{count} {kind.replace('_', ' ')}" for kind, count in self.counts.items() if count]
        repeats = f" ({self.repeats:,} named again)" if self.repeats else ""
        return f"{counted(total, 'order')}{repeats}: {', '.join(parts)}"
