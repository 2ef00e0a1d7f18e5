"""What a journal asks of whatever it is kept in, and what all kinds of it have in common.

A kind of store is one module: an SQLite file (``_journal.sqlite``), a PostgreSQL database (``_journal.postgres``).
Which of them an address means is decided in ``_journal.stores``, and nowhere else.
"""

from __future__ import annotations

import hmac
from typing import Protocol, Self

import attrs

from trio_cancel._journal.rows import Begun, Changes
from trio_cancel._net.endpoint import Endpoint
from trio_cancel._values.models import Credentials

HISTORY = 30
"""Days after which what is settled is forgotten when the journal is opened."""
AT_OPENING = 50_000
"""Records that are looked at then, the oldest first: so many more would have to be settled between two openings for the
journal to grow."""
DAY = 86_400_000_000
"""Microseconds."""


FORKED = "this process was forked from the one that opened it"
"""Why nothing is written in a forked child."""


@attrs.frozen
class Account:
    """Whose journal it is: one account at one venue.

    Attributes:
        url: the venue's url without its query, which may hold secrets.
        credentials: the account's.
    """

    url: str
    credentials: Credentials

    @classmethod
    def of(cls, endpoint: Endpoint, credentials: Credentials) -> Self:
        """Return the account that a session uses."""
        path = endpoint.resource.partition("?")[0]
        return cls(endpoint.origin + ("" if path == "/" else path), credentials)

    def fingerprint(self, salt: bytes) -> bytes:
        """Return what tells this account from another, and tells nothing to whoever lacks its secret."""
        message = b"trio_cancel journal\0" + salt + self.credentials.api_token.encode()
        return hmac.digest(self.credentials.api_secret.encode(), message, "sha256")[:16]


class StoreFailed(Exception):
    """A store could not do it, now. Its text is the reason; what the store is made of raised ``__cause__``."""


class JournalStore(Protocol):
    """Where a journal's changes go; what is not async may block. It is called by one thread or task at a time."""

    @property
    def begun(self) -> Begun:
        """Where this session goes on."""

    def commit(self, changes: Changes) -> int | None:
        """Make all of the changes durable, or none of them.

        Returns:
            What the beats of the guards add up to that watch the journal; None if there is none.

        Raises:
            StoreFailed: it is not certain that they are; they may be committed again.
            TakenOver: the journal is another session's by now, for good; nothing was recorded.
        """

    async def commit_in_loop(self, changes: Changes, /) -> int | None:
        """As :meth:`commit`, without a thread: for few changes, whose commit does not make the event loop wait.

        Raises:
            trio.WouldBlock: a thread has to do it; nothing was begun.
            StoreFailed, TakenOver: as :meth:`commit`.

        Cancelled: it is not certain that the changes are durable.
        """

    def close(self) -> None:
        """Let go of it, or raise StoreFailed."""
