"""Text out and text in: the documented examples byte for byte, the signatures of others, and no silent conversion."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tools.desk import canceled, refusal, result
from trio_cancel import CancelRequest, Credentials
from trio_cancel._venue.codec import BadReply, Reply, Signer, _read_members, _shared_decimal, decode_reply
from trio_cancel.types import CanceledOrder

PAGE_REQUEST = """{
  "id": "req-003",
  "method": "order.cancel",
  "params": {
    "api_token": "your-api-token",
    "timestamp": 1634567890000,
    "signature": "calculated-signature",
    "id": "7155ED34-9EC4-4733-8B32-1E4319CB662F"
  }
}"""
PAGE_SUCCESS = """{
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
PAGE_NOT_FOUND = """{
  "id": "req-003",
  "status": 404,
  "result": null,
  "error": {
    "error_code": 40401,
    "message": "Order not found."
  }
}"""
PAGE_CLOSED = """{
  "id": "req-003",
  "status": 400,
  "result": null,
  "error": {
    "error_code": 40408,
    "message": "Cannot cancel an already canceled or fully executed order."
  }
}"""
PAGE_ID = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
VECTORS = json.loads((Path(__file__).parents[2] / "tools" / "signature_vectors.json").read_text(encoding="utf-8"))


def compact(text: str) -> str:
    """The same document without its layout; keys stay in their order and numbers as they are written."""
    return json.dumps(
        json.loads(text, parse_float=lambda digits: Written(digits)), separators=(",", ":"), ensure_ascii=False
    )


class Written(float):
    """A float that is printed as it was written."""

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __repr__(self) -> str:
        return self.digits


def order_in(text: str | bytes) -> CanceledOrder:
    reply = decode_reply(text)
    assert isinstance(reply, Reply), reply
    assert reply.order is not None
    return reply.order


# Out


def test_the_documented_request_byte_for_byte() -> None:
    signer = Signer(Credentials("your-api-token", "sandbox-secret"))
    [text] = signer.encode([("req-003", CancelRequest(PAGE_ID))], 1634567890000)
    signature = "ZBdPomouS4r1budlwzSY+d2Bg58GO/SPgn+pCFb3064="
    assert text == compact(PAGE_REQUEST).replace("calculated-signature", signature).encode()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["timestamp"]))
def test_signatures_agree_with_those_of_other_implementations(vector: dict[str, Any]) -> None:
    request = CancelRequest(**vector["params"])
    [text] = Signer(Credentials("token", vector["secret"])).encode([("r-1", request)], vector["timestamp"])
    params = json.loads(text)["params"]
    assert params["signature"] == vector["signature"]
    assert params["timestamp"] == vector["timestamp"]
    assert {name: params[name] for name in vector["params"]} == vector["params"]


def test_there_are_enough_vectors() -> None:
    assert len(VECTORS) == 7
    assert any(len(vector["secret"]) > 64 for vector in VECTORS)
    assert any("\u2028" in json.dumps(vector, ensure_ascii=False) for vector in VECTORS)


def js_stringify(text: str) -> str:
    """JavaScript's JSON.stringify of a string, from its specification."""
    short = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(short.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


# What may stand in an id, a token and a secret: their ends are checked, see test_models.
words = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: f"x{text}x")


@given(
    key=words,
    named=st.sampled_from(["id", "external_id"]),
    token=words,
    secret=words,
    timestamp=st.integers(0, 10**15),
)
@example(key='\x00\x1f\x7f\u2028/<é€🚀"\\', named="id", token='"', secret="s", timestamp=0)
def test_every_request_is_what_the_venue_expects(key: str, named: str, token: str, secret: str, timestamp: int) -> None:
    request = CancelRequest(**{named: key})
    [text] = Signer(Credentials(token, secret)).encode([("prefix-17", request)], timestamp)
    params = f"{{{js_stringify(named)}:{js_stringify(key)}}}"
    mac = hmac.new(secret.encode(), f"{timestamp}{params}".encode(), hashlib.sha256)
    signature = base64.b64encode(mac.digest()).decode()
    assert text.decode() == (
        f'{{"id":"prefix-17","method":"order.cancel","params":{{"api_token":{js_stringify(token)},'
        f'"timestamp":{timestamp},"signature":"{signature}",{params[1:]}}}'
    )
    document = json.loads(text)
    assert list(document) == ["id", "method", "params"]
    assert list(document["params"]) == ["api_token", "timestamp", "signature", named]
    assert document["params"][named] == key


