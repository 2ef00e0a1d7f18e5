"""A journal's smaller promises: what its file says of itself, what is forgotten, what is left, who has the lock."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.journals import ACCOUNT, Executor, MemoryStore
from trio_cancel import InvalidRequest, JournalError
from trio_cancel._journal.journal import Journal
from trio_cancel._journal.left import NAMED_MOST, LeftBehind, names_of
from trio_cancel._journal.lock import HAS_FLOCK, is_locked, lock
from trio_cancel._journal.reading import JournalOrder, contents_of
from trio_cancel._journal.rows import Changes, HoldRow, PlacedRow, Tables
from trio_cancel._journal.sqlite import SQLiteStore, compact, read_tables
from trio_cancel._journal.store import StoreFailed
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import AlreadyClosed, NotFound, Outcome, Rejected, VenueReply

DAY = 86_400_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "the.journal"


def write(path: Path, changes: Changes, now: int = 0) -> SQLiteStore:
    """Commit in a session of its own, which is left open."""
    store = SQLiteStore.open(path, ACCOUNT, "p", now)
    store.commit(changes)
    return store


def some(at: int = 0) -> Changes:
    """A row for each table: a hold that was released, one that was not, a cancel that told, and an open one."""
    return Changes(
        holds=[(1, 1, 1, "gone", at, 1, 2), (2, 1, 1, "held", at, None, None)],
        placed=[(1, at, "venue-id")],
        releases=[(1, at)],
        intents=[(3, 1, 0, "told", at), (4, 1, 0, "open", at), (5, 1, 0, "answered", at)],
        attempts=[(1, 3, 1, at, at, 200), (2, 4, 1, at, None, None)],
        outcomes=[(3, "canceled", at, None)],
        answers=[(3, 5, 1, at, at, 200, "canceled", None)],
        alive=at + 5,
    )


# What stands in the file


def _delete(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [(_delete, "was moved or deleted while"), (_replace, "was replaced while"), (_empty, "was emptied while")],
)
def test_what_became_of_the_file_is_told(path: Path, change: Any, told: str) -> None:
    store = write(path, some())
    change(path)
    with pytest.raises(StoreFailed, match=f"^{path} {told} it was open$"):
        store.commit(Changes(alive=7))
    store.close()


def test_a_log_that_somebody_moved_into_the_file_is_no_failure(path: Path) -> None:
    store = write(path, some())
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    other.close()
    assert Path(f"{path}-wal").stat().st_size == 0
    store.commit(Changes(alive=7))
    store.close()
    assert read_tables(path).sessions[0].alive == 7


def test_a_close_that_fails_says_why_and_frees_the_lock(path: Path) -> None:
    class Failing:
        def close(self) -> None:
            raise sqlite3.OperationalError("disk I/O error")

    store = write(path, some())
    database, store._database = store._database, Failing()  # type: ignore[assignment]  # what fails
    with pytest.raises(StoreFailed, match="disk I/O error"):
        store.close()
    assert not is_locked(str(path))
    database.close()


# The lock


@pytest.mark.skipif(not HAS_FLOCK, reason="only files that can be locked tell")
def test_who_looks_at_the_lock_leaves_it_as_it_is(path: Path) -> None:
    assert is_locked(str(path)) is None
    store = write(path, some())
    files = len(os.listdir("/proc/self/fd"))
    assert [is_locked(str(path)) for _ in range(3)] == [True] * 3
    assert len(os.listdir("/proc/self/fd")) == files
    store.close()
    assert [is_locked(str(path)) for _ in range(3)] == [False] * 3
    write(path, Changes(alive=1)).close()


@pytest.mark.skipif(not HAS_FLOCK, reason="only there it is a file of its own kind")
def test_the_locks_file_is_no_program(path: Path) -> None:
    lock(str(path)).release()
    assert not Path(f"{path}.lock").stat().st_mode & 0o111


@pytest.mark.skipif(not HAS_FLOCK, reason="only files that can be locked tell")
def test_looking_at_a_lock_that_is_a_pipe_waits_for_nobody(path: Path) -> None:
    os.mkfifo(f"{path}.lock")
    assert is_locked(str(path)) is False


@pytest.mark.skipif(not HAS_FLOCK, reason="only there the file can be another by then")
def test_a_lock_whose_file_is_removed_meanwhile_is_taken_on_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flock, made = fcntl.flock, set[int]()

    def removing(file: int, operation: int) -> None:
        if not made:
            os.unlink(f"{path}.lock")
        made.add(file)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removing)
    held = lock(str(path))
    assert is_locked(str(path))
    held.release()

    def always_removing(file: int, operation: int) -> None:
        os.unlink(f"{path}.lock")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", always_removing)
    with pytest.raises(OSError, match=r"the\.journal\.lock was being replaced all the time$"):
        lock(str(path))


def test_where_sqlite_locks_any_thread_may_free_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_cancel._journal.lock.HAS_FLOCK", False)
    held = lock(str(path))
    with pytest.raises(BlockingIOError):
        lock(str(path))
    thread = threading.Thread(target=held.release)
    thread.start()
    thread.join()
    lock(str(path)).release()


# What is forgotten


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b"")])
def test_there_is_nothing_to_compact_where_there_is_no_journal(path: Path, make: Any) -> None:
    make(path)
    with pytest.raises(JournalError, match=f"^There is no journal at {path}; check the path.$"):
        compact(path, 0)


def test_what_is_no_journal_is_not_compacted(path: Path) -> None:
    path.write_text("a text" * 1000)
    with pytest.raises(JournalError, match=f"{path} is damaged or not a journal"):
        compact(path, 0)
    assert path.read_text() == "a text" * 1000
    assert not is_locked(str(path))


# What was left


def left(*names: str, placed: dict[str, str] | None = None, tried: tuple[str, ...] = ()) -> tuple[JournalOrder, ...]:
    """What is left of holds by external id, some of them with the venue's id, and of cancels that told nothing."""
    order_ids = placed or {}
    holds: list[HoldRow] = [(number, 1, 1, name, 0, None, None) for number, name in enumerate(names, 1)]
    said: list[PlacedRow] = [(number, 0, order_ids[name]) for number, name in enumerate(names, 1) if name in order_ids]
    intents = [(100 + number, 1, 1, name, 0) for number, name in enumerate(tried)]
    tables = Tables(ACCOUNT.url, [], holds, [], intents, [], [], placed=said)
    return contents_of(tables).left


