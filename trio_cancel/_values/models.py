"""The frozen values of the venue's contract: credentials, requests, and canceled orders."""

from __future__ import annotations

import logging
import os
import unicodedata
from contextlib import suppress
from datetime import datetime
from decimal import Decimal

import attrs
import msgspec

from trio_cancel._values.errors import ConfigurationError, InvalidRequest

TOKEN_VARIABLE = "RIPIO_API_TOKEN"  # noqa: S105 - the name of a variable, not a token
SECRET_VARIABLE = "RIPIO_API_SECRET"  # noqa: S105 - the name of a variable, not a secret
TOKEN_FIELD_VARIABLE = "TRIO_CANCEL_TOKEN_FIELD"  # noqa: S105 - the name of a variable, not a token
TOKEN_FIELDS = ("api_token", "apiToken")
"""The names that the venue's documents use for the token in a request; the first is the usual one."""
EXTERNAL_ID_MOST = 36
"""Characters of an external id that the venue documents (``_venue/contract.md``)."""

_logger = logging.getLogger("trio_cancel")


# Quotation marks that a shell, a .env file or a word processor puts around a value.
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_ENDS = {"\n": "a line feed (newline)", "\r": "a carriage return", "\t": "a tab", " ": "a blank"}


def _end_name(character: str) -> str:
    """Return the name of a character at the end of a text, where nobody sees it."""
    return _ENDS.get(character) or f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character')})"


def _is_blank(character: str) -> bool:
    return character.isspace() or (not character.isprintable() and not "\ud800" <= character <= "\udfff")


def _flaw_of_credential(value: str) -> str | None:
    """Return what was pasted along with a token or secret, without any part of the token or secret itself."""
    if all(map(_is_blank, value)):
        return "contains only white space"
    flaws = []
    if _is_blank(value[0]):
        flaws.append(f"begins with {_end_name(value[0])}")
    if value.endswith("\r\n"):
        flaws.append("ends with a carriage return and a line feed")
    elif _is_blank(value[-1]):
        flaws.append(f"ends with {_end_name(value[-1])}")
    while _is_blank(value[0]):
        value = value[1:]
    while _is_blank(value[-1]):
        value = value[:-1]
    if len(value) > 1 and _QUOTES.get(value[0]) == value[-1]:
        flaws.append("is enclosed in quotation marks")
    return " and ".join(flaws) or None


def _checked_credential(_instance: Credentials, attribute: attrs.Attribute[str], value: str) -> None:
    _check_credential(f"The {attribute.name}", attribute.name, value)


