"""Nothing concerns an unbounded number of orders in one step, and no slice loses or changes an outcome."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.tools.desk import Desk
from tests.tools.venues import open_venue
from trio_cancel import CancelRequest, ConnectionLost, InvalidRequest, NotSent, SessionClosed, Unknown
from trio_cancel._cancels.batch import SLICE as BATCH_SLICE
from trio_cancel._cancels.batch import Input, _copied, as_request
from trio_cancel._engine.engine import SLICE
from trio_cancel._values.kept import CHUNK, request_of

MANY = 3 * SLICE + 7


def in_flight(desk: Desk, count: int) -> None:
    """Write so many single cancels, whatever the window."""
    desk.window = count
    for number in range(count):
        desk.submit(f"o{number}")
    desk.window = count
    desk.wait(0)
    assert len(desk.engine.unanswered()) == count


def test_a_lost_connection_is_told_in_slices() -> None:
    desk = Desk(auto=False)
    desk.auto = True
    in_flight(desk, MANY)
    orders = [flight.order for flight in desk.engine.unanswered()]
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
    orders = [flight.order for flight in desk.engine.unanswered()]
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


async def test_the_input_can_be_checked_in_slices_and_nothing_is_sent(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(6 * BATCH_SLICE)
        turns = read = 0

        def items(*more: str) -> Iterator[str]:
            nonlocal read
            for item in (*ids, *more):
                read += 1
                yield item

        async def other() -> None:
            nonlocal turns
            while read < len(ids):
                turns += 1
                await trio.lowlevel.checkpoint()

        batch = ws.batch(items())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await batch.check()
        assert turns >= 2
        with trio.testing.assert_checkpoints():
            await batch.check()
        assert (len(batch), len(venue.log)) == (len(ids), 0)
        assert (await batch.run()).counts["canceled"] == len(ids)
        bad = ws.batch(items(" x"))
        with pytest.raises(InvalidRequest, match=f"Item {len(ids)} "):
            await bad.check()
        with pytest.raises(InvalidRequest, match=f"Item {len(ids)} "):
            await bad.run()
        assert len(venue.log) == len(ids)
        cancelled = ws.batch(items())
        with trio.CancelScope() as scope:
            scope.cancel()
            await cancelled.check()
        assert scope.cancelled_caught
        assert len(cancelled) == len(ids)


async def test_the_report_of_a_batch_that_never_ran_makes_no_outcome_before_it_is_read(
    autojump_clock: MockClock,
) -> None:
    def made() -> int:
        return sum(type(one) in (NotSent, CancelRequest) for one in gc.get_objects())

    async with open_venue() as venue, venue.open() as ws:
        before = made()
        batch = ws.batch([f"o{number}" for number in range(5 * BATCH_SLICE)])
        await batch.check()
        report = batch.report()
        assert report.counts["not_sent"] == len(report) == 5 * BATCH_SLICE
        assert not report.final
        assert made() - before < 10
        assert report.outcomes[-1].request.id == f"o{5 * BATCH_SLICE - 1}"
        assert len({id(getattr(outcome, "cause", None)) for outcome in report.left}) == 1
        assert len(venue.log) == 0


@given(st.data())
@settings(max_examples=60)
def test_an_order_that_stands_in_a_large_input_twice_is_found(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([3, BATCH_SLICE - 1, BATCH_SLICE, BATCH_SLICE + 1, 3 * BATCH_SLICE + 5]))
    items: list[object] = [f"Order-{number}" for number in range(count)]
    places = st.integers(0, count - 1)
    spellings: list[Callable[[str], object]] = [
        *(str.upper, str.lower, CancelRequest, lambda name: CancelRequest(external_id=name)),
        *(lambda name: f"{name}\n", lambda _: None, lambda name: f"{name}é"),
    ]
    for place, source in data.draw(st.dictionaries(places, places, max_size=8)).items():
        items[place] = data.draw(st.sampled_from(spellings))(f"order-{source}")
    found = Input(items, "report")  # type: ignore[arg-type]  # odd ones on purpose
    while found.read_some():
        pass
    named: list[CancelRequest] = []
    for item in items:
        with suppress(InvalidRequest):
            named.append(as_request(item, 0))
    distinct = dict.fromkeys(named)
    assert [request_of(name) for names in found.names for name in names] == list(distinct)
    assert {len(names) for names in found.names[:-1]} <= {CHUNK}
    assert (found.orders, len(found), len(found.invalid)) == (len(distinct), len(named), len(items) - len(named))
    numbers = {request: number for number, request in enumerate(distinct)}
    assert list(found.repeats.in_order(found.orders)) == [numbers[request] for request in named]
    assert [found.repeats.place(item) for item in range(len(named))] == [numbers[request] for request in named]


def test_what_was_seen_of_an_input_is_forgotten_in_slices() -> None:
    found = Input([f"o{number}" for number in range(20 * BATCH_SLICE)])
    for _ in range(20):
        assert found.read_some()
    kept = [sum(map(len, found._seen))]
    while found.read_some():
        kept.append(sum(map(len, found._seen)))
    assert len(kept) > 4
    assert max(before - after for before, after in pairwise([*kept, 0])) < 8 * BATCH_SLICE
    assert found._seen == []


async def test_the_outcomes_of_an_interrupted_batch_are_what_they_were(autojump_clock: MockClock) -> None:
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
        again = [outcome for outcome in second.outcomes if isinstance(outcome, NotSent)]
        assert again == not_sent
        assert again[-1].cause is not_sent[0].cause
        await trio.sleep(5)
        assert batch.report().final
        written = {record.order_id for record in venue.log}
        assert written.isdisjoint(outcome.request.id for outcome in not_sent)


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("kind", [list, tuple, dict.fromkeys, deque, lambda items: dict.fromkeys(items).keys()])
def test_a_collection_is_copied_whole_into_what_the_collector_does_not_visit(
    count: int, kind: Callable[[list[str]], Collection[str]]
) -> None:
    items = [f"o{number}" for number in range(count)]
    copied = _copied(kind(items))
    holders = gc.get_referrers(items[0]) if count > CHUNK else []  # which are those that it visits
    assert [one for one in holders if type(one) in (list, tuple, deque) and one is not items] == []
    assert list(copied) == items


def test_a_list_of_the_users_own_class_is_read_as_it_reads_itself() -> None:
    class Upper(list[str]):
        def __iter__(self) -> Iterator[str]:
            return map(str.upper, super().__iter__())

    assert list(_copied(Upper(["a", "b"]))) == ["A", "B"]
