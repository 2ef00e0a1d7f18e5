"""The venue's side of ``order.cancel``: request text in, a checked request or a refusal out, reply text back.

Written from the venue's contract alone, with the standard library's JSON and HMAC. It shares no code with the client,
so that one misreading cannot hide another. The venue's documents show two sets of answers (``_venue/contract.md``, "Two
dialects"); a :class:`Dialect` is one of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, NoReturn

import attrs

from trio_cancel._values.models import Credentials
from trio_cancel.sandbox._book import Order

METHOD = "order.cancel"
MAX_AGE = 5_000  # ms; source: _venue/contract.md, REST's default, assumed for the WebSocket
MAX_AHEAD = 1_000  # ms
TOKEN_FIELDS = ("api_token", "apiToken")
AUTHENTICATION = frozenset({*TOKEN_FIELDS, "timestamp", "signature"})  # all other params are signed, in their order

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATE = re.compile("[\ud800-\udfff]")


@attrs.frozen
class Refusal:
    """An error answer: the HTTP status and the venue's error object, or a bare message if it has no code."""

    status: int
    error_code: int | None
    message: str


# Source of the first four: the order.cancel page, "Common Error Codes"; of their status and full stops: its examples.
NOT_FOUND = Refusal(404, 40401, "Order not found.")
NOT_ACTIVE = Refusal(400, 40408, "Cannot cancel an already canceled or fully executed order.")
BAD_SIGNATURE = Refusal(400, 40011, "Invalid signature.")
MISSING_PARAMETERS = Refusal(400, 40010, "Missing required parameters.")
# Source of these two messages: REST v4, limits. The codes from here on are made up: no public page has them.
TOO_MANY = Refusal(429, 42900, "Too many requests")
DAILY_LIMIT = Refusal(429, 42901, "Limit Exceeded")
UNKNOWN_CODE = Refusal(418, 41899, "I am a teapot.")
TIMED_OUT = Refusal(408, 40800, "Request timed out.")
INTERNAL = Refusal(500, 50000, "Internal server error.")
UNAVAILABLE = Refusal(503, 50300, "Service unavailable.")


@attrs.frozen
class Dialect:
    """The answers of one of the venue's documents; the defaults are those of the order.cancel page.

    Args:
        canceled_before: to a cancel of an order that was canceled before.
        executed_before: to a cancel of an order that was executed completely.
        requested_value: whether a result has that field.
    """

    not_found: Refusal = NOT_FOUND
    canceled_before: Refusal = NOT_ACTIVE
    executed_before: Refusal = NOT_ACTIVE
    missing_token: Refusal = MISSING_PARAMETERS
    bad_token: Refusal = BAD_SIGNATURE
    bad_timestamp: Refusal = BAD_SIGNATURE
    bad_signature: Refusal = BAD_SIGNATURE
    too_many: Refusal = TOO_MANY
    daily_limit: Refusal = DAILY_LIMIT
    internal: Refusal = INTERNAL
    unavailable: Refusal = UNAVAILABLE
    requested_value: bool = True


DIALECTS = {
    "page": Dialect(),
    # Source: the venue's OpenAPI text, v4.0.
    "openapi": Dialect(
        not_found=Refusal(404, 40400, "Not found"),
        canceled_before=Refusal(400, 40020, "Order already canceled."),
        executed_before=Refusal(400, 40021, "Order executed completely."),
        missing_token=Refusal(401, 40100, "Invalid token"),
        bad_token=Refusal(401, 40100, "Invalid token"),
        bad_timestamp=Refusal(401, 40100, "Invalid timestamp"),
        bad_signature=Refusal(401, 40100, "Invalid signature"),
        too_many=Refusal(429, None, "Too many requests"),
        daily_limit=Refusal(429, None, "Limit Exceeded"),
        internal=Refusal(500, 50000, "Internal server error"),
        unavailable=Refusal(503, 50003, "Service unavailable"),
        requested_value=False,
    ),
}
"""The venue's two dialects, by the names that `open_sandbox` takes."""


@attrs.frozen
class Request:
    """What a text message requests, as far as it can be read.

    ``id`` is None if there is none that can be answered. ``business`` are the params without token, timestamp and
    signature, in the order received. ``refusal`` says what is missing; it is None for a request that is complete,
    except perhaps for its token.
    """

    id: str | None
    method: str | None = None
    business: dict[str, Any] = attrs.Factory(dict)
    api_token: str = attrs.field(default="", repr=False)
    timestamp: int | None = None
    signature: str = ""
    refusal: Refusal | None = None

    @property
    def order(self) -> dict[str, str]:
        """``{"id": …}`` or ``{"external_id": …}``, as the book's methods take it; empty if neither or both came."""
        named: dict[str, str] = {name: self.business[name] for name in ("id", "external_id") if name in self.business}
        return named if len(named) == 1 and _is_text(*named.values()) else {}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=Decimal).decode
_encode_any = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=float).encode


def quote(text: str) -> str:
    """Return a JSON string as JavaScript's ``JSON.stringify`` writes it: raw except quotes, controls, surrogates."""
    return _without_surrogates(encode_basestring(text))


