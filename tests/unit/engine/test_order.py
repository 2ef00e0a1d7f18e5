"""One order's clock, and what its attempts add up to."""

from __future__ import annotations

import math

import pytest

from tests.tools.desk import Order
from trio_cancel import CancelRequest, ConnectionLost, NoReply, NotSent, Outcome, Rejected, Unknown
from trio_cancel._engine.order import LiveAttempt, RetryPolicy
from trio_cancel.types import Attempt, OffsetInterval, VenueReply


def pending(now: float = 0.0) -> Order:
    order = Order(CancelRequest("o"), RetryPolicy())
    order.held_since = now
    return order


def attempt(order: Order, *, answered: bool, may_have_applied: bool = False) -> LiveAttempt:
    flight = LiveAttempt(order, f"r-{len(order.flights)}", 1, 0.0, 1e9, 12.0)
    flight.answered_at = 1e9 + 1 if answered else None
    flight.may_have_applied = may_have_applied
    order.latest, order.earlier = flight, order.flights
    return flight


def cause_of(outcome: Outcome) -> str:
    assert isinstance(outcome, NotSent | Unknown)
    return str(outcome.cause)


def test_the_clock_stands_before_the_first_write() -> None:
    order = pending()
    assert order.spent(100.0, math.inf) == 0


def test_the_clock_runs_from_the_first_write() -> None:
    order = pending()
    order.running_from = 10.0
    assert order.spent(17.0, math.inf) == 7
    assert order.spent(17.0, 12.0) == 7  # an outage changes nothing there


def test_an_outage_counts_from_its_beginning_or_the_orders() -> None:
    assert pending(now=5.0).spent(20.0, 8.0) == 12
    assert pending(now=5.0).spent(20.0, 2.0) == 15


def test_the_clock_can_be_stopped_and_goes_on_where_it_stood() -> None:
    order = pending()
    order.running_from = 10.0
    order.hold(14.0)
    assert order.spent(1000.0, math.inf) == 4
    order.hold(39.0)  # it stands already
    assert order.spent(1000.0, math.inf) == 4
    assert order.spent(50.0, 35.0) == 4 + 15
    order.running_from = 100.0
    assert order.spent(101.0, math.inf) == 5
    order.hold(90.0)  # nothing is ever taken back
    assert order.spent(200.0, math.inf) == 4


def test_nothing_written_was_not_sent() -> None:
    outcome = pending().conclude(None, None)
    assert isinstance(outcome, NotSent)
    assert outcome.attempts == ()
    assert "within 30 s" in str(outcome.cause)
    cause = ConnectionLost("cut")
    outcome = pending().conclude(cause, None, final=False)
    assert isinstance(outcome, NotSent)
    assert outcome.cause is cause
    assert not outcome.final


@pytest.mark.parametrize("answered", [True, False])
def test_doubt_wins_over_a_refusal(answered: bool) -> None:
    order = pending()
    attempt(order, answered=answered, may_have_applied=answered)
    attempt(order, answered=True)
    order.error = VenueReply(400, 40010)
    outcome = order.conclude(None, None)
    assert isinstance(outcome, Unknown)
    assert outcome.after_unanswered
    assert outcome.error == VenueReply(400, 40010)
    assert isinstance(outcome.cause, NoReply)
    assert len(outcome.attempts) == 2


def test_attempts_are_told_whole() -> None:
    order = pending()
    attempt(order, answered=True).status = 429
    attempt(order, answered=False)
    assert order.attempts() == (Attempt("r-0", 1e9, 1e9 + 1, 429), Attempt("r-1", 1e9, None, None))
    order.error = VenueReply(429)
    for refused_only in (False, True):
        outcome = order.conclude(None, None)
        assert (outcome.request, outcome.attempts, outcome.error) == (order.request, order.attempts(), order.error)
        assert isinstance(outcome, Rejected if refused_only else Unknown)
        order.latest, order.earlier = order.flights[0], ()
    assert pending().conclude(None, None).request == order.request


def test_why_nothing_is_known_is_told_in_words() -> None:
    order = Order(CancelRequest("o"), RetryPolicy(reply_timeout=2.5, give_up_after=7.5))
    assert cause_of(order.conclude(None, None)) == "it could not be written within 7.5 s"
    attempt(order, answered=False)
    assert cause_of(order.conclude(None, None)) == "no answer within 2.5 s"
    assert cause_of(order.conclude(ConnectionLost("cut"), None)) == "cut"


def test_what_is_not_final_says_so() -> None:
    order = pending()
    assert order.conclude(None, None).final
    attempt(order, answered=False)
    assert order.conclude(None, None).final
    assert not order.conclude(None, None, final=False).final


def test_only_refusals_are_a_rejection() -> None:
    order = pending()
    attempt(order, answered=True)
    attempt(order, answered=True)
    order.error = VenueReply(429)
    outcome = order.conclude(ConnectionLost("cut"), None, final=False)
    assert isinstance(outcome, Rejected)
    assert not outcome.after_unanswered
    assert not outcome.final


@pytest.mark.parametrize(
    ("code", "clock", "told"),
    [
        (40011, OffsetInterval(10, 20), True),
        (40011, OffsetInterval(-1, 20), False),
        (40011, None, False),
        (40010, OffsetInterval(10, 20), False),
    ],
)
def test_the_clock_is_told_where_it_matters(code: int, clock: OffsetInterval | None, told: bool) -> None:
    order = pending()
    attempt(order, answered=True)
    order.error = VenueReply(400, code)
    outcome = order.conclude(None, clock)
    assert isinstance(outcome, Rejected)
    assert outcome.clock == (clock if told else None)


def test_doubt_looks_at_the_other_attempts_only() -> None:
    order = pending()
    first = attempt(order, answered=False)
    assert not order.may_have_applied_but(first)
    assert order.may_have_applied_but(None)
    second = attempt(order, answered=True)
    assert not order.may_have_applied_but(first)
    assert order.may_have_applied_but(second)


def test_the_doubt_that_came_first_is_the_cause() -> None:
    order = pending()
    attempt(order, answered=False)
    order.doubt = ConnectionLost("first")
    outcome = order.conclude(ConnectionLost("second"), None)
    assert isinstance(outcome, Unknown)
    assert str(outcome.cause) == "first"


def test_its_attempts_are_the_latest_and_those_before_it() -> None:
    order = pending()
    assert (order.flights, order.latest, order.earlier) == ((), None, ())
    first, second, third = (attempt(order, answered=False) for _ in range(3))
    assert (order.flights, order.latest, order.earlier) == ((first, second, third), third, (first, second))
    order.not_written(second)
    assert (order.flights, order.latest, order.earlier) == ((first, third), third, (first,))
    order.not_written(third)
    assert (order.flights, order.latest, order.earlier) == ((first,), first, ())
