"""The parts of the command line that only compute: statuses, lines, figures, words."""

from __future__ import annotations

import inspect
import json
from decimal import Decimal
from itertools import pairwise

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    ConfigurationError,
    Credentials,
    HandshakeFailed,
    NoReply,
    NotFound,
    NotSent,
    NotWritten,
    Outcome,
    Rejected,
    Unknown,
)
from trio_cancel._cli._checks import Result, judge_clock, judge_probe, reason
from trio_cancel._cli._failure import clean, lone, say, shell_words, short
from trio_cancel._cli._figures import histogram, percentile
from trio_cancel._cli._records import json_line, left_lines, plain, text_line, why
from trio_cancel._cli._screen import seconds
from trio_cancel._cli._tally import NAMED_MOST, Status, Tally
from trio_cancel._net import stream as _transport
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._venue.codec import decode_reply
from trio_cancel.types import Attempt, OffsetInterval, VenueReply

ASKED = CancelRequest("7155ED34-9EC4-4733-8B32-1E4319CB662F")
SIGNATURE = VenueReply(400, 40011, "Invalid signature")


def canceled(executed: str = "0", request: CancelRequest = ASKED) -> Canceled:
    text = (
        '{"id":"r","status":200,"result":{"id":"7155ED34-9EC4-4733-8B32-1E4319CB662F",'
        '"create_date":"2024-03-27T13:27:19.853Z","update_date":"2024-03-27T13:30:45.123Z",'
        f'"executed_amount":{executed},"remaining_amount":0.12345678901234567890,"remaining_value":100,'
        '"requested_amount":1E-7,"requested_value":100,"total_value":100,"status":"canceled","type":"limit",'
        '"price":100000,"pair":"BTC_BRL","external_id":"mine"}}'
    )
    reply = decode_reply(text)
    order = getattr(reply, "order", None)
    assert order is not None
    return Canceled(request, (Attempt("r-1", 1700000000.25, 1700000000.5, 200),), order=order)


CLOSED = AlreadyClosed(ASKED, error=VenueReply(400, 40408, "closed"))
MISSING = NotFound(ASKED, error=VenueReply(404, 40401, "Order not found."))
REFUSED = Rejected(ASKED, error=VenueReply(429, None, "Too many requests"))
FORGED = Rejected(ASKED, error=SIGNATURE)
UNSENT = NotSent(ASKED, cause=NotWritten("its turn never came"))
DOUBT = Unknown(ASKED, cause=NoReply("no answer within 12 s"))


@pytest.mark.parametrize(
    ("outcomes", "skipped", "status"),
    [
        ([], 0, Status.OK),
        ([canceled()], 0, Status.OK),
        ([canceled(), CLOSED], 0, Status.OK),
        ([canceled(), CLOSED], 1, Status.LEFT),
        ([canceled(), MISSING], 0, Status.LEFT),
        ([canceled(), REFUSED], 0, Status.LEFT),
        ([canceled(), UNSENT], 0, Status.LEFT),
        ([canceled(), DOUBT], 0, Status.UNKNOWN),
        ([MISSING, DOUBT, FORGED], 2, Status.UNKNOWN),
        ([FORGED, FORGED], 0, Status.USAGE),
        ([FORGED, FORGED], 1, Status.USAGE),
        ([FORGED, REFUSED], 0, Status.LEFT),
        ([FORGED, canceled()], 0, Status.LEFT),
        ([Rejected(ASKED)], 0, Status.LEFT),
    ],
)
def test_the_status_says_the_worst(outcomes: list[Outcome], skipped: int, status: Status) -> None:
    tally = Tally()
    for outcome in outcomes:
        tally.add(outcome)
    assert tally.status(skipped=skipped) is status


def test_an_order_counts_once_however_often_it_is_named() -> None:
    tally = Tally()
    tally.add(canceled("0.5"), 3)
    tally.add(DOUBT, 2)
    assert (tally.total, tally.off_book, tally.left_count, tally.partly_filled) == (2, 1, 1, 1)
    assert tally.sentence() == "2 orders (3 named again): 1 canceled, 1 unknown"
    assert Tally().sentence() == "no orders"


def test_left_orders_are_named_up_to_a_point() -> None:
    tally = Tally()
    assert left_lines(tally) == []
    tally.add(DOUBT)
    assert left_lines(tally) == [
        "1 order may still be on the book:",
        f"  unknown    {ASKED.key}  no answer within 12 s",
    ]
    for _ in range(NAMED_MOST + 5):
        tally.add(MISSING)
    lines = left_lines(tally)
    assert lines[0] == "16 orders may still be on the book:"
    assert lines[-1] == "  and 6 more"
    assert len(lines) == NAMED_MOST + 2


