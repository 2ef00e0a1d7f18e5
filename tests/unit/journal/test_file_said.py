"""What a journal's file says when it cannot be used, in full; its first format; and what outlives a failed commit."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.tools.journals import ACCOUNT
from trio_cancel import Credentials, JournalError
from trio_cancel._journal import forgetting, fork, sqlite
from trio_cancel._journal.opening import _Thread
from trio_cancel._journal.rows import Changes
from trio_cancel._journal.sqlite import SQLiteStore, compact, read_tables
from trio_cancel._journal.store import FORKED, Account, StoreFailed
from trio_cancel._journal.stores import is_missing, migrate
from trio_cancel._values.errors import ConfigurationError
from trio_cancel.journal import read_journal

HOLD = Changes(holds=[(1, 1, 1, "x", 1, None, None)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "the.journal"


def open_store(path: Path) -> SQLiteStore:
    return SQLiteStore.open(path, ACCOUNT, "p", 5)


def said(act: Any, *arguments: object) -> str:
    with pytest.raises((JournalError, ConfigurationError, StoreFailed)) as caught:
        act(*arguments)
    return str(caught.value)


def the_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had been forked from one that has every journal open."""
    monkeypatch.setattr(fork, "is_parents", lambda _: True)


def test_what_is_no_regular_file(path: Path) -> None:
    path.mkdir()
    assert said(open_store, path) == (
        f"The journal {path} cannot be opened: that is a directory, not a regular file; "
        "it was left as it is. Name a file."
    )
    assert [sqlite._kind(kind) for kind in (stat.S_IFBLK, stat.S_IFCHR, 0)] == ["device", "device", "special file"]


def test_a_lock_that_is_a_pipe(path: Path) -> None:
    os.mkfifo(f"{path}.lock")
    assert said(open_store, path) == (
        f"The journal {path} cannot be locked ({path}.lock is not a file); check its directory and its permissions."
    )


def test_a_lock_that_sqlite_cannot_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_cancel._journal.lock.HAS_FLOCK", False)
    path = tmp_path / "nowhere" / "x"
    assert said(open_store, path) == (
        f"The journal {path} cannot be locked (unable to open database file); check its directory and its permissions."
    )


def test_a_log_without_its_journal(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"what was committed last")
    assert said(open_store, path) == (
        f"The journal {path} is missing, but {path}-wal, a part of it, is there; "
        "put the journal back beside it, or name another file."
    )


def test_a_journal_of_another(path: Path) -> None:
    open_store(path).close()
    assert read_tables(path).url == ACCOUNT.url
    other = Account(ACCOUNT.url, Credentials("another-token-of-a-bot", "another-secret-of-a-bot"))
    assert said(SQLiteStore.open, path, other, "p", 5) == (
        f"The journal {path} belongs to another account; use the credentials that it was written with, "
        "or name another file."
    )
    elsewhere = Account("ws://elsewhere", ACCOUNT.credentials)
    assert said(SQLiteStore.open, path, elsewhere, "p", 5) == (
        f"The journal {path} belongs to {ACCOUNT.url}, not ws://elsewhere; name another file."
    )


NONE_OF_OURS = "The file {} is not a trio_cancel journal; it was left as it is. Name another file."
NEWER = (
    "The journal {} was written by a newer trio_cancel (format 3, this one knows 2); it was left as it is. "
    "Update trio_cancel, or name another file."
)
LACKS_TABLES, LACKS_ACCOUNT = (
    f"The journal {{}} is damaged or not a journal ({what}); it was left as it is. Move it away, or name another file."
    for what in ("tables are missing", "its account is missing")
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("PRAGMA application_id = 7", NONE_OF_OURS),
        ("PRAGMA user_version = 3", NEWER),
        ("PRAGMA user_version = 0", LACKS_TABLES),
        ("DROP TABLE answer", LACKS_TABLES),
        ("DROP TABLE placed", LACKS_TABLES),
        ("DELETE FROM account", LACKS_ACCOUNT),
        ("INSERT INTO account SELECT * FROM account", LACKS_ACCOUNT),
    ],
)
def test_a_file_that_is_no_journal_of_ours(path: Path, change: str, sentence: str) -> None:
    open_store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(change)
    for act in (open_store, read_tables):
        assert said(act, path) == sentence.format(path)
    assert said(compact, path, 0) == sentence.format(path)


def test_a_file_that_is_being_written(path: Path) -> None:
    store = open_store(path)
    sentence = f"The journal {path} is being written by another session; end that one first, or name another file."
    assert said(open_store, path) == sentence
    assert said(compact, path, 0) == sentence
    store.close()


