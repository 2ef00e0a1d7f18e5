"""External ids that are used again: no answer about the old order of a name releases the hold of the new one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.tools.venues import EPOCH, Venue, one_clock, open_venue, venue_clock
from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    InvalidRequest,
    NotSurelyThisOrder,
    OrdersLeft,
    TradingWS,
    Unknown,
)
from trio_cancel._engine.held import HeldOrders, Hold
from trio_cancel._values.outcomes import Attempt, Outcome
from trio_cancel.sandbox import BookStatus, CustomReply, Fault, RequestRecord
from trio_cancel.sandbox._protocol import NOT_ACTIVE, render_order, render_refusal, render_result
from trio_cancel.types import CanceledOrder, OffsetInterval

MM = CancelRequest(external_id="mm-1")

Sweep: TypeAlias = Callable[[TradingWS, CancelRequest], Awaitable[object]]


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)


@asynccontextmanager
async def session(
    venue_options: dict[str, Any] | None = None, **keywords: Any
) -> AsyncGenerator[tuple[Venue, TradingWS]]:
    async with open_venue(clock=venue_clock, **(venue_options or {})) as venue, venue.open(**keywords) as ws:
        yield venue, ws


async def _single(ws: TradingWS, request: CancelRequest) -> object:
    return await ws.try_cancel(request)


async def _bulk(ws: TradingWS, request: CancelRequest) -> object:
    return await ws.cancel_many([request])


async def _stream(ws: TradingWS, request: CancelRequest) -> object:
    async with ws.open_cancel_stream([request]) as outcomes:
        return [outcome async for outcome in outcomes]


SWEEPS = {"single": _single, "bulk": _bulk, "stream": _stream}


@pytest.fixture(params=SWEEPS)
def sweep(request: pytest.FixtureRequest) -> Sweep:
    return SWEEPS[request.param]


def is_open(venue: Venue, order_id: str) -> bool:
    return venue.book.get(order_id).status is BookStatus.OPEN


# Before the end of the block


@pytest.mark.parametrize("old", ["filled", "canceled"])
async def test_closed_does_not_say_which_order(autojump_clock: MockClock, sweep: Sweep, old: str) -> None:
    async with session() as (venue, ws):
        order = venue.book.create(external_id="mm-1")
        (venue.book.fill if old == "filled" else venue.book.cancel)(order.id)
        await trio.sleep(60)
        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            await sweep(ws, MM)
            assert MM in orders
            await trio.sleep(1)
            new = venue.book.create(external_id="mm-1")
        assert not is_open(venue, new.id)
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["canceled"]


async def test_the_old_order_that_a_sweep_cancels_is_not_the_new_one(autojump_clock: MockClock, sweep: Sweep) -> None:
    async with session() as (venue, ws):
        old = venue.book.create(external_id="mm-1")
        await trio.sleep(0.01)
        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            await trio.sleep(0.01)
            await sweep(ws, MM)
            assert not is_open(venue, old.id)
            assert MM in orders
            new = venue.book.create(external_id="mm-1")
            await trio.sleep(0.01)
        assert not is_open(venue, new.id)


@pytest.mark.parametrize("by", ["name", "id"])
async def test_the_order_that_was_created_after_the_add_is_the_new_one(
    autojump_clock: MockClock, sweep: Sweep, by: str
) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        await orders.add(MM)
        await trio.sleep(0.02)
        order = venue.book.create(external_id="mm-1")
        await trio.sleep(0.02)
        await sweep(ws, MM if by == "name" else CancelRequest(order.id))
        assert MM not in orders


@pytest.mark.parametrize("by", ["name", "id"])
async def test_the_venues_id_makes_it_one_order(autojump_clock: MockClock, sweep: Sweep, by: str) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        order = venue.book.create(external_id="mm-1")  # before the add, so that only the id can tell
        await trio.sleep(60)
        await orders.add(MM)
        orders.placed(external_id="mm-1", id=order.id.lower())  # the venue's ids are the same in either case
        await sweep(ws, MM if by == "name" else CancelRequest(order.id))
        assert MM not in orders


async def test_closed_by_the_venues_id_is_this_order(autojump_clock: MockClock, sweep: Sweep) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as orders:
        await orders.add(MM)
        order = venue.book.create(external_id="mm-1")
        orders.placed(external_id="mm-1", id=order.id)
        venue.book.fill(order.id)
        await sweep(ws, MM)
        assert MM in orders  # "closed", and which one it does not say
        await sweep(ws, CancelRequest(order.id))
        assert MM not in orders


async def test_a_later_order_of_the_name_is_not_the_one_with_the_id(autojump_clock: MockClock, sweep: Sweep) -> None:
    """Somebody else has used the name again: what is held is canceled by its id, the other one is left alone."""
    async with session() as (venue, ws):
        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            await trio.sleep(2)
            order = venue.book.create(external_id="mm-1")
            orders.placed(external_id="mm-1", id=order.id)
            venue.book.fill(order.id)
            await trio.sleep(2)
            other = venue.book.create(external_id="mm-1")
            await trio.sleep(2)
            await sweep(ws, CancelRequest(other.id))
            assert MM in orders
            another = venue.book.create(external_id="mm-1")
        assert is_open(venue, another.id)
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.request == MM


async def test_an_order_held_by_the_venues_id_is_that_order_whenever_it_was_canceled(autojump_clock: MockClock) -> None:
    async with session({"delay": 1.0}) as (venue, ws), trio.open_nursery() as nursery:
        (order_id,) = venue.orders(1)
        async with ws.open_order_scope() as orders:
            nursery.start_soon(ws.try_cancel, order_id)
            await trio.sleep(0.5)
            await orders.add(order_id)  # its cancel is under way already
            await trio.sleep(1)
            assert order_id not in orders


async def test_a_name_that_is_added_again_is_the_new_order_alone(autojump_clock: MockClock) -> None:
    """Cancel and new with one external id, while the answer to the old one's cancel is still under way."""
    async with session({"delay": 1.0}) as (venue, ws):
        async with ws.open_order_scope() as orders, trio.open_nursery() as nursery:
            await orders.add(MM)
            await trio.sleep(2)
            old = venue.book.create(external_id="mm-1")
            orders.placed(external_id="mm-1", id=old.id)
            await trio.sleep(2)
            nursery.start_soon(ws.try_cancel, MM)
            await trio.sleep(0.5)
            await orders.add(MM)
            await trio.sleep(2)
            assert not is_open(venue, old.id)
            assert orders.held == (MM,)
            with trio.CancelScope():
                assert isinstance(await ws.try_cancel(old.id), AlreadyClosed)
            assert orders.held == (MM,)
            new = venue.book.create(external_id="mm-1")
        assert not is_open(venue, new.id)


