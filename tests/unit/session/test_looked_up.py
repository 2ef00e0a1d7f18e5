"""Cancels that would end without the truth are looked up: single, in bulk, in streams and scopes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
import trio

from tests.integration.test_lookup import rest_of
from tests.tools.venues import Venue, one_clock, open_venue, venue_clock
from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    ConfigurationError,
    Credentials,
    LookupFailed,
    NotFound,
    OrderNotActive,
    OrdersLeft,
    Outcome,
    Pacer,
    TradingWS,
    Unknown,
    open_trading_ws,
)
from trio_cancel.lookup import OrderState, OrderStatus, RestLookup
from trio_cancel.sandbox import CustomReply, Fault, Faults, RequestRecord, RestFault, open_sandbox

Clock = trio.testing.MockClock
SILENT = Faults({Fault.SILENT_BEFORE: 1.0})


@asynccontextmanager
async def session(venue: Venue, **keywords: Any) -> AsyncGenerator[TradingWS]:
    async with venue.open(lookup=rest_of(venue), **keywords) as ws:
        yield ws


def lose_replies(venue: Venue, order_id: str, count: int = 100) -> None:
    """The first cancel is applied; no reply ever comes."""
    venue.sandbox.fault_on(order_id, *[Fault.SILENT_AFTER] * count)


# The truth


@pytest.mark.parametrize("retry", [True, False])
async def test_a_lost_reply_ends_with_the_truth(retry: bool, autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue, retry=retry) as ws:
        order = venue.book.create(amount="0.3")
        venue.book.fill(order.id, amount="0.1")
        lose_replies(venue, order.id)
        outcome = await ws.try_cancel(order.id)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.off_book
        assert outcome.after_unanswered
        assert outcome.closed_as == "canceled"
        assert outcome.order is not None
        assert (outcome.order.executed_amount, outcome.order.on_book) == (Decimal("0.1"), False)
        with pytest.raises(OrderNotActive, match="was canceled already"):
            outcome.unwrap()
        assert ws.statistics().pending == 0


async def test_executed_meanwhile(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue, retry=False) as ws:
        order = venue.book.create()
        venue.sandbox.fault_on(order.id, Fault.SILENT_BEFORE)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                await trio.sleep(1)
                venue.book.fill(order.id)

            outcome = await ws.try_cancel(order.id)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.closed_as == "executed"
        assert outcome.order is not None
        assert outcome.order.executed_amount == outcome.order.requested_amount


async def test_not_found_in_creation_is_canceled_when_it_is_there() -> None:
    async with open_venue() as venue, session(venue) as ws:
        order = venue.book.create(delay=1.0)
        outcome = await ws.try_cancel(order.id)
        assert isinstance(outcome, Canceled)
        assert outcome.order.id == order.id
        assert len(outcome.attempts) >= 2
        assert not venue.book.get(order.id).status.active


async def test_not_found_of_a_create_by_external_id_is_canceled_by_the_venues_id() -> None:
    async with open_venue() as venue, session(venue) as ws:
        order = venue.book.create(external_id="mine", delay=1.0)
        outcome = await ws.try_cancel(external_id="mine")
        assert isinstance(outcome, Canceled)
        assert outcome.request == CancelRequest(external_id="mine")
        assert dict(venue.log.requests[0].params) == {"external_id": "mine"}
        assert dict(venue.log.requests[-1].params) == {"id": order.id}


async def test_not_found_twice_is_not_found_at_once(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue) as ws:
        began = trio.current_time()
        outcome = await ws.try_cancel("never")
        assert isinstance(outcome, NotFound)
        assert outcome.seen is None
        assert trio.current_time() - began < 1
        assert venue.sandbox.rest_log.received == 1


async def test_already_closed_is_completed_on_request(autojump_clock: Clock) -> None:
    async with open_venue() as venue:
        order = venue.book.create(amount="0.3")
        venue.book.fill(order.id, amount="0.1")
        venue.book.cancel(order.id)
        async with session(venue) as ws:
            outcome = await ws.try_cancel(order.id)
            assert isinstance(outcome, AlreadyClosed)
            assert outcome.order is None
            assert venue.sandbox.rest_log.received == 0
        async with session(venue, look_up_closed=True) as ws:
            outcome = await ws.try_cancel(order.id)
            assert isinstance(outcome, AlreadyClosed)
            assert outcome.order is not None
            assert (outcome.closed_as, outcome.order.executed_amount) == ("canceled", Decimal("0.1"))
            assert outcome.error is not None
            assert outcome.error.error_code == 40408
            venue.sandbox.fault_on_rest(*[RestFault.ERROR_500] * 10)
            outcome = await ws.try_cancel(order.id)
            assert isinstance(outcome, AlreadyClosed)
            assert outcome.order is None


async def test_over_tls_and_sockets() -> None:
    async with open_sandbox(tls=True, rest_port=0) as sandbox:
        lost, closed, coming = (sandbox.book.create(amount="0.3") for _ in range(3))
        late = sandbox.book.create(delay=0.5)
        for order in (lost, closed):
            sandbox.book.fill(order.id, amount="0.1")
        sandbox.book.cancel(closed.id)
        lose = [Fault.SILENT_AFTER] * 9
        sandbox.fault_on(lost.id, *lose)
        async with open_trading_ws(
            sandbox.url,
            credentials=sandbox.credentials,
            ssl_context=sandbox.ssl_context,
            lookup=RestLookup(base_url=sandbox.rest_url),
            look_up_closed=True,
            reply_timeout=0.3,
            give_up_after=2.0,
        ) as ws:
            report = await ws.cancel_many([lost.id, closed.id, late.id, coming.id])
        first, second, third, fourth = report.outcomes
        for outcome in (first, second):
            assert isinstance(outcome, AlreadyClosed)
            assert outcome.order is not None
            assert outcome.order.executed_amount == Decimal("0.1")
        assert isinstance(third, Canceled)
        assert isinstance(fourth, Canceled)


# What proves nothing


async def test_an_active_status_is_never_a_no(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue) as ws:
        order = venue.book.create()
        venue.sandbox.fault_on(order.id, *[Fault.SILENT_BEFORE] * 100)
        outcome = await ws.try_cancel(order.id)
        assert isinstance(outcome, Unknown)
        assert outcome.off_book is None
        assert outcome.seen is not None
        assert outcome.seen.status is OrderStatus.OPEN


async def test_a_replica_that_lags_beyond_the_budget_leaves_it_unknown() -> None:
    asked: list[CancelRequest] = []

    async def lagging(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        asked.append(request)
        return OrderState(status=OrderStatus.OPEN, seen_at=1.0, id=request.id)

    async with open_venue() as venue:
        order = venue.book.create()
        lose_replies(venue, order.id)
        async with venue.open(lookup=lagging, retry=False, reply_timeout=0.1, give_up_after=0.2) as ws:
            outcome = await ws.try_cancel(order.id)
        assert isinstance(outcome, Unknown)
        assert outcome.seen is not None
        assert outcome.seen.on_book
        assert 1 < len(asked) < 10


@pytest.mark.parametrize("status", ["open", "pending_creation", "other", "failed", "another", "hangs", "broken"])
async def test_what_says_nothing_changes_nothing(status: str, autojump_clock: Clock) -> None:
    async def lookup(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        if status == "failed":
            raise LookupFailed("no", status=500)
        if status == "hangs":
            await trio.sleep_forever()
        if status == "broken":
            raise ZeroDivisionError
        if status == "another":
            return OrderState(status=OrderStatus.CANCELED, seen_at=1.0, id="OTHER")
        return OrderState(status=OrderStatus(status), seen_at=1.0, id=request.id)

    async with open_venue() as venue, venue.open(lookup=lookup) as ws:
        began = trio.current_time()
        outcome = await ws.try_cancel("never")
        assert isinstance(outcome, NotFound)
        assert (outcome.seen is None) == (status in ("failed", "another", "hangs", "broken"))
        assert trio.current_time() - began <= 30 + 5 + 6


async def test_yesterdays_order_does_not_answer_for_todays(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_clock(monkeypatch)
    async with open_venue(clock=venue_clock) as venue, session(venue, retry=False) as ws:
        old = venue.book.create(external_id="mine")
        venue.book.cancel(old.id)
        await trio.sleep(1)
        outcome = await ws.try_cancel(external_id="mine")  # closed, by the venue's own word
        assert isinstance(outcome, AlreadyClosed)
        venue.sandbox.fault_on("mine", Fault.SILENT_BEFORE)
        outcome = await ws.try_cancel(external_id="mine")
        assert isinstance(outcome, Unknown)
        assert outcome.seen is not None
        assert (outcome.seen.id, outcome.seen.status) == (old.id, OrderStatus.CANCELED)


async def test_an_execution_by_external_id_does_not_settle(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue, retry=False) as ws:
        order = venue.book.create(external_id="mine")
        venue.book.fill(order.id)
        venue.sandbox.fault_on("mine", Fault.SILENT_BEFORE)
        outcome = await ws.try_cancel(external_id="mine")
        assert isinstance(outcome, Unknown)
        assert outcome.seen is not None
        assert outcome.seen.status is OrderStatus.EXECUTED


@pytest.mark.parametrize("way", ["single", "bulk", "stream", "scope"])
async def test_an_id_that_an_answer_has_named_settles(
    way: str, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name's executed order settles nothing, unless the venue has said that the name is this order's."""
    one_clock(monkeypatch)
    async with open_venue(clock=venue_clock) as venue, session(venue) as ws:
        order = venue.book.create(external_id="mine", amount="0.3")
        request = CancelRequest(external_id="mine")

        def contradicts_itself(record: RequestRecord) -> CustomReply | Fault:
            """200 with the order and a status that is none of a success; then nothing at all."""
            if record.number:
                return Fault.SILENT_BEFORE
            said = {"id": order.id, "external_id": "mine", "status": "open"}
            return CustomReply(json.dumps({"id": record.request_id, "status": 200, "result": said}), applies=False)

        venue.sandbox.script(contradicts_itself)
        outcomes: list[Outcome] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                await trio.sleep(3)
                venue.book.fill(order.id)

            if way == "single":
                outcomes.append(await ws.try_cancel(request))
            elif way == "bulk":
                outcomes += (await ws.cancel_many([request])).outcomes
            elif way == "stream":
                async with ws.open_cancel_stream([request]) as stream:
                    outcomes += [outcome async for outcome in stream]
            else:
                async with ws.open_order_scope(grace=12.0) as orders:
                    await orders.add(external_id="mine")
                    orders.placed(external_id="mine")
                assert orders.report is not None
                outcomes += orders.report.outcomes
        (outcome,) = outcomes
        assert isinstance(outcome, AlreadyClosed), outcome
        assert outcome.order is not None
        assert (outcome.closed_as, outcome.order.id) == ("executed", order.id)
        assert outcome.order.executed_amount == Decimal("0.3")


