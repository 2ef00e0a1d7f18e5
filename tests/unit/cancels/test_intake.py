"""How a stream takes its input in and how what is left is withdrawn: each rule alone, on an engine without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.desk import CountedWakeup, Desk, bare
from trio_cancel import CancelRequest, NotSent, NotWritten, Outcome
from trio_cancel._cancels import batch, stream
from trio_cancel._cancels.stream import StreamSource
from trio_cancel._engine.order import RetryPolicy


def source(**options: Any) -> StreamSource:
    return StreamSource(RetryPolicy(), Desk(up=False).engine, **options)


class Steps(trio.abc.Instrument):
    """Notes what a number is after each step of a task, wherever it has changed."""

    def __init__(self, number: Callable[[], int]) -> None:
        self._number = number
        self.seen: list[int] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        now = self._number()
        if self.seen[-1:] != [now]:
            self.seen.append(now)


def names(count: int, taken: list[str] | None = None) -> Iterator[str]:
    """Return that many names; each is noted when it is taken."""
    for name in (f"o-{number}" for number in range(count)):
        if taken is not None:
            taken.append(name)
        yield name


async def test_the_intake_stops_at_a_full_shelf(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SHELF", 10)
    taking, taken = source(), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taking.take_in, names(100, taken))
        await trio.testing.wait_all_tasks_blocked()
        assert len(taken) == 10
        assert len(taking.take(7)) == 7
        await trio.testing.wait_all_tasks_blocked()
        assert len(taken) == 17
        nursery.cancel_scope.cancel()


async def test_an_input_that_never_waits_lets_others_run(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHELF", 1000)
    monkeypatch.setattr(stream, "YIELD_EVERY", 50)
    taking, taken = source(), list[str]()
    steps = Steps(lambda: len(taken))
    trio.lowlevel.add_instrument(steps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taking.take_in, names(120, taken))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(steps)
    assert steps.seen == [0, 50, 100, 120]


async def test_outcomes_that_nobody_receives_stop_the_intake(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ROOM", 5)
    monkeypatch.setattr(stream, "SHELF", 5)
    monkeypatch.setattr(stream, "TOLD_EVERY", 1)
    taking, taken = source(), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taking.take_in, names(100, taken))
        await trio.testing.wait_all_tasks_blocked()
        taking.give_up(NotWritten("no"), trio.current_time())
        await trio.testing.wait_all_tasks_blocked()
        assert len(taken) == 5
        await taking.next_outcome()
        await trio.testing.wait_all_tasks_blocked()
        assert len(taken) == 10
        nursery.cancel_scope.cancel()


async def test_what_is_refused_is_told_as_it_is_received(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ROOM", 5)
    monkeypatch.setattr(stream, "TOLD_EVERY", 1)
    taking, taken = source(), list[str]()
    cause = NotWritten("it has ended")
    taking.refuse(cause)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taking.take_in, names(8, taken))
        await trio.testing.wait_all_tasks_blocked()
        assert len(taken) == 6, "five wait to be received, and one for room"
        outcomes = [await taking.next_outcome() for _ in range(8)]
    assert [(outcome.request.id, outcome.cause) for outcome in outcomes if isinstance(outcome, NotSent)] == [
        (name, cause) for name in taken
    ]
    with pytest.raises(StopAsyncIteration):
        await taking.next_outcome()


async def test_from_when_the_time_of_each_item_counts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there at once came with the item before, what was waited for when it came."""
    monkeypatch.setattr(stream, "WAITED", 0.25)
    taking = source()
    await trio.sleep(3)

    async def items() -> AsyncIterator[str]:
        yield "at once"
        await trio.sleep(0.125)
        yield "nearly"
        await trio.sleep(0.25)
        yield "waited for"
        await trio.sleep(5)
        yield "late"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(taking.take_in, items())
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [order.held_since for order in taking.take(9)] == [0.0, 0.125, 3.375, 8.375]


async def test_an_async_generator_is_closed_with_the_intake(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHELF", 1)
    closed = trio.Event()

    async def items() -> AsyncIterator[str]:
        try:
            for name in names(5):
                yield name
        finally:
            closed.set()

    kept = items()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source().take_in, kept)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert closed.is_set()


async def test_an_item_that_names_no_order_is_kept_as_it_came() -> None:
    taking = source(invalid="report")
    taking.take_item(7, 3)
    (invalid,) = taking.invalid
    assert (invalid.index, invalid.item) == (3, 7)


@pytest.mark.parametrize(("count", "seen"), [(9, [0, 9]), (10, [0, 10]), (11, [0, 10, 11]), (25, [0, 10, 20, 25])])
async def test_orders_are_withdrawn_by_slices(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, count: int, seen: list[int]
) -> None:
    monkeypatch.setattr(batch, "WITHDRAWN_AT_ONCE", 10)
    orders = [bare(CancelRequest(name)) for name in names(count)]
    engine = Desk(up=False).engine
    steps = Steps(lambda: sum(order.outcome is not None for order in orders))
    trio.lowlevel.add_instrument(steps)
    await trio.lowlevel.checkpoint()
    await batch.withdraw(engine, orders)
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(steps)
    assert steps.seen == seen


async def test_the_intake_is_woken_when_half_of_the_shelf_is_free_and_when_all_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHELF", 10)
    taking = source()
    taking._intake_wakeup = woken = CountedWakeup()
    for number, name in enumerate(names(10)):
        taking.take_item(name, number)
    rings = []
    for most in (4, 1, 1, 4):
        taking.take(most)
        rings.append(woken.count)
    assert rings == [0, 1, 1, 2]


async def test_one_outcome_in_so_many_tells_that_there_is_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TOLD_EVERY", 10)
    taking = source()
    for number, name in enumerate(names(30)):
        taking.take_item(name, number)
        taking._not_sent(NotWritten("no"))
    told: list[int] = []
    received: list[Outcome] = []
    monkeypatch.setattr(taking, "_tell_room", lambda: told.append(len(received)))
    while len(received) < 30:
        received.append(await taking.next_outcome())
    assert told == [9, 19, 29]  # with the tenth, and so on
