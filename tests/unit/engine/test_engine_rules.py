"""Rules of the engine, each alone: what is under way, what holds it back, and what comes in slices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio.testing

from tests.tools.desk import WALL, Desk, Order, bare, canceled
from trio_cancel import CancelRequest, ConnectionLost, NoReply, NotSent, NotWritten, TakenOver, Unknown
from trio_cancel._engine import in_flight
from trio_cancel._engine.engine import SLICE
from trio_cancel._engine.lookup_progress import BUDGET
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._values.outcomes import VenueReply
from trio_cancel.lookup import OrderState, OrderStatus


def test_whatever_has_not_settled_is_under_way_and_pending() -> None:
    engine = Desk(up=False).engine
    lines: Any = engine._in_flight
    orders = [bare(CancelRequest(f"o-{number}")) for number in range(4)]
    for order, line in zip(orders, (lines.active, lines.last, lines.overdue, lines.looked_up), strict=True):
        line[order] = None
    assert list(engine.under_way()) == orders
    assert engine.statistics().pending == 4


def test_each_connection_is_counted() -> None:
    desk = Desk()
    for _ in range(2):
        desk.down()
        desk.come_up()
    assert desk.engine.statistics().connections == 3


def test_single_cancels_go_out_at_once_only_while_there_is_room() -> None:
    desk = Desk(auto=False)
    room = desk.engine._rate.window
    for number in range(3 * room):
        desk.submit(f"o-{number}")
    first = desk.engine.take_single(0.0)
    assert len(first) == room
    desk.engine.sign(first, 1, 0.0, desk.wall)
    assert desk.engine.take_single(0.0) == []


@pytest.mark.parametrize(("early", "before"), [(None, 0), (0, 2), (3, 5)])
def test_what_was_admitted_and_is_not_written_has_its_turns_before(early: int | None, before: int) -> None:
    """A pace counts what waits for the journal, too."""
    desk = Desk()
    asked: list[tuple[float, int]] = []

    def ready_at(now: float, ahead: int = 0) -> float:
        asked.append((now, ahead))
        return now

    engine: Any = desk.engine
    engine._rate = engine._pacer = SimpleNamespace(ready_at=ready_at)
    admitted = [bare(CancelRequest("a")), bare(CancelRequest("b"))]
    engine._ready_at(7.0, admitted, early)
    assert asked == [(7.0, before)] * 2


def test_a_lost_connection_is_looked_at_again_at_once_while_there_is_more() -> None:
    desk = Desk()
    desk.window = 3 * SLICE
    for number in range(3 * SLICE):
        desk.submit(f"o-{number}")
    desk.wait(0)
    flights = len(desk.engine.unanswered())
    desk.engine.connection_down(1, ConnectionLost("cut"), desk.now)
    rounds = 0
    while desk.engine._in_flight.lost:
        assert (desk.engine._take_lost(desk.now) == desk.now) is bool(desk.engine._in_flight.lost)
        rounds += 1
    assert rounds >= (flights - 1) // SLICE


def test_an_order_that_has_just_settled_keeps_no_other_waiting() -> None:
    desk = Desk(auto=False)
    first, second, third = (desk.submit(name) for name in "abc")
    desk.write()
    second.settle(NotSent(second.request, cause=NotWritten("elsewhere")))
    desk.engine.expire(desk.policy.give_up_after + 1)
    assert first.outcome is not None
    assert third.outcome is not None


def test_what_is_another_sessions_now_is_unknown_if_it_may_have_worked() -> None:
    desk, cause = Desk(policy=RetryPolicy(reply_timeout=2)), TakenOver("The journal was taken over.")
    asked = desk.submit("a")
    desk.engine._give_away(asked, cause, desk.now)
    assert asked.doubt is cause
    desk.wait(60)
    outcome = desk.only(asked)
    assert (outcome.kind, getattr(outcome, "cause", None)) == ("unknown", cause)


def test_a_doubt_that_was_there_before_stays() -> None:
    desk = Desk()
    asked = desk.submit("a")
    asked.doubt = before = ConnectionLost("cut")
    desk.engine._give_away(asked, TakenOver("The journal was taken over."), desk.now)
    assert asked.doubt is before


def test_what_is_another_sessions_now_is_not_sent_if_it_never_was() -> None:
    desk, cause = Desk(auto=False), TakenOver("The journal was taken over.")
    asked = desk.submit("a")
    (admitted,) = desk.engine.take_single(desk.now)
    assert admitted is asked
    desk.engine._give_away(asked, cause, desk.now)
    outcome = asked.outcome
    assert isinstance(outcome, NotSent)
    assert outcome.cause is cause


def test_what_could_not_be_written_for_want_of_a_connection_says_so() -> None:
    desk = Desk(up=False)
    asked = desk.submit("a")
    desk.engine.connection_refused(OSError("down"))
    desk.wait(desk.policy.give_up_after + 1)
    outcome = desk.only(asked)
    assert isinstance(outcome, NotSent)
    assert "no connection" in str(outcome.cause)


# What is in flight


def test_what_has_settled_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes late is then known as that."""
    monkeypatch.setattr(in_flight, "LATE_KEPT", 3)
    desk = Desk()
    for number in range(8):
        desk.submit(f"o-{number}")
        desk.answer(canceled(desk.ids[-1], f"o-{number}"))
    assert desk.engine.statistics().settled == 8
    known = [desk.engine._in_flight.settled_as(request_id) is not None for request_id in desk.ids]
    assert known == [False] * 3 + [True] * 5