def _check_credential(called: str, name: str, value: str) -> None:
    # The value itself must not appear in the message.
    if not isinstance(value, str):
        raise ConfigurationError(f"Credentials need a string as {name}, not {type(value).__name__}.")
    if not value:
        raise ConfigurationError(f"Credentials need a {name} that is not empty.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"{called} contains a character that UTF-8 cannot encode.") from None
    if flaw := _flaw_of_credential(value):
        raise ConfigurationError(f"{called} {flaw}, so the venue would refuse every cancel; give it without that.")


def _plain(value: str) -> str:
    """Return a string of a subclass as a plain string, which every encoder understands."""
    return str.__str__(value) if isinstance(value, str) else value


@attrs.frozen
class Credentials:
    """An API token and its secret. Neither appears in a repr, log line or error of ours.

    ``pickle`` and ``copy`` keep both, so that they can be passed to a worker process: a pickle has them in clear text.

    Args:
        api_token: the token, sent with each request.
        api_secret: the secret, never sent; it keys the HMAC-SHA256 of each request.

    Raises:
        ConfigurationError: if one is empty, is not a string that UTF-8 can encode, begins or ends with white space
            (the newline of a file), or is enclosed in quotation marks. The text does not show it.
    """

    api_token: str = attrs.field(repr=lambda _: "'***'", converter=_plain, validator=_checked_credential)
    api_secret: str = attrs.field(repr=lambda _: "'***'", converter=_plain, validator=_checked_credential)

    @classmethod
    def from_env(cls) -> Credentials:
        """Return the credentials in ``RIPIO_API_TOKEN`` and ``RIPIO_API_SECRET``.

        Instead of each, ``RIPIO_API_TOKEN_FILE`` and ``RIPIO_API_SECRET_FILE`` may name a file that contains nothing
        else, as container platforms mount secrets. One line end at its end is removed.

        Raises:
            ConfigurationError: names every variable that is missing or empty, or the one whose value cannot be right:
                a file that cannot be read or is empty, or both the value and a file.
        """
        found = {name: _from_env(name) for name in (TOKEN_VARIABLE, SECRET_VARIABLE)}
        missing = [name for name, (value, _) in found.items() if not value]
        if missing:
            raise ConfigurationError(
                f"No credentials: set the environment variable{'s' if len(missing) > 1 else ''} "
                f"{' and '.join(missing)}, or pass credentials=Credentials(token, secret)."
            )
        for name, (value, called) in found.items():
            _check_credential(called, name, value)
        return cls(found[TOKEN_VARIABLE][0], found[SECRET_VARIABLE][0])


_CREDENTIAL_MOST = 65_536
"""Bytes of a credential file, at most: a longer file is something else."""


def _from_env(name: str) -> tuple[str, str]:
    """Return a credential, empty if it is not given, and what to call it in a message; or raise ConfigurationError."""
    value, variable = os.environ.get(name, ""), f"{name}_FILE"
    path = os.environ.get(variable)
    if path is None:
        return value, f"The environment variable {name}"
    if value:
        raise ConfigurationError(f"Both {name} and {variable} are set, and only one of them can be meant. Unset one.")
    if not path:
        raise ConfigurationError(f"The environment variable {variable} is empty: name a file in it, or unset it.")
    called = f"The file {path!r} that {variable} names"
    try:
        with open(path, "rb") as file:
            data = file.read(_CREDENTIAL_MOST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "that cannot be a name"
        raise ConfigurationError(f"{called} cannot be read: {why}.") from None
    if len(data) > _CREDENTIAL_MOST:
        raise ConfigurationError(f"{called} is too long for a credential.")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{called} is not UTF-8.") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigurationError(f"{called} is empty.")
    return text, called


SHOWN_MOST = 60
"""Characters of an id that a message shows, at most."""


def _flaw_of_id(text: str) -> str | None:
    """Return why a text cannot be an order id of the venue, as a clause; None if it may be one."""
    for end, where in ((text[-1], "ends"), (text[0], "begins")):
        if end.isspace() or unicodedata.category(end) == "Cf":  # also characters without width: a mark, a joiner
            return f"{where} with {_end_name(end)}; give it without (line.strip() of a file's line)"
    return None


def _note_oddities(external_id: str) -> None:
    """Log an odd external id: it is free text, so it may be intended, and the venue may have accepted it."""
    # A user's log handler may raise; the cancel goes on.
    with suppress(Exception):
        if external_id != external_id.strip():
            _logger.warning("the external id %r has white space at its ends; it is sent as it is", external_id)
        if len(external_id) > EXTERNAL_ID_MOST:
            _logger.warning(
                "the external id %.60r has %d characters, and the venue documents at most %d; it is sent as it is",
                external_id,
                len(external_id),
                EXTERNAL_ID_MOST,
            )


def canonical_id(id: str) -> str:
    """Return the one spelling by which order ids are compared: ASCII letters in lower case, everything else unchanged.

    The venue's ids are UUIDs, which it writes in upper case and accepts in lower case (``_venue/contract.md``). Letters
    beyond ASCII are left alone, because changing their case can make two different ids equal.
    """
    return id.lower() if id.isascii() else id.encode().lower().decode()


def _identity(id: str | None) -> str | None:
    return None if id is None else canonical_id(id)


@attrs.frozen
class CancelRequest:
    """Which order to cancel: by exactly one of the venue's id and your own external id.

    Two requests are equal if they name the same order in the same way: ids are compared without regard to the case of
    ASCII letters, external ids exactly. The text that is signed and sent is the one that was given.

    Args:
        id: the venue's order id, as the order's creation returned it.
        external_id: the id that you gave the order when you created it. One longer than the 36 characters that the
            venue documents is logged as a warning and sent anyway.

    Raises:
        InvalidRequest: if both or neither are given; if the one given is not a string, is empty, or contains something
            that UTF-8 cannot encode; if an ``id`` begins or ends with white space, as the lines of an open file do, or
            with a character without width. An ``external_id`` is free text: white space at its ends is logged and sent
            as given.

    Source: ``_venue/contract.md``, "Request".
    """

    id: str | None = attrs.field(default=None, eq=_identity)
    external_id: str | None = None

    def __attrs_post_init__(self) -> None:
        name, value = "id", self.id
        if value is None:
            name, value = "external_id", self.external_id
            if value is None:
                raise InvalidRequest("A cancel needs an order: give id or external_id; both are missing.")
        elif self.external_id is not None:
            raise InvalidRequest("A cancel names one order in one way: give id or external_id, not both.")
        if value.__class__ is not str:
            if not isinstance(value, str):
                raise InvalidRequest(f"{name} must be a string, not {type(value).__name__}.")
            value = _plain(value)
            object.__setattr__(self, name, value)
        if not value:
            raise InvalidRequest(f"{name} must not be empty.")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidRequest(
                    f"{name} contains a character that UTF-8 cannot encode (a lone surrogate)."
                ) from None
        if name != "id":
            _note_oddities(value)
        elif flaw := _flaw_of_id(value):
            raise InvalidRequest(f"id {_shown(value)} {flaw}.")

    @staticmethod
    def of(id: str | CancelRequest | None, external_id: str | None = None) -> CancelRequest:
        """Return a request from what a caller passed: an order id, a whole request, or an external id.

        Raises:
            InvalidRequest: as above, and for an external id together with a whole request.
        """
        if not isinstance(id, CancelRequest):
            return CancelRequest(id, external_id) if external_id is not None else request_by_id(id)
        if external_id is not None:
            raise InvalidRequest("A CancelRequest already names its order; do not give external_id as well.")
        return id

    @property
    def key(self) -> str:
        """The id or the external id, whichever is set."""
        return self.id if self.id is not None else self.external_id  # type: ignore[return-value]  # one of them is set

    def __str__(self) -> str:
        return f"order {self.id}" if self.id is not None else f"order with external id {self.external_id}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_MOST else text[:SHOWN_MOST] + "…")


# A frozen class is filled in slot by slot, bypassing the checks: the caller has made them.
_new_request = CancelRequest.__new__
_set_id = CancelRequest.__dict__["id"].__set__
_set_external_id = CancelRequest.__dict__["external_id"].__set__


def recorded_request(id: str | None, external_id: str | None) -> CancelRequest:
    """Return a request that was valid when it was recorded, even if it would be refused now."""
    request = _new_request(CancelRequest)
    _set_id(request, id)
    _set_external_id(request, external_id)
    return request


def request_by_id(id: str | None) -> CancelRequest:
    """Return ``CancelRequest(id)``; this is faster for nearly every id."""
    if id.__class__ is str and id and id.isascii() and id.strip() is id:
        return recorded_request(id, None)
    return CancelRequest(id)


class CanceledOrder(msgspec.Struct, frozen=True, gc=False):
    """An order that the venue has canceled, with what was executed before (``_venue/contract.md``, "Success").

    Only the status and the id by which the order was named are certain. Every other field is None if the venue left it
    out, sent null, or sent something unreadable.

    Amounts are in the pair's base currency, values in its quote currency, and the price is quote per base; all are
    exact, finite decimals. Dates have a time zone and are in UTC.

    Attributes:
        id: the venue's id, as the venue writes it; None only if the order was named by its external id.
        status: the venue's word for canceled, as it was sent.
        unreadable: name and JSON text (at most 200 characters) of each field that was present but unreadable.
    """

    id: str | None
    create_date: datetime | None = None
    update_date: datetime | None = None
    executed_amount: Decimal | None = None
    remaining_amount: Decimal | None = None
    remaining_value: Decimal | None = None
    requested_amount: Decimal | None = None
    requested_value: Decimal | None = None
    total_value: Decimal | None = None
    status: str = "canceled"
    type: str | None = None
    pair: str | None = None
    price: Decimal | None = None
    external_id: str | None = None
    side: str | None = None
    average_execution_price: Decimal | None = None
    unreadable: tuple[tuple[str, str], ...] = ()

    def names(self) -> list[CancelRequest]:
        """Return requests that name this order as the venue names it. They are not checked: it may say anything."""
        named = [recorded_request(self.id, None)] if self.id else []
        return [*named, recorded_request(None, self.external_id)] if self.external_id else named
