"""Models to JSON text and back, and the signature (pure).

Out: cattrs turns a :class:`CancelRequest` (which cannot be invalid) into the business parameters, msgspec into the
compact UTF-8 JSON that JavaScript's ``JSON.stringify`` gives; those very bytes are signed and sent.

In: msgspec checks types while it parses and keeps each number's text (``float_hook=Decimal``), so that no digit is lost
and no string, null or boolean passes for a number. Whatever does not fit the contract becomes a :class:`BadReply`; if
its id and status can still be read they are kept, for it may speak of a pending request.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any

import attrs
import msgspec
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn
from cattrs.preconf.msgspec import make_converter

from trio_cancel._values.models import CanceledOrder, CancelRequest, Credentials
from trio_cancel._values.quick import quick

_encode_json = msgspec.json.Encoder().encode

_converter = make_converter()
# A string or None is itself in JSON: said so, cattrs writes the attribute's value without a call.
_converter.register_unstructure_hook_func(lambda kind: kind == str | None, identity)
_to_params = make_dict_unstructure_fn(CancelRequest, _converter, _cattrs_omit_if_default=True)
_converter.register_unstructure_hook(CancelRequest, _to_params)


def business_params(request: CancelRequest) -> bytes:
    """Return the compact JSON of what the signature covers: ``{"id":"…"}`` or ``{"external_id":"…"}``."""
    return _encode_json(_to_params(request))


_BLOCK = 64  # bytes that SHA-256 takes at a time (RFC 2104: the key is padded to one block)


class Signer:
    """Writes signed requests for one account.

    The message of the HMAC-SHA256 is the decimal timestamp followed directly by the compact business parameters
    (venue.md, "WebSocket API, authentication"). The two hash states that depend on the key alone (RFC 2104) are
    prepared once and copied for each request, which takes half the time of copying a ``hmac.HMAC``.
    """

    __slots__ = ("_inner", "_middle", "_outer")

    def __init__(self, credentials: Credentials) -> None:
        key = credentials.api_secret.encode()
        key = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in key))
        token = _encode_json(credentials.api_token)
        self._middle = b'","method":"order.cancel","params":{"api_token":%b,"timestamp":' % token

    def __repr__(self) -> str:
        return "<Signer>"

    def encode(self, orders: Iterable[tuple[str, CancelRequest]], timestamp: int) -> list[bytes]:
        """Return the JSON texts of requests that are signed at one time (seed: "Request").

        Args:
            orders: for each, the request's id (ASCII without quotes or backslashes; the caller has made it), and the
                order to cancel.
            timestamp: Unix milliseconds.
        """
        digits = b"%d" % timestamp
        signed = self._inner.copy()
        signed.update(digits)
        key = self._outer
        middle = self._middle + digits + b',"signature":"'
        texts: list[bytes] = []
        for request_id, request in orders:
            params = _encode_json(_to_params(request))
            inner = signed.copy()
            inner.update(params)
            outer = key.copy()
            outer.update(inner.digest())
            signature = b2a_base64(outer.digest(), newline=False)
            texts.append(b"".join((b'{"id":"', request_id.encode(), middle, signature, b'",', params[1:], b"}")))
        return texts


class Reply(msgspec.Struct, frozen=True, gc=False):
    """An answer that fits the contract's types; what it means is decided in ``_venue.verdict``."""

    id: str | None
    status: int
    order: CanceledOrder | None = None
    error_code: int | None = None
    message: str = ""
    has_error: bool = False


@attrs.frozen
class BadReply:
    """An answer that breaks the contract, and as much of it as could be read."""

    reason: str
    id: str | None = None
    status: int | None = None


# Wider than any status or code will ever be, and narrow enough for every store.
_MOST = 2**31
_Int = Annotated[int, msgspec.Meta(ge=-_MOST, lt=_MOST)]


class _Error(msgspec.Struct, gc=False):
    error_code: _Int
    message: str = ""


_Date = Annotated[datetime, msgspec.Meta(tz=True)]
# Numbers are taken untyped and checked below: typed as Decimal, msgspec would take "0.1" and "NaN" as well.
_Number = Any


class _Order(msgspec.Struct, gc=False):
    id: str
    create_date: _Date
    update_date: _Date
    executed_amount: _Number
    remaining_amount: _Number
    remaining_value: _Number
    requested_amount: _Number
    requested_value: _Number
    total_value: _Number
    status: str
    type: str
    pair: str
    price: _Number = None
    external_id: str | None = None
    side: str | None = None
    average_execution_price: _Number = None


