"""A connection to a PostgreSQL database whose calls have a time limit, and which knows the server that it is made to.

The limit is enforced from outside: when it is reached, another thread shuts down the connection's socket, and the call
ends with an error. Nothing else would end the wait for a standby that does not answer. The transaction is then in
doubt, and is sent again with the same numbers.

The event loop can also run a small statement and wait for the socket itself
(:meth:`DatabaseConnection.all_in_loop`). To hand it to a thread and back would cost nearly as much as a small commit.

A commit can lie: if an administrator ends the wait for the standby, the server reports success, and warns that the
transaction may not have been replicated. Such a warning counts as a failure.

Nothing is kept in the server's session, so that a pooler may give each transaction another one. Statements are prepared
only where there is no pooler: then the server process that answers is the one that was connected to.
"""

from __future__ import annotations

import math
import os
import re
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, LiteralString
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs
import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trio_cancel._journal.address import Server
from trio_cancel._journal.schema import VERSION, version_of
from trio_cancel._journal.store import StoreFailed
from trio_cancel._values.errors import JournalError
from trio_cancel._values.observer import logger

CONNECT = 2
"""Whole seconds to connect to each of a database's servers, unless the address has a ``connect_timeout``; the driver
takes no fewer."""
OTHERS = 0.5
"""Seconds that the other servers have to answer once a usable one has answered."""
PREPARED_FROM = 1
"""Times that a statement is run before it is prepared; from then on a small commit takes half the time."""
WARNING_OF_COMMIT = "01000"
"""The SQLSTATE of a warning about a commit, such as that it may not be replicated."""

_SERVER: LiteralString = """
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', current_setting('fsync') = 'on',
       current_setting('full_page_writes') = 'on', current_setting('synchronous_standby_names') <> '',
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END,
       (SELECT system_identifier::text FROM pg_control_system()), pg_backend_pid()
"""
BEFORE: LiteralString = """
set_config('synchronous_commit',
           CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
set_config('lock_timeout', %(lock)s, true)
"""
"""Settings of one transaction: its commit waits for the disk, and for the standby if there is one. It waits for a lock
no longer than its call may take, so that calls do not queue up behind what a lost connection has left locked."""
STANDS_STILL: LiteralString = "set_config('idle_in_transaction_session_timeout', %(idle)s, true)"
"""The server ends a transaction whose client is silent for so many milliseconds between two statements. If the client
is stopped, others get what it has locked."""


class CommitInDoubt(Exception):
    """The database has committed, and warns that the transaction may not survive the loss of its machine."""


@attrs.frozen
class Settings:
    """What a server says of itself.

    Attributes:
        read_only: it takes no writes: it is a standby, or was told to.
        standby: it is a standby.
        safe: what it commits is on the disk.
        replicated: a commit waits for a standby.
        timeline: grows by one with each promotion of a standby; 0 if it takes no writes.
        system: the same on all servers of a cluster.
        process: the number of the server process that has answered.
    """

    read_only: bool
    standby: bool
    safe: bool
    replicated: bool
    timeline: int
    system: str
    process: int


