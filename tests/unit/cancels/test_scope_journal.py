"""Order scopes with a journal: a hold is durable before ``add`` returns, and an order that is left stays recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.journals import Executor, MemoryStore
from tests.tools.venues import Venue, one_clock, open_venue, venue_clock
from trio_cancel import CancelRequest, InvalidRequest, JournalError, OrdersLeft, SessionClosed, TradingWS
from trio_cancel._journal import opening as _journal_open
from trio_cancel._journal.opening import open_journal
from trio_cancel.sandbox import BookStatus, Fault


class Disk:
    """What a session's journal is on.

    Attributes:
        seconds: what a transaction takes.
    """

    def __init__(self, store: MemoryStore, executor: Executor) -> None:
        self.store = store
        self._executor = executor

    @property
    def seconds(self) -> float:
        return self._executor.seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._executor.seconds = seconds

    def fail(self) -> None:
        self.store.failure = sqlite3.OperationalError("database or disk is full")

    @property
    def held(self) -> set[str]:
        return {order.request.key for order in self.store.contents().orders if order.held}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    store, executor = MemoryStore(), Executor()
    monkeypatch.setattr(_journal_open, "open_journal", partial(open_journal, run_sync=executor, open_store=store.open))
    return Disk(store, executor)


@asynccontextmanager
async def session(**venue_options: Any) -> AsyncGenerator[tuple[Venue, TradingWS]]:
    async with open_venue(clock=venue_clock, **venue_options) as venue, venue.open(journal="in memory") as ws:
        yield venue, ws


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)


async def test_add_returns_once_the_hold_is_durable(autojump_clock: MockClock, disk: Disk) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        disk.seconds = 2.0
        (order_id,) = venue.orders(1)
        for _ in range(2):
            before = trio.current_time()
            await orders.add(order_id)
            assert trio.current_time() - before >= 2
            assert disk.held == {order_id}
        disk.seconds = 0
        with trio.testing.assert_checkpoints():
            await orders.add(external_id="other")
        assert disk.held == {order_id, "other"}
        orders.discard(external_id="other")


async def test_an_add_that_is_cancelled_while_the_disk_works_holds_nothing(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with session() as (_, ws), ws.open_order_scope() as orders:
        disk.seconds = 2.0
        with trio.move_on_after(1) as scope:
            await orders.add(external_id="new")
        assert scope.cancelled_caught
        assert len(orders) == 0
        await trio.sleep(10)
        assert disk.held == set()


async def test_an_order_that_was_held_stays_so_when_it_cannot_be_added_again(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        async with ws.open_order_scope() as orders:
            await orders.add(order_id)
            disk.seconds = 2.0
            with trio.move_on_after(1):
                await orders.add(order_id)
            await trio.sleep(10)
            disk.seconds = 0
            disk.fail()
            with pytest.raises(JournalError):
                await orders.add(order_id)
            disk.store.failure = None
            await trio.sleep(3)
            assert orders.held == (CancelRequest(order_id),)
            assert disk.held == {order_id}
        await trio.sleep(1)
        assert disk.held == set()


async def test_a_journal_that_fails_refuses_new_holds_and_cancels_the_old_ones(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with session() as (venue, ws):
        old, new = venue.orders(2)
        async with ws.open_order_scope() as orders:
            await orders.add(old)
            disk.fail()
            with pytest.raises(JournalError, match="do not place it"):
                await orders.add(new)
            assert orders.held == (CancelRequest(old),)
        assert orders.report is not None
        assert orders.report.journal_failed
        assert [order.id for order in venue.book.open_orders()] == [new]
        disk.store.failure = None


async def test_what_leaves_is_released_and_what_is_left_stays_recorded(autojump_clock: MockClock, disk: Disk) -> None:
    async with session() as (venue, ws):
        canceled, discarded, silent, gone = venue.orders(4)
        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE if request.params.get("id") == silent else None)
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=3, settle=1) as orders:
                for order_id in (canceled, discarded, silent, gone):
                    await orders.add(order_id)
                await orders.add(external_id="never")
                orders.discard(discarded)
                await ws.cancel(gone)
                await trio.sleep(1)
                assert disk.held == {canceled, silent, "never"}
        await trio.sleep(1)
        assert disk.held == {silent, "never"}
    assert disk.held == {silent, "never"}


async def test_the_next_order_of_a_name_is_recorded_though_the_old_one_was_canceled(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        venue.book.create(external_id="mm-1")
        await orders.add(external_id="mm-1")
        await ws.cancel(external_id="mm-1")
        await orders.add(external_id="mm-1")
        order = venue.book.create(external_id="mm-1")
        orders.placed(external_id="mm-1", id=order.id)
        await trio.sleep(1)
        assert disk.held == {"mm-1"}
    assert venue.book.get(external_id="mm-1").status is BookStatus.CANCELED


async def test_an_order_that_is_added_again_is_held_once(autojump_clock: MockClock, disk: Disk) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        (order_id,) = venue.orders(1)
        for _ in range(3):
            await orders.add(order_id)
        await trio.sleep(1)
        (order,) = disk.store.contents().orders
        assert len(order.open_holds) == 1
        orders.discard(order_id)
        await trio.sleep(1)
        assert disk.held == set()


async def test_the_end_of_the_old_order_does_not_end_the_hold_that_is_being_made_for_the_new_one(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with (
        session(delay=1.0) as (venue, ws),
        ws.open_order_scope(grace=10) as orders,
        trio.open_nursery() as nursery,
    ):
        old = venue.book.create(external_id="mm-1")
        await orders.add(external_id="mm-1")
        orders.placed(external_id="mm-1", id=old.id)
        nursery.start_soon(ws.cancel, old.id)
        await trio.sleep(0.5)
        disk.seconds = 2.0
        await orders.add(external_id="mm-1")  # the answer comes meanwhile
        disk.seconds = 0.0
        assert venue.book.get(old.id).status is BookStatus.CANCELED
        new = venue.book.create(external_id="mm-1")
        await trio.sleep(3)
        assert CancelRequest(external_id="mm-1") in orders
        assert disk.held == {"mm-1"}
        async with ws.open_order_scope() as other:
            with pytest.raises(InvalidRequest, match="Another scope holds"):
                await other.add(external_id="mm-1")
        orders.placed(external_id="mm-1", id=new.id)
    assert venue.book.get(external_id="mm-1").status is BookStatus.CANCELED
    assert disk.held == set()


async def test_what_is_being_added_again_is_not_canceled_with_the_others(autojump_clock: MockClock, disk: Disk) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders, trio.open_nursery() as nursery:
        first, second = venue.orders(2)
        await orders.add(first)
        await orders.add(second)
        disk.seconds = 2.0
        nursery.start_soon(orders.add, first)
        await trio.sleep(1)
        report = await orders.cancel_all()
        assert [outcome.request.id for outcome in report.outcomes] == [second]
        assert venue.book.get(first).status is BookStatus.OPEN
        await trio.sleep(5)
        assert CancelRequest(first) in orders


@pytest.mark.parametrize("held_before", [False, True])
async def test_an_add_under_way_when_the_block_is_left_is_refused(
    held_before: bool, autojump_clock: MockClock, disk: Disk
) -> None:
    async with session() as (venue, ws), trio.open_nursery() as nursery:
        refused = trio.Event()

        async def add() -> None:
            with pytest.raises(SessionClosed, match="has exited"):
                await orders.add(external_id="late")
            refused.set()

        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
        async with ws.open_order_scope(grace=1) as orders:
            if held_before:
                await orders.add(external_id="late")
                venue.sandbox.script(None)
                venue.book.create(external_id="late")
                orders.placed(external_id="late")
            disk.seconds = 0.5
            nursery.start_soon(add)
            await trio.sleep(0.1)
        await refused.wait()
        assert venue.book.open_orders() == []
        assert orders.report is not None
        assert len(orders.report.outcomes) == held_before
        assert len(orders) == 0
        assert not ws._session.engine.holds.holders


async def test_what_is_left_stays_recorded_though_it_was_being_added_again(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with session() as (venue, ws), trio.open_nursery() as nursery:

        async def add() -> None:
            with pytest.raises(SessionClosed):
                await orders.add(external_id="left")

        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=0.3) as orders:
                await orders.add(external_id="left")
                disk.seconds = 1.0
                nursery.start_soon(add)
                await trio.sleep(0.1)
        await trio.sleep(5)
        assert disk.held == {"left"}


async def test_an_add_under_way_when_the_session_ends_leaves_no_hold(autojump_clock: MockClock, disk: Disk) -> None:
    """Its hold may be in the journal's last transaction; then so must its release be."""
    async with trio.open_nursery() as nursery:

        async def add() -> None:
            async with ws.open_order_scope() as orders:
                disk.seconds = 1.0
                with pytest.raises(SessionClosed):
                    await orders.add(external_id="never placed")

        async with session() as (_, ws):
            nursery.start_soon(add)
            await trio.sleep(0.5)
    assert disk.held == set()