def test_a_signer_shows_nothing() -> None:
    signer = Signer(Credentials("token", "s3cr3t"))
    assert repr(signer) == "<Signer>"


def test_a_signer_can_be_used_again() -> None:
    signer = Signer(Credentials("t", "s"))
    first = signer.encode([("r", CancelRequest("a"))], 1)
    second = signer.encode([("s", CancelRequest(external_id="b"))], 1)
    assert signer.encode([("r", CancelRequest("a")), ("s", CancelRequest(external_id="b"))], 1) == first + second
    assert signer.encode([], 1) == []


# In


@pytest.mark.parametrize("text", [PAGE_SUCCESS, compact(PAGE_SUCCESS), PAGE_SUCCESS.encode()])
def test_the_documented_success(text: str | bytes) -> None:
    reply = decode_reply(text)
    assert isinstance(reply, Reply)
    assert (reply.id, reply.status, reply.has_error, reply.error_code) == ("req-003", 200, False, None)
    assert reply.order == CanceledOrder(
        id=PAGE_ID,
        create_date=datetime(2024, 3, 27, 13, 27, 19, 853_000, tzinfo=UTC),
        update_date=datetime(2024, 3, 27, 13, 30, 45, 123_000, tzinfo=UTC),
        executed_amount=Decimal(0),
        remaining_amount=Decimal("0.001"),
        remaining_value=Decimal(100),
        requested_amount=Decimal("0.001"),
        requested_value=Decimal(100),
        total_value=Decimal(100),
        status="canceled",
        type="limit",
        pair="BTC_BRL",
        price=Decimal(100000),
        external_id="my-order-123",
    )
    assert reply.order.side is None
    assert reply.order.average_execution_price is None


def render(order: CanceledOrder, request_id: str) -> str:
    """A reply as the venue writes it, made again from what was read."""

    def date(value: datetime | None) -> str:
        assert value is not None
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"

    def number(value: Decimal | None) -> str:
        return "null" if value is None else f"{value:f}"

    fields = {
        "id": json.dumps(order.id),
        "create_date": json.dumps(date(order.create_date)),
        "update_date": json.dumps(date(order.update_date)),
        "executed_amount": number(order.executed_amount),
        "remaining_amount": number(order.remaining_amount),
        "remaining_value": number(order.remaining_value),
        "requested_amount": number(order.requested_amount),
        "requested_value": number(order.requested_value),
        "total_value": number(order.total_value),
        "status": json.dumps(order.status),
        "type": json.dumps(order.type),
        "price": number(order.price),
        "pair": json.dumps(order.pair),
        "external_id": json.dumps(order.external_id),
    }
    body = ",".join(f'"{name}":{value}' for name, value in fields.items())
    return f'{{"id":{json.dumps(request_id)},"status":200,"result":{{{body}}}}}'


def test_the_documented_success_made_again_byte_for_byte() -> None:
    assert render(order_in(PAGE_SUCCESS), "req-003") == compact(PAGE_SUCCESS)


@pytest.mark.parametrize(
    ("text", "status", "code", "message"),
    [
        (PAGE_NOT_FOUND, 404, 40401, "Order not found."),
        (PAGE_CLOSED, 400, 40408, "Cannot cancel an already canceled or fully executed order."),
    ],
)
def test_the_documented_errors(text: str, status: int, code: int, message: str) -> None:
    for form in (text, compact(text)):
        reply = decode_reply(form)
        assert reply == Reply("req-003", status, None, code, message, True)
    again = {"id": "req-003", "status": status, "result": None, "error": {"error_code": code, "message": message}}
    assert json.dumps(again, separators=(",", ":")) == compact(text)


