"""Ctrl-C and cancellation at every moment of an order scope. Each test has a run, and so a main task, of its own."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from types import CodeType, FrameType
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.venues import Venue, open_venue
from trio_cancel import OrdersLeft, TradingWS
from trio_cancel._cancels.stream import run_stream
from trio_cancel._engine.order import OrderCancel
from trio_cancel._session.session import run_session
from trio_cancel._trio.signals import signal_counter
from trio_cancel.sandbox import Fault
from trio_cancel.types import Batch, OrderScope


def run(main: Callable[[], Awaitable[None]], *instruments: trio.abc.Instrument) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0), instruments=instruments)


@trio.lowlevel.enable_ki_protection
def press_ctrl_c() -> None:
    """Do what happens when nobody runs at this moment: trio raises KeyboardInterrupt in the main task."""
    signal.raise_signal(signal.SIGINT)


async def press_later(*seconds: float) -> None:
    for wait in seconds:
        await trio.sleep(wait)
        press_ctrl_c()


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Whatever happens, the handler is put back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    after = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert after is before


# Ctrl-C


def test_ctrl_c_in_the_block_is_an_orderly_end() -> None:
    async def main() -> None:
        async with open_venue(delay=1.0) as venue:
            with pytest.raises(KeyboardInterrupt) as caught:
                async with venue.open() as ws, ws.open_order_scope() as orders:
                    for order_id in venue.orders(3):
                        await orders.add(order_id)
                    press_ctrl_c()
                    await trio.sleep_forever()
            assert not hasattr(caught.value, "__notes__")
            assert venue.book.open_orders() == []
            assert orders.report is not None
            assert orders.report.counts["canceled"] == 3

    run(main)


def test_ctrl_c_in_the_block_tells_what_is_left() -> None:
    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws:
            with pytest.raises(KeyboardInterrupt) as caught:
                async with ws.open_order_scope() as orders:
                    await orders.add(external_id="never")
                    raise KeyboardInterrupt
            assert caught.value.__notes__ == ["1 order may still be on the book: never (not_found)."]

    run(main)


def test_ctrl_c_in_a_group_counts_as_the_first() -> None:
    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws, trio.open_nursery() as nursery:
            venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
            with pytest.raises(BaseExceptionGroup) as caught:
                async with ws.open_order_scope() as orders, trio.open_nursery():
                    await orders.add(*venue.orders(1))
                    nursery.start_soon(press_later, 1, 2)
                    await trio.sleep_forever()
            assert caught.value.subgroup(KeyboardInterrupt) is not None
            assert "may still be on the book" in caught.value.__notes__[0]
            assert trio.current_time() == pytest.approx(3, abs=0.1)

    run(main)


@pytest.mark.parametrize("presses", [1, 2])
def test_only_a_second_ctrl_c_ends_the_grace(presses: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws, trio.open_nursery() as nursery:
            venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
            with pytest.raises(KeyboardInterrupt) as caught:
                async with ws.open_order_scope() as orders:
                    await orders.add(*venue.orders(1))
                    nursery.start_soon(press_later, *[1, 2][:presses])
                    await trio.sleep_forever()
            assert trio.current_time() == pytest.approx(31 if presses == 1 else 3, abs=0.1)
            assert "(unknown)" in caught.value.__notes__[0]
            assert orders.report is not None
            assert orders.report.counts["unknown"] == 1
        assert any(record.levelno == logging.ERROR and "(unknown)" in record.getMessage() for record in caplog.records)

    run(main)


@pytest.mark.parametrize("presses", [1, 2])
def test_the_first_ctrl_c_while_the_orders_are_canceled_waits_for_them(presses: int) -> None:
    async def main() -> None:
        async with open_venue(delay=5.0) as venue, venue.open() as ws, trio.open_nursery() as nursery:
            with pytest.raises(KeyboardInterrupt) as caught:
                async with ws.open_order_scope() as orders:
                    await orders.add(*venue.orders(1))
                    nursery.start_soon(press_later, *[1, 1][:presses])
            assert orders.report is not None
            if presses == 1:
                assert orders.report.counts["canceled"] == 1
                assert not hasattr(caught.value, "__notes__")
            else:
                assert trio.current_time() == pytest.approx(2, abs=0.1)
                assert "(unknown)" in caught.value.__notes__[0]

    run(main)


@pytest.mark.parametrize("presses", [1, 2])
def test_it_is_heard_where_the_scope_is_in_another_task_than_the_main_one(presses: int) -> None:
    async def trade(ws: TradingWS, venue: Venue) -> None:
        async with ws.open_order_scope() as orders:
            await orders.add(*venue.orders(1))
            await trio.sleep_forever()

    async def main() -> None:
        async with open_venue() as venue:
            venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
            with pytest.raises(BaseExceptionGroup) as caught:
                async with venue.open() as ws, trio.open_nursery() as nursery:
                    ws._session.spawn(press_later, *[1, 2][:presses])
                    nursery.start_soon(trade, ws, venue)
                    await trio.sleep_forever()
            assert trio.current_time() == pytest.approx(31 if presses == 1 else 3, abs=2.1)
            assert caught.value.subgroup(KeyboardInterrupt) is not None
            assert caught.value.subgroup(OrdersLeft) is not None

    run(main)


def test_nested_scopes_each_take_a_ctrl_c_to_end_early() -> None:
    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws, trio.open_nursery() as nursery:
            venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
            one, two = venue.orders(2)
            with pytest.raises(KeyboardInterrupt) as caught:
                async with ws.open_order_scope() as outer, ws.open_order_scope() as inner:
                    await outer.add(one)
                    await inner.add(two)
                    nursery.start_soon(press_later, 1, 2, 3)
                    await trio.sleep_forever()
            assert trio.current_time() == pytest.approx(6, abs=0.1)
            assert len(caught.value.__notes__) == 2

    run(main)


def test_a_ctrl_c_while_a_failed_block_is_left_comes_out() -> None:
    async def main() -> None:
        async with open_venue(delay=5.0) as venue, venue.open() as ws, trio.open_nursery() as nursery:
            with pytest.raises(KeyboardInterrupt) as caught:
                async with ws.open_order_scope() as orders:
                    await orders.add(*venue.orders(1))
                    nursery.start_soon(press_later, 1)
                    raise ValueError("the strategy failed")
            assert isinstance(caught.value.__context__, ValueError)
            assert venue.book.open_orders() == []

    run(main)


# The handler


def test_the_handler_is_put_back_when_the_last_scope_has_been_left() -> None:
    async def main() -> None:
        before = signal.getsignal(signal.SIGINT)
        async with open_venue() as venue, venue.open() as ws:
            async with ws.open_order_scope():
                ours = signal.getsignal(signal.SIGINT)
                assert ours is not before
                async with ws.open_order_scope():
                    assert signal.getsignal(signal.SIGINT) is ours
                assert signal.getsignal(signal.SIGINT) is ours
            assert signal.getsignal(signal.SIGINT) is before

    run(main)


def test_a_handler_that_ignores_ctrl_c_is_left_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws, ws.open_order_scope():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            press_ctrl_c()

    try:
        run(main)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_of_the_program_still_hears_it() -> None:
    heard: list[int] = []

    def handler(signum: int, frame: FrameType | None) -> None:
        heard.append(signum)

    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws:
            venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
            with pytest.raises(OrdersLeft):
                async with ws.open_order_scope() as orders, trio.open_nursery() as nursery:
                    nursery.cancel_scope.shield = False
                    await orders.add(*venue.orders(1))
                    ws._session.spawn(press_later, 1, 1)
            assert trio.current_time() == pytest.approx(2, abs=0.1)

    signal.signal(signal.SIGINT, handler)
    try:
        run(main)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert heard == [signal.SIGINT] * 2


def test_a_handler_that_was_put_on_top_stays_and_ours_behind_it_does_no_harm() -> None:
    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws:
            async with ws.open_order_scope():
                signal.signal(signal.SIGINT, on_top := signal.Handlers.SIG_IGN)
                ours = signal.signal(signal.SIGINT, on_top)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert ours is signal.SIG_IGN

    run(main)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_is_put_back_after_the_run_goes_away_by_itself() -> None:
    kept: list[Any] = []

    async def main() -> None:
        async with open_venue() as venue, venue.open() as ws, ws.open_order_scope():
            kept.append(signal.getsignal(signal.SIGINT))

    run(main)
    signal.signal(signal.SIGINT, kept[0])
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nobody_listens_in_another_thread() -> None:
    async def main() -> None:
        before = signal.getsignal(signal.SIGINT)
        async with open_venue() as venue, venue.open() as ws, ws.open_order_scope():
            assert not signal_counter().listening
            assert signal.getsignal(signal.SIGINT) is before

    async def outer() -> None:
        await trio.to_thread.run_sync(run, main)

    trio.run(outer)


# At every moment

STEPS = 50
"""The sweeps have more than so many moments."""


@attrs.define(eq=False)
class Steps(trio.abc.Instrument):
    """Does something before step ``at`` of the run's tasks, from ``begin`` on.

    Attributes:
        count: steps since the beginning.
        acted: whether it came to that.
    """

    at: int
    act: Callable[[], None]
    counts: bool = False
    count: int = 0
    acted: bool = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.counts:
            self.count += 1
            if self.count == self.at:
                self.acted = True
                self.act()


async def trade(venue: Venue, ws: TradingWS) -> None:
    """Quote for a while, as a program would."""
    async with ws.open_order_scope(settle=2) as orders:
        for turn in range(2):
            name = f"mm-{turn}"
            await orders.add(external_id=name)
            await trio.sleep(0.01)
            venue.book.create(external_id=name)
            await trio.sleep(0.01)
            if turn == 0:
                venue.book.fill(external_id=name)
                orders.discard(external_id=name)


@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("child", [False, True])
def test_cancelled_at_every_step(where: str, child: bool) -> None:
    async def main(scope: trio.CancelScope, steps: Steps) -> None:
        async with open_venue(seed=1) as venue:
            # An order that was held and never placed is told.
            with suppress(OrdersLeft, ExceptionGroup), scope if where == "outside" else trio.CancelScope():
                async with venue.open() as ws, trio.open_nursery() as nursery:
                    with scope if where == "inside" else trio.CancelScope():
                        steps.counts = True
                        if child:
                            nursery.start_soon(trade, venue, ws)
                        else:
                            await trade(venue, ws)
            steps.counts = False
            assert venue.book.open_orders(pending=True) == [], f"step {steps.at}"
            assert trio.current_time() < 5

    for at in itertools.count(1):
        scope = trio.CancelScope()
        steps = Steps(at, scope.cancel)
        run(partial(main, scope, steps), steps)
        if not steps.acted:
            break
    assert at > STEPS


@pytest.mark.parametrize("child", [False, True])
def test_ctrl_c_at_every_step(child: bool) -> None:
    async def main(steps: Steps) -> None:
        async with open_venue(seed=1) as venue:
            with suppress(KeyboardInterrupt, BaseExceptionGroup):
                async with venue.open() as ws, trio.open_nursery() as nursery:
                    steps.counts = True
                    if child:
                        nursery.start_soon(trade, venue, ws)
                    else:
                        await trade(venue, ws)
            steps.counts = False
            assert venue.book.open_orders(pending=True) == [], f"step {steps.at}"
            assert trio.current_time() < 5

    for at in itertools.count(1):
        steps = Steps(at, press_ctrl_c)
        with suppress(KeyboardInterrupt):
            run(partial(main, steps), steps)
        if not steps.acted:
            break
    assert at > STEPS


@attrs.define(eq=False)
class Instructions:
    """Presses Ctrl-C at instruction ``at`` of these pieces of code."""

    at: int
    codes: frozenset[CodeType]
    count: int = 0

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code not in self.codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                signal.raise_signal(signal.SIGINT)
        return self.trace


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_every_other_instruction_of_the_block_and_the_scope() -> None:
    """Python lets a signal handler raise between any two instructions of code that is not protected."""
    names = ("add", "discard", "placed", "__aenter__", "__aexit__")
    codes = frozenset({trade.__code__, *(getattr(OrderScope, name).__code__ for name in names)})

    async def main(instructions: Instructions) -> None:
        async with open_venue(seed=1) as venue:
            error: BaseException | None = None
            before = sys.gettrace()
            try:
                async with venue.open() as ws:
                    sys.settrace(instructions.trace)
                    await trade(venue, ws)
            except (KeyboardInterrupt, OrdersLeft) as caught:
                error = caught
            finally:
                sys.settrace(before)
            assert venue.book.open_orders(pending=True) == [], f"instruction {instructions.at}: {error!r}"
            assert trio.current_time() < 5

    for at in itertools.count(1, 2):
        instructions = Instructions(at, codes)
        with suppress(KeyboardInterrupt):
            run(partial(main, instructions))
        if instructions.count < at:
            break
    assert at > 300


async def open_a_stream(venue: Venue, instructions: Instructions) -> None:
    async with venue.open() as ws:
        sys.settrace(instructions.trace)
        async with ws.open_cancel_stream(venue.orders(3)) as outcomes:
            async for _ in outcomes:
                pass


async def open_a_session(venue: Venue, instructions: Instructions) -> None:
    sys.settrace(instructions.trace)
    async with venue.open() as ws:
        await ws.try_cancel(*venue.orders(1))


@pytest.mark.parametrize(("manager", "use"), [(run_stream, open_a_stream), (run_session, open_a_session)])
def test_ctrl_c_at_every_instruction_of_opening_and_leaving(
    manager: Any, use: Callable[[Venue, Instructions], Awaitable[None]]
) -> None:
    async def main(instructions: Instructions) -> None:
        before = sys.gettrace()
        async with open_venue(seed=1) as venue:
            try:
                await use(venue, instructions)
            finally:
                sys.settrace(before)

    for at in itertools.count(1):
        instructions = Instructions(at, frozenset({manager.__wrapped__.__code__}))
        with suppress(KeyboardInterrupt):  # and nothing else: no nursery is left open
            run(partial(main, instructions))
        if instructions.count < at:
            break
    assert at > STEPS


def test_ctrl_c_while_the_session_ends_leaves_no_caller_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    pressed = False
    deliver = OrderCancel.deliver

    def press_once(single: OrderCancel) -> None:
        nonlocal pressed
        deliver(single)
        if not pressed:
            pressed = True
            signal.raise_signal(signal.SIGINT)

    async def call(ws: TradingWS, order: str) -> None:
        told.append((await ws.try_cancel(order)).kind)

    async def main() -> None:
        async with open_venue() as venue, trio.open_nursery() as callers:
            with pytest.raises(KeyboardInterrupt):
                async with venue.open() as ws:
                    venue.failures += [OSError("down")] * 100
                    await venue.cut()
                    await trio.sleep(0.01)
                    for order in venue.orders(20):
                        callers.start_soon(call, ws, order)  # noqa: ASYNC111 - they outlive the session: that is tested
                    await trio.testing.wait_all_tasks_blocked()
                    monkeypatch.setattr(OrderCancel, "deliver", press_once)
            await trio.sleep(10)
            callers.cancel_scope.cancel()

    run(main)
    assert pressed
    assert told == ["not_sent"] * 20


def test_ctrl_c_at_every_instruction_of_entering_a_batch_leaves_none_running() -> None:
    async def main(instructions: Instructions) -> None:
        entered = False
        before = sys.gettrace()
        async with open_venue(seed=1) as venue, venue.open() as ws:
            batch = ws.batch(venue.orders(3))
            try:
                sys.settrace(instructions.trace)
                async with batch as outcomes:
                    entered = True
                    async for _ in outcomes:
                        pass
            except KeyboardInterrupt:
                sys.settrace(before)
                await trio.sleep(1)
                counts = batch.report().counts
                assert entered or counts["not_sent"] == 3, f"instruction {instructions.at}: {counts}"
            finally:
                sys.settrace(before)
            if entered:
                assert batch.report().final

    enter, leave = Batch.__aenter__, Batch.__aexit__
    for at in itertools.count(1):
        instructions = Instructions(at, frozenset({enter.__code__, leave.__code__}))
        with suppress(KeyboardInterrupt):
            run(partial(main, instructions))
        if instructions.count < at:
            break
    assert at > 10