async def test_a_cancel_that_hits_the_new_order_of_the_name_releases_it(autojump_clock: MockClock) -> None:
    """The retry of a cancel that was written before the add finds the new order: that one is off the book."""
    async with (
        session(reply_timeout=2) as (venue, ws),
        ws.open_order_scope() as orders,
        trio.open_nursery() as nursery,
    ):
        old = venue.book.create(external_id="mm-1")
        venue.sandbox.fault_on(old.id, Fault.SILENT_BEFORE)
        await trio.sleep(2)
        await orders.add(MM)
        nursery.start_soon(ws.try_cancel, MM)
        await trio.sleep(0.5)
        venue.book.cancel(old.id)
        await orders.add(MM)
        await trio.sleep(0.5)
        new = venue.book.create(external_id="mm-1")
        await trio.sleep(2)
        assert not is_open(venue, new.id)
        assert len(orders) == 0


async def test_after_a_release_the_name_is_free_again(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as one, ws.open_order_scope() as two:
        for orders in (one, two, one):
            await orders.add(MM)
            order = venue.book.create(external_id="mm-1")
            orders.placed(external_id="mm-1", id=order.id)
            await ws.cancel(MM)
            assert MM not in orders
            assert not ws._session.engine.holds.holders
            await ws.try_cancel(order.id)
        await two.add(MM)
        new = venue.book.create(external_id="mm-1")
        assert isinstance(await ws.try_cancel(order.id), AlreadyClosed)
        assert MM in two
        two.placed(external_id="mm-1", id=new.id)


# Who holds it


async def test_an_order_belongs_to_one_scope_under_either_name(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), ws.open_order_scope() as outer, ws.open_order_scope() as inner:
        await outer.add(MM)
        order = venue.book.create(external_id="mm-1")
        with pytest.raises(InvalidRequest, match="Another scope holds"):
            await inner.add(MM)
        outer.placed(external_id="mm-1", id=order.id)
        with pytest.raises(InvalidRequest, match="Another scope holds"):
            await inner.add(order.id)
        with pytest.raises(InvalidRequest, match="does not hold"):
            inner.placed(external_id="mm-1", id=order.id)
        outer.discard(external_id="mm-1")
        await inner.add(order.id)


@pytest.mark.parametrize(
    "arguments",
    [
        {"id": "", "external_id": "mm-1"},
        {"id": 7, "external_id": "mm-1"},
        {"id": CancelRequest(external_id="other"), "external_id": "mm-1"},
        {"id": "A", "external_id": ""},
        {"id": "A", "external_id": "other"},
        {"id": MM, "external_id": "mm-1"},
    ],
)
async def test_placed_refuses_what_names_no_order(autojump_clock: MockClock, arguments: dict[str, Any]) -> None:
    async with session() as (_, ws), ws.open_order_scope() as orders:
        await orders.add(MM)
        with pytest.raises(InvalidRequest):
            orders.placed(**arguments)
        orders.discard(MM)


async def test_placed_takes_a_request_and_the_last_id(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            orders.placed(MM)
            orders.placed(external_id="mm-1", id=CancelRequest("mistaken"))
            order = venue.book.create(external_id="mm-1")
            orders.placed(external_id="mm-1", id=order.id)
            orders.placed(external_id="mm-1")  # does not forget it
        (record,) = venue.log
        assert record.params == {"id": order.id, **{key: record.params[key] for key in record.params if key != "id"}}
        assert not is_open(venue, order.id)


# The end of the block


async def test_a_yes_of_the_old_order_is_asked_again_until_the_new_one_comes(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), trio.open_nursery() as nursery:
        venue.book.fill(venue.book.create(external_id="mm-1").id)
        await trio.sleep(60)

        async def place() -> None:
            await trio.sleep(3)
            venue.book.create(external_id="mm-1")

        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            nursery.start_soon(place)
        assert venue.book.open_orders() == []
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, Canceled)
        assert outcome.attempts[0].status == 400


@pytest.mark.parametrize("old", ["filled", "open"])
async def test_what_is_closed_and_perhaps_another_order_is_told(autojump_clock: MockClock, old: str) -> None:
    async with session() as (venue, ws):
        order = venue.book.create(external_id="mm-1")
        if old == "filled":
            venue.book.fill(order.id)
        await trio.sleep(60)
        with pytest.raises(OrdersLeft, match=r"mm-1 \(unknown: closed, but not surely this order\)") as caught:
            async with ws.open_order_scope() as orders:
                await orders.add(MM)
                left_at = trio.current_time()
        assert trio.current_time() - left_at == pytest.approx(10, abs=0.1)
        (outcome,) = caught.value.report.left
        assert isinstance(outcome, Unknown)
        assert outcome.request == MM
        assert isinstance(outcome.cause, NotSurelyThisOrder)
        assert isinstance(outcome.cause.closed, AlreadyClosed if old == "filled" else Canceled)
        assert (order.id in str(outcome.cause)) == (old == "open")
        assert len(outcome.attempts) == len(venue.log.requests) > 5
        assert not is_open(venue, order.id)


async def test_what_was_placed_before_it_was_asked_for_is_this_order(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws):
        venue.book.fill(venue.book.create(external_id="mm-1").id)
        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            orders.placed(MM)
            left_at = trio.current_time()
        assert trio.current_time() - left_at < 0.1
        assert orders.report is not None
        assert orders.report.counts["already_closed"] == 1


@pytest.mark.parametrize("reply_timeout", [12.0, 2.0])
async def test_an_answer_to_a_question_before_the_order_was_placed_is_asked_again(
    autojump_clock: MockClock, reply_timeout: float
) -> None:
    """Also if another attempt has been written since: the answer may be that to the first one."""
    async with session({"delay": 3.0}, reply_timeout=reply_timeout) as (venue, ws), trio.open_nursery() as nursery:
        asked: list[RequestRecord] = []

        def script(record: RequestRecord) -> CustomReply | Fault | None:
            asked.append(record)
            if len(asked) == 1:  # it has found the old order
                return CustomReply(render_refusal(record.request_id, NOT_ACTIVE), applies=False)
            return Fault.SILENT_BEFORE if len(asked) == 2 else None

        async def place() -> None:
            await trio.sleep(1)
            venue.book.create(external_id="mm-1")
            orders.placed(MM)

        venue.sandbox.script(script)
        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            nursery.start_soon(place)
        assert venue.book.open_orders() == []
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["canceled"]


async def test_the_id_that_is_told_while_it_settles_is_used(autojump_clock: MockClock) -> None:
    async with session() as (venue, ws), trio.open_nursery() as nursery:
        venue.book.fill(venue.book.create(external_id="mm-1").id)

        async def place() -> None:
            await trio.sleep(3)
            order = venue.book.create(external_id="mm-1")
            venue.book.fill(order.id)
            orders.placed(external_id="mm-1", id=order.id)

        async with ws.open_order_scope() as orders:
            await orders.add(MM)
            nursery.start_soon(place)
            left_at = trio.current_time()
        assert 3 <= trio.current_time() - left_at <= 4.1
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.request == MM


@pytest.mark.parametrize("fault", [Fault.REFUSE_UNKNOWN_CODE, Fault.SILENT_BEFORE, Fault.REFUSE_DAILY])
async def test_a_no_after_a_yes_that_may_be_this_orders_is_no_no(autojump_clock: MockClock, fault: Fault) -> None:
    """The order of the name was canceled: it must not be called refused, whatever the next answers say."""
    async with session() as (venue, ws):
        old = venue.book.create(external_id="mm-1")
        await trio.sleep(60)
        answered: list[RequestRecord] = []

        def faults(record: RequestRecord) -> Fault | None:
            answered.append(record)
            return fault if len(answered) > 1 else None

        venue.sandbox.script(faults)
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope(grace=12) as orders:
                await orders.add(MM)
        assert orders.report is not None
        (outcome,) = orders.report.outcomes
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.cause, NotSurelyThisOrder)
        assert isinstance(outcome.cause.closed, Canceled)
        assert outcome.cause.closed.order.id == old.id
        assert len(outcome.attempts) >= 2