FIELDS = [
    "id",
    "create_date",
    "update_date",
    "executed_amount",
    "remaining_amount",
    "remaining_value",
    "requested_amount",
    "requested_value",
    "total_value",
    "status",
    "type",
    "price",
    "pair",
    "external_id",
]
AMOUNTS = [name for name in FIELDS if name.endswith(("amount", "value", "price"))]
STRINGS = ["id", "status", "type", "pair", "external_id", "side"]
OPTIONAL = ["price", "external_id", "side", "average_execution_price"]


def with_field(name: str, raw: str) -> str:
    """A reply in which one field of the result is written so."""
    fields = {key: json.dumps(value) for key, value in result("o").items()} | {name: raw}
    body = ",".join(f'"{key}":{value}' for key, value in fields.items())
    return f'{{"id":"r","status":200,"result":{{{body}}}}}'


@pytest.mark.parametrize("name", [*AMOUNTS, "average_execution_price"])
@pytest.mark.parametrize(
    "raw",
    [
        "0.12345678901234567890",
        "12345678901234567890.12345678901234567890",
        "0",
        "-0.0",
        "1e-30",
        "1E+30",
        "100",
        "18446744073709551616",
        "123456789012345678901234567890123456789",
        "0.10",
        "-5",
    ],
)
def test_amounts_are_exact_to_the_last_digit(name: str, raw: str) -> None:
    value = getattr(order_in(with_field(name, raw)), name)
    assert type(value) is Decimal
    assert value.is_finite()
    assert value.as_tuple() == Decimal(raw).as_tuple()


@pytest.mark.parametrize("name", [*AMOUNTS, "average_execution_price"])
@pytest.mark.parametrize(
    "raw", ["0.12345678901234567890", "100", "-5", "1e-30", "1E+30", "0", ".5", "5.", "+1", " 7 ", "0" * 3000 + "1.5"]
)
def test_an_amount_may_be_text(name: str, raw: str) -> None:
    order = order_in(with_field(name, f'"{raw}"'))
    value = getattr(order, name)
    assert value.is_finite()
    assert value.as_tuple() == Decimal(raw.strip()).as_tuple()
    assert order.unreadable == ()


@pytest.mark.parametrize("name", AMOUNTS)
@pytest.mark.parametrize(
    "raw",
    [
        '"NaN"',
        '"sNaN"',
        '"Infinity"',
        '"-inf"',
        "true",
        "false",
        "[]",
        "{}",
        "[1]",
        '""',
        '"1,5"',
        '"1_000"',
        '"1 000"',
        '"0x10"',
        '"\N{ARABIC-INDIC DIGIT ONE}"',
        '"one"',
        "1e9999999999999999999",
        '"1e9999999999999999999"',
    ],
)
def test_what_is_no_number_is_none_and_kept_as_it_came(name: str, raw: str) -> None:
    reply = decode_reply(with_field(name, raw))
    assert isinstance(reply, Reply)
    assert reply.order is not None
    assert getattr(reply.order, name) is None
    assert reply.order.unreadable == ((name, raw),)
    assert reply.lacks == (name,)
    others = [other for other in FIELDS if other != name]
    whole = order_in(with_field(name, "1"))
    assert [getattr(reply.order, other) for other in others] == [getattr(whole, other) for other in others]


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "01", "1.", "0x1", "'1'"])
def test_what_is_no_json_is_no_answer(raw: str) -> None:
    assert isinstance(decode_reply(with_field("price", raw)), BadReply)


def test_only_so_much_is_kept_of_what_cannot_be_read() -> None:
    order = order_in(with_field("price", '"%s"' % ("x" * 100_000)))
    ((name, text),) = order.unreadable
    assert (name, len(text)) == ("price", 200)


