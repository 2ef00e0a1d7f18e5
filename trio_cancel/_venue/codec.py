"""Turns models into JSON text and back, and makes the signature.

Out: cattrs turns a :class:`CancelRequest` (which cannot be invalid) into the business parameters. msgspec turns them
into the compact UTF-8 JSON of JavaScript's ``JSON.stringify``. Those very bytes are signed and sent.

In: msgspec checks types while it parses and keeps each number's text (``float_hook=Decimal``), so that no digit is lost
and no null or boolean passes for a number. An answer that is unusual in any way is read again member by member, so that
an unreadable member hides nothing beside it. An answer without a readable id or status is a :class:`BadReply`.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from sys import intern
from typing import Annotated, Any, TypeVar

import attrs
import msgspec
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn
from cattrs.preconf.msgspec import make_converter

from trio_cancel._values.models import TOKEN_FIELDS, CanceledOrder, CancelRequest, Credentials

_encode_json = msgspec.json.Encoder().encode

_converter = make_converter()
# A string or None is itself in JSON. Saying so lets cattrs write the attribute's value without a call.
_converter.register_unstructure_hook_func(lambda kind: kind == str | None, identity)
_to_params = make_dict_unstructure_fn(CancelRequest, _converter, _cattrs_omit_if_default=True)
_converter.register_unstructure_hook(CancelRequest, _to_params)


_BLOCK = 64  # bytes that SHA-256 takes at a time (RFC 2104: the key is padded to one block)


class Signer:
    """Writes signed requests for one account; ``token_field`` is the name of the field with the token.

    The message of the HMAC-SHA256 is the decimal timestamp followed directly by the compact business parameters
    (``_venue/contract.md``, "Signature"). The two hash states that depend only on the key (RFC 2104) are prepared once
    and copied for each request, which takes half the time of copying a ``hmac.HMAC``.
    """

    def __init__(self, credentials: Credentials, token_field: str = TOKEN_FIELDS[0]) -> None:
        key = credentials.api_secret.encode()
        key = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in key))
        token = _encode_json(credentials.api_token)
        field = _encode_json(token_field)
        self._middle = b'","method":"order.cancel","params":{%b:%b,"timestamp":' % (field, token)

    def __repr__(self) -> str:
        return "<Signer>"

    def encode(self, orders: Iterable[tuple[str, CancelRequest]], timestamp: int) -> list[bytes]:
        """Return the JSON texts of requests that are signed at the same time (``_venue/contract.md``, "Request").

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
    """An answer, as far as it could be read; ``_venue.verdict`` decides what it means."""

    id: str | None  # the request's
    status: int  # HTTP-like
    order: CanceledOrder | None = None  # the result, if it is an object
    error_code: int | None = None  # the venue's code, if it gave a readable one
    message: str = ""  # the venue's words
    has_error: bool = False  # there is an error, with a result or without one
    has_result: bool = False  # there is a result that is not empty, of any type, with a status other than 200
    lacks: tuple[str, ...] = ()  # what the contract names and the result does not have, or not in a readable form


@attrs.frozen
class BadReply:
    """A message that cannot be read as an answer, and as much of it as could be read."""

    reason: str
    id: str | None = None
    status: int | None = None


# Wider than any status or code will ever be, and narrow enough for every store.
_MOST = 2**31
_Int = Annotated[int, msgspec.Meta(ge=-_MOST, lt=_MOST)]


class _Error(msgspec.Struct, gc=False):
    """The error in an answer's JSON, before it is checked."""

    error_code: _Int | None = None
    message: str | None = None


# Numbers are taken untyped and checked below: typed as Decimal, msgspec would take "NaN" as well.
_Number = Any


