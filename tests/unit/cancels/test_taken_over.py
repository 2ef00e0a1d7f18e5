"""A session whose journal is taken over: its blocks end, it touches what is the venue's to name only, and says so."""

from __future__ import annotations

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
    ConfigurationError,
    Credentials,
    JournalError,
    NotSent,
    TakenOver,
    TradingWS,
    Unknown,
    open_trading_ws,
)
from trio_cancel._journal import opening
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.rows import Begun
from trio_cancel.sandbox import BookStatus, Fault
from trio_cancel.types import LeaseState


class Shared:
    """Stands for a database that others can take the journal from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = MemoryStore()
        self.executor = Executor()
        self.moved = 0.0  # seconds for which the process has stood still
        opened = partial(open_journal, run_sync=self.executor, open_store=self._open, clock=self._clock)
        monkeypatch.setattr(opening, "open_journal", opened)

    def _clock(self) -> float:
        return trio.current_time() + self.moved

    def _open(self, *_: object) -> MemoryStore:
        self.store.begun = Begun(session=1, number=1, attempt=0, lease=3.0, claimed_at=self._clock())
        return self.store

    def take(self) -> None:
        self.store.failure = TakenOver("The journal was taken over.")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Shared:
    one_clock(monkeypatch)
    return Shared(monkeypatch)


@asynccontextmanager
async def session(**options: Any) -> AsyncGenerator[tuple[Venue, TradingWS]]:
    async with open_venue(clock=venue_clock, **options) as venue, venue.open(journal="in memory") as ws:
        yield venue, ws


def names(venue: Venue) -> list[str]:
    """The external ids that the venue was asked to cancel by, in order."""
    return [record.params["external_id"] for record in venue.log if record.params.get("external_id")]


async def test_the_block_ends_and_the_report_comes_out(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.book.create(external_id="mm-1")
        venue.book.create(external_id="mm-2")
        with pytest.raises(TakenOver, match=r"The journal was taken over\. 1 order may still be on the book") as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(order_id)
                await orders.add(external_id="mm-1")
                await orders.add(external_id="mm-2")
                orders.placed(external_id="mm-2", id=venue.book.get(external_id="mm-2").id)
                shared.take()
                await trio.sleep_forever()
        report = caught.value.report
        assert report is orders.report
        assert report is not None
        by_id, by_name, placed = report.outcomes
        assert (by_id.kind, placed.kind) == ("canceled", "canceled")
        assert isinstance(by_name, NotSent)
        assert isinstance(by_name.cause, TakenOver)
        assert report.left == (by_name,)
        assert venue.book.get(external_id="mm-1").status is BookStatus.OPEN
        assert names(venue) == []
        assert ws.lease is LeaseState.TAKEN_OVER


async def test_the_cancellation_that_was_ours_is_no_cause(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (_, ws):
        with pytest.raises(TakenOver) as caught:
            async with ws.open_order_scope():
                shared.take()
                await trio.sleep_forever()
        assert caught.value.__cause__ is None


async def test_what_came_with_our_cancellation_is_the_cause_without_it(
    autojump_clock: MockClock, shared: Shared
) -> None:
    async with session() as (_, ws):
        with pytest.raises(TakenOver) as caught:
            async with ws.open_order_scope():
                shared.take()
                try:
                    await trio.sleep_forever()
                except trio.Cancelled as cancelled:
                    raise BaseExceptionGroup("both", [cancelled, ValueError("the strategy's")]) from None  # noqa: ASYNC104 - the group holds it
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert [type(error) for error in cause.exceptions] == [ValueError]


async def test_what_a_block_swallows_comes_out_all_the_same(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (_, ws):
        with pytest.raises(TakenOver) as caught:
            async with ws.open_order_scope() as orders:
                shared.take()
                with pytest.raises(TakenOver):
                    await orders.add(external_id="mm-1")
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)
        assert caught.value.report is orders.report
        assert str(caught.value) == "The journal was taken over."


async def test_an_exception_of_the_block_is_its_cause(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (_, ws):
        with pytest.raises(TakenOver) as caught:
            async with ws.open_order_scope():
                shared.take()
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)
                raise ValueError("the strategy's")
        assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_comes_out_with_a_note(
    autojump_clock: MockClock, shared: Shared, error: type[BaseException]
) -> None:
    with pytest.raises(error) as caught:
        async with session() as (_, ws), ws.open_order_scope():
            shared.take()
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            raise error
    assert "The journal was taken over." in "".join(caught.value.__notes__)


async def test_what_ends_the_program_comes_out_of_a_group_without_our_cancellation(
    autojump_clock: MockClock, shared: Shared
) -> None:
    async def interrupted() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:
        async with session() as (_, ws), ws.open_order_scope(), trio.open_nursery() as nursery:
            nursery.start_soon(interrupted)
            shared.take()
            await trio.sleep_forever()
    found, rest = caught.value.split(KeyboardInterrupt)
    assert found is not None
    assert rest is None
    assert "The journal was taken over." in found.__notes__


async def test_a_session_without_a_scope_is_told_at_its_end(autojump_clock: MockClock, shared: Shared) -> None:
    with pytest.raises(TakenOver, match="taken over") as caught:
        async with session():
            shared.take()
            await trio.sleep(5)
    assert caught.value.report is None


async def test_an_exception_of_a_session_without_a_scope_tells_it(autojump_clock: MockClock, shared: Shared) -> None:
    with pytest.raises(ValueError, match="the strategy's") as caught:
        async with session():
            shared.take()
            await trio.sleep(5)
            raise ValueError("the strategy's")
    assert caught.value.__notes__ == ["The journal was taken over."]


async def test_a_program_that_was_told_is_not_told_again(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (_, ws):
        with pytest.raises(TakenOver):
            async with ws.open_order_scope():
                shared.take()
                await trio.sleep_forever()
        with pytest.raises(TakenOver):
            async with ws.open_order_scope():
                raise AssertionError("no block begins any more")


async def test_every_open_scope_is_told(autojump_clock: MockClock, shared: Shared) -> None:
    told: list[TakenOver] = []

    async def quote(ws: TradingWS) -> None:
        with pytest.raises(TakenOver) as caught:
            async with ws.open_order_scope():
                await trio.sleep_forever()
        told.append(caught.value)

    async with session() as (_, ws), trio.open_nursery() as nursery:
        nursery.start_soon(quote, ws)
        nursery.start_soon(quote, ws)
        await trio.sleep(1)
        shared.take()
    assert len(told) == 2


async def test_a_cancel_by_external_id_is_not_sent_any_more(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.book.create(external_id="mm-1")
        shared.take()
        await trio.sleep(2)
        outcome = await ws.try_cancel(external_id="mm-1")
        assert isinstance(outcome, NotSent)
        assert isinstance(outcome.cause, TakenOver)
        report = await ws.cancel_many([CancelRequest(external_id="mm-1"), CancelRequest(order_id)])
        assert [outcome.kind for outcome in report.outcomes] == ["not_sent", "canceled"]
        assert venue.book.get(external_id="mm-1").status is BookStatus.OPEN
        ws._session.told_taken_over = True  # what is tested comes before the end


async def test_a_cancel_under_way_is_not_tried_again_by_external_id(autojump_clock: MockClock, shared: Shared) -> None:
    """A successor may have placed a new order of that name: what was written is waited for, and nothing else."""
    async with session() as (venue, ws):
        order = venue.book.create(external_id="mm-1")
        venue.sandbox.fault_on(order.id, Fault.SILENT_BEFORE)
        outcomes: list[Any] = []

        async def cancel() -> None:
            outcomes.append(await ws.try_cancel(external_id="mm-1"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.sleep(0.5)
            shared.take()
        (outcome,) = outcomes
        assert isinstance(outcome, Unknown)
        assert len(outcome.attempts) == 1
        assert venue.book.get(external_id="mm-1").status is BookStatus.OPEN
        ws._session.told_taken_over = True


async def test_a_scope_that_is_being_left_stops_asking_by_external_id(
    autojump_clock: MockClock, shared: Shared
) -> None:
    async def take_later() -> None:
        await trio.sleep(3)
        shared.take()

    async with session() as (venue, ws), trio.open_nursery() as nursery:
        with pytest.raises(TakenOver) as caught:
            async with ws.open_order_scope(settle=10) as orders:
                await orders.add(external_id="mm-1")
                nursery.start_soon(take_later)
        assert len(names(venue)) >= 1
        assert caught.value.report is not None
        assert [outcome.kind for outcome in caught.value.report.outcomes] == ["not_found"]
        venue.book.create(external_id="mm-1")
        asked = len(names(venue))
        await trio.sleep(30)
        assert len(names(venue)) == asked
        assert venue.book.get(external_id="mm-1").status is BookStatus.OPEN


async def test_uncertain_refuses_holds_and_nothing_else(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (venue, ws):
        venue.book.create(external_id="mm-1")
        async with ws.open_order_scope() as orders:
            await orders.add(external_id="mm-1")
            orders.placed(external_id="mm-1", id=venue.book.get(external_id="mm-1").id)
            assert ws.lease == "sure"
            shared.store.failure = OSError("no route to the database")
            await trio.sleep(4)
            assert ws.lease == "uncertain"
            before = trio.current_time()
            with pytest.raises(JournalError, match="no route to the database"):
                await orders.add(external_id="mm-2")
            assert trio.current_time() == before
        assert trio.current_time() - before < 1
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert outcome.kind == "canceled"
        assert outcome.unrecorded
        assert orders.report.journal_failed


async def test_a_process_that_wakes_learns_first_whose_its_orders_are(
    autojump_clock: MockClock, shared: Shared
) -> None:
    """It was stopped when it was about to cancel; its successor may have placed an order of that name by now."""
    async with session() as (venue, ws):
        venue.book.create(external_id="mm-1")
        with pytest.raises(TakenOver) as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="mm-1")
                shared.moved = 10.0
                shared.executor.seconds = 0.3
                shared.take()
        assert caught.value.report is not None
        assert [outcome.kind for outcome in caught.value.report.outcomes] == ["not_sent"]
        assert names(venue) == []


async def test_a_retry_that_falls_due_meanwhile_waits_as_well(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (venue, ws):
        venue.book.create(external_id="mm-1")
        venue.sandbox.fault_on_request(*[Fault.ERROR_503_BEFORE] * 1000)
        outcomes: list[Any] = []

        async def cancel() -> None:
            outcomes.append(await ws.try_cancel(external_id="mm-1"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.sleep(1.5)
            before = len(names(venue))
            assert before > 1
            shared.moved = 10.0
            shared.executor.seconds = 0.4
            shared.take()
            await trio.sleep(20)
            assert len(names(venue)) == before
        assert isinstance(outcomes[0], Unknown)
        ws._session.told_taken_over = True


@pytest.mark.parametrize(("seconds", "unrecorded", "waits"), [(0.3, False, 0.3), (100.0, True, 1.0)])
async def test_what_it_asks_has_an_end(
    autojump_clock: MockClock, shared: Shared, seconds: float, unrecorded: bool, waits: float
) -> None:
    async with session() as (venue, ws):
        venue.book.create(external_id="mm-1")
        await trio.sleep(0.5)
        shared.moved = 10.0
        shared.executor.seconds = seconds
        before = trio.current_time()
        outcome = await ws.try_cancel(external_id="mm-1")
        assert (outcome.kind, outcome.unrecorded) == ("canceled", unrecorded)
        assert waits <= trio.current_time() - before <= waits + 0.05
        shared.executor.seconds = 0


async def test_the_outcome_of_a_cancel_tells_that_it_was_recorded(autojump_clock: MockClock, shared: Shared) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        assert not (await ws.try_cancel(order_id)).unrecorded


@pytest.mark.parametrize("lease", [0, 0.5, 21, float("nan"), True, "3", None])
def test_a_lease_is_a_sensible_number_of_seconds(lease: Any) -> None:
    with pytest.raises(ConfigurationError, match="lease must be a number of seconds from 1 to 20"):
        open_trading_ws("ws://localhost", credentials=Credentials("token", "secret"), journal="j", lease=lease)