@pytest.mark.parametrize("name", FIELDS)
def test_any_field_may_be_null_or_missing(name: str) -> None:
    fields = result("o")
    fields.pop(name, None)
    for text in (with_field(name, "null"), json.dumps({"id": "r", "status": 200, "result": fields})):
        reply = decode_reply(text)
        assert isinstance(reply, Reply)
        assert reply.order is not None
        assert getattr(reply.order, name) == ("" if name == "status" else None)
        assert reply.order.unreadable == ()
        assert reply.lacks == (() if name in (*OPTIONAL, "id", "status") else (name,))


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("raw", ["7", "7.5", "true", "[]", '["a"]', "{}"])
def test_nothing_but_a_string_is_a_string(name: str, raw: str) -> None:
    reply = decode_reply(with_field(name, raw))
    assert isinstance(reply, Reply)
    assert reply.order is not None
    assert getattr(reply.order, name) == ("" if name == "status" else None)
    assert reply.order.unreadable == ((name, raw),)


def test_a_result_that_names_an_order_and_its_status_is_enough() -> None:
    order = order_in('{"id":"r","status":200,"result":{"id":"o","status":"canceled"}}')
    assert (order.id, order.status) == ("o", "canceled")
    assert all(getattr(order, name) is None for name in FIELDS if name not in ("id", "status"))


def test_what_the_venue_sends_elsewhere_is_read_and_what_is_unknown_ignored() -> None:
    text = canceled("r", side="buy", average_execution_price=99.5, fee=1, user_id=7, created_at="?", more={"a": [1]})
    order = order_in(text)
    assert (order.side, order.average_execution_price) == ("buy", Decimal("99.5"))


@pytest.mark.parametrize(
    ("raw", "date"),
    [
        ("2024-03-27T13:27:19.853Z", datetime(2024, 3, 27, 13, 27, 19, 853_000, UTC)),
        ("2024-03-27T13:27:19Z", datetime(2024, 3, 27, 13, 27, 19, 0, UTC)),
        ("2024-03-27T10:27:19.853-03:00", datetime(2024, 3, 27, 13, 27, 19, 853_000, UTC)),
        ("2024-03-27T13:27:19.123456+00:00", datetime(2024, 3, 27, 13, 27, 19, 123_456, UTC)),
        ("2024-03-27T13:27:19.853", datetime(2024, 3, 27, 13, 27, 19, 853_000, UTC)),
        ("2024-03-27 13:27:19", datetime(2024, 3, 27, 13, 27, 19, 0, UTC)),
    ],
)
def test_dates_are_aware_and_in_utc(raw: str, date: datetime) -> None:
    for name in ("create_date", "update_date"):
        value = getattr(order_in(with_field(name, json.dumps(raw))), name)
        assert value == date
        assert value.utcoffset() == timedelta(0)
        assert value.tzinfo is UTC


@pytest.mark.parametrize(
    "raw",
    ['"2024-03-27"', "1711546039", "1711546039.5", '"1711546039"', '"yesterday"', "true",
     '"0001-01-01T00:00:00+10:00"', '"2024-13-27T13:27:19Z"'],
)  # fmt: skip
def test_nothing_else_is_a_date(raw: str) -> None:
    reply = decode_reply(with_field("create_date", raw))
    assert isinstance(reply, Reply)
    assert reply.order is not None
    assert reply.order.create_date is None
    assert reply.order.unreadable == (("create_date", raw),)
    assert reply.order.update_date is not None