class _Order(msgspec.Struct, gc=False):
    """The result in an answer's JSON, before it is checked."""

    id: str | None = None
    create_date: datetime | None = None
    update_date: datetime | None = None
    executed_amount: _Number = None
    remaining_amount: _Number = None
    remaining_value: _Number = None
    requested_amount: _Number = None
    requested_value: _Number = None
    total_value: _Number = None
    status: str | None = None
    type: str | None = None
    pair: str | None = None
    price: _Number = None
    external_id: str | None = None
    side: str | None = None
    average_execution_price: _Number = None


class _Reply(msgspec.Struct, gc=False):
    """An answer's JSON, before it is checked."""

    id: str | None
    status: _Int
    result: _Order | None = None
    error: _Error | None = None
    error_code: _Int | None = None
    message: str | None = None


# Amounts and prices repeat, and a Decimal takes 104 bytes, so recent ones are shared. But not those of an unusually
# large message, because a venue could fill our memory with numbers of a million digits.
_USUAL_SIZE = 2048
_shared_decimal = lru_cache(maxsize=2048)(Decimal)
_decode = msgspec.json.Decoder(_Reply, float_hook=_shared_decimal).decode
_decode_large = msgspec.json.Decoder(_Reply, float_hook=Decimal).decode
# An object of which each member is read separately: an unreadable one hides none of the others.
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_int = msgspec.json.Decoder(_Int).decode
_decode_date = msgspec.json.Decoder(datetime).decode
# What they raise for: bad JSON or types; a number beyond decimal's exponents; nesting beyond the stack.
BAD_TEXT = (msgspec.MsgspecError, ArithmeticError, RecursionError, UnicodeDecodeError, ValueError)
_EMPTY = frozenset({b"null", b"{}", b"[]", b'""', b"0", b"false"})
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"-?[0-9]{1,10}(?:\.0+)?")
# An escape in a string; the group matches half of a surrogate pair without its other half.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_MENDED = "\ufffd"
_RAW_MOST = 200
"""Characters of an unreadable value that are kept."""
_AMOUNTS = (
    "executed_amount",
    "remaining_amount",
    "remaining_value",
    "requested_amount",
    "requested_value",
    "total_value",
    "price",
    "average_execution_price",
)
# Fields that an answer may lack: an order at the market has no price, and not every order has an external id.
_MAY_LACK = frozenset({"price", "external_id", "side", "average_execution_price"})
_EXPECTED = [name for name in _Order.__struct_fields__ if name not in (*_MAY_LACK, "id", "status")]


class _Odd(ValueError):
    """A result has a field that must be read member by member."""


def _odd() -> Decimal:
    raise _Odd


def utc(date: datetime) -> datetime:
    """Return a date in UTC; one without a zone (transactions have none) is taken to be in UTC."""
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)


def _order(raw: _Order, shared: Callable[[int], Decimal]) -> tuple[CanceledOrder, tuple[str, ...]]:
    # Written out, because it runs once per order. `float_hook` has made decimals of all numbers that are not integers.
    create, update, price = raw.create_date, raw.update_date, raw.price
    executed, remaining, left = raw.executed_amount, raw.remaining_amount, raw.remaining_value
    requested, value, total = raw.requested_amount, raw.requested_value, raw.total_value
    average = raw.average_execution_price
    status, kind, pair, side = raw.status, raw.type, raw.pair, raw.side
    if create is not None and create.tzinfo is not UTC:
        create = utc(create)
    if update is not None and update.tzinfo is not UTC:
        update = utc(update)
    if executed.__class__ is not Decimal and executed is not None:
        executed = shared(executed) if executed.__class__ is int else _odd()
    if remaining.__class__ is not Decimal and remaining is not None:
        remaining = shared(remaining) if remaining.__class__ is int else _odd()
    if left.__class__ is not Decimal and left is not None:
        left = shared(left) if left.__class__ is int else _odd()
    if requested.__class__ is not Decimal and requested is not None:
        requested = shared(requested) if requested.__class__ is int else _odd()
    if value.__class__ is not Decimal and value is not None:
        value = shared(value) if value.__class__ is int else _odd()
    if total.__class__ is not Decimal and total is not None:
        total = shared(total) if total.__class__ is int else _odd()
    if price.__class__ is not Decimal and price is not None:
        price = shared(price) if price.__class__ is int else _odd()
    if average.__class__ is not Decimal and average is not None:
        average = shared(average) if average.__class__ is int else _odd()
    lacks: tuple[str, ...] = ()
    if create is None or update is None or kind is None or pair is None or value is None:  # noqa: SIM114 - too long
        lacks = _lacking(raw)
    elif executed is None or remaining is None or left is None or requested is None or total is None:
        lacks = _lacking(raw)
    # The same few words are in every answer: keep one object of each.
    order = CanceledOrder(
        raw.id,
        create,
        update,
        executed,
        remaining,
        left,
        requested,
        value,
        total,
        "" if status is None else intern(status),
        None if kind is None else intern(kind),
        None if pair is None else intern(pair),
        price,
        raw.external_id,
        None if side is None else intern(side),
        average,
    )
    return order, lacks


