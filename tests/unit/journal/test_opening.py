"""Opening a journal: whose thread it takes, what it says was left, and that nothing stays open whatever ends it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.journals import ACCOUNT, Executor, MemoryStore
from trio_cancel import CancelRequest, JournalError
from trio_cancel._client import journal_at
from trio_cancel._journal import opening
from trio_cancel._journal.lock import is_locked
from trio_cancel._journal.opening import AT_WORK, open_journal
from trio_cancel._journal.rows import Begun, Changes, HoldRow, Tables, micros
from trio_cancel._journal.sqlite import SQLiteStore
from trio_cancel._journal.store import Account, StoreFailed
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._values.timings import Timings
from trio_cancel.journal import read_journal

MINUTE = 60 * 1_000_000
WALL = 1_700_000_000.25


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "the.journal"


def wall() -> float:
    return WALL


def leave(path: Path, *names: str) -> None:
    """A session that dies with holds."""
    store = SQLiteStore.open(path, ACCOUNT, "p", micros(WALL) - MINUTE)
    first = store.begun.number
    at = micros(WALL) - MINUTE
    holds: list[HoldRow] = [(first + i, store.begun.session, 1, name, at, None, None) for i, name in enumerate(names)]
    store.commit(Changes(holds=holds, closed=at))
    store.close()


def texts(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# Threads


async def test_a_program_that_keeps_all_of_trios_threads_busy_does_not_hold_its_journal_up(path: Path) -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    taken = [object() for _ in range(int(limiter.total_tokens))]
    for one in taken:
        limiter.acquire_on_behalf_of_nowait(one)
    try:
        with trio.fail_after(30):
            async with open_journal(path, ACCOUNT, "id", wall) as journal:
                await journal.hold(CancelRequest("x"))
    finally:
        for one in taken:
            limiter.release_on_behalf_of(one)
    assert [order.request.id for order in read_journal(path).orders] == ["x"]


async def test_where_no_thread_can_be_started_the_journal_is_opened_all_the_same(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    async def run(function: Callable[..., Any], *args: object) -> Any:
        await trio.lowlevel.checkpoint()
        calls.append(function)
        if len(calls) == 1:
            raise RuntimeError("can't start new thread")
        return function(*args)

    async with open_journal(path, ACCOUNT, "id", wall, run_sync=run) as journal:
        await journal.hold(CancelRequest("x"))
    assert "no thread can be started (can't start new thread)" in texts(caplog, logging.WARNING)[0]
    (session,) = read_journal(path).sessions
    assert (session.opened_at, session.closed_at) == (WALL, WALL)
    assert not is_locked(str(path))


async def test_what_is_given_up_where_no_thread_can_be_started_is_closed_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(ZeroDivisionError):
        async with open_journal(path, ACCOUNT, "id", wall, timings=Timings(journal_closing=0.01)):
            monkeypatch.setattr(trio.lowlevel, "start_thread_soon", refuse)
            monkeypatch.setattr(trio.to_thread, "run_sync", _hangs)
            raise ZeroDivisionError
    assert not is_locked(str(path))


async def _hangs(*_: object, **__: object) -> None:
    await trio.sleep_forever()


# What was left


async def test_what_was_left_is_told_with_its_remedy(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave(path, "mm-1")
    async with open_journal(path, ACCOUNT, "id", wall) as journal:
        assert [order.request.external_id for order in journal.left.orders] == ["mm-1"]
    (text,) = texts(caplog, logging.WARNING)
    assert text == (
        f"1 order was left behind in the journal {path} by a session before this one, and may be on the book: mm-1. "
        "await ws.resume() cancels what is in ws.left_behind; without a program, trio-cancel resume does"
    )
    caplog.clear()
    leave(path, "mm-2")
    async with open_journal(path, ACCOUNT, "id", wall):
        pass
    assert texts(caplog, logging.WARNING)[0].startswith(f"2 orders were left behind in the journal {path}")
    assert "on the book: mm-1, mm-2. await" in texts(caplog, logging.WARNING)[0]


async def test_a_journal_of_which_nothing_was_left_says_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        async with open_journal(path, ACCOUNT, "id", wall):
            pass
    assert texts(caplog, logging.WARNING) == []


async def test_who_resumes_is_not_told_to_resume(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave(path, "mm-1")
    async with open_journal(path, ACCOUNT, "id", wall, warns=False) as journal:
        assert len(journal.left) == 1
    assert texts(caplog, logging.WARNING) == []


# Whose it is


def test_a_journal_is_the_accounts_at_the_url_of_the_session(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[object, Account, float]] = []

    def note(path: str, account: Account, *, lease: float) -> None:
        opened.append((path, account, lease))

    monkeypatch.setattr(opening, "open_journal", note)
    here = parse_endpoint("wss://here.example/ws?key=1")
    journal_at(path, here, ACCOUNT.credentials, 7.0)()  # type: ignore[call-arg]  # what it adds is not looked at
    assert opened == [(path, Account("wss://here.example/ws", ACCOUNT.credentials), 7.0)]


async def test_the_lease_that_is_asked_for_is_that_of_the_store(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def open_any(path: str, account: Account, prefix: str, now: int, *, lease: float) -> MemoryStore:
        asked.append((path, account, prefix, now, lease))
        return MemoryStore(Begun(session=1, number=1, attempt=0, lease=lease, claimed_at=trio.current_time()))

    monkeypatch.setattr(opening, "open_any", open_any)
    async with open_journal(
        "j", ACCOUNT, "id", wall, run_sync=Executor(), lease=7.0, clock=trio.current_time
    ) as journal:
        assert journal.has_lease
    assert asked == [("j", ACCOUNT, "id", micros(WALL), 7.0)]


# What ends it


class Slow:
    """Opens a store in memory that a test lets go of when it likes, as a disk that stalls does."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.go = threading.Event()

    def __call__(self, *_: object) -> MemoryStore:
        assert self.go.wait(60)
        return self.store

    async def closed(self) -> None:
        with trio.fail_after(30):
            while not self.store.closed:  # noqa: ASYNC110 - a thread ends it
                await trio.sleep(0.01)


