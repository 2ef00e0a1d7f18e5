"""How one caller waits: a channel of its own, used again only when its outcome was taken; a look before sleeping."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.desk import bare
from tests.tools.venues import Remembering, open_venue
from trio_cancel import Canceled, CancelRequest, NotSent, NotWritten, Outcome, TradingWS
from trio_cancel._cancels import single
from trio_cancel._cancels.single import KEPT, LOOKS, Channels, look
from trio_cancel._engine.order import OrderCancel
from trio_cancel.sandbox import Fault


def channels_of(ws: TradingWS) -> Channels:
    return ws._channels


def test_a_channel_serves_one_request_at_a_time() -> None:
    channels = Channels()
    first, second = channels.take(), channels.take()
    assert first is not second
    channels.give_back(first)
    assert channels.take() is first
    assert channels.take() not in (first, second)


def test_channels_are_kept_within_bounds() -> None:
    channels = Channels()
    taken = [channels.take() for _ in range(2 * KEPT)]
    for channel in taken:
        channels.give_back(channel)
    assert len(channels._idle) == KEPT


async def test_cancels_one_after_the_other_share_a_channel(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        for order in venue.orders(5):
            assert (await ws.cancel(order)).id == order
            assert len(channels_of(ws)._idle) == 1


async def test_a_late_outcome_reaches_no_later_caller(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        left, *orders = venue.orders(4)
        await ws.cancel(orders[0])
        venue.sandbox.fault_on(left, Fault.DELAYED)
        with trio.move_on_after(0.001) as scope:
            await ws.try_cancel(left)
        assert scope.cancelled_caught
        assert not channels_of(ws)._idle  # the one that there was waits for the late outcome
        assert (await ws.cancel(orders[1])).id == orders[1]
        await trio.sleep(60)
        assert not venue.book.get(left).status.active
        assert (await ws.cancel(orders[2])).id == orders[2]
        assert len(channels_of(ws)._idle) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_everybody_gets_the_outcome_of_their_own_order(seed: int, autojump_clock: MockClock) -> None:
    draw = random.Random(seed)
    got: dict[str, str] = {}

    async def cancel(ws: TradingWS, order: str) -> None:
        await trio.sleep(draw.random() / 50)
        with trio.move_on_after(draw.choice((0, 0.0001, 0.01, 10))):
            outcome = await ws.try_cancel(order)
            assert isinstance(outcome, Canceled)
            got[order] = str(outcome.order.id)

    async with open_venue() as venue, venue.open() as ws:
        orders = venue.orders(300)
        for order in draw.sample(orders, 60):
            venue.sandbox.fault_on(order, Fault.DELAYED)
        async with trio.open_nursery() as nursery:
            for order in orders:
                nursery.start_soon(cancel, ws, order)
        await trio.sleep(60)
        assert ws.statistics().pending == 0
        assert not list(ws._session.engine.under_way())
        for send, receive in channels_of(ws)._idle:
            assert send.statistics().current_buffer_used == 0
            assert receive.statistics().tasks_waiting_receive == 0
    assert len(got) > 100
    assert all(order == canceled for order, canceled in got.items())


async def test_it_is_looked_for_only_where_the_last_answer_came_almost_at_once(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        near, far, again = venue.orders(3)
        venue.sandbox.fault_on(far, Fault.DELAYED)
        assert not channels_of(ws).near
        for order, answered_at_once in ((near, True), (far, False), (again, True)):
            await trio.testing.wait_all_tasks_blocked()  # so that it is written at once
            await ws.cancel(order)
            assert channels_of(ws).near is answered_at_once


async def test_a_caller_may_be_cancelled_at_every_look(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        for passes in range(LOOKS + 3):
            order, next_one = venue.orders(2)
            channels_of(ws).near = True
            venue.sandbox.fault_on(order, Fault.DELAYED)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.try_cancel, order)
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert (await ws.cancel(next_one)).id == next_one
            await trio.sleep(60)
            assert ws.statistics().pending == 0


async def test_a_look_ends_by_itself(autojump_clock: MockClock) -> None:
    order = bare(CancelRequest("o"))
    await look(order)
    assert order.outcome is None


async def test_a_look_waits_for_what_comes_within_its_passes(autojump_clock: MockClock) -> None:
    order = bare(CancelRequest("o"))

    async def settle() -> None:
        for _ in range(LOOKS - 5):
            await trio.lowlevel.checkpoint()
        order.settle(NotSent(order.request, cause=NotWritten("no")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        await look(order)
        assert order.outcome is not None


async def test_an_outcome_that_a_look_has_found_is_returned_though_the_caller_is_cancelled(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order_id,) = venue.orders(1)
        await trio.testing.wait_all_tasks_blocked()
        channels_of(ws).near = True
        with trio.CancelScope() as scope:

            async def found(order: OrderCancel) -> None:
                while order.outcome is None:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                scope.cancel()

            monkeypatch.setattr(single, "look", found)
            outcome = await ws.try_cancel(order_id)
        assert outcome.kind == "canceled"


@pytest.mark.parametrize("near", [True, False])
async def test_an_outcome_that_comes_with_the_cancellation_is_told(near: bool, autojump_clock: MockClock) -> None:
    untold = told = 0
    for passes in range(3, 12):
        for _ in range(6):  # the order within a pass of the scheduler is random
            watch = Remembering()
            returned: list[Outcome] = []
            async with open_venue() as venue, venue.open(observer=watch) as ws:
                (order,) = venue.orders(1)
                await trio.testing.wait_all_tasks_blocked()
                channels_of(ws).near = near

                async def cancel(ws: TradingWS = ws, order: str = order, returned: list[Outcome] = returned) -> None:
                    returned.append(await ws.try_cancel(order))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel)
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                await trio.sleep(60)
                untold += ws.statistics().settled - len(returned) - len(watch.of("settled_late"))
                told += len(watch.of("settled_late"))
    assert untold == 0
    assert told