class SocketWatch:
    """Shuts down sockets whose time is over; one thread for the process, while there are any."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._until: dict[socket.socket, float] = {}
        self._asleep_until = math.inf
        self._runs = False

    @contextmanager
    def bounded(self, sock: socket.socket, seconds: float) -> Generator[None]:
        """Let the block take so long."""
        until = time.monotonic() + seconds
        with self._change:
            self._until[sock] = until
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="trio-cancel database", daemon=True).start()
            elif until < self._asleep_until:
                self._change.notify()
        try:
            yield
        finally:
            with self._change:
                self._until.pop(sock, None)

    def _run(self) -> None:
        with self._change:
            while True:
                now = time.monotonic()
                for sock in [sock for sock, until in self._until.items() if until <= now]:
                    del self._until[sock]
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
                self._asleep_until = min(self._until.values(), default=now + _IDLE)
                if not self._until and self._asleep_until <= now:
                    break
                asleep = self._change.wait(max(0.0, self._asleep_until - now))
                if not asleep and not self._until:
                    break
            self._runs = False


_IDLE = 5.0
"""Seconds after which the thread ends if there is nothing to watch."""
_watch = SocketWatch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watch.__init__)  # type: ignore[misc] # its thread is not there


class DatabaseConnection:
    """One connection to one server, in the hands of one thread or task at a time.

    Attributes:
        raw: the driver's.
        settings: what the server has said of itself; None if it was not asked.
    """

    def __init__(self, raw: psycopg.Connection[Any], seconds: float) -> None:
        self.raw = raw
        self.settings: Settings | None = None
        self._seconds = seconds
        self._socket = socket.socket(fileno=os.dup(raw.fileno()))
        self._warnings: list[str] = []
        self._prepared: dict[bytes, bytes] = {}
        raw.add_notice_handler(self._noticed)

    def _noticed(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate == WARNING_OF_COMMIT and notice.severity_nonlocalized == "WARNING":
            said = (notice.message_primary, notice.message_detail)
            self._warnings.append(": ".join(text for text in said if text) or "a warning")

    def one(self, query: LiteralString, values: dict[str, Any] | None = None) -> tuple[Any, ...]:
        """Run one statement in a transaction of its own; return its only row. See :meth:`all`."""
        (row,) = self.all(query, values)
        return row

    def all(self, query: LiteralString, values: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own, in one round trip; return its rows.

        Raises:
            psycopg.Error: it failed, or its time was over.
            CommitInDoubt: it may not be replicated.
        """
        self._warnings.clear()
        with _watch.bounded(self._socket, self._seconds):
            rows = self.raw.execute(query, values).fetchall()
        self._check()
        return rows

    async def all_in_loop(self, query: LiteralString, values: dict[str, Any]) -> list[tuple[int | None, ...]]:
        """As :meth:`all`, in the event loop, for a small statement that returns only integers.

        Raises:
            psycopg.Error: it failed. After an OperationalError the connection cannot be used any more.
            CommitInDoubt: it may not be replicated.

        Cancelled: the server may still run the statement; the connection cannot be used any more.
        """
        self._warnings.clear()
        rows = await self._exchange(query, values)
        self._check()
        return rows

    async def _exchange(self, query: LiteralString, values: dict[str, Any]) -> list[tuple[int | None, ...]]:
        # By the driver's libpq interface: its connections block, or need asyncio.
        pgconn = self.raw.pgconn
        until = trio.current_time() + self._seconds
        text, names = _numbered(query)
        given = [None if values[name] is None else str(values[name]).encode() for name in names]
        if self.raw.prepare_threshold is None:
            pgconn.send_query_params(text, given)
        else:
            if text not in self._prepared:
                prepared = b"trio_cancel_%d" % len(self._prepared)
                pgconn.send_prepare(prepared, text)
                await self._result(pgconn, until)
                self._prepared[text] = prepared
            pgconn.send_query_prepared(self._prepared[text], given)
            until = max(until, trio.current_time() + self._seconds / 10)  # in case that the loop stood still
        result = await self._result(pgconn, until)
        return [
            tuple(
                None if (value := result.get_value(row, column)) is None else int(value)
                for column in range(result.nfields)
            )
            for row in range(result.ntuples)
        ]

    async def _result(self, pgconn: pq.abc.PGconn, until: float) -> pq.abc.PGresult:
        """Wait until a time of trio's clock for the result of what was sent last."""
        results: list[pq.abc.PGresult] = []
        with trio.move_on_at(until) as bound:
            while pgconn.flush():
                await trio.lowlevel.wait_writable(pgconn.socket)
            while not _take(pgconn, results):
                await trio.lowlevel.wait_readable(pgconn.socket)
                pgconn.consume_input()
        if bound.cancelled_caught:
            pgconn.consume_input()  # if the loop stood still, the answer may have come meanwhile
            if not _take(pgconn, results):
                raise psycopg.OperationalError(f"it did not answer within {self._seconds:.3g} s")
        if not results:
            raise psycopg.OperationalError("the connection is lost")
        if results[-1].status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(results[-1])
        return results[-1]

    @contextmanager
    def transaction(self, *, write: bool = True) -> Generator[psycopg.Cursor[Any]]:
        """Run the block in one transaction, within the time limit.

        Raises:
            psycopg.Error: it failed, or its time was over; it is not committed, or that is in doubt.
            CommitInDoubt: it may not be replicated.
        """
        self._warnings.clear()
        with _watch.bounded(self._socket, self._seconds), self.raw.transaction():
            cursor = self.raw.cursor()
            if write:
                values = {"lock": self.lock, "idle": str(int(self._seconds * 1000))}
                cursor.execute(f"SELECT {BEFORE}, {STANDS_STILL}", values)
            yield cursor
        self._check()

    @property
    def lock(self) -> str:
        """Milliseconds to wait for a lock, as the server's setting."""
        return str(max(1, int(self._seconds * 750)))

    def _check(self) -> None:
        if self._warnings:
            raise CommitInDoubt("; ".join(self._warnings))

    def close(self) -> None:
        """Close it; never waits."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with suppress(psycopg.Error):
            self.raw.close()


def _take(pgconn: pq.abc.PGconn, results: list[pq.abc.PGresult]) -> bool:
    """Take the results that have come; return True if those are all. The last one comes after the commit."""
    while not pgconn.is_busy():
        result = pgconn.get_result()
        if result is None:
            return True
        results.append(result)
    return False


@cache
def _numbered(query: LiteralString) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with numbered parameters, as libpq takes it, and their names in that order."""
    names: dict[str, int] = {}
    text = re.sub(r"%\((\w+)\)s", lambda found: f"${names.setdefault(found[1], len(names) + 1)}", query)
    return text.encode(), tuple(names)