def _without_surrogates(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _is_text(*values: object) -> bool:
    return all(isinstance(value, str) and value for value in values)


def read_json(text: str) -> Any:
    """Return the document in a message, floats as Decimal; raise ValueError if it cannot be read."""
    try:
        return _decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_request(text: str, token_field: str = TOKEN_FIELDS[0]) -> Request:
    """Read a request whose token is in ``token_field``. An error in it becomes its ``refusal`` (40010)."""
    try:
        document = read_json(text)
    except ValueError:
        return Request(None, refusal=MISSING_PARAMETERS)
    if not isinstance(document, dict):
        return Request(None, refusal=MISSING_PARAMETERS)
    request_id, method, params = document.get("id"), document.get("method"), document.get("params")
    if not isinstance(request_id, str) or not request_id:
        request_id = None
    if not isinstance(method, str) or not isinstance(params, dict):
        return Request(request_id, method if isinstance(method, str) else None, refusal=MISSING_PARAMETERS)
    timestamp = params.get("timestamp")
    token, signature = params.get(token_field), params.get("signature")
    request = Request(
        request_id,
        method,
        {name: value for name, value in params.items() if name not in AUTHENTICATION},
        token if isinstance(token, str) else "",
        timestamp if isinstance(timestamp, int) and not isinstance(timestamp, bool) else None,
        signature if isinstance(signature, str) else "",
    )
    complete = (
        request_id is not None
        and method == METHOD
        and request.signature
        and request.timestamp is not None
        and request.order  # one of the two, not both
    )
    return request if complete else attrs.evolve(request, refusal=MISSING_PARAMETERS)


def signed_text(request: Request) -> str:
    """Return what the signature covers: the timestamp, then the compact JSON of the business parameters."""
    business = request.business
    if len(business) == 1:
        ((name, value),) = business.items()
        if isinstance(value, str):
            return f"{request.timestamp}{{{quote(name)}:{quote(value)}}}"
    return f"{request.timestamp}{_without_surrogates(_encode_any(business))}"


class Verifier:
    """Checks token, timestamp and signature against one account's credentials, and answers in a dialect."""

    def __init__(self, credentials: Credentials, dialect: Dialect) -> None:
        self._dialect = dialect
        self._token = credentials.api_token.encode()
        self._keyed = hmac.new(credentials.api_secret.encode(), digestmod=hashlib.sha256)

    def refusal(self, request: Request, now: int) -> Refusal | None:
        """Return why the venue refuses a request at Unix time ``now`` (ms) before it looks at the order, or None."""
        dialect = self._dialect
        if request.refusal is not None:
            return request.refusal
        if not request.api_token:
            return dialect.missing_token
        assert request.timestamp is not None
        if not -MAX_AHEAD <= now - request.timestamp <= MAX_AGE:
            return dialect.bad_timestamp
        try:
            signed = signed_text(request)
        except RecursionError:  # extra parameters nested so deep that they can be read but not written
            return dialect.bad_signature
        keyed = self._keyed.copy()
        keyed.update(signed.encode())
        expected = base64.b64encode(keyed.digest())
        if not hmac.compare_digest(request.api_token.encode(errors="replace"), self._token):
            return dialect.bad_token
        right = hmac.compare_digest(request.signature.encode(errors="replace"), expected)
        return None if right else dialect.bad_signature


def number(value: Decimal) -> str:
    """Return a JSON number with every digit of the value and no needless zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def date(milliseconds: int) -> str:
    """Return a Unix time in milliseconds as the venue writes dates: ``2024-03-27T13:27:19.853Z``."""
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds")[:-6] + "Z"


def render_order(order: Order, *, full: bool = False, requested_value: bool = True) -> str:
    """Return an order as JSON, fields in the page's order; ``full`` adds ``side`` and ``average_execution_price``."""
    value = f',"requested_value":{number(order.requested_value)}' if requested_value else ""
    more = f',"side":"{order.side}","average_execution_price":{number(order.average_execution_price)}' if full else ""
    return (
        f'{{"id":{quote(order.id)},"create_date":"{date(order.create_date)}","update_date":"{date(order.update_date)}"'
        f',"executed_amount":{number(order.executed_amount)},"remaining_amount":{number(order.remaining_amount)}'
        f',"remaining_value":{number(order.remaining_value)},"requested_amount":{number(order.requested_amount)}'
        f'{value},"total_value":{number(order.requested_value)}'
        f',"status":"{order.status}","type":"{order.type}"'
        f',"price":{"null" if order.price is None else number(order.price)},"pair":{quote(order.pair)}'
        f',"external_id":{"null" if order.external_id is None else quote(order.external_id)}{more}}}'
    )


def render_result(request_id: str | None, result: str) -> str:
    """Return the text of a 200 answer around a result that is already JSON."""
    return f'{{"id":{"null" if request_id is None else quote(request_id)},"status":200,"result":{result}}}'


def render_refusal(request_id: str | None, refusal: Refusal) -> str:
    """Return the text of an error answer, in the form of the venue's examples."""
    head = f'{{"id":{"null" if request_id is None else quote(request_id)},"status":{refusal.status}'
    if refusal.error_code is None:
        return f'{head},"message":{quote(refusal.message)}}}'
    return f'{head},"result":null,"error":{{"error_code":{refusal.error_code},"message":{quote(refusal.message)}}}}}'