@pytest.mark.parametrize(
    ("text", "request_id", "status"),
    [
        ('{"id":"r"}', "r", None),
        ('{"id":"r","status":"200"}', "r", None),
        ('{"id":"r","status":null}', "r", None),
        ('{"id":"r","status":true}', "r", None),
        ('{"id":"r","status":200.5}', "r", None),
        ('{"id":7,"status":200}', None, 200),
        ('{"id":7.5,"status":200}', None, 200),
        ('{"id":["r"],"status":200}', None, 200),
        ('{"status":200}', None, 200),
        ("[]", None, None),
        ("null", None, None),
        ('"r"', None, None),
        ("", None, None),
        ("{", None, None),
        ('{"id":"r","status":200}}', None, None),
        ("[" * 100_000, None, None),
        ('{"id":"r","status":200,"result":' + "[" * 400_000 + "]" * 400_000 + "}", None, None),
        ('{"id":"\\ud800","status":200}', None, 200),
    ],
)
def test_what_breaks_the_contract_keeps_what_could_be_read(
    text: str, request_id: str | None, status: int | None
) -> None:
    for form in (text, text.encode()):
        reply = decode_reply(form)
        assert isinstance(reply, BadReply)
        if len(text) < 5000:
            assert (reply.id, reply.status) == (request_id, status)
        assert reply.reason
        assert len(reply.reason) < 300


@pytest.mark.parametrize(
    ("rest", "code", "message", "has_error"),
    [
        ('"error":"no"', None, "no", True),
        ('"error":{}', None, "", False),
        ('"error":null', None, "", False),
        ('"error":{"error_code":"40408","message":"x"}', 40408, "x", True),
        ('"error":{"error_code":40408.5,"message":"x"}', None, "x", True),
        ('"error":{"error_code":true,"message":"x"}', None, "x", True),
        ('"error":{"error_code":"404o8","message":"x"}', None, "x", True),
        ('"error":{"error_code":40408,"message":7}', 40408, "7", True),
        ('"error":{"error_code":null,"message":"x"}', None, "x", True),
        ('"error":{"error_code":40408,"message":null}', 40408, "", True),
        ('"error":{"error_code":99999999999}', None, "", True),
        ('"error":[1]', None, "[1]", True),
        ('"message":"x"', None, "x", True),
        ('"message":"x","error":{"error_code":1}', 1, "x", True),
        ('"message":"x","error":{"error_code":1,"message":"y"}', 1, "y", True),
        ('"error_code":2,"message":"x","data":null', 2, "x", True),
        ('"error_code":2,"error":{"error_code":1,"message":"y"}', 1, "y", True),
    ],
)
def test_an_error_of_any_shape_is_read(rest: str, code: int | None, message: str, has_error: bool) -> None:
    reply = decode_reply(f'{{"id":"r","status":400,{rest}}}')
    assert isinstance(reply, Reply)
    assert (reply.id, reply.status, reply.error_code, reply.message) == ("r", 400, code, message)
    if message or code is not None:
        assert reply.has_error is has_error


@pytest.mark.parametrize("raw", ["7", '"canceled"', "[]", "true"])
def test_a_result_that_is_no_object_is_none(raw: str) -> None:
    reply = decode_reply(f'{{"id":"r","status":200,"result":{raw}}}')
    assert isinstance(reply, Reply)
    assert reply.order is None


def test_an_error_without_a_message_is_one() -> None:
    assert decode_reply('{"id":"r","status":400,"error":{"error_code":40408}}') == Reply(
        "r", 400, None, 40408, "", True
    )


HALVES = [r"\ud800", r"x\uDFFF", r"\udc00\ud83d", r"\ud800\ud83d\ude00", r"\\\ud800"]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("place", ["note", "pair", "external_id", "unlisted"])
def test_half_a_character_somewhere_costs_no_answer(place: str, half: str) -> None:
    fields = json.dumps({name: value for name, value in result("o").items() if name != place})[:-1]
    inside = "" if place == "note" else f', "{place}": "{half}"'
    text = f'{{"id": "r", "status": 200, "note": "{half}", "{half}": 1, "result": {fields}{inside}}}}}'
    for form in (text, text.encode()):
        reply = decode_reply(form)
        assert isinstance(reply, Reply)
        assert (reply.id, reply.status, reply.has_error) == ("r", 200, False)
        assert reply.order is not None
        assert (reply.order.id, reply.order.status) == ("o", "canceled")
        if place in ("pair", "external_id"):
            assert getattr(reply.order, place) is None
            assert [name for name, _ in reply.order.unreadable] == [place]