class Reconnecting:
    """A connection that is made again when it is lost, never to an older server; one thread at a time uses it.

    Args:
        server: the database.
        seconds: the time limit of each call.

    Attributes:
        known: the server that was used last.
    """

    def __init__(self, server: Server, seconds: float) -> None:
        self.known: Settings | None = None
        self._server = server
        self._seconds = seconds
        self._connection: DatabaseConnection | None = None
        self._closed = False

    def get(self) -> DatabaseConnection:
        """Return it.

        Raises:
            psycopg.Error, StoreFailed: it cannot be made.
        """
        if self._connection is None:
            self._connection = connect(self._server, self._seconds, known=self.known)
            self.known = settings_of(self._connection)
        if self._closed:  # meanwhile, by another thread
            self.drop()
            raise StoreFailed("it is not used any more")
        return self._connection

    def failed(self, error: Exception) -> StoreFailed:
        """Close it; return what to raise for its error."""
        self.drop()
        return StoreFailed(reason(error, self._server))

    def drop(self) -> None:
        """Close it; never waits."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close it for good, whatever another thread does with it; never waits."""
        self._closed = True
        self.drop()


def connect(server: Server, seconds: float, *, known: Settings | None = None, write: bool = True) -> DatabaseConnection:
    """Connect to the database's primary: of its usable servers, the one with the latest timeline.

    All servers are asked, because a former primary does not know that another was promoted, and goes on taking writes.
    Once a usable one has answered, the others have ``OTHERS`` seconds. Of equals the first is taken.

    Args:
        server: the database.
        seconds: the time limit of each call.
        known: the server that was used before; one with an older timeline is a former primary, and one of another
            cluster is another database.
        write: whether it has to take writes; if not, one that does is preferred.

    Raises:
        Unusable: none of them can be used.
    """
    asked = [_Asked(conninfo, server, seconds, known) for conninfo in _each(server)]
    _ask_all(asked)
    best: _Asked | None = None
    for one in asked:
        if one.will_do and (best is None or one.timeline > best.timeline):
            best = one
    if best is None and not write:
        best = next((one for one in asked if one.found is not None and one.found.read_only), None)
    taken = None if best is None else best.take()
    for one in asked:
        if one is not best:
            one.drop()
    if taken is not None:
        return taken
    raise Unusable("; ".join(dict.fromkeys(one.why or "it did not answer in time" for one in asked)))


class _Asked:
    """One of a database's servers, and its answer.

    Attributes:
        found: what it has said of itself.
        why: why it cannot be written to; None if it can, and before its answer.
        done: whether it has answered, or failed to.
    """

    def __init__(self, conninfo: str, server: Server, seconds: float, known: Settings | None) -> None:
        self.found: Settings | None = None
        self.why: str | None = None
        self.done = False
        self._conninfo = conninfo
        self._server = server
        self._seconds = seconds
        self._known = known
        self._connection: DatabaseConnection | None = None
        self._lock = threading.Lock()
        self._unwanted = False

    @property
    def will_do(self) -> bool:
        return self.done and self.found is not None and self.why is None

    @property
    def timeline(self) -> int:
        return 0 if self.found is None else self.found.timeline

    def ask(self) -> None:
        connection, found = None, None
        try:
            raw = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
            raw.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # whatever the server's own default is
            connection = DatabaseConnection(raw, self._seconds)
            found = settings_of(connection)
            why = why_not(found, self._known)
            if found.process == raw.info.backend_pid:
                raw.prepare_threshold = PREPARED_FROM
        except (psycopg.Error, CommitInDoubt, OSError) as error:
            why = reason(error, self._server)
        with self._lock:
            if not self._unwanted:
                self._connection, self.found, self.why, self.done = connection, found, why, True
                return
        if connection is not None:
            connection.close()

    def take(self) -> DatabaseConnection | None:
        """Hand its connection over to the caller."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._unwanted = True
        return connection

    def drop(self) -> None:
        """Close its connection, now or once it is made."""
        connection = self.take()
        if connection is not None:
            connection.close()


def _ask_all(asked: list[_Asked]) -> None:
    """Ask all of them at the same time, and wait until it is clear which one is the primary."""
    first, *others = asked
    if not others:
        first.ask()
        return
    answered = threading.Semaphore(0)

    def ask(one: _Asked) -> None:
        try:
            one.ask()
        finally:
            answered.release()

    started = 0
    for one in asked:
        try:
            threading.Thread(target=ask, args=(one,), name="trio-cancel database", daemon=True).start()
            started += 1
        except RuntimeError:  # the process can have no more threads
            one.ask()
    until = math.inf
    for _ in range(started):
        if any(one.will_do for one in asked):
            until = min(until, time.monotonic() + OTHERS)
        if not answered.acquire(timeout=None if until == math.inf else max(0.0, until - time.monotonic())):
            return


class Unusable(StoreFailed):
    """None of a database's servers can be used now; the text is the reason."""