def closed(request: CancelRequest) -> Outcome:
    return AlreadyClosed(request, error=VenueReply(400, 40408, ""), closed_as=None)


def missing(request: CancelRequest) -> Outcome:
    return NotFound(request, error=VenueReply(404, 40401, ""))


def test_as_many_names_as_a_sentence_holds() -> None:
    orders = left(*(f"n{number}" for number in range(NAMED_MOST + 2)))
    assert names_of(orders[:2]) == "n0, n1"
    assert names_of(orders[:NAMED_MOST]) == ", ".join(f"n{number}" for number in range(NAMED_MOST))
    assert names_of(orders[: NAMED_MOST + 1]).endswith("n9 and 1 more")
    assert names_of(orders).endswith("n9 and 2 more")


def test_only_the_venues_id_ends_a_hold_that_was_left() -> None:
    behind = LeftBehind(left("a", "b", "c", placed={"a": "id-a", "b": "id-b"}))
    behind.settled(closed(CancelRequest(external_id="a")))  # perhaps of an older order of that name
    behind.settled(missing(CancelRequest("id-a")))
    behind.settled(Rejected(CancelRequest("id-a"), error=VenueReply(400, 1, "")))
    behind.settled(closed(CancelRequest("another")))
    assert [order.request.key for order in behind.orders] == ["a", "b", "c"]
    behind.settled(closed(CancelRequest("ID-A")))
    assert [order.request.key for order in behind.orders] == ["b", "c"]
    behind.settled(closed(CancelRequest("id-a")))  # once more
    assert [order.request.key for order in behind.orders] == ["b", "c"]


def test_a_cancel_that_told_nothing_is_settled_by_one_that_does() -> None:
    behind = LeftBehind(left("held", tried=("held", "tried", "other")))
    behind.settled(missing(CancelRequest(external_id="tried")))
    behind.settled(closed(CancelRequest(external_id="held")))
    found = {order.request.key: (bool(order.open_holds), order.unsettled) for order in behind.orders}
    assert found == {"held": (True, False), "other": (False, True)}
    (hold,) = behind.orders[0].open_holds
    behind.released([hold.number, 77])
    assert [order.request.key for order in behind.orders] == ["other"]


def test_what_was_dismissed_keeps_no_other_of_its_id() -> None:
    behind = LeftBehind(left("a", "b", placed={"a": "same", "b": "same"}))
    behind.drop(CancelRequest(external_id="a"))
    behind.settled(closed(CancelRequest("same")))
    assert behind.orders == ()


def test_of_two_holds_of_a_name_the_one_that_did_not_end_is_left() -> None:
    behind = LeftBehind(left("a", "a"))
    behind.released([1])
    assert [[hold.number for hold in order.open_holds] for order in behind.orders] == [[2]]
    behind.released([1, 2])
    assert behind.orders == ()


@pytest.mark.parametrize("name", [CancelRequest("the-id"), CancelRequest(external_id="a")])
def test_a_cancel_of_a_name_is_settled_under_the_venues_id_too(name: CancelRequest) -> None:
    (order,) = left("a", placed={"a": "the-id"}, tried=("a",))
    assert (order.unsettled, order.meant) == (True, "the-id")
    behind = LeftBehind([order])
    behind.settled(missing(CancelRequest("another")))
    behind.settled(missing(name))
    assert [order.unsettled for order in behind.orders] == [False]


async def test_each_that_is_dismissed_is_recorded(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    behind = LeftBehind(left(tried=("a", "b", "c")))
    journal = Journal("j", store, Executor(), trio.current_time, "p", behind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        async with trio.open_nursery() as both:
            both.start_soon(journal.dismiss, CancelRequest(external_id="a"))
            both.start_soon(journal.dismiss, CancelRequest(external_id="b"))
        assert sorted(row[3] for row in store.changes.intents) == ["a", "b"]
        assert [row[1] for row in store.changes.outcomes] == ["dismissed"] * 2
        assert [order.request.key for order in behind.orders] == ["c"]
        journal.close()


async def test_a_name_that_was_left_is_not_held_again(autojump_clock: MockClock) -> None:
    journal = Journal("j", MemoryStore(), Executor(), trio.current_time, "p", LeftBehind(left("a")))
    for free in (CancelRequest("a"), CancelRequest(external_id="b")):
        journal.check_free(free)
    with pytest.raises(InvalidRequest) as caught:
        journal.check_free(CancelRequest(external_id="a"))
    assert str(caught.value) == (
        f"{CancelRequest(external_id='a')} was left behind by a session before this one and may be on the book, "
        "so that this name cannot be held again yet: await ws.resume() first, or ws.dismiss(…) if it is to stay."
    )