@pytest.mark.parametrize("half", HALVES)
def test_half_a_character_in_the_words_hides_no_code(half: str) -> None:
    reply = decode_reply(f'{{"id":"r","status":400,"error":{{"error_code":40020,"message":"Order {half} was"}}}}')
    assert isinstance(reply, Reply)
    assert (reply.id, reply.status, reply.error_code) == ("r", 400, 40020)
    assert reply.message.startswith("Order ")
    reply.message.encode()


@pytest.mark.parametrize("place", ["id", "status"])
def test_an_id_with_half_a_character_is_nobody_s(place: str) -> None:
    fields = json.dumps({**result("o"), place: "@"}).replace("@", r"\ud800")
    order = order_in(f'{{"id":"r","status":200,"result":{fields}}}')
    assert not getattr(order, place)
    # What is no half is left alone, even if it looks like what stands for one.
    fields = json.dumps({**result("o"), place: "@"}).replace("@", r"\\ud800\ud83d\ude00")
    order = order_in(f'{{"id":"r","status":200,"result":{fields}}}')
    assert getattr(order, place) == "\\ud800\U0001f600"


def test_a_null_id_is_a_well_formed_answer() -> None:
    assert decode_reply(refusal(None, 400, 40010, "x")) == Reply(None, 400, None, 40010, "x", True)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert isinstance(decode_reply(data), Reply | BadReply)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*FIELDS, "error_code", "message"]), inner),
    max_leaves=10,
)  # fmt: skip


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "status", "result", "error"), JSON)))
def test_no_document_makes_it_raise(document: dict[str, Any]) -> None:
    reply = decode_reply(json.dumps(document))
    if isinstance(reply, Reply):
        assert reply.id == document["id"]
        assert reply.status == document["status"]
        assert type(document["status"]) is int
    else:
        assert reply.id is None or reply.id == document["id"]


@given(st.data())
def test_no_field_of_another_type_gets_through(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FIELDS))
    value = data.draw(JSON)
    reply = decode_reply(json.dumps({"id": "r", "status": 200, "result": result("o") | {name: value}}))
    if isinstance(reply, BadReply):  # NaN is no JSON
        return
    assert reply.order is not None
    read = getattr(reply.order, name)
    if name in AMOUNTS:
        assert read is None or (type(read) is Decimal and read.is_finite())
        assert read is None or type(value) in (int, float, str)
    elif name.endswith("date"):
        assert read is None or read.tzinfo is UTC
        assert read is None or type(value) is str
    else:
        assert read == value or (not read and type(value) is not str)
    assert bool(reply.order.unreadable) <= (value is not None)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.decimals(allow_nan=False, allow_infinity=False)
DATE = st.datetimes(
    min_value=datetime(1970, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3)), timezone(timedelta(hours=14))]),
)


@given(
    request_id=TEXT,
    order=st.builds(
        CanceledOrder,
        id=TEXT, create_date=DATE, update_date=DATE, executed_amount=NUMBER, remaining_amount=NUMBER,
        remaining_value=NUMBER, requested_amount=NUMBER, requested_value=NUMBER, total_value=NUMBER, status=TEXT,
        type=TEXT, pair=TEXT, price=st.none() | NUMBER, external_id=st.none() | TEXT, side=st.none() | TEXT,
        average_execution_price=st.none() | NUMBER,
    ),
    ascii_only=st.booleans(),
)  # fmt: skip
def test_every_order_comes_through_whole(request_id: str, order: CanceledOrder, ascii_only: bool) -> None:
    parts = []
    for name in (*FIELDS, "side", "average_execution_price"):
        value = getattr(order, name)
        if isinstance(value, Decimal):
            written = str(value)
        elif isinstance(value, datetime):
            written = json.dumps(value.isoformat())
        else:
            written = json.dumps(value, ensure_ascii=ascii_only)
        parts.append(f'"{name}":{written}')
    text = f'{{"id":{json.dumps(request_id)},"status":200,"result":{{{",".join(parts)}}}}}'
    reply = decode_reply(text.encode())
    assert isinstance(reply, Reply), reply
    assert reply.id == request_id
    assert reply.order == order
    for name in (*AMOUNTS, "average_execution_price"):
        before, after = getattr(order, name), getattr(reply.order, name)
        # An integer has no exponent in JSON, so that only its value can be compared.
        assert before == after
        if before is not None and "." in str(before):
            assert before.as_tuple() == after.as_tuple()


