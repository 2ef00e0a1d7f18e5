"""Rules of the engine, each alone: what is under way, what holds it back, and what comes in slices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.tools.desk import Desk, bare
from trio_cancel import CancelRequest, ConnectionLost, NotSent, NotWritten, TakenOver
from trio_cancel._engine.engine import SLICE
from trio_cancel._engine.order import RetryPolicy


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
