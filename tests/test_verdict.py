"""What one answer says: the whole table of answers and their meaning for the order."""

from __future__ import annotations

from typing import Any

import pytest
from desk import canceled, refusal, result

from trio_cancel import CancelRequest
from trio_cancel._venue.codec import BadReply, Reply, decode_reply
from trio_cancel._venue.verdict import LATE_SIGNATURE, Verdict, judge, judge_bad

BY_ID = CancelRequest("o")
BY_EXTERNAL_ID = CancelRequest(external_id="x")


def answer(status: int, code: int | None = None, message: str = "", **more: Any) -> Reply:
    return Reply("r", status, None, code, message, code is not None, **more)


def order_of(**changes: Any) -> Reply:
    reply = decode_reply(canceled("r", "o", **changes))
    assert isinstance(reply, Reply)
    return reply


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (order_of(), Verdict.CANCELED),
        (order_of(external_id="any"), Verdict.CANCELED),
        (order_of(id="p"), Verdict.INVALID),
        (order_of(id="O"), Verdict.INVALID),  # values are case-sensitive
        (order_of(status="open"), Verdict.INVALID),
        (order_of(status="executed_partially"), Verdict.INVALID),
        (order_of(status="executed_completely"), Verdict.INVALID),
        (order_of(status="pending_creation"), Verdict.INVALID),
        (order_of(status="Canceled"), Verdict.INVALID),
        (order_of(status=""), Verdict.INVALID),
        (answer(200), Verdict.INVALID),
        (answer(200, 40401), Verdict.INVALID),
        (answer(400, 40408), Verdict.CLOSED),
        (answer(404, 40401), Verdict.NOT_FOUND),
        (answer(400, 40401), Verdict.NOT_FOUND),  # the code counts
        (answer(400, 40010), Verdict.REFUSED),
        (answer(400, 40011), Verdict.REFUSED),
        (answer(401, 40011), Verdict.REFUSED),
        (answer(403, 12345), Verdict.REFUSED),
        (answer(418, 1), Verdict.REFUSED),
        (answer(400, 0), Verdict.REFUSED),
        (answer(429, 42900, "Too many requests"), Verdict.LIMITED),
        (answer(429), Verdict.LIMITED),
        (answer(429, 1, "Limit Exceeded"), Verdict.REFUSED),
        (answer(429, 1, "daily LIMIT exceeded."), Verdict.REFUSED),
        (answer(429, 40408), Verdict.LIMITED),  # refused before the order was looked at
        (answer(500, 50000), Verdict.UNAVAILABLE),
        (answer(502), Verdict.UNAVAILABLE),
        (answer(599, 40408), Verdict.UNAVAILABLE),
        (answer(408, 40800), Verdict.UNAVAILABLE),
        (answer(400), Verdict.INVALID),
        (answer(404), Verdict.INVALID),
        (answer(600, 40408), Verdict.INVALID),
        (answer(0, 40408), Verdict.INVALID),
        (answer(-1), Verdict.INVALID),
        (answer(100, 1), Verdict.INVALID),
        (answer(201), Verdict.INVALID),
        (answer(301, 40401), Verdict.INVALID),
        (answer(399, 40408), Verdict.INVALID),
    ],
)
def test_the_table(reply: Reply, verdict: Verdict) -> None:
    said, why = judge(reply, BY_ID, 0.1)
    assert said is verdict
    assert bool(why) is (verdict is Verdict.INVALID)


@pytest.mark.parametrize(
    ("external_id", "verdict"), [("x", Verdict.CANCELED), ("y", Verdict.INVALID), (None, Verdict.INVALID)]
)
def test_an_order_asked_for_by_external_id_answers_by_it(external_id: str | None, verdict: Verdict) -> None:
    assert judge(order_of(id="anything", external_id=external_id), BY_EXTERNAL_ID, 0.1)[0] is verdict


@pytest.mark.parametrize("status", [200, 400, 404])
def test_a_result_beside_an_error_is_no_answer(status: int) -> None:
    text = '{"id":"r","status":%d,"result":%s,"error":{"error_code":40408,"message":"x"}}'
    import json

    reply = decode_reply(text % (status, json.dumps(result("o"))))
    assert isinstance(reply, Reply)
    assert judge(reply, BY_ID, 0.1)[0] is Verdict.INVALID


@pytest.mark.parametrize(
    ("age", "verdict"),
    [(0.0, Verdict.REFUSED), (LATE_SIGNATURE, Verdict.REFUSED), (4.001, Verdict.LATE), (60, Verdict.LATE)],
)
def test_a_signature_is_late_rather_than_wrong_after_four_seconds(age: float, verdict: Verdict) -> None:
    assert judge(answer(400, 40011), BY_ID, age)[0] is verdict
    assert judge(answer(400, 40010), BY_ID, age)[0] is Verdict.REFUSED


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (None, Verdict.INVALID),
        (200, Verdict.INVALID),
        (400, Verdict.INVALID),
        (404, Verdict.INVALID),
        (429, Verdict.LIMITED),
        (408, Verdict.UNAVAILABLE),
        (500, Verdict.UNAVAILABLE),
        (599, Verdict.UNAVAILABLE),
        (600, Verdict.INVALID),
    ],
)
def test_a_bad_answer_is_read_by_its_status_where_that_is_enough(status: int | None, verdict: Verdict) -> None:
    said, why = judge_bad(BadReply("broken", "r", status))
    assert said is verdict
    assert why == ("broken" if verdict is Verdict.INVALID else "")


def test_a_status_of_an_order_is_not_quoted_at_length() -> None:
    _, why = judge(order_of(status="x" * 10_000), BY_ID, 0.1)
    assert len(why) < 200


def test_an_error_of_any_shape_is_decided() -> None:
    for status in range(-10, 700):
        reply = decode_reply(refusal("r", status, 40408))
        assert isinstance(reply, Reply)
        said, _ = judge(reply, BY_ID, 0.1)
        assert said is not Verdict.CANCELED
