"""The interface between a journal and its store, and what all kinds of stores share.

Each kind of store is one module: an SQLite file (``_journal.sqlite``), a PostgreSQL database (``_journal.postgres``).
``_journal.stores`` decides which of them an address means.
"""

from __future__ import annotations

import hmac
from typing import Protocol, Self

import attrs

from trio_cancel._journal.rows import Begun, Changes
from trio_cancel._net.endpoint import Endpoint
from trio_cancel._values.models import Credentials

HISTORY = 30
"""Days after which settled records are deleted when the journal is opened."""
AT_OPENING = 50_000
"""Records that are looked at then, the oldest first. The journal grows only if more than that are settled between two
openings."""
DAY = 86_400_000_000
"""Microseconds."""


FORKED = "this process was forked from the one that opened it"
"""Why nothing is written in a forked child."""


@attrs.frozen
class Account:
    """The owner of a journal: one account at one venue.

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
        """Return what identifies the account, and says nothing to anybody without its secret."""
        message = b"trio_cancel journal\0" + salt + self.credentials.api_token.encode()
        return hmac.digest(self.credentials.api_secret.encode(), message, "sha256")[:16]


class StoreFailed(Exception):
    """A store failed for now. The text is the reason; ``__cause__`` is the error of its file or database."""


class JournalStore(Protocol):
    """Where a journal's changes are kept. What is not async may block. One thread or task at a time calls it."""

    @property
    def begun(self) -> Begun:
        """Where this session continues."""

    def commit(self, changes: Changes) -> int | None:
        """Make all of the changes durable, or none of them.

        Returns:
            The sum of the beats of the guards that watch the journal; None if there is none.

        Raises:
            StoreFailed: that is not certain; they may be committed again.
            TakenOver: the journal was taken over, for good; nothing was recorded.
        """

    async def commit_in_loop(self, changes: Changes, /) -> int | None:
        """As :meth:`commit`, in the event loop, which goes on meanwhile. For few changes.

        Raises:
            trio.WouldBlock: a thread has to do it; nothing was done.
            StoreFailed, TakenOver: as :meth:`commit`.

        Cancelled: it is not certain that the changes are durable.
        """

    def close(self) -> None:
        """Close it, or raise StoreFailed."""