def test_a_cause_of_many_orders_is_told_once() -> None:
    tally = Tally()
    for outcome, name in ((DOUBT, "A"), (MISSING, "B"), (DOUBT, "C"), (MISSING, "D"), (MISSING, "E")):
        tally.add(msgspec.structs.replace(outcome, request=CancelRequest(name)))
    told = [line.split(maxsplit=1)[1].removeprefix("found ").strip() for line in left_lines(tally)[1:]]
    # Where another cause stands between, "as above" would be read as that one.
    assert told == [
        "A  no answer within 12 s",
        "B  404 40401 Order not found.",
        "C  as for A",
        "D  as for B",
        "E  as above",
    ]
    known = [line.split() for line in left_lines(tally, "no answer within 12 s")[1:]]
    assert [known[0], known[2]] == [["unknown", "A"], ["unknown", "C"]]


def test_what_is_left_is_counted_by_orders() -> None:
    tally = Tally()
    tally.add(DOUBT, 3)
    lines = left_lines(tally)
    assert lines[0] == "1 order may still be on the book:"
    assert len(lines) == 2


def test_json_says_everything_exactly() -> None:
    line = json_line(canceled("0.00000001"))
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "id": ASKED.id,
        "external_id": "mine",
        "repeated": False,
        "off_book": True,
        "status": "canceled",
        "closed_as": None,
        "executed_amount": "0.00000001",
        "remaining_amount": "0.12345678901234567890",
        "attempts": [
            {
                "request_id": "r-1",
                "written_at": "2023-11-14T22:13:20.250000+00:00",
                "answered_at": "2023-11-14T22:13:20.500000+00:00",
                "status": 200,
            }
        ],
        "error": None,
        "cause": None,
        "cause_type": None,
        "after_unanswered": False,
        "unrecorded": False,
    }


@pytest.mark.parametrize("outcome", [canceled("0"), DOUBT, Unknown(ASKED)])
def test_what_a_journal_could_not_record_says_so(outcome: Outcome) -> None:
    told = msgspec.structs.replace(outcome, unrecorded=True)
    assert json.loads(json_line(told))["unrecorded"] is True
    assert (
        text_line(told).rstrip()
        == (text_line(outcome) + ("; " if why(outcome) else "") + "not in the journal").rstrip()
    )


@pytest.mark.parametrize(
    ("outcome", "off_book", "error", "cause"),
    [
        (CLOSED, True, {"status": 400, "error_code": 40408, "message": "closed"}, None),
        (MISSING, None, {"status": 404, "error_code": 40401, "message": "Order not found."}, None),
        (REFUSED, False, {"status": 429, "error_code": None, "message": "Too many requests"}, None),
        (UNSENT, False, None, "its turn never came"),
        (DOUBT, None, None, "no answer within 12 s"),
        (Unknown(ASKED), None, None, None),
    ],
)
def test_json_of_each_kind(outcome: Outcome, off_book: bool | None, error: object, cause: str | None) -> None:
    record = json.loads(json_line(outcome))
    assert (record["status"], record["off_book"]) == (outcome.kind, off_book)
    assert (record["error"], record["cause"]) == (error, cause)
    assert (record["id"], record["external_id"], record["executed_amount"]) == (ASKED.id, None, None)


def test_a_time_that_is_missing_is_null() -> None:
    record = json.loads(json_line(Unknown(ASKED, (Attempt("r-1"),))))
    assert record["attempts"] == [{"request_id": "r-1", "written_at": None, "answered_at": None, "status": None}]


def test_a_request_by_external_id_tells_both() -> None:
    record = json.loads(json_line(canceled(request=CancelRequest(external_id="mine"))))
    assert (record["id"], record["external_id"]) == (ASKED.id, "mine")


def test_text_fits_a_terminal() -> None:
    for outcome in (canceled(), CLOSED, MISSING, REFUSED, FORGED, UNSENT, DOUBT):
        assert len(text_line(outcome)) <= 80
    assert "0.1 of 0.0000001 executed" in text_line(canceled("0.1"))
    assert text_line(Rejected(CancelRequest("x"))).rstrip() == "rejected       x"


def test_text_cannot_steer_the_terminal() -> None:
    evil = CancelRequest(external_id="a\x1b[2J\r\nb\u202e")
    outcome = Rejected(evil, error=VenueReply(400, 1, "\x1b]0;x\x07\n[red]"))
    assert text_line(outcome).isprintable()
    assert "\\x1b" in text_line(outcome)
    assert json_line(outcome).count(b"\n") == 1


def test_a_refusal_for_the_clock_says_so_without_keywords() -> None:
    outcome = Rejected(ASKED, error=SIGNATURE, clock=OffsetInterval(6000, 7000))
    cause = json.loads(json_line(outcome))["cause"]
    assert "6000 ms behind" in cause
    assert "clock_offset" not in cause


@given(st.lists(st.floats(0, 1e4, allow_subnormal=False), min_size=1))
def test_a_histogram_counts_every_value_in_its_row(values: list[float]) -> None:
    values.sort()
    rows = histogram(values)
    assert 1 <= len(rows) <= 10
    assert sum(row.count for row in rows) == len(values)
    assert rows[-1].count
    assert all(low.high == pytest.approx(high.low) for low, high in pairwise(rows))
    assert rows[0].low <= values[0] + 1e-9


