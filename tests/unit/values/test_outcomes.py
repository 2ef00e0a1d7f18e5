"""The closed union: what each outcome says, raises and carries; the report over many; and what type checkers see."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Mapping
from typing import Any, assert_never, assert_type, get_args

import pytest
import trio

from tests.tools.desk import canceled
from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelNotSent,
    CancelRequest,
    ConnectionLost,
    InvalidSignature,
    MissingParameters,
    NotFound,
    NotSent,
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
    VenueUnavailable,
)
from trio_cancel._values.errors import InvalidRequest, NoReply
from trio_cancel._values.outcomes import FIELD_ADVICE, NotSurelyThisOrder, not_surely
from trio_cancel._values.report import InvalidItem, describe_invalid, describe_left
from trio_cancel._venue.codec import Reply, decode_reply
from trio_cancel.lookup import OrderState, OrderStatus
from trio_cancel.types import Attempt, CanceledOrder, CancelReport, OffsetInterval, VenueReply

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
    with pytest.raises(AttributeError):
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
    with pytest.raises(OrdersLeft, match=r"4 orders may still be on the book: o \(not_found\), o \(rej") as caught:
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
    with pytest.raises(OrdersLeft, match=r"25 orders may still be on the book: order-0 .*order-9 .*and 15 more"):
        CancelReport(left).raise_for_left()
    with pytest.raises(OrdersLeft, match="1 order may still be"):
        CancelReport(left[:1]).raise_for_left()


def test_a_report_is_final_when_everything_in_it_is() -> None:
    for outcome in (
        NotSent(REQUEST, final=False),
        Unknown(REQUEST, final=False),
        Rejected(REQUEST, error=VenueReply(429), final=False),
    ):
        assert not outcome.final
        assert not CancelReport((ALL[0], outcome)).final


# What a person reads


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (VenueReply(400, 40010, "Missing."), "400 40010 Missing."),
        (VenueReply(400, None, "Missing."), "400 Missing."),
        (VenueReply(400, 40010), "400 40010"),
        (VenueReply(503), "503"),
        (VenueReply(400, 0), "400 0"),
    ],
)
def test_an_error_of_the_venue_in_words(reply: VenueReply, text: str) -> None:
    assert str(reply) == text


@pytest.mark.parametrize(
    ("status", "code", "words", "credentials", "signature", "token"),
    [
        (401, None, "", True, True, True),
        (401, 40100, "Invalid token", True, False, True),
        (401, 40100, "Invalid TOKEN or Signature", True, True, False),
        (401, 40100, "token: bad timestamp", True, True, False),
        (400, 40011, "Invalid signature", True, True, False),
        (499, 40011, "x", True, True, True),
        (404, 40011, "Invalid signature", False, False, False),
        (408, 40011, "Invalid signature", False, False, False),
        (429, 40011, "Invalid signature", False, False, False),
        (399, 40011, "Invalid signature", False, False, False),
        (500, 40011, "Invalid signature", False, False, False),
        (400, 40010, "Missing parameters", False, False, True),
        (499, 40010, "", False, False, True),
        (399, 40010, "", False, False, False),
        (500, 40010, "", False, False, False),
        (403, 1, "signature", False, False, False),
    ],
)
def test_what_a_refusal_may_be_for(
    status: int, code: int | None, words: str, credentials: bool, signature: bool, token: bool
) -> None:
    reply = VenueReply(status, code, words)
    assert (reply.refuses_credentials, reply.refuses_signature, reply.misses_token) == (credentials, signature, token)


def test_a_refusal_is_raised_in_one_sentence_with_what_may_help() -> None:
    error = VenueReply(400, 40010, "Missing.")
    clock = OffsetInterval(4000, 5200)
    for outcome, advice in (
        (Rejected(REQUEST, error=error), f" ({FIELD_ADVICE})"),
        (Rejected(REQUEST, error=error, clock=clock), f" ({clock.advice})"),
        (Rejected(REQUEST, error=VenueReply(429)), ""),
        (Rejected(REQUEST), ""),
        (AlreadyClosed(REQUEST, error=VenueReply(400, 40408)), ""),
        (NotFound(REQUEST), ""),
    ):
        with pytest.raises(VenueError) as caught:
            outcome.unwrap()
        said = "0" if outcome.error is None else str(outcome.error)
        assert str(caught.value) == f"The venue refused to cancel order o: {said}{advice}"
    for request, says in ((REQUEST, "Order o"), (CancelRequest(external_id="X"), "Order with external id X")):
        state = OrderState(status=OrderStatus.EXECUTED, seen_at=1.0)
        with pytest.raises(OrderNotActive) as closed:
            AlreadyClosed(request, closed_as="executed", order=state).unwrap()
        assert str(closed.value) == f"{says} was executed already, as a lookup says."
    assert FIELD_ADVICE.startswith("if the credentials are right, the venue may know the token by its other name: ")


def test_the_orders_left_in_one_sentence() -> None:
    order_ids = [CancelRequest(f"o{number}") for number in range(12)]
    unknown = Unknown(order_ids[0], cause=NotSurelyThisOrder("perhaps", closed=AlreadyClosed(order_ids[0])))
    found, closed = NotFound(order_ids[1]), AlreadyClosed(order_ids[2])
    assert describe_left((found,)) == "1 order may still be on the book: o1 (not_found)."
    assert describe_left((unknown, Unknown(order_ids[3], cause=ConnectionLost("cut")))) == (
        "2 orders may still be on the book: o0 (unknown: closed, but not surely this order), o3 (unknown)."
    )
    many = tuple(NotFound(request) for request in order_ids)
    names = ", ".join(f"o{number} (not_found)" for number in range(10))
    assert describe_left(many[:10]) == f"10 orders may still be on the book: {names}."
    assert describe_left(many) == f"12 orders may still be on the book: {names} and 2 more."
    items = tuple(InvalidItem(number, "", InvalidRequest(f"bad {number}.")) for number in range(5))
    assert describe_invalid(items[:1]) == "1 item of the input names no order: bad 0."
    named = InvalidItem(0, "", InvalidRequest("bad X."))
    assert describe_invalid((named,)) == "1 item of the input names no order: bad X."
    assert describe_invalid(items[:3]) == "3 items of the input name no order: bad 0; bad 1; bad 2."
    assert describe_invalid(items) == "5 items of the input name no order: bad 0; bad 1; bad 2; and 2 more."
    for report, text in (
        (CancelReport((found, closed)), describe_left((found,))),
        (CancelReport((closed,), invalid=items), describe_invalid(items)),
        (CancelReport((found,), invalid=items), f"{describe_left((found,))} {describe_invalid(items)}"),
    ):
        with pytest.raises(OrdersLeft) as caught:
            report.raise_for_left()
        assert str(caught.value) == text
        assert caught.value.report is report


def test_a_close_that_may_be_of_another_order_is_told_with_all_that_is_known() -> None:
    name = CancelRequest(external_id="x")
    attempts = (Attempt("r-1", 1.0, 2.0, 200),)
    refused = VenueReply(400, 40408)
    closed: AlreadyClosed | Canceled
    for closed, said in (
        (
            AlreadyClosed(name, attempts, error=refused, after_unanswered=True),
            "the order with this external id is closed",
        ),
        (
            Canceled(name, attempts, order=order(id="7", create_date="2024-03-27T13:27:19.853Z")),
            "it canceled the order 7 with this external id, created 2024-03-27T13:27:19.853+00:00",
        ),
        (Canceled(name, order=order(id=None, create_date=None)), "it canceled the order with this external id"),
    ):
        unknown = not_surely(closed)
        assert (unknown.request, unknown.attempts, unknown.error) == (name, closed.attempts, closed.error)
        assert (unknown.after_unanswered, unknown.final) == (closed.after_unanswered, True)
        assert isinstance(unknown.cause, NotSurelyThisOrder)
        assert unknown.cause.closed is closed
        assert str(unknown.cause) == (f"the venue says that {said}; it may be an older one than the one that was added")


def test_an_order_of_which_nothing_was_executed_is_not_partly_filled() -> None:
    for executed, partly in ((0, False), (None, False), (0.1, True), (1, True)):
        outcome = Canceled(REQUEST, order=order(executed_amount=executed))
        assert CancelReport((outcome,)).partly_filled == ((outcome,) if partly else ())


def test_causes_are_compared_by_what_they_say() -> None:
    for cls in (NotSent, Unknown):
        assert cls(REQUEST, cause=ConnectionLost("cut")) == cls(REQUEST, cause=ConnectionLost("cut"))
        assert cls(REQUEST, cause=ConnectionLost("cut")) != cls(REQUEST, cause=ConnectionLost("torn"))
        outcome = cls(REQUEST, (Attempt("r"),), cause=ConnectionLost("cut"), final=False, after_unanswered=True)
        assert copy.copy(outcome) is outcome
        for again in (pickle.loads(pickle.dumps(outcome)), copy.deepcopy(outcome)):
            assert again == outcome
            assert (again.final, again.after_unanswered, again.attempts) == (False, True, outcome.attempts)


def test_an_item_that_named_no_order_travels_with_what_stood_there() -> None:
    def local() -> None: ...

    for item, told in (("text", "text"), (7, 7), (None, None), (local, repr(local))):
        invalid = InvalidItem(3, item, InvalidRequest("bad."))
        assert copy.copy(invalid) is invalid
        again = pickle.loads(pickle.dumps(invalid))
        assert (again.index, str(again), type(again.error), again.item) == (3, "bad.", InvalidRequest, told)


@pytest.mark.parametrize("flag", [False, True])
def test_what_is_not_surely_this_order_keeps_what_is_known_of_it(flag: bool) -> None:
    name, error = CancelRequest(external_id="mm-1"), VenueReply(400, 40408, "closed")
    closed = AlreadyClosed(name, (Attempt("r1"),), error=error, after_unanswered=flag, unrecorded=flag)
    outcome = not_surely(closed)
    assert (outcome.request, outcome.attempts, outcome.error) == (name, (Attempt("r1"),), error)
    assert (outcome.after_unanswered, outcome.unrecorded) == (flag, flag)
    assert getattr(outcome.cause, "closed", None) is closed


def test_outcomes_with_causes_have_hashes_of_their_own() -> None:
    for kind in (NotSent, Unknown):
        values = {hash(kind(CancelRequest(name), cause=NoReply("no"))) for name in "abcdefgh"}
        assert len(values) > 1
        assert hash(kind(CancelRequest("a"), cause=NoReply("no"))) in values
