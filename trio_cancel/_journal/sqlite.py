"""A journal as an SQLite file: its schema, who may open it, one transaction per group of changes. All of it blocks.

WAL with synchronous=FULL: when :meth:`SQLiteStore.commit` has returned, its rows survive a power failure, and others
can read meanwhile. A new file is made under another name and then renamed, so there is either a complete journal or
none. A file that is damaged, of a newer format, not a journal, another account's, or not a regular file is refused
before anything is written. Each commit checks that the files are still in their places, because SQLite goes on writing
to a file that was deleted.
"""

from __future__ import annotations

import hmac
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, LiteralString

import attrs
import trio

from trio_cancel._journal import fork
from trio_cancel._journal.forgetting import ADD_IDS, ALIVE, RECORDS, forget, words
from trio_cancel._journal.lock import Lock, lock
from trio_cancel._journal.rows import Begun, Changes, SessionRow, Tables, spread
from trio_cancel._journal.store import AT_OPENING, DAY, FORKED, HISTORY, Account, StoreFailed
from trio_cancel._values.errors import JournalError
from trio_cancel._values.observer import logger

APPLICATION_ID = 0x7472694A
VERSION = 2
"""Format 1 has neither the table ``placed`` nor the clock of a hold. A journal of that format can be read as it is, and
is brought up to date when it is opened for writing."""

_PLACED = "CREATE TABLE placed (hold INTEGER PRIMARY KEY, told INTEGER NOT NULL, id TEXT);"
_SCHEMA = f"""
CREATE TABLE account (url TEXT NOT NULL, salt BLOB NOT NULL, fingerprint BLOB NOT NULL);
CREATE TABLE session (number INTEGER PRIMARY KEY, prefix TEXT NOT NULL, first_attempt INTEGER NOT NULL,
                      opened INTEGER NOT NULL, alive INTEGER NOT NULL, closed INTEGER);
CREATE TABLE hold    (number INTEGER PRIMARY KEY, session INTEGER NOT NULL, external INTEGER NOT NULL,
                      key TEXT NOT NULL, held INTEGER NOT NULL, clock_low INTEGER, clock_high INTEGER);
{_PLACED}
CREATE TABLE release (hold INTEGER PRIMARY KEY, released INTEGER NOT NULL);
CREATE TABLE intent  (number INTEGER PRIMARY KEY, session INTEGER NOT NULL, external INTEGER NOT NULL,
                      key TEXT NOT NULL, intended INTEGER NOT NULL);
CREATE TABLE attempt (number INTEGER PRIMARY KEY, intent INTEGER NOT NULL, connection INTEGER NOT NULL,
                      written INTEGER NOT NULL, answered INTEGER, status INTEGER);
CREATE TABLE outcome (intent INTEGER PRIMARY KEY, kind TEXT NOT NULL, settled INTEGER NOT NULL, error_code INTEGER);
CREATE TABLE answer  (number INTEGER PRIMARY KEY, intent INTEGER NOT NULL, connection INTEGER NOT NULL,
                      written INTEGER NOT NULL, answered INTEGER NOT NULL, status INTEGER, kind TEXT NOT NULL,
                      error_code INTEGER);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
# In format 1 any cancel that found the name off the book ended the holds of it before that.
_ENDED = """
SELECT hold.number, max(settled) FROM hold
JOIN intent ON intent.external = hold.external AND intent.key = hold.key AND intent.number > hold.number
JOIN (SELECT intent, kind, settled FROM outcome UNION ALL SELECT intent, kind, answered FROM answer) AS ends
  ON ends.intent = intent.number AND ends.kind IN ('canceled', 'already_closed')
