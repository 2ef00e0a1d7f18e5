"""The REST side's signatures, paths and answers, without a connection."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from trio_cancel import CancelRequest, Credentials, LookupFailed
from trio_cancel._values.order_state import checked
from trio_cancel._venue.rest import (
    order_path,
    read_open_orders,
    read_order,
    read_server_time,
    rest_signature,
    signed_headers,
)
from trio_cancel.lookup import Fill, OrderState, OrderStatus

VECTORS = json.loads((Path(__file__).parents[2] / "tools" / "rest_signature_vectors.json").read_text(encoding="utf-8"))

ORDER: dict[str, Any] = {
    "id": "7155ED34-9EC4-4733-8B32-1E4319CB662F",
    "external_id": "mine",
    "pair": "BTC_BRL",
    "side": "buy",
    "type": "limit",
    "status": "executed_partially",
    "price": 100000,
    "requested_amount": 0.3,
    "executed_amount": 0.12345678901234567890,
    "remaining_amount": 0.2,
    "requested_value": 1,
    "remaining_value": 2,
    "total_value": 3,
    "fee": 0.01,
    "average_execution_price": 99999.5,
    "create_date": "2024-03-27T13:27:19.853Z",
    "update_date": "2024-03-27T10:30:45.123-03:00",
    "transactions": [
        {
            "amount": 0.1,
            "price": 99999.5,
            "fee": 0.0025,
            "fee_currency": "BTC",
            "create_date": "2024-03-27T13:28:00.5",
            "total_value": 9999.95,
        },
        {"amount": 1},
    ],
}


def answer(data: Any, **more: Any) -> bytes:
    return json.dumps({"data": data, "error_code": None, "message": None, **more}).encode()


@pytest.mark.parametrize("vector", VECTORS)
def test_signature_vectors(vector: dict[str, Any]) -> None:
    parts = [vector[name] for name in ("secret", "timestamp", "method", "path", "body")]
    assert rest_signature(*parts) == vector["signature"]


def test_headers_of_a_lookup() -> None:
    vector = VECTORS[0]
    headers = signed_headers(Credentials("token", vector["secret"]), vector["timestamp"], vector["path"])
    assert headers == {
        "Authorization": "token",
        "Timestamp": str(vector["timestamp"]),
        "Signature": vector["signature"],
    }


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (CancelRequest("7155ED34-9EC4"), "/orders/7155ED34-9EC4"),
        (CancelRequest(external_id="my-order_1.2~3"), "/orders/by-external-id/my-order_1.2~3"),
        (CancelRequest(external_id="a b/c?d#e%f+g&h;i"), "/orders/by-external-id/a%20b%2Fc%3Fd%23e%25f%2Bg%26h%3Bi"),
        (CancelRequest(external_id="ordem-é-1"), "/orders/by-external-id/ordem-%C3%A9-1"),
        (CancelRequest("../public"), "/orders/..%2Fpublic"),
    ],
)
def test_paths_are_percent_encoded(request_: CancelRequest, path: str) -> None:
    assert order_path(request_) == path


@pytest.mark.parametrize("key", [".", ".."])
def test_a_step_in_the_path_is_no_order(key: str) -> None:
    with pytest.raises(LookupFailed, match="does not name an order"):
        order_path(CancelRequest(external_id=key))


def test_an_order_is_read_exactly() -> None:
    body = answer(ORDER).replace(b"0.12345678901234568", b"0.12345678901234567890")
    assert read_order(200, body, 5.5) == OrderState(
        status=OrderStatus.PARTIALLY_EXECUTED,
        seen_at=5.5,
        id=ORDER["id"],
        external_id="mine",
        pair="BTC_BRL",
        side="buy",
        type="limit",
        price=Decimal(100000),
        requested_amount=Decimal("0.3"),
        executed_amount=Decimal("0.12345678901234567890"),
        remaining_amount=Decimal("0.2"),
        requested_value=Decimal(1),
        remaining_value=Decimal(2),
        total_value=Decimal(3),
        fee=Decimal("0.01"),
        average_execution_price=Decimal("99999.5"),
        create_date=datetime(2024, 3, 27, 13, 27, 19, 853000, tzinfo=UTC),
        update_date=datetime(2024, 3, 27, 13, 30, 45, 123000, tzinfo=UTC),
        fills=(
            Fill(
                Decimal("0.1"),
                Decimal("99999.5"),
                Decimal("0.0025"),
                "BTC",
                datetime(2024, 3, 27, 13, 28, 0, 500000, tzinfo=UTC),
                Decimal("9999.95"),
            ),
            Fill(Decimal(1)),
        ),
    )


def test_what_the_venue_leaves_out_is_none() -> None:
    state = read_order(200, answer({"id": "A", "status": "canceled"}), 1.0)
    assert state == OrderState(status=OrderStatus.CANCELED, seen_at=1.0, id="A")
    assert state.executed_amount is None
    assert state.fills == ()


@pytest.mark.parametrize(
    ("text", "status", "on_book"),
    [
        ("open", OrderStatus.OPEN, True),
        ("waiting", OrderStatus.OPEN, True),
        ("executed_partially", OrderStatus.PARTIALLY_EXECUTED, True),
        ("executed_completely", OrderStatus.EXECUTED, False),
        ("canceled", OrderStatus.CANCELED, False),
        ("pending_creation", OrderStatus.PENDING_CREATION, None),
        ("other", OrderStatus.OTHER, None),
        ("Canceled", OrderStatus.OTHER, None),
        ("expired", OrderStatus.OTHER, None),
    ],
)
def test_statuses(text: str, status: OrderStatus, on_book: bool | None) -> None:
    state = read_order(200, answer({"id": "A", "status": text}), 1.0)
    assert (state.status, state.raw_status, state.on_book) == (status, text, on_book)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"null"),
        (200, b"[]"),
        (200, b"[" * 100_000),
        (200, b'{"data":1e999999999999999999}'),
        (200, b"\xff\xfe"),
        (200, answer(None)),
        (200, answer([])),
        (200, answer(ORDER, error_code=40401)),
        (200, answer({"id": "A"})),
        (200, answer({"status": "canceled"})),
        (200, answer({"id": "", "status": "canceled"})),
        (200, answer({"id": 7, "status": "canceled"})),
        (200, answer({"id": "A", "status": ["canceled"]})),
        (200, answer(ORDER | {"executed_amount": "0.1"})),
        (200, answer(ORDER | {"executed_amount": True})),
        (200, answer(ORDER | {"update_date": "yesterday"})),
        (200, answer(ORDER | {"update_date": 5})),
        (200, answer(ORDER | {"transactions": {}})),
        (200, answer(ORDER | {"transactions": [7]})),
        (200, answer(ORDER | {"transactions": [{}]})),
        (204, answer(ORDER)),
        (302, answer(ORDER)),
        (404, answer(ORDER)),
    ],
)
def test_whatever_is_wrong_is_a_failed_lookup(status: int, body: bytes) -> None:
    with pytest.raises(LookupFailed):
        read_order(status, body, 1.0)


def test_an_error_keeps_its_status_code_and_words() -> None:
    body = b'{"error_code":40400,"message":"Not found","data":null}'
    with pytest.raises(LookupFailed, match="404 40400 Not found") as caught:
        read_order(404, body, 1.0, 2.5)
    assert (caught.value.status, caught.value.error_code, caught.value.retry_after) == (404, 40400, 2.5)


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b'{"error_code":"x","message":7}', b""])
def test_an_error_page_keeps_its_status(body: bytes) -> None:
    with pytest.raises(LookupFailed, match="502") as caught:
        read_order(502, body, 1.0)
    assert (caught.value.status, caught.value.error_code) == (502, None)


def test_pages_of_open_orders() -> None:
    pages = {"current_page": 1, "total_pages": 2}
    found = read_open_orders(200, answer({"orders": [ORDER], "pagination": pages}), 1.0, 1)
    assert [order.id for order in found.orders] == [ORDER["id"]]
    assert not found.last
    assert read_open_orders(200, answer({"orders": [ORDER], "pagination": pages}), 1.0, 2).last
    assert read_open_orders(200, answer({"orders": []}), 1.0, 1).last
    assert read_open_orders(200, answer([ORDER]), 1.0, 1).orders == found.orders
    assert found.unreadable == 0


@pytest.mark.parametrize(
    "flaw",
    [{"executed_amount": "much"}, {"status": None}, {"create_date": 5}, {"transactions": 7}, {"side": 7}, {"type": 7}],
)
def test_an_order_with_an_odd_field_is_still_listed(flaw: dict[str, Any]) -> None:
    found = read_open_orders(200, answer([ORDER | flaw, 7, ORDER | {"id": ""}, ORDER | {"id": 7}]), 1.0, 1)
    (order,) = found.orders
    assert (order.id, order.external_id, order.pair) == (ORDER["id"], "mine", "BTC_BRL")
    assert found.unreadable == 3
    said = ORDER | flaw
    for name in ("side", "type"):
        assert getattr(order, name) == (said[name] if isinstance(said[name], str) else None)
    assert order.raw_status == (said["status"] or "")


@pytest.mark.parametrize(
    "data", [7, {}, {"orders": {}}, {"orders": [7]}, {"orders": [], "pagination": {"total_pages": "1"}}]
)
def test_a_list_that_cannot_be_read_is_a_failed_lookup(data: Any) -> None:
    with pytest.raises(LookupFailed):
        read_open_orders(200, answer(data), 1.0, 1)


def test_server_time() -> None:
    assert read_server_time(200, answer({"timestamp": 1634567890000})) == 1634567890000
    wrong: tuple[Any, ...] = ({}, {"timestamp": "1"}, {"timestamp": True}, [], {"timestamp": 1.5})
    for data in wrong:
        with pytest.raises(LookupFailed):
            read_server_time(200, answer(data))


# Whose state it is


@pytest.mark.parametrize(
    ("request_", "state", "same"),
    [
        (CancelRequest("7155ed34"), {"id": "7155ED34"}, True),
        (CancelRequest("A"), {"id": "B"}, False),
        (CancelRequest("A"), {}, False),
        (CancelRequest("A"), {"external_id": "A"}, False),
        (CancelRequest(external_id="x"), {"id": "A", "external_id": "x"}, True),
        (CancelRequest(external_id="x"), {"id": "x"}, False),
        (CancelRequest(external_id="x"), {"external_id": "X"}, False),
    ],
)
def test_a_state_must_say_that_it_is_of_the_order(request_: CancelRequest, state: dict[str, str], same: bool) -> None:
    found = OrderState(status=OrderStatus.CANCELED, seen_at=1.0, **state)  # type: ignore[arg-type]  # strings all
    assert found.is_of(request_) is same
    if not same:
        with pytest.raises(LookupFailed, match="another order"):
            checked(found, request_)


def test_only_a_state_is_a_state() -> None:
    with pytest.raises(LookupFailed, match="returned str"):
        checked("canceled", CancelRequest("A"))


def test_a_status_is_converted_and_kept_raw() -> None:
    state = OrderState(status="canceled", seen_at=1.0, fills=[Fill(Decimal(1))])
    assert state.status is OrderStatus.CANCELED
    assert state.raw_status == "canceled"
    assert state.fills == (Fill(Decimal(1)),)
    with pytest.raises(ValueError, match="gone"):
        OrderState(status="gone", seen_at=1.0)


# What a person reads

ORDER_SAYS, LIST_SAYS = "The venue's answer cannot be read: ", "The venue's list of orders cannot be read: "


def lookup_failure(read: Any, *arguments: Any) -> LookupFailed:
    with pytest.raises(LookupFailed) as caught:
        read(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": None}, "an order has no id or no status"),
        ({"status": ""}, "an order has no id or no status"),
        ({"pair": 7}, "pair is not a string"),
        ({"price": True}, "price is not a number"),
        ({"create_date": "yesterday"}, "create_date is not a date"),
        ({"transactions": {}}, "transactions is not a list"),
        ({"transactions": [7]}, "a transaction is not a JSON object"),
        ({"transactions": [{"price": 1}]}, "a transaction has no amount"),
    ],
)
def test_what_is_wrong_with_an_order_is_named(changes: dict[str, Any], says: str) -> None:
    body = ORDER | changes
    failure = lookup_failure(read_order, 200, answer(body), 1.0)
    assert (str(failure), failure.status) == (f"{ORDER_SAYS}{says}.", 200)
    if not body["id"]:  # else it is listed all the same
        for data in ([body], {"orders": [body]}):
            failure = lookup_failure(read_open_orders, 200, answer(data), 1.0, 1)
            assert (str(failure), failure.status) == (f"{LIST_SAYS}{says}.", 200)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (7, "data is not a JSON object"),
        ([7], "an order is not a JSON object"),
        ({"orders": [7]}, "an order is not a JSON object"),
        ({"orders": {}}, "orders is not a list"),
        ({}, "orders is not a list"),
        ({"orders": [], "pagination": 7}, "pagination is not a JSON object"),
        ({"orders": [], "pagination": {"total_pages": True}}, "total_pages is not a whole number"),
        ({"orders": [], "pagination": {"total_pages": "7"}}, "total_pages is not a whole number"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(data: Any, says: str) -> None:
    failure = lookup_failure(read_open_orders, 200, answer(data), 1.0, 1)
    assert (str(failure), failure.status) == (f"{LIST_SAYS}{says}.", 200)


def test_what_is_wrong_with_other_answers_is_named() -> None:
    failure = lookup_failure(read_order, 200, answer([ORDER]), 1.0)
    assert (str(failure), failure.status) == (f"{ORDER_SAYS}data is not a JSON object.", 200)
    for data in ({}, {"timestamp": True}, {"timestamp": "7"}, [1]):
        failure = lookup_failure(read_server_time, 200, answer(data))
        assert (str(failure), failure.status) == (f"{ORDER_SAYS}timestamp is not a whole number.", 200)
    for body in (b"[]", b"<html>", b"\xff"):
        failure = lookup_failure(read_order, 200, body, 1.0)
        assert (str(failure), failure.status) == (f"{ORDER_SAYS}it is not a JSON object.", 200)
    failure = lookup_failure(read_order, 200, answer(None, message="Sorry"), 1.0)
    assert (str(failure), failure.status) == ("The venue's answer has status 200 and no data (Sorry).", 200)
    failure = lookup_failure(read_order, 200, answer(ORDER, error_code=7), 1.0)
    assert (str(failure), failure.error_code) == ("The venue's answer has status 200 and no data.", 7)
    failure = lookup_failure(order_path, CancelRequest(".."))
    assert str(failure) == "The id '..' cannot be looked up: in a path it does not name an order."


@pytest.mark.parametrize(
    ("body", "says", "code"),
    [
        (answer(None, error_code=42900, message="Slow down"), "429 42900 Slow down", 42900),
        (answer(None, message="Slow down"), "429 Slow down", None),
        (answer(None, error_code=7), "429 7", 7),
        (answer(None, error_code=True, message=7), "429", None),
        (answer(None, error_code=2**31 - 1), f"429 {2**31 - 1}", 2**31 - 1),
        (answer(None, error_code=2**31), "429", None),
        (answer(None, message="x" * 300), f"429 {'x' * 200}", None),
        (b"<html>", "429", None),
    ],
)
def test_a_refusal_is_told_with_what_the_venue_said(body: bytes, says: str, code: int | None) -> None:
    for read, arguments in (
        (read_order, (429, body, 1.0, 2.5)),
        (read_open_orders, (429, body, 1.0, 1, 2.5)),
        (read_server_time, (429, body, 2.5)),
    ):
        failure = lookup_failure(read, *arguments)
        assert str(failure) == f"The venue answered {says}."
        assert (failure.status, failure.error_code, failure.retry_after) == (429, code, 2.5)


@pytest.mark.parametrize(
    ("data", "page", "last"),
    [
        ([ORDER], 1, None),
        ([], 1, True),
        ({"orders": [ORDER]}, 1, None),
        ({"orders": [ORDER], "pagination": None}, 1, None),
        ({"orders": [ORDER], "pagination": {}}, 1, None),
        ({"orders": [ORDER], "pagination": {"total_pages": 3}}, 2, False),
        ({"orders": [ORDER], "pagination": {"total_pages": 3}}, 3, True),
        ({"orders": [ORDER], "pagination": {"total_pages": 3}}, 4, True),
        ({"orders": [], "pagination": {"total_pages": 3}}, 1, True),  # or it would be asked for ever
    ],
)
def test_which_page_is_the_last(data: Any, page: int, last: bool | None) -> None:
    assert read_open_orders(200, answer(data), 1.0, page).last is last


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="there is no way to set the zone here")
def test_dates_are_in_utc_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setitem(os.environ, "TZ", "America/Sao_Paulo")
            time.tzset()
            order = read_order(200, answer(ORDER), 1.0)
    finally:
        time.tzset()
    assert order.create_date == datetime(2024, 3, 27, 13, 27, 19, 853_000, UTC)
    assert order.update_date == datetime(2024, 3, 27, 13, 30, 45, 123_000, UTC)
    assert order.fills[0].time == datetime(2024, 3, 27, 13, 28, 0, 500_000, UTC)
    for date in (order.create_date, order.update_date, order.fills[0].time):
        assert date is not None
        assert date.tzinfo is UTC
