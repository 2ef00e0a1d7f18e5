"""The closed union: what each outcome says, raises and carries; the report over many; and what type checkers see."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Mapping
from typing import Any, assert_never, assert_type, get_args

import attrs
import pytest
import trio
from desk import canceled

from trio_cancel import (
    AlreadyClosed,
    Attempt,
    Canceled,
    CanceledOrder,
    CancelNotSent,
    CancelReport,
    CancelRequest,
    ConnectionLost,
    InvalidSignature,
    MissingParameters,
    NotFound,
    NotSent,
    OffsetInterval,
    OrderNotActive,
    OrderNotFound,
    OrdersLeft,
    Outcome,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    SessionClosed,
    TradingError,
    Unknown,
    VenueError,
    VenueReply,
    VenueUnavailable,
)
from trio_cancel._venue.codec import Reply, decode_reply

REQUEST = CancelRequest("o")


def order(**changes: Any) -> CanceledOrder:
    reply = decode_reply(canceled("r", **changes))
    assert isinstance(reply, Reply)
    assert reply.order is not None
    return reply.order


ALL: tuple[Outcome, ...] = (
    Canceled(REQUEST, order=order()),
    AlreadyClosed(REQUEST, error=VenueReply(400, 40408, "Cannot.")),
    NotFound(REQUEST, error=VenueReply(404, 40401, "Order not found.")),
    Rejected(REQUEST, error=VenueReply(400, 40010, "Missing.")),
    NotSent(REQUEST, cause=ConnectionLost("cut")),
    Unknown(REQUEST, cause=ConnectionLost("cut")),
)


def say(outcome: Outcome) -> bool | None:
    """What a user writes; a type checker finds a case that is missing."""
    match outcome:
        case Canceled(order=canceled_order):
            assert_type(canceled_order, CanceledOrder)
            assert_type(outcome.unwrap(), CanceledOrder)
            return True
        case AlreadyClosed(error=error):
            assert_type(error, VenueReply | None)
            return True
        case NotFound():
            return None
        case Rejected(clock=clock):
            assert_type(clock, OffsetInterval | None)
            return False
        case NotSent(cause=cause):
            assert_type(cause, BaseException | None)
            return False
        case Unknown():
            assert_type(outcome.final, bool)
            return None
        case never:
            assert_never(never)


def test_the_union_is_closed_and_answers_one_question() -> None:
    assert {type(outcome) for outcome in ALL} == set(get_args(Outcome))
    for outcome in ALL:
        assert say(outcome) == outcome.off_book
        assert_type(outcome.off_book, bool | None)
        assert_type(outcome.request, CancelRequest)
        assert_type(outcome.attempts, tuple[Attempt, ...])
    assert [outcome.kind for outcome in ALL] == [
        "canceled",
        "already_closed",
        "not_found",
        "rejected",
        "not_sent",
        "unknown",
    ]


@pytest.mark.parametrize("outcome", ALL, ids=lambda outcome: outcome.kind)
def test_outcomes_are_frozen_values(outcome: Outcome) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        outcome.request = CancelRequest("p")  # type: ignore[misc]  # that is what is tested
    assert outcome.attempts == ()
    assert outcome.final
    assert not outcome.after_unanswered
    assert copy.copy(outcome) == outcome
    assert REQUEST.key in repr(outcome)
    if isinstance(outcome, Canceled):
        assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_the_order_comes_out_of_a_cancel() -> None:
    outcome = ALL[0]
    assert isinstance(outcome, Canceled)
    assert outcome.unwrap() is outcome.order


@pytest.mark.parametrize(
    ("outcome", "cls"),
    [
        (AlreadyClosed(REQUEST, error=VenueReply(400, 40408, "Cannot.")), OrderNotActive),
        (NotFound(REQUEST, error=VenueReply(404, 40401, "Gone.")), OrderNotFound),
        (Rejected(REQUEST, error=VenueReply(400, 40011, "Bad.")), InvalidSignature),
        (Rejected(REQUEST, error=VenueReply(400, 40010, "Missing.")), MissingParameters),
        (Rejected(REQUEST, error=VenueReply(429, 42900, "Too many.")), RateLimited),
        (Rejected(REQUEST, error=VenueReply(429, None, "")), RateLimited),
        (Rejected(REQUEST, error=VenueReply(403, 99999, "Who?")), VenueError),
        (Rejected(REQUEST, error=VenueReply(403)), VenueError),
    ],
)
def test_refusals_raise_what_matches(outcome: AlreadyClosed | NotFound | Rejected, cls: type[VenueError]) -> None:
    with pytest.raises(VenueError) as caught:
        outcome.unwrap()
    error = caught.value
    assert type(error) is cls
    assert isinstance(error, TradingError)
    assert outcome.error is not None
    assert (error.status, error.error_code, error.message) == (
        outcome.error.status,
        outcome.error.error_code,
        outcome.error.message,
    )
    assert error.request is REQUEST
    assert error.outcome is outcome
    assert str(error).startswith("The venue refused to cancel order o: ")
    assert str(outcome.error.status) in str(error)


def test_a_clock_that_is_off_is_told_in_milliseconds() -> None:
    for clock, words in [
        (
            OffsetInterval(4000.4, 5200.0),
            ("behind", "at least 4000 ms", "between 4000 and 5200 ms", "width of 1200 ms"),
        ),
        (OffsetInterval(-5200.0, -4000.0), ("ahead of", "at least 4000 ms", "between -5200 and -4000 ms")),
    ]:
        with pytest.raises(InvalidSignature) as caught:
            Rejected(REQUEST, error=VenueReply(400, 40011, "Invalid signature."), clock=clock).unwrap()
        for word in words:
            assert word in str(caught.value)


def test_doubt_is_raised_with_its_cause() -> None:
    cause = VenueUnavailable(503, 50300, "Later.")
    unknown = Unknown(REQUEST, cause=cause)
    with pytest.raises(OutcomeUnknown) as caught:
        unknown.unwrap()
    assert caught.value.cause is caught.value.__cause__ is cause
    assert caught.value.outcome is unknown
    assert "order o" in str(caught.value)
    assert "503: Later." in str(caught.value)
    assert (cause.status, cause.error_code, cause.message) == (503, 50300, "Later.")
    with pytest.raises(OutcomeUnknown, match=r"unknown\.$"):
        Unknown(REQUEST).unwrap()


def test_what_was_not_sent_is_raised_with_its_cause() -> None:
    cause = ConnectionLost("cut")
    outcome = NotSent(CancelRequest(external_id="x"), cause=cause)
    with pytest.raises(CancelNotSent, match="external id x was not sent: cut") as caught:
        outcome.unwrap()
    assert caught.value.cause is cause
    assert caught.value.outcome is outcome
    assert "ConnectionLost" in "".join(traceback.format_exception(caught.value))


def test_what_is_used_after_its_end_is_of_two_kinds() -> None:
    assert issubclass(SessionClosed, TradingError)
    assert issubclass(SessionClosed, trio.ClosedResourceError)


# The report


def test_a_report_counts_and_names() -> None:
    partly = Canceled(CancelRequest("p"), order=order(executed_amount=0.5, remaining_amount=0.5))
    report = CancelReport((*ALL, partly))
    assert_type(report.counts, Mapping[str, int])
    assert dict(report.counts) == {
        "canceled": 2,
        "already_closed": 1,
        "not_found": 1,
        "rejected": 1,
        "not_sent": 1,
        "unknown": 1,
    }
    assert report.left == ALL[2:]
    assert report.partly_filled == (partly,)
    assert len(report) == 7
    assert report.final
    with pytest.raises(TypeError):
        report.counts["canceled"] = 7  # type: ignore[index]  # that is what is tested
    with pytest.raises(OrdersLeft, match=r"4 orders are not surely off the book: o \(not_found\), o \(rej") as caught:
        report.raise_for_left()
    assert caught.value.report is report


def test_a_report_with_nothing_left_raises_nothing() -> None:
    CancelReport(ALL[:2]).raise_for_left()
    empty = CancelReport(())
    empty.raise_for_left()
    assert set(empty.counts.values()) == {0}
    assert empty.final


def test_a_long_list_of_orders_is_cut() -> None:
    left = tuple(NotSent(CancelRequest(f"order-{index}")) for index in range(25))
    with pytest.raises(OrdersLeft, match=r"25 orders are not surely off the book: order-0 .*order-9 .*and 15 more"):
        CancelReport(left).raise_for_left()
    with pytest.raises(OrdersLeft, match="1 order is not"):
        CancelReport(left[:1]).raise_for_left()


def test_a_report_is_final_when_everything_in_it_is() -> None:
    for outcome in (
        NotSent(REQUEST, final=False),
        Unknown(REQUEST, final=False),
        Rejected(REQUEST, error=VenueReply(429), final=False),
    ):
        assert not outcome.final
        assert not CancelReport((ALL[0], outcome)).final