async def test_the_grace_ends_it_and_it_is_still_not_surely_this_order(autojump_clock: MockClock) -> None:
    async with session({"delay": 0.3}) as (venue, ws):
        venue.book.fill(venue.book.create(external_id="mm-1").id)
        await trio.sleep(60)
        with pytest.raises(OrdersLeft) as caught:
            async with ws.open_order_scope(grace=0.8) as orders:
                await orders.add(MM)
        (outcome,) = caught.value.report.left
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.cause, NotSurelyThisOrder)
        assert len(orders) == 0


# The venue's dates


def canceled(
    created: float | None,
    *,
    updated: float | None = None,
    written: float = 100.0,
    answered: float = 100.1,
    id: str = "A",
    request: CancelRequest = MM,
) -> Canceled:
    def date(seconds: float | None) -> Any:
        return None if seconds is None else datetime.fromtimestamp(EPOCH + seconds, UTC)

    none = Decimal(0)
    order = CanceledOrder(
        id, date(created), date(updated), none, none, none, none, none, none, "canceled", "limit", "BTC_BRL",
        external_id="mm-1",
    )  # fmt: skip
    attempts = (
        Attempt("r-1", EPOCH + 1),
        Attempt("r-2", EPOCH + written, EPOCH + answered, 200),
    )
    return Canceled(request, attempts, order=order)


