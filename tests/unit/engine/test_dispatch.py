"""Every rule of attempts and of reading them together, without sockets and on a clock that is a number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from tests.tools.desk import WALL, Bulk, Desk, Order, canceled, refusal, result
from trio_cancel import Observer
from trio_cancel._engine.in_flight import LATE_KEPT
from trio_cancel._engine.order import OrderCancel, RetryPolicy, State
from trio_cancel._engine.rate import BESIDE_FOR, BESIDE_LEAST, WINDOW_MOST, WINDOW_START, Pacer
from trio_cancel._engine.replies import BAD_PER_MINUTE
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import (
    ConnectionLost,
    InvalidReply,
    NoReply,
    NotWritten,
    SessionClosed,
    UnlistedRefusal,
    VenueUnavailable,
)
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import AlreadyClosed, Canceled, NotSent, Outcome, Rejected, Unknown

Answer = Callable[[str], str]

CANCELED: Answer = canceled
CLOSED: Answer = lambda rid: refusal(rid, 400, 40408)  # noqa: E731 - one line each reads as the table that it is
NOT_FOUND: Answer = lambda rid: refusal(rid, 404, 40401)  # noqa: E731
MISSING: Answer = lambda rid: refusal(rid, 400, 40010)  # noqa: E731
SIGNATURE: Answer = lambda rid: refusal(rid, 400, 40011)  # noqa: E731
OTHER: Answer = lambda rid: refusal(rid, 403, 99999)  # noqa: E731
UNAUTHORIZED: Answer = lambda rid: refusal(rid, 401, 40100, "Invalid signature")  # noqa: E731
ALREADY_CANCELED: Answer = lambda rid: refusal(rid, 400, 40020, "Order already canceled.")  # noqa: E731
EXECUTED: Answer = lambda rid: refusal(rid, 400, 40021, "Order executed completely.")  # noqa: E731
ANOTHER: Answer = lambda rid: canceled(rid, "another order")  # noqa: E731
OPEN: Answer = lambda rid: canceled(rid, status="open")  # noqa: E731
NO_RESULT: Answer = lambda rid: f'{{"id":"{rid}","status":200}}'  # noqa: E731
NO_STATUS: Answer = lambda rid: f'{{"id":"{rid}","status":"200"}}'  # noqa: E731
TOO_MANY: Answer = lambda rid: refusal(rid, 429, 42900, "Too many requests")  # noqa: E731
DAILY: Answer = lambda rid: refusal(rid, 429, 42901, "Limit Exceeded")  # noqa: E731
BROKEN: Answer = lambda rid: refusal(rid, 500)  # noqa: E731
TIMED_OUT: Answer = lambda rid: refusal(rid, 408)  # noqa: E731


# One attempt, one answer


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (CANCELED, "canceled"),
        (CLOSED, "already_closed"),
        (NOT_FOUND, "not_found"),
        (MISSING, "rejected"),
        (SIGNATURE, "rejected"),
        (DAILY, "rejected"),
        (UNAUTHORIZED, "rejected"),
        (ALREADY_CANCELED, "already_closed"),
        (EXECUTED, "already_closed"),
        (lambda rid: refusal(rid, 404, 40400), "not_found"),
    ],
)
def test_a_definite_answer_settles_at_once(answer: Answer, kind: str) -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(1)
    desk.answer(answer(desk.ids[0]))
    outcome = desk.only(order)
    assert outcome.kind == kind
    assert not outcome.after_unanswered
    (attempt,) = outcome.attempts
    assert (attempt.request_id, attempt.written_at, attempt.answered_at) == (desk.ids[0], WALL, WALL + 1)
    desk.wait(100)
    assert len(desk.ids) == 1  # and that is the end of it


@pytest.mark.parametrize(
    ("answer", "closed_as"), [(CLOSED, None), (ALREADY_CANCELED, "canceled"), (EXECUTED, "executed")]
)
def test_how_an_order_was_closed_is_told_where_the_venue_says_it(answer: Answer, closed_as: str | None) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(answer(desk.ids[0]))
    outcome = desk.only(order)
    assert isinstance(outcome, AlreadyClosed)
    assert outcome.closed_as == closed_as


@pytest.mark.parametrize("answer", [OTHER, lambda rid: refusal(rid, 400, 40021, "No orders to cancel.")])
def test_a_refusal_that_is_not_listed_is_unknown_and_not_tried_again(answer: Answer) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(answer(desk.ids[0]))
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, UnlistedRefusal)
    assert outcome.error is not None
    assert str(outcome.error) in str(outcome.cause)
    desk.wait(100)
    assert len(desk.ids) == 1


def test_an_earlier_attempt_can_still_tell_after_a_refusal_that_is_not_listed() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(12)
    desk.answer(OTHER(desk.ids[1]))
    assert order.state is not State.SETTLED
    desk.answer(canceled(desk.ids[0]))
    assert desk.only(order).kind == "canceled"
    assert len(desk.ids) == 2


@pytest.mark.parametrize("bad", [ANOTHER, OPEN, NO_RESULT, NO_STATUS])
@pytest.mark.parametrize(
    ("then", "kind"),
    [(CANCELED, "canceled"), (CLOSED, "already_closed"), (NOT_FOUND, "not_found"), (MISSING, "unknown")],
)
def test_an_answer_that_cannot_be_read_is_asked_for_again(bad: Answer, then: Answer, kind: str) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(bad(desk.ids[0]))
    assert order.state is State.RETRYING
    desk.wait(0.1249)
    assert len(desk.ids) == 1  # but not at once
    desk.wait(0.2)
    desk.answer(then(desk.ids[1]))
    outcome = desk.only(order)
    assert outcome.kind == kind
    assert outcome.after_unanswered
    assert len(outcome.attempts) == 2


def test_an_answer_that_contradicts_itself_says_so_in_the_end() -> None:
    desk = Desk()
    order = desk.submit()
    while order.kind is None and desk.now < 60:
        if order.flights[-1].answered_at is None:
            desk.answer(canceled(desk.ids[-1], status="open"))
        desk.wait(0.1)
    outcome = desk.only(order)
    assert 29 < desk.now < 30.2
    assert 5 < len(desk.ids) < 30
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, InvalidReply)
    assert "'open'" in str(outcome.cause)


def test_without_retry_one_answer_that_cannot_be_read_ends_it() -> None:
    desk = Desk(policy=RetryPolicy(retry=False))
    order = desk.submit()
    desk.answer(canceled(desk.ids[0], status="open"))
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, InvalidReply)


def test_the_venues_error_is_kept() -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(refusal(desk.ids[0], 403, 99999, "Not you."))
    error = desk.only(order).error
    assert error is not None
    assert (error.status, error.error_code, error.message) == (403, 99999, "Not you.")


def test_an_order_is_known_by_the_id_that_was_asked_for() -> None:
    desk = Desk()
    ours, theirs = desk.submit(external_id="mine"), desk.submit(external_id="mine too")
    desk.answer(canceled(desk.ids[0], "7", external_id="mine"))
    desk.answer(canceled(desk.ids[1], "8", external_id="mine"))
    assert (ours.kind, theirs.state) == ("canceled", State.RETRYING)


def test_answers_are_matched_by_id_alone() -> None:
    desk = Desk()
    orders = [desk.submit(f"o{index}") for index in range(5)]
    for index in (3, 0, 4, 2, 1):
        desk.answer(canceled(desk.ids[index], f"o{index}"))
        assert orders[index].kind == "canceled"


# Attempts


@pytest.mark.parametrize("answer", [BROKEN, TIMED_OUT, lambda rid: f'{{"id":"{rid}","status":502,"result":7}}'])
def test_a_server_error_is_tried_again_soon_under_a_new_id(answer: Answer) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(answer(desk.ids[0]))
    assert order.state is State.RETRYING
    desk.wait(0.1249)
    assert len(desk.ids) == 1
    desk.wait(0.2)
    assert len(set(desk.ids)) == 2
    desk.answer(canceled(desk.ids[1]))
    outcome = desk.only(order)
    assert outcome.kind == "canceled"
    assert outcome.after_unanswered  # the first may have been the one that took effect
    assert [attempt.request_id for attempt in outcome.attempts] == desk.ids


def test_server_errors_are_tried_again_less_and_less_often_and_given_up() -> None:
    desk = Desk()
    order = desk.submit()
    for _ in range(40):
        if order.kind:
            break
        desk.answer(BROKEN(desk.ids[-1]))
        at = len(desk.ids)
        while len(desk.ids) == at and not order.kind:
            desk.wait(0.05)
    gaps = [later - earlier for earlier, later in zip(desk.times, desk.times[1:], strict=False)]
    assert all(0.12 < gap < 4.06 for gap in gaps)
    assert gaps[4] > 1.9
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, VenueUnavailable)
    assert outcome.cause.status == 500
    assert desk.now <= 30.1


def test_no_answer_is_tried_again_with_a_new_id_and_a_young_timestamp() -> None:
    desk = Desk()
    signed: list[tuple[str, int]] = []

    def sign(orders: Iterable[tuple[str, CancelRequest]], timestamp: int) -> list[bytes]:
        ids = [request_id for request_id, _ in orders]
        signed.extend((request_id, timestamp) for request_id in ids)
        return [b"" for _ in ids]

    desk.engine._sign = sign
    order = desk.submit()
    desk.wait(11.99)
    assert len(desk.ids) == 1
    desk.wait(0.01)
    assert len(desk.ids) == 2
    desk.wait(12)
    assert [timestamp - WALL * 1000 for _, timestamp in signed] == [0, 12_000, 24_000]
    assert len({rid for rid, _ in signed}) == 3
    desk.wait(5.99)
    assert order.kind is None
    desk.wait(0.01)
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, NoReply)
    assert "12 s" in str(outcome.cause)
    assert len(outcome.attempts) == 3
    assert all(attempt.answered_at is None for attempt in outcome.attempts)


def test_a_late_answer_to_an_earlier_attempt_settles() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(13)
    desk.answer(canceled(desk.ids[0]))
    outcome = desk.only(order)
    assert outcome.kind == "canceled"
    assert outcome.after_unanswered


def test_a_refusal_for_now_is_tried_again_and_leaves_no_doubt() -> None:
    desk = Desk()
    order = desk.submit()
    assert desk.engine.statistics().rate is None
    desk.answer(TOO_MANY(desk.ids[0]))
    assert order.kind is None
    assert desk.engine.statistics().rate == 5
    desk.wait(0.25)  # the pace after the first 429 is 5 a second
    assert len(desk.ids) == 2
    desk.answer(CLOSED(desk.ids[1]))
    outcome = desk.only(order)
    assert outcome.kind == "already_closed"
    assert not outcome.after_unanswered
    assert desk.engine.statistics().limited == 1


def test_nothing_but_refusals_for_now_is_a_rejection_in_the_end() -> None:
    desk = Desk()
    order = desk.submit()
    while order.kind is None and desk.now < 100:
        if order.state is State.IN_FLIGHT:
            desk.answer(TOO_MANY(desk.ids[-1]))
        desk.wait(0.1)
    outcome = desk.only(order)
    assert isinstance(outcome, Rejected)
    assert outcome.error is not None
    assert outcome.error.status == 429
    assert desk.now == pytest.approx(30, abs=0.2)


@pytest.mark.parametrize("refused", [SIGNATURE, UNAUTHORIZED, lambda rid: f'{{"id":"{rid}","status":401}}'])
@pytest.mark.parametrize(("age", "attempts"), [(3.9, 1), (4.0, 1), (4.01, 2), (11.0, 2)])
def test_a_bad_signature_is_late_after_four_seconds(refused: Answer, age: float, attempts: int) -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(age)
    desk.answer(refused(desk.ids[0]))
    assert len(desk.ids) == attempts
    if attempts == 1:
        assert order.kind == "rejected"
    else:
        desk.answer(canceled(desk.ids[1]))
        assert desk.only(order).kind == "canceled"
        assert not desk.only(order).after_unanswered  # a refusal leaves no doubt


def test_signatures_that_are_late_for_ever_are_given_up() -> None:
    desk = Desk()
    order = desk.submit()
    for _ in range(10):
        desk.wait(5)
        if order.kind is not None:
            break
        desk.answer(SIGNATURE(desk.ids[-1]))
    assert order.kind == "unknown"  # the last attempt was not answered in time
    assert (desk.now, len(desk.ids)) == (30, 6)


def test_a_lost_connection_is_tried_again_on_the_next() -> None:
    desk = Desk()
    order = desk.submit()
    desk.down(ConnectionLost("cut"))
    assert order.kind is None
    desk.wait(5)
    desk.come_up()
    assert desk.times == [0, 5]
    desk.answer(canceled(desk.ids[1]))
    outcome = desk.only(order)
    assert outcome.kind == "canceled"
    assert outcome.after_unanswered


def test_an_answer_to_a_lost_connections_request_does_not_match_on_the_next() -> None:
    desk = Desk()
    order = desk.submit()
    desk.down()
    desk.come_up()
    desk.answer(canceled(desk.ids[0]))
    assert order.kind is None
    assert desk.engine.statistics().unknown_id == 1


def test_a_request_of_this_connection_cannot_be_answered_on_another() -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(canceled(desk.ids[0]), connection=2)
    assert order.kind is None
    assert desk.engine.statistics().unknown_id == 1
    desk.answer(canceled(desk.ids[0]))
    assert order.kind == "canceled"


def test_what_was_not_written_was_no_attempt() -> None:
    desk = Desk()
    order = desk.submit()
    desk.engine.not_written([desk.flights[0]], ConnectionLost("broke"), desk.now)
    assert desk.engine.statistics().written == 0
    desk.down()
    desk.come_up()
    desk.answer(CLOSED(desk.ids[-1]))
    outcome = desk.only(order)
    assert outcome.kind == "already_closed"
    assert not outcome.after_unanswered
    assert [attempt.request_id for attempt in outcome.attempts] == [desk.ids[-1]]


def test_what_can_never_be_written_was_not_sent() -> None:
    desk = Desk(up=False)
    order = desk.submit()
    desk.wait(29.9)
    assert order.kind is None
    desk.wait(0.1)
    outcome = desk.only(order)
    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.cause, NotWritten)
    assert "no connection" in str(outcome.cause)


def test_not_sent_names_why_there_was_no_connection() -> None:
    desk = Desk()
    desk.down(ConnectionLost("the cable"))
    order = desk.submit()
    desk.wait(30)
    outcome = desk.only(order)
    assert isinstance(outcome, NotSent)
    assert "the cable" in str(outcome.cause)
    assert isinstance(outcome.cause, NotWritten)
    assert isinstance(outcome.cause.__cause__, ConnectionLost)


@pytest.mark.parametrize("answer", [BROKEN, TOO_MANY])
def test_a_failing_later_attempt_does_not_wait_for_the_earlier_one(answer: Answer) -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(12)
    desk.answer(answer(desk.ids[1]))
    desk.wait(0.5)
    assert len(desk.ids) == 3
    desk.answer(canceled(desk.ids[2]))
    assert order.kind == "canceled"


def test_a_failing_earlier_attempt_leaves_the_later_one_its_time() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(12)
    desk.answer(BROKEN(desk.ids[0]))
    desk.wait(11)
    assert len(desk.ids) == 2
    assert order.kind is None
    desk.answer(CLOSED(desk.ids[1]))
    assert desk.only(order).after_unanswered


# One attempt only


ONCE = RetryPolicy(retry=False)


@pytest.mark.parametrize(
    ("answer", "kind"), [(BROKEN, "unknown"), (TOO_MANY, "rejected"), (TIMED_OUT, "unknown"), (DAILY, "rejected")]
)
def test_without_retries_the_first_answer_is_the_last(answer: Answer, kind: str) -> None:
    desk = Desk(policy=ONCE)
    order = desk.submit()
    desk.answer(answer(desk.ids[0]))
    assert desk.only(order).kind == kind


def test_without_retries_a_late_signature_is_refused() -> None:
    desk = Desk(policy=ONCE)
    order = desk.submit()
    desk.wait(5)
    desk.answer(SIGNATURE(desk.ids[0]))
    assert desk.only(order).kind == "rejected"


def test_without_retries_no_answer_is_unknown_at_its_time() -> None:
    desk = Desk(policy=ONCE)
    order = desk.submit()
    desk.wait(11.9)
    assert order.kind is None
    desk.wait(0.1)
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, NoReply)
    assert len(desk.ids) == 1


def test_without_retries_a_lost_connection_is_unknown_at_once() -> None:
    desk = Desk(policy=ONCE)
    order = desk.submit()
    desk.down(ConnectionLost("cut"))
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, ConnectionLost)
    assert "cut" in str(outcome.cause)


def test_without_retries_what_was_not_written_was_not_sent() -> None:
    desk = Desk(policy=ONCE)
    order = desk.submit()
    desk.engine.not_written([desk.flights[0]], ConnectionLost("broke"), desk.now)
    outcome = desk.only(order)
    assert isinstance(outcome, NotSent)
    assert str(outcome.cause) == "broke"


# Reading attempts together

UNANSWERED = "unanswered"
LOST = "lost"


@pytest.mark.parametrize("first", [UNANSWERED, LOST, BROKEN, TIMED_OUT])
@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (CANCELED, "canceled"),
        (CLOSED, "already_closed"),
        (NOT_FOUND, "not_found"),
        (MISSING, "unknown"),
        (SIGNATURE, "unknown"),
        (OTHER, "unknown"),
        (DAILY, "unknown"),
        (TOO_MANY, "unknown"),
    ],
)
def test_after_doubt_there_is_no_rejection(first: str | Answer, second: Answer, kind: str) -> None:
    desk = Desk()
    order = desk.submit()
    if first == UNANSWERED:
        desk.wait(12)
    elif first == LOST:
        desk.down()
        desk.come_up()
    else:
        assert callable(first)
        desk.answer(first(desk.ids[0]))
        desk.wait(0.3)
    assert len(desk.ids) == 2
    desk.answer(second(desk.ids[1]))
    while order.kind is None and desk.now < 60:
        if second is TOO_MANY and order.flights[-1].answered_at is None:
            desk.answer(TOO_MANY(desk.ids[-1]))
        desk.wait(0.1)
    outcome = desk.only(order)
    assert outcome.kind == kind
    assert outcome.after_unanswered
    assert desk.now <= 30.2
    if second is not TOO_MANY:
        assert len(desk.ids) == 2  # a refusal for good is not tried again


@pytest.mark.parametrize("second", [MISSING, SIGNATURE, UNAUTHORIZED, DAILY])
def test_after_a_refusal_for_now_a_rejection_is_one(second: Answer) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(TOO_MANY(desk.ids[0]))
    desk.wait(0.3)
    desk.answer(second(desk.ids[1]))
    outcome = desk.only(order)
    assert outcome.kind == "rejected"
    assert not outcome.after_unanswered


def test_after_doubt_what_is_not_written_is_unknown() -> None:
    desk = Desk()
    order = desk.submit()
    desk.down(ConnectionLost("cut"))
    desk.wait(30)
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert outcome.after_unanswered
    assert isinstance(outcome.cause, ConnectionLost)


def test_a_refusal_for_good_after_doubt_still_waits_for_the_first_answer() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(12)
    desk.answer(MISSING(desk.ids[1]))
    assert order.kind is None
    desk.wait(5)
    desk.answer(canceled(desk.ids[0]))
    assert desk.only(order).kind == "canceled"


def test_a_refusal_for_good_ends_the_wait_for_another_attempt() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.write()
    desk.wait(12)
    assert order.state is State.RETRYING
    desk.answer(MISSING(desk.ids[0]))
    outcome = desk.only(order)
    assert outcome.kind == "rejected"  # its one attempt was refused, only late
    assert desk.write() == []


def test_a_refusal_of_an_earlier_attempt_stops_the_next_but_not_the_last() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.write()
    desk.wait(12)
    desk.write()
    desk.wait(12)
    assert order.state is State.RETRYING
    desk.answer(MISSING(desk.ids[0]))
    assert desk.write() == []
    desk.answer(canceled(desk.ids[1]))
    assert desk.only(order).kind == "canceled"


def test_an_answer_may_come_while_the_next_attempt_is_about_to_be_signed() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.write()
    desk.wait(12)
    admitted, _ = desk.engine.take(desk.now)
    assert admitted == [order]
    desk.answer(canceled(desk.ids[0]))
    assert desk.only(order).kind == "canceled"
    assert desk.engine.sign(admitted, 1, desk.now, desk.wall) == ([], [])


@pytest.mark.parametrize("refused", [SIGNATURE, UNAUTHORIZED])
def test_the_clock_is_told_with_a_wrong_signature_only_if_it_is_surely_off(refused: Answer) -> None:
    for interval, told in [(OffsetInterval(4000, 5200), True), (OffsetInterval(-300, 900), False)]:
        desk = Desk(policy=ONCE)
        desk.engine.clock.interval = interval
        order, other = desk.submit(), desk.submit("other")
        desk.answer(refused(desk.ids[0]))
        desk.answer(MISSING(desk.ids[1]))
        outcome, plain = desk.only(order), desk.only(other)
        assert isinstance(outcome, Rejected)
        assert isinstance(plain, Rejected)
        assert outcome.clock == (interval if told else None)
        assert plain.clock is None


# What answers nothing


def test_a_second_answer_is_counted_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(canceled(desk.ids[0]))
    with caplog.at_level(logging.WARNING, "trio_cancel"):
        desk.answer(canceled(desk.ids[0]))
    assert order.kind == "canceled"
    counters = desk.engine.statistics()
    assert (counters.duplicates, counters.contradictions, counters.answered) == (1, 0, 1)
    assert "second answer" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("first", "second", "contradicts"),
    [
        (CANCELED, NOT_FOUND, True),
        (NOT_FOUND, CANCELED, True),
        (CLOSED, NOT_FOUND, True),
        (MISSING, CANCELED, True),
        (CANCELED, CLOSED, False),  # it is closed now, by us
        (CANCELED, BROKEN, False),
        (NOT_FOUND, NOT_FOUND, False),
        (lambda rid: canceled(rid, status="open"), CANCELED, False),  # unknown contradicts nothing
    ],
)
def test_a_contradicting_answer_is_an_error_in_the_log(
    first: Answer, second: Answer, contradicts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(first(desk.ids[0]))
    kind = order.kind
    with caplog.at_level(logging.ERROR, "trio_cancel"):
        desk.answer(second(desk.ids[0]))
    assert order.kind == kind
    assert desk.engine.statistics().contradictions == contradicts
    assert any(record.levelno >= logging.ERROR for record in caplog.records) is contradicts


def test_a_second_answer_to_an_attempt_while_the_order_waits_is_a_duplicate() -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(BROKEN(desk.ids[0]))
    desk.answer(BROKEN(desk.ids[0]))
    assert order.kind is None
    assert desk.engine.statistics().duplicates == 1


def test_an_answer_after_the_end_is_late_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(policy=ONCE)
    order = desk.submit()
    desk.wait(12)
    assert order.kind == "unknown"
    desk.answer(canceled(desk.ids[0]))
    counters = desk.engine.statistics()
    assert (counters.late, counters.duplicates, counters.contradictions) == (1, 0, 0)
    desk.answer(canceled(desk.ids[0]))
    counters = desk.engine.statistics()
    assert (counters.late, counters.duplicates) == (1, 1)
    assert order.kind == "unknown"


def test_a_null_id_is_nobodys() -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(refusal(None, 400, 40408))
    assert order.kind is None
    assert desk.engine.statistics().null_id == 1
    desk.answer(canceled(desk.ids[0]))
    assert order.kind == "canceled"


@pytest.mark.parametrize("text", ["", "{", "7", "[]", '{"id":7,"status":200}', "null", '"r-1"', '{"status":200}'])
def test_what_is_no_answer_is_counted(text: str) -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(text)
    assert order.kind is None
    assert desk.engine.statistics().malformed == 1
    assert not desk.engine._replies.over_budget


def test_a_connection_may_carry_a_hundred_bad_messages_a_minute() -> None:
    desk = Desk()
    engine = desk.engine
    for _ in range(BAD_PER_MINUTE - 1):
        desk.answer("noise")
    engine.count_binary(desk.now)
    assert engine.statistics().binary == 1
    assert not engine._replies.over_budget
    desk.answer("noise")
    budget = [engine._replies.over_budget]
    desk.wait(61)
    desk.answer("noise")
    budget.append(engine._replies.over_budget)
    for _ in range(BAD_PER_MINUTE):
        desk.answer("noise")
    budget.append(engine._replies.over_budget)
    desk.down()
    desk.come_up()  # the next connection has a budget of its own
    budget.append(engine._replies.over_budget)
    assert budget == [True, False, True, False]


def test_late_answers_are_no_noise() -> None:
    desk = Desk(policy=ONCE)
    for index in range(BAD_PER_MINUTE + 50):
        desk.submit(f"o{index}")
        desk.wait(12)
        desk.answer(canceled(desk.ids[-1], f"o{index}"))
    assert desk.engine.statistics().late == BAD_PER_MINUTE + 50
    assert not desk.engine._replies.over_budget


def test_settled_orders_are_remembered_within_bounds() -> None:
    desk = Desk()
    for index in range(3 * LATE_KEPT + 10):
        desk.submit(f"o{index}")
        desk.answer(canceled(desk.ids[-1], f"o{index}"))
    kept = [request_id for request_id in desk.ids if desk.engine._in_flight.settled_as(request_id)]
    assert LATE_KEPT <= len(kept) <= 2 * LATE_KEPT
    assert kept == desk.ids[-len(kept) :]
    desk.answer(canceled(desk.ids[0], "o0"))
    assert desk.engine.statistics().unknown_id == 1
    desk.answer(canceled(desk.ids[-1], f"o{LATE_KEPT + 9}"))
    assert desk.engine.statistics().duplicates == 1


# Callers who leave


def test_a_caller_who_leaves_before_the_write_takes_the_request_along() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.abandon(order)
    assert desk.write() == []
    outcome = desk.only(order)
    assert isinstance(outcome, NotSent)
    assert "left" in str(outcome.cause)


def test_a_caller_who_leaves_between_admission_and_signature_takes_it_along_too() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    admitted, _ = desk.engine.take(desk.now)
    desk.abandon(order)
    assert desk.engine.sign(admitted, 1, desk.now, desk.wall) == ([], [])
    desk.engine.put_back(admitted, desk.now)
    assert desk.only(order).kind == "not_sent"
    assert desk.write() == []


def test_what_was_written_is_tracked_after_its_caller_left() -> None:
    late = []

    class Watch(Observer):
        def settled_late(self, outcome: object) -> None:
            late.append(outcome)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args: None

    desk = Desk(observer=Watch())
    order = desk.submit()
    desk.abandon(order)
    assert order.kind is None
    desk.answer(canceled(desk.ids[0]))
    assert late == [desk.only(order)]
    assert order.kind == "canceled"


@pytest.mark.parametrize("answer", [BROKEN, TOO_MANY])
def test_no_attempt_starts_after_the_caller_has_left(answer: Answer) -> None:
    desk = Desk()
    order = desk.submit()
    desk.abandon(order)
    desk.answer(answer(desk.ids[0]))
    assert desk.only(order).kind == ("unknown" if answer is BROKEN else "rejected")
    desk.wait(100)
    assert len(desk.ids) == 1


def test_no_attempt_starts_after_a_timeout_or_a_loss_either() -> None:
    desk = Desk()
    first, second = desk.submit(), desk.submit("second")
    desk.abandon(first)
    desk.abandon(second)
    desk.wait(20)
    assert len(desk.ids) == 2
    desk.answer(canceled(desk.ids[0]))
    desk.down()
    desk.come_up()
    assert (first.kind, second.kind) == ("canceled", "unknown")
    assert len(desk.ids) == 2


def test_leaving_while_another_attempt_is_due_ends_at_once_or_waits_for_what_can_still_come() -> None:
    desk = Desk(auto=False)
    answered, waiting = desk.submit("answered"), desk.submit("waiting")
    desk.write()
    desk.answer(BROKEN(desk.ids[0]))
    desk.wait(12)
    assert answered.state is waiting.state is State.RETRYING
    desk.abandon(answered)
    desk.abandon(waiting)
    assert answered.kind == "unknown"
    assert waiting.kind is None
    assert desk.write() == []
    desk.answer(canceled(desk.ids[1], "waiting"))
    assert waiting.kind == "canceled"


def test_leaving_after_the_connection_was_lost_ends_at_once() -> None:
    desk = Desk()
    order = desk.submit()
    desk.down()
    desk.abandon(order)
    assert desk.only(order).kind == "unknown"


def test_leaving_after_it_settled_changes_nothing() -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(canceled(desk.ids[0]))
    desk.abandon(order)
    assert desk.only(order).kind == "canceled"


def test_an_unwritten_request_of_a_caller_who_left_is_not_tried_again() -> None:
    desk = Desk()
    order = desk.submit()
    desk.abandon(order)
    desk.engine.not_written(desk.flights, ConnectionLost("broke"), desk.now)
    assert desk.only(order).kind == "not_sent"


def test_an_abandoned_order_gives_its_place_back_and_is_still_matched() -> None:
    desk = Desk()
    leavers = [desk.submit(f"o{index}") for index in range(WINDOW_START)]
    stuck = desk.submit("stuck")
    assert len(desk.ids) == WINDOW_START
    for order in leavers:
        desk.abandon(order)
    desk.wait(12)
    assert desk.written[-1][2] == "stuck"
    assert desk.engine.statistics().pending == WINDOW_START + 1
    desk.answer(canceled(desk.ids[0], "o0"))
    assert leavers[0].kind == "canceled"
    desk.answer(canceled(desk.ids[-1], "stuck"))
    assert stuck.kind == "canceled"


def test_the_abandoned_are_kept_within_bounds() -> None:
    desk = Desk()
    orders: list[Order] = []
    while len(orders) <= LATE_KEPT:
        batch = [desk.submit(f"o{len(orders) + index}") for index in range(8)]
        orders += batch
        for order in batch:
            desk.abandon(order)
        desk.wait(12)
    assert desk.engine.statistics().pending == LATE_KEPT
    assert orders[0].kind == "unknown"
    assert orders[-1].kind is None


# The clock of give_up_after


def test_the_clock_does_not_run_while_the_window_is_full_and_the_venue_lives() -> None:
    desk = Desk()
    for index in range(WINDOW_START):
        desk.abandon(desk.submit(f"full {index}"))
    desk.wait(5)
    order = desk.submit()
    desk.wait(6)
    assert desk.written[-1][2] != "o"
    desk.answer(refusal(desk.ids[0], 404, 40401))  # one place comes back
    assert desk.written[-1][2] == "o"
    desk.wait(29.9)
    assert order.kind is None
    desk.wait(0.1)
    assert order.kind == "unknown"


def test_the_clock_does_not_run_while_the_pacer_holds_the_first_attempt() -> None:
    desk = Desk(pacer=Pacer(1 / 100), policy=RetryPolicy(reply_timeout=30))
    first, second = desk.submit("first"), desk.submit("second")
    desk.wait(29)
    desk.answer(canceled(desk.ids[0], "first"))
    assert (first.kind, second.kind) == ("canceled", None)
    desk.wait(70.9)
    assert len(desk.ids) == 1
    desk.wait(0.1)
    assert desk.times == [0, 100]
    desk.wait(29.9)
    assert second.kind is None
    desk.wait(0.1)
    assert second.kind == "unknown"


def test_the_clock_stands_still_while_the_pacer_holds_the_next_attempt() -> None:
    desk = Desk(pacer=Pacer(1 / 20))
    order = desk.submit()
    desk.wait(1)
    desk.answer(BROKEN(desk.ids[0]))  # 1 s spent, the next may start at 20 s
    desk.engine._silence.alive(desk.now)  # the venue lives: it has answered something else
    desk.wait(20)
    assert desk.times == [0, 20]
    desk.wait(11)
    desk.answer(BROKEN(desk.ids[1]))  # at 32 s; 13 s spent
    desk.engine._silence.alive(desk.now)
    desk.wait(8)
    assert desk.times == [0, 20, 40]
    desk.engine._silence.alive(desk.now)
    desk.wait(20)
    assert desk.times == [0, 20, 40, 60]  # no answer to the third: 25 s spent
    desk.wait(4.5)
    assert order.kind is None
    desk.wait(0.5)
    assert order.kind == "unknown"


def test_an_outage_counts_also_where_a_pacer_would_have_held_the_order_back() -> None:
    desk = Desk(pacer=Pacer(1 / 20))
    order = desk.submit()
    desk.down(ConnectionLost("cut"))
    desk.wait(29)
    desk.come_up()
    assert desk.times == [0, 29]
    desk.wait(1)
    assert order.kind == "unknown"


def test_the_clock_stands_still_under_a_pace_found_out() -> None:
    desk = Desk()
    desk.submit_bulk(*(f"o{index}" for index in range(WINDOW_START)))
    desk.answer(TOO_MANY(desk.ids[0]))
    desk.engine._rate.rate = 0.2  # a slow venue: eight orders take 40 s
    desk.down()
    desk.come_up()
    for _ in range(9):
        desk.wait(5.2)
        *_, (_, request_id, key) = desk.written
        desk.answer(canceled(request_id, key))
    assert desk.engine.statistics().settled == WINDOW_START


def test_an_attempt_about_to_be_signed_is_stopped_by_a_refusal_of_an_earlier_one() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.write()
    desk.wait(12)
    desk.write()
    desk.wait(12)
    admitted, _ = desk.engine.take(desk.now)
    desk.answer(MISSING(desk.ids[0]))
    assert desk.engine.sign(admitted, 1, desk.now, desk.wall) == ([], [])
    desk.answer(canceled(desk.ids[1]))
    assert order.kind == "canceled"


def test_the_clock_runs_in_an_outage_also_for_what_waits_for_its_first_attempt() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.wait(50)  # held back by the window, say
    assert order.kind is None
    desk.down(ConnectionLost("cut"))
    desk.wait(29.9)
    assert order.kind is None
    desk.wait(0.1)
    assert order.kind == "not_sent"


def test_an_outage_that_ends_in_time_is_forgiven() -> None:
    desk = Desk(up=False)
    order = desk.submit()
    desk.wait(29)
    desk.come_up()
    desk.answer(canceled(desk.ids[0]))
    assert order.kind == "canceled"


def test_orders_that_come_in_an_outage_have_their_own_time() -> None:
    desk = Desk(up=False)
    early = desk.submit("early")
    desk.wait(20)
    late = desk.submit("late")
    desk.wait(10)
    assert (early.kind, late.kind) == ("not_sent", None)
    desk.wait(20)
    assert late.kind == "not_sent"


def test_time_is_checked_again_when_signing() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.write()
    desk.wait(12)
    admitted, _ = desk.engine.take(desk.now)
    desk.now = 31.0  # the write was held up
    assert desk.engine.sign(admitted, 1, desk.now, desk.wall) == ([], [])
    assert not order.delivered  # the answer to the first may lie in the socket: the timer judges, after reading
    desk.wait(0)
    assert desk.only(order).kind == "unknown"


def test_the_answer_at_hand_settles_an_order_whose_time_is_over() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    desk.write()
    desk.wait(12)
    admitted, _ = desk.engine.take(desk.now)
    desk.now = 31.0  # the loop was blocked
    assert desk.engine.sign(admitted, 1, desk.now, desk.wall) == ([], [])
    desk.answer(canceled(desk.ids[0]))
    assert desk.only(order).kind == "canceled"


def test_an_attempt_shortly_before_the_end_waits_no_longer_than_the_rest() -> None:
    desk = Desk(policy=RetryPolicy(reply_timeout=12, give_up_after=13))
    order = desk.submit()
    desk.wait(12)
    assert len(desk.ids) == 2
    desk.wait(1)
    assert order.kind == "unknown"


def test_a_short_patience_ends_before_the_reply_timeout() -> None:
    desk = Desk(policy=RetryPolicy(reply_timeout=12, give_up_after=2))
    order = desk.submit()
    desk.wait(2)
    assert order.kind == "unknown"


def test_a_bulk_cancel_waits_through_an_outage_as_long_as_a_single_one() -> None:
    desk = Desk(up=False)
    source, _ = desk.submit_bulk("a", "b")
    desk.wait(29.9)
    before = source.refused
    desk.wait(0.1)
    assert before is None
    assert isinstance(source.refused, NotWritten)
    desk.come_up()
    assert desk.written == []


# Window, order and pace


def test_the_window_starts_small_and_grows_with_each_answer() -> None:
    desk = Desk()
    desk.submit_bulk(*(f"o{index}" for index in range(1000)))
    assert len(desk.ids) == WINDOW_START
    for index in range(3):
        desk.answer(canceled(desk.ids[index], f"o{index}"))
    assert len(desk.ids) == WINDOW_START + 6  # a place each, and one more each
    for index in range(3, 700):
        desk.answer(canceled(desk.ids[index], f"o{index}"))
    assert desk.window == WINDOW_MOST
    assert desk.engine.statistics().pending == WINDOW_MOST
    desk.down()
    desk.come_up()
    assert desk.window == WINDOW_START


def test_beside_single_cancels_a_bulk_has_a_short_queue_and_goes_on() -> None:
    desk = Desk()
    desk.window = WINDOW_MOST
    desk.submit_bulk(*(f"o{index}" for index in range(1000)))
    assert len(desk.ids) == WINDOW_MOST
    desk.wait(0.001)
    desk.answer(canceled(desk.ids[0], "o0"))  # the soonest
    assert desk.engine.statistics().pending == WINDOW_MOST
    desk.wait(0.009)
    single = desk.submit("single")
    assert desk.written[-1][2] == single.request.key  # at once, though the window is full
    for index in range(1, 1000):
        assert len(desk.ids) > index
        desk.answer(canceled(desk.ids[index], desk.written[index][2]))
    assert single.kind == "canceled"
    assert len(desk.ids) == 1000 + 1
    assert desk.engine.statistics().pending == 1


def test_beside_single_cancels_a_bulk_has_no_more_in_flight_than_its_share() -> None:
    desk = Desk()
    desk.window = WINDOW_MOST
    _, orders = desk.submit_bulk(*(f"o{index}" for index in range(1000)))
    desk.wait(0.001)
    desk.answer(canceled(desk.ids[0], "o0"))
    desk.wait(0.009)
    desk.submit("single")
    for index in range(1, 200):
        desk.answer(canceled(desk.ids[index], desk.written[index][2]))
    assert desk.engine.statistics().pending == BESIDE_LEAST
    desk.wait(BESIDE_FOR)
    desk.answer(canceled(desk.ids[200], desk.written[200][2]))
    assert desk.engine.statistics().pending == WINDOW_MOST  # no single one was made for a while
    assert orders[0].kind == "canceled"


def test_what_is_given_up_leaves_its_place_to_the_next() -> None:
    desk = Desk(policy=RetryPolicy(retry=False, reply_timeout=1))
    desk.submit_bulk(*(f"o{index}" for index in range(3 * WINDOW_START)))
    desk.wait(2)
    assert desk.times == [0.0] * WINDOW_START + [1.0] * WINDOW_START + [2.0] * WINDOW_START


def test_who_leaves_and_has_nothing_to_wait_for_leaves_its_place_to_the_next() -> None:
    desk = Desk()
    orders = [desk.submit(f"o{index}") for index in range(WINDOW_START)]
    desk.submit("next")
    for request_id in list(desk.ids):
        desk.answer(BROKEN(request_id))
    for order in orders:
        desk.abandon(order)
    assert desk.written[-1][2] == "next"


def test_a_single_cancel_overtakes_bulk_ones() -> None:
    desk = Desk(auto=False)
    desk.submit_bulk(*(f"o{index}" for index in range(WINDOW_START)))
    desk.submit("priority")
    desk.write()
    assert desk.written[0][2] == "priority"


def test_a_single_cancel_gets_through_a_window_full_of_bulk_ones() -> None:
    desk = Desk()
    desk.submit_bulk(*(f"o{index}" for index in range(100)))
    assert len(desk.ids) == WINDOW_START
    desk.submit("priority")
    assert desk.written[-1][2] == "priority"


def test_single_cancels_have_a_window_too() -> None:
    desk = Desk()
    for index in range(WINDOW_START + 5):
        desk.submit(f"o{index}")
    assert len(desk.ids) == WINDOW_START


def test_a_single_cancels_next_attempt_overtakes_bulk_ones() -> None:
    desk = Desk(auto=False, pacer=Pacer(1))
    _, bulk = desk.submit_bulk("bulk", "bulk 2")
    desk.write()
    desk.now = 1.0
    priority = desk.submit("priority")
    desk.write()
    desk.answer(BROKEN(desk.ids[0]))
    desk.answer(BROKEN(desk.ids[1]))
    assert bulk[0].state is priority.state is State.RETRYING
    for second in (2.0, 3.0, 4.0):
        desk.now = second
        desk.write()
    assert [key for _, _, key in desk.written] == ["bulk", "priority", "priority", "bulk", "bulk 2"]


def test_bulk_cancels_share_the_window() -> None:
    desk = Desk(auto=False)
    desk.submit_bulk(*(f"a{index}" for index in range(20)))
    desk.submit_bulk(*(f"b{index}" for index in range(20)))
    desk.submit_bulk("c0")
    desk.write()
    written = [key[0] for _, _, key in desk.written]
    assert {name: written.count(name) for name in "abc"} == {"a": 3, "b": 3, "c": 1}
    desk.write()
    assert len(desk.written) == WINDOW_START


def test_the_pacer_says_when_to_ask_again() -> None:
    desk = Desk(auto=False, pacer=Pacer(2, burst=2))
    desk.submit_bulk("a", "b", "c")
    admitted, ask_at = desk.engine.take(0.0)
    assert len(admitted) == 2
    assert ask_at == pytest.approx(0.5)
    admitted, ask_at = desk.engine.take(0.5)
    assert len(admitted) == 1


def test_nothing_to_do_means_nothing_to_ask() -> None:
    desk = Desk(auto=False)
    admitted, ask_at = desk.engine.take(0.0)
    assert admitted == []
    assert ask_at == float("inf")


def test_the_next_attempt_says_when_to_ask_again() -> None:
    desk = Desk(auto=False)
    desk.submit()
    desk.write()
    desk.answer(BROKEN(desk.ids[0]))
    admitted, ask_at = desk.engine.take(desk.now)
    assert admitted == []
    assert 0.125 <= ask_at <= 0.25


def test_what_was_admitted_and_not_signed_comes_back() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    admitted, _ = desk.engine.take(0.0)
    desk.engine.put_back(admitted, 0.0)
    assert len(desk.write()) == 1
    desk.answer(canceled(desk.ids[0]))
    assert order.kind == "canceled"


def test_the_correction_of_the_clock_goes_into_the_timestamp() -> None:
    desk = Desk()
    desk.engine.clock.correction = -2.5
    timestamps: list[int] = []

    def sign(orders: Iterable[tuple[str, CancelRequest]], timestamp: int) -> list[bytes]:
        timestamps.append(timestamp)
        return [b"" for _ in orders]

    desk.engine._sign = sign
    desk.submit()
    assert timestamps == [(WALL - 2.5) * 1000]


# The end of everything


def test_stopping_settles_all_at_once_with_the_cause() -> None:
    desk = Desk()
    in_flight = [desk.submit(f"o{index}") for index in range(WINDOW_START)]
    waiting = desk.submit("waiting")
    left = in_flight[0]
    desk.abandon(left)
    desk.wait(12)  # it is let go
    source, _ = desk.submit_bulk("bulk")
    cause = SessionClosed("over")
    desk.engine.stop(cause)
    for order in in_flight:
        outcome = desk.only(order)
        assert isinstance(outcome, Unknown)
        assert outcome.cause is cause
    assert waiting.kind == "unknown"
    assert desk.engine.statistics().pending == len(desk.engine.unanswered()) == 0
    assert len(source.orders) == 1
    assert source.refused is cause
    late = Order(CancelRequest("late"), desk.policy)
    desk.engine.submit(late, desk.now)
    assert isinstance(late.outcome, NotSent)
    assert late.outcome.cause is cause
    refused = Bulk([])
    desk.engine.submit_source(refused, desk.now)
    assert refused.refused is cause


def test_stopping_leaves_nothing_unwritten_to_be_written() -> None:
    desk = Desk(auto=False)
    queued = desk.submit("queued")
    admitted_order = desk.submit("admitted")
    source, _ = desk.submit_bulk("bulk")
    admitted, _ = desk.engine.take(0.0)
    assert set(admitted) >= {queued, admitted_order}
    desk.engine.stop(SessionClosed("over"))
    assert desk.engine.sign(admitted, 1, 0.0, desk.wall) == ([], [])
    assert queued.kind == admitted_order.kind == "not_sent"
    assert isinstance(source.refused, SessionClosed)


def test_what_was_under_way_when_all_was_stopped_does_not_come_back() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    flights = desk.write()
    desk.engine.stop(SessionClosed("over"))
    desk.engine.not_written(flights, ConnectionLost("broke"), 0.0)
    desk.engine.connection_down(1, None, 0.0)
    assert desk.only(order).kind == "unknown"


def test_a_settled_order_cannot_settle_again() -> None:
    desk = Desk()
    order = desk.submit()
    desk.answer(canceled(desk.ids[0]))
    with pytest.raises(AssertionError, match="once"):
        assert isinstance(order.outcome, Canceled)
        desk.engine._in_flight.settle(order, Canceled(order.request, order=order.outcome.order))


def test_everything_is_counted() -> None:
    desk = Desk()
    desk.submit("a")
    desk.submit("b")
    desk.answer(canceled(desk.ids[0], "a"))
    counters = desk.engine.statistics()
    assert (counters.queued, counters.written, counters.answered, counters.settled) == (2, 2, 1, 1)
    assert desk.engine.statistics().pending == len(desk.engine.unanswered()) == 1


def test_the_result_of_a_partly_filled_order_is_exact() -> None:
    desk = Desk()
    order = desk.submit()
    text = canceled(desk.ids[0]).replace('"executed_amount": 0', '"executed_amount": 0.12345678901234567890')
    desk.answer(text)
    outcome = desk.only(order)
    assert isinstance(outcome, Canceled)
    assert str(outcome.order.executed_amount) == "0.12345678901234567890"
    assert result("o")["status"] == outcome.order.status


# What has settled is delivered


class Nobody:
    """A scope that does not care."""

    def off_book(self, request: CancelRequest, outcome: Outcome) -> None:
        pass


def test_an_answer_without_an_order_id_settles_while_scopes_hold_orders() -> None:
    desk = Desk()
    desk.engine.holds.hold(CancelRequest("another"), Nobody())
    order = desk.submit(external_id="mine")
    desk.answer(canceled(desk.ids[-1], "", external_id="mine"))
    assert order.kind == "canceled"


def test_what_has_settled_is_delivered_whatever_fails_beside_it() -> None:
    class FullLog:
        def retried(self, pending: OrderCancel) -> None:
            raise AssertionError

        def settled(self, pending: OrderCancel) -> None:
            raise OSError("no space left")

    desk = Desk()
    desk.engine._in_flight._journal = cast("Any", FullLog())
    order = desk.submit()
    with pytest.raises(OSError, match="no space left"):
        desk.answer(canceled(desk.ids[-1]))
    assert order.kind == "canceled"
    assert desk.engine.statistics().pending == 0


def test_cancels_that_ended_in_an_outage_are_forgotten() -> None:
    desk = Desk()
    desk.down()
    for index in range(100):
        desk.abandon(desk.submit(f"left{index}"))
    desk.submit("given up")
    desk.wait(31)
    assert len(desk.engine._queue.priority) <= 1
    waiting = desk.submit("waiting")
    assert desk.engine._queue.heads() == [waiting]
    assert list(desk.engine._queue.priority) == [waiting]


def test_what_comes_over_the_budget_in_one_piece_is_not_logged_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    order = desk.submit()
    texts = ["" for _ in range(10_000)]
    with caplog.at_level(logging.WARNING):
        desk.engine.read([*texts, canceled(desk.ids[-1])], 1, desk.now, desk.wall)
    assert desk.engine._replies.over_budget
    assert len(caplog.records) <= BAD_PER_MINUTE + 1
    assert desk.engine.statistics().malformed == 10_000  # and yet all are counted
    assert order.kind == "canceled"  # what is an answer is read all the same


def test_late_answers_to_a_window_full_of_orders_are_known_however_late() -> None:
    desk = Desk()
    desk.window = WINDOW_MOST
    orders = [desk.submit(f"o{index}") for index in range(210)]
    desk.wait(31)
    assert {order.kind for order in orders} == {"unknown"}
    late = list(desk.written)
    assert len(late) == 3 * 210
    for count, (_, request_id, key) in enumerate(late):
        if count % 20 == 0:
            desk.submit(f"fresh {count}")
            desk.answer(canceled(desk.ids[-1], f"fresh {count}"))
        desk.answer(canceled(request_id, key))
    assert desk.engine.statistics().late == len(late)
    assert desk.engine.statistics().unknown_id == 0
    assert not desk.engine._replies.over_budget


def test_what_is_known_is_told_over_the_budget_too(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(policy=ONCE)
    desk.submit()
    desk.answer(refusal(desk.ids[-1], 404, 40401))
    for _ in range(BAD_PER_MINUTE + 1):
        desk.answer("noise")
    assert desk.engine._replies.over_budget
    desk.answer(canceled(desk.ids[-1]))
    assert desk.engine.statistics().contradictions == 1


@pytest.mark.parametrize("order_id", ["", " ", "another"])
def test_an_answer_that_does_not_name_the_order_by_its_id_says_nothing(order_id: str) -> None:
    desk = Desk()
    order = desk.submit("o")
    desk.answer(canceled(desk.ids[-1], order_id, external_id="o"))
    assert order.kind is None  # it is asked again
    named = desk.submit(external_id="mine")
    desk.answer(canceled(desk.ids[-1], order_id, external_id="another's"))
    assert named.kind is None
