"""The end of a scope beside other cancels of the same orders, beyond its grace, and under the session's own terms."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.journals import Executor, MemoryStore
from tests.tools.venues import Venue, one_clock, open_venue, venue_clock
from trio_cancel import (
    CancelRequest,
    InvalidRequest,
    JournalError,
    NotSent,
    NotWritten,
    OrdersLeft,
    Pacer,
    TradingWS,
    Unknown,
)
from trio_cancel._journal import opening
from trio_cancel._journal.opening import open_journal
from trio_cancel.sandbox import Fault, RequestRecord

MM = CancelRequest(external_id="mm-1")


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)


@asynccontextmanager
async def session(
    venue_options: dict[str, Any] | None = None, **keywords: Any
) -> AsyncGenerator[tuple[Venue, TradingWS]]:
    async with open_venue(clock=venue_clock, **(venue_options or {})) as venue, venue.open(**keywords) as ws:
        yield venue, ws


# Nothing is written once it has been told


async def test_what_waited_for_the_pace_is_not_written_after_the_grace(autojump_clock: MockClock) -> None:
    async with session(pacer=Pacer(1, 1)) as (venue, ws):
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=2.5) as orders:
                for order_id in venue.orders(10):
                    await orders.add(order_id)
        written = len(venue.log.requests)
        assert written < 5
        assert caught.value.report.counts["not_sent"] == 10 - written
        await trio.sleep(60)
        assert len(venue.log.requests) == written
        assert ws.statistics().pending == 0


@pytest.mark.parametrize("connected", [True, False])
async def test_what_was_never_written_by_the_end_of_the_grace_says_why(
    connected: bool, autojump_clock: MockClock
) -> None:
    """Not that no answer came: nothing was asked."""
    async with open_venue() as venue, venue.open(pacer=Pacer(0.1)) as ws:
        await ws.try_cancel(*venue.orders(1))  # the pace's turn
        if not connected:
            venue.failures = [OSError("down")] * 1000
            await venue.cut()
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=3) as scope:
                for order_id in venue.orders(1200):  # more than is given up in one step
                    await scope.add(order_id)
                scope_ended = trio.current_time()
        assert trio.current_time() - scope_ended <= 3 + 2
        for outcome in caught.value.report.outcomes:
            assert isinstance(outcome, NotSent)
            assert isinstance(outcome.cause, NotWritten)
            assert ("no connection" in str(outcome.cause)) is not connected


async def test_nothing_is_tried_again_once_the_session_has_ended_an_exit_early(autojump_clock: MockClock) -> None:
    async with session(reply_timeout=1) as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
        orders = ws.open_order_scope(grace=30)
        await orders.__aenter__()
        await orders.add(order_id)
        ending = orders._begin_exit()
        await trio.sleep(2.5)
        ending.early.cancel()  # what a second Ctrl-C does
        await ending.done.wait()
        written = len(venue.log.requests)
        assert orders.report is not None
        assert orders.report.counts["unknown"] == 1
        await trio.sleep(60)
        assert len(venue.log.requests) == written
        assert all(order.abandoned for order in ws._session.engine.under_way())


# Other cancels of the same order


@pytest.mark.parametrize("how", ["settled", "abandoned", "overdue", "under way"])
@pytest.mark.parametrize("name", ["external id", "the venue's id"])
async def test_a_refusal_beside_a_cancel_that_may_have_worked_is_unknown(
    autojump_clock: MockClock, how: str, name: str
) -> None:
    """The scope asks by the venue's id that it was told; the other cancel was made by either name."""
    give_up_after = 5.0 if how == "settled" else 30.0
    async with (
        session(retry=False, reply_timeout=5.0, give_up_after=give_up_after) as (venue, ws),
        trio.open_nursery() as nursery,
    ):
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=4) as orders:
                await orders.add(MM)
                order = venue.book.create(external_id="mm-1")
                orders.placed(external_id="mm-1", id=order.id)
                other = MM if name == "external id" else CancelRequest(order.id)
                seen: list[RequestRecord] = []

                def script(record: RequestRecord) -> Fault:
                    seen.append(record)
                    return Fault.SILENT_AFTER if len(seen) == 1 else Fault.REFUSE_DAILY

                venue.sandbox.script(script)
                if how == "settled":
                    assert isinstance(await ws.try_cancel(other), Unknown)
                elif how == "under way":
                    nursery.start_soon(ws.try_cancel, other)
                    await trio.sleep(0.5)
                else:
                    with trio.move_on_after(1):
                        await ws.try_cancel(other)
                    if how == "overdue":
                        await trio.sleep(10)
                        assert list(ws._session.engine.under_way())
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, Unknown)
        assert outcome.after_unanswered
        assert outcome.request == MM


