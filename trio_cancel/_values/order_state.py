"""What a lookup says about an order at one moment, and what can look an order up."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

import attrs

from trio_cancel._values.errors import InvalidRequest, LookupFailed
from trio_cancel._values.models import CancelRequest, canonical_id


class OrderStatus(enum.StrEnum):
    """The state of an order, in the venue's spelling; ``OTHER`` for a status that is not known here."""

    OPEN = "open"
    PARTIALLY_EXECUTED = "executed_partially"
    EXECUTED = "executed_completely"
    CANCELED = "canceled"
    PENDING_CREATION = "pending_creation"
    OTHER = "other"

    @classmethod
    def read(cls, text: str) -> OrderStatus:
        """Return the status for the venue's word ``text``; its older word for open is ``waiting``."""
        return _BY_TEXT.get(text, cls.OTHER)

    @property
    def on_book(self) -> bool | None:
        """True if the status is active, False if it is final, None if it is neither for certain."""
        return _ON_BOOK.get(self)


_BY_TEXT = {str(status): status for status in OrderStatus if status is not OrderStatus.OTHER}
_BY_TEXT["waiting"] = OrderStatus.OPEN
_ON_BOOK = {
    OrderStatus.OPEN: True,
    OrderStatus.PARTIALLY_EXECUTED: True,
    OrderStatus.EXECUTED: False,
    OrderStatus.CANCELED: False,
}


@attrs.frozen
class Fill:
    """One execution of a part of an order.

    Attributes:
        amount: in the pair's base currency, exact.
        price: quote currency per base; None if the venue did not say.
        fee: in ``fee_currency``; None if the venue did not say.
        fee_currency: None if the venue did not say.
        time: aware, in UTC; None if the venue did not say.
        total_value: in the pair's quote currency; None if the venue did not say.
    """

    amount: Decimal
    price: Decimal | None = None
    fee: Decimal | None = None
    fee_currency: str | None = None
    time: datetime | None = None
    total_value: Decimal | None = None


def _as_tuple(fills: Iterable[Fill]) -> tuple[Fill, ...]:
    return tuple(fills)


@attrs.frozen(kw_only=True)
class OrderState:
    """An order as a lookup saw it.

    A final status (executed, canceled) cannot change any more, however old the answer is. An active one (open,
    partially executed) was true at some moment before ``seen_at`` and may be outdated: a replica of the venue's
    database may lag by any amount of time, and a cancel that is under way may still act.

    Amounts are in the pair's base currency, values in its quote currency; all are exact, finite decimals. Dates have a
    time zone and are in UTC. Anything that a source does not give is None.

    Attributes:
        status: the state of the order.
        seen_at: Unix seconds (UTC) when the answer came, by our own clock.
        raw_status: the status as the venue wrote it.
        id: the venue's id of the order that the answer is about.
        external_id: your own id of that order.
        pair: the market, such as ``BTC_BRL``.
        side: ``buy`` or ``sell``, as the venue wrote it.
        type: ``limit``, ``market`` and so on, as the venue wrote it.
        price: quote currency per base.
        requested_amount: the amount that was ordered.
        executed_amount: what has been executed.
        remaining_amount: what has not been executed.
        requested_value: as the venue sent it, like the next two.
        remaining_value: see above.
        total_value: see above.
        fee: the venue's fee so far.
        average_execution_price: quote currency per base.
        fills: the executions, in the order of the answer; empty if there are none or the source does not list them.
        create_date: when the order was created, by the venue's clock.
        update_date: when the order changed last, by the venue's clock.
    """

    status: OrderStatus = attrs.field(converter=OrderStatus)
    seen_at: float
    raw_status: str = attrs.field()
    id: str | None = None
    external_id: str | None = None
    pair: str | None = None
    side: str | None = None
    type: str | None = None
    price: Decimal | None = None
    requested_amount: Decimal | None = None
    executed_amount: Decimal | None = None
    remaining_amount: Decimal | None = None
    requested_value: Decimal | None = None
    remaining_value: Decimal | None = None
    total_value: Decimal | None = None
    fee: Decimal | None = None
    average_execution_price: Decimal | None = None
    fills: tuple[Fill, ...] = attrs.field(default=(), converter=_as_tuple)
    create_date: datetime | None = None
    update_date: datetime | None = None

    @raw_status.default
    def _status_as_text(self) -> str:
        return str(self.status)

    @property
    def on_book(self) -> bool | None:
        """True: on the book when the answer was made. False: off the book for good. None: don't know."""
        return self.status.on_book

    def is_of(self, request: CancelRequest) -> bool:
        """Return True if the state itself says that it is about the order that ``request`` names.

        The venue's ids are UUIDs, which it accepts and writes in either case; external ids are compared exactly.
        """
        if request.id is not None:
            return self.id is not None and canonical_id(self.id) == canonical_id(request.id)
        return self.external_id == request.external_id


class OrderLookup(Protocol):
    """Anything that can tell the state of an order: an async callable from a request to an :class:`OrderState`.

    It raises :class:`LookupFailed` if it cannot tell. The state must say which order it is about (``id``, and
    ``external_id`` for a request by external id), or it settles nothing. Several tasks may call it at once, and it may
    be cancelled at any await.
    """

    def __call__(self, request: CancelRequest, /) -> Awaitable[OrderState]:
        """Return the state of the order."""


def checked(state: object, request: CancelRequest) -> OrderState:
    """Return what a lookup returned if it is a state of the requested order; otherwise raise LookupFailed."""
    if not isinstance(state, OrderState):
        raise LookupFailed(f"The lookup of {request} returned {type(state).__name__}, not an OrderState.")
    flaw = _flaw(state)
    if flaw is not None:
        raise LookupFailed(f"The lookup of {request} returned a state that cannot be used: {flaw}.")
    if not state.is_of(request):
        raise LookupFailed(f"The lookup of {request} answered for another order, or did not say for which.")
    return state


def _flaw(state: Any) -> str | None:
    """Return what is wrong with those fields that decide about an order, as a clause."""
    try:
        if state.id is not None:
            CancelRequest(state.id)
    except InvalidRequest as error:
        return str(error).rstrip(".")
    if not isinstance(state.external_id, str | None):
        return "external_id is not a string"
    for name in ("create_date", "update_date"):
        date = getattr(state, name)
        if date is not None and (not isinstance(date, datetime) or date.utcoffset() is None):
            return f"{name} is not a date with a time zone"
    return None