KNOWN = OffsetInterval(-500, 500)


@pytest.mark.parametrize(
    ("outcome", "clock", "meant"),
    [
        # The hold is of second 50, by the venue's clock of 49.5 to 50.5.
        (canceled(50.6), KNOWN, True),
        (canceled(50.4), KNOWN, False),
        (canceled(50.4), OffsetInterval(100, 300), True),
        (canceled(49.0), KNOWN, False),
        (canceled(None), KNOWN, False),
        (canceled(None, updated=100.05), KNOWN, False),
        (canceled(90.0), None, False),  # nothing is known of its clock
        (canceled(90.0, updated=100.05), None, False),
        # The cancel itself tells more: written at 100, and the order was 50 s old at most when it was canceled.
        (canceled(50.1, updated=100.05), KNOWN, True),
        (canceled(50.04, updated=100.05), KNOWN, False),
        (canceled(50.3, updated=100.25), KNOWN, True),  # the venue's clock is a bit ahead
        (canceled(50.2, updated=100.25), KNOWN, False),
        (canceled(49.8, updated=99.7), KNOWN, True),  # or behind
        (canceled(49.6, updated=99.7), KNOWN, False),
        # The last update cannot be this cancel's by what is known of its clock: it tells nothing.
        (canceled(50.4, updated=99.0), KNOWN, False),
        (canceled(50.4, updated=50.4), KNOWN, False),
        (canceled(99.9, updated=99.9), KNOWN, True),  # the date alone tells
        (canceled(49.9, updated=1000.0), KNOWN, False),
    ],
)
async def test_the_order_is_not_older_than_its_hold(
    autojump_clock: MockClock, outcome: Canceled, clock: OffsetInterval | None, meant: bool
) -> None:
    await trio.sleep(100.1)  # it is answered now
    assert Hold(MM, EPOCH + 50, clock, 50.0).is_meant_by(outcome, clock) == meant
    if meant:
        assert not Hold(MM, EPOCH + 200, clock, 100.0).is_meant_by(outcome, clock)