def test_numbers_of_unusual_size_are_exact_and_not_kept() -> None:
    kept = _shared_decimal.cache_info().currsize
    digits = "1." + "7" * 5000
    text = (
        '{"id":"r","status":200,"result":{"id":"x","create_date":"2024-03-27T13:27:19.853Z",'
        '"update_date":"2024-03-27T13:30:45.123Z","executed_amount":0,"remaining_amount":' + digits + ","
        '"remaining_value":9,"requested_amount":0.001,"requested_value":100,"total_value":100,"status":"canceled",'
        '"type":"limit","price":100000,"pair":"BTC_BRL"}}'
    )
    reply = decode_reply(text)
    assert isinstance(reply, Reply)
    assert reply.order is not None
    assert reply.order.remaining_amount == Decimal(digits)
    assert _shared_decimal.cache_info().currsize == kept


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**63, 2**64 - 1, 10**30])
def test_a_number_that_no_status_or_code_can_be_breaks_the_contract(number: int) -> None:
    for text in (
        f'{{"id":"r","status":{number}}}',
        '{"id":"r","status":"200"}',
    ):
        reply = decode_reply(text)
        assert isinstance(reply, BadReply)
        assert reply.id == "r"
        assert reply.status is None
    reply = decode_reply(f'{{"id":"r","status":400,"error":{{"error_code":{number},"message":""}}}}')
    assert isinstance(reply, Reply)
    assert reply.error_code is None


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_a_secret_of_any_length_is_a_key(length: int) -> None:
    secret = "s" * length
    [text] = Signer(Credentials("t", secret)).encode([("r", CancelRequest("a"))], 7)
    mac = hmac.new(secret.encode(), b'7{"id":"a"}', hashlib.sha256)
    assert json.loads(text)["params"]["signature"] == base64.b64encode(mac.digest()).decode()


def test_all_that_a_result_lacks_is_told_in_its_order() -> None:
    lacks = tuple(name for name in FIELDS if name not in (*OPTIONAL, "id", "status"))
    short = '{"id":"r","status":200,"result":{"id":"o","status":"canceled"%s}}'
    for more in ("", ',"side":7'):  # read at once, and member by member
        reply = decode_reply(short % more)
        assert isinstance(reply, Reply)
        assert sorted(set(reply.lacks) - {"side"}) == sorted(lacks)
        assert len(reply.lacks) == len(set(reply.lacks))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"id":"r"}', "it has no readable status (Object missing required field `status`)"),
        ('{"status":200}', "it has no readable id (Object missing required field `id`)"),
        ("[]", "it is not a JSON object (Expected `object`, got `array`)"),
    ],
)
def test_what_cannot_be_read_says_why(text: str, reason: str) -> None:
    reply = decode_reply(text)
    assert isinstance(reply, BadReply)
    assert reply.reason == reason


@pytest.mark.parametrize(("length", "empty"), [(2, True), (63, True), (64, False)])
def test_what_is_empty_is_short(length: int, empty: bool) -> None:
    raw = "{" + " " * (length - 2) + "}"
    reply = decode_reply(f'{{"id":"r","status":400,"result":{raw},"error":{{"error_code":"1"}}}}')
    assert isinstance(reply, Reply)
    assert reply.has_result is not empty


