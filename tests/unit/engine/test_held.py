"""Which answer is about the order that is held, at the edges of what the clocks can tell."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
import trio

from trio_cancel import AlreadyClosed, Canceled, CancelRequest, Outcome, Unknown
from trio_cancel._engine.held import DATES_ARE, HeldOrders, Hold, _ahead_at_most, answered
from trio_cancel.lookup import OrderState, OrderStatus
from trio_cancel.types import Attempt, CanceledOrder, OffsetInterval

NAME = CancelRequest(external_id="x")
VAGUE = OffsetInterval(-1e12, 1e12)


def date(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def canceled(
    created: float | None, updated: float | None = None, *, attempts: tuple[Attempt, ...] = (), order_id: str = "7"
) -> Canceled:
    none = Decimal(0)
    order = CanceledOrder(
        order_id, date(created), date(updated), none, none, none, none, none, none, "canceled", "limit", "A_B",
        external_id="x",
    )  # fmt: skip
    return Canceled(NAME, attempts, order=order)


def closed(created: float | None, updated: float | None, *attempts: Attempt, order_id: str = "7") -> AlreadyClosed:
    state = OrderState(
        status=OrderStatus.CANCELED, seen_at=0.0, id=order_id, create_date=date(created), update_date=date(updated)
    )
    return AlreadyClosed(NAME, attempts, order=state)


AT_100 = Attempt("r-1", 100.0, 100.5, 200)


@pytest.mark.parametrize(
    ("high", "created", "meant"),
    [
        (1.0, 50.0, False),  # just so old as it may be at most
        (0.9, 50.0, True),
        (10_010_000.0, 10_055.0, False),
        (10_010_000.0, 10_060.5, True),
    ],
)
def test_by_the_clock_of_the_hold(high: float, created: float, meant: bool) -> None:
    assert Hold(NAME, 50.0, OffsetInterval(0.0, high), None).is_meant_by(canceled(created), None) is meant
    assert Hold(NAME, 50.0, OffsetInterval(0.0, high), None).is_meant_by(closed(created, None), None) is meant


@pytest.mark.parametrize(
    ("high", "created", "meant"),
    [
        (1.0, 50.0, False),
        (0.9, 50.0, True),
        (10_010_000.0, 10_055.0, False),
        (10_010_000.0, 10_060.5, True),
    ],
)
def test_by_the_clock_of_the_answer(high: float, created: float, meant: bool) -> None:
    clock = OffsetInterval(0.0, high)
    for outcome in (canceled(created, attempts=(AT_100,)), closed(created, None, AT_100)):
        assert Hold(NAME, 50.0, VAGUE, None).is_meant_by(outcome, clock) is meant
        assert not Hold(NAME, 50.0, None, None).is_meant_by(outcome, clock)
        assert not Hold(NAME, 50.0, VAGUE, None).is_meant_by(outcome, None)
        assert not Hold(NAME, 50.0, OffsetInterval(2e9, 3e9), None).is_meant_by(outcome, clock)


def test_what_nobody_answered_tells_no_time() -> None:
    clock = OffsetInterval(0.0, 1.0)
    for attempts in ((), (Attempt("r-1", 100.0),)):
        assert not Hold(NAME, 50.0, VAGUE, None).is_meant_by(canceled(90.0, attempts=attempts), clock)
    assert not Hold(NAME, 50.0, VAGUE, None).is_meant_by(canceled(None, attempts=(AT_100,)), clock)
    assert not Hold(NAME, 50.0, VAGUE, None).is_meant_by(AlreadyClosed(NAME, (AT_100,)), clock)


def test_the_last_update_of_what_a_lookup_found_is_no_cancel_of_ours() -> None:
    clock = OffsetInterval(-5000.0, 5000.0)
    assert Hold(NAME, 50.0, VAGUE, None).is_meant_by(canceled(52.0, 100.1, attempts=(AT_100,)), clock)
    assert not Hold(NAME, 50.0, VAGUE, None).is_meant_by(closed(52.0, 100.1, AT_100), clock)
    assert Hold(NAME, 50.0, VAGUE, None).is_meant_by(closed(55.1, 100.1, AT_100), clock)


async def test_the_later_of_two_readings_of_our_clock_counts(autojump_clock: trio.testing.MockClock) -> None:
    await trio.sleep(40)
    clock = OffsetInterval(0.0, 0.0)
    for wall, since, added in ((50.0, 0.0, 60.5), (70.0, 0.0, 70.0), (50.0, 30.0, 90.5)):
        hold = Hold(NAME, wall, None, since)
        assert not hold.is_meant_by(canceled(added - 0.1, attempts=(AT_100,)), clock)
        assert hold.is_meant_by(canceled(added + 0.1, attempts=(AT_100,)), clock)


def test_the_attempt_whose_answer_counts_is_the_one_that_came_last() -> None:
    one, two, never = Attempt("a", 1.0, 9.0), Attempt("b", 2.0, 5.0), Attempt("c", 3.0)
    for attempts in ((one, two, never), (never, two, one), (two, never, one)):
        assert answered(Unknown(NAME, attempts)) is one
    early = Attempt("d", 0.0, 0.0), Attempt("e", 0.0, 0.5)
    assert answered(Unknown(NAME, early)) is early[1]
    assert answered(Unknown(NAME, (never,))) is None
    assert answered(Unknown(NAME)) is None


@pytest.mark.parametrize(
    ("outcome", "written", "clock", "ahead"),
    [
        (canceled(-5.0, 0.0), 0.0, OffsetInterval(1.0, 9000.0), DATES_ARE),
        (canceled(-5.0, 0.0), 0.0, OffsetInterval(1.1, 9000.0), 9.0),
        (canceled(-5.0, 3.0), 1.0, OffsetInterval(1.0, 9000.0), 2 + DATES_ARE),
        (canceled(0.0, 0.0), 0.0, OffsetInterval(-1.0, 9000.0), 9.0),  # it was never updated
        (canceled(None, 0.0), 0.0, OffsetInterval(-1.0, 9000.0), 9.0),
        (canceled(-5.0, None), 0.0, OffsetInterval(-1.0, 9000.0), 9.0),
        (canceled(-5.0, 0.0), None, OffsetInterval(-1.0, 9000.0), 9.0),
        (canceled(-5.0, 0.0), 1000.5, OffsetInterval(-1_001_000.0, 10_010_000.0), -1000.5 + DATES_ARE),
        (canceled(None, None), 0.0, OffsetInterval(0.0, 10_010_000.0), 10_010.0),
    ],
)
def test_how_far_the_venues_clock_can_be_ahead(
    outcome: Canceled, written: float | None, clock: OffsetInterval, ahead: float
) -> None:
    assert _ahead_at_most(outcome, Attempt("r", written, 1.0), clock) == pytest.approx(ahead, abs=1e-9)


class Scope:
    def __init__(self) -> None:
        self.told: list[tuple[CancelRequest, Outcome]] = []

    def off_book(self, request: CancelRequest, outcome: Outcome) -> None:
        self.told.append((request, outcome))


def test_a_hold_by_the_venues_id_comes_before_one_by_name() -> None:
    holds, by_id, by_name = HeldOrders(), Scope(), Scope()
    order = CancelRequest("7")
    holds.hold(NAME, by_name)
    holds.place(NAME, order)
    holds.hold(order, by_id)
    assert holds.holder(order) is by_id
    outcome = canceled(1.0)
    holds.settled(outcome)  # it has both names
    assert by_id.told == [(order, outcome)]
    assert by_name.told == [(NAME, outcome)]
    holds.release(order)
    assert holds.holder(order) is by_name
    assert holds.holders == {NAME: by_name}


def test_an_order_that_is_placed_again_keeps_its_id() -> None:
    holds, scope = HeldOrders(), Scope()
    order = CancelRequest("7")
    other = CancelRequest(external_id="y")
    holds.hold(NAME, scope)
    holds.hold(other, scope)
    for _ in range(2):
        holds.place(NAME, order)
    holds.place(other, order)  # the venue's id is of this one now
    holds.place(NAME, order)  # a repetition changes nothing
    holds.settled(AlreadyClosed(order))
    assert [request for request, _ in scope.told] == [other]
    holds.release(NAME)
    assert holds.holder(order) is scope  # what is forgotten is only what is its own
    holds.release(other)
    holds.release(other)  # it is no error
    assert holds.holder(order) is None


def test_an_answer_that_names_nothing_is_about_what_was_asked_for() -> None:
    holds, scope = HeldOrders(), Scope()
    holds.hold(NAME, scope)
    outcome = canceled(1.0, order_id="")
    nameless = Canceled(NAME, order=msgspec.structs.replace(outcome.order, external_id=None))
    holds.settled(nameless)
    assert scope.told == [(NAME, nameless)]


def test_doubt_is_noted_for_what_is_held_under_either_name() -> None:
    holds, scope = HeldOrders(), Scope()
    order = CancelRequest("7")
    holds.settled(Unknown(NAME))
    assert holds.may_have_applied == set()
    holds.hold(NAME, scope)
    holds.hold(order, scope)
    holds.place(NAME, order)
    holds.settled(Unknown(order))
    assert holds.may_have_applied == {NAME, order}
    holds.renew(NAME)
    assert holds.may_have_applied == {order}
    holds.release(order)
    assert holds.may_have_applied == set()
    assert scope.told == []