def _lacking(raw: _Order) -> tuple[str, ...]:
    return tuple(name for name in _EXPECTED if getattr(raw, name) is None)


def decode_reply(text: bytes | str) -> Reply | BadReply:
    """Read one text message of the venue (``_venue/contract.md``). Never raises because of its contents."""
    order: CanceledOrder | None = None
    lacks: tuple[str, ...] = ()
    try:
        if len(text) <= _USUAL_SIZE:
            raw = _decode(text)
            if raw.result is not None:
                order, lacks = _order(raw.result, _shared_decimal)
        else:
            raw = _decode_large(text)
            if raw.result is not None:
                order, lacks = _order(raw.result, Decimal)
    except BAD_TEXT as fault:
        return _read_members(text, fault)
    status, error = raw.status, raw.error
    if status == 200:
        if error is None and raw.error_code is None:
            return Reply(raw.id, 200, order, lacks=lacks)
        return _read_members(text, None)
    if order is not None:
        return _read_members(text, None)
    code, message = raw.error_code, raw.message
    if error is not None:
        code = error.error_code if error.error_code is not None else code
        message = error.message or message
    return Reply(raw.id, status, None, code, message or "", code is not None or bool(message))


# The following functions read an unusual answer, member by member.


def _read_members(text: bytes | str, error: BaseException | None) -> Reply | BadReply:
    # Only the kind of error is kept: the text itself may have any size and contents.
    reason = (str(error).partition("\n")[0][:200] or type(error).__name__) if error is not None else "it is unusual"
    mended = False
    try:
        try:
            members = _decode_members(text)
        except msgspec.DecodeError:
            text, mended = _mend(text)
            if not mended:
                raise
            members = _decode_members(text)
    except BAD_TEXT:
        return BadReply(f"it is not a JSON object ({reason})")
    status = _read(_decode_int, members.get("status"))
    request_id: str | None = None
    if not _is_null(members.get("id", b"")):
        request_id = _read(_decode_text, members.get("id"))
        if request_id is None or (mended and _MENDED in request_id):
            return BadReply(f"it has no readable id ({reason})", None, status)
    if status is None:
        return BadReply(f"it has no readable status ({reason})", request_id)
    code, message = _read_code(members.get("error_code")), _read_words(members.get("message"))
    has_error = code is not None
    if "error" in members and not _is_empty(members["error"]):
        found, code, message = _read_error(members["error"], code, message)
        has_error = has_error or found
    order: CanceledOrder | None = None
    lacks: tuple[str, ...] = ()
    has_result = "result" in members and not _is_empty(members["result"])
    if has_result and status == 200:
        order, lacks = _read_order(members["result"], mended=mended)
    return Reply(request_id, status, order, code, message, has_error, has_result and status != 200, lacks)


_T = TypeVar("_T")


