"""A journal in a PostgreSQL database: its records survive the machine, and others can take it over.

A session owns one epoch of its journal. Each of its transactions raises the journal's beat, on the condition that the
epoch is still the latest. Whoever takes the journal over raises the epoch, so that nothing more of the old session is
recorded: it is taken over for good. A journal is taken over only if neither epoch nor beat has changed for a lease, on
the taker's own clock. The database's clock decides nothing.

All sessions of a process that use one database share one connection, and what they commit at the same time is one
statement (:class:`_Shared`): one row of ``journal`` each, ``unnest`` for the rows of all of them, and only tables that
have any. A commit whose result is not known is sent again with the same numbers; if it had worked, nothing changes.
"""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, LiteralString

import attrs
import psycopg
import trio

from trio_cancel._journal.address import Server
from trio_cancel._journal.database import (
    BEFORE,
    CommitInDoubt,
    DatabaseConnection,
    Settings,
    check_version,
    connect,
    explained,
    reason,
    settings_of,
    warn_of,
)
from trio_cancel._journal.lease import commit_within, steady
from trio_cancel._journal.postgres_rows import COLUMNS, NAMES, forget, left_of, stored, tables_of
from trio_cancel._journal.rows import Begun, Changes, Tables
from trio_cancel._journal.schema import make
from trio_cancel._journal.store import AT_OPENING, DAY, FORKED, HISTORY, Account, StoreFailed
from trio_cancel._values.errors import JournalError
from trio_cancel._values.observer import logger
from trio_cancel._values.report import TakenOver

OPENING = 20.0
"""Seconds that one transaction may take while a journal is opened or read, which may be large."""
LOOK = 0.1
"""Seconds between two looks at a journal that another session may be writing."""
BLIND = 1.0
"""Seconds between two looks after which the earlier one no longer counts."""
GUARD = "guard-"
"""How the prefix of a guard's session begins."""
TOGETHER = 200
"""Sessions at most whose changes are committed together."""
ROWS_TOGETHER = 20_000
"""Rows from which on no further session joins a commit."""


@attrs.frozen
class _Table:
    """How a table is written.

    Attributes:
        name: of the table; with an "s" its attribute in :class:`Changes`.
        columns: names and types, in the order of its rows; None stands for the session's number.
        again: what to do if the row exists.
        key: the place of the column that identifies the row, if it may be changed.
    """

    name: LiteralString
    columns: tuple[tuple[LiteralString, LiteralString] | None, ...]
    again: LiteralString = "DO NOTHING"
    key: int | None = None


_TYPES: dict[LiteralString, LiteralString] = {
    "external": "smallint",
    "status": "integer",
    **dict.fromkeys(("key", "kind", "id"), "text"),
}
"""The columns that are not a bigint."""
_AGAIN: dict[LiteralString, LiteralString] = {
    # The venue's id of a hold may be recorded twice, and an attempt is written again once it is answered.
    "placed": "(journal, hold) DO UPDATE SET told = excluded.told, id = excluded.id",
    "attempt": "(journal, number) DO UPDATE SET answered = excluded.answered, status = excluded.status",
}


def _table(name: LiteralString) -> _Table:
    columns = tuple(
        None if column == "session" else (column, _TYPES.get(column, "bigint")) for column in COLUMNS[name].split(", ")
    )
    return _Table(name, columns, _AGAIN.get(name, "DO NOTHING"), 0 if name in _AGAIN else None)


_TABLES = {
    "intents": _table("intent"),
    "holds": _table("hold"),
    "placed": _table("placed"),
    "releases": _table("release"),
    "attempts": _table("attempt"),
    "outcomes": _table("outcome"),
    "answers": _table("answer"),
}
_EXTERNAL = 2
"""The place in a hold's row that says whether its key is an external id."""


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@attrs.define(eq=False)
class _Entry:
    """What one session commits.

    Attributes:
        journal: its number in the database.
        epoch: the session's.
        changes: the rows.
        done: whether its result is known.
        error: why it is not recorded, or may not be.
        guards: the sum of the beats of the guards that have its account's credentials.
        told: released when it is done, or when its thread is to commit for all that wait.
    """

    journal: int
    epoch: int
    changes: Changes
    done: bool = False
    error: Exception | None = None
    guards: int | None = None
    told: threading.Lock = attrs.field(factory=_taken_lock)


