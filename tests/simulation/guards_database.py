"""A database of two servers for simulations: it answers the very statements that the library sends, as PostgreSQL does.

Below ``psycopg.connect`` it is made here, above it everything is the library's own. Rows are locked by who changes them
until the transaction has ended, which on the first server waits for the second one where replication is synchronous.
Each statement sees what was committed when it began; what waited for a lock looks again at the row that it waited for.
Requests and answers travel, connections break, and an answer may be lost when the work is done.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, Protocol

import attrs
import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from trio_cancel._journal.postgres import _TABLES
from trio_cancel._journal.postgres_rows import COLUMNS
from trio_cancel._journal.reading import contents_of
from trio_cancel._journal.rows import SessionRow, Tables, spread
from trio_cancel._journal.schema import VERSION
from trio_cancel.journal import JournalContents

from .engine import SimulatedClock
from .guards_process import CURRENT, Process, set_event, wait

Row = dict[str, Any]
Write = tuple[str, Any, Row | None]
URL = "ws://127.0.0.1:9"
SALT = b"salt of the simulation"


@attrs.define(eq=False)
class Server:
    """One server.

    Attributes:
        tables: what is committed: table, key, row.
        flushed: what is on its disk, and waits for the other server.
        timeline: grows with a promotion.
        standby: it takes no writes.
        beaten: when the row of a journal was changed last.
        replicates: ``"sync"``, ``"async"`` or None: how it sends on what it commits.
    """

    name: str
    tables: dict[str, dict[Any, Row]] = attrs.field(factory=dict)
    flushed: list[list[Write]] = attrs.field(factory=list)
    timeline: int = 1
    standby: bool = False
    replicates: str | None = None
    down: bool = False
    locks: dict[int, Raw] = attrs.field(factory=dict)
    unlocked: trio.Event = attrs.field(factory=trio.Event)
    raws: list[Raw] = attrs.field(factory=list)
    beaten: dict[int, float] = attrs.field(factory=dict)

    def table(self, name: str) -> dict[Any, Row]:
        """Return what is committed in a table."""
        return self.tables.setdefault(name, {})

    def apply(self, writes: Iterable[Write]) -> None:
        """Make changes visible."""
        for table, key, row in writes:
            if table == "journal":
                self.beaten[key] = trio.current_time()
            if row is None:
                self.table(table).pop(key, None)
            else:
                self.table(table)[key] = row

    def rows(self, table: str, journal: int) -> list[tuple[Any, ...]]:
        """Return a journal's rows of a table, without its number."""
        found = [tuple(row.values()) for row in self.table(table).values() if row["journal"] == journal]
        return sorted(row[1:] for row in found)

    def tables_of(self, journal: int) -> Tables:
        """Return all of a journal."""
        sessions = [SessionRow(*row[:6]) for row in self.rows("session", journal)]
        holds = [(row[0], row[-1], *row[1:-1]) for row in self.rows("hold", journal)]
        intents = [(row[0], row[-1], *row[1:-1]) for row in self.rows("intent", journal)]
        tried = spread(self.rows("answer", journal), self.rows("attempt", journal), self.rows("outcome", journal))
        placed = [(row[0], row[1], row[2]) for row in self.rows("placed", journal)]
        return Tables(URL, sessions, holds, self.rows("release", journal), intents, *tried, placed=placed)

    def contents(self, journal: int) -> JournalContents:
        """Return what a reader of a journal would find."""
        return contents_of(self.tables_of(journal))


class Watcher(Protocol):
    """Is told of what is committed."""

    def committed(self, server: Server, journal: Row, writes: list[Write]) -> None:
        """A session's changes are about to be visible, and the journal is as it was."""

    def visible(self, raw: Raw) -> None:
        """What a connection has committed is visible; the answer is not on its way yet."""

    def locked(self, server: Server, journal: int) -> None:
        """Whoever takes a journal over has locked its row, and found it as it was seen."""

    def taken(self, server: Server, journal: int, before: Row, after: Row) -> None:
        """A journal is about to have another epoch."""