def test_a_place_in_the_window_is_given_back_one_by_one() -> None:
    desk = Desk()
    orders = [desk.submit(name) for name in "abc"]
    tables = desk.engine._in_flight
    assert tables.active_priority == 3
    tables._leave(orders[0])
    assert tables.active_priority == 2
    tables.last[orders[0]] = None
    tables._leave(orders[0])
    assert (tables.active_priority, list(tables.last)) == (2, [])


def looking_up(desk: Desk, *names: str) -> list[Order]:
    """Orders that nothing is known of, and that are looked up."""
    tables: Any = desk.engine._in_flight
    tables._lookups = True
    orders = [desk.submit(name) for name in names]
    for order in orders:
        assert tables._look_up(order, Unknown(order.request, order.attempts(), cause=NoReply("no answer")))
    return orders


async def test_a_lookup_has_the_time_that_is_left_and_its_own(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk(policy=RetryPolicy(give_up_after=10.0))
    assert [order.lookup.ends_at for order in looking_up(desk, "a") if order.lookup] == pytest.approx([10.0 + BUDGET])
    late = desk.submit("b")
    late.time_spent += 9.5
    desk.engine._in_flight._look_up(late, Unknown(late.request, cause=NoReply("no answer")))
    assert late.lookup is not None
    assert late.lookup.ends_at == pytest.approx(0.5 + BUDGET)


async def test_what_is_still_on_the_book_comes_back_into_the_window(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    others = [desk.submit(name) for name in "xy"]
    looked_up = looking_up(desk, "a", "b")
    tables = desk.engine._in_flight
    assert tables.active_priority == len(others)
    for order in looked_up:
        state = OrderState(status=OrderStatus.OPEN, seen_at=WALL, id=order.request.id)
        assert tables.seen(order, state) is None
    assert tables.active_priority == len(others) + 2
    assert not tables.looked_up


async def test_what_a_lookup_saw_closed_tells_all_attempts(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    (order,) = looking_up(desk, "a")
    assert order.lookup is not None
    order.lookup.outcome = Unknown(order.request, (), cause=NoReply("no answer"))  # of before an attempt
    state = OrderState(status=OrderStatus.CANCELED, seen_at=WALL, id="a")
    assert desk.engine._in_flight.seen(order, state) is None
    outcome = desk.only(order)
    assert outcome.off_book
    assert [attempt.request_id for attempt in outcome.attempts] == desk.ids


async def test_when_lookups_end_nobody_waits_for_one(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    orders = looking_up(desk, "a", "b")
    desk.engine.end_lookups()
    assert [desk.only(order).kind for order in orders] == ["unknown", "unknown"]


def test_time_that_the_machine_slept_counts_for_all_that_has_not_settled() -> None:
    desk = Desk(auto=False)
    first, second, third = (desk.submit(name) for name in "abc")
    desk.write()
    second.settle(NotSent(second.request, cause=NotWritten("elsewhere")))
    desk.engine.awaken(desk.now)
    desk.suspended = 4.0
    desk.engine.awaken(desk.now)
    assert (first.time_spent, third.time_spent) == (4.0, 4.0)


@pytest.mark.parametrize(
    ("rate", "error", "paced"),
    [
        (None, None, False),
        (5.0, None, True),
        (5.0, VenueReply(503), True),
        (5.0, VenueReply(429), False),  # whoever waits after a 429 waits for the pace, as long as others get through
    ],
)
def test_whose_clock_stops_under_a_pace_that_was_found(
    rate: float | None, error: VenueReply | None, paced: bool
) -> None:
    desk = Desk()
    desk.engine._rate.rate = rate
    order = bare(CancelRequest("a"))
    order.error = error
    assert desk.engine._is_paced(order) is paced


@pytest.mark.parametrize("changed", [None, "down", "in flight", "no pace", "its turn has come", "its pause lasts"])
def test_what_only_the_pace_holds_back_is_held(changed: str | None) -> None:
    desk = Desk()
    desk.engine._rate.rate = None if changed == "no pace" else 0.5
    desk.engine._rate._next_at = 5.0 if changed == "its turn has come" else 9.0
    if changed == "down":
        desk.engine.connection_down(1, ConnectionLost("cut"), 5.0)
    order = bare(CancelRequest("a"))
    order.state = State.IN_FLIGHT if changed == "in flight" else State.RETRYING
    order.not_before = 5.5 if changed == "its pause lasts" else 5.0
    assert desk.engine._is_held(order, 5.0) is (changed is None)


def test_what_was_written_on_a_connection_that_is_lost_is_given_up_for_want_of_one() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(0)
    assert order.latest is not None
    assert desk.engine._why_silent(order) is None
    desk.engine.connection_down(1, ConnectionLost("cut"), desk.now)
    assert isinstance(desk.engine._why_silent(order), NotWritten)
