"""``orders.cancel_all()``: what is held is canceled now, and the scope goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.journals import Executor
from tests.tools.venues import one_clock, open_venue, venue_clock
from trio_cancel import InvalidRequest, NotSurelyThisOrder, OrdersLeft, SessionClosed, Unknown
from trio_cancel._journal import opening
from trio_cancel._journal.opening import open_journal
from trio_cancel.journal import read_journal


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)


async def test_everything_is_canceled_and_the_scope_goes_on(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws:
        async with ws.open_order_scope() as orders:
            assert (await orders.cancel_all()).outcomes == ()
            for turn in range(3):
                for number in range(5):
                    await orders.add(external_id=f"mm-{number}")
                    order = venue.book.create(external_id=f"mm-{number}")
                    orders.placed(external_id=f"mm-{number}", id=order.id)
                began = trio.current_time()
                report = await orders.cancel_all()
                assert trio.current_time() - began < 0.1
                assert [outcome.kind for outcome in report.outcomes] == ["canceled"] * 5, turn
                assert [outcome.request.key for outcome in report.outcomes] == [f"mm-{n}" for n in range(5)]
                assert len(orders) == 0
            await orders.add(external_id="last")
            await trio.sleep(5)  # longer than the two clocks can differ
            venue.book.create(external_id="last")
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["canceled"]
        assert len(venue.log) == 16


async def test_it_always_has_a_checkpoint_and_needs_an_open_scope(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws:
        orders = ws.open_order_scope()
        with pytest.raises(SessionClosed):
            await orders.cancel_all()
        async with orders:
            with trio.testing.assert_checkpoints():
                await orders.cancel_all()
            (order_id,) = venue.orders(1)
            await orders.add(order_id)
            with trio.CancelScope() as scope:
                scope.cancel()
                await orders.cancel_all()
            assert len(venue.log) == 0
            assert order_id in orders
        with pytest.raises(SessionClosed):
            await orders.cancel_all()


async def test_what_is_not_surely_off_the_book_stays_held(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws:
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=3, settle=1) as orders:
                await orders.add(external_id="never")
                old = venue.book.create(external_id="closed")
                await ws.cancel(old.id)
                await trio.sleep(5)
                await orders.add(external_id="closed")
                began = trio.current_time()
                report = await orders.cancel_all()
                assert 1 <= trio.current_time() - began < 1.5
                assert [outcome.kind for outcome in report.outcomes] == ["not_found", "unknown"]
                assert isinstance(report.outcomes[1], Unknown)
                assert isinstance(report.outcomes[1].cause, NotSurelyThisOrder)
                assert len(orders) == 2


async def test_what_is_added_meanwhile_is_not_canceled_and_names_under_way_are_refused(
    autojump_clock: MockClock,
) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws:
        async with ws.open_order_scope(settle=5) as orders:
            await orders.add(external_id="late")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(orders.cancel_all)
                await trio.sleep(1)
                with pytest.raises(InvalidRequest, match="cancel_all"):
                    await orders.add(external_id="late")
                with pytest.raises(InvalidRequest, match="cancel_all"):
                    orders.discard(external_id="late")
                await orders.add(external_id="new")
                new = venue.book.create(external_id="new")
                orders.placed(external_id="new", id=new.id)
                order = venue.book.create(external_id="late")  # its create arrives now
                orders.placed(external_id="late", id=order.id)
            assert [request.key for request in orders.held] == ["new"]
            assert {order.external_id for order in venue.book.open_orders()} == {"new"}
            await orders.add(external_id="late")
            orders.discard(external_id="late")
        assert not venue.book.open_orders()


async def test_another_cancel_under_way_counts_for_both(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws, ws.open_order_scope() as orders:
        await trio.sleep(5)
        await orders.add(external_id="mm-1")
        await trio.sleep(5)
        venue.book.create(external_id="mm-1")  # not told: its hold is known by the name alone
        reports = []

        async def pull() -> None:
            reports.append(await orders.cancel_all())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull)
            nursery.start_soon(pull)
            nursery.start_soon(partial(ws.try_cancel, external_id="mm-1"))
        assert all(outcome.off_book for report in reports for outcome in report.outcomes)
        assert len(orders) == 0


async def test_a_caller_that_is_cancelled_leaves_the_rest_held(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws:
        async with ws.open_order_scope(settle=20, grace=30) as orders:
            await orders.add(external_id="there")
            order = venue.book.create(external_id="there")
            orders.placed(external_id="there", id=order.id)
            await orders.add(external_id="late")
            with trio.move_on_after(2) as scope:
                await orders.cancel_all()
            assert scope.cancelled_caught
            assert [request.key for request in orders.held] == ["late"]
            await trio.sleep(0.01)
            await orders.add(external_id="late")  # no longer under way
            await trio.sleep(5)
            venue.book.create(external_id="late")
        assert not venue.book.open_orders()


async def test_a_block_that_is_left_meanwhile_sees_to_the_rest(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws, trio.open_nursery() as nursery:
        reports = []

        async def pull() -> None:
            reports.append(await orders.cancel_all())

        async with ws.open_order_scope(settle=3) as orders:
            await trio.sleep(5)
            await orders.add(external_id="late")
            nursery.start_soon(pull)
            await trio.sleep(1)
            venue.book.create(external_id="late")
        assert orders.report is not None
        assert all(outcome.off_book for outcome in orders.report.outcomes)
        await trio.sleep(5)
        assert [outcome.off_book for outcome in reports[0].outcomes] == [True]


async def test_with_a_venue_that_is_gone_it_ends_within_its_grace(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws:
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=4) as orders:
                (order_id,) = venue.orders(1)
                await orders.add(order_id)
                venue.failures += [OSError("no way")] * 1000
                await venue.cut()
                began = trio.current_time()
                report = await orders.cancel_all()
                assert trio.current_time() - began <= 4.1
                assert [outcome.off_book for outcome in report.outcomes] == [False]
                assert order_id in orders


async def test_a_session_that_has_ended_settles_it(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        reports = []
        async with trio.open_nursery() as nursery, venue.open() as ws:
            orders = ws.open_order_scope(grace=2, settle=2)
            await orders.__aenter__()

            async def pull() -> None:
                reports.append(await orders.cancel_all())

            await orders.add(external_id="never")
            nursery.start_soon(pull)
            await trio.sleep(0.5)
        assert len(reports) == 1
        assert not reports[0].outcomes[0].off_book


async def test_with_a_journal_only_what_is_left_is_left(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_loop = partial(open_journal, run_sync=Executor())
    monkeypatch.setattr(opening, "open_journal", in_the_loop)
    path = tmp_path / "j"
    async with (
        open_venue(clock=venue_clock) as venue,
        venue.open(journal=path) as ws,
        ws.open_order_scope(settle=0.1) as orders,
    ):
        for name in ("a", "b", "never"):
            await orders.add(external_id=name)
            if name != "never":
                order = venue.book.create(external_id=name)
                orders.placed(external_id=name, id=order.id)
        report = await orders.cancel_all()
        assert [outcome.kind for outcome in report.outcomes] == ["canceled", "canceled", "not_found"]
        await trio.sleep(1)
        assert [order.request.key for order in read_journal(path).left] == ["never"]
        await orders.keep(external_id="never")
        assert read_journal(path).left == ()
