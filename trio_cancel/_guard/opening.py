"""``open_guard``: everything that needs a database's driver is imported only when a guard is opened."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from trio_cancel._journal.address import server_of
from trio_cancel._session.lookups import OpensLookup
from trio_cancel._trio.running import check_trio
from trio_cancel._values.errors import ConfigurationError, JournalError
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import Observer
from trio_cancel._values.report import CancelReport

if TYPE_CHECKING:
    from trio_cancel._guard.guard import GuardTasks

OFTEN = 0.05
"""Seconds between two looks at whether everything has been dealt with."""


class Guard:
    """A guard at work. Made by :func:`open_guard`."""

    def __init__(self, tasks: GuardTasks) -> None:
        self._tasks = tasks

    def __repr__(self) -> str:
        return "<Guard>"

    @property
    def unserved(self) -> tuple[str, ...]:
        """The names of journals that are in use and that this guard cannot cancel for.

        No credentials were given for their account, or its venue cannot be reached now. Each was logged at ERROR.
        """
        return tuple(dict.fromkeys((*self._tasks.unserved, *self._tasks.without_venue())))

    async def wait_until_seen_to(self) -> None:
        """Return once each journal that can be served was found alive, or was taken over and dealt with once.

        This takes about as long as the longest lease.

        Raises:
            JournalError: the database has not answered for 10 s.

        If it is cancelled or raises, the guard goes on.
        """
        await trio.lowlevel.checkpoint()
        while not self._tasks.has_seen_all():  # polled, because many events can lead to it
            self._tasks.check_sight()
            await trio.sleep(OFTEN)


def open_guard(
    address: str,
    credentials: Iterable[Credentials],
    *,
    ssl_context: ssl.SSLContext | None = None,
    lookup: OpensLookup | None = None,
    observer: Observer | None = None,
    on_taken: Callable[[str, CancelReport], object] | None = None,
) -> AbstractAsyncContextManager[Guard]:
    """Watch the journals in a database, and cancel what dead sessions held; an async context manager.

    A session whose journal is in the database gives a sign of life three times per lease. If there was none for a whole
    lease, by this machine's clock, the guard takes the journal over and cancels every order that the session held, as
    ``ws.resume()`` would. Time during which the guard cannot see the database does not count. Several guards may watch
    a database: one of them takes over each journal, and if that guard dies, another goes on.

    A process that was stopped may still place an order that it holds. So an order that the venue does not know is tried
    again after 1 s, then after pauses that double up to 300 s, until its session has said that it ended, or for an
    hour. An external id that another journal of the account has taken meanwhile is left alone, and its order is
    reported as not sent.

    If the sessions of an account share a rate (``Pacer(…, shared=True)``), the guard shares it too, and its cancels go
    first.

    Args:
        address: ``postgresql://…/database``, without a journal's name.
        credentials: of the accounts to cancel for. Journals of other accounts are logged at ERROR.
        ssl_context: for the venue; the system's trusted certificates if None.
        lookup: a ``trio_cancel.lookup.RestLookup``: looks up what would be unknown or not found, with the credentials
            of each account. The accounts' tokens go to its ``base_url``, so all of them must be that venue's.
        observer: see :class:`Observer`.
        on_taken: called after each take-over, and each time that a journal was tried again, with the journal's name
            and an outcome for each order that was left. It must be quick and must not block.

    Returns:
        An async context manager that yields a :class:`Guard`. An exception raised in its block propagates unchanged.

    Raises:
        ConfigurationError: at once, if the address is not that of a database, there are no credentials, or the lookup
            has credentials of its own.
        JournalError: on entering, if the database cannot be used.

    When the block is left or cancelled, no further order is written, outcomes so far are recorded, and journals that
    are being dealt with are released, so that another guard may take them over at once. Leaving takes a few seconds at
    most.
    """
    server = server_of(address) if isinstance(address, str) else None
    if server is None or server.name:
        raise ConfigurationError("A guard watches a whole database: postgresql://host/database, without journal=.")
    accounts = tuple(credentials)
    if not accounts or not all(isinstance(one, Credentials) for one in accounts):
        raise ConfigurationError("A guard needs the credentials of at least one account: Credentials(token, secret).")
    if lookup is not None and (not hasattr(lookup, "opened") or getattr(lookup, "credentials", None) is not None):
        raise ConfigurationError(
            "A guard looks up with the credentials of each account: pass a RestLookup without credentials of its own."
        )

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Guard]:
        check_trio("open_guard()")
        try:
            from trio_cancel._guard.guard import guarding
        except ImportError as error:
            raise JournalError(
                "A guard needs psycopg, which is not installed: pip install 'trio-cancel[postgres]'."
            ) from error
        async with guarding(server, accounts, ssl_context, lookup, observer, on_taken) as tasks:
            yield Guard(tasks)

    return opened()