async def test_our_own_cancel_by_external_id_settles(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue, retry=False) as ws:
        order = venue.book.create(external_id="mine")
        lose_replies(venue, "mine")
        outcome = await ws.try_cancel(external_id="mine")
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.order is not None
        assert outcome.order.id == order.id


async def test_an_old_order_found_by_name_and_closed_by_id_does_not_settle(autojump_clock: Clock) -> None:
    """The replica still shows yesterday's order as open; its id is closed, which says nothing of today's."""

    async def lagging(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        return OrderState(status=OrderStatus.OPEN, seen_at=1.0, id=old.id, external_id="mine")

    async with open_venue() as venue:
        old = venue.book.create(external_id="mine")
        venue.book.cancel(old.id)
        await trio.sleep(1)
        new = venue.book.create(external_id="mine", delay=1000)
        async with venue.open(lookup=lagging) as ws:
            outcome = await ws.try_cancel(external_id="mine")
        assert outcome.off_book is None
        assert outcome.seen is not None
        assert outcome.seen.id == old.id
        assert venue.book.get(new.id).status == "pending_creation"


# Many


async def test_in_bulk_only_what_needs_one_is_looked_up(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue, retry=False) as ws:
        ids = venue.orders(300)
        for order_id in ids[::100]:
            lose_replies(venue, order_id)
        report = await ws.cancel_many([*ids, "never"])
        assert report.counts["canceled"] == 297
        assert report.counts["already_closed"] == 3
        assert report.counts["not_found"] == 1
        assert report.final
        assert venue.sandbox.rest_log.received == 4


async def test_what_is_being_looked_up_is_not_final_in_a_report(autojump_clock: Clock) -> None:
    async def slow(request: CancelRequest) -> OrderState:
        await trio.sleep(3)
        return OrderState(status=OrderStatus.CANCELED, seen_at=1.0, id=request.id)

    async with open_venue() as venue, venue.open(lookup=slow) as ws:
        batch = ws.batch(["never"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(1)
            (outcome,) = batch.report().outcomes
            assert (outcome.kind, outcome.final) == ("not_found", False)
        (outcome,) = batch.report().outcomes
        assert (outcome.kind, outcome.final) == ("already_closed", True)


async def test_a_stream_looks_up(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue, retry=False) as ws:
        ids = venue.orders(20)
        lose_replies(venue, ids[7])
        found: dict[str | None, Outcome] = {}
        async with ws.open_cancel_stream(ids) as outcomes:
            async for outcome in outcomes:
                found[outcome.request.id] = outcome
        assert {outcome.off_book for outcome in found.values()} == {True}
        assert found[ids[7]].kind == "already_closed"


async def test_a_scope_looks_up_within_its_grace(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue) as ws:
        order = venue.book.create()
        lose_replies(venue, order.id)
        began = trio.current_time()
        async with ws.open_order_scope(grace=12.0) as orders:
            await orders.add(order.id)
            orders.placed(order.id)
        assert trio.current_time() - began <= 12.0
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.order is not None


async def test_a_scope_is_not_told_a_no_by_an_active_status(autojump_clock: Clock) -> None:
    async with open_venue() as venue, session(venue) as ws:
        order = venue.book.create()
        venue.sandbox.fault_on(order.id, *[Fault.SILENT_BEFORE] * 100)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=12.0) as orders:
                await orders.add(order.id)
                orders.placed(order.id)
        (outcome,) = caught.value.report.outcomes
        assert isinstance(outcome, Unknown)


# Beside other things


async def test_a_late_answer_settles_an_order_that_is_being_looked_up(autojump_clock: Clock) -> None:
    async def slow(request: CancelRequest) -> OrderState:
        await trio.sleep(4)
        raise LookupFailed("no", status=404)

    async with open_venue(delay=3.0) as venue, venue.open(lookup=slow, reply_timeout=1, retry=False) as ws:
        order = venue.book.create()
        outcome = await ws.try_cancel(order.id)
        assert isinstance(outcome, Canceled)


async def test_a_caller_that_leaves_is_let_go(autojump_clock: Clock) -> None:
    async def hangs(request: CancelRequest) -> OrderState:
        await trio.sleep_forever()
        raise AssertionError

    async with open_venue() as venue, venue.open(lookup=hangs) as ws:
        began = trio.current_time()
        with trio.move_on_after(2) as scope:
            await ws.try_cancel("never")
        assert scope.cancelled_caught
        assert trio.current_time() - began == 2
        assert ws.statistics().pending == 0


async def test_leaving_the_session_settles_what_is_being_looked_up(autojump_clock: Clock) -> None:
    async def hangs(request: CancelRequest) -> OrderState:
        await trio.sleep_forever()
        raise AssertionError

    outcomes: list[Outcome] = []
    async with open_venue() as venue, trio.open_nursery() as nursery:
        async with venue.open(lookup=hangs) as ws:

            @nursery.start_soon
            async def _() -> None:
                outcomes.append(await ws.try_cancel("never"))

            await trio.sleep(1)
            left = trio.current_time()
        assert trio.current_time() - left <= 2
    assert [outcome.kind for outcome in outcomes] == ["not_found"]


async def test_a_source_that_hangs_keeps_no_bulk_waiting(autojump_clock: Clock) -> None:
    """However many orders there are: their outcomes come 5 s later than without it."""

    async def hang(_: CancelRequest) -> OrderState:
        await trio.sleep_forever()

    async with open_venue(faults=SILENT) as venue, venue.open(lookup=hang) as ws:
        requests = venue.orders(200)
        began = trio.current_time()
        report = await ws.cancel_many(requests)
        assert trio.current_time() - began <= 30 + 5 + 5
        assert report.counts["unknown"] == 200
        assert ws.statistics().pending == 0


async def test_a_source_that_goes_on_answering_is_asked_for_every_order(autojump_clock: Clock) -> None:
    """Also where that takes longer than an order's own time: 200 orders, four at once, half a second each."""

    async def look_up(request: CancelRequest) -> OrderState:
        await trio.sleep(0.5)
        return OrderState(id=request.id, status="canceled", seen_at=0)

    async with open_venue(faults=SILENT) as venue, venue.open(lookup=look_up) as ws:
        report = await ws.cancel_many(venue.orders(200))
        assert report.counts["already_closed"] == 200


async def test_an_answer_that_comes_while_it_is_looked_up_is_told(autojump_clock: Clock) -> None:
    async def fail(_: CancelRequest) -> OrderState:
        await trio.sleep(4)
        raise LookupFailed("It failed.", status=403)

    unavailable = Faults({Fault.ERROR_503_BEFORE: 1.0})
    async with (
        open_venue(delay=3.0, faults=unavailable) as venue,
        venue.open(lookup=fail, retry=False, reply_timeout=1.0) as ws,
    ):
        outcome = await ws.try_cancel(venue.book.create().id)
        assert isinstance(outcome, Unknown)
        assert [attempt.status for attempt in outcome.attempts] == [503]


async def test_a_cancel_does_not_wait_for_lookups(autojump_clock: Clock) -> None:
    async def hangs(request: CancelRequest) -> OrderState:
        await trio.sleep_forever()
        raise AssertionError

    async with open_venue() as venue, venue.open(lookup=hangs, pacer=Pacer(1000.0)) as ws:
        ids = venue.orders(500)
        async with trio.open_nursery() as nursery:
            for number in range(400):
                nursery.start_soon(ws.try_cancel, f"never-{number}")
            await trio.sleep(2)
            began = trio.current_time()
            report = await ws.cancel_many(ids)
            assert report.counts["canceled"] == 500
            assert trio.current_time() - began < 1
            nursery.cancel_scope.cancel()


class Odd(BaseException):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("odd", [Odd, Unprintable, lambda: BaseExceptionGroup("", [Odd()])])
async def test_whatever_a_lookup_raises_counts_as_a_failed_one(odd: Any, autojump_clock: Clock) -> None:
    async def breaks(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        raise odd()

    async with open_venue() as venue, venue.open(lookup=breaks) as ws:
        assert (await ws.try_cancel("never")).kind == "not_found"
        with pytest.raises(LookupFailed, match="The lookup of order never failed"):
            await ws.look_up("never")
        assert (await ws.try_cancel(venue.book.create().id)).kind == "canceled"


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_ends_the_block(fatal: type[BaseException], autojump_clock: Clock) -> None:
    async def ends(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        raise fatal

    kinds: list[str] = []
    async with open_venue() as venue:
        with pytest.raises(fatal):
            async with venue.open(lookup=ends) as ws:
                with trio.CancelScope(shield=True):
                    kinds.append((await ws.try_cancel("never")).kind)
                    kinds.append((await ws.try_cancel(venue.book.create().id)).kind)
                await trio.sleep_forever()
        assert kinds == ["not_found", "canceled"]
        async with venue.open(lookup=ends) as ws:
            with pytest.raises(fatal):
                await ws.look_up("never")


async def test_a_lookup_that_is_not_async(autojump_clock: Clock) -> None:
    def plain(request: CancelRequest) -> Any:
        return OrderState(status=OrderStatus.CANCELED, seen_at=1.0, id=request.id)

    async with open_venue() as venue, venue.open(lookup=plain) as ws:
        with pytest.raises(LookupFailed, match="TypeError"):
            await ws.look_up("never")
        assert (await ws.try_cancel("never")).kind == "not_found"


@pytest.mark.parametrize("status", ["canceled", "open"])
@pytest.mark.parametrize("odd", [None, 7, "\u200b", "", " "])
async def test_an_id_that_cannot_be_used_says_nothing(odd: Any, status: str, autojump_clock: Clock) -> None:
    async def lookup(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        return OrderState(status=OrderStatus(status), seen_at=1.0, id=odd, external_id=request.external_id)

    async with open_venue() as venue, venue.open(lookup=lookup) as ws:
        assert (await ws.try_cancel("never")).kind == "not_found"
        outcome = await ws.try_cancel(external_id="never")
        assert outcome.off_book is None
        assert (await ws.try_cancel(venue.book.create().id)).kind == "canceled"


@pytest.mark.parametrize("date", ["2024-01-01", 5, datetime(2024, 1, 1)])
async def test_a_date_that_cannot_be_used_says_nothing(date: Any, autojump_clock: Clock) -> None:
    async def lookup(request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        return OrderState(
            status=OrderStatus.CANCELED, seen_at=1.0, id="A", external_id=request.external_id, update_date=date
        )

    async with open_venue() as venue, venue.open(lookup=lookup) as ws:
        assert (await ws.try_cancel(external_id="never")).kind == "not_found"
        with pytest.raises(LookupFailed, match="time zone"):
            await ws.look_up(external_id="never")


def test_completing_needs_a_lookup() -> None:
    credentials = Credentials("t", "s")
    with pytest.raises(ConfigurationError, match="needs a lookup"):
        open_trading_ws("wss://localhost", credentials=credentials, look_up_closed=True)
    wrong: Any = "yes"
    with pytest.raises(ConfigurationError, match="True or False"):
        open_trading_ws("wss://localhost", credentials=credentials, lookup=RestLookup(), look_up_closed=wrong)
