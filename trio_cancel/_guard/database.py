"""A guard's own look at a database: its beat, the journals, and what it has to ask before it cancels. All of it blocks.

One thread at a time uses each class. The pools of shared rates have a connection of their own, so that one that
somebody has locked delays no look.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, LiteralString

import attrs
import psycopg

from trio_cancel._engine.shared_rate import Answer, Ask
from trio_cancel._guard.view import Seen
from trio_cancel._journal.address import Server
from trio_cancel._journal.database import (
    CommitInDoubt,
    Reconnecting,
    check_version,
    explained,
    settings_of,
    warn_of,
)
from trio_cancel._journal.pace import begin, exchange
from trio_cancel._journal.postgres_rows import original, stored
from trio_cancel._journal.store import StoreFailed

WITHIN = 2.0
"""Seconds that a look may take."""
_BEAT: LiteralString = "UPDATE trio_cancel.guard SET beat = beat + 1, seen = clock_timestamp() WHERE id = %s"
_LOOK: LiteralString = """
SELECT j.id, j.name, j.account, j.epoch, j.beat, j.lease_ms, j.state, a.url, a.fingerprint, p.rate
FROM trio_cancel.journal AS j JOIN trio_cancel.account AS a ON a.id = j.account
LEFT JOIN trio_cancel.pace AS p ON p.account = j.account WHERE j.state <> 'free'
"""
_FORGET: LiteralString = "DELETE FROM trio_cancel.guard WHERE seen < clock_timestamp() - interval '1 day'"


@attrs.frozen
class Owner:
    """An account as the database knows it.

    Attributes:
        url: the venue's.
        fingerprint: of its credentials.
        rate: requests a second that its sessions share; None if they do not.
    """

    url: str
    fingerprint: bytes
    rate: float | None


class GuardDatabase:
    """A guard's row in a database, and what it reads there.

    Attributes:
        salt: what fingerprints are made with.
        number: the guard's own in this database; another one if somebody has deleted its row.
        connection: to the database.

    Raises:
        JournalError: on making it, if the database cannot be used.
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
            accounts: those whose venue this guard can reach; with the beat it says so.
            beat: whether to say that this guard lives.

        Raises:
            StoreFailed: the database cannot be asked.
        """
        try:
            connection = self.connection.get()
            if beat:
                with connection.transaction() as cursor:
                    if not cursor.execute(_BEAT, (self.number,)).rowcount:  # somebody has deleted it
                        self.number = self._register(cursor)
                    served = list(accounts)
                    cursor.execute(
                        "DELETE FROM trio_cancel.guard_account WHERE guard = %s AND account <> ALL(%s::bigint[])",
                        (self.number, served),
                    )
                    cursor.execute(
                        "INSERT INTO trio_cancel.guard_account (guard, account) "
                        "SELECT %s, unnest(%s::bigint[]) ON CONFLICT DO NOTHING",
                        (self.number, served),
                    )
            with connection.transaction(write=False) as cursor:
                rows = cursor.execute(_LOOK).fetchall()
        except (psycopg.Error, CommitInDoubt, OSError) as error:
            raise self.connection.failed(error) from error
        seen = [Seen(row[0], row[1], row[2], row[3], row[4], row[5] / 1000, row[6]) for row in rows]
        return seen, {row[2]: Owner(row[7], row[8], row[9]) for row in rows}

    def names_of_others(self, account: int, journal: int, names: list[str]) -> set[str]:
        """Return those external ids of an account that another journal has now.

        Raises:
            StoreFailed: the database cannot be asked.
        """
        query = "SELECT key FROM trio_cancel.name WHERE account = %s AND journal <> %s AND key = ANY(%s)"
        try:
            with self.connection.get().transaction(write=False) as cursor:
                keys = [stored(name) for name in names]
                return {original(key) for (key,) in cursor.execute(query, (account, journal, keys))}
        except (psycopg.Error, CommitInDoubt, OSError) as error:
            raise self.connection.failed(error) from error

    def ended_sessions(self, journal: int) -> set[int]:
        """Return the sessions of a journal that surely place nothing more: they have ended, and said so.

        Raises:
            StoreFailed: the database cannot be asked.
        """
        query = (
            "SELECT number FROM trio_cancel.session "
            "WHERE journal = %s AND (acknowledged IS NOT NULL OR closed IS NOT NULL)"
        )
        try:
            with self.connection.get().transaction(write=False) as cursor:
                return {number for (number,) in cursor.execute(query, (journal,))}
        except (psycopg.Error, CommitInDoubt, OSError) as error:
            raise self.connection.failed(error) from error

    def close(self) -> None:
        """Let go of the database, and say that this guard has ended."""
        with (
            suppress(psycopg.Error, CommitInDoubt, StoreFailed, OSError),
            self.connection.get().transaction() as cursor,
        ):
            cursor.execute("DELETE FROM trio_cancel.guard WHERE id = %s", (self.number,))
            cursor.execute("DELETE FROM trio_cancel.pace_member WHERE name = %s", (self.member,))
        self.connection.drop()


class GuardPools:
    """The pools of the rates that sessions share, as a guard asks them.

    Args:
        server: the database.
        guard: whose part it is that is asked for.
    """

    def __init__(self, server: Server, guard: GuardDatabase) -> None:
        self._guard = guard
        self._connection = Reconnecting(server, WITHIN)

    def ask(self, account: int, ask: Ask) -> Answer | None:
        """Ask the pool of an account; return None if its sessions do not share a rate any more.

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
        """Let go of the database, also under whoever asks just then; never waits."""
        self._connection.close()
