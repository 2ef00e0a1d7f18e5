"""The sandbox's reading of the contract: documented examples byte for byte, signatures, refusals, limits, garbage."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_cancel._values.models import Credentials
from trio_cancel.sandbox import BookStatus, ConnectionRecord, Fault, Faults, Point, RequestRecord
from trio_cancel.sandbox._exchange import Exchange
from trio_cancel.sandbox._limits import DAY, Limits
from trio_cancel.sandbox._protocol import (
    BAD_SIGNATURE,
    DIALECTS,
    MISSING_PARAMETERS,
    Verifier,
    number,
    quote,
    read_request,
    render_refusal,
    signed_text,
)
from trio_cancel.sandbox._side_door import SideDoor

NOW = 1_634_567_890_000
CREDENTIALS = Credentials("your-api-token", "sandbox-secret")
ORDER_ID = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
GONE = '{"error_code":40408,"message":"Cannot cancel an already canceled or fully executed order."}'

# Made with Node's crypto and with OpenSSL, not with this library.
VECTORS = [
    ("sandbox-secret", NOW, {"id": ORDER_ID}, "ZBdPomouS4r1budlwzSY+d2Bg58GO/SPgn+pCFb3064="),
    ("sandbox-secret", NOW, {"external_id": "my-order-123"}, "VqpPXbFm3yv5DKti5bqhnfbQWMJEw/n3eu1a4B8ACAQ="),
    (
        "sandbox-secret",
        1700000000001,
        {"external_id": "ordem-\xe7-\xe3-\u20ac-\U0001f680"},
        "Zweg1Bp+17Nb+A2Bf1d2ZwyFh2x3pcsiKKXTQza7UDU=",
    ),
    (
        "sandbox-secret",
        1700000000002,
        {"external_id": 'q"uote\\back/slash'},
        "UHQ5oaheEmI0QtrO6OHxlOaQ4y8VpRf24mSdjmsLclQ=",
    ),
    (
        "sandbox-secret",
        1700000000003,
        {"external_id": "line\u2028sep\ttab\x7f"},
        "czWbBLjli78PjkfZJoIrXSC5/+R2PRR5Iprs0uUImt8=",
    ),
    (
        "s\xe9cret-\u043a\u043b\u044e\u0447",
        1700000000004,
        {"external_id": "x"},
        "by+ZJteYXjrQLws+beEtLWhtRCg27qYZNKuuFJS25j8=",
    ),
    ("k" * 100, 1700000000005, {"id": "a"}, "Ta2Uuh0/f1NDCUSeTsLMnRKnc9b7wImxC+f4QoP75vI="),
]


class Venue:
    """An exchange without connections, at a time that stands still."""

    def __init__(self, now: int = NOW, credentials: Credentials = CREDENTIALS, **options: Any) -> None:
        self.now = now
        self.moment = 0.0
        limits = options.pop("limits", Limits())
        self.exchange = Exchange(
            credentials=credentials,
            clock=lambda: self.now,
            rng=random.Random(0),
            limits=limits,
            faults=Faults(),
            **options,
        )
        self.book = self.exchange.book
        self.connection = ConnectionRecord(0, 0.0)

    def ask(self, text: str) -> str:
        received = self.exchange.receive(text, self.connection, self.moment)
        return self.exchange.process(received, self.moment).text


def message(
    params: dict[str, Any] | None = None, *, timestamp: object = NOW, secret: str = "sandbox-secret", **changes: Any
) -> str:
    business = {"id": ORDER_ID} if params is None else params
    signed = f"{timestamp}{json.dumps(business, separators=(',', ':'), ensure_ascii=False)}"
    signature = base64.b64encode(
        hmac.digest(secret.encode(), signed.encode(errors="backslashreplace"), hashlib.sha256)
    ).decode()
    whole = {"api_token": "your-api-token", "timestamp": timestamp, "signature": signature, **business}
    whole |= changes.pop("authentication", {})
    return json.dumps({"id": "req-003", "method": "order.cancel", "params": whole} | changes)


def code(answer: str) -> tuple[int, int | None]:
    document = json.loads(answer)
    assert list(document)[:3] == ["id", "status", "result"]
    error = document.get("error")
    assert (document["result"] is None) == (error is not None)
    return document["status"], error and error["error_code"]


def compact(text: str) -> str:
    return json.dumps(json.loads(text), separators=(",", ":"))


def test_the_documented_success_byte_for_byte() -> None:
    venue = Venue(now=1_711_546_039_853)
    venue.book.create(id=ORDER_ID, external_id="my-order-123", amount="0.001", price="100000")
    venue.now = 1_711_546_245_123
    answer = venue.ask(message(timestamp=venue.now))
    expected = """
        {
          "id": "req-003",
          "status": 200,
          "result": {
            "id": "7155ED34-9EC4-4733-8B32-1E4319CB662F",
            "create_date": "2024-03-27T13:27:19.853Z",
            "update_date": "2024-03-27T13:30:45.123Z",
            "executed_amount": 0,
            "remaining_amount": 0.001,
            "remaining_value": 100,
            "requested_amount": 0.001,
            "requested_value": 100,
            "total_value": 100,
            "status": "canceled",
            "type": "limit",
            "price": 100000,
            "pair": "BTC_BRL",
            "external_id": "my-order-123"
          }
        }"""
    assert answer == compact(expected)
    (record,) = venue.exchange.log
    assert (record.status, record.order_id, record.applied_at) == (200, ORDER_ID, 0.0)


def test_the_documented_errors_byte_for_byte() -> None:
    venue = Venue()
    not_found = '{"id":"req-003","status":404,"result":null,"error":{"error_code":40401,"message":"Order not found."}}'
    assert venue.ask(message()) == not_found
    venue.book.create(id=ORDER_ID)
    venue.book.cancel(ORDER_ID)
    assert venue.ask(message()) == f'{{"id":"req-003","status":400,"result":null,"error":{GONE}}}'
    assert [record.error_code for record in venue.exchange.log.by_order(ORDER_ID)] == [40408]


@pytest.mark.parametrize(("secret", "timestamp", "params", "signature"), VECTORS)
def test_signature_vectors(secret: str, timestamp: int, params: dict[str, str], signature: str) -> None:
    venue = Venue(timestamp, Credentials("your-api-token", secret))
    text = message(params, timestamp=timestamp, authentication={"signature": signature})
    assert code(venue.ask(text)) == (404, 40401)
    wrong = message(params, timestamp=timestamp, authentication={"signature": signature[::-1]})
    assert code(venue.ask(wrong)) == (400, 40011)


@pytest.mark.parametrize(("off", "accepted"), [(-5000, True), (-5001, False), (1000, True), (1001, False), (0, True)])
def test_the_timestamp_window(off: int, accepted: bool) -> None:
    venue = Venue()
    assert code(venue.ask(message(timestamp=NOW + off))) == ((404, 40401) if accepted else (400, 40011))
    venue.exchange.clock_skew = off
    assert code(venue.ask(message(timestamp=NOW + off))) == (404, 40401)


@pytest.mark.parametrize(
    "text",
    [
        message({}),
        message({"id": "a", "external_id": "b"}),
        message({"id": ""}),
        message({"id": 7}),
        message({"external_id": None}),
        message({"ID": "a"}),
        message(authentication={"api_token": None}),
        message(authentication={"timestamp": str(NOW)}),
        message(authentication={"timestamp": True}),
        message(authentication={"timestamp": float(NOW)}),
        message(authentication={"signature": 5}),
        message(method="order.Cancel"),
        message(method=None),
        json.dumps(json.loads(message()) | {"params": []}),
        '{"id":"req-003"}',
    ],
)
def test_what_is_missing_or_too_much(text: str) -> None:
    venue = Venue()
    venue.book.create(id=ORDER_ID)
    answer = venue.ask(text)
    assert answer.startswith('{"id":"req-003",')
    assert code(answer) == (400, 40010)
    assert venue.book.get(ORDER_ID).status is BookStatus.OPEN


@pytest.mark.parametrize(
    "text", ["", "ok", "7", "[]", "null", message(id=7), message(id=""), message(id=None), '{"id":NaN}']
)
def test_what_has_no_id_to_answer_to(text: str) -> None:
    answer = Venue().ask(text)
    assert answer.startswith('{"id":null,')
    assert code(answer) == (400, 40010)


def test_wrong_token_or_secret() -> None:
    venue = Venue()
    assert code(venue.ask(message(authentication={"api_token": "other"}))) == (400, 40011)
    assert code(venue.ask(message(authentication={"api_token": "\ud800"}))) == (400, 40011)
    assert code(venue.ask(message(secret="other"))) == (400, 40011)


def test_all_business_parameters_are_signed_in_the_order_received() -> None:
    venue = Venue()
    more = {"reason": "tilde ~ \xe7", "id": ORDER_ID, "n": 1, "deep": {"a": [True, None]}}
    assert code(venue.ask(message(more))) == (404, 40401)
    turned = json.loads(message(more))
    turned["params"]["reason"] = turned["params"].pop("reason")
    assert code(venue.ask(json.dumps(turned))) == (400, 40011)
    assert signed_text(read_request(message({"external_id": "\ud800"}))).endswith('{"external_id":"\\ud800"}')
    assert signed_text(read_request(message({"id": "a", "x": 1.5}))) == f'{NOW}{{"id":"a","x":1.5}}'


def test_parameters_too_deep_to_be_signed_are_refused() -> None:
    text = message().replace('"params": {', f'"params": {{"deep":{"[" * 900}{"]" * 900},')
    assert code(Venue().ask(text))[0] == 400
    assert code(Venue().ask("[" * 100_000)) == (400, 40010)


def test_partly_executed_and_optional_fields() -> None:
    venue = Venue(full_results=True)
    order = venue.book.create(id=ORDER_ID, side="sell", amount="0.12345678901234567890", price="3")
    venue.book.fill(order.id, amount="0.1")
    document = json.loads(venue.ask(message()), parse_float=Decimal)["result"]
    assert document["executed_amount"] == Decimal("0.1")
    assert document["remaining_amount"] == Decimal("0.0234567890123456789")
    assert document["remaining_value"] == Decimal("0.0703703670370370367")
    assert (document["side"], document["average_execution_price"], document["external_id"]) == ("sell", 3, None)
    assert list(document)[-2:] == ["side", "average_execution_price"]


def test_a_pending_order_is_not_found_and_not_canceled() -> None:
    venue = Venue()
    venue.book.create(id=ORDER_ID, delay=1)
    assert code(venue.ask(message())) == (404, 40401)
    venue.now += 1000
    assert code(venue.ask(message(timestamp=venue.now))) == (200, None)
    assert [(record.status, record.applied_at) for record in venue.exchange.log.by_order(ORDER_ID)] == [
        (404, None),
        (200, 0.0),
    ]


def test_the_token_bucket_and_the_day() -> None:
    venue = Venue(limits=Limits(rate=2, burst=3, daily=6))
    assert [code(venue.ask(message()))[0] for _ in range(5)] == [404, 404, 404, 429, 429]
    venue.moment += 0.5
    assert [code(venue.ask(message()))[0] for _ in range(2)] == [404, 429]
    assert '"message":"Too many requests"' in venue.ask(message())
    venue.moment += 100
    assert [code(venue.ask(message()))[0] for _ in range(3)] == [404, 404, 429]
    assert '"message":"Limit Exceeded"' in venue.ask(message())
    venue.moment += DAY
    assert code(venue.ask(message()))[0] == 404


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": -1}, {"burst": 5}, {"rate": 1, "burst": 0.5}, {"daily": -1}])
def test_limits_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Limits(**wrong)


def test_numbers_have_every_digit_and_no_needless_zero() -> None:
    given_and_written = {"100.000": "100", "1E+5": "100000", "0.10": "0.1", "1E-20": "0.00000000000000000001", "0": "0"}
    assert {text: number(Decimal(text)) for text in given_and_written} == given_and_written


texts = st.text(st.characters(exclude_categories=[]))  # lone surrogates too
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)
fields = {"id": documents, "method": st.just("order.cancel") | documents}
params = st.dictionaries(
    st.sampled_from(["api_token", "timestamp", "signature", "id", "external_id"]) | texts, documents
)
likely = st.fixed_dictionaries(fields, optional={"params": params | documents})


@given(text=texts | documents.map(json.dumps) | likely.map(json.dumps))
@example(text='{"id":"a","method":"order.cancel","params":{"id":"b","n":' + "9" * 5000 + "}}")
def test_whatever_is_asked_is_answered(text: str) -> None:
    venue = Venue()
    answer = venue.ask(text)
    assert answer.encode()
    assert code(answer) in ((400, 40010), (400, 40011))
    door = json.loads(SideDoor(venue.book, venue.exchange.plan).answer(text))
    assert door["status"] in (400, 404)


@given(text=texts)
def test_quoting_is_json(text: str) -> None:
    assert quote(text).encode()
    assert json.loads(quote(text)) == text


def asker(door: SideDoor) -> Callable[..., tuple[int, Any]]:
    def ask(method: str, **params: object) -> tuple[int, Any]:
        answer = json.loads(door.answer(json.dumps({"id": "1", "method": method, "params": params})))
        assert answer["id"] == "1"
        return answer["status"], answer["result"] if answer["status"] == 200 else answer["error"]["message"]

    return ask


def test_faults_are_switched_through_the_side_door() -> None:
    venue = Venue()
    ask = asker(SideDoor(venue.book, venue.exchange.plan))
    first, second = venue.book.create(), venue.book.create()
    assert ask("sandbox.get_faults") == (200, {"chances": {}, "counts": {}})
    assert ask("sandbox.set_faults", faults=["other_order", "upgrade_401"])[0] == 200
    assert ask("sandbox.set_faults", faults=["error_503_before"], order=second.id)[0] == 200
    assert code(venue.ask(message({"id": "nothing"})))[0] == 404  # waits for a request that succeeds
    assert code(venue.ask(message({"id": second.id}, id="2")))[0] == 503  # what is meant for the order comes first
    venue.ask(message({"id": first.id}, id="3"))
    assert venue.exchange.plan.counts == {Fault.OTHER_ORDER: 1, Fault.ERROR_503_BEFORE: 1}
    assert venue.exchange.plan.at(Point.UPGRADE) is Fault.UPGRADE_401
    assert ask("sandbox.set_chances", chances={"error_503_before": 0.75})[0] == 200
    assert ask("sandbox.set_chances", chances={"refuse_429": 0.25})[0] == 200
    assert ask("sandbox.get_faults")[1]["chances"] == {"error_503_before": 0.75, "refuse_429": 0.25}
    assert code(venue.ask(message({"id": second.id}, id="4")))[0] in (503, 429)
    assert ask("sandbox.clear_faults") == (200, None)
    assert ask("sandbox.get_faults")[1]["chances"] == {}
    assert code(venue.ask(message({"id": second.id}, id="5")))[0] == 200


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("sandbox.set_faults", {"faults": ["nonsense"]}),
        ("sandbox.set_faults", {"faults": [["drop_after"]]}),
        ("sandbox.set_faults", {"faults": "drop_after"}),
        ("sandbox.set_faults", {}),
        ("sandbox.set_faults", {"faults": ["upgrade_401"], "order": "A"}),
        ("sandbox.set_faults", {"faults": ["drop_after"], "order": 7}),
        ("sandbox.set_faults", {"faults": ["drop_after"], "order": ""}),
        ("sandbox.set_chances", {"chances": {"drop_after": 2}}),
        ("sandbox.set_chances", {"chances": {"drop_after": -0.1}}),
        ("sandbox.set_chances", {"chances": {"drop_after": 10**400}}),
        ("sandbox.set_chances", {"chances": {"drop_after": None}}),
        ("sandbox.set_chances", {"chances": {"drop_after": 0.6, "drop_before": 0.6}}),
        ("sandbox.set_chances", {"chances": {"nonsense": 0.1}}),
        ("sandbox.set_chances", {"chances": ["drop_after"]}),
        ("sandbox.clear_faults", {"all": True}),
    ],
)
def test_wrong_faults_are_refused_at_the_side_door(method: str, params: dict[str, object]) -> None:
    venue = Venue()
    status, why = asker(SideDoor(venue.book, venue.exchange.plan))(method, **params)
    assert status == 400
    assert why
    assert venue.exchange.plan.at(Point.UPGRADE) is None
    assert dict(venue.exchange.plan.faults.chances) == {}


def test_the_side_door() -> None:
    venue = Venue()
    door = SideDoor(venue.book, venue.exchange.plan)
    ask = asker(door)

    status, created = ask("sandbox.create", id="A", external_id="B", amount="0.1", price=7)
    assert (status, created["requested_amount"], created["price"]) == (200, "0.1", "7")
    assert ask("sandbox.fill", id="A", amount="0.04")[1]["status"] == "executed_partially"
    assert ask("sandbox.get", external_id="B")[1]["executed_amount"] == "0.04"
    assert [order["id"] for order in ask("sandbox.open_orders")[1]] == ["A"]
    assert ask("sandbox.get", id="C") == (404, "Order not found.")
    assert ask("sandbox.create", id="A")[0] == 400
    assert ask("sandbox.create", colour="red")[0] == 400
    assert ask("sandbox.fill", id="A", amount=[])[0] == 400
    assert ask("order.cancel", id="A")[0] == 400
    assert json.loads(door.answer("7"))["id"] is None


def test_the_log_can_be_short() -> None:
    venue = Venue(log_limit=2)
    first = venue.book.create()
    for request_id, order_id in (("1", first.id), ("2", first.id), ("3", "nothing")):
        venue.ask(message({"id": order_id}, id=request_id))
    log = venue.exchange.log
    assert [record.request_id for record in log] == ["2", "3"]
    assert (len(log), log.received, log.applied_count) == (2, 3, 1)
    assert log.by_request_id("1") == []
    assert [record.status for record in log.by_order(first.id)] == [400]
    assert log.applied(first.id) is None
    assert all("your-api-token" not in line for line in log.lines())
    assert "api_token" not in repr(log.requests[0])
    assert attrs.fields_dict(RequestRecord).keys() >= {"request_id", "applied_at", "sent_at"}


@pytest.mark.parametrize(
    ("named", "token_field", "refused"),
    [
        ("api_token", "api_token", False),
        ("apiToken", "apiToken", False),
        ("apiToken", "api_token", True),
        ("api_token", "apiToken", True),
    ],
)
def test_the_token_is_read_under_one_name_and_signed_under_none(named: str, token_field: str, refused: bool) -> None:
    text = f'{{"id":"r","method":"order.cancel","params":{{"{named}":"t","timestamp":1,"signature":"s","id":"o"}}}}'
    request = read_request(text, token_field)
    assert request.refusal is None
    assert request.business == {"id": "o"}
    refusal = Verifier(Credentials("t", "s"), DIALECTS["page"]).refusal(request, 1)
    assert refusal == (MISSING_PARAMETERS if refused else BAD_SIGNATURE)
    refusal = Verifier(Credentials("t", "s"), DIALECTS["openapi"]).refusal(request, 1)
    assert refusal is not None
    assert refusal.message == ("Invalid token" if refused else "Invalid signature")


def test_a_refusal_without_a_code_is_a_bare_message() -> None:
    text = render_refusal("r", DIALECTS["openapi"].too_many)
    assert text == '{"id":"r","status":429,"message":"Too many requests"}'