def test_an_error_without_a_code_that_can_be_read_has_the_one_beside_it() -> None:
    reply = decode_reply('{"id":"r","status":400,"error_code":2,"message":"m","error":{"error_code":"404o8"}}')
    assert reply == Reply("r", 400, None, 2, "m", True)


def test_an_error_without_a_code_has_the_one_beside_it() -> None:
    reply = decode_reply('{"id":"r","status":400,"error_code":40010,"message":"m","error":{"message":"n"}}')
    assert isinstance(reply, Reply)
    assert (reply.error_code, reply.message) == (40010, "n")


def test_a_null_id_is_one_also_where_the_rest_is_unusual() -> None:
    assert decode_reply('{"id": null ,"status":400,"error":"no"}') == Reply(None, 400, None, None, "no", True)


def test_what_an_answer_does_not_say_is_not_there() -> None:
    assert decode_reply('{"id":"r","status":200}') == Reply("r", 200)
    assert decode_reply('{"id":"r","status":200,"error":"no"}') == Reply("r", 200, None, None, "no", True)


def test_what_cannot_be_read_is_shown_though_it_is_cut_within_a_character() -> None:
    order = order_in(with_field("price", '"%s"' % ("€" * 1000)))
    assert order.unreadable == (("price", '"' + "€" * 199),)


# A text that the quick way does not take


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "it is unusual"),
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_what_cannot_be_read_says_why_in_a_few_words(error: Exception | None, reason: str) -> None:
    assert _read_members(b"[", error) == BadReply(f"it is not a JSON object ({reason})")
    assert _read_members(b'{"id": 7, "status": 200}', error) == BadReply(f"it has no readable id ({reason})", None, 200)
    assert _read_members(b'{"id": "a"}', error) == BadReply(f"it has no readable status ({reason})", "a")


@pytest.mark.parametrize(("id", "read"), [('"id": "a\ufffd", ', "a\ufffd"), ('"id": null, ', None)])
def test_an_id_may_be_odd_or_null(id: str, read: str | None) -> None:
    reply = _read_members(f'{{{id}"status": 429}}', None)
    assert isinstance(reply, Reply)
    assert (reply.id, reply.status) == (read, 429)


@pytest.mark.parametrize(("status", "unexpected"), [(200, False), (201, True), (400, True)])
def test_a_result_beside_another_status_is_noted(status: int, unexpected: bool) -> None:
    reply = _read_members(json.dumps({"id": "a", "status": status, "result": {"status": "canceled"}}), None)
    assert isinstance(reply, Reply)
    assert reply.has_result is unexpected


@pytest.mark.parametrize("price", [7, "7", 7.0, "7.00"])
def test_an_average_price_may_be_written_as_any_number(price: object) -> None:
    reply = decode_reply(json.dumps({"id": "a", "status": 200, "result": result("o", average_execution_price=price)}))
    assert isinstance(reply, Reply)
    assert reply.order is not None
    assert reply.order.average_execution_price == 7


@pytest.mark.parametrize("price", ["NaN", "Infinity", "seven"])
def test_what_is_no_number_is_no_average_price(price: str) -> None:
    reply = decode_reply(json.dumps({"id": "a", "status": 200, "result": result("o", average_execution_price=price)}))
    assert isinstance(reply, Reply)
    assert reply.order is not None
    assert reply.order.average_execution_price is None


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo"])
def test_a_date_without_a_zone_is_utc_wherever_it_is_read(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        text = json.dumps({"id": "a", "status": 200, "result": result("o", create_date="2024-03-27T13:27:19.853")})
        reply = decode_reply(text)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert isinstance(reply, Reply)
    assert reply.order is not None
    assert reply.order.create_date == datetime(2024, 3, 27, 13, 27, 19, 853000, tzinfo=UTC)