@attrs.define(eq=False)
class Cluster:
    """Both servers, and the ways to them."""

    rng: random.Random
    watcher: Watcher
    faults: Counter[str]
    spawn: Callable[..., None]
    clock: SimulatedClock
    servers: dict[str, Server] = attrs.field(factory=dict)
    travel: float = 0.0005
    lag: float = 0.5
    hidden: float = 0.0
    slow: float = 0.0
    link: bool = True
    lies: bool = False
    guards: int = 0
    cut: set[tuple[str, str]] = attrs.field(factory=set)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Call a function after some seconds."""
        self.clock.at(self.clock.current_time() + seconds, act)

    def reaches(self, process: Process | None, server: Server) -> bool:
        """Return whether packets pass between them."""
        name = "" if process is None else process.name
        return (name, server.name) not in self.cut and (name, "") not in self.cut

    @property
    def current(self) -> Server:
        """The server that decides: of the latest timeline."""
        return max((each for each in self.servers.values() if not each.standby), key=lambda each: each.timeline)

    def crash(self, server: Server) -> None:
        """Kill a server: what it has flushed is there when it starts again."""
        server.down = True
        for raw in list(server.raws):
            raw.lose()

    def start(self, server: Server) -> None:
        """Start it again."""
        server.down = False
        flushed, server.flushed = server.flushed, []
        for writes in flushed:
            self.faults["hidden by a crash"] += 1
            server.apply(writes)

    def connect(self, conninfo: str, **_: object) -> Raw:
        """Stand for ``psycopg.connect``."""
        server = self.servers[str(conninfo_to_dict(conninfo)["host"])]
        process = CURRENT.get()

        async def arrive() -> None:
            if not self.reaches(process, server):
                await trio.sleep(2.0)
                raise psycopg.OperationalError("connection timeout expired")
            await trio.sleep(2 * self.travel)
            if server.down:
                raise psycopg.OperationalError("Connection refused")

        wait(arrive)
        raw = Raw(self, server, process)
        server.raws.append(raw)
        if process is not None:
            process.connections.append(raw)
        return raw


class Info:
    """Stands for ``psycopg.ConnectionInfo``."""

    backend_pid = 1


@attrs.frozen
class Notice:
    """Stands for ``psycopg.errors.Diagnostic``."""

    sqlstate: str = "01000"
    severity_nonlocalized: str = "WARNING"
    message_primary: str = "canceling wait for synchronous replication due to user request"
    message_detail: str = "The transaction has already committed locally, but might not have been replicated."


class Raw:
    """Stands for ``psycopg.Connection``, and for the socket that is shut down when its time is over."""

    info = Info()
    isolation_level: object = None
    prepare_threshold: object = None

    def __init__(self, cluster: Cluster, server: Server, process: Process | None) -> None:
        self.cluster = cluster
        self.server = server
        self.process = process
        self.closed = False
        self.answered = trio.Event()
        self.until = math.inf
        self.writes: list[Write] = []
        self.waits_for_standby = True
        self.in_transaction = False
        self.committing = False
        self.stands_for = 0.0
        self._noticed: Callable[[Any], None] = lambda _: None

    @property
    def broken(self) -> bool:
        """Whether it has ended by itself."""
        return self.closed

    def fileno(self) -> Any:
        """It is its own socket."""
        return self

    def add_notice_handler(self, handler: Callable[[Any], None]) -> None:
        """See psycopg."""
        self._noticed = handler

    def lose(self) -> None:
        """End it from outside."""
        self.closed = True
        set_event(self.answered)
        if not self.committing:  # else the server hears of it when it has committed
            self.unlock()
        if self in self.server.raws:
            self.server.raws.remove(self)

    def shutdown(self, _: int) -> None:
        """See socket."""

    def close(self) -> None:
        """Close it; the server ends the transaction when it hears of it."""
        if not self.closed:
            self.lose()

    def unlock(self) -> None:
        """Free the rows that it has locked."""
        self.writes = []
        locks = self.server.locks
        mine = [journal for journal, raw in locks.items() if raw is self]
        for journal in mine:
            del locks[journal]
        if mine:
            unlocked, self.server.unlocked = self.server.unlocked, trio.Event()
            set_event(unlocked)

    def execute(self, query: str, values: Any = None) -> Cursor:
        """Run a statement as a transaction of its own."""
        return Cursor(self).execute(query, values)

    def cursor(self) -> Cursor:
        """See psycopg."""
        return Cursor(self)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """See psycopg."""
        if self.in_transaction:
            yield
            return
        self.in_transaction = True
        self.waits_for_standby = True
        try:
            try:
                yield
            except BaseException:
                self.unlock()
                raise
            if self.closed:
                raise psycopg.OperationalError("the connection is lost")
            if self.writes:
                self.ask(self.commit)
            else:
                self.unlock()
        finally:
            self.in_transaction = False

    def ask(self, work: Callable[[], Any]) -> Any:
        """Have the server do something; return what it answers.

        Args:
            work: does it, or returns what does it, if it has to wait for something.
        """
        request = self._request(work)
        wait(request.answer)
        return self._answer(request)

    async def in_loop(self, seconds: float, query: str, values: Any) -> list[Any]:
        """Run a statement as a transaction of its own; stands for ``DatabaseConnection._exchange``."""
        self.cluster.faults["committed in the event loop"] += 1
        request = self._request(Cursor(self).work(query, values))
        self.until = self.cluster.clock.current_time() + seconds
        try:
            await request.answer()
        finally:
            self.until = math.inf
        rows: list[Any] = self._answer(request)[1]
        return rows

    def _request(self, work: Callable[[], Any]) -> Request:
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        request = Request(self, work)
        self.answered = request.answered
        return request

    def _answer(self, request: Request) -> Any:
        if not request.results:
            self.lose()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        (result,) = request.results
        if isinstance(result, psycopg.Error):
            raise result
        return result

    # At the server

    async def lock(self, journal: int) -> None:
        """Lock a row, as who changes it does."""
        locks = self.server.locks
        with trio.move_on_after(1.5) as patience:
            while locks.get(journal, self) is not self:
                self.cluster.faults["waited for a lock"] += 1
                await self.server.unlocked.wait()
        if patience.cancelled_caught and locks.get(journal, self) is not self:
            raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")
        if self.closed:
            raise psycopg.OperationalError("the connection is lost")
        locks[journal] = self

    async def commit(self) -> None:
        """Commit what was written."""
        self.committing = True
        try:
            await self._commit(self.writes)
        finally:
            self.committing = False
            self.unlock()

    async def _commit(self, writes: list[Write]) -> None:
        server, cluster = self.server, self.cluster
        if server.replicates == "sync" and self.waits_for_standby:
            server.flushed.append(writes)
            other = next(each for each in cluster.servers.values() if each is not server)
            await trio.sleep(cluster.travel)
            while not (cluster.link and other.standby and not other.down):  # noqa: ASYNC110, RUF100
                if server.down or not any(each is writes for each in server.flushed):
                    raise psycopg.OperationalError("terminating connection")
                if cluster.lies:
                    cluster.faults["commit that lies"] += 1
                    self._noticed(Notice())
                    break
                await trio.sleep(0.05)
            else:
                other.apply(writes)
                await trio.sleep(cluster.travel)
            if server.down or not any(each is writes for each in server.flushed):
                raise psycopg.OperationalError("terminating connection")
            server.flushed = [each for each in server.flushed if each is not writes]
        elif server.replicates is not None:
            cluster.spawn(self._send_on, writes)
        if self.stands_for:
            seconds, self.stands_for = self.stands_for, 0.0
            cluster.faults["the server's process stood still in a commit"] += 1
            await trio.sleep(seconds)
        self._tell(writes)
        server.apply(writes)
        self.cluster.watcher.visible(self)

    async def _send_on(self, writes: list[Write]) -> None:
        """Replicate later."""
        cluster = self.cluster
        other = next(each for each in cluster.servers.values() if each is not self.server)
        await trio.sleep(cluster.lag if self.server.replicates == "async" else cluster.travel)
        if cluster.link and other.standby and not other.down and not self.server.down:
            other.apply(writes)

    def _tell(self, writes: list[Write]) -> None:
        for table, key, row in writes:
            if table == "journal" and row is not None:
                before = self.server.table("journal").get(key)
                if before is None:
                    continue
                if row["epoch"] != before["epoch"]:
                    self.cluster.watcher.taken(self.server, key, before, row)
                own = [write for write in writes if write[2] is not None and write[2].get("journal") == key]
                self.cluster.watcher.committed(self.server, before, [(table, key, row), *own])

    def seen(self, table: str) -> dict[Any, Row]:
        """Return a table as this transaction sees it."""
        committed = self.server.table(table)
        mine = [write for write in self.writes if write[0] == table]
        if not mine:
            return committed
        view = dict(committed)
        for _, key, row in mine:
            if row is None:
                view.pop(key, None)
            else:
                view[key] = row
        return view

    def put(self, table: str, key: Any, row: Row | None) -> None:
        """Write a row."""
        if self.server.standby:
            raise psycopg.errors.ReadOnlySqlTransaction("cannot execute in a read-only transaction")
        self.writes.append((table, key, row))


class Request:
    """One request of a connection on its way to the server, and the answer on its way back."""

    def __init__(self, raw: Raw, work: Callable[[], Any]) -> None:
        self.answered = trio.Event()
        self.results: list[Any] = []
        self._raw = raw
        self._work = work

    async def answer(self) -> None:
        """Wait for the answer, until the connection has ended or its time is over."""
        cluster = self._raw.cluster
        cluster.later(cluster.travel, self._arrive)
        if self._raw.until < math.inf:
            cluster.clock.at(self._raw.until, self.answered.set)
        await self.answered.wait()

    def _is_lost(self) -> bool:
        raw = self._raw
        return raw.closed or raw.server.down or not raw.cluster.reaches(raw.process, raw.server)

    def _arrive(self) -> None:
        if self._is_lost():
            return
        try:
            result = self._work()
        except psycopg.Error as error:
            result = error
        if isinstance(result, Awaitable):
            self._raw.cluster.spawn(self._finish, result)
        else:
            self._leave(result)

    async def _finish(self, work: Awaitable[Any]) -> None:
        try:
            result = await work
        except psycopg.Error as error:
            result = error
        self._leave(result)

    def _leave(self, result: Any) -> None:
        cluster = self._raw.cluster
        hidden = cluster.rng.random() < cluster.hidden
        slow = cluster.rng.random() < cluster.slow
        cluster.faults["slow answer"] += slow
        seconds = cluster.travel + (cluster.rng.uniform(0.1, 1.9) if slow else 0.0)
        cluster.later(seconds, partial(self._come_back, result, hidden=hidden))

    def _come_back(self, result: Any, *, hidden: bool) -> None:
        if self._is_lost():
            return
        if hidden:
            self._raw.cluster.faults["acknowledgement lost"] += 1
            self._raw.lose()
            return
        self.results.append(result)
        self.answered.set()


class Cursor:
    """Stands for ``psycopg.Cursor``."""

    def __init__(self, raw: Raw) -> None:
        self.connection = raw
        self.rowcount = 0
        self._rows: list[Any] = []

    def __iter__(self) -> Any:
        return iter(self._rows)

    def fetchone(self) -> Any:
        """See psycopg."""
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        """See psycopg."""
        return self._rows

    @property
    def description(self) -> Any:
        """See psycopg."""
        return self._rows or None

    def execute(self, query: str, values: Any = None) -> Cursor:
        """Run a statement."""
        raw = self.connection
        if query.lstrip().startswith("SELECT \nset_config"):
            raw.waits_for_standby = "ELSE 'on'" in query
            return self
        self.rowcount, self._rows = raw.ask(self.work(query, values))
        return self

    def work(self, query: str, values: Any) -> Callable[[], Any]:
        """Return what the server does about a statement."""
        raw, handler = self.connection, _handler(query)

        def work() -> Any:
            if not raw.in_transaction:
                raw.writes = []
                raw.waits_for_standby = "set_config" not in query or "ELSE 'on'" in query
            found = handler(raw, query, values)
            if isinstance(found, list) and (raw.in_transaction or not raw.writes):
                return len(found), found
            return finish(found)

        async def finish(found: Any) -> tuple[int, list[Any]]:
            try:
                rows = found if isinstance(found, list) else await found
                if not raw.in_transaction and raw.writes:
                    await raw.commit()
            finally:
                if not raw.in_transaction:
                    raw.unlock()
            return len(rows), rows

        return work


# The statements. Each returns rows; one that waits is async.


def _given(value: str | None, kind: str, many: bool) -> list[Any]:
    if not many:
        return [value if kind == "text" or value is None else int(value)]
    assert value is not None
    cells = [None if each == "NULL" else each for each in value[1:-1].split(",")]
    return [cell if cell is None else cell[1:-1] if kind == "text" else int(cell) for cell in cells]


_AGAIN = {"placed": ("told", "id"), "attempts": ("answered", "status")}


async def _commit(raw: Raw, query: str, values: Any) -> list[Any]:
    several = values["journal"].startswith("{")
    entries: list[dict[str, Any]] = [
        dict(zip(given, cells, strict=True))
        for given in [[name for name in ("journal", "epoch", "alive", "closed") if name in values]]
        for cells in zip(*(_given(values[name], "bigint", several) for name in given), strict=True)
    ]
    found: list[Any] = []
    for entry in sorted(entries, key=itemgetter("journal")):
        journal, epoch, alive, closed = (entry.get(name) for name in ("journal", "epoch", "alive", "closed"))
        assert journal is not None
        await raw.lock(journal)
        row = raw.server.table("journal").get(journal)
        if row is None or row["epoch"] != epoch:
            continue
        raw.put("journal", journal, row | {"beat": row["beat"] + 1, "state": "live"})
        session = raw.server.table("session").get((journal, epoch))
        if session is not None and (alive is not None or closed is not None):
            told = {"alive": alive or session["alive"], "closed": closed or session["closed"]}
            raw.put("session", (journal, epoch), session | told)
        account = row["account"]
        live = [guard for guard, of in raw.server.table("guard_account") if of == account]
        beats = [raw.server.table("guard")[guard]["beat"] for guard in live if guard in raw.server.table("guard")]
        found.append((journal, sum(beats) if beats else None))
        for attribute, table in _TABLES.items():
            if f"{attribute}_0" in values:
                _insert(raw, attribute, table, values, journal, epoch, account)
    return found


def _insert(raw: Raw, attribute: str, table: Any, values: Any, journal: int, epoch: int | None, account: int) -> None:
    columns = [(place, column) for place, column in enumerate(table.columns) if column is not None]
    many = values[f"{attribute}_0"].startswith("{")
    arrays = [_given(values[f"{attribute}_{place}"], column[1], many) for place, column in columns]
    whose = f"{attribute}_journal"
    of = _given(values[whose], "bigint", many=True) if whose in values else [journal] * len(arrays[0])
    for owner, *cells in zip(of, *arrays, strict=True):
        if owner != journal:
            continue
        row: Row = {"journal": journal} | {column[0]: cell for (_, column), cell in zip(columns, cells, strict=True)}
        if None in table.columns:
            row["session"] = epoch
        key = (journal, cells[0])
        there = raw.server.table(table.name).get(key)
        if there is not None:
            if attribute in _AGAIN:
                raw.put(table.name, key, there | {name: row[name] for name in _AGAIN[attribute]})
            continue
        raw.put(table.name, key, row)
        if attribute == "holds" and row["external"] == 1:
            raw.put("name", (account, row["key"]), {"journal": journal, "hold": row["number"]})


async def _take(raw: Raw, query: str, values: Any) -> list[Any]:
    lease, journal, epoch, *rest = values
    await raw.lock(journal)
    row = raw.server.table("journal")[journal]
    if row["epoch"] != epoch or (rest and row["beat"] != rest[0]):
        return []
    raw.cluster.watcher.locked(raw.server, journal)
    changed = {"epoch": row["epoch"] + 1, "beat": row["beat"] + 1, "state": "live", "lease_ms": lease}
    raw.put("journal", journal, row | changed)
    return [(row["epoch"] + 1,)]


async def _free(raw: Raw, query: str, values: Any) -> list[Any]:
    journal = values["journal"]
    state = "left" if raw.server.contents(journal).left else "free"  # as it was before the lock
    await raw.lock(journal)
    row = raw.server.table("journal")[journal]
    if row["epoch"] != values["epoch"]:
        return []
    raw.put("journal", journal, row | {"state": state, "beat": row["beat"] + 1})
    return [(state,)]


def _acknowledge(raw: Raw, query: str, values: Any) -> list[Any]:
    row = raw.server.table("session").get(values)
    if row is not None:
        raw.put("session", values, row | {"acknowledged": trio.current_time()})
    return []


def _server(raw: Raw, query: str, values: Any) -> list[Any]:
    server = raw.server
    line = None if server.standby else f"{server.timeline:08X}0000000000000001"
    return [(server.standby, server.standby, True, True, server.replicates == "sync", line, "1", 1)]


def _left(raw: Raw, query: str, values: Any) -> list[Any]:
    """Return the last numbers, and all rows, where only those are asked for that tell what is left."""
    journal = values["journal"]

    def last(*tables: str) -> int:
        return max((row[0] for table in tables for row in raw.server.rows(table, journal)), default=0)

    found = None
    if raw.server.contents(journal).left:
        last_sign = _alive(raw.server.tables_of(journal))
        sessions = [[*row[:4], max(row[4], last_sign[row[0]]), row[5]] for row in raw.server.rows("session", journal)]
        found = [URL, sessions, *(_rows(raw, table, columns, journal) for table, columns in COLUMNS.items())]
    return [(last("hold", "intent"), last("attempt", "answer"), found)]


def _alive(tables: Tables) -> Counter[int]:
    last: Counter[int] = Counter()
    session = {row[0]: row[1] for row in tables.intents}
    signs: list[tuple[Any, Any]] = [(row[1], row[4]) for row in (*tables.holds, *tables.intents)]
    signs += [(session[row[0]], row[2]) for row in tables.outcomes if row[0] in session]
    for number, at in signs:
        last[number] = max(last[number], at)
    return last


def _rows(raw: Raw, table: str, columns: str, journal: int) -> list[list[Any]] | None:
    rows = raw.server.table(table).values()
    return sorted([row[column] for column in columns.split(", ")] for row in rows if row["journal"] == journal) or None


def _add_session(raw: Raw, query: str, values: Any) -> list[Any]:
    journal, number, prefix, first, opened, alive = values
    if (journal, number) in raw.server.table("session"):
        raise psycopg.errors.UniqueViolation("a session of this number is there")
    row = {
        "journal": journal,
        "number": number,
        "prefix": prefix,
        "first_attempt": first,
        "opened": opened,
        "alive": alive,
        "closed": None,
        "acknowledged": None,
    }
    raw.put("session", (journal, number), row)
    return []


NEW = -1
"""Stands for the row of whoever makes accounts and journals: a unique index lets one at a time."""


async def _account(raw: Raw, query: str, values: Any) -> list[Any]:
    await raw.lock(NEW)
    accounts = raw.seen("account")
    if not any((row["url"], row["fingerprint"]) == values for row in accounts.values()):
        raw.put("account", len(accounts) + 1, {"url": values[0], "fingerprint": values[1]})
    return []


async def _add_journal(raw: Raw, query: str, values: Any) -> list[Any]:
    await raw.lock(NEW)
    name, lease, url, fingerprint = values
    journals = raw.seen("journal")
    owner = next(
        number for number, row in raw.seen("account").items() if (row["url"], row["fingerprint"]) == (url, fingerprint)
    )
    if all(row["name"] != name for row in journals.values()):
        row = {"name": name, "account": owner, "epoch": 0, "beat": 0, "lease_ms": lease, "state": "free"}
        raw.put("journal", len(journals) + 1, row)
    return []


def _journal_row(raw: Raw, query: str, values: Any) -> list[Any]:
    by = "name" if "WHERE name" in query else "id"
    return [
        (number, row["epoch"], row["beat"], row["lease_ms"], row["state"])
        for number, row in raw.seen("journal").items()
        if values[0] == (row["name"] if by == "name" else number)
    ]


def _owner_of(raw: Raw, query: str, values: Any) -> list[Any]:
    row = raw.seen("account")[values[0]]
    return [(row["url"], row["fingerprint"])]


def _named(raw: Raw, query: str, values: Any) -> list[Any]:
    return [(number, row["account"]) for number, row in raw.seen("journal").items() if row["name"] == values[0]]


def _prefix(raw: Raw, query: str, values: Any) -> list[Any]:
    row = raw.server.table("session").get(values)
    return [] if row is None else [(row["prefix"],)]


def _register(raw: Raw, query: str, values: Any) -> list[Any]:
    raw.cluster.guards += 1
    number = raw.cluster.guards
    raw.put("guard", number, {"beat": 0})
    return [(number,)]


def _guard_beat(raw: Raw, query: str, values: Any) -> list[Any]:
    guard, served = values["guard"], values["served"]
    row = raw.server.table("guard").get(guard)
    if row is not None:
        raw.put("guard", guard, {"beat": row["beat"] + 1})
        there = {account for of, account in raw.server.table("guard_account") if of == guard}
        for account in there.difference(served):
            raw.put("guard_account", (guard, account), None)
        for account in served:
            raw.put("guard_account", (guard, account), {})
    return [(int(row is not None), *journal) for journal in _journals(raw)] or [(int(row is not None), None)]


def _look(raw: Raw, query: str, values: Any) -> list[Any]:
    return [(1, *journal) for journal in _journals(raw)]


def _journals(raw: Raw) -> list[Any]:
    accounts = raw.server.table("account")
    return [
        (number, *row.values(), *accounts[row["account"]].values(), None)  # there is no shared pace
        for number, row in raw.server.table("journal").items()
        if row["state"] != "free"
    ]


def _names_of_others(raw: Raw, query: str, values: Any) -> list[Any]:
    account, journal, keys = values["account"], values["journal"], values["keys"]
    return [
        (key,)
        for (of, key), row in raw.server.table("name").items()
        if of == account and row["journal"] != journal and key in keys
    ]


def _ended(raw: Raw, query: str, values: Any) -> list[Any]:
    return [
        (number,)
        for (journal, number), row in raw.server.table("session").items()
        if journal == values["journal"] and (row["acknowledged"] is not None or row["closed"] is not None)
    ]


def _end_guard(raw: Raw, query: str, values: Any) -> list[Any]:
    raw.put("guard", values[0], None)
    for guard, account in raw.server.table("guard_account"):
        if guard == values[0]:
            raw.put("guard_account", (guard, account), None)
    return []


def _before(raw: Raw, query: str, values: Any) -> Any:
    """Three statements begin with the settings."""
    if "guard" in values:
        return _guard_beat(raw, query, values)
    return _free(raw, query, values) if "left_name" in query else _commit(raw, query, values)


def _constant(*row: Any) -> Callable[[Raw, str, Any], list[Any]]:
    return lambda raw, query, values: [row]


def _nothing(raw: Raw, query: str, values: Any) -> list[Any]:
    return []


_HANDLERS: tuple[tuple[str, Callable[[Raw, str, Any], Any]], ...] = (
    ("WITH before AS MATERIALIZED", _before),
    ("SELECT pg_is_in_recovery()", _server),
    ("SELECT to_regclass", _constant(True)),
    ("SELECT version FROM trio_cancel.format", _constant(VERSION)),
    ("SELECT salt FROM trio_cancel.format", _constant(SALT)),
    ("SELECT id, account FROM trio_cancel.journal WHERE name", _named),
    ("INSERT INTO trio_cancel.account", _account),
    ("INSERT INTO trio_cancel.journal", _add_journal),
    ("SELECT url, fingerprint FROM trio_cancel.account WHERE id", _owner_of),
    ("SELECT id, epoch, beat, lease_ms, state FROM trio_cancel.journal WHERE", _journal_row),
    ("SELECT prefix FROM trio_cancel.session", _prefix),
    ("UPDATE trio_cancel.journal SET epoch = epoch + 1", _take),
    ("UPDATE trio_cancel.session SET acknowledged", _acknowledge),
    ("INSERT INTO trio_cancel.session", _add_session),
    ("WITH name (external, key)", _left),
    ("SELECT min(at) FROM ( SELECT at FROM (SELECT held", _constant(None)),
    ("DELETE FROM trio_cancel.guard WHERE seen", _nothing),
    ("INSERT INTO trio_cancel.guard (name)", _register),
    ("WITH seen AS", _look),
    ("SELECT key FROM trio_cancel.name WHERE account", _names_of_others),
    ("SELECT number FROM trio_cancel.session", _ended),
    ("DELETE FROM trio_cancel.guard WHERE id", _end_guard),
    ("DELETE FROM trio_cancel.pace_member", _nothing),
)
_known: dict[str, Callable[[Raw, str, Any], Any]] = {}


def _handler(query: str) -> Callable[[Raw, str, Any], Any]:
    """Return what answers a statement.

    Raises:
        LookupError: nobody does: the library sends something new.
    """
    if query not in _known:
        text = " ".join(query.split())
        found = [handler for begin, handler in _HANDLERS if text.startswith(begin)]
        if not found:
            raise LookupError(f"the simulated database does not know the statement {text[:100]}")
        _known[query] = found[0]
    return _known[query]
