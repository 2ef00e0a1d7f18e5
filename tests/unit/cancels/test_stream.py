"""Cancels of inputs without end: order of completion, constant memory, and an end that is told whatever ends it."""

from __future__ import annotations

import gc
import itertools
import signal
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.desk import Desk
from tests.tools.venues import Remembering, open_venue
from trio_cancel import (
    Canceled,
    CancelRequest,
    HandshakeFailed,
    InvalidRequest,
    NotSent,
    NotWritten,
    Outcome,
    Unknown,
)
from trio_cancel._cancels import stream
from trio_cancel._cancels.stream import LAST_ROOM, MANY, ROOM, SHELF, YIELD_EVERY, StreamSource
from trio_cancel._engine.order import RetryPolicy
from trio_cancel.sandbox import Fault
from trio_cancel.types import SessionState


async def async_items(items: list[str]) -> AsyncIterator[str]:
    for item in items:
        await trio.sleep(0.01)
        yield item


class Channel:
    """An async iterable that is no generator."""

    def __init__(self, items: list[str]) -> None:
        self._items = iter(items)

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> str:
        await trio.lowlevel.checkpoint()
        for item in self._items:
            return item
        raise StopAsyncIteration


# What comes out


async def test_outcomes_come_in_the_order_of_completion(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        slow, fast = venue.orders(2)
        venue.sandbox.fault_on(slow, Fault.DELAYED)
        async with ws.open_cancel_stream([slow, fast]) as outcomes:
            assert aiter(outcomes) is outcomes
            assert [outcome.request.id async for outcome in outcomes] == [fast, slow]
            assert outcomes.unsettled == ()


@pytest.mark.parametrize("kind", [list, tuple, iter, set, async_items, Channel])
async def test_sync_and_async_iterables_will_do(autojump_clock: MockClock, kind: type) -> None:
    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(5)
        async with ws.open_cancel_stream(kind(order_ids)) as outcomes:
            assert {outcome.request.id async for outcome in outcomes if outcome.off_book} == set(order_ids)


async def test_a_memory_channel_will_do_and_ends_when_it_does(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        send, receive = trio.open_memory_channel[CancelRequest](0)

        async def feed() -> None:
            async with send:
                for order_id in venue.orders(3):
                    await trio.sleep(1)
                    await send.send(CancelRequest(order_id))

        async with trio.open_nursery() as nursery, ws.open_cancel_stream(receive) as outcomes:
            nursery.start_soon(feed)
            times = [trio.current_time() async for _ in outcomes]
        assert times == [1.0, 2.0, 3.0]  # each at once, not when there are more


async def test_nothing_in_nothing_out(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws, ws.open_cancel_stream([]) as outcomes:
        assert [outcome async for outcome in outcomes] == []
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


async def test_duplicates_are_not_compared(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order_id,) = venue.orders(1)
        async with ws.open_cancel_stream([order_id] * 3) as outcomes:
            assert [outcome.kind async for outcome in outcomes] == ["canceled", "already_closed", "already_closed"]
        assert len(venue.log) == 3


async def test_thousands_come_through_a_slow_consumer(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(2000)
        seen = []
        async with ws.open_cancel_stream(order_ids) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome.request.id)
                if len(seen) % 100 == 0:
                    await trio.sleep(20)
        assert sorted(map(str, seen)) == sorted(order_ids)


# What it costs


async def test_nothing_grows_with_the_input(autojump_clock: MockClock) -> None:
    given = 0

    def endless() -> Iterator[str]:
        nonlocal given
        for number in itertools.count():
            given += 1
            yield f"order-{number}"

    async with open_venue() as venue, venue.open() as ws:
        received = 0
        async with ws.open_cancel_stream(endless()) as outcomes:
            async for _ in outcomes:
                received += 1
                assert given - received <= ROOM + SHELF + 1
                if received in (1, 300):
                    await trio.sleep(100)  # a consumer that is busy elsewhere
                    assert ws.statistics().queued - received <= ROOM
                    assert ROOM // 2 < given - received <= ROOM + SHELF + 1  # it does use what it has
                if received == 3000:
                    break


@pytest.mark.parametrize("kind", [list, async_items, Channel])
async def test_what_is_at_hand_is_written_together(kind: Callable[[list[str]], Any], autojump_clock: MockClock) -> None:
    async with (
        open_venue(delay=5.0) as venue,
        venue.open() as ws,
        ws.open_cancel_stream(kind(venue.orders(6))) as outcomes,
    ):
        written = [outcome.attempts[0].written_at or 0.0 async for outcome in outcomes]
    assert max(written) - min(written) < 0.1  # none waited for the answer to another


async def test_a_consumer_that_never_waits_lets_others_run(autojump_clock: MockClock) -> None:
    turns: list[int] = []
    received = 0

    async def another() -> None:
        while True:
            turns.append(received)
            await trio.lowlevel.checkpoint()

    async with open_venue() as venue, venue.open() as ws, trio.open_nursery() as nursery:
        async with ws.open_cancel_stream(venue.orders(ROOM)) as outcomes:
            await trio.sleep(100)  # all of them are at hand then
            nursery.start_soon(another)
            async for _ in outcomes:
                received += 1
        nursery.cancel_scope.cancel()
    assert received == ROOM
    # In a pass of the scheduler the order is random, so that up to two of the consumer's turns may follow each other.
    assert all(after - before <= 2 * YIELD_EVERY for before, after in itertools.pairwise([0, *turns, received]))
    assert len(set(turns)) < ROOM // 4  # and it does not pay a turn for each


async def test_a_consumer_that_never_waits_can_be_cancelled_at_any_outcome(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        taken: list[str] = []
        async with ws.open_cancel_stream(venue.orders(100)) as outcomes:
            await trio.sleep(100)
            with trio.CancelScope() as scope:
                async for outcome in outcomes:
                    taken.append(outcome.request.key)
                    if len(taken) == 10:
                        scope.cancel()
            assert len(taken) == 10
            taken += [outcome.request.key async for outcome in outcomes]
        assert len(set(taken)) == 100  # none was lost


async def test_settled_orders_are_let_go(autojump_clock: MockClock) -> None:
    references = []

    def items() -> Iterator[CancelRequest]:
        for number in range(300):
            item = CancelRequest(f"order-{number}")
            references.append(weakref.ref(item))
            yield item

    async with open_venue() as venue, venue.open() as ws:
        async with ws.open_cancel_stream(items()) as outcomes:
            count = 0
            async for outcome in outcomes:
                del outcome
                count += 1
                if count == 250:
                    gc.collect()
                    assert sum(reference() is not None for reference in references) <= 60
        assert venue.log.received == 300


async def test_an_iterable_that_never_waits_lets_others_run(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await trio.lowlevel.checkpoint()
                ticks += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            async with ws.open_cancel_stream(f"order-{number}" for number in range(2000)) as outcomes:
                async for _ in outcomes:
                    pass
            nursery.cancel_scope.cancel()
        assert ticks > 20


# What may go wrong


@pytest.mark.parametrize("requests", ["one id", b"bytes", CancelRequest("a"), {"a": 1}, 7, None])
async def test_what_is_no_iterable_is_refused(autojump_clock: MockClock, requests: list[str]) -> None:
    async with open_venue() as venue, venue.open() as ws:
        with pytest.raises(InvalidRequest, match="iterable"):
            async with ws.open_cancel_stream(requests):
                pytest.fail("it was taken")
        assert len(venue.log) == 0


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_invalid_items_are_reported_and_the_stream_goes_on(autojump_clock: MockClock, asynchronous: bool) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(300)
        items = [*ids[:100], "", f"{ids[100]}\n", *ids[101:]]
        async with ws.open_cancel_stream(async_items(items) if asynchronous else items, invalid="report") as outcomes:
            assert [(await anext(outcomes)).kind for _ in range(99)] == ["canceled"] * 99
            assert len([outcome async for outcome in outcomes]) == 200
            assert [(item.index, item.item) for item in outcomes.invalid] == [(100, ""), (101, f"{ids[100]}\n")]
        assert len(outcomes.invalid) == 2
        assert [order.id for order in venue.book.open_orders()] == [ids[100]]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_item_that_is_no_request_comes_out_after_the_outcomes_before_it(
    autojump_clock: MockClock, asynchronous: bool
) -> None:
    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(3)
        items = [*order_ids, "", "never"]
        seen = []
        async with ws.open_cancel_stream(async_items(items) if asynchronous else items) as outcomes:
            with pytest.raises(InvalidRequest, match="Item 3 of the requests: id must not be empty"):
                async for outcome in outcomes:
                    seen.append(outcome.kind)  # noqa: PERF401 - what came before the error counts
            assert [outcome async for outcome in outcomes] == []  # it is told once
        assert seen == ["canceled"] * 3
        assert len(venue.log) == 3


async def test_an_iterable_that_fails_comes_out_with_its_own_exception(autojump_clock: MockClock) -> None:
    error = ZeroDivisionError("mine")

    async def failing() -> AsyncIterator[str]:
        for order_id in order_ids:
            yield order_id
            await trio.lowlevel.checkpoint()
        raise error

    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(100)
        seen = 0
        async with ws.open_cancel_stream(failing()) as outcomes:
            with pytest.raises(ZeroDivisionError) as caught:
                async for _ in outcomes:
                    seen += 1
        assert caught.value is error
        assert seen == 100


async def test_the_blocks_exception_comes_out_as_the_same_object(autojump_clock: MockClock) -> None:
    error = ValueError("mine")
    async with open_venue() as venue, venue.open() as ws:
        with pytest.raises(ValueError, match="mine") as caught:
            async with ws.open_cancel_stream(venue.orders(100)) as outcomes:
                await anext(outcomes)
                raise error
        assert caught.value is error


def test_an_interrupt_goes_to_the_block_in_no_group() -> None:
    def interrupting() -> Iterator[str]:
        yield "a"
        signal.raise_signal(signal.SIGINT)
        yield from (f"order-{number}" for number in range(1000))

    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws:
            with pytest.raises(KeyboardInterrupt):
                async with ws.open_cancel_stream(interrupting()) as outcomes:
                    async for _ in outcomes:
                        await trio.lowlevel.checkpoint()
            assert (await ws.try_cancel("b")).kind == "not_found"  # the session is not harmed

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Leaving early


async def test_leaving_early_stops_the_intake_and_names_what_is_in_flight(autojump_clock: MockClock) -> None:
    watch = Remembering()
    given: list[str] = []

    def items() -> Iterator[str]:
        for order_id in order_ids:
            given.append(order_id)
            yield order_id

    async with open_venue(delay=1.0) as venue, venue.open(observer=watch) as ws:
        order_ids = venue.orders(500)
        async with ws.open_cancel_stream(items()) as outcomes:
            first = await anext(outcomes)
            assert isinstance(first, Canceled)
            await trio.sleep(0.5)
        left = trio.current_time()
        unsettled = outcomes.unsettled
        taken = len(given)
        await trio.sleep(0.1)
        written = [record.params["id"] for record in venue.log]
        assert 0 < len(unsettled) < 20
        assert {request.id for request in unsettled} <= set(written)
        await trio.sleep(5)
        assert len(given) == taken < 500
        assert [record.params["id"] for record in venue.log] == written
        assert outcomes.unsettled == ()  # late answers settle it
        assert len(watch.of("settled_late")) == len(unsettled)
        rest = [outcome async for outcome in outcomes]  # what had come and was not taken
        assert 1 + len(rest) + len(unsettled) == len(written)
        assert trio.current_time() > left
        assert ws.statistics().pending == 0


async def test_leaving_early_closes_an_async_generator(autojump_clock: MockClock) -> None:
    closed = []

    async def items() -> AsyncIterator[str]:
        try:
            for number in itertools.count():
                yield f"order-{number}"
                await trio.sleep(0.1)
        finally:
            closed.append(True)

    async with open_venue() as venue, venue.open() as ws:
        async with ws.open_cancel_stream(items()) as outcomes:
            await anext(outcomes)
        assert closed


async def test_a_scope_may_fire_at_any_time_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    for tenths in range(0, 25, 2):
        async with open_venue(delay=0.3) as venue, venue.open() as ws:
            order_ids = venue.orders(100)
            seen: list[Outcome] = []
            stream = ws.open_cancel_stream(order_ids)
            outcomes = None
            with trio.move_on_after(tenths / 10):
                async with stream as outcomes:
                    async for outcome in outcomes:
                        seen.append(outcome)  # noqa: PERF401 - what came before the scope fired counts
            if outcomes is None:
                assert len(venue.log) == 0
                continue
            unsettled = outcomes.unsettled
            seen += [outcome async for outcome in outcomes]
            await trio.sleep(2)
            told = [outcome.request.id for outcome in seen] + [request.id for request in unsettled]
            assert len(told) == len(set(told))
            assert set(told) == {record.order_id for record in venue.log}
            assert ws.statistics().pending == 0


async def test_nothing_of_a_stream_or_a_batch_stays_in_the_queue(autojump_clock: MockClock) -> None:
    async with open_venue(delay=0.5) as venue, venue.open() as ws:
        queue = ws._session.engine._queue
        for patience in (0.1, 60):
            with trio.move_on_after(patience):
                await ws.cancel_many(venue.orders(20))
            with trio.move_on_after(patience):
                async with ws.open_cancel_stream(venue.orders(20)) as outcomes:
                    async for _ in outcomes:
                        pass
            assert queue.sources() == []
        await trio.sleep(2)
        assert ws.statistics().pending == 0


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    async with open_venue(delay=0.25) as venue, venue.open() as ws:
        order_ids = venue.orders(50)
        seen: list[str | None] = []
        async with ws.open_cancel_stream(order_ids) as outcomes:
            while len(seen) < 50:
                with trio.move_on_after(0.1):
                    seen.append((await anext(outcomes)).request.id)
        assert sorted(map(str, seen)) == sorted(order_ids)


# When the connection or the session ends


async def test_a_final_failure_settles_all_that_waits_and_all_that_comes(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(1000)
        venue.sandbox.script(lambda record: Fault.SILENT_BEFORE)
        seen = []
        async with ws.open_cancel_stream(order_ids) as outcomes:
            await trio.sleep(1)
            ws._session._fail(HandshakeFailed("over"))
            assert ws.state is SessionState.FAILED
            async for outcome in outcomes:
                assert isinstance(outcome, Unknown | NotSent)
                assert outcome.cause is ws.failure
                seen.append(outcome.request.id)
        assert sorted(map(str, seen)) == sorted(order_ids)
        assert trio.current_time() == 1


async def test_a_failure_after_the_end_of_the_input_settles_what_waits(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        venue.sandbox.script(lambda record: Fault.SILENT_BEFORE)
        async with ws.open_cancel_stream(venue.orders(30)) as outcomes:
            await trio.sleep(1)
            ws._session._fail(HandshakeFailed("over"))
            with trio.fail_after(1):
                kinds = [outcome.kind async for outcome in outcomes]
        assert (kinds.count("unknown"), kinds.count("not_sent")) == (8, 22)


async def test_what_waits_is_told_at_once_while_the_input_is_silent(autojump_clock: MockClock) -> None:
    async def silent() -> AsyncIterator[str]:
        for order_id in order_ids:
            yield order_id
        await trio.sleep_forever()

    async with open_venue() as venue, venue.open() as ws:
        order_ids = venue.orders(20)
        venue.sandbox.script(lambda record: Fault.SILENT_BEFORE)
        async with ws.open_cancel_stream(silent()) as outcomes:
            await trio.sleep(1)
            ws._session._fail(HandshakeFailed("over"))
            with trio.fail_after(1):
                kinds = [(await anext(outcomes)).kind for _ in range(20)]
        assert kinds.count("not_sent") == 12


async def test_an_outage_ends_what_waited_in_it_and_not_what_comes_after(autojump_clock: MockClock) -> None:
    async def slowly(order_ids: list[str]) -> AsyncIterator[str]:
        for order_id in order_ids:
            await trio.sleep(0.1)
            yield order_id

    async with open_venue() as venue, venue.open(give_up_after=5) as ws:
        kinds = []
        async with ws.open_cancel_stream(slowly(venue.orders(1000))) as outcomes:
            await trio.sleep(1)
            venue.failures = [OSError("down")] * 20  # some 20 s
            await venue.cut()
            async for outcome in outcomes:
                kinds.append(outcome.kind)
                if isinstance(outcome, NotSent):
                    assert isinstance(outcome.cause, NotWritten)
                    assert not venue.log.by_order(outcome.request.key)
        assert len(kinds) == 1000
        assert 100 <= kinds.count("not_sent") <= 240  # each that came earlier than five seconds before the end
        assert kinds.count("canceled") > 700


async def test_a_lost_connection_is_survived(autojump_clock: MockClock) -> None:
    async with open_venue(delay=0.1) as venue, venue.open() as ws:
        order_ids = venue.orders(300)
        async with ws.open_cancel_stream(order_ids) as outcomes:
            off_book = 0
            async for outcome in outcomes:
                off_book += bool(outcome.off_book)
                if off_book in (50, 150):
                    await venue.cut()
        assert off_book == 300


async def test_after_the_session_it_ends_at_once(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        async with venue.open() as ws:
            stream = ws.open_cancel_stream(["a", "b"])
        async with stream as outcomes:
            kinds = [outcome.kind async for outcome in outcomes]
        assert kinds == ["not_sent"] * 2
        assert len(venue.log) == 0


@pytest.mark.parametrize(("total", "behind"), [(1000, 1000), (None, SHELF + MANY)])
async def test_a_stream_says_how_many_of_its_orders_have_not_been_asked_for(total: int | None, behind: int) -> None:
    source = StreamSource(RetryPolicy(), Desk().engine, total)
    for number in range(SHELF):
        assert source.behind() == number
        source.take_item(f"o-{number}", number)
    assert source.behind() == behind


async def test_whatever_can_be_under_way_has_room_for_its_outcome() -> None:
    source = StreamSource(RetryPolicy(), Desk().engine)
    assert source._send.statistics().max_buffer_size >= LAST_ROOM + SHELF


@pytest.mark.parametrize("room", ["ROOM", "LAST_ROOM"])
async def test_what_is_under_way_takes_room(monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    monkeypatch.setattr(stream, room, 10)
    source = StreamSource(RetryPolicy(), Desk().engine)
    for number in range(SHELF):
        source.take_item(f"o-{number}", number)
    take = source.take if room == "ROOM" else source.take_last
    assert [len(take(7)) for _ in range(3)] == [7, 3, 0]
