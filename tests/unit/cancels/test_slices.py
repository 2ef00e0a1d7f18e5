"""Nothing concerns an unbounded number of orders in one step, and no slice loses or changes an outcome."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import Desk
from tests.tools.venues import open_venue
from trio_cancel import ConnectionLost, InvalidRequest, NotSent, SessionClosed, Unknown
from trio_cancel._cancels.batch import SLICE as BATCH_SLICE
from trio_cancel._engine.engine import SLICE

MANY = 3 * SLICE + 7


def in_flight(desk: Desk, count: int) -> None:
    """Write so many single cancels, whatever the window."""
    desk.engine._rate.window = count
    for number in range(count):
        desk.submit(f"o{number}")
    desk.engine._rate.window = count
    desk.wait(0)
    assert len(desk.engine.unanswered()) == count


def test_a_lost_connection_is_told_in_slices() -> None:
    desk = Desk(auto=False)
    desk.auto = True
    in_flight(desk, MANY)
    orders = [flight.pending for flight in desk.engine.unanswered()]
    desk.up = False
    desk.engine.connection_down(1, ConnectionLost("cut"), desk.now)
    assert sum(order.doubt is not None for order in orders) == SLICE
    assert not desk.engine.unanswered()  # nothing can answer any of them from now on
    while desk.engine.expire(desk.now) <= desk.now:
        pass
    assert all(order.doubt is not None for order in orders)
    desk.come_up()
    desk.wait(1)
    assert all(len(order.flights) == 2 for order in orders)


def test_what_settles_while_a_lost_connection_is_told_settles_once() -> None:
    desk = Desk()
    in_flight(desk, MANY)
    orders = [flight.pending for flight in desk.engine.unanswered()]
    desk.up = False
    desk.engine.connection_down(1, None, desk.now)
    desk.engine.stop(SessionClosed("over"))
    while desk.engine.stop_some():
        pass
    desk.engine.expire(desk.now)
    assert {type(order.outcome) for order in orders} == {Unknown}
    assert desk.engine.statistics().settled == MANY


def test_the_end_of_everything_comes_in_slices() -> None:
    desk = Desk(up=False)
    orders = [desk.submit(f"o{number}") for number in range(MANY)]
    cause = SessionClosed("over")
    desk.engine.stop(cause)
    assert sum(order.outcome is not None for order in orders) == SLICE
    desk.come_up()
    assert desk.ids == []  # none of the others is written any more
    desk.wait(0)  # the timer goes on with it
    for order in orders:
        assert isinstance(order.outcome, NotSent)
        assert order.outcome.cause is cause


async def test_an_item_far_back_is_refused_by_run_before_anything_is_sent(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids: list[str] = [*venue.orders(2 * BATCH_SLICE), " x"]
        with pytest.raises(InvalidRequest, match="Item 0 "):
            ws.batch([" x", *ids])
        batch = ws.batch(ids)
        with pytest.raises(InvalidRequest, match=f"Item {2 * BATCH_SLICE} "):
            await batch.run()
        with pytest.raises(InvalidRequest, match=f"Item {2 * BATCH_SLICE} "):
            batch.report()
        with pytest.raises(InvalidRequest, match=f"Item {2 * BATCH_SLICE} "):
            len(ws.batch(ids))
        assert len(venue.log) == 0
        reported = ws.batch(ids, invalid="report")
        assert len(reported) == 2 * BATCH_SLICE
        report = await reported.run()
        assert report.counts["canceled"] == 2 * BATCH_SLICE
        assert [item.index for item in report.invalid] == [2 * BATCH_SLICE]


async def test_what_is_read_later_is_what_was_given(autojump_clock: MockClock) -> None:
    """A collection is copied; an iterator is read once, by run."""
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(2 * BATCH_SLICE + 5)
        given = list(ids)
        batch = ws.batch(given)
        given.clear()
        read = 0

        def items() -> Iterator[str]:
            nonlocal read
            for item in ids:
                read += 1
                yield item

        lazy = ws.batch(items())
        assert read == BATCH_SLICE
        assert (await batch.run()).counts["canceled"] == len(ids)
        assert (await lazy.run()).counts["already_closed"] == read == len(ids)


async def test_an_interrupted_batch_has_made_its_outcomes(autojump_clock: MockClock) -> None:
    async with open_venue(delay=0.01) as venue, venue.open() as ws:
        ids = venue.orders(3 * BATCH_SLICE)
        batch = ws.batch([*ids, ids[0]])
        with trio.move_on_after(0.05):
            await batch.run()
        first, second = batch.report(), batch.report()
        assert len(first) == len(ids) + 1
        assert first.outcomes[0] == first.outcomes[-1]
        not_sent = [outcome for outcome in first.outcomes if isinstance(outcome, NotSent)]
        assert len(not_sent) > BATCH_SLICE
        assert len({id(outcome.cause) for outcome in not_sent}) == 1
        assert {id(outcome) for outcome in not_sent} <= {id(outcome) for outcome in second.outcomes}
        await trio.sleep(5)
        assert batch.report().final
        written = {record.order_id for record in venue.log}
        assert written.isdisjoint(outcome.request.id for outcome in not_sent)