def test_a_copy_is_of_one_moment_if_the_log_was_not_begun_anew(path: Path) -> None:
    store = open_store(path)
    store.commit(HOLD)
    before = sqlite._heads(str(path))
    store.commit(Changes(alive=7))
    assert sqlite._heads(str(path)) == before
    store._database.execute("PRAGMA wal_checkpoint(RESTART)")
    store.commit(Changes(alive=8))
    assert sqlite._heads(str(path)) != before
    store.close()
    before = sqlite._heads(str(path))
    with path.open("ab") as file:
        file.write(b"x")
    assert sqlite._heads(str(path)) != before
    # Without a log, a change that leaves the size as it was shows in the time of it.
    kept = path.stat().st_mtime_ns
    before = sqlite._heads(str(path))
    os.utime(path, ns=(kept, kept + 1_000_000_000))
    assert sqlite._heads(str(path)) != before


def test_a_file_that_sqlite_finds_damaged_is_told_with_what_it_found(path: Path) -> None:
    open_store(path).close()
    with path.open("r+b") as file:
        file.seek(36)  # how many pages are said to be free
        file.write((7).to_bytes(4, "big"))
    with closing(sqlite3.connect(path)) as database:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    _, finding = found.splitlines()  # the first line only names SQLite's "main"
    assert said(open_store, path) == (
        f"The journal {path} is damaged or not a journal ({finding}); it was left as it is. "
        "Move it away, or name another file."
    )


def test_a_compaction_that_fails_undoes_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(path)
    store.commit(
        Changes(holds=[(n, 1, 1, f"x{n}", 1, None, None) for n in (1, 2, 3)], releases=[(n, 2) for n in (1, 2, 3)])
    )
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        monkeypatch.setattr(forgetting, "_FORGET_SESSIONS", "DELETE FROM nowhere")
        for _ in range(2):  # what is left open would refuse the next one: no transaction within a transaction
            with sqlite._open_names(database), pytest.raises(sqlite3.OperationalError, match="nowhere"):
                sqlite._compact(database, 10, 100)
            assert not database.in_transaction
        assert database.execute("SELECT count(*) FROM hold").fetchone() == (3,)


def test_a_journal_that_a_parent_has_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(path)
    store.commit(HOLD)
    store.close()
    the_parents(monkeypatch)
    assert said(open_store, path) == (
        f"The journal {path} was open when this process was forked, so that SQLite cannot write it safely here; "
        "open it in a process that is not forked from that one, or name another file."
    )
    assert said(compact, path, 0) == (
        f"The journal {path} was open when this process was forked; compact it in another process."
    )
    assert [row[3] for row in read_tables(path).holds] == ["x"]  # a copy of it


def test_a_journal_of_which_no_copy_comes_to_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(path).close()
    the_parents(monkeypatch)
    numbers = count()
    monkeypatch.setattr(sqlite, "_heads", lambda _: next(numbers))
    last = f"copy it and {path}-wal, if there is one, to where you can write, and read that."
    assert said(read_tables, path) == (
        f"The journal {path} cannot be read in its place (it was open when this process was forked), "
        f"nor a copy of it (it was changing all the time); {last}"
    )
    gone = f"{path}-shm"
    monkeypatch.setattr(sqlite, "_copy", lambda *_: os.stat(gone))
    assert f"nor a copy of it (No such file or directory of {gone}); " in said(read_tables, path)


async def test_a_child_writes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, thread = open_store(path), _Thread()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        assert said(store.commit, HOLD) == FORKED
        with pytest.raises(StoreFailed) as caught:
            await thread(store.commit, HOLD)
        assert str(caught.value) == FORKED
        store.close()
    store.commit(HOLD)  # its parent's close did nothing
    store.close()
    assert [row[3] for row in read_tables(path).holds] == ["x"]


def test_a_commit_that_failed_says_why_and_leaves_nothing_begun(path: Path) -> None:
    store = open_store(path)
    assert "too large" in said(store.commit, Changes(alive=2**80))
    store.commit(Changes(alive=7))
    for _ in range(2):
        store._database.execute("UPDATE session SET number = number + 1")
        assert said(store.commit, HOLD) == "another session has begun to write it"
        store._database.execute("UPDATE session SET number = number - 1")
        store.commit(Changes(alive=8))
    store.close()
    (session,) = read_tables(path).sessions
    assert (session.alive, session.closed) == (8, None)
    assert read_tables(path).holds == []


def test_a_store_is_used_in_one_thread_after_another(path: Path) -> None:
    store = open_store(path)
    for act in (lambda: store.commit(HOLD), lambda: store.commit(Changes(closed=9)), store.close):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
    assert not Path(f"{path}-wal").exists()
    tables = read_tables(path)
    assert ([row[3] for row in tables.holds], tables.sessions[0].closed) == (["x"], 9)