def _mend(text: bytes | str) -> tuple[str, bool]:
    """Return a text without escapes of lone surrogates, and whether it had any.

    JSON allows them: JavaScript writes them if it cuts a text in the middle of a character. msgspec does not.
    """
    found = False

    def mend(escape: re.Match[str]) -> str:
        nonlocal found
        if escape[1] is None:
            return escape[0]
        found = True
        return _MENDED

    return _ESCAPE.sub(mend, text if isinstance(text, str) else text.decode()), found


def _read(decode: Callable[[msgspec.Raw], _T], raw: msgspec.Raw | None) -> _T | None:
    """Return a member's value; None if it is missing or of another type."""
    if raw is None:
        return None
    try:
        return decode(raw)
    except BAD_TEXT:
        return None


def _is_null(raw: msgspec.Raw | bytes) -> bool:
    return bytes(raw).strip() == b"null"


def _is_empty(raw: msgspec.Raw) -> bool:
    """Return True for null, and for values that say no more than null."""
    text = bytes(raw)
    return len(text) < 64 and b"".join(text.split()) in _EMPTY


def _shown(raw: msgspec.Raw) -> str:
    return bytes(raw)[: 4 * _RAW_MOST].decode(errors="replace")[:_RAW_MOST]


def _read_words(raw: msgspec.Raw | None) -> str:
    """Return the venue's words; a value that is not a string is returned as its JSON text."""
    if raw is None or _is_null(raw):
        return ""
    text = _read(_decode_text, raw)
    return text if text is not None else _shown(raw)


def _read_code(raw: msgspec.Raw | None) -> int | None:
    """Return a code that is a whole number, or a string of its digits."""
    if raw is None or len(bytes(raw)) > _RAW_MOST:
        return None
    text = _read(_decode_text, raw) or bytes(raw).decode(errors="replace")
    if _WHOLE.fullmatch(text.strip()) is None:
        return None
    code = int(text.strip().partition(".")[0])
    return code if -_MOST <= code < _MOST else None


def _read_error(raw: msgspec.Raw, code: int | None, message: str) -> tuple[bool, int | None, str]:
    """Return whether there is an error, its code and its words; the given code and words if it has none of its own."""
    members = _read(_decode_members, raw)
    if members is None:
        return True, code, _read_words(raw) or message
    own_code, own_message = _read_code(members.get("error_code")), _read_words(members.get("message"))
    found = any(not _is_empty(value) for value in members.values())
    return found, code if own_code is None else own_code, own_message or message


def _read_order(raw: msgspec.Raw, *, mended: bool) -> tuple[CanceledOrder | None, tuple[str, ...]]:
    """Return a result of which each field is read separately, and which of the expected fields it lacks.

    In a mended text, whatever may have been mended counts as unreadable: an id must not become another one.
    """
    members = _read(_decode_members, raw)
    if members is None:
        return None, ()
    values: dict[str, Any] = {}
    unreadable: list[tuple[str, str]] = []
    lacks: list[str] = []
    for name in _FIELDS:
        value: Any = None
        member = members.get(name)
        if member is not None and not _is_null(member):
            value = _read(_READERS.get(name, _decode_text), member)
            if value is None or (mended and isinstance(value, str) and _MENDED in value):
                value = None
                unreadable.append((name, _shown(member)))
                lacks.append(name)
        elif name not in _MAY_LACK:
            lacks.append(name)
        values[name] = value
    values["status"] = values["status"] or ""
    return CanceledOrder(**values, unreadable=tuple(unreadable)), tuple(lacks)


def _read_number(raw: msgspec.Raw) -> Decimal:
    text = bytes(raw).decode().strip()
    if text.startswith('"'):
        text = _decode_text(raw).strip()
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("it is not a number")
    return Decimal(text)


def _read_date(raw: msgspec.Raw) -> datetime:
    return utc(_decode_date(raw))


_FIELDS = tuple(name for name in CanceledOrder.__struct_fields__ if name != "unreadable")
_READERS: dict[str, Callable[[msgspec.Raw], Any]] = {
    **dict.fromkeys(_AMOUNTS, _read_number),
    "create_date": _read_date,
    "update_date": _read_date,
}