async def test_a_refusal_with_no_other_cancel_is_a_refusal(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        one, two = venue.orders(2)
        venue.sandbox.script(lambda record: Fault.REFUSE_DAILY if record.params["id"] == one else Fault.SILENT_BEFORE)
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=2) as orders:
                await orders.add(one)
                await orders.add(two)
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["rejected", "unknown"]


# The session's own terms


async def test_it_is_tried_again_after_a_limit_though_the_session_tries_once(autojump_clock: MockClock) -> None:
    async with session(retry=False) as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.REFUSE_429)
        async with ws.open_order_scope() as orders:
            await orders.add(order_id)
        assert venue.book.open_orders() == []
        assert orders.report is not None
        assert orders.report.counts["canceled"] == 1


# With a journal


class Disk:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.executor = Executor()

    @property
    def held(self) -> set[str]:
        return {order.request.key for order in self.store.contents().orders if order.held}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    opened = partial(open_journal, run_sync=disk.executor, open_store=disk.store.open)
    monkeypatch.setattr(opening, "open_journal", opened)
    return disk


async def test_a_yes_while_the_name_is_added_again_releases_nothing(autojump_clock: MockClock, disk: Disk) -> None:
    async with session({"delay": 1.0}, journal="in memory") as (venue, ws), trio.open_nursery() as nursery:
        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            old = venue.book.create(external_id="mm-1")
            orders.placed(external_id="mm-1", id=old.id)
            await trio.sleep(1)
            nursery.start_soon(ws.try_cancel, old.id)
            await trio.sleep(0.6)
            disk.executor.seconds = 2.0
            began = trio.current_time()
            await orders.add(MM)  # the answer comes meanwhile
            assert trio.current_time() - began >= 2
            assert ws.statistics().settled == 1
            disk.executor.seconds = 0
            assert orders.held == (MM,)
            async with ws.open_order_scope() as other:
                with pytest.raises(InvalidRequest, match="Another scope holds"):
                    await other.add(MM)
            await trio.sleep(1)
            assert disk.held == {"mm-1"}
            new = venue.book.create(external_id="mm-1")
            orders.placed(external_id="mm-1", id=new.id)
        assert venue.book.open_orders() == []


async def test_placed_and_discard_wait_for_an_add_of_the_same_name(autojump_clock: MockClock, disk: Disk) -> None:
    async with (
        session(journal="in memory") as (_, ws),
        ws.open_order_scope(settle=0.1, grace=1) as orders,
        trio.open_nursery() as nursery,
    ):
        await orders.add(MM)
        disk.executor.seconds = 0.5
        nursery.start_soon(orders.add, MM)
        await trio.sleep(0.1)
        for refused in (orders.placed, orders.discard):
            with pytest.raises(ValueError, match="Another task is adding"):
                refused(external_id="mm-1")
        await trio.sleep(1)
        orders.discard(MM)


async def test_what_the_venue_calls_it_is_in_the_journal(autojump_clock: MockClock, disk: Disk) -> None:
    async with session(journal="in memory") as (venue, ws), ws.open_order_scope() as orders:
        await orders.add(MM)
        order = venue.book.create(external_id="mm-1")
        orders.placed(external_id="mm-1", id=order.id)
        orders.placed(external_id="mm-1")
        await trio.sleep(1)
        ((hold,),) = [order.open_holds for order in disk.store.contents().orders]
        assert (hold.order_id, hold.placed_at is not None) == (order.id, True)
        assert hold.clock is not None
        assert hold.clock.high - hold.clock.low >= 1000


async def test_no_hold_is_taken_while_the_journal_has_failed(autojump_clock: MockClock, disk: Disk) -> None:
    async with session(journal="in memory") as (venue, ws), ws.open_order_scope() as orders:
        (order_id,) = venue.orders(1)
        disk.store.failure = sqlite3.OperationalError("database or disk is full")
        await ws.try_cancel(order_id)
        await trio.sleep(1)
        assert ws.journal_failed
        before = disk.executor.calls
        for _ in range(2):
            with pytest.raises(JournalError, match="do not place it"):
                await orders.add(MM)
            assert MM not in orders
            assert not ws._session.engine.holds.holders
        assert disk.executor.calls - before <= 1  # it does not even ask the disk
        disk.store.failure = None
        await trio.sleep(5)
        assert disk.held == set()
        assert all(row[3] != "mm-1" for changes in disk.store.commits for row in changes.holds)


@pytest.mark.parametrize("placed", [True, False])
async def test_what_has_no_answer_within_the_grace_is_told_by_the_name_that_was_held(
    placed: bool, autojump_clock: MockClock
) -> None:
    async with session() as (venue, ws):
        order = venue.book.create(external_id="mm-1")
        venue.sandbox.script(lambda record: Fault.SILENT_BEFORE)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=2) as orders:
                await orders.add(MM)
                if placed:
                    orders.placed(external_id="mm-1", id=order.id)
        (outcome,) = caught.value.report.outcomes
        assert isinstance(outcome, Unknown)
        assert outcome.request == MM
        assert outcome.attempts
