"""What a guard asks of a database: its beat, the journals, and what it must know before it cancels. All of it blocks.

One thread at a time uses each class. The pools of shared rates have their own connection, so that a pool that somebody
has locked does not delay the looks.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import attrs
import psycopg

from trio_cancel._engine.shared_rate import Ask, Grant
from trio_cancel._guard.view import Seen
from trio_cancel._journal.address import Server
from trio_cancel._journal.database import (
    BEFORE,
    CommitInDoubt,
    DatabaseConnection,
    Reconnecting,
    Settings,
    check_version,
    connect,
    explained,
    settings_of,
    warn_of,
    why_not,
)
from trio_cancel._journal.lease import LEAST, steady
from trio_cancel._journal.pace import begin, exchange
from trio_cancel._journal.postgres import OPENING
from trio_cancel._journal.postgres_rows import original, stored
from trio_cancel._journal.store import StoreFailed

WITHIN = 2.0
"""Seconds that a look may take, at most."""
FRESH = LEAST
"""Seconds for which the answer which server is in charge is valid; shorter than any lease."""
_JOURNALS: LiteralString = """
SELECT j.id, j.name, j.account, j.epoch, j.beat, j.lease_ms, j.state, a.url, a.fingerprint, p.rate
FROM trio_cancel.journal AS j JOIN trio_cancel.account AS a ON a.id = j.account
LEFT JOIN trio_cancel.pace AS p ON p.account = j.account WHERE j.state <> 'free'
"""
_LOOK: LiteralString = f"WITH seen AS ({_JOURNALS}) SELECT 1, seen.* FROM seen"  # noqa: S608 - our own names
_BEAT: LiteralString = f"""
WITH before AS MATERIALIZED (SELECT {BEFORE}), me AS (
    UPDATE trio_cancel.guard SET beat = beat + 1, seen = clock_timestamp() FROM before WHERE id = %(guard)s RETURNING id
), gone AS (
    DELETE FROM trio_cancel.guard_account USING me WHERE guard = me.id AND account <> ALL(%(served)s::bigint[])
), seen AS ({_JOURNALS}), serves AS (
    INSERT INTO trio_cancel.guard_account (guard, account) SELECT me.id, unnest(%(served)s::bigint[]) FROM me
    ON CONFLICT DO NOTHING
)
SELECT me.count, seen.* FROM (SELECT count(*) FROM me) AS me LEFT JOIN seen ON true
"""  # noqa: S608 - our own names
"""A beat and a look in one round trip. The first column is 0 if somebody has deleted the guard's row. If no journal is
in use, there is one row whose other columns are NULL."""
_THEIRS: LiteralString = """
SELECT key FROM trio_cancel.name WHERE account = %(account)s AND journal <> %(journal)s AND key = ANY(%(keys)s)
"""
_ENDED: LiteralString = """
SELECT number FROM trio_cancel.session
WHERE journal = %(journal)s AND (acknowledged IS NOT NULL OR closed IS NOT NULL)
"""
_FORGET: LiteralString = "DELETE FROM trio_cancel.guard WHERE seen < clock_timestamp() - interval '1 day'"


@attrs.frozen
class Owner:
    """An account as the database knows it.

    Attributes:
        url: the venue's.
        fingerprint: of its credentials.
        rate: requests per second that its sessions share; None if they share none.
    """

    url: str
    fingerprint: bytes
    rate: float | None


class GuardDatabase:
    """A guard's row in a database, and what it reads there.

    Attributes:
        salt: what fingerprints are made with.
        number: identifies the guard in this database; it gets another one if somebody deletes its row.
        connection: to the database.

    Raises:
        JournalError: by the constructor, if the database cannot be used.
    """

    def __init__(self, server: Server, name: str) -> None:
        self._name = name
        self.connection: Reconnecting = Reconnecting(server, WITHIN)
        self.number: int
        with explained(server):
            connection = self.connection.get()
            warn_of(settings_of(connection), server)
            with connection.transaction() as cursor:
                check_version(cursor, server)
                cursor.execute(_FORGET)
                row = cursor.execute("SELECT salt FROM trio_cancel.format").fetchone()
                assert row is not None
                self.salt: bytes = row[0]
                self.number = self._register(cursor)

    @property
    def member(self) -> str:
        """The guard's name where sessions share a rate."""
        return f"guard-{self.number}"

    def _register(self, cursor: psycopg.Cursor[Any]) -> int:
        made = cursor.execute("INSERT INTO trio_cancel.guard (name) VALUES (%s) RETURNING id", (self._name,)).fetchone()
        assert made is not None
        return int(made[0])

    def look(self, accounts: Iterable[int], *, beat: bool) -> tuple[list[Seen], dict[int, Owner]]:
        """Return the journals that are not free, and their accounts.

        Args:
            accounts: those whose venue this guard can reach, as the beat says.
            beat: whether to give a sign of life.

        Raises:
            StoreFailed: the database cannot be asked.
        """
        values = {"guard": self.number, "served": list(accounts)}
        with self._asking() as connection:
            if not beat:
                rows = connection.all(_LOOK)
            else:
                rows = connection.all(_BEAT, values | {"lock": connection.lock})
                if not rows[0][0]:
                    with connection.transaction() as cursor:
                        self.number = self._register(cursor)
        found = [row[1:] for row in rows if row[1] is not None]
        seen = [Seen(row[0], row[1], row[2], row[3], row[4], row[5] / 1000, row[6]) for row in found]
        return seen, {row[2]: Owner(row[7], row[8], row[9]) for row in found}

    def names_of_others(self, account: int, journal: int, names: list[str]) -> set[str]:
        """Return those external ids of an account that another journal has now."""
        values = {"account": account, "journal": journal, "keys": [stored(name) for name in names]}
        with self._asking() as connection:
            return {original(key) for (key,) in connection.all(_THEIRS, values)}

    def ended_sessions(self, journal: int) -> set[int]:
        """Return the sessions of a journal that certainly place nothing more: they have ended, and said so."""
        with self._asking() as connection:
            return {number for (number,) in connection.all(_ENDED, {"journal": journal})}

    @contextmanager
    def _asking(self) -> Generator[DatabaseConnection]:
        try:
            yield self.connection.get()
        except (psycopg.Error, CommitInDoubt, OSError) as error:
            raise self.connection.failed(error) from error

    def close(self) -> None:
        """Record that this guard has ended, and close the connection."""
        with (
            suppress(psycopg.Error, CommitInDoubt, StoreFailed, OSError),
            self.connection.get().transaction() as cursor,
        ):
            cursor.execute("DELETE FROM trio_cancel.guard WHERE id = %s", (self.number,))
            cursor.execute("DELETE FROM trio_cancel.pace_member WHERE name = %s", (self.member,))
        self.connection.drop()


