"""The venue's REST API for looking orders up: paths, signatures, answers.

``_venue/contract.md`` says which facts are certain and which are not. Two decisions are not settled by any document: an
id is percent-encoded in the path, except for letters, digits and ``-._~``, and the signature covers the path as it is
sent, that is, encoded. Ids that are UUIDs read the same either way.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import attrs
import msgspec

from trio_cancel._values.errors import LookupFailed
from trio_cancel._values.models import CancelRequest, Credentials
from trio_cancel._values.order_state import Fill, OrderState, OrderStatus
from trio_cancel._venue.codec import BAD_TEXT, utc

SERVER_TIME = "/public/server-time"
OPEN_ORDERS = "/orders/open"
WORDS_MOST = 200
"""Characters of the venue's words that are kept."""

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


def order_path(request: CancelRequest) -> str:
    """Return the path of an order below the base, percent-encoded.

    Raises:
        LookupFailed: the id is ``.`` or ``..``; servers and proxies may read these as steps in the path.
    """
    if request.key in (".", ".."):
        raise LookupFailed(f"The id {request.key!r} cannot be looked up: in a path it does not name an order.")
    key = quote(request.key, safe="")
    return f"/orders/{key}" if request.id is not None else f"/orders/by-external-id/{key}"


def rest_signature(secret: str, timestamp: int, method: str, path: str, body: str = "") -> str:
    """Return the signature of a request.

    Args:
        secret: the account's secret.
        timestamp: Unix milliseconds.
        method: ``GET``, in capitals.
        path: the whole path of the url as it is sent, without the query.
        body: the request's body; empty for a GET.
    """
    message = f"{timestamp}{method}{path}{body}".encode()
    return b64encode(hmac.digest(secret.encode(), message, sha256)).decode()


def signed_headers(credentials: Credentials, timestamp: int, path: str) -> dict[str, str]:
    """Return the headers that authenticate a GET."""
    return {
        "Authorization": credentials.api_token,
        "Timestamp": str(timestamp),
        "Signature": rest_signature(credentials.api_secret, timestamp, "GET", path),
    }


@attrs.frozen
class Page:
    """One page of the open orders."""

    orders: tuple[OrderState, ...]  # those that could be read, at least with their ids
    last: bool | None  # whether it is the last page; None if the answer does not say
    unreadable: int = 0  # how many more are on it whose id could not be read


def read_order(status: int, body: bytes, seen_at: float, retry_after: float | None = None) -> OrderState:
    """Return the order in an answer.

    Args:
        status: the HTTP status.
        body: the whole body.
        seen_at: Unix seconds when it came.
        retry_after: seconds, from the answer's header.

    Raises:
        LookupFailed: an error, or an unreadable answer.
    """
    data = _read_data(status, body, retry_after)
    try:
        return _order(_mapping(data, "data"), seen_at)
    except ValueError as error:
        raise LookupFailed(f"The venue's answer cannot be read: {error}.", status=status) from None


def read_open_orders(status: int, body: bytes, seen_at: float, page: int, retry_after: float | None = None) -> Page:
    """Return the orders on page number ``page`` (from 1) of the open orders; see :func:`read_order`."""
    data = _read_data(status, body, retry_after)
    try:
        pages = None
        items = data
        if not isinstance(data, list):
            content = _mapping(data, "data")
            items = content.get("orders")
            if not isinstance(items, list):
                raise ValueError("orders is not a list")
            if content.get("pagination") is not None:
                pages = _mapping(content["pagination"], "pagination").get("total_pages")
            if pages is not None and (isinstance(pages, bool) or not isinstance(pages, int)):
                raise ValueError("total_pages is not a whole number")
        orders, flaw = _listed(items, seen_at)
        if flaw is not None and not orders:
            raise flaw
        last = True if not items else None if pages is None else page >= pages
        return Page(orders, last, len(items) - len(orders))
    except ValueError as error:
        raise LookupFailed(f"The venue's list of orders cannot be read: {error}.", status=status) from None


