"""The state of the journals in a database, and who watches them: one look, which changes nothing. It blocks.

How long a session or a guard has been silent is measured by the database's own clock, which also timed its last sign of
life. After a fail-over to a server with another clock it may be wrong until the next sign. No take-over depends on it.
"""

from __future__ import annotations

from typing import Any, Literal, LiteralString

import attrs
import psycopg

from trio_cancel._journal.address import Server
from trio_cancel._journal.database import check_version, explained
from trio_cancel._journal.lease import GUARD_SILENT
from trio_cancel._journal.postgres import GUARD, connected
from trio_cancel._journal.postgres_rows import names_left

_JOURNALS: LiteralString = """
SELECT j.id, j.name, a.url, j.state, j.lease_ms,
       extract(epoch FROM clock_timestamp() - j.seen)::float8, coalesce(s.prefix, ''),
       EXISTS (SELECT FROM trio_cancel.guard_account AS w JOIN trio_cancel.guard AS g ON g.id = w.guard
               WHERE w.account = j.account AND g.seen > clock_timestamp() - %s * interval '1 s')
FROM trio_cancel.journal AS j JOIN trio_cancel.account AS a ON a.id = j.account
LEFT JOIN trio_cancel.session AS s ON s.journal = j.id AND s.number = j.epoch
ORDER BY j.name
"""
_GUARDS: LiteralString = """
SELECT g.id, g.name, extract(epoch FROM clock_timestamp() - g.seen)::float8, count(w.account)
FROM trio_cancel.guard AS g LEFT JOIN trio_cancel.guard_account AS w ON w.guard = g.id GROUP BY g.id ORDER BY g.id
"""

Standing = Literal["live", "expired", "taken", "left", "free"]


@attrs.frozen
class JournalStatus:
    """A journal.

    Attributes:
        name: its name.
        url: the venue of its account.
        state: ``live``: its session gives signs of life; ``expired``: there was none for a whole lease; ``taken``: a
            guard is dealing with it; ``left``: it was released with something left; ``free``: nothing is left.
        lease: seconds.
        silent: seconds since its last sign of life.
        orders: how many orders are held, or not settled.
        watched: whether a living guard has its account's credentials and can reach its venue.
        guard: the number of the guard that deals with it; None if none does.
    """

    name: str
    url: str
    state: Standing
    lease: float
    silent: float
    orders: int
    watched: bool
    guard: int | None


@attrs.frozen
class GuardStatus:
    """A guard that has not ended.

    Attributes:
        number: identifies it in this database.
        name: its machine and process.
        lives: whether it gave a sign of life within the last 5 s.
        silent: seconds since its last sign of life.
        accounts: for how many accounts it has credentials and can reach the venue.
    """

    number: int
    name: str
    lives: bool
    silent: float
    accounts: int


@attrs.frozen
class Overview:
    """What a database holds.

    Attributes:
        journals: by name.
        guards: in the order in which they started.
    """

    journals: tuple[JournalStatus, ...]
    guards: tuple[GuardStatus, ...]


def read_overview(server: Server) -> Overview:
    """Look at a database once; a read-only server will do.

    Raises:
        JournalError: it cannot be used.
    """
    with (
        explained(server),
        connected(server, write=False) as connection,
        connection.transaction(write=False) as cursor,
    ):
        check_version(cursor, server)
        guards = tuple(_guard(row) for row in cursor.execute(_GUARDS).fetchall())
        journals = tuple(_journal(cursor, row) for row in cursor.execute(_JOURNALS, (GUARD_SILENT,)).fetchall())
    return Overview(journals, guards)


def _guard(row: tuple[Any, ...]) -> GuardStatus:
    number, name, silent, accounts = row
    return GuardStatus(number, name, silent < GUARD_SILENT, max(0.0, silent), accounts)


def _journal(cursor: psycopg.Cursor[Any], row: tuple[Any, ...]) -> JournalStatus:
    journal, name, url, state, lease_ms, silent, prefix, watched = row
    lease = lease_ms / 1000
    standing: Standing = state
    guard = None
    if state == "live" and silent >= lease:
        standing = "expired"
    elif state == "live" and prefix.startswith(GUARD):
        standing = "taken"
        number = prefix.removeprefix(GUARD).partition("-")[0]
        guard = int(number) if number.isdecimal() else None
    orders = 0 if state == "free" else len(names_left(cursor, journal))
    return JournalStatus(name, url, standing, lease, max(0.0, silent), orders, watched, guard)