class SpareConnections:
    """Connections for take-overs, which can be used again for a moment.

    All journals of a dead machine are due at about the same time, and connecting takes longer than a take-over. But
    only a new connection asks all servers which of them is in charge, and a session that has gone on at another server
    is silent at this one. So no connection is used for longer than ``FRESH``.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._change = threading.Lock()
        self._idle: list[tuple[float, DatabaseConnection]] = []  # and when each was asked for
        self._closed = False

    @contextmanager
    def using(self, known: Settings | None) -> Generator[DatabaseConnection]:
        """Yield a connection for the block; after an error it is not used again.

        Args:
            known: the server where the journal was seen; one of an older timeline is not used.

        Raises:
            psycopg.Error, StoreFailed: it cannot be made.
        """
        self.tidy()
        asked_at, connection = self._spare(known)
        if connection is None:
            asked_at, connection = steady(), connect(self._server, OPENING, known=known)
        keep = False
        try:
            yield connection
            keep = True
        finally:
            with self._change:
                keep = keep and not self._closed
                if keep:
                    self._idle.append((asked_at, connection))
            if not keep:
                connection.close()

    def _spare(self, known: Settings | None) -> tuple[float, DatabaseConnection | None]:
        while True:
            with self._change:
                asked_at, connection = self._idle.pop() if self._idle else (0.0, None)
            if connection is None or why_not(settings_of(connection), known) is None:
                return asked_at, connection
            connection.close()

    def tidy(self) -> None:
        """Close those that are too old; never waits."""
        oldest = steady() - FRESH
        with self._change:
            old = [one for one in self._idle if one[0] < oldest]
            self._idle = [one for one in self._idle if one[0] >= oldest]
        for _, connection in old:
            connection.close()

    def close(self) -> None:
        """Close all of them, and those in use as soon as they are not. Never waits."""
        with self._change:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()


class GuardPools:
    """The pools of shared rates, which grant a guard its part."""

    def __init__(self, server: Server, guard: GuardDatabase) -> None:
        self._guard = guard
        self._connection = Reconnecting(server, WITHIN)

    def ask(self, account: int, ask: Ask) -> Grant | None:
        """Ask the pool of an account; return None if its sessions no longer share a rate.

        Raises:
            StoreFailed: it does not answer.
        """
        name = self._guard.member
        try:
            with self._connection.get().transaction(write=False) as cursor:
                begin(cursor)
                return exchange(cursor, account, name, name, ask, guard=True)
        except (psycopg.Error, CommitInDoubt, OSError) as error:
            raise self._connection.failed(error) from error

    def close(self) -> None:
        """Close the connection, even while it is in use; never waits."""
        self._connection.close()