async def test_keep_returns_once_no_crash_can_undo_it(autojump_clock: MockClock, disk: Disk) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        kept, discarded = venue.orders(2)
        await orders.add(kept)
        await orders.add(discarded)
        disk.seconds = 0.1
        orders.discard(discarded)
        assert disk.held == {kept, discarded}  # which it does not wait for
        await orders.keep(kept)
        assert disk.held == set()
        assert orders.held == ()
        with pytest.raises(InvalidRequest, match="does not hold"):
            await orders.keep(kept)
    assert len(venue.book.open_orders()) == 2


async def test_keep_on_a_disk_that_is_full_says_so_and_the_order_stays(autojump_clock: MockClock, disk: Disk) -> None:
    async with session() as (venue, ws):
        async with ws.open_order_scope() as orders:
            (order,) = venue.orders(1)
            await orders.add(order)
            disk.fail()
            with pytest.raises(JournalError, match="not recorded yet that the order is held no more"):
                await orders.keep(order)
            assert orders.held == ()
            disk.store.failure = None
        await trio.sleep(2)
        assert disk.held == set()
        assert len(venue.book.open_orders()) == 1


async def test_keep_without_a_journal_is_a_checkpoint(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws, ws.open_order_scope() as orders:
        await orders.add(*venue.orders(1))
        with trio.testing.assert_checkpoints():
            await orders.keep(orders.held[0])
        assert len(orders) == 0


async def test_what_was_closed_and_surely_this_order_is_released(autojump_clock: MockClock, disk: Disk) -> None:
    """Its date says nothing, but the venue had it before it was asked."""
    async with session() as (venue, ws):
        venue.book.create(external_id="mm-1")
        await trio.sleep(30)
        async with ws.open_order_scope() as orders:
            await orders.add(external_id="mm-1")
            orders.placed(external_id="mm-1")
            assert disk.held == {"mm-1"}
        assert orders.report is not None
        assert orders.report.counts["canceled"] == 1
        await trio.sleep(5)
        assert disk.held == set()


async def test_a_discard_begins_to_be_recorded_at_once(autojump_clock: MockClock, disk: Disk) -> None:
    """What a cancel has taken off the book may wait for company instead."""
    async with session() as (_, ws), ws.open_order_scope() as orders:
        await orders.add(external_id="mm-1")
        await trio.sleep(10)
        orders.discard(external_id="mm-1")
        await trio.sleep(0.001)
        assert disk.held == set()


async def test_what_was_canceled_is_recorded_with_others(autojump_clock: MockClock, disk: Disk) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        (order_id,) = venue.orders(1)
        await orders.add(order_id)
        await trio.sleep(10)
        await ws.try_cancel(order_id)
        assert orders.held == ()
        await trio.sleep(0.001)
        assert disk.held == {order_id}
        await trio.sleep(10)
        assert disk.held == set()