async def test_a_session_that_never_came_to_be_is_recorded_as_ended() -> None:
    slow = Slow()
    with trio.move_on_after(0.05) as scope:
        async with open_journal("j", ACCOUNT, "id", wall, open_store=slow):
            raise AssertionError
    assert scope.cancelled_caught
    slow.go.set()
    await slow.closed()
    assert [changes.closed for changes in slow.store.commits] == [micros(WALL)]


async def test_what_was_opened_too_late_is_closed_and_the_failure_names_the_journal() -> None:
    slow = Slow()
    told = r"^The journal j could not be opened within 0\.05 s; check the disk or the database that it is on, or name "
    with pytest.raises(JournalError, match=told):
        async with open_journal("j", ACCOUNT, "id", wall, open_store=slow, timings=Timings(journal_opening=0.05)):
            raise AssertionError
    slow.go.set()
    await slow.closed()
    assert [changes.closed for changes in slow.store.commits] == [micros(WALL)]


async def test_a_cancelled_opening_waits_for_a_disk_that_answers_soon() -> None:
    """So nothing is open any more when it returns."""
    slow = Slow()
    threading.Timer(AT_WORK / 5, slow.go.set).start()
    with trio.move_on_after(0.01):
        async with open_journal("j", ACCOUNT, "id", wall, open_store=slow):
            raise AssertionError
    assert slow.store.closed


async def test_who_is_cancelled_already_opens_nothing() -> None:
    slow = Slow()
    slow.go.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_journal("j", ACCOUNT, "id", wall, open_store=slow):
            raise AssertionError
    assert (slow.store.closed, slow.store.commits) == (False, [])


async def test_what_fails_after_all_have_left_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    slow.store.failure = StoreFailed("the disk is full")
    with trio.move_on_after(0.05):
        async with open_journal("j", ACCOUNT, "id", wall, open_store=slow):
            raise AssertionError
    slow.go.set()
    await slow.closed()
    with trio.fail_after(30):
        while not texts(caplog, logging.ERROR):  # noqa: ASYNC110 - a thread ends it
            await trio.sleep(0.01)
    assert texts(caplog, logging.ERROR) == ["a journal could not be closed: the disk is full"]


async def test_a_block_that_has_ended_leaves_a_store_that_takes_nothing(autojump_clock: MockClock) -> None:
    store, executor = MemoryStore(), Executor()
    held: list[Callable[..., Any]] = []

    async def run(function: Callable[..., Any], *args: object) -> Any:
        if args and isinstance(args[0], Changes):
            held.append(function)
        return await executor(function, *args)

    async with open_journal("j", ACCOUNT, "id", wall, run_sync=run, open_store=store.open) as journal:
        await journal.hold(CancelRequest("x"))
    commits = len(store.commits)
    with pytest.raises(StoreFailed, match=r"^it was given up$"):
        held[0](Changes(alive=1))
    assert len(store.commits) == commits
    assert store.closed


async def test_the_end_of_the_block_is_not_held_up_beyond_its_bound(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, executor = MemoryStore(), Executor()
    began = trio.current_time()
    async with open_journal("j", ACCOUNT, "id", wall, run_sync=executor, open_store=store.open):
        executor.seconds = 3000.0
    bound = Timings().journal_closing
    assert trio.current_time() - began == pytest.approx(bound, abs=0.1)
    assert texts(caplog, logging.ERROR)[-1] == f"the journal j could not be closed within {bound:g} s"
    assert store.closed


async def test_an_orderly_end_says_nothing(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(Begun(session=1, number=1, attempt=0, left=Tables(ACCOUNT.url, [], [], [], [], [], [])))
    async with open_journal(os.fspath("j"), ACCOUNT, "id", time.time, run_sync=Executor(), open_store=store.open):
        pass
    assert store.closed
    assert not caplog.records