def _listed(items: list[Any], seen_at: float) -> tuple[tuple[OrderState, ...], ValueError | None]:
    """Return the orders of a list, and why the first unreadable one could not be read.

    One order with an odd amount must not hide the others, or itself: its id is enough to cancel it.
    """
    orders: list[OrderState] = []
    flaw: ValueError | None = None
    for item in items:
        try:
            orders.append(_order(_mapping(item, "an order"), seen_at))
        except ValueError as error:
            flaw = flaw or error
            if isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"]:
                words = ("external_id", "pair", "side", "type")
                known = {name: item[name] for name in words if isinstance(item.get(name), str)}
                raw = item.get("status")
                raw = raw if isinstance(raw, str) else ""
                status = OrderStatus.read(raw)
                orders.append(OrderState(status=status, raw_status=raw, seen_at=seen_at, id=item["id"], **known))
    return tuple(orders), flaw


def read_server_time(status: int, body: bytes, retry_after: float | None = None) -> int:
    """Return the venue's clock, Unix milliseconds; see :func:`read_order`."""
    data = _read_data(status, body, retry_after)
    milliseconds = data.get("timestamp") if isinstance(data, dict) else None
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        raise LookupFailed("The venue's answer cannot be read: timestamp is not a whole number.", status=status)
    return milliseconds


def _read_data(status: int, body: bytes, retry_after: float | None) -> Any:
    try:
        document = _decode(body)
    except BAD_TEXT:
        document = None
    code = words = None
    if isinstance(document, dict):
        code, words = document.get("error_code"), document.get("message")
        code = code if isinstance(code, int) and not isinstance(code, bool) and abs(code) < 2**31 else None
        words = words[:WORDS_MOST] if isinstance(words, str) and words else None
    if status != 200:
        says = f"{status}{f' {code}' if code is not None else ''}{f' {words}' if words else ''}"
        raise LookupFailed(f"The venue answered {says}.", status=status, error_code=code, retry_after=retry_after)
    if not isinstance(document, dict):
        raise LookupFailed("The venue's answer cannot be read: it is not a JSON object.", status=status)
    if document.get("error_code") is not None or document.get("data") is None:
        says = f" ({words})" if words else ""
        raise LookupFailed(f"The venue's answer has status 200 and no data{says}.", status=status, error_code=code)
    return document["data"]


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object")
    return value


def _order(data: Mapping[str, Any], seen_at: float) -> OrderState:
    raw_status, order_id = _text(data, "status"), _text(data, "id")
    if not raw_status or not order_id:
        raise ValueError("an order has no id or no status")
    fills = data.get("transactions")
    if fills is not None and not isinstance(fills, list):
        raise ValueError("transactions is not a list")
    return OrderState(
        status=OrderStatus.read(raw_status),
        raw_status=raw_status,
        seen_at=seen_at,
        id=order_id,
        external_id=_text(data, "external_id"),
        pair=_text(data, "pair"),
        side=_text(data, "side"),
        type=_text(data, "type"),
        price=_number(data, "price"),
        requested_amount=_number(data, "requested_amount"),
        executed_amount=_number(data, "executed_amount"),
        remaining_amount=_number(data, "remaining_amount"),
        requested_value=_number(data, "requested_value"),
        remaining_value=_number(data, "remaining_value"),
        total_value=_number(data, "total_value"),
        fee=_number(data, "fee"),
        average_execution_price=_number(data, "average_execution_price"),
        fills=tuple(_fill(_mapping(item, "a transaction")) for item in fills or ()),
        create_date=_date(data, "create_date"),
        update_date=_date(data, "update_date"),
    )


def _fill(data: Mapping[str, Any]) -> Fill:
    amount = _number(data, "amount")
    if amount is None:
        raise ValueError("a transaction has no amount")
    return Fill(
        amount=amount,
        price=_number(data, "price"),
        fee=_number(data, "fee"),
        fee_currency=_text(data, "fee_currency"),
        time=_date(data, "create_date"),
        total_value=_number(data, "total_value"),
    )


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"{name} is not a string")


def _number(data: Mapping[str, Any], name: str) -> Decimal | None:
    value = data.get(name)
    if value is None or isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    raise ValueError(f"{name} is not a number")


def _date(data: Mapping[str, Any], name: str) -> datetime | None:
    value = _text(data, name)
    if value is None:
        return None
    try:
        return utc(msgspec.convert(value, datetime))
    except (msgspec.ValidationError, OverflowError):
        raise ValueError(f"{name} is not a date") from None
