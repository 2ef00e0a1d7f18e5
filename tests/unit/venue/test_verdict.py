"""What one answer says: the whole table of answers and their meaning for the order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tools.desk import canceled, refusal, result
from trio_cancel import CancelRequest
from trio_cancel._venue.codec import Reply, decode_reply
from trio_cancel._venue.verdict import LATE_SIGNATURE, Verdict, claim, closed_as, judge

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
        (order_of(id="O"), Verdict.CANCELED),  # a UUID is the same in either case
        (order_of(id=None), Verdict.INVALID),
        (order_of(id=""), Verdict.INVALID),
        (order_of(id=["o"]), Verdict.INVALID),
        (order_of(status="open"), Verdict.INVALID),
        (order_of(status="executed_partially"), Verdict.INVALID),
        (order_of(status="executed_completely"), Verdict.INVALID),
        (order_of(status="pending_creation"), Verdict.INVALID),
        (order_of(status="Canceled"), Verdict.CANCELED),
        (order_of(status="CANCELED"), Verdict.CANCELED),
        (order_of(status="cancelled"), Verdict.CANCELED),
        (order_of(status="Cancelled"), Verdict.CANCELED),
        (order_of(status="canceled_partially"), Verdict.INVALID),
        (order_of(status="not canceled"), Verdict.INVALID),
        (order_of(status=""), Verdict.INVALID),
        (order_of(status=None), Verdict.INVALID),
        (order_of(status=7), Verdict.INVALID),
        (answer(200), Verdict.INVALID),
        (answer(200, 40401), Verdict.INVALID),
        (answer(400, 40408), Verdict.CLOSED),
        (answer(404, 40401), Verdict.NOT_FOUND),
        (answer(400, 40401), Verdict.NOT_FOUND),  # the code counts
        (answer(400, 40408, "no words that matter"), Verdict.CLOSED),
        (answer(409, 40408), Verdict.CLOSED),
        (answer(400, 40020, "Order already canceled."), Verdict.CLOSED),
        (answer(400, 40020), Verdict.CLOSED),
        (answer(400, 40021, "Order executed completely."), Verdict.CLOSED),
        (answer(400, 40021, " order  EXECUTED completely"), Verdict.CLOSED),
        (answer(400, 40021, "The order was already fully executed."), Verdict.CLOSED),
        (answer(400, 40021, "No orders to cancel."), Verdict.UNLISTED),
        (answer(400, 40021, "Order not executed completely."), Verdict.UNLISTED),
        (answer(400, 40021, "Order executed."), Verdict.UNLISTED),
        (answer(400, 40021), Verdict.UNLISTED),
        (answer(404, 40021, "No orders to cancel."), Verdict.NOT_FOUND),
        (answer(404, 40400, "Not found"), Verdict.NOT_FOUND),
        (answer(400, 40400), Verdict.NOT_FOUND),
        (answer(404, 40499), Verdict.NOT_FOUND),
        (answer(404), Verdict.NOT_FOUND),
        (answer(404, 40011), Verdict.NOT_FOUND),
        (answer(404, 40010), Verdict.NOT_FOUND),
        (answer(400, 40010), Verdict.REFUSED),
        (answer(422, 40010), Verdict.REFUSED),
        (answer(400, 40011), Verdict.REFUSED),
        (answer(401, 40011), Verdict.REFUSED),
        (answer(401, 40100, "Invalid token"), Verdict.REFUSED),
        (answer(401), Verdict.REFUSED),
        (answer(401, 1), Verdict.REFUSED),
        (answer(400, 40100), Verdict.UNLISTED),
        (answer(403, 12345), Verdict.UNLISTED),
        (answer(403, None, "Forbidden"), Verdict.UNLISTED),
        (answer(403), Verdict.UNLISTED),
        (answer(418, 1), Verdict.UNLISTED),
        (answer(499, 1), Verdict.UNLISTED),
        (answer(400, 0), Verdict.UNLISTED),
        (answer(400, 42900, "Too many requests"), Verdict.UNLISTED),
        (answer(400, 50000), Verdict.UNLISTED),
        (answer(400), Verdict.UNLISTED),
        (answer(429, 429), Verdict.LIMITED),
        (answer(429, 40011, "Invalid signature"), Verdict.LIMITED),
        (answer(429, 42900, "Too many requests"), Verdict.LIMITED),
        (answer(429), Verdict.LIMITED),
        (answer(429, 1, "Limit Exceeded"), Verdict.REFUSED),
        (answer(429, 1, "daily LIMIT exceeded."), Verdict.REFUSED),
        (answer(429, 40408), Verdict.LIMITED),  # refused before the order was looked at
        (answer(500, 50000), Verdict.UNAVAILABLE),
        (answer(502), Verdict.UNAVAILABLE),
        (answer(599, 40408), Verdict.UNAVAILABLE),
        (answer(408, 40800), Verdict.UNAVAILABLE),
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
    ("external_id", "verdict"),
    [("x", Verdict.CANCELED), ("X", Verdict.INVALID), ("y", Verdict.INVALID), (None, Verdict.INVALID)],
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


@pytest.mark.parametrize("result_text", ['{"id":"o"}', '"canceled"', "[1]", "7", "true"])
@pytest.mark.parametrize("status", [400, 401, 404, 418, 429])
def test_a_refusal_with_a_result_contradicts_itself(status: int, result_text: str) -> None:
    reply = decode_reply(f'{{"id":"r","status":{status},"result":{result_text},"error":{{"error_code":40011}}}}')
    assert isinstance(reply, Reply)
    assert judge(reply, BY_ID, 0.1)[0] is Verdict.INVALID


@pytest.mark.parametrize("result_text", ["null", "{}", "[]", '""', "false", " { } "])
def test_an_empty_result_is_none(result_text: str) -> None:
    reply = decode_reply(f'{{"id":"r","status":429,"result":{result_text}}}')
    assert isinstance(reply, Reply)
    assert judge(reply, BY_ID, 0.1)[0] is Verdict.LIMITED


@pytest.mark.parametrize(
    "error_text",
    ["", ',"error":null', ',"error":{}', ',"error":"Too many requests"', ',"error":[]', ',"error":["x"]', ',"error":7',
     ',"error":{"error_code":null,"message":null}', ',"error":{"error_code":"42900","message":"Too many requests"}',
     ',"error":{"error_code":429}', ',"error":{"message":{"a":1}}', ',"message":"Too many requests"',
     ',"error_code":429,"message":"x","data":null'],
)  # fmt: skip
@pytest.mark.parametrize(
    ("status", "verdict"),
    [(429, Verdict.LIMITED), (401, Verdict.REFUSED), (404, Verdict.NOT_FOUND), (503, Verdict.UNAVAILABLE)],
)  # fmt: skip
def test_a_status_is_read_whatever_the_error_looks_like(status: int, verdict: Verdict, error_text: str) -> None:
    reply = decode_reply(f'{{"id":"r","status":{status},"result":null{error_text}}}')
    assert isinstance(reply, Reply)
    assert judge(reply, BY_ID, 0.1)[0] is verdict


@pytest.mark.parametrize("code", ['"40020"', '" 40020 "', "40020.0", '"40020.0"'])
def test_a_code_may_be_text(code: str) -> None:
    reply = decode_reply(f'{{"id":"r","status":400,"error":{{"error_code":{code},"message":null}}}}')
    assert isinstance(reply, Reply)
    assert judge(reply, BY_ID, 0.1)[0] is Verdict.CLOSED
    assert (reply.error_code, reply.message) == (40020, "")


@pytest.mark.parametrize(
    ("error_text", "verdict"),
    [
        ("null", Verdict.CANCELED),
        ("{}", Verdict.CANCELED),
        ('{"error_code":null,"message":null}', Verdict.CANCELED),
        ('""', Verdict.CANCELED),
        ('{"error_code":40408}', Verdict.INVALID),
        ('{"message":"no"}', Verdict.INVALID),
        ('{"reason":"no"}', Verdict.INVALID),
        ('"no"', Verdict.INVALID),
        ("[1]", Verdict.INVALID),
        ("true", Verdict.INVALID),
    ],
)
def test_a_success_has_no_error_that_says_anything(error_text: str, verdict: Verdict) -> None:
    text = canceled("r", "o")
    assert text.endswith("}")
    reply = decode_reply(f'{text[:-1]},"error":{error_text}}}')
    assert isinstance(reply, Reply)
    assert judge(reply, BY_ID, 0.1)[0] is verdict


@pytest.mark.parametrize(
    ("asked", "named", "verdict"),
    [
        ("7155ed34-9ec4", "7155ED34-9EC4", Verdict.CANCELED),
        ("ÄbC", "ÄBc", Verdict.CANCELED),
        ("ÄbC", "äbc", Verdict.INVALID),
        ("k", "\N{KELVIN SIGN}", Verdict.INVALID),
        ("ss", "ß", Verdict.INVALID),
    ],
)
def test_ids_match_without_regard_to_the_case_of_ascii(asked: str, named: str, verdict: Verdict) -> None:
    assert judge(order_of(id=named), CancelRequest(asked), 0.1)[0] is verdict


def test_how_an_order_was_closed() -> None:
    assert [closed_as(code) for code in (40408, 40020, 40021, None)] == [None, "canceled", "executed", None]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (order_of(), (Verdict.CANCELED, "canceled")),
        (order_of(status="open"), None),
        (answer(400, 40408), (Verdict.CLOSED, None)),
        (answer(400, 40020), (Verdict.CLOSED, "canceled")),
        (answer(400, 40021, "Order executed completely."), (Verdict.CLOSED, "executed")),
        (answer(400, 40021, "No orders to cancel."), None),
        (answer(404), (Verdict.NOT_FOUND, None)),
        (answer(401), None),
        (answer(429), None),
        (answer(500, 40408), None),
        (answer(200), None),
    ],
)
def test_what_an_answer_claims_that_nobody_waits_for(reply: Reply, said: tuple[Verdict, str | None] | None) -> None:
    assert claim(reply) == said


@pytest.mark.parametrize(
    ("age", "verdict"),
    [(0.0, Verdict.REFUSED), (LATE_SIGNATURE, Verdict.REFUSED), (4.001, Verdict.LATE), (60, Verdict.LATE)],
)
def test_a_signature_is_late_rather_than_wrong_after_four_seconds(age: float, verdict: Verdict) -> None:
    assert judge(answer(400, 40011), BY_ID, age)[0] is verdict
    assert judge(answer(401, 40100, "Invalid timestamp"), BY_ID, age)[0] is verdict
    assert judge(answer(401), BY_ID, age)[0] is verdict
    assert judge(answer(401, 40100, "Invalid token"), BY_ID, age)[0] is Verdict.REFUSED
    assert judge(answer(400, 40010), BY_ID, age)[0] is Verdict.REFUSED


def test_a_status_of_an_order_is_not_quoted_at_length() -> None:
    _, why = judge(order_of(status="x" * 10_000), BY_ID, 0.1)
    assert len(why) < 200


def test_an_error_of_any_shape_is_decided() -> None:
    for status in range(-10, 700):
        reply = decode_reply(refusal("r", status, 40408))
        assert isinstance(reply, Reply)
        said, _ = judge(reply, BY_ID, 0.1)
        assert said is not Verdict.CANCELED


@pytest.mark.parametrize(
    ("reply", "request_", "why"),
    [
        (answer(200, 40401), BY_ID, "status 200 together with an error"),
        (answer(200), BY_ID, "status 200 without a result"),
        (order_of(status="open"), BY_ID, "status 200 for an order that is 'open', not canceled"),
        (order_of(status="x" * 41), BY_ID, f"status 200 for an order that is '{'x' * 40}', not canceled"),
        (order_of(id="p"), BY_ID, "it does not name the requested order"),
        (order_of(id=""), BY_ID, "it does not name the requested order"),
        (order_of(id=None), BY_ID, "it does not name the requested order"),
        (order_of(), BY_EXTERNAL_ID, "it does not name the requested external id"),
        (order_of(external_id="X"), BY_EXTERNAL_ID, "it does not name the requested external id"),
        (answer(600), BY_ID, "status 600 is not in the contract"),
        (answer(400, 40408, has_result=True), BY_ID, "status 400 together with a result"),
    ],
)
def test_an_answer_that_says_nothing_says_why(reply: Reply, request_: CancelRequest, why: str) -> None:
    assert judge(reply, request_, 0.1) == (Verdict.INVALID, why)


@pytest.mark.parametrize("status", [408, 500, 599])
def test_what_may_have_been_applied_is_that_whatever_stands_beside_it(status: int) -> None:
    assert judge(answer(status, 40408, has_result=True), BY_ID, 60.0) == (Verdict.UNAVAILABLE, "")


def test_what_says_something_needs_no_reason() -> None:
    for reply in (
        order_of(),
        answer(400, 40408),
        answer(404),
        answer(429),
        answer(429, 1, "Limit Exceeded"),
        answer(401),
        answer(400, 40010),
        answer(403, 1),
    ):
        assert judge(reply, BY_ID, 60.0)[1] == ""
