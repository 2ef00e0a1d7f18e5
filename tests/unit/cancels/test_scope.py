"""Order scopes: however a block is left, no order that was added stays on the book untold."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tools.venues import Venue, one_clock, open_venue, venue_clock
from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    ConfigurationError,
    HandshakeFailed,
    InvalidRequest,
    NotFound,
    NotSent,
    OrdersLeft,
    SessionClosed,
    TradingWS,
    Unknown,
)
from trio_cancel.sandbox import BookStatus, Fault
from trio_cancel.types import SessionState


@asynccontextmanager
async def session(
    venue_options: dict[str, Any] | None = None, **keywords: Any
) -> AsyncGenerator[tuple[Venue, TradingWS]]:
    async with open_venue(**{"clock": venue_clock, **(venue_options or {})}) as venue, venue.open(**keywords) as ws:
        yield venue, ws


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)


def is_open(venue: Venue, order_id: str) -> bool:
    return venue.book.get(order_id).status is BookStatus.OPEN


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name.startswith("trio_cancel")
    ]


# However the block is left


async def test_at_the_end_what_is_still_held_is_canceled_and_nothing_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with session() as (venue, ws):
        held, discarded, other = venue.orders(3)
        venue.book.create(external_id="mm-42")
        async with ws.open_order_scope() as orders:
            await orders.add(held)
            await orders.add(discarded)
            await orders.add(external_id="mm-42")
            orders.placed(external_id="mm-42")
            assert len(orders) == 3
            assert orders.held == (CancelRequest(held), CancelRequest(discarded), CancelRequest(external_id="mm-42"))
            assert held in orders
            assert CancelRequest(external_id="mm-42") in orders
            assert "mm-42" not in orders
            assert other not in orders
            orders.discard(discarded)
            assert discarded not in orders
            assert is_open(venue, held)
        assert [order.id for order in venue.book.open_orders()] == [discarded, other]
        assert orders.report is not None
        assert [type(outcome) for outcome in orders.report.outcomes] == [Canceled, Canceled]
        assert orders.report.left == ()
        assert len(orders) == 0
    assert errors(caplog) == []


async def test_there_is_no_report_before_the_end(autojump_clock: MockClock) -> None:
    async with session() as (_, ws), ws.open_order_scope() as orders:
        assert orders.report is None


async def test_an_empty_scope_asks_the_venue_nothing(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        async with ws.open_order_scope() as orders:
            pass
        assert orders.report is not None
        assert orders.report.outcomes == ()
        assert list(venue.log.requests) == []


async def test_an_exception_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        error = ValueError("the strategy failed")
        with pytest.raises(ValueError, match="strategy") as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(order_id)
                raise error
        assert caught.value is error
        assert not hasattr(error, "__notes__")
        assert not is_open(venue, order_id)


@pytest.mark.parametrize("where", ["inside", "outside"])
async def test_cancellation_inside_and_outside_the_session(autojump_clock: MockClock, where: str) -> None:
    inside, outside = trio.CancelScope(), trio.CancelScope()
    async with open_venue(delay=2.0, clock=venue_clock) as venue:
        orders_left = venue.orders(3)
        with outside:
            async with venue.open() as ws:
                with inside:
                    async with ws.open_order_scope() as orders:
                        for order_id in orders_left:
                            await orders.add(order_id)
                        (inside if where == "inside" else outside).cancel()
                        await trio.sleep_forever()
                if where == "outside":
                    pytest.fail("the cancellation goes on")
        assert inside.cancelled_caught == (where == "inside")
        assert outside.cancelled_caught == (where == "outside")
        assert venue.book.open_orders() == []
        assert orders.report is not None
        assert orders.report.counts["canceled"] == 3


async def test_a_scope_that_fires_while_the_orders_are_canceled_changes_nothing(autojump_clock: MockClock) -> None:
    async with session({"delay": 2.0}) as (venue, ws):
        (order_id,) = venue.orders(1)
        with trio.move_on_after(1) as scope:
            async with ws.open_order_scope() as orders:
                await orders.add(order_id)
            assert trio.current_effective_deadline() == -float("inf")
        assert not scope.cancelled_caught  # nothing was cancelled: the block had ended
        assert not is_open(venue, order_id)


async def test_a_group_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        with pytest.raises(ExceptionGroup):
            async with ws.open_order_scope() as orders, trio.open_nursery() as nursery:
                await orders.add(order_id)
                nursery.start_soon(_fail)
                await trio.sleep_forever()
        assert not is_open(venue, order_id)


async def _fail() -> None:  # noqa: ASYNC124 - a task
    raise ValueError("a sibling failed")


# Told, always


async def test_left_by_its_end_raises_with_the_report(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        with pytest.raises(OrdersLeft, match=r"1 order may still be on the book: never \(not_found\)") as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(order_id)
                await orders.add(external_id="never")
        assert caught.value.report is orders.report
        assert [outcome.request.key for outcome in caught.value.report.left] == ["never"]
        assert caught.value.__cause__ is None
        assert not is_open(venue, order_id)
    (error,) = errors(caplog)
    assert "never (not_found)" in error
    assert order_id not in error


@pytest.mark.parametrize("grouped", [False, True])
async def test_left_by_cancellation_raises_from_it(
    autojump_clock: MockClock, grouped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with session() as (_, ws):
        with pytest.raises(OrdersLeft) as caught, trio.move_on_after(1) as scope:
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="never")
                if grouped:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(trio.sleep_forever)
                        nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
        assert not scope.cancelled_caught
        assert caught.value.report is orders.report
        cause = caught.value.__cause__
        assert isinstance(cause, BaseExceptionGroup if grouped else trio.Cancelled)
    assert len(errors(caplog)) == 1


async def test_left_by_another_exception_it_carries_a_note(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with session() as (_, ws):
        with pytest.raises(ValueError, match="strategy") as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="never")
                raise ValueError("the strategy failed")
        assert caught.value.__notes__ == ["1 order may still be on the book: never (not_found)."]
        assert orders.report is not None
        assert len(orders.report.left) == 1
    assert len(errors(caplog)) == 1


async def test_a_group_with_more_than_cancellations_carries_the_note_through_scopes(autojump_clock: MockClock) -> None:
    async with session() as (_, ws):
        with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(100) as scope:
            async with ws.open_order_scope() as orders, trio.open_nursery() as nursery:
                await orders.add(external_id="never")
                scope.cancel()
                with suppress(trio.Cancelled):
                    await trio.sleep_forever()
                nursery.start_soon(trio.sleep_forever)
                raise ValueError
        assert caught.value.__notes__ == ["1 order may still be on the book: never (not_found)."]


async def test_every_id_is_named_in_log_and_note(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"mm-{n:03}" for n in range(250)]
    async with session() as (_, ws):
        with pytest.raises(ValueError, match="strategy") as caught:
            async with ws.open_order_scope(settle=0.1) as orders:
                for name in names:
                    await orders.add(external_id=name)
                raise ValueError("the strategy failed")
    told = " ".join(errors(caplog))
    (note,) = caught.value.__notes__
    for name in names:
        assert name in told
        assert name in note
    assert len(errors(caplog)) == 3


async def test_a_generator_that_is_closed_tells_too(autojump_clock: MockClock) -> None:
    async with session() as (_, ws):

        async def quotes() -> AsyncGenerator[int]:
            async with ws.open_order_scope(settle=0.1) as orders:
                await orders.add(external_id="never")
                yield 1  # noqa: ASYNC119 - that is what is tested

        generator = quotes()
        assert await anext(generator) == 1
        with pytest.raises(OrdersLeft) as caught:
            await generator.aclose()
        assert isinstance(caught.value.__cause__, GeneratorExit)


async def test_nested_scopes_each_cancel_their_own_and_each_tell(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        one, two = venue.orders(2)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(settle=0.1) as outer:
                await outer.add(one)
                await outer.add(external_id="outer")
                async with ws.open_order_scope(settle=0.1) as inner:
                    await inner.add(two)
                    await inner.add(external_id="inner")
                pytest.fail("it has been told")
        assert caught.value.report is inner.report
        assert [o.request.key for o in caught.value.report.left] == ["inner"]
        assert caught.value.__notes__ == ["1 order may still be on the book: outer (not_found)."]
        assert venue.book.open_orders() == []
    async with session() as (venue, ws):
        one, two = venue.orders(2)
        async with ws.open_order_scope() as outer:
            await outer.add(one)
            async with ws.open_order_scope() as inner:
                await inner.add(two)
            assert is_open(venue, one)
            assert not is_open(venue, two)
        assert not is_open(venue, one)


# Grace


async def test_the_grace_bounds_it_and_a_third_of_it_bounds_an_attempt(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=9) as orders:
                await orders.add(order_id)
                left_at = trio.current_time()
        assert trio.current_time() - left_at == pytest.approx(9, abs=0.01)
        (outcome,) = caught.value.report.outcomes
        assert isinstance(outcome, Unknown)
        assert outcome.after_unanswered
        assert str(outcome.cause) == "no answer within 3 s"
        written = [record.received_at for record in venue.log.requests]
        assert len(written) == 3
        assert len(outcome.attempts) == 3


async def test_a_shorter_reply_timeout_of_the_session_stays(autojump_clock: MockClock) -> None:
    async with session(reply_timeout=1.0) as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.SILENT_BEFORE)
        async with ws.open_order_scope() as orders:
            await orders.add(order_id)
            left_at = trio.current_time()
        assert trio.current_time() - left_at == pytest.approx(1, abs=0.1)


async def test_the_usual_grace_is_30_seconds_for_all_of_it(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope() as orders:
                for order_id in venue.orders(100):
                    await orders.add(order_id)
                left_at = trio.current_time()
        assert trio.current_time() - left_at == pytest.approx(30, abs=0.01)
        assert len(caught.value.report.left) == 100


async def test_without_a_network_it_is_not_sent_and_told(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=5) as orders:
                await orders.add(order_id)
                venue.failures = [OSError("unreachable")] * 1000
                await venue.cut()
                await trio.sleep(0.01)
                left_at = trio.current_time()
        assert trio.current_time() - left_at <= 5.01
        (outcome,) = caught.value.report.outcomes
        assert isinstance(outcome, NotSent)
        venue.failures.clear()


async def test_a_network_that_comes_back_within_the_grace_is_used(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        async with ws.open_order_scope() as orders:
            await orders.add(order_id)
            venue.failures = [OSError("unreachable")] * 5
            await venue.cut()
        assert not is_open(venue, order_id)


async def test_it_is_tried_again_though_the_session_tries_once(autojump_clock: MockClock) -> None:
    async with session(retry=False) as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.SILENT_BEFORE, Fault.ERROR_503_BEFORE)
        async with ws.open_order_scope() as orders:
            await orders.add(order_id)
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, Canceled)
        assert len(outcome.attempts) == 3


@pytest.mark.parametrize("fault", [Fault.WRONG_SCHEMA, Fault.OK_WITHOUT_RESULT, Fault.OTHER_STATUS])
async def test_after_an_answer_that_says_nothing_it_asks_again(autojump_clock: MockClock, fault: Fault) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, fault)
        async with ws.open_order_scope() as orders:
            await orders.add(order_id)
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.after_unanswered
        assert len(outcome.attempts) == 2


async def test_an_outcome_that_has_come_is_told_though_others_keep_the_venue_silent(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        one, two = venue.orders(2)
        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE if request.params.get("id") == one else None)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=2) as orders:
                await orders.add(one)
                await orders.add(two)
        assert [outcome.kind for outcome in caught.value.report.outcomes] == ["unknown", "canceled"]


async def test_what_is_answered_after_the_grace_changes_no_report(autojump_clock: MockClock) -> None:
    async with session({"delay": 3.0}) as (venue, ws):
        (order_id,) = venue.orders(1)
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=2) as orders:
                await orders.add(order_id)
        await trio.sleep(5)
        assert not is_open(venue, order_id)
        assert orders.report is not None
        assert orders.report.counts["unknown"] == 1
        assert ws.statistics().pending == 0


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "30", True])
async def test_a_grace_that_is_no_time_is_refused(autojump_clock: MockClock, seconds: Any) -> None:
    async with session() as (_, ws):
        for keyword in ("grace", "settle"):
            with pytest.raises(ConfigurationError, match=keyword):
                ws.open_order_scope(**{keyword: seconds})


# A create that is still on its way


@pytest.mark.parametrize("arrives", [0.1, 3.0, 9.9])
async def test_an_order_that_arrives_until_the_scope_has_settled_is_canceled(
    autojump_clock: MockClock, arrives: float
) -> None:
    async with session() as (venue, ws), trio.open_nursery() as nursery:

        async def place() -> None:
            await trio.sleep(arrives)
            venue.book.create(external_id="late")

        async with ws.open_order_scope() as orders:
            await orders.add(external_id="late")
            nursery.start_soon(place)
        assert venue.book.get(external_id="late").status is BookStatus.CANCELED
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["canceled"]
        assert len(venue.log.requests) < 20


async def test_one_that_is_never_found_is_asked_for_until_then_and_no_longer(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="never")
                left_at = trio.current_time()
        assert trio.current_time() - left_at == pytest.approx(10, abs=0.1)
        (outcome,) = caught.value.report.outcomes
        assert isinstance(outcome, NotFound)
        assert 10 <= len(outcome.attempts) == len(venue.log.requests) <= 15
        assert len({attempt.request_id for attempt in outcome.attempts}) == len(outcome.attempts)


async def test_one_that_the_venue_has_is_asked_for_once(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="gone")
                orders.placed(external_id="gone")
                left_at = trio.current_time()
        assert trio.current_time() - left_at < 0.1
        assert caught.value.report.counts["not_found"] == 1
        assert len(venue.log.requests) == 1


async def test_the_grace_ends_a_longer_settling(autojump_clock: MockClock) -> None:
    async with session() as (_, ws):
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=2, settle=10) as orders:
                await orders.add(external_id="never")
                left_at = trio.current_time()
        assert trio.current_time() - left_at == pytest.approx(2, abs=0.01)
        assert caught.value.report.counts["not_found"] == 1


async def test_what_is_said_while_it_settles_is_heard(autojump_clock: MockClock) -> None:
    async with session() as (_, ws), trio.open_nursery() as nursery:

        async def hear() -> None:
            await trio.sleep(3)
            orders.placed(external_id="gone")
            with pytest.raises(InvalidRequest, match="is being canceled"):
                orders.discard(external_id="gone")
            with pytest.raises(SessionClosed, match="has exited"):
                await orders.add(external_id="more")

        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="gone")
                left_at = trio.current_time()
                nursery.start_soon(hear)
        assert 3 <= trio.current_time() - left_at <= 4.1


# What is held


async def test_add_is_always_a_checkpoint(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        (order_id,) = venue.orders(1)
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                await orders.add(order_id)
        assert orders.held == (CancelRequest(order_id),)


async def test_an_add_that_is_cancelled_holds_nothing(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        known, new = venue.orders(2)
        async with ws.open_order_scope() as orders:
            await orders.add(known)
            for order_id in (known, new):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await orders.add(order_id)
                assert scope.cancelled_caught
            assert orders.held == (CancelRequest(known),)
            async with ws.open_order_scope() as other:
                await other.add(new)
                other.discard(new)
        assert is_open(venue, new)


@pytest.mark.parametrize("arguments", [{}, {"id": "a", "external_id": "b"}, {"id": ""}, {"id": 7}, {"id": "a\n"}])
async def test_what_names_no_order_is_refused(autojump_clock: MockClock, arguments: dict[str, Any]) -> None:
    async with session() as (_, ws), ws.open_order_scope() as orders:
        with pytest.raises(InvalidRequest):
            await orders.add(**arguments)
        for refuse in (orders.discard, orders.placed):
            with pytest.raises(InvalidRequest):
                refuse(**arguments)


async def test_discard_and_placed_refuse_what_is_not_held(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        (order_id,) = venue.orders(1)
        await orders.add(order_id)
        for refuse in (orders.discard, orders.placed):
            with pytest.raises(InvalidRequest, match="does not hold"):
                refuse(external_id=order_id)
        orders.discard(order_id)
        for refuse in (orders.discard, orders.placed):
            with pytest.raises(InvalidRequest, match="does not hold"):
                refuse(order_id)


async def test_an_order_belongs_to_one_scope(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as one, ws.open_order_scope() as two:
        (order_id,) = venue.orders(1)
        await one.add(order_id)
        with pytest.raises(InvalidRequest, match="Another scope holds"):
            await two.add(order_id)
        assert order_id not in two
        one.discard(order_id)
        await two.add(order_id)
        with pytest.raises(InvalidRequest, match="Another scope holds"):
            await one.add(order_id)
        assert order_id in two


async def test_two_tasks_cannot_add_one_order_at_once(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        (order_id,) = venue.orders(1)
        refused: list[str] = []

        async def add() -> None:
            try:
                await orders.add(order_id)
            except InvalidRequest as error:
                refused.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            nursery.start_soon(add)
        assert len(refused) == 1
        assert "Another task is adding" in refused[0]
        assert order_id in orders


# An outcome that is known to be off the book


@pytest.mark.parametrize("way", ["cancel", "try_cancel", "cancel_many", "stream"])
async def test_what_is_canceled_meanwhile_leaves_by_itself(autojump_clock: MockClock, way: str) -> None:
    async with session() as (venue, ws):
        one, two = venue.orders(2)
        async with ws.open_order_scope() as orders:
            await orders.add(one)
            await orders.add(two)
            if way == "cancel":
                await ws.cancel(one)
            elif way == "try_cancel":
                venue.book.cancel(one)
                assert isinstance(await ws.try_cancel(one), AlreadyClosed)
            elif way == "cancel_many":
                await ws.cancel_many([one])
            else:
                async with ws.open_cancel_stream([one]) as outcomes:
                    async for _ in outcomes:
                        pass
            assert orders.held == (CancelRequest(two),)
            with pytest.raises(InvalidRequest, match="does not hold"):
                orders.discard(one)
        assert orders.report is not None
        assert len(orders.report.outcomes) == 1


async def test_it_leaves_under_either_name(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        one, two = venue.book.create(external_id="one"), venue.book.create(external_id="two")
        async with ws.open_order_scope() as orders:
            await orders.add(external_id="one")
            orders.placed(external_id="one", id=one.id)
            await orders.add(two.id)
            await ws.cancel(one.id)
            assert orders.held == (CancelRequest(two.id),)
            await ws.cancel(external_id="two")
            assert len(orders) == 0
        assert orders.report is not None
        assert orders.report.outcomes == ()


async def test_an_order_that_is_held_under_both_names_is_told_twice(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        order = venue.book.create(external_id="one")
        async with ws.open_order_scope() as orders:
            await orders.add(order.id)
            await orders.add(external_id="one")
            orders.placed(external_id="one", id=order.id)
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["canceled", "already_closed"]


async def test_what_is_not_surely_off_the_book_stays(autojump_clock: MockClock) -> None:
    async with session(reply_timeout=1, give_up_after=1) as (venue, ws):
        silent, refused = venue.orders(2)
        venue.sandbox.fault_on(silent, Fault.SILENT_BEFORE)
        venue.sandbox.fault_on(refused, Fault.REFUSE_UNKNOWN_CODE)
        async with ws.open_order_scope() as orders:
            for request in (CancelRequest(silent), CancelRequest(refused), CancelRequest(external_id="missing")):
                await orders.add(request)
                assert not (await ws.try_cancel(request)).off_book
                assert request in orders
            orders.discard(external_id="missing")
        assert venue.book.open_orders() == []


@pytest.mark.parametrize("held_before", [False, True])
async def test_a_cancel_of_the_order_that_had_the_name_before_releases_nothing(
    autojump_clock: MockClock, held_before: bool
) -> None:
    async with session({"delay": 1.0}) as (venue, ws):
        venue.book.create(external_id="mm-1")
        async with ws.open_order_scope() as orders, trio.open_nursery() as nursery:
            if held_before:
                await orders.add(external_id="mm-1")
            await trio.sleep(0.1)
            nursery.start_soon(ws.cancel, CancelRequest(external_id="mm-1"))
            await trio.sleep(0.5)
            await orders.add(external_id="mm-1")  # the next order, as soon as the old one is known to be filled
            await trio.sleep(1)
            assert venue.book.open_orders() == []
            assert len(orders) == 1
            venue.book.create(external_id="mm-1")
        assert venue.book.open_orders() == []


async def test_the_next_order_of_a_name_is_not_taken_for_placed(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), trio.open_nursery() as nursery:
        async with ws.open_order_scope() as orders:
            await orders.add(external_id="mm-1")
            orders.placed(external_id="mm-1")
            await orders.add(external_id="mm-1")

            async def place() -> None:
                await trio.sleep(3)
                venue.book.create(external_id="mm-1")

            nursery.start_soon(place)
        assert venue.book.open_orders() == []


# The life of a scope


async def test_a_scope_is_used_within_its_block_and_once(autojump_clock: MockClock) -> None:
    async with session() as (_, ws):
        orders = ws.open_order_scope()
        with pytest.raises(SessionClosed, match="has not started"):
            await orders.add("x")
        async with orders:
            with pytest.raises(SessionClosed, match="entered only once"):
                async with orders:
                    pytest.fail("it is open")
        with pytest.raises(SessionClosed, match="has exited"):
            await orders.add("x")
        with pytest.raises(SessionClosed, match="entered only once"):
            async with orders:
                pytest.fail("it has been left")
        with pytest.raises(InvalidRequest, match="does not hold"):
            orders.discard("x")
    with pytest.raises(SessionClosed):
        async with ws.open_order_scope():
            pytest.fail("the session is closed")


async def test_a_scope_is_not_entered_by_who_is_cancelled(autojump_clock: MockClock) -> None:
    async with session() as (_, ws):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with ws.open_order_scope():
                pytest.fail("it is cancelled")
        assert scope.cancelled_caught
        assert not ws._session.scopes


async def test_a_hold_says_from_when_it_is(autojump_clock: MockClock) -> None:
    async with session() as (_, ws):
        await trio.sleep(7)
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope() as orders:
                await orders.add(external_id="mm-1")
                hold = orders._hold_of(CancelRequest(external_id="mm-1"))
                assert (hold.since, hold.wall) == (trio.current_time(), ws._session.wall())
                assert hold.clock == ws._session.engine.clock.interval


async def test_an_order_is_added_in_the_block_alone(autojump_clock: MockClock) -> None:
    async with session() as (_, ws):
        orders = ws.open_order_scope()
        for _ in range(2):  # before the block and after it
            with pytest.raises(SessionClosed) as refused:
                await orders.add("early")
            assert str(refused.value) == "This order scope is not open: its block has not started or has exited."
            if orders.report is None:
                async with orders:
                    pass


async def test_a_session_that_has_failed_holds_nothing_more_and_tells(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(order_id)
                venue.sandbox.fault_on_upgrade(Fault.UPGRADE_401)
                await venue.cut()
                await trio.sleep(5)
                assert ws.state is SessionState.FAILED
                with pytest.raises(SessionClosed) as refused:
                    await orders.add("more")
                assert str(refused.value) == (
                    "The session has failed, so no order can be canceled or held any more; do not place it. "
                    "Open a new session."
                )
                assert isinstance(refused.value.__cause__, HandshakeFailed)
                assert "more" not in orders
                left_at = trio.current_time()
        assert trio.current_time() == left_at
        (outcome,) = caught.value.report.outcomes
        assert isinstance(outcome, NotSent)
        assert isinstance(outcome.cause, HandshakeFailed)


async def test_a_session_that_fails_while_the_orders_are_canceled_ends_it_with_what_is_known(
    autojump_clock: MockClock,
) -> None:
    async with session() as (venue, ws):
        one, two = venue.orders(2)
        venue.sandbox.fault_on(two, Fault.DROP_AFTER)
        venue.sandbox.fault_on_upgrade(Fault.UPGRADE_401)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope() as orders:
                for request in (one, two, "never"):
                    await orders.add(request)
        assert [outcome.kind for outcome in caught.value.report.outcomes] == ["canceled", "unknown", "unknown"]


async def test_the_end_of_the_session_ends_scopes_that_are_still_open(autojump_clock: MockClock) -> None:
    finish = trio.Event()
    async with open_venue(clock=venue_clock) as venue, trio.open_nursery() as nursery:
        (order_id,) = venue.orders(1)

        async def trade(ws: TradingWS, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114 - of this test
            async with ws.open_order_scope() as orders:
                await orders.add(order_id)
                task_status.started()
                await finish.wait()
                with pytest.raises(SessionClosed):
                    await orders.add("more")
            assert orders.report is not None
            assert orders.report.counts["canceled"] == 1

        async with venue.open() as ws:
            await nursery.start(trade, ws)  # noqa: ASYNC111 - that is what is tested
        assert venue.book.open_orders() == []
        finish.set()


async def test_several_scopes_that_are_still_open_are_ended_at_the_same_time(autojump_clock: MockClock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
        async with venue.open() as ws:
            scopes = [ws.open_order_scope(grace=5) for _ in range(3)]
            for orders in scopes:
                await orders.__aenter__()
                await orders.add(*venue.orders(1))
            left_at = trio.current_time()
        assert trio.current_time() - left_at < 5 + 2 + 0.1
    for orders in scopes:
        assert orders.report is not None
        assert orders.report.counts["unknown"] == 1


async def test_a_scope_whose_end_was_lost_is_ended_with_the_session(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        orders = ws.open_order_scope(settle=0.1)
        await orders.__aenter__()
        await orders.add(order_id)
        await orders.add(external_id="never")
    assert venue.book.open_orders() == []
    assert orders.report is not None
    assert [outcome.kind for outcome in orders.report.outcomes] == ["canceled", "not_found"]
    assert "never" in errors(caplog)[0]


async def test_a_scope_that_is_left_when_the_session_is_gone_tells_what_is_known(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        (order_id,) = venue.orders(1)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(order_id)
                ws._session.kill()
        assert len(caught.value.report.left) == 1
        assert not ws._session.scopes
    async with session() as (venue, ws):
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=5) as orders:
                await orders.add(*venue.orders(1))
                venue.sandbox.script(lambda request: Fault.SILENT_BEFORE)
                ws._session.spawn(_kill_after, ws, 1)
        assert caught.value.report.counts["unknown"] == 1


async def _kill_after(ws: TradingWS, seconds: float) -> None:
    await trio.sleep(seconds)
    ws._session.kill()


async def test_a_refusal_after_somebody_s_unanswered_cancel_leaves_the_order_unknown(
    autojump_clock: MockClock,
) -> None:
    async with open_venue(clock=venue_clock) as venue, venue.open() as ws:
        order = venue.book.create(external_id="x")
        venue.sandbox.fault_on(order.id, Fault.SILENT_AFTER, *[Fault.REFUSE_DAILY] * 50)
        scope = ws.open_order_scope(grace=5)
        with pytest.raises(OrdersLeft):
            async with scope:
                await scope.add(external_id="x")
                with trio.move_on_after(1):
                    await ws.try_cancel(external_id="x")  # applied, and nobody hears of it
        assert scope.report is not None
        (outcome,) = scope.report.outcomes
        assert outcome.kind == "unknown"
        assert outcome.off_book is None
        assert outcome.after_unanswered


async def test_while_the_session_ends_no_scope_is_opened(autojump_clock: MockClock) -> None:
    """Its block has ended: nobody would end that scope before the connection is closed."""
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            with pytest.raises(OrdersLeft):
                async with ws.open_order_scope(grace=5) as orders:
                    await orders.add(silent)
                    await trio.sleep(10)

        async def open_another() -> None:
            await trio.sleep(3)
            orders = ws.open_order_scope()
            with pytest.raises(SessionClosed):
                async with orders:
                    await orders.add(other)
                    await trio.sleep(10)

        async with session() as (venue, ws):
            silent, other = venue.orders(2)
            venue.sandbox.fault_on(silent, *[Fault.SILENT_BEFORE] * 10)
            nursery.start_soon(hold)
            nursery.start_soon(open_another)
            await trio.sleep(1)