WHERE hold.number NOT IN (SELECT hold FROM release) GROUP BY hold.number
"""
_UPDATE = f"""
INSERT INTO release {_ENDED};
ALTER TABLE hold ADD COLUMN clock_low INTEGER;
ALTER TABLE hold ADD COLUMN clock_high INTEGER;
{_PLACED}
PRAGMA user_version = {VERSION};
"""
_TABLES = ("account", "session", "hold", "release", "intent", "attempt", "outcome", "answer")
_AT_ONCE = (128, 64, 32, 16, 8, 4, 2, 1)
"""How many rows one statement inserts: powers of two, so that any number of rows takes few statements."""
_PARAMETERS = 999
"""How many values a statement may have in any version of SQLite."""
_COPIES = 20
"""How often a journal is copied again because its log was begun again meanwhile."""
_WORDS = words(table="{}", value=":{}", schema="main", temp="temp", whose="true")
_TEMP = """
CREATE TEMP TABLE open_name (external INTEGER, key TEXT, PRIMARY KEY (external, key)) WITHOUT ROWID;
CREATE TEMP TABLE unsettled (external INTEGER, key TEXT, last INTEGER, PRIMARY KEY (external, key)) WITHOUT ROWID;
CREATE TEMP TABLE wanted (number INTEGER PRIMARY KEY);
CREATE TEMP TABLE gone (number INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO open_name SELECT external, {name} FROM hold
WHERE NOT EXISTS (SELECT 1 FROM release WHERE release.hold = hold.number);
INSERT INTO unsettled SELECT external, {name}, max(number) FROM intent
WHERE NOT EXISTS (SELECT 1 FROM outcome WHERE outcome.intent = intent.number AND kind <> 'unknown')
AND number NOT IN (SELECT intent FROM answer) GROUP BY 1, 2;
""".format(**_WORDS)
_STILL_UNSETTLED = """
INSERT OR IGNORE INTO open_name SELECT unsettled.external, unsettled.key FROM unsettled LEFT JOIN (
    SELECT external, {name} AS key, max(number) AS last FROM intent
    JOIN (SELECT intent, kind FROM outcome UNION ALL SELECT intent, kind FROM answer) AS ends
        ON ends.intent = intent.number AND kind IN {told}
    WHERE {is_unsettled} GROUP BY 1, 2
) AS told ON told.external = unsettled.external AND told.key = unsettled.key
WHERE told.last IS NULL OR told.last < unsettled.last;
""".format(**_WORDS)
"""The names of which something may be left: the rest of the rows does not matter for them."""
_WANTED = f"""
{ADD_IDS};
INSERT INTO wanted SELECT number FROM hold WHERE {{named}} IN (SELECT external, key FROM open_name);
INSERT INTO wanted SELECT number FROM intent WHERE {{named}} IN (SELECT external, key FROM open_name);
""".format(**_WORDS)
_ALIVE = ALIVE.format(**_WORDS)
_NO_TEMP = "".join(f"DROP TABLE IF EXISTS temp.{table};" for table in ("open_name", "unsettled", "wanted", "gone"))
_LAST = "SELECT max((SELECT ifnull(max(number), 0) FROM {}), (SELECT ifnull(max(number), 0) FROM {}))"


class SQLiteStore:
    """A journal's file, open for writing by one process; in a forked child it does nothing."""

    def __init__(self, path: str, name: str, database: sqlite3.Connection, held: Lock, begun: Begun) -> None:
        self.path = path
        self.begun = begun
        self._database = database
        self._lock = held
        self._process = os.getpid()
        self._files = {name: _identity(name) for name in (name, path, f"{path}-wal", held.path)}

    @classmethod
    def open(cls, path: str | os.PathLike[str], account: Account, prefix: str, now: int) -> SQLiteStore:
        """Open the journal at ``path`` for one session, or make it; see ``open_store``.

        Files beside it have the same name with ``.lock``, ``-wal`` or ``-shm`` after it.
        """
        _size(path)  # before anything is made beside it
        real = os.path.realpath(path)
        _check_beside(real)
        if fork.is_parents(real):
            raise JournalError(
                f"The journal {real} was open when this process was forked, so that SQLite cannot write it safely "
                "here; open it in a process that is not forked from that one, or name another file."
            )
        with ExitStack() as undo:
            held = _lock(real)
            undo.callback(held.release)
            fork.opened(real)
            undo.callback(fork.closed, real)
            with _explained(real):
                database, begun = _open(real, account, prefix, now)
                store = cls(real, os.path.abspath(path), database, held, begun)
            undo.pop_all()
            return store

    def commit(self, changes: Changes) -> None:
        """Commit; see ``JournalStore``. It also fails if the file is not in its place any more."""
        database, session = self._database, self.begun.session
        try:
            self._check_in_place()
            with _transaction(database):
                if database.execute("SELECT max(number) FROM session").fetchone() != (session,):
                    raise StoreFailed("another session has begun to write it")
                for table, rows in changes.rows.items():
                    _insert(database, table, rows)
                if changes.alive is not None:
                    database.execute("UPDATE session SET alive = ? WHERE number = ?", (changes.alive, session))
                if changes.closed is not None:
                    database.execute("UPDATE session SET closed = ? WHERE number = ?", (changes.closed, session))
            self._check_in_place()
        except (sqlite3.Error, OSError, OverflowError) as error:  # OverflowError: a number that SQLite cannot hold
            raise StoreFailed(_reason(error)) from error

    async def commit_in_loop(self, _: Changes, /) -> None:
        """Refuse: a disk is waited for in a thread."""
        raise trio.WouldBlock

    def close(self) -> None:
        """Close the file, and then release its lock."""
        if self._process != os.getpid():
            return
        log = f"{self.path}-wal"
        try:
            # On closing, SQLite deletes the log by its name; it must not delete that of a file which replaced this one.
            in_place = _identity(self.path) == self._files[self.path]
            if in_place and _identity(log) in (None, self._files[log]):
                self._database.close()
                fork.let_go(self._database)
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(_reason(error)) from error
        finally:
            fork.closed(self.path)
            self._lock.release()

    def _check_in_place(self) -> None:
        if self._process != os.getpid():
            raise StoreFailed(FORKED)
        for name, identity in self._files.items():
            found, size = _look(name)
            if found != identity:
                what = "moved or deleted" if found is None else "replaced"
                raise StoreFailed(f"{name} was {what} while it was open")
            if not size and name == self.path:  # the log may be empty: SQLite moves its content into the file
                raise StoreFailed(f"{name} was emptied while it was open")


def read_tables(path: str | os.PathLike[str]) -> Tables:
    """Read a journal; see ``_journal.stores``.

    If SQLite cannot read it in its place (it needs to write beside it), a copy is read.
    """
    if _size(path) is None:
        raise JournalError(f"There is no journal at {os.path.realpath(path)}; check the path.")
    real = os.path.realpath(path)
    _check_beside(real)
    lost = _lacks_log(real)
    with _explained(real):
        tables = _read(real)
    if lost and _lacks_log(real) and tables.sessions and tables.sessions[-1].closed is None:
        _warn_of_lost_log(real)
    return tables


def _read(real: str) -> Tables:
    reason = "it was open when this process was forked"
    if not fork.is_parents(real):
        try:
            with fork.using(real), closing(_connect(real, "ro")) as database:
                return _read_all(real, database)
        except sqlite3.OperationalError as error:
            if fork.is_open(real):  # closing the file that is copied would undo SQLite's locks on it in this process
                raise
            reason = _reason(error)
    try:
        with tempfile.TemporaryDirectory(prefix="trio-cancel-") as directory:
            copy = os.path.join(directory, "journal")
            _copy(real, copy)
            with closing(_connect(copy, "rw")) as database:
                return _read_all(real, database)
    except OSError as error:
        where = "" if error.filename in (None, real) else f" of {error.filename}"
        raise JournalError(
            f"The journal {real} cannot be read in its place ({reason}), nor a copy of it ({_reason(error)}{where}); "
            f"copy it and {real}-wal, if there is one, to where you can write, and read that."
        ) from error


def _read_all(real: str, database: sqlite3.Connection) -> Tables:
    database.execute("BEGIN")  # so that all of it is of one moment
    _check_format(real, database)
    return _tables(database)


def _tables(database: sqlite3.Connection, *, wanted: bool = False) -> Tables:
    """Return the rows of a journal: all, or those of the holds and intents that are ``wanted``."""

    def rows(table: str) -> list[Any]:
        which = f"WHERE {RECORDS[table]} IN (SELECT number FROM wanted)" if wanted and table in RECORDS else ""
        return database.execute(f"SELECT * FROM {table} {which} ORDER BY 1").fetchall()

    old = _version(database) < VERSION
    return Tables(
        rows("account")[0][0],
        [SessionRow(*row) for row in rows("session")],
        [(*row, None, None) for row in rows("hold")] if old else rows("hold"),
        [*rows("release"), *database.execute(_ENDED)] if old else rows("release"),
        rows("intent"),
        *spread(rows("answer"), rows("attempt"), rows("outcome")),
        placed=[] if old else rows("placed"),
    )


def _copy(real: str, copy: str) -> None:
    """Copy a journal and its log as of one moment, perhaps while they are being written.

    First the file, then the log. What is written into the file meanwhile comes from the log, where it stays until the
    log is begun again; that can be seen at its head.
    """
    for _ in range(_COPIES):
        before = _heads(real)
        shutil.copyfile(real, copy)
        with suppress(FileNotFoundError):
            os.unlink(f"{copy}-wal")
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{real}-wal", f"{copy}-wal")
        if _heads(real) == before:
            return
    raise OSError("it was changing all the time")


def _heads(real: str) -> tuple[object, ...]:
    try:
        with open(f"{real}-wal", "rb") as log:
            head = log.read(32)
    except FileNotFoundError:
        head = b""
    if head:
        return _identity(real), head
    found = os.stat(real)  # no log: the file itself must not have changed
    return _identity(real), found.st_size, found.st_mtime_ns


def _size(path: str | os.PathLike[str]) -> int | None:
    """Return the size of a file, None if there is none. Anything but a file is refused."""
    name = os.fspath(path)
    try:
        found = os.stat(name)
    except FileNotFoundError:
        if name and not name.endswith(os.sep):
            return None
        raise JournalError(f"The journal {name!r} cannot be opened: that names no file; name a file.") from None
    except (OSError, ValueError) as error:
        raise JournalError(f"The journal {name!r} cannot be opened ({_reason(error)}); check its path.") from error
    if not stat.S_ISREG(found.st_mode):
        raise JournalError(
            f"The journal {name} cannot be opened: that is a {_kind(found.st_mode)}, not a regular file; "
            "it was left as it is. Name a file."
        )
    return found.st_size


def _check_beside(real: str) -> None:
    """Refuse what SQLite would take for its own file beside the journal, and might wait for forever."""
    for suffix in ("-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            mode = os.stat(real + suffix).st_mode
            if not stat.S_ISREG(mode):
                raise JournalError(
                    f"The journal {real} cannot be opened: {real}{suffix}, which SQLite uses with it, is a "
                    f"{_kind(mode)}, not a regular file. Move that away, or name another file."
                )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "directory",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from every other, or None if there is no file of this name."""
    return _look(path)[0]


def _look(path: str) -> tuple[tuple[int, int] | None, int]:
    """Return what tells a file from every other, or None if there is no file of this name; and its size."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    return (found.st_dev, found.st_ino), found.st_size


def _lacks_log(real: str) -> bool:
    try:
        return not os.stat(f"{real}-wal").st_size
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _warn_of_lost_log(real: str) -> None:
    logger.warning(
        "the last session of the journal %s did not end in an orderly way, and %s-wal, where it writes first, is not "
        "there: if the journal was copied or moved without it, what was recorded last is missing",
        real,
        real,
    )


def _insert(database: sqlite3.Connection, table: str, rows: list[tuple[int | str | None, ...]]) -> None:
    """Insert rows, many with one statement, because a statement costs more than a row."""
    width = len(rows[0]) if rows else 0
    at = 0
    for count in _AT_ONCE:
        while count * width <= _PARAMETERS and len(rows) - at >= count:
            some = rows[at : at + count]
            database.execute(_statement(table, width, count), tuple(chain.from_iterable(some)))
            at += count


@cache
def _statement(table: str, width: int, count: int) -> str:
    row = f"({','.join('?' * width)})"
    # "OR REPLACE", because an attempt is written again once it is answered, and so are rows whose commit failed.
    return f"INSERT OR REPLACE INTO {table} VALUES {','.join([row] * count)}"


def _open(real: str, account: Account, prefix: str, now: int) -> tuple[sqlite3.Connection, Begun]:
    if not _size(real):
        _make(real, account)
    lost = _lacks_log(real)
    with closing(_connect(real, "ro")) as database:
        _check(real, database, account)
        last = database.execute("SELECT closed FROM session ORDER BY number DESC LIMIT 1").fetchone()
    if lost and last == (None,):
        _warn_of_lost_log(real)
    database = _connect(real, "rw")
    fork.keep_for_ever(database)
    try:
        _prepare(database)
        begun = _begin(database, prefix, now)
        # So that a copy of the file without its log shows that it was in use.
        database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except BaseException:
        database.close()
        fork.let_go(database)
        raise
    return database, begun


@contextmanager
def _transaction(database: sqlite3.Connection) -> Generator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some failures have rolled back already
            database.execute("ROLLBACK")
        raise


def _prepare(database: sqlite3.Connection) -> None:
    """Make commits durable, and bring an older format up to date."""
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    if _version(database) < VERSION:
        database.executescript(f"BEGIN; {_UPDATE} COMMIT;")


def _connect(path: str, mode: str) -> sqlite3.Connection:
    uri = f"{Path(path).as_uri()}?mode={mode}"
    # There is one call at a time, but each may be in another thread.
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _lock(path: str) -> Lock:
    try:
        return lock(path)
    except BlockingIOError:
        raise JournalError(
            f"The journal {path} is being written by another session; end that one first, or name another file."
        ) from None
    except OSError as error:
        raise JournalError(
            f"The journal {path} cannot be locked ({_reason(error)}); check its directory and its permissions."
        ) from error


def _make(path: str, account: Account) -> None:
    """Make an empty journal, completely or not at all."""
    log = f"{path}-wal"
    if os.path.exists(log) and os.path.getsize(log):
        raise JournalError(
            f"The journal {path} is missing, but {log}, a part of it, is there; "
            "put the journal back beside it, or name another file."
        )
    beside = f"{path}.new-journal"
    with suppress(FileNotFoundError):
        os.unlink(beside)  # left by a process that died here; because of the lock, no other process is here now
    with closing(sqlite3.connect(beside, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        salt = os.urandom(16)
        database.execute("INSERT INTO account VALUES (?, ?, ?)", (account.url, salt, account.fingerprint(salt)))
    os.replace(beside, path)
    if hasattr(os, "O_DIRECTORY"):  # where a directory can be synced, the name is durable as well
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _check(path: str, database: sqlite3.Connection, account: Account) -> None:
    _check_format(path, database)
    found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found.rpartition("\n")[2])  # the line before only says "in database main"
    url, salt, fingerprint = database.execute("SELECT url, salt, fingerprint FROM account").fetchone()
    if not hmac.compare_digest(fingerprint, account.fingerprint(salt)):
        raise JournalError(
            f"The journal {path} belongs to another account; use the credentials that it was written with, "
            "or name another file."
        )
    if url != account.url:
        raise JournalError(f"The journal {path} belongs to {url}, not {account.url}; name another file.")


def _check_format(path: str, database: sqlite3.Connection) -> None:
    """Raise JournalError unless it is a journal that we can read, or sqlite3.DatabaseError if it is damaged."""
    application = database.execute("PRAGMA application_id").fetchone()[0]
    version = _version(database)
    if application != APPLICATION_ID:
        raise JournalError(f"The file {path} is not a trio_cancel journal; it was left as it is. Name another file.")
    if version > VERSION:
        raise JournalError(
            f"The journal {path} was written by a newer trio_cancel (format {version}, this one knows {VERSION}); "
            "it was left as it is. Update trio_cancel, or name another file."
        )
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version < 1 or not tables.issuperset(_TABLES) or (version == VERSION and "placed" not in tables):
        raise sqlite3.DatabaseError("tables are missing")
    if database.execute("SELECT count(*) FROM account").fetchone()[0] != 1:
        raise sqlite3.DatabaseError("its account is missing")


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


@contextmanager
def _open_names(database: sqlite3.Connection) -> Generator[bool]:
    """Find the names of which something may be left, for the block; yield whether there are any."""
    try:
        database.executescript(_TEMP)
        if database.execute("SELECT 1 FROM unsettled LIMIT 1").fetchone() is not None:
            database.execute(_STILL_UNSETTLED)
        some = database.execute("SELECT 1 FROM open_name LIMIT 1").fetchone() is not None
        if some:
            database.executescript(_WANTED)
        yield some
    finally:
        database.executescript(_NO_TEMP)


def _left(database: sqlite3.Connection) -> Tables:
    """Return the rows that tell what was left; the others are not read, because a journal may be large."""
    alive: dict[int, int] = dict(database.execute(_ALIVE).fetchall())
    tables = _tables(database, wanted=True)
    sessions = [row._replace(alive=max(row.alive, alive.get(row.number, 0))) for row in tables.sessions]
    return attrs.evolve(tables, sessions=sessions)


def _begin(database: sqlite3.Connection, prefix: str, now: int) -> Begun:
    with _open_names(database) as some:
        left = _left(database) if some else None
        try:
            _compact(database, now - HISTORY * DAY, AT_OPENING)
        except sqlite3.Error as error:  # perhaps a full disk; the journal is only larger than it need be
            logger.warning("the journal could not be compacted (%s); it goes on as it is", _reason(error))
    (number,) = database.execute(_LAST.format("hold", "intent")).fetchone()
    (attempt,) = database.execute(_LAST.format("attempt", "answer")).fetchone()
    cursor = database.execute(
        "INSERT INTO session (prefix, first_attempt, opened, alive) VALUES (?, ?, ?, ?)", (prefix, attempt, now, now)
    )
    assert cursor.lastrowid is not None
    return Begun(cursor.lastrowid, number + 1, attempt, left)


def _compact(database: sqlite3.Connection, before: int, most: int) -> int:
    """Forget, within :func:`_open_names`, what was settled before a time; see :func:`forget`."""

    def execute(statement: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        return database.execute(statement, values).fetchall()

    with _transaction(database):
        return forget(execute, _WORDS, {"before": before, "most": most})


def compact(path: str | os.PathLike[str], before: int) -> int:
    """Forget what was settled before a time, and give the room back; see ``_journal.stores``.

    A crash meanwhile leaves the journal as it was, or compacted.
    """
    if not _size(path):
        raise JournalError(f"There is no journal at {os.path.realpath(path)}; check the path.")
    real = os.path.realpath(path)
    if fork.is_parents(real):
        raise JournalError(f"The journal {real} was open when this process was forked; compact it in another process.")
    _check_beside(real)
    held = _lock(real)
    try:
        with fork.using(real), _explained(real):
            with closing(_connect(real, "ro")) as database:
                _check_format(real, database)
            with closing(_connect(real, "rw")) as database:
                _prepare(database)
                with _open_names(database):
                    count = _compact(database, before, 2**62)
                database.execute("VACUUM")
                return count
    finally:
        held.release()


@contextmanager
def _explained(path: str) -> Generator[None]:
    """Raise a JournalError that says in one sentence why a journal cannot be opened."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise JournalError(
            f"The journal {path} cannot be opened ({_reason(error)}); check its path, its permissions and the disk."
        ) from error
    except sqlite3.DatabaseError as error:
        raise JournalError(
            f"The journal {path} is damaged or not a journal ({_reason(error)}); it was left as it is. "
            "Move it away, or name another file."
        ) from error
    except OSError as error:
        raise JournalError(
            f"The journal {path} cannot be opened ({_reason(error)}); check its path and its permissions."
        ) from error


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0] or type(error).__name__
