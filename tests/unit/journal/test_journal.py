"""The journal's task: what is durable before what, and what happens when the disk does not take it."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.tools.desk import bare
from tests.tools.journals import ACCOUNT, Executor, MemoryStore
from trio_cancel import CancelRequest, JournalError
from trio_cancel._engine.order import OrderCancel
from trio_cancel._journal.journal import LATE_MOST, LAZY, PATIENCE, RETRY, SIGN_OF_LIFE, SLICE, Journal
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.rows import Changes
from trio_cancel._values.timings import Timings

FULL = sqlite3.OperationalError("database or disk is full")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")
NO_THREAD = RuntimeError("can't start new thread")


def wall() -> float:
    return 1000.0 + trio.current_time()


@asynccontextmanager
async def journal_on(store: MemoryStore, executor: Executor | None = None) -> AsyncGenerator[Journal]:
    async with open_journal(
        "the.journal", ACCOUNT, "id", wall, run_sync=executor or Executor(), open_store=store.open
    ) as journal:
        yield journal


def pendings(*keys: str) -> list[OrderCancel]:
    return [bare(CancelRequest(key)) for key in keys]


def failed(journal: Journal) -> bool:
    return journal.failed  # which mypy takes for a constant


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_intent_is_durable_when_intend_returns(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(0.01)) as journal:
        await journal.intend(pendings("a", "b"))
        assert store.intended == {"a", "b"}
        assert len(store.commits) == 1
    assert store.closed


async def test_an_order_is_intended_once_however_often_it_is_tried(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        orders = pendings("a", "b")
        await journal.intend(orders)
        await journal.intend([orders[0]])
        await journal.intend([orders[0], *pendings("c")])
    assert [row[3] for row in store.changes.intents] == ["a", "b", "c"]
    assert [row[0] for row in store.changes.intents] == [1, 2, 3]


async def test_an_order_that_is_tried_again_waits_for_nobody_elses_record(
    autojump_clock: trio.testing.MockClock,
) -> None:
    executor = Executor()
    async with journal_on(MemoryStore(), executor) as journal, trio.open_nursery() as nursery:
        orders = pendings("a")
        await journal.intend(orders)
        executor.seconds = 1.0
        nursery.start_soon(journal.hold, CancelRequest("held"))
        await trio.sleep(0.1)
        began = trio.current_time()
        await journal.intend(orders)
        assert trio.current_time() == began


async def test_of_orders_together_only_those_are_unrecorded_that_are_not_on_the_disk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        (recorded,) = pendings("a")
        await journal.intend([recorded])
        store.failure = FULL
        (unrecorded,) = pendings("b")
        await journal.intend([recorded, unrecorded])
        assert (recorded.unrecorded, unrecorded.unrecorded) == (False, True)
        store.failure = None


async def test_an_order_put_back_before_its_intent_was_durable_waits_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(1.0)) as journal:
        orders = pendings("a")
        with trio.move_on_after(0.5):
            await journal.intend(orders)
        assert orders[0].intent
        assert not store.intended
        await journal.intend(orders)
        assert store.intended == {"a"}
    assert len(store.changes.intents) == 1


async def test_what_comes_up_during_a_transaction_goes_into_the_next_one_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(1.0)) as journal, trio.open_nursery() as nursery:
        nursery.start_soon(journal.intend, pendings("first"))
        await trio.sleep(0.5)
        for number in range(20):
            nursery.start_soon(journal.intend, pendings(f"order-{number}"))
            nursery.start_soon(journal.hold, CancelRequest(f"held-{number}"))
    intents, holds = [len(c.intents) for c in store.commits], [len(c.holds) for c in store.commits]
    assert (intents[:2], holds[:2]) == ([1, 20], [0, 20])


async def test_a_hold_is_durable_when_hold_returns_and_release_follows(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(0.01)) as journal:
        await journal.hold(CancelRequest(external_id="a"))
        await journal.hold(CancelRequest(external_id="b"))
        assert [order.request.external_id for order in store.contents().left] == ["a", "b"]
        journal.release(CancelRequest(external_id="a"))
        journal.release(CancelRequest(external_id="never held"))
        await trio.sleep(LAZY + 0.1)
        assert [order.request.external_id for order in store.contents().left] == ["b"]
        await journal.hold(CancelRequest(external_id="a"))
        assert len(store.contents().left) == 2


async def test_a_hold_that_is_released_while_it_waits_does_not_stay(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(1.0)) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.hold, CancelRequest("a"))
            await trio.sleep(0.5)
            journal.release(CancelRequest("a"))
        await trio.sleep(3)
        assert store.contents().left == ()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_newer_hold_takes_the_place_of_an_older_one(
    cancelled: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(1.0)) as journal:
        await journal.hold(CancelRequest("a"))
        with trio.move_on_after(0.5 if cancelled else 5):
            await journal.hold(CancelRequest("a"))
        await trio.sleep(3)
        (order,) = store.contents().left
        (hold,) = order.open_holds
        assert hold.number == (1 if cancelled else 2)
        journal.release(CancelRequest("a"))
        await trio.sleep(3)
        assert store.contents().left == ()


async def test_a_hold_that_was_cancelled_does_not_stay(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(1.0)) as journal:
        with trio.move_on_after(0.5) as scope:
            await journal.hold(CancelRequest("a"))
        assert scope.cancelled_caught
        await trio.sleep(3)
        assert store.contents().left == ()
        journal.release(CancelRequest("a"))


# Disks that fail


@pytest.mark.parametrize("failure", [FULL, READ_ONLY, NO_THREAD], ids=["full", "read-only", "no thread"])
async def test_a_journal_that_cannot_write_refuses_holds_and_never_stops_a_cancel(
    failure: Exception, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        await journal.hold(CancelRequest("before"))
        store.failure = failure
        started = trio.current_time()
        await journal.intend(pendings("a"))
        await journal.intend(pendings("b"))
        assert trio.current_time() - started < 0.1
        assert failed(journal)
        for _ in range(2):
            with pytest.raises(
                JournalError, match=r"no new order can be held; do not place it\. Cancels go on"
            ) as refused:
                await journal.hold(CancelRequest("new"))
            assert refused.value.__cause__ is failure
        await trio.sleep(5 * RETRY)
        (error,) = errors(caplog)
        refused_all = "cancels go on unrecorded, new holds are refused"
        assert error == f"the journal the.journal cannot be written ({failure}): {refused_all}"
        assert store.intended == set()
        store.failure = None
        await trio.sleep(2 * RETRY)
        assert not failed(journal)
        assert store.intended == {"a", "b"}  # late, but there
        await journal.hold(CancelRequest("new"))
        assert {order.request.key for order in store.contents().left} == {"before", "a", "b", "new"}


async def test_a_hold_that_finds_the_disk_full_is_refused_and_not_held(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.failure = FULL
    async with journal_on(store) as journal:
        with pytest.raises(JournalError, match="database or disk is full"):
            await journal.hold(CancelRequest("a"))
        store.failure = None
        await trio.sleep(2 * RETRY)
        assert not failed(journal)
        assert store.contents().left == ()
    assert errors(caplog)


async def test_a_disk_that_takes_too_long_holds_a_cancel_up_for_a_bounded_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    executor = Executor()
    async with journal_on(store, executor) as journal:
        executor.seconds = 20.0
        started = trio.current_time()
        await journal.intend(pendings("a"))
        assert trio.current_time() - started == pytest.approx(PATIENCE)
        await journal.intend(pendings("b"))
        assert trio.current_time() - started == pytest.approx(PATIENCE)
        assert failed(journal)
        with pytest.raises(JournalError, match=rf"\(the disk took longer than {PATIENCE:g} s\)"):
            await journal.hold(CancelRequest("c"))
        executor.seconds = 0.0
        await trio.sleep(25)
        assert not failed(journal)
        assert store.intended == {"a", "b"}
    assert len(errors(caplog)) == 1


async def test_a_hold_that_is_refused_leaves_no_trace(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        store.failure = FULL
        await journal.intend(pendings("a"))
        assert failed(journal)
        with pytest.raises(JournalError):
            await journal.hold(CancelRequest("new"))
        store.failure = None
        await trio.sleep(2 * RETRY)
        journal.release(CancelRequest("new"))
    assert list(store.changes.holds) == []
    assert list(store.changes.releases) == []


@pytest.mark.parametrize("blocked", [2.5 * PATIENCE, PATIENCE + 0.4, PATIENCE - 0.1, 1e5])
async def test_patience_is_judged_after_what_is_at_hand_was_read(
    blocked: float, mock_clock: trio.testing.MockClock
) -> None:
    """The loop stood still, or the process was stopped; the disk had long done its work."""
    done = trio.Event()

    async def run_sync(function: Callable[..., Any], *args: object) -> Any:
        await done.wait()
        return function(*args)

    store = MemoryStore()
    async with open_journal("x", ACCOUNT, "id", wall, run_sync=Executor(), open_store=store.open) as journal:
        journal._run_sync = run_sync
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.hold, CancelRequest("a"))
            await trio.testing.wait_all_tasks_blocked()
            done.set()
            mock_clock.jump(blocked)
        assert not journal.failed
        assert [order.request.id for order in store.contents().left] == ["a"]


async def test_patience_ends_though_the_loop_stands_still_again_and_again(mock_clock: trio.testing.MockClock) -> None:
    store, executor = MemoryStore(), Executor()
    async with open_journal("x", ACCOUNT, "id", wall, run_sync=executor, open_store=store.open) as journal:
        executor.seconds = 1e6
        returned = trio.Event()

        async def intend() -> None:
            await journal.intend(pendings("a"))
            returned.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(intend)
            for _ in range(LATE_MOST):
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(2.4 * SLICE)
            await trio.testing.wait_all_tasks_blocked()
            assert not returned.is_set()
            mock_clock.jump(10)
            await trio.testing.wait_all_tasks_blocked()
            assert returned.is_set()
            assert failed(journal)
        mock_clock.autojump_threshold = 0


async def test_an_intent_during_the_commit_that_works_again_is_written_soon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, executor = MemoryStore(), Executor()
    async with journal_on(store, executor) as journal:
        store.failure = FULL
        await journal.intend(pendings("a"))
        store.failure = None
        executor.seconds = 0.3
        await trio.sleep(RETRY + 0.1)
        await journal.intend(pendings("b"))
        await trio.sleep(2 * executor.seconds + LAZY)
        assert store.intended == {"a", "b"}


async def test_a_hold_that_is_released_while_it_waits_for_a_disk_that_fails_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, executor = MemoryStore(), Executor(1.0)
    async with journal_on(store, executor) as journal:

        async def hold() -> None:
            with pytest.raises(JournalError, match="database or disk is full"):
                await journal.hold(CancelRequest("a"))

        store.failure = FULL
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.sleep(0.5)
            journal.release(CancelRequest("a"))
        store.failure = None
        await trio.sleep(2 * RETRY + 1.0)
        assert store.contents().left == ()


@pytest.mark.parametrize("error", [ValueError("odd"), OverflowError("too large"), KeyError("x")])
async def test_whatever_a_store_raises_only_the_journal_fails(
    error: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        store.failure = error
        await journal.intend(pendings("a"))
        assert failed(journal)
        store.failure = None
        await trio.sleep(2 * RETRY)
        assert store.intended == {"a"}


async def test_a_handler_that_raises_when_the_journal_fails_stops_nothing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(logging.getLogger("trio_cancel"), "handle", refuse)
    store = MemoryStore()
    async with journal_on(store) as journal:
        store.failure = FULL
        await journal.intend(pendings("a"))
        store.failure = None
        await trio.sleep(2 * RETRY)
        assert store.intended == {"a"}
    assert store.closed


# Releases


async def test_a_release_at_once_is_not_held_up_for_company(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(0.01)) as journal:
        await journal.hold(CancelRequest("a"))
        await journal.hold(CancelRequest("b"))
        journal.release(CancelRequest("a"), at_once=True)
        journal.release(CancelRequest("b"))
        await trio.sleep(0.015)
        assert store.contents().left == ()
        await journal.hold(CancelRequest("c"))
        await trio.sleep(1)
        journal.release(CancelRequest("c"))
        await trio.sleep(LAZY / 2)
        assert len(store.contents().left) == 1


@pytest.mark.parametrize("busy", [True, False])
async def test_flush_returns_once_a_release_is_durable(busy: bool, autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(0.5)) as journal, trio.open_nursery() as nursery:
        await journal.hold(CancelRequest("a"))
        if busy:  # a transaction is under way, without the release
            nursery.start_soon(journal.hold, CancelRequest("b"))
            await trio.sleep(0.1)
        journal.release(CancelRequest("a"))
        await journal.flush()
        assert "a" not in {order.request.id for order in store.contents().left}
        before = trio.current_time()
        await journal.flush()  # nothing is left to be written
        assert trio.current_time() == before


async def test_a_flush_that_finds_the_disk_full_says_so(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        await journal.hold(CancelRequest("a"))
        store.failure = FULL
        journal.release(CancelRequest("a"))
        for _ in range(2):
            with pytest.raises(JournalError, match=r"not recorded yet that the order is held no more") as refused:
                await journal.flush()
            assert refused.value.__cause__ is FULL
        store.failure = None
        await trio.sleep(2 * RETRY)
        await journal.flush()
        assert store.contents().left == ()


async def test_what_is_kept_while_the_disk_fails_is_bounded(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trio_cancel._journal.journal.KEPT_MOST", 100)
    store = MemoryStore()
    store.failure = FULL
    async with journal_on(store) as journal:
        for number in range(50):
            await journal.intend(pendings(*(f"{number}-{i}" for i in range(10))))
            await trio.sleep(RETRY)
            assert len(journal._changes) <= 120
        store.failure = None
        await trio.sleep(2 * RETRY)
        assert failed(journal)  # for some of it is lost
        await journal.hold(CancelRequest("new"))
        assert "49-9" in store.intended
        assert "0-0" not in store.intended
    assert errors(caplog)


async def test_the_end_of_the_block_writes_what_is_left(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(0.1)) as journal:
        await journal.hold(CancelRequest("a"))
        journal.release(CancelRequest("a"))
    assert store.contents().left == ()
    assert store.changes.closed is not None
    assert store.closed


@pytest.mark.parametrize("seconds", [0.0, 0.2])
async def test_the_end_comes_also_in_the_middle_of_a_transaction(
    seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    async with journal_on(store, Executor(0.5)) as journal:
        with trio.move_on_after(seconds):
            await journal.intend(pendings("a"))
    assert store.changes.closed is not None
    assert store.closed


async def test_a_disk_that_hangs_holds_the_end_up_for_a_bounded_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    executor = Executor()
    async with journal_on(store, executor):
        executor.seconds = 1e6
    assert trio.current_time() < Timings().journal_closing + 1
    assert f"could not be closed within {Timings().journal_closing:g} s" in errors(caplog)[0]


async def test_a_cancelled_block_with_a_disk_that_hangs_is_left_as_cancelled(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Executor()
    with trio.move_on_after(1) as scope:
        async with journal_on(MemoryStore(), executor):
            executor.seconds = 1e6
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert errors(caplog)


async def test_a_full_disk_is_no_hindrance_at_the_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        store.failure = FULL
        await journal.intend(pendings("a"))
    assert store.closed
    assert len(errors(caplog)) == 1


async def test_its_blocks_exception_comes_out_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ZeroDivisionError):
        async with journal_on(MemoryStore()):
            raise ZeroDivisionError
    with trio.move_on_after(1) as scope:
        async with journal_on(store := MemoryStore()):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert store.closed


async def test_a_quiet_session_says_that_it_lives(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store):
        await trio.sleep(2.5 * SIGN_OF_LIFE)
        assert len(store.commits) == 2
        assert store.changes.alive == pytest.approx((1000 + 2 * SIGN_OF_LIFE) * 1e6, abs=1e6)


async def test_a_failure_to_open_is_the_callers(autojump_clock: trio.testing.MockClock) -> None:
    def refuse(*_: object) -> MemoryStore:
        raise JournalError("no")

    with pytest.raises(JournalError, match="no"):
        async with open_journal("x", ACCOUNT, "id", wall, run_sync=Executor(), open_store=refuse):
            raise AssertionError


def test_changes_count_their_rows() -> None:
    assert not Changes()
    assert len(Changes(alive=1, closed=2, releases=[(1, 1)])) == 3
