"""The rows of a journal's tables, and how they change. Times are integer microseconds of Unix time.

Holds and intents share one sequence of numbers for the life of the journal, so it is certain which came first, whatever
the clock did. An attempt's number is its request's number plus the first number of its session.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import attrs

from trio_cancel._values.models import CancelRequest, recorded_request


class SessionRow(NamedTuple):
    """One ``open_trading_ws`` block that wrote the journal."""

    number: int
    prefix: str
    """What its request ids begin with."""
    first_attempt: int
    """What the number in a request id is added to."""
    opened: int
    alive: int
    """When it last noted that it is alive; its other rows may be later."""
    closed: int | None
    """When it ended in an orderly way; None if it is alive, or died."""


HoldRow: TypeAlias = tuple[int, int, int, str, int, int | None, int | None]
"""number, session, 1 if the key is an external id, key, held at, and the bounds of the venue's clock minus ours then
(None: not known)"""
PlacedRow: TypeAlias = tuple[int, int, str | None]
"""number of the hold, when its session learned that the venue has the order, the venue's id for it"""
ReleaseRow: TypeAlias = tuple[int, int]
"""number of the hold, released at"""
IntentRow: TypeAlias = tuple[int, int, int, str, int]
"""number, session, 1 if the key is an external id, key, intended at"""
AttemptRow: TypeAlias = tuple[int, int, int, int, int | None, int | None]
"""number, intent, connection, written at, answered at, status"""
OutcomeRow: TypeAlias = tuple[int, str, int, int | None]
"""intent, kind, settled at, error code"""
AnswerRow: TypeAlias = tuple[int, int, int, int, int, int | None, str, int | None]
"""The usual end of a cancel, its only attempt and its outcome in one row: an attempt's, then kind, error code"""


@attrs.define(eq=False, kw_only=True)
class Changes:
    """Rows that go into a journal in one transaction."""

    holds: list[HoldRow] = attrs.field(factory=list)
    placed: list[PlacedRow] = attrs.field(factory=list)
    releases: list[ReleaseRow] = attrs.field(factory=list)
    intents: list[IntentRow] = attrs.field(factory=list)
    attempts: list[AttemptRow] = attrs.field(factory=list)
    outcomes: list[OutcomeRow] = attrs.field(factory=list)
    answers: list[AnswerRow] = attrs.field(factory=list)
    alive: int | None = None  # when the session was last alive, if that is to be noted
    closed: int | None = None  # when it ended, if it did

    @property
    def rows(self) -> dict[str, list[Any]]:
        """All rows, by the names of their tables."""
        return {
            "intent": self.intents,
            "hold": self.holds,
            "placed": self.placed,
            "release": self.releases,
            "attempt": self.attempts,
            "outcome": self.outcomes,
            "answer": self.answers,
        }

    def __len__(self) -> int:
        return sum(map(len, self.rows.values())) + (self.alive is not None) + (self.closed is not None)

    def before(self, later: Changes) -> Changes:
        """Add ``later`` changes to these, and return these."""
        for table, rows in later.rows.items():
            self.rows[table].extend(rows)
        if later.alive is not None:
            self.alive = later.alive
        if later.closed is not None:
            self.closed = later.closed
        return self


@attrs.frozen
class Tables:
    """All rows of a journal, in the order of their numbers."""

    url: str
    sessions: list[SessionRow]
    holds: list[HoldRow]
    releases: list[ReleaseRow]
    intents: list[IntentRow]
    attempts: list[AttemptRow]
    outcomes: list[OutcomeRow]
    placed: list[PlacedRow] = attrs.field(factory=list)


@attrs.frozen
class Begun:
    """A session that has begun in a journal."""

    session: int  # its number
    number: int  # of its first hold or intent
    attempt: int  # what its requests' numbers are added to
    left: Tables | None = None  # the rows that tell what earlier sessions left; None if they left nothing
    lease: float | None = None  # seconds that its claim lasts after each beat; None if nobody can take over the journal
    claimed_at: float = 0.0  # when the transaction that began the session was sent, on the clock of leases


def spread(
    answers: Iterable[AnswerRow], attempts: Iterable[AttemptRow], outcomes: Iterable[OutcomeRow]
) -> tuple[list[AttemptRow], list[OutcomeRow]]:
    """Return all attempts and outcomes, including those in ``answers``; an answer says more than an open attempt."""
    tried = {row[0]: row for row in attempts}
    settled = {row[0]: row for row in outcomes}
    for number, intent, connection, written, answered, status, kind, code in answers:
        tried[number] = (number, intent, connection, written, answered, status)
        settled[intent] = (intent, kind, answered, code)
    return sorted(tried.values()), sorted(settled.values())


def micros(seconds: float) -> int:
    """Return Unix seconds as they are in a row."""
    return int(seconds * 1_000_000)


def seconds(microseconds: int | None) -> float | None:
    """Return a row's time as Unix seconds."""
    return None if microseconds is None else microseconds / 1_000_000


def request_of(external: int, key: str) -> CancelRequest:
    """Return the request that a row names."""
    return recorded_request(None, key) if external else recorded_request(key, None)