def test_a_journal_that_was_made_and_never_used_is_empty(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sqlite._make(str(path), ACCOUNT)
    assert read_tables(path).sessions == []
    open_store(path).close()
    assert not caplog.records


@pytest.mark.parametrize("closed", [None, 9])
def test_a_log_that_is_lost_is_told_if_it_was_in_use(
    path: Path, closed: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(path)
    store.commit(Changes(closed=closed, alive=7))
    copy = path.with_name("copy")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, copy)
    store.close()
    for act in (read_tables, open_store):
        caplog.clear()
        act(copy)
        assert [record.levelno for record in caplog.records] == ([] if closed else [logging.WARNING])
        if not closed:
            assert f"the last session of the journal {copy} did not end in an orderly way" in caplog.text


@pytest.mark.parametrize("lacks", [(True, False), (False, True)])
def test_a_log_that_comes_or_goes_while_a_journal_is_read_is_not_lost(
    lacks: tuple[bool, bool], path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(path)
    answers = iter(lacks)
    monkeypatch.setattr(sqlite, "_lacks_log", lambda _: next(answers))
    read_tables(path)
    assert not caplog.records
    store.close()


def test_the_log_of_another_is_not_taken_along(path: Path) -> None:
    store = open_store(path)
    store.commit(HOLD)
    log = Path(f"{path}-wal")
    log.unlink()
    log.write_bytes(b"of another")
    store.close()
    assert log.read_bytes() == b"of another"
    store._database.close()


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="there no directory can be synced")
def test_the_name_of_a_new_journal_outlives_a_power_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []

    def fsync(file: int) -> None:
        found = os.fstat(file)
        synced.append((found.st_dev, found.st_ino))

    monkeypatch.setattr(os, "fsync", fsync)
    open_store(path).close()
    found = path.parent.stat()
    assert synced == [(found.st_dev, found.st_ino)]
    open_store(path).close()
    assert len(synced) == 1


def _first_format(path: Path) -> None:
    store = open_store(path)
    store.commit(
        Changes(
            holds=[
                (1, 1, 1, "ended", 1, None, None),
                (2, 1, 1, "released", 1, None, None),
                (3, 1, 1, "o", 1, None, None),
            ],
            releases=[(2, 4)],
            intents=[(4, 1, 1, "ended", 2)],
            outcomes=[(4, "already_closed", 3, None)],
        )
    )
    store.close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "DROP TABLE placed; ALTER TABLE hold DROP COLUMN clock_low; ALTER TABLE hold DROP COLUMN clock_high;"
            "PRAGMA user_version = 1;"
        )


def test_a_journal_of_format_1_is_read_and_written(path: Path) -> None:
    _first_format(path)
    for _ in range(2):
        found = {order.request.key: order.holds[0].released_at for order in read_journal(path).orders}
        assert found == {"ended": 3e-6, "released": 4e-6, "o": None}
        assert [order.request.key for order in read_journal(path).left] == ["o"]
        store = open_store(path)
        store.commit(Changes(placed=[(3, 5, "the-id")], closed=7))
        store.close()
    (order,) = read_journal(path).left
    assert order.open_holds[0].order_id == "the-id"


def test_in_format_2_a_cancel_of_the_name_ends_no_hold(path: Path) -> None:
    store = open_store(path)
    store.commit(
        Changes(
            holds=[(1, 1, 1, "x", 1, None, None)],
            intents=[(2, 1, 1, "x", 2)],
            outcomes=[(2, "already_closed", 3, None)],
        )
    )
    store.close()
    assert [order.request.key for order in read_journal(path).left] == ["x"]


def test_a_journal_of_format_1_is_compacted(path: Path) -> None:
    _first_format(path)
    assert compact(path, 0) == 0
    assert [order.request.key for order in read_journal(path).left] == ["o"]


def test_a_journal_is_compacted_however_large_it_is(path: Path) -> None:
    numbers = range(1, 502)
    store = open_store(path)
    store.commit(
        Changes(
            holds=[(number, 1, 1, f"x{number}", 1, None, None) for number in numbers],
            releases=[(number, 2) for number in numbers],
        )
    )
    store.close()
    assert compact(path, 10) == 500  # the newest one keeps the count
    assert [row[0] for row in read_tables(path).holds] == [501]


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(), "OSError"), (ValueError("a\nb"), "a"), (OSError(2, "No such file"), "No such file")]
)
def test_a_reason_is_one_line_and_never_empty(error: Exception, told: str) -> None:
    assert sqlite._reason(error) == told


def test_where_nothing_is_yet(path: Path) -> None:
    assert is_missing(path)
    assert not is_missing(path.parent)
    assert not is_missing(path / "x" / "y")
    Path(f"{path}-wal").touch()
    assert not is_missing(path)
    Path(f"{path}-wal").unlink()
    open_store(path).close()
    assert not is_missing(path)


def test_a_file_has_no_tables_to_make(path: Path) -> None:
    assert said(migrate, path) == "Only a database has tables to make; a file is made when it is opened."