async def test_our_clock_may_be_set_meanwhile(autojump_clock: MockClock) -> None:
    await trio.sleep(100.1)
    ahead = canceled(49.0, updated=100.05, written=110.0, answered=110.1)  # ours was put forward by 10 s
    shifted = OffsetInterval(-10_500, -9_500)
    assert not Hold(MM, EPOCH + 50, None, 50.0).is_meant_by(ahead, shifted)
    assert Hold(MM, EPOCH + 50, None, 50.0).is_meant_by(
        msgspec.structs.replace(ahead, order=canceled(51.0, updated=100.05).order), shifted
    )
    # In another process trio's clock does not tell: only if both clocks agree may ours be compared.
    after = canceled(55.0, updated=100.05)
    assert Hold(MM, EPOCH + 50, KNOWN, None).is_meant_by(after, KNOWN)
    between = canceled(50.2, updated=100.05)
    assert Hold(MM, EPOCH + 50, KNOWN, None).is_meant_by(between, KNOWN)
    assert not Hold(MM, EPOCH + 50, KNOWN, None).is_meant_by(between, OffsetInterval(600, 900))
    assert not Hold(MM, EPOCH + 50, KNOWN, None).is_meant_by(between, None)
    assert not Hold(MM, EPOCH + 50, None, None).is_meant_by(after, KNOWN)
    assert Hold(MM, EPOCH + 50, KNOWN, None).is_meant_by(after, None)


@pytest.mark.parametrize(
    ("outcome", "meant"),
    [
        (AlreadyClosed(MM), False),
        (AlreadyClosed(CancelRequest("A")), True),
        (AlreadyClosed(CancelRequest("B")), False),
        (canceled(90.0), True),
        (canceled(90.0, id="B"), False),
        (canceled(90.0, id=""), False),
        (canceled(1.0, request=CancelRequest("A")), True),
        (Unknown(CancelRequest("A")), False),
    ],
)
def test_a_known_id_is_all_that_counts(outcome: Outcome, meant: bool) -> None:
    hold = Hold(MM, EPOCH, KNOWN, 0.0, order=CancelRequest("A"))
    assert hold.is_meant_by(outcome, KNOWN) == meant


class _Scope:
    def __init__(self) -> None:
        self.told: list[tuple[CancelRequest, Outcome]] = []

    def off_book(self, request: CancelRequest, outcome: Outcome) -> None:
        self.told.append((request, outcome))


def test_the_table_knows_both_names() -> None:
    holds, scope = HeldOrders(), _Scope()
    one, two, other = CancelRequest("A"), CancelRequest("B"), CancelRequest(external_id="other")
    holds.hold(MM, scope)
    assert holds.holder(MM) is scope
    assert holds.holder(one) is None
    holds.place(MM, one)
    assert holds.holder(one) is scope
    holds.settled(AlreadyClosed(one))
    holds.settled(AlreadyClosed(two))
    holds.settled(AlreadyClosed(other))
    assert [request for request, _ in scope.told] == [MM]
    holds.place(MM, two)  # it takes the place of the other one
    assert holds.holder(one) is None
    assert holds.holder(two) is scope
    holds.settled(Unknown(two))
    assert holds.may_have_applied == {MM}
    holds.renew(two)  # by the venue's id it is the same order for good
    assert holds.may_have_applied == {MM}
    holds.renew(MM)  # by an external id it is a new one
    assert holds.may_have_applied == set()
    assert holds.holder(two) is None
    assert holds.holder(MM) is scope
    holds.place(MM, two)
    holds.release(MM)
    assert holds.holder(MM) is None
    assert holds.holder(two) is None
    holds.settled(canceled(90.0))
    assert len(scope.told) == 1


@pytest.mark.parametrize("id", ["", " A\\n", "\\u2028"])
async def test_a_canceled_order_with_another_id_or_none_releases_nothing_by_name(
    autojump_clock: MockClock, id: str
) -> None:
    async with session() as (venue, ws):
        order = venue.book.create(external_id="mm-1")

        def reply(record: RequestRecord) -> CustomReply | None:
            text = render_order(attrs.evolve(order, status=BookStatus.CANCELED)).replace(order.id, id, 1)
            return CustomReply(render_result(record.request_id, text), applies=True)

        async with ws.open_order_scope(settle=1) as orders:
            await orders.add(MM)
            orders.placed(external_id="mm-1", id=order.id)
            venue.sandbox.script(reply)
            await ws.try_cancel(MM)
            assert MM in orders
            venue.sandbox.script(None)
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["already_closed"]
        assert ws.statistics().pending == 0
