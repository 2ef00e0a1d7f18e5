"""What a journal's tables hold, as plain rows, and how they change (pure). Times are integer microseconds of Unix time.

Holds and intents are numbered by one count over the life of the file, so that it is certain which came first, whatever
the clock did. An attempt's number is its request's number plus what its session began with.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import attrs

from trio_cancel._models import CancelRequest


class SessionRow(NamedTuple):
    """One ``open_trading_ws`` block that wrote the journal."""

    number: int
    prefix: str
    """What its request ids begin with."""
    first_attempt: int
    """What the number in a request id is added to."""
    opened: int
    alive: int
    """When it last said that it lives; its other rows may be younger."""
    closed: int | None
    """When it ended in an orderly way; None if it lives, or died."""


# The rows of the hot path are bare tuples: their numbers go up to a million in one bulk cancel.
HoldRow: TypeAlias = tuple[int, int, int, str, int]
"""number, session, 1 if the key is an external id, key, held at"""
ReleaseRow: TypeAlias = tuple[int, int]
"""number of the hold, released at"""
IntentRow: TypeAlias = tuple[int, int, int, str, int]
"""number, session, 1 if the key is an external id, key, intended at"""
AttemptRow: TypeAlias = tuple[int, int, int, int, int | None, int | None]
"""number, intent, connection, written at, answered at, status"""
OutcomeRow: TypeAlias = tuple[int, str, int, int | None]
"""intent, kind, settled at, error code"""


@attrs.define(eq=False)
class Changes:
    """Rows that go into a journal in one transaction."""

    holds: list[HoldRow] = attrs.field(factory=list)
    releases: list[ReleaseRow] = attrs.field(factory=list)
    intents: list[IntentRow] = attrs.field(factory=list)
    attempts: list[AttemptRow] = attrs.field(factory=list)
    outcomes: list[OutcomeRow] = attrs.field(factory=list)
    alive: int | None = None
    """When the session last said that it lives, if that is to be noted."""
    closed: int | None = None
    """When the session ended, if it did."""

    def __len__(self) -> int:
        return (
            len(self.holds)
            + len(self.releases)
            + len(self.intents)
            + len(self.attempts)
            + len(self.outcomes)
            + (self.alive is not None)
            + (self.closed is not None)
        )

    def before(self, later: Changes) -> Changes:
        """Return these changes followed by ``later`` ones."""
        return Changes(
            self.holds + later.holds,
            self.releases + later.releases,
            self.intents + later.intents,
            self.attempts + later.attempts,
            self.outcomes + later.outcomes,
            self.alive if later.alive is None else later.alive,
            self.closed if later.closed is None else later.closed,
        )


@attrs.frozen
class Tables:
    """Everything that a journal holds, in the order of the numbers."""

    url: str
    sessions: list[SessionRow]
    holds: list[HoldRow]
    releases: list[ReleaseRow]
    intents: list[IntentRow]
    attempts: list[AttemptRow]
    outcomes: list[OutcomeRow]


@attrs.frozen
class Begun:
    """Where a session goes on in a journal.

    Attributes:
        session: its number.
        number: the number of its first hold or intent.
        attempt: what its requests' numbers are added to.
    """

    session: int
    number: int
    attempt: int


def micros(seconds: float) -> int:
    """Return Unix seconds as a row holds them."""
    return int(seconds * 1_000_000)


def seconds(microseconds: int | None) -> float | None:
    """Return a row's time as Unix seconds."""
    return None if microseconds is None else microseconds / 1_000_000


def request_of(external: int, key: str) -> CancelRequest:
    """Return the request that a row names."""
    return CancelRequest(external_id=key) if external else CancelRequest(key)