class _Reply(msgspec.Struct, gc=False):
    id: str | None
    status: _Int
    result: _Order | None = None
    error: _Error | None = None


# Amounts and prices repeat, and a Decimal takes 104 bytes: those seen last are shared. But not those of a message of
# unusual size, which would let a venue fill our memory with numbers of a million digits.
_USUAL_SIZE = 2048
_canceled_order = quick(CanceledOrder)
_shared_decimal = lru_cache(maxsize=2048)(Decimal)
_decode = msgspec.json.Decoder(_Reply, float_hook=_shared_decimal).decode
_decode_large = msgspec.json.Decoder(_Reply, float_hook=Decimal).decode
# Fractions are dropped here: one that no decimal can hold must not hide the id beside it, and none is an id.
_decode_anything = msgspec.json.Decoder(float_hook=lambda _: None).decode
# What those two raise: bad JSON or types; a number beyond decimal's exponents; nesting beyond the stack.
_BAD_TEXT = (msgspec.MsgspecError, ArithmeticError, RecursionError, UnicodeDecodeError, ValueError)


def _not_a_number(name: str) -> Decimal:
    raise ValueError(f"{name} is no number")


def _order(raw: _Order, shared: Callable[[int], Decimal]) -> CanceledOrder:
    # Written out, because it runs once an order. `float_hook` has made decimals of all numbers that are no integers.
    create, update, price = raw.create_date, raw.update_date, raw.price
    executed, remaining, left = raw.executed_amount, raw.remaining_amount, raw.remaining_value
    requested, value, total = raw.requested_amount, raw.requested_value, raw.total_value
    average = raw.average_execution_price
    if executed.__class__ is not Decimal:
        executed = shared(executed) if executed.__class__ is int else _not_a_number("executed_amount")
    if remaining.__class__ is not Decimal:
        remaining = shared(remaining) if remaining.__class__ is int else _not_a_number("remaining_amount")
    if left.__class__ is not Decimal:
        left = shared(left) if left.__class__ is int else _not_a_number("remaining_value")
    if requested.__class__ is not Decimal:
        requested = shared(requested) if requested.__class__ is int else _not_a_number("requested_amount")
    if value.__class__ is not Decimal:
        value = shared(value) if value.__class__ is int else _not_a_number("requested_value")
    if total.__class__ is not Decimal:
        total = shared(total) if total.__class__ is int else _not_a_number("total_value")
    if price is not None and price.__class__ is not Decimal:
        price = shared(price) if price.__class__ is int else _not_a_number("price")
    if average is not None and average.__class__ is not Decimal:
        average = shared(average) if average.__class__ is int else _not_a_number("average_execution_price")
    return _canceled_order(
        raw.id,
        create if create.tzinfo is UTC else create.astimezone(UTC),
        update if update.tzinfo is UTC else update.astimezone(UTC),
        executed,
        remaining,
        left,
        requested,
        value,
        total,
        raw.status,
        raw.type,
        raw.pair,
        price,
        raw.external_id,
        raw.side,
        average,
    )


def decode_reply(text: bytes | str) -> Reply | BadReply:
    """Read one text message of the venue (seed: "Response", "Error Response"). Never raises for what it says."""
    try:
        if len(text) <= _USUAL_SIZE:
            raw = _decode(text)
            order = None if raw.result is None else _order(raw.result, _shared_decimal)
        else:
            raw = _decode_large(text)
            order = None if raw.result is None else _order(raw.result, Decimal)
    except _BAD_TEXT as error:
        return _salvage(text, error)
    if raw.error is None:
        return Reply(raw.id, raw.status, order)
    return Reply(raw.id, raw.status, order, raw.error.error_code, raw.error.message, True)


def _salvage(text: bytes | str, error: BaseException) -> BadReply:
    # Only the kind of the fault is kept: the text itself may be of any size and hold anything.
    reason = str(error).partition("\n")[0][:200] or type(error).__name__
    try:
        value = _decode_anything(text)
    except _BAD_TEXT:
        return BadReply(f"it is no JSON ({reason})")
    if not isinstance(value, dict):
        return BadReply(f"it is no JSON object but {type(value).__name__}")
    id_, status = value.get("id"), value.get("status")
    return BadReply(
        reason,
        id_ if isinstance(id_, str) else None,
        status if isinstance(status, int) and not isinstance(status, bool) and -_MOST <= status < _MOST else None,
    )