def test_a_histogram_of_nothing_and_of_one_value() -> None:
    assert histogram([]) == []
    assert [row.count for row in histogram([0.0, 0.0])] == [2]
    assert sum(row.count for row in histogram([3.0])) == 1


def test_the_slowest_does_not_flatten_the_rest() -> None:
    rows = histogram([*(float(n % 8) for n in range(1000)), 5000.0])
    assert rows[-1].high is None
    assert rows[-1].count == 1
    assert len([row for row in rows if row.count]) >= 5


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, percent) for percent in (0, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 50) == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0000004, "0.40 µs"), (0.00001234, "12.3 µs"), (0.001, "1.00 ms"), (0.9999, "1000 ms"), (321.5, "322 s")],
)
def test_durations_have_a_unit_that_fits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_groups_are_looked_into() -> None:
    inner = ValueError("x")
    assert lone(ExceptionGroup("", [ExceptionGroup("", [inner]), OSError()])) is inner
    mixed = BaseExceptionGroup("", [inner, BaseExceptionGroup("", [KeyboardInterrupt()])])
    assert isinstance(lone(mixed), KeyboardInterrupt)


def test_stderr_that_has_gone_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    say("x")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stderr", full)
        say("x")
        monkeypatch.setattr("sys.stderr", None)
        full.flush()  # it holds nothing that would fail again at exit, with a status of its own


def _advice_of_the_library(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("RIPIO_API_TOKEN", raising=False)
    monkeypatch.setenv("RIPIO_API_SECRET", "")
    texts = [OffsetInterval(6000, 7000).advice, "check certificates, or pass ssl_context=."]
    assert texts[1][-22:] in inspect.getsource(_transport)
    with pytest.raises(ConfigurationError) as caught:
        Credentials.from_env()
    texts.append(str(caught.value))
    for url in ("ws://example.org", "wss://me:secret@example.org"):
        with pytest.raises(ConfigurationError) as caught:
            parse_endpoint(url)
        texts.append(str(caught.value))
    return texts


def test_advice_for_the_shell_names_no_keyword(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in _advice_of_the_library(monkeypatch):
        assert "=" in text or "(" in text
        assert "=" not in shell_words(text)
        assert "(" not in shell_words(text)


@pytest.mark.parametrize(("text", "most", "result"), [("abc", 3, "abc"), ("abcd", 3, "ab…")])
def test_long_text_is_cut(text: str, most: int, result: str) -> None:
    assert short(text, most) == result


def test_clean_leaves_words_alone() -> None:
    assert clean("Ação 1") == "Ação 1"
    assert clean("a\tb\nc\x07") == "a b c\\x07"


# The doctor's judgement


@pytest.mark.parametrize(
    ("low", "high", "result"),
    [
        (-400, 600, Result.OK),
        (10, 900, Result.WARNING),
        (-900, -10, Result.WARNING),
        (5001, 6000, Result.FAILED),
        (-3000, -1001, Result.FAILED),
    ],
)
def test_a_clock_is_judged_by_what_is_sure(low: float, high: float, result: Result) -> None:
    check = judge_clock(OffsetInterval(low, high))
    assert check.result is result
    assert check.figures == {"low_ms": low, "high_ms": high}


def test_a_venue_that_does_not_tell_its_time() -> None:
    assert judge_clock(None).result is Result.WARNING


@pytest.mark.parametrize(
    ("outcome", "clock", "result", "words"),
    [
        (MISSING, None, Result.OK, "40401 as expected"),
        (CLOSED, None, Result.OK, "40408"),
        (FORGED, None, Result.FAILED, "and the clock"),
        (FORGED, OffsetInterval(-500, 500), Result.FAILED, "the clocks agree, so check RIPIO_API_TOKEN"),
        (FORGED, OffsetInterval(5500, 6500), Result.FAILED, "5500 ms behind"),
        (REFUSED, None, Result.FAILED, "429"),
        (Rejected(ASKED, error=VenueReply(403, 1, "no")), None, Result.FAILED, "403 1 no"),
        (DOUBT, None, Result.FAILED, "no answer within 12 s"),
        (UNSENT, None, Result.FAILED, "its turn never came"),
        (canceled(), None, Result.FAILED, "cannot exist"),
    ],
)
def test_the_answer_to_the_probe(outcome: Outcome, clock: OffsetInterval | None, result: Result, words: str) -> None:
    check = judge_probe(outcome, clock)
    assert check.result is result
    assert words in check.detail


def test_a_reason_is_found_below_its_wrappers() -> None:
    wrapper = OSError("all attempts failed")
    wrapper.__cause__ = ExceptionGroup("", [OSError(111, "Connection refused"), OSError(1, "x")])
    assert reason(wrapper) == "Connection refused"
    assert reason(trio.BrokenResourceError()) == "BrokenResourceError"
    assert reason(HandshakeFailed("why")) == "why"


def test_amounts_have_no_exponent() -> None:
    assert plain(Decimal("1E-8")) == "0.00000001"
    assert plain(Decimal("1E+3")) == "1000"


def test_credentials_are_not_in_reprs() -> None:
    assert "geheim" not in repr(Credentials("token", "geheim"))