class _Shared:
    """The connection that the sessions of a process share for one database; it is made again when it is lost."""

    def __init__(self, server: Server) -> None:
        self.users = 0
        self.known: Settings | None = None
        self._server = server
        self._turn = threading.Lock()  # its holder uses the connection
        self._guard = threading.Lock()
        self._waiting: deque[_Entry] = deque()
        self._led = False  # a thread commits for all that wait, or a task for itself
        self._loop: trio.lowlevel.TrioToken | None = None  # of the sessions
        self._several_loops = False  # there are several
        self._connection: DatabaseConnection | None = None

    def commit(self, entry: _Entry, seconds: float) -> None:
        """Commit, together with what other threads want to commit now.

        Raises:
            StoreFailed: it is not certain that it is durable.
            TakenOver: the epoch is over.
        """
        with self._guard:
            self._waiting.append(entry)
            leads, self._led = not self._led, True
        if not leads:
            # A lock of its own: if hundreds waited for one lock, they would get it one after the other.
            entry.told.acquire()
        if not entry.done:
            try:
                with self._turn:
                    while not entry.done:
                        self._commit_some(seconds)
            finally:
                self._hand_on()
        if entry.error is not None:
            raise entry.error

    async def commit_in_loop(self, entry: _Entry) -> None:
        """Commit in the event loop, if nobody else uses the connection.

        Raises:
            trio.WouldBlock: it has to be done by :meth:`commit`, in a thread.
            StoreFailed: it is not certain that it is durable.
            TakenOver: the epoch is over.

        Cancelled: that is not certain, either.
        """
        loop = trio.lowlevel.current_trio_token()
        self._loop = self._loop or loop
        # A loop that stands still must not hold up the sessions of another one.
        self._several_loops = self._several_loops or self._loop is not loop
        with self._guard:
            connection = self._connection
            if self._several_loops or self._led or connection is None or not self._turn.acquire(blocking=False):
                raise trio.WouldBlock
            self._led = True
        some = [entry]
        try:
            with self._telling(some):
                self._committed(some, await connection.all_in_loop(*statement_of(some, connection.lock)))
        finally:
            self._turn.release()
            self._hand_on()
        if entry.error is not None:
            raise entry.error

    def _hand_on(self) -> None:
        """Let the thread that has waited longest commit for all that wait, if there is one."""
        with self._guard:
            first = self._waiting[0] if self._waiting else None
            self._led = first is not None
        if first is not None:
            first.told.release()

    def _commit_some(self, seconds: float) -> None:
        some: list[_Entry] = []
        rows = 0
        with self._guard:
            while self._waiting and len(some) < TOGETHER and rows < ROWS_TOGETHER:
                some.append(self._waiting.popleft())
                rows += len(some[-1].changes)
        with self._telling(some):
            try:
                self._commit(some, seconds)
            except psycopg.DataError:
                if len(some) == 1:
                    raise
                # The database refuses a value of one of them: that must not fail the others.
                for entry in some:
                    with self._telling([entry]):
                        self._commit([entry], seconds)

    @contextmanager
    def _telling(self, some: Sequence[_Entry]) -> Generator[None]:
        """Tell the sessions the result of what the block commits."""
        try:
            yield
        except (psycopg.Error, CommitInDoubt, StoreFailed, OSError) as error:
            self._failed(some, error)
        except BaseException as error:  # nobody must take it for recorded
            self._failed(some, error)
            self.drop()  # an answer may be under way
            raise
        finally:
            for entry in some:
                if not entry.done:
                    entry.done = True
                    entry.told.release()

    def _failed(self, some: Iterable[_Entry], error: BaseException) -> None:
        why = reason(error, self._server)
        for entry in some:
            entry.error = StoreFailed(why)
            entry.error.__cause__ = error
        if self._connection is not None and (
            self._connection.raw.closed or isinstance(error, psycopg.OperationalError)
        ):
            self.drop()

    def _commit(self, some: Sequence[_Entry], seconds: float) -> None:
        if self._connection is None:
            self._connection = connect(self._server, seconds, known=self.known)
            self.known = settings_of(self._connection)
        self._committed(some, self._connection.all(*statement_of(some, self._connection.lock)))

    def _committed(self, some: Sequence[_Entry], rows: Iterable[tuple[Any, ...]]) -> None:
        mine = dict(rows)
        for entry in some:
            entry.guards = mine.get(entry.journal)
            if entry.journal not in mine:
                entry.error = taken_over(self._server)

    @contextmanager
    def using(self, seconds: float) -> Generator[DatabaseConnection]:
        """Have the connection for something else, for as long as the block lasts."""
        with self._turn:
            if self._connection is None:
                self._connection = connect(self._server, seconds, known=self.known)
            try:
                yield self._connection
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self.drop()
                raise

    def drop(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def statement_of(some: Sequence[_Entry], lock: str) -> tuple[LiteralString, dict[str, Any]]:
    """Return the statement that commits the changes of several sessions, and its values.

    The statement returns a row for each journal that is still theirs: its number, and the sum of its guards' beats.
    """
    several = len(some) > 1
    values: dict[str, Any] = {
        "lock": lock,
        "journal": _value([entry.journal for entry in some], "bigint", several),
        "epoch": _value([entry.epoch for entry in some], "bigint", several),
    }
    signs = any(entry.changes.alive is not None or entry.changes.closed is not None for entry in some)
    if signs:
        values["alive"] = _value([entry.changes.alive for entry in some], "bigint", several)
        values["closed"] = _value([entry.changes.closed for entry in some], "bigint", several)
    used: list[tuple[str, bool]] = []
    names = False
    for attribute, table in _TABLES.items():
        rows: list[tuple[Any, ...]] = []
        of: list[int] = []
        for entry in some:
            its = getattr(entry.changes, attribute)
            # One statement can change a row once: the last change counts.
            rows += its if table.key is None else {row[table.key]: row for row in its}.values()
            of += [entry.journal] * (len(rows) - len(of))
        if not rows:
            continue
        columns = list(zip(*rows, strict=True))
        many = several or len(of) > 1
        used.append((attribute, many))
        if several:
            values[f"{attribute}_journal"] = _value(of, "bigint", many)
        for place, column in enumerate(table.columns):
            if column is not None:
                values[f"{attribute}_{place}"] = _value(columns[place], column[1], many)
        if attribute == "holds":
            names = 1 in columns[_EXTERNAL]
    return _statement(tuple(used), several, signs, names), values


@cache
def _statement(used: tuple[tuple[str, bool], ...], several: bool, signs: bool, names: bool) -> LiteralString:
    # The settings come first: the rows to lock are found by a join with them.
    parts: list[LiteralString] = [
        f"""WITH before AS MATERIALIZED (SELECT {BEFORE}), fence AS (
            UPDATE trio_cancel.journal AS j
            SET beat = j.beat + 1, seen = clock_timestamp(), state = 'live'
            FROM before, {_given("entry", several, journal="bigint", epoch="bigint")}
            WHERE j.id = entry.journal AND j.epoch = entry.epoch
            RETURNING j.id, j.epoch, j.account
        )"""
    ]
    if signs:
        parts.append(f""", signs AS (
            UPDATE trio_cancel.session AS s
            SET alive = coalesce(entry.alive, s.alive), closed = coalesce(entry.closed, s.closed)
            FROM fence JOIN {_given("entry", several, journal="bigint", alive="bigint", closed="bigint")}
                ON entry.journal = fence.id
            WHERE s.journal = fence.id AND s.number = fence.epoch
        )""")
    for attribute, many in used:
        table = _TABLES[attribute]
        columns = {f"{attribute}_{place}": column for place, column in enumerate(table.columns) if column is not None}
        given: dict[str, LiteralString] = {name: column[1] for name, column in columns.items()}
        whose: LiteralString = "true"
        if several:
            given[f"{attribute}_journal"] = "bigint"
            whose = f"x.{attribute}_journal = fence.id"
        session = None in table.columns
        returning = " RETURNING journal, number, external, key" if attribute == "holds" else ""
        parts.append(f""", {attribute} AS (
            INSERT INTO trio_cancel.{table.name}
                (journal, {", ".join(column[0] for column in columns.values())}{", session" if session else ""})
            SELECT fence.id, {", ".join(f"x.{name}" for name in columns)}{", fence.epoch" if session else ""}
            FROM fence JOIN {_given("x", many, **given)} ON {whose}
            ON CONFLICT {table.again}{returning}
        )""")
    if names:
        # The journal that an external id belongs to now, for guards. Sorted, so that two statements cannot deadlock.
        parts.append(""", names AS (
            INSERT INTO trio_cancel.name (account, key, journal, hold)
            SELECT DISTINCT ON (fence.account, h.key) fence.account, h.key, h.journal, h.number
            FROM holds AS h JOIN fence ON fence.id = h.journal WHERE h.external = 1
            ORDER BY fence.account, h.key, h.number DESC
            ON CONFLICT (account, key) DO UPDATE SET journal = excluded.journal, hold = excluded.hold
        )""")
    parts.append("""SELECT fence.id, (
            SELECT sum(g.beat)::bigint FROM trio_cancel.guard_account AS a JOIN trio_cancel.guard AS g ON g.id = a.guard
            WHERE a.account = fence.account
        ) FROM fence""")
    return " ".join(parts)


def _given(name: LiteralString, many: bool, **columns: LiteralString) -> LiteralString:
    """Return SQL that makes a table of the parameters: arrays, or one value each, which costs half as much."""
    if many:
        arrays = ", ".join(f"%({column})s::{kind}[]" for column, kind in columns.items())
        return f"unnest({arrays}) AS {name}({', '.join(columns)})"
    return f"(SELECT {', '.join(f'%({column})s::{kind} AS {column}' for column, kind in columns.items())}) AS {name}"


def _value(column: Sequence[Any], kind: str, many: bool) -> str | None:
    """Return values as PostgreSQL writes an array, or the only one as it writes that.

    It is a text in any case: the driver gives larger integers another type, which would be another statement.
    """
    if many:
        return _texts(column) if kind == "text" else _numbers(column)
    (value,) = column
    return None if value is None else stored(value) if kind == "text" else str(value)


def _numbers(values: Iterable[int | None]) -> str:
    """Return integers as PostgreSQL writes an array: ten times as fast as the driver does it with a list."""
    return f"{{{','.join(['NULL' if value is None else str(value) for value in values])}}}"


def _texts(values: Iterable[str | None]) -> str:
    """Return texts as the database writes an array."""
    return f"{{{','.join(['NULL' if value is None else _quoted(value) for value in values])}}}"


def _quoted(text: str) -> str:
    text = stored(text)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def taken_over(server: Server) -> TakenOver:
    """Return what to raise in a session whose journal was taken over."""
    return TakenOver(
        f"The journal {server.shown} was taken over by another session or a guard, because this session's lease had "
        "run out: what it held is theirs to cancel. Do not place anything; open a new session."
    )


_registry = threading.Lock()
_connections: dict[str, _Shared] = {}


def _forked() -> None:
    """In a child: the connections are the parent's."""
    global _registry  # noqa: PLW0603 - another thread of the parent may have had it
    _registry = threading.Lock()
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class PostgresStore:
    """A journal in a database, opened for one session; in a forked child it does nothing.

    Attributes:
        begun: where the session goes on.
        journal: the journal's number in the database.
    """

    def __init__(self, server: Server, journal: int, begun: Begun, lease: float, known: Settings) -> None:
        self.begun: Begun = begun
        self.journal: int = journal
        self._server = server
        self._seconds = commit_within(lease)
        self._process = os.getpid()
        self._over = False
        with _registry:
            self._shared = _connections.setdefault(server.conninfo, _Shared(server))
            self._shared.users += 1
        if self._shared.known is None:
            self._shared.known = known

    @classmethod
    def open(cls, server: Server, account: Account, prefix: str, now: int, lease: float) -> PostgresStore:
        """Open a journal for one session; make it if there is none.

        If another session may be writing it, wait until that session's lease has certainly run out.

        Args:
            server: the database, and the name of the journal in it.
            account: the account that it belongs to.
            prefix: how the session's request ids begin.
            now: Unix microseconds.
            lease: seconds.

        Raises:
            JournalError: it cannot be used.
        """
        with explained(server), connected(server) as connection:
            known = settings_of(connection)
            warn_of(known, server)
            with connection.transaction() as cursor:
                check_version(cursor, server)
                row = _find(cursor, server, account, lease)
            begun = None
            while begun is None:
                row = _wait_until_free(connection, server, row)
                claimed_at = steady()
                with connection.transaction() as cursor:
                    begun = _take(cursor, row, prefix, now, lease)
                    if begun is None:  # somebody else was quicker
                        row = _look(cursor, row.id)
                    else:
                        _compact_some(cursor, row.id, now)
        begun = attrs.evolve(begun, lease=lease, claimed_at=claimed_at)
        return cls(server, row.id, begun, lease, known)

    @classmethod
    def take_over(
        cls,
        connection: DatabaseConnection,
        server: Server,
        journal: int,
        epoch: int,
        beat: int,
        prefix: str,
        now: int,
        lease: float,
    ) -> PostgresStore | None:
        """Take over a journal that had no beat for its lease, or that was released with orders left.

        It is not compacted: a take-over is in a hurry.

        Args:
            connection: to the database.
            server: the database, and the name of the journal in it.
            journal: its number.
            epoch: as it was seen.
            beat: as it was seen.
            prefix: of the new session.
            now: Unix microseconds.
            lease: seconds, of the new session.

        Returns:
            None if the journal has changed since it was seen: its session lives, or somebody else was quicker.

        Raises:
            psycopg.Error, CommitInDoubt, OSError: it was not taken over, or that is in doubt.
        """
        claimed_at = steady()
        with connection.transaction() as cursor:
            begun = _take(cursor, _Row(journal, epoch, beat, 0, ""), prefix, now, lease)
        if begun is None:
            return None
        begun = attrs.evolve(begun, lease=lease, claimed_at=claimed_at)
        return cls(server, journal, begun, lease, settings_of(connection))

    def commit(self, changes: Changes) -> int | None:
        """Commit; see ``JournalStore``. Without rows it is a beat."""
        entry = self._entry(changes)
        with self._noting():
            self._shared.commit(entry, self._seconds)
        return entry.guards

    async def commit_in_loop(self, changes: Changes) -> int | None:
        """Commit; see ``JournalStore``."""
        entry = self._entry(changes)
        with self._noting():
            await self._shared.commit_in_loop(entry)
        return entry.guards

    def _entry(self, changes: Changes) -> _Entry:
        if self._process != os.getpid():
            raise StoreFailed(FORKED)
        if self._over:
            raise taken_over(self._server)
        return _Entry(self.journal, self.begun.session, changes)

    @contextmanager
    def _noting(self) -> Generator[None]:
        """Remember that the journal was taken over."""
        try:
            yield
        except TakenOver:
            self._over = True
            raise

    def _free(self) -> None:
        """Release the journal, so that the next session, or a guard if orders are left, can have it at once."""
        try:
            with self._shared.using(self._seconds) as connection:
                connection.all(_FREE, {"lock": connection.lock, "journal": self.journal, "epoch": self.begun.session})
        except (psycopg.Error, CommitInDoubt, StoreFailed, OSError) as error:
            # Everything is recorded; the next session has to wait until the lease has run out.
            logger.warning(
                "the journal %s could not be let go of (%s)", self._server.shown, reason(error, self._server)
            )

    def _acknowledge(self) -> None:
        """Record that this session, which was taken over, has ended: it places no order any more."""
        try:
            with self._shared.using(self._seconds) as connection, connection.transaction() as cursor:
                cursor.execute(
                    "UPDATE trio_cancel.session SET acknowledged = clock_timestamp() "
                    "WHERE journal = %s AND number = %s",
                    (self.journal, self.begun.session),
                )
        except (psycopg.Error, CommitInDoubt, StoreFailed, OSError) as error:
            logger.warning(
                "the journal %s could not be told that its old session has ended (%s)",
                self._server.shown,
                reason(error, self._server),
            )

    def close(self) -> None:
        """Release the journal, and close the connection if no other session uses it."""
        if self._process != os.getpid():
            return
        self._acknowledge() if self._over else self._free()
        with _registry:
            self._shared.users -= 1
            if not self._shared.users:
                _connections.pop(self._server.conninfo, None)
                self._shared.drop()


@attrs.frozen
class _Row:
    """A journal as it was seen."""

    id: int
    epoch: int
    beat: int
    lease_ms: int
    state: str


_FREE: LiteralString = f"""
WITH before AS MATERIALIZED (SELECT {BEFORE}), left_name AS MATERIALIZED ({NAMES})
UPDATE trio_cancel.journal
SET state = CASE WHEN EXISTS (SELECT FROM left_name) THEN 'left' ELSE 'free' END, beat = beat + 1
FROM before WHERE id = %(journal)s AND epoch = %(epoch)s RETURNING state
"""
"""The snapshot from before the row's lock shows all that is left: everything of this epoch is committed by then, and if
another epoch began meanwhile nothing is changed."""
_ROW: LiteralString = "SELECT id, epoch, beat, lease_ms, state FROM trio_cancel.journal"


@contextmanager
def connected(server: Server, *, write: bool = True, known: Settings | None = None) -> Generator[DatabaseConnection]:
    """Open a connection for the block, with time to read a whole journal."""
    connection = connect(server, OPENING, known=known, write=write)
    try:
        yield connection
    finally:
        connection.close()


def _find(cursor: psycopg.Cursor[Any], server: Server, account: Account, lease: float) -> _Row:
    """Find a journal; make it if there is none.

    Raises:
        JournalError: it belongs to another account.
    """
    salt = cursor.execute("SELECT salt FROM trio_cancel.format").fetchone()
    assert salt is not None
    fingerprint = account.fingerprint(salt[0])
    named = "SELECT id, account FROM trio_cancel.journal WHERE name = %s"
    found = cursor.execute(named, (server.name,)).fetchone()
    if found is None:
        cursor.execute(
            "INSERT INTO trio_cancel.account (url, fingerprint) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (account.url, fingerprint),
        )
        cursor.execute(
            "INSERT INTO trio_cancel.journal (name, account, lease_ms) "
            "SELECT %s, id, %s FROM trio_cancel.account WHERE url = %s AND fingerprint = %s ON CONFLICT DO NOTHING",
            (server.name, int(lease * 1000), account.url, fingerprint),
        )
        found = cursor.execute(named, (server.name,)).fetchone()
        assert found is not None
    owner = cursor.execute("SELECT url, fingerprint FROM trio_cancel.account WHERE id = %s", (found[1],)).fetchone()
    assert owner is not None
    if not hmac.compare_digest(owner[1], fingerprint):
        raise JournalError(
            f"The journal {server.shown} belongs to another account; use the credentials that it was written with, or "
            "another name."
        )
    if owner[0] != account.url:
        raise JournalError(f"The journal {server.shown} belongs to {owner[0]}, not {account.url}; use another name.")
    return _look(cursor, found[0])


def _look(cursor: psycopg.Cursor[Any], journal: int) -> _Row:
    row = cursor.execute(f"{_ROW} WHERE id = %s", (journal,)).fetchone()
    assert row is not None
    return _Row(*row)


def _named(cursor: psycopg.Cursor[Any], server: Server) -> _Row:
    """Return a journal.

    Raises:
        JournalError: there is none.
    """
    row = cursor.execute(f"{_ROW} WHERE name = %s", (server.name,)).fetchone()
    if row is None:
        raise JournalError(f"There is no journal {server.shown}; check its name.")
    return _Row(*row)


def _wait_until_free(connection: DatabaseConnection, server: Server, row: _Row) -> _Row:
    """Return once nobody can be writing a journal: it was released, or had no beat for a whole lease.

    Time without a look does not count: perhaps its session could not reach the database either.

    Raises:
        JournalError: a session writes it.
    """
    began = looked = steady()
    while row.state == "live" and looked - began < row.lease_ms / 1000:
        time.sleep(LOOK)
        with connection.transaction(write=False) as cursor:
            seen = _look(cursor, row.id)
        now = steady()
        if now - looked > BLIND:
            began = now
        looked = now
        if seen.state == "live" and seen != row:
            if _is_guards(connection, seen):  # a guard releases it soon
                began = now
                row = seen
                continue
            raise JournalError(
                f"The journal {server.shown} is being written by another session; end that one first, or use another "
                "name."
            )
        row = seen
    return row


def _is_guards(connection: DatabaseConnection, row: _Row) -> bool:
    """Return True if a journal's session is a guard's."""
    query = "SELECT prefix FROM trio_cancel.session WHERE journal = %s AND number = %s"
    with connection.transaction(write=False) as cursor:
        found = cursor.execute(query, (row.id, row.epoch)).fetchone()
    return found is not None and str(found[0]).startswith(GUARD)


def _take(cursor: psycopg.Cursor[Any], row: _Row, prefix: str, now: int, lease: float) -> Begun | None:
    """Begin a session's epoch if the journal is still as it was seen; return None if it is not.

    What is left is read by a statement of its own: the one that waits for the journal's row does not see what was
    committed meanwhile.
    """
    taken = cursor.execute(
        "UPDATE trio_cancel.journal SET epoch = epoch + 1, beat = beat + 1, state = 'live', lease_ms = %s, "
        "seen = clock_timestamp() WHERE id = %s AND epoch = %s AND beat = %s RETURNING epoch",
        (int(lease * 1000), row.id, row.epoch, row.beat),
    ).fetchone()
    if taken is None:
        return None
    (epoch,) = taken
    number, attempt, left = left_of(cursor, row.id)
    cursor.execute(
        "INSERT INTO trio_cancel.session (journal, number, prefix, first_attempt, opened, alive) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        (row.id, epoch, prefix, attempt, now, now),
    )
    return Begun(epoch, number + 1, attempt, left)


def _compact_some(cursor: psycopg.Cursor[Any], journal: int, now: int) -> None:
    """Delete some of the records that were settled long ago, if possible."""
    try:
        with cursor.connection.transaction():
            forget(cursor, journal, now - HISTORY * DAY, AT_OPENING)
    except psycopg.Error as error:
        if cursor.connection.broken:
            raise
        logger.warning("the journal could not be compacted (%s); it goes on as it is", str(error).partition("\n")[0])


def read_tables(server: Server) -> Tables:
    """Read a journal as it is at one moment, also while it is being written, and from a standby if need be.

    Raises:
        JournalError: there is none, or it cannot be read.
    """
    with explained(server), connected(server, write=False) as connection:
        connection.raw.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction(write=False) as cursor:
            check_version(cursor, server)
            return tables_of(cursor, _named(cursor, server).id)


def compact(server: Server, before: int) -> int:
    """Delete what was settled before a time (Unix microseconds); return how many records that were.

    Raises:
        JournalError: there is none, a session is writing it, or it cannot be used.
    """
    with explained(server), connected(server) as connection:
        with connection.transaction(write=False) as cursor:
            check_version(cursor, server)
            row = _named(cursor, server)
        while True:
            row = _wait_until_free(connection, server, row)
            with connection.transaction() as cursor:
                cursor.execute("SELECT FROM trio_cancel.journal WHERE id = %s FOR UPDATE", (row.id,))
                if (seen := _look(cursor, row.id)) == row:
                    return forget(cursor, row.id, before, 2**62)
                row = seen


def is_missing(server: Server) -> bool:
    """Return True if the database has no journal of this name."""
    with (
        explained(server),
        connected(server, write=False) as connection,
        connection.transaction(write=False) as cursor,
    ):
        check_version(cursor, server)
        return cursor.execute(f"{_ROW} WHERE name = %s", (server.name,)).fetchone() is None


def is_written(server: Server) -> bool:
    """Return True if a session has written the journal, or beaten, within its lease."""
    query: LiteralString = (
        "SELECT state = 'live' AND clock_timestamp() - seen < lease_ms * interval '1 ms' "
        "FROM trio_cancel.journal WHERE name = %s"
    )
    with (
        explained(server),
        connected(server, write=False) as connection,
        connection.transaction(write=False) as cursor,
    ):
        check_version(cursor, server)
        row = cursor.execute(query, (server.name,)).fetchone()
    return row is not None and bool(row[0])


def migrate(server: Server) -> int:
    """Make the tables in a database, or bring them up to date; return the version before, 0 if there was none.

    Raises:
        JournalError: it cannot be done; nothing was changed.
    """
    with explained(server), connected(server) as connection, connection.transaction() as cursor:
        before = make(cursor)
        check_version(cursor, server)
        return before