def settings_of(connection: DatabaseConnection) -> Settings:
    """Return what a server says of itself; it is asked once."""
    if connection.settings is None:
        standby, read_only, fsync, full_pages, replicated, file, system, process = connection.one(_SERVER)
        connection.settings = Settings(
            read_only=read_only,
            standby=standby,
            safe=fsync and full_pages,
            replicated=replicated,
            timeline=0 if file is None else int(file[:8], 16),
            system=system,
            process=process,
        )
    return connection.settings


def why_not(found: Settings, known: Settings | None) -> str | None:
    """Return why a server cannot be written to; None if it can."""
    if found.standby:
        return "the server is a standby, which cannot be written"
    if found.read_only:
        return "the server takes no writes (default_transaction_read_only is on)"
    if known is not None and found.system != known.system:
        return "the server is of another cluster than the one before"
    if known is not None and found.timeline < known.timeline:
        return f"the server was left behind by a promotion (its timeline is {found.timeline}, not {known.timeline})"
    return None


def _each(server: Server) -> Iterator[str]:
    """Return the connection string of each of a database's servers."""
    given = conninfo_to_dict(server.conninfo)
    given.pop("target_session_attrs", None)
    given.setdefault("connect_timeout", CONNECT)
    given.setdefault("application_name", "trio-cancel")
    lists = {key: str(given.pop(key)).split(",") for key in ("host", "hostaddr", "port") if given.get(key)}
    count = max((len(lists[key]) for key in ("host", "hostaddr") if key in lists), default=1)
    for place in range(count):
        one = {key: values[min(place, len(values) - 1)] for key, values in lists.items()}
        yield make_conninfo("", **given, **{key: value for key, value in one.items() if value})


_warned: set[str] = set()


def warn_of(found: Settings, server: Server) -> None:
    """Log the settings that void the promise of a durable record; once in a process."""
    shown = server.shown.partition("?")[0]
    if shown in _warned:
        return
    _warned.add(shown)
    if not found.safe:
        logger.warning(
            "the database %s has fsync or full_page_writes off: what is recorded in it may be lost when its machine "
            "fails; turn both on",
            shown,
        )
    if not found.replicated:
        logger.warning(
            "the database %s has no synchronous standby (synchronous_standby_names is empty): what is recorded in it "
            "is on one disk",
            shown,
        )


def check_version(cursor: psycopg.Cursor[Any], server: Server) -> None:
    """Refuse a database without tables of this version.

    Raises:
        JournalError: the tables are missing, older or newer.
    """
    version = version_of(cursor)
    make = "trio-cancel journal --migrate URL"
    if version == 0:
        raise JournalError(f"The database {server.shown} has no tables of trio_cancel yet; make them once with {make}.")
    if version < VERSION:
        raise JournalError(
            f"The tables in the database {server.shown} are of an older trio_cancel (format {version}, this one needs "
            f"{VERSION}); bring them up to date with {make}."
        )
    if version > VERSION:
        raise JournalError(
            f"The tables in the database {server.shown} are of a newer trio_cancel (format {version}, this one knows "
            f"{VERSION}); they were left as they are. Update trio_cancel."
        )


def reason(error: BaseException, server: Server) -> str:
    """Return an error's text in one line, without the password."""
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    for secret in _secrets(server.conninfo):
        text = text.replace(secret, "…")
    return text


def _secrets(conninfo: str) -> list[str]:
    parts = urlsplit(conninfo)
    given = [parts.password or "", *(value for key, value in parse_qsl(parts.query) if "password" in key)]
    return sorted({form for text in given for form in (text, unquote(text)) if form}, key=len, reverse=True)


@contextmanager
def explained(server: Server) -> Generator[None]:
    """Raise one clear sentence for whatever is wrong with a database.

    Raises:
        JournalError: it cannot.
    """
    what = "journal" if server.name else "database"
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise JournalError(
            f"The {what} {server.shown} cannot be used ({reason(error, server)}); give the role its rights in the "
            "schema trio_cancel."
        ) from error
    except (Unusable, CommitInDoubt, psycopg.Error, OSError) as error:
        raise JournalError(
            f"The {what} {server.shown} cannot be opened ({reason(error, server)}); check the address, the "
            "credentials in it and the server."
        ) from error
