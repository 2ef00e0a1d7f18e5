"""What each answer leaves behind besides an outcome: words, counters, log levels, events, and the pace."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest

from tests.tools.desk import WALL, Desk, canceled, refusal, result
from tests.tools.venues import Remembering
from trio_cancel import AlreadyClosed, Canceled, CancelRequest, NotFound, Outcome, Rejected, Unknown
from trio_cancel._engine import replies
from trio_cancel._engine.lookup_progress import LookupProgress
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._engine.rate import PACED_START, WINDOW_START, AdaptiveRate
from trio_cancel._engine.replies import BAD_PER_MINUTE, _contradicts, _learn
from trio_cancel._values.errors import InvalidReply, NoReply, UnlistedRefusal, VenueUnavailable
from trio_cancel.types import Attempt, CanceledOrder, VenueReply

Answer = Callable[[str], str]
ONCE = RetryPolicy(retry=False)


def ended(answer: Answer, *, earlier: Answer | None = None) -> Outcome:
    """The outcome of an order that is answered so, 0.5 s after the write, without another attempt."""
    desk = Desk(policy=RetryPolicy() if earlier else ONCE)
    order = desk.submit()
    if earlier is not None:
        desk.answer(earlier(desk.ids[0]))
        desk.wait(1)
    desk.wait(0.5)
    desk.answer(answer(desk.ids[-1]))
    return desk.only(order)


def says(text: str) -> Answer:
    return lambda rid: text.replace("RID", rid)


@pytest.mark.parametrize(
    ("answer", "kind", "status", "error"),
    [
        (canceled, Canceled, 200, None),
        (lambda rid: refusal(rid, 400, 40408, "Cannot."), AlreadyClosed, 400, VenueReply(400, 40408, "Cannot.")),
        (lambda rid: refusal(rid, 404, 40401, "None."), NotFound, 404, VenueReply(404, 40401, "None.")),
        (lambda rid: refusal(rid, 400, 40010, "Missing."), Rejected, 400, VenueReply(400, 40010, "Missing.")),
        (lambda rid: refusal(rid, 403, 99999, "Who?"), Unknown, 403, VenueReply(403, 99999, "Who?")),
        (lambda rid: refusal(rid, 503, 7, "Later."), Unknown, 503, VenueReply(503, 7, "Later.")),
        (says('{"id":"RID","status":503}'), Unknown, 503, VenueReply(503)),
        (lambda rid: canceled(rid, status="open"), Unknown, 200, None),
        (says('{"id":"RID","status":200}'), Unknown, 200, None),
        (says('{"id":"RID","status":"?"}'), Unknown, None, None),
        (says('{"id":"RID","status":600}'), Unknown, 600, VenueReply(600)),
    ],
)
def test_an_outcome_carries_its_attempt_and_the_venues_error(
    answer: Answer, kind: type[Outcome], status: int | None, error: VenueReply | None
) -> None:
    outcome = ended(answer)
    assert type(outcome) is kind
    assert outcome.attempts == (Attempt(outcome.attempts[0].request_id, WALL, WALL + 0.5, status),)
    assert outcome.error == error
    assert outcome.request == CancelRequest("o")
    assert outcome.after_unanswered is (kind is Unknown)


@pytest.mark.parametrize("answer", [canceled, lambda rid: refusal(rid, 400, 40408), lambda rid: refusal(rid, 404)])
@pytest.mark.parametrize(("first", "may_have_applied"), [(500, True), (429, False)])
def test_what_came_before_is_told_with_it(answer: Answer, first: int, may_have_applied: bool) -> None:
    outcome = ended(answer, earlier=lambda rid: refusal(rid, first))
    assert [attempt.status for attempt in outcome.attempts][:1] == [first]
    assert len(outcome.attempts) == 2
    assert outcome.after_unanswered is may_have_applied


def test_why_nothing_is_known_in_words() -> None:
    outcome = ended(lambda rid: canceled(rid, status="open"))
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, InvalidReply)
    text = "the venue's answer cannot be trusted: status 200 for an order that is 'open', not canceled"
    assert str(outcome.cause) == text
    outcome = ended(lambda rid: refusal(rid, 403, 9, "Who?"))
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, UnlistedRefusal)
    assert str(outcome.cause) == "the venue refused in a way that its contract does not list: 403 9 Who?"
    outcome = ended(lambda rid: refusal(rid, 503, 7, "Later."))
    assert isinstance(outcome, Unknown)
    cause = outcome.cause
    assert isinstance(cause, VenueUnavailable)
    assert (cause.status, cause.error_code, cause.message) == (503, 7, "Later.")


# What it tells the pace


def paced_desk() -> Desk:
    """A desk whose pace has been found out, with two orders under way; the clock says 1."""
    desk = Desk()
    desk.submit("limited")
    desk.submit("o")
    desk.answer(refusal(desk.ids[0], 429))
    assert desk.engine._rate.rate == PACED_START
    desk.wait(0.1)
    return desk


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (canceled, True),
        (lambda rid: refusal(rid, 400, 40408), True),
        (lambda rid: refusal(rid, 404), True),
        (lambda rid: refusal(rid, 400, 40010), True),
        (lambda rid: refusal(rid, 500), True),
        (lambda rid: canceled(rid, status="open"), True),
        (lambda rid: refusal(rid, 429), False),
        (lambda rid: "noise", False),
    ],
)
def test_every_answer_but_a_429_lets_the_pace_grow(answer: Answer, counts: bool) -> None:
    desk = paced_desk()
    window = desk.window
    desk.answer(answer(desk.ids[1]))
    rate = desk.engine._rate.rate
    assert rate is not None
    assert (rate > PACED_START) is counts
    assert (desk.window > window) is counts
    fresh = Desk()
    fresh.submit()
    fresh.answer(answer(fresh.ids[0]))
    assert (fresh.engine.statistics().window == WINDOW_START + 1) is counts


def test_a_429_is_counted_and_the_new_pace_told() -> None:
    watch = Remembering()
    desk = Desk(observer=watch)
    for name in "abc":
        desk.submit(name)
    desk.answer(refusal(desk.ids[0], 429))
    desk.answer(refusal(desk.ids[1], 429))  # of the same burst
    assert desk.engine.statistics().limited == 2
    assert watch.of("paced") == [(PACED_START,)]
    quiet = Desk()
    quiet.submit()
    quiet.answer(refusal(quiet.ids[0], 429))
    assert quiet.engine.statistics().limited == 1


def test_whoever_waits_after_a_429_waits_for_the_pace_while_others_get_through() -> None:
    desk = paced_desk()
    (waiting,) = desk.engine._queue.retrying()
    assert waiting.running_from == 0
    desk.answer(canceled(desk.ids[1]))
    assert waiting.running_from == desk.now == 0.1
    desk.submit("next")


@pytest.mark.parametrize("error", [None, VenueReply(500)])
def test_whoever_waits_for_another_reason_goes_on_ageing(error: VenueReply | None) -> None:
    desk = paced_desk()
    (waiting,) = desk.engine._queue.retrying()
    waiting.error = error
    desk.answer(canceled(desk.ids[1]))
    assert waiting.running_from == 0


def test_answers_are_told_to_the_observer_with_their_time() -> None:
    watch = Remembering()
    desk = Desk(observer=watch)
    order = desk.submit()
    desk.wait(0.5)
    desk.answer(refusal(desk.ids[0], 503))
    desk.wait(1)
    desk.wait(0.25)
    wait = desk.now - desk.times[1]
    desk.answer(f'{{"id":"{desk.ids[1]}","status":"?"}}')
    assert watch.of("request_answered") == [
        (order.request, desk.ids[0], 503, 0.5),
        (order.request, desk.ids[1], None, pytest.approx(wait)),
    ]
    assert desk.engine.statistics().answered == 2


def test_the_next_attempt_waits_longer_each_time_and_only_where_the_venue_is_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    monkeypatch.setattr(desk.engine._replies._jitter, "uniform", lambda low, high: (low + 2 * high) / 3)
    order = desk.submit()
    waits = []
    for _ in range(7):
        desk.answer(refusal(desk.ids[-1], 500))
        waits.append(order.not_before - desk.now)
        desk.wait(waits[-1] + 1e-9)
    share = 2.5 / 3
    assert waits == pytest.approx([share * wait for wait in (0.25, 0.5, 1, 2, 4, 4, 4)])
    assert order.retries == 7
    desk.answer(refusal(desk.ids[-1], 429))
    assert (order.not_before, order.retries, order.state) == (desk.now, 7, State.RETRYING)


# What answers nothing that waits


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in caplog.records]


@pytest.mark.parametrize("text", ["noise", json.dumps({"id": None, "status": 400}), canceled("never-1")])
def test_noise_is_a_warning_until_there_is_too_much_of_it(text: str, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    with caplog.at_level(logging.DEBUG, "trio_cancel"):
        for _ in range(BAD_PER_MINUTE + 3):
            desk.answer(text)
    assert levels(caplog) == [logging.WARNING] * (BAD_PER_MINUTE + 1) + [logging.DEBUG] * 2
    counters = desk.engine.statistics()
    assert sorted((counters.malformed, counters.null_id, counters.unknown_id)) == [0, 0, BAD_PER_MINUTE + 3]
    assert desk.engine._replies.over_budget


@pytest.mark.parametrize(("kind", "counted"), [("late", 0), ("second", 1), ("binary", 1), ("other connection", 1)])
def test_what_counts_towards_the_budget(kind: str, counted: int) -> None:
    desk = Desk(policy=ONCE)
    desk.submit()
    if kind == "late":
        desk.wait(12)
    elif kind == "second":
        desk.answer(canceled(desk.ids[0]))
    if kind == "binary":
        desk.engine.count_binary(desk.now)
    else:
        desk.answer(canceled(desk.ids[0]), connection=2 if kind == "other connection" else None)
    assert desk.engine._replies._bad_count == counted
    counters = desk.engine.statistics()
    by_kind = {
        "late": counters.late,
        "second": counters.duplicates,
        "binary": counters.binary,
        "other connection": counters.unknown_id,
    }
    assert by_kind == {name: int(name == kind) for name in by_kind}


def test_the_budget_is_one_of_each_minute() -> None:
    inbox = Desk().engine._replies

    def count(at: float) -> tuple[int, bool]:
        inbox.count_bad(at)
        return inbox._bad_count, inbox.over_budget

    for _ in range(BAD_PER_MINUTE):
        count(10.0)
    assert count(70.0) == (BAD_PER_MINUTE + 1, True)  # the same minute, just so
    assert count(70.1) == (1, False)
    assert count(130.1) == (2, False)
    inbox.forget_bad()
    assert [count(130.2), count(130.2)] == [(1, False), (2, False)]


EXECUTED: Answer = lambda rid: refusal(rid, 400, 40021, "Order executed completely.")  # noqa: E731 - as a table
ALREADY: Answer = lambda rid: refusal(rid, 400, 40020)  # noqa: E731
CLOSED: Answer = lambda rid: refusal(rid, 400, 40408)  # noqa: E731
NOT_FOUND: Answer = lambda rid: refusal(rid, 404)  # noqa: E731
MISSING: Answer = lambda rid: refusal(rid, 400, 40010)  # noqa: E731
BROKEN: Answer = lambda rid: refusal(rid, 500)  # noqa: E731


@pytest.mark.parametrize(
    ("first", "second", "contradicts"),
    [
        (canceled, canceled, False),
        (canceled, CLOSED, False),
        (canceled, ALREADY, False),
        (canceled, EXECUTED, True),
        (canceled, NOT_FOUND, True),
        (canceled, MISSING, False),
        (CLOSED, canceled, False),
        (CLOSED, EXECUTED, False),
        (CLOSED, NOT_FOUND, True),
        (NOT_FOUND, NOT_FOUND, False),
        (NOT_FOUND, canceled, True),
        (NOT_FOUND, CLOSED, True),
        (NOT_FOUND, EXECUTED, True),
        (MISSING, canceled, True),
        (MISSING, CLOSED, True),
        (MISSING, EXECUTED, True),
        (MISSING, NOT_FOUND, True),
        (BROKEN, canceled, False),
        (BROKEN, NOT_FOUND, False),
        (BROKEN, EXECUTED, False),
    ],
)
def test_which_second_answers_contradict_the_first(
    first: Answer, second: Answer, contradicts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(policy=ONCE)
    desk.submit()
    desk.answer(first(desk.ids[0]))
    with caplog.at_level(logging.WARNING, "trio_cancel"):
        desk.answer(second(desk.ids[0]))
    assert levels(caplog) == [logging.ERROR] * contradicts + [logging.WARNING]
    assert desk.engine.statistics().contradictions == contradicts
    if contradicts:
        named = {EXECUTED: "executed", canceled: "canceled", CLOSED: "already_closed", NOT_FOUND: "not_found"}
        assert f" says {named[second]};" in caplog.text


@pytest.mark.parametrize(
    ("answer", "alive"),
    [(canceled, True), (NOT_FOUND, True), (BROKEN, False), (lambda rid: refusal(rid, 429), False)],
)
def test_which_late_answers_are_a_sign_of_life(answer: Answer, alive: bool) -> None:
    desk = Desk(policy=ONCE)
    desk.submit()
    desk.wait(12)
    desk.answer(f'{{"id":"{desk.ids[0]}","status":"?"}}')
    assert desk.engine._silence.alive_at != desk.now
    assert desk.engine.statistics().late == 1
    desk.submit()
    desk.wait(12)
    desk.answer(answer(desk.ids[1]))
    assert (desk.engine._silence.alive_at == desk.now) is alive
    assert desk.engine.statistics().late == 2


def test_what_results_lack_is_told_once_for_each_field(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()

    def answer(**changes: object) -> str:
        desk.submit()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "trio_cancel"):
            desk.answer(json.dumps({"id": desk.ids[-1], "status": 200, "result": result("o") | changes}))
        return caplog.text

    assert answer() == ""
    text = answer(total_value=None, pair=None)
    assert "total_value and pair" in text
    assert answer(total_value=None) == ""
    text = answer(total_value=None, create_date="yesterday")
    assert "create_date" in text
    assert "total_value" not in text
    assert "yesterday" in text
    desk.submit()
    with caplog.at_level(logging.WARNING, "trio_cancel"):
        caplog.clear()
        desk.answer(json.dumps({"id": desk.ids[-1], "status": 200, "result": {"id": "o", "status": "open"}}))
    assert "lack" not in caplog.text  # what says nothing is not looked at


# What is taken from answers besides


def test_the_pace_is_told_how_long_each_answer_took(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    took: list[tuple[float, int]] = []
    monkeypatch.setattr(AdaptiveRate, "answered", lambda _, seconds, active: took.append((seconds, active)))
    desk.wait(5)
    desk.submit("a")
    desk.submit("b")
    desk.wait(0.25)
    desk.answer(canceled(desk.ids[0], "a"))
    assert took == [(0.25, 2)]


@pytest.mark.parametrize(
    ("claimed", "settled_as", "contradicts"),
    [
        ("canceled", "not_sent", True),
        ("canceled", "rejected", True),
        ("canceled", "not_found", True),
        ("canceled", "already_closed", False),
        ("canceled", "canceled", False),
        ("canceled", "unknown", False),
        ("not_found", "canceled", True),
        (replies.EXECUTED, "canceled", True),
        (replies.EXECUTED, "already_closed", False),
        (None, "canceled", False),
    ],
)
def test_which_claims_contradict_an_outcome(claimed: str | None, settled_as: str, contradicts: bool) -> None:
    assert _contradicts(claimed, settled_as) is contradicts


@pytest.mark.parametrize(
    ("named", "external_id", "by_id", "learned"),
    [
        ("7155", "mm-1", False, "7155"),
        ("7155", "mm-1", True, None),  # asked for by an id that a lookup saw
        ("7155", "another", False, None),
        (None, "mm-1", False, None),
        (" 7155", "mm-1", False, None),
    ],
)
def test_the_venues_id_is_learned_from_an_answer_of_the_same_name(
    named: str | None, external_id: str, by_id: bool, learned: str | None
) -> None:
    desk = Desk()
    order = desk.submit(external_id="mm-1")
    (flight,) = desk.flights
    order.lookup = LookupProgress(Unknown(order.request, cause=NoReply("no answer")), 1.0)
    if by_id:
        order.lookup.by_id[flight.request_id] = CancelRequest("7155")
    _learn(order, flight, CanceledOrder(named, external_id=external_id))
    assert order.learned == (None if learned is None else CancelRequest(learned))
    order.learned = before = CancelRequest("first")
    _learn(order, flight, CanceledOrder(named, external_id=external_id))
    assert order.learned is before


def test_what_results_lack_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    for name in "ab":
        desk.submit(name)
        answer = json.loads(canceled(desk.ids[-1], name))
        del answer["result"]["create_date"]
        desk.answer(json.dumps(answer))
    (line,) = [record.getMessage() for record in caplog.records if "lack" in record.getMessage()]
    assert line == "the venue's results lack create_date, or it cannot be read; it is None, also in those to come"
