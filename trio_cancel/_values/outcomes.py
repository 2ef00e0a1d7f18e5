"""What happened to a cancel: a closed union of six frozen outcomes, and the exceptions that carry one.

``off_book`` answers the question that matters most: True (the order is off the book), False (we did not take it
off), None (don't know). The table in ``_venue/contract.md`` says which answer means what, and ``_venue/verdict.py``
applies it; ``_engine/order.py`` judges several attempts together.

Outcomes survive ``pickle``, ``copy.copy`` and ``copy.deepcopy``. Two outcomes are equal if their fields are equal;
causes are compared by class and text. To change a field in a copy, use ``msgspec.structs.replace``.

Most outcomes of a bulk cancel are ``msgspec.Struct``s that the garbage collector never visits (``gc=False``), because
they cannot be part of a cycle. An outcome that holds an exception can be part of one, through the traceback, and is
visited.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NoReturn, Self, TypeAlias

import msgspec

from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import TradingError
from trio_cancel._values.models import CanceledOrder, CancelRequest
from trio_cancel._values.order_state import OrderState
from trio_cancel._values.pickling import identity, portable

FIELD_ADVICE = (
    "if the credentials are right, the venue may know the token by its other name: "
    "choose api_token or apiToken with token_field or TRIO_CANCEL_TOKEN_FIELD"
)
"""For refusals that may be due to the name under which the token was sent."""


OutcomeKind: TypeAlias = Literal["canceled", "already_closed", "not_found", "rejected", "not_sent", "unknown"]
"""The possible values of ``outcome.kind``, one for each of the six classes."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One request on the wire.

    Attributes:
        request_id: the id that it carried; never used twice.
        written_at: Unix seconds (UTC) when it was signed and handed to the socket, which accepted its last byte; None
            if it never did.
        answered_at: Unix seconds (UTC) when its answer came; None if none came.
        status: the status of that answer; None if none came or it had no readable one.
    """

    request_id: str
    written_at: float | None = None
    answered_at: float | None = None
    status: int | None = None


class VenueReply(msgspec.Struct, frozen=True, gc=False):
    """The error that the venue sent (``_venue/contract.md``, "Errors").

    Attributes:
        status: HTTP-like status.
        error_code: the venue's code; None if the answer had none.
        message: the venue's words; may be empty.
    """

    status: int
    error_code: int | None = None
    message: str = ""

    @property
    def refuses_credentials(self) -> bool:
        """True for a refusal of the token, the signature or the timestamp: status 401, or 40011."""
        return self.status == 401 or (
            self.error_code == 40011 and 400 <= self.status <= 499 and self.status not in (404, 408, 429)
        )

    @property
    def refuses_signature(self) -> bool:
        """True for such a refusal that may be due to signature or timestamp: signed again, it may be accepted."""
        words = self.message.lower()
        return self.refuses_credentials and ("token" not in words or _names_signature(words))

    @property
    def misses_token(self) -> bool:
        """True for a refusal that may be due to the name under which the token was sent."""
        if self.refuses_credentials:
            return not _names_signature(self.message.lower())
        return self.error_code == 40010 and 400 <= self.status <= 499

    def __str__(self) -> str:
        code = "" if self.error_code is None else f" {self.error_code}"
        return f"{self.status}{code}{f' {self.message}' if self.message else ''}"


def _names_signature(words: str) -> bool:
    return "signature" in words or "timestamp" in words


class _Named(msgspec.Struct, frozen=True):
    """The fields that may be given by position: see :class:`_Outcome`."""

    request: CancelRequest
    attempts: tuple[Attempt, ...] = ()


class _Outcome(_Named, frozen=True, kw_only=True):
    """What all outcomes have in common.

    Attributes:
        kind: a word for the class, the same for each outcome of it: see ``OutcomeKind``.
        off_book: True if the order is off the book, False if we did not take it off, None if that is not known.
        request: the order, as it was named.
        attempts: the requests that were written for it, oldest first.
        error: the venue's last error, if it sent one.
        after_unanswered: True if an earlier attempt was unanswered or answered 5xx, so it may have been the one that
            took effect.
        seen: what the last lookup saw and when, if the order was looked up and this did not settle it; otherwise None.
            It may be outdated, and by external id it may be another order that has or had this name.
        unrecorded: True if there is a journal that could not record in time that this order was about to be canceled,
            so that the request went out before: after a crash, nobody would learn of it.
    """

    kind: ClassVar[OutcomeKind]
    off_book: ClassVar[bool | None]

    error: VenueReply | None = None
    after_unanswered: bool = False
    seen: OrderState | None = None
    unrecorded: bool = False

    @property
    def final(self) -> bool:
        """False only in the report of a batch, for an outcome that can still change."""
        return True


class Canceled(_Outcome, frozen=True, kw_only=True, gc=False):
    """The venue canceled it (200, status ``canceled``); ``order`` is the order as the venue sent it."""

    kind: ClassVar[Literal["canceled"]] = "canceled"
    off_book: ClassVar[bool | None] = True

    order: CanceledOrder

    def unwrap(self) -> CanceledOrder:
        """Return the order."""
        return self.order


class AlreadyClosed(_Outcome, frozen=True, kw_only=True, gc=False):
    """It was canceled or fully executed before (40408, 40020, 40021). It is off the book.

    Attributes:
        closed_as: ``"canceled"`` or ``"executed"`` if the venue says which (40020, 40021); None if it does not (40408)
            and no lookup found out.
        order: the order as a lookup saw it, with how much of it was executed; None if it was not looked up.
        final: False if it is being looked up (in the report of a batch).
    """

    kind: ClassVar[Literal["already_closed"]] = "already_closed"
    off_book: ClassVar[bool | None] = True

    closed_as: Literal["canceled", "executed"] | None = None
    order: OrderState | None = None
    final: bool = True

    def unwrap(self) -> NoReturn:
        """Raise :class:`OrderNotActive`."""
        _raise_venue_error(self)


class NotFound(_Outcome, frozen=True, kw_only=True, gc=False):
    """The venue does not know the order now (40401, 40400, or any other 404).

    This does not mean that the order is off the book: its create may still be on the way, the id may be mistyped, or
    the token may belong to another account.

    Attributes:
        final: False if it is being looked up (in the report of a batch).
    """

    kind: ClassVar[Literal["not_found"]] = "not_found"
    off_book: ClassVar[bool | None] = None

    final: bool = True

    def unwrap(self) -> NoReturn:
        """Raise :class:`OrderNotFound`."""
        _raise_venue_error(self)


class Rejected(_Outcome, frozen=True, kw_only=True, gc=False):
    """The venue refused before it looked at the order; we did not take it off the book.

    Only the refusals that the venue's contract lists end like this: 40010, 40011 and status 401, 429.

    Attributes:
        clock: the venue's clock, as far as it is known, if the signature may be the reason and our clock is certain to
            be off.
        final: False if it will be tried again (in the report of a batch that is running).
    """

    kind: ClassVar[Literal["rejected"]] = "rejected"
    off_book: ClassVar[bool | None] = False

    clock: OffsetInterval | None = None
    final: bool = True

    @property
    def advice(self) -> str | None:
        """A clause about what may be wrong on our side and what helps; None if there is nothing to suggest."""
        if self.clock is not None:
            return self.clock.advice
        return FIELD_ADVICE if self.error is not None and self.error.misses_token else None

    def unwrap(self) -> NoReturn:
        """Raise the :class:`VenueError` of its code."""
        _raise_venue_error(self)


class _Caused(_Outcome, frozen=True, kw_only=True):
    """An outcome that holds an exception, which is compared by class and text and may not be picklable."""

    cause: BaseException | None = None
    final: bool = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), msgspec.structs.asdict(self) | {"cause": portable(self.cause)})

    def __copy__(self) -> Self:
        return self


class NotSent(_Caused, frozen=True, kw_only=True):
    """No complete request was ever accepted by the network, so the venue cannot have seen one.

    Attributes:
        cause: why it was not sent.
        final: False if it may still be sent (in the report of a batch that is running or can be run).
    """

    kind: ClassVar[Literal["not_sent"]] = "not_sent"
    off_book: ClassVar[bool | None] = False

    def unwrap(self) -> NoReturn:
        """Raise :class:`CancelNotSent`."""
        raise CancelNotSent(f"The cancel of {self.request} was not sent{_because(self.cause)}", outcome=self)


class Unknown(_Caused, frozen=True, kw_only=True):
    """The order may or may not be off the book. Ask the venue (REST order lookup) or cancel again: that does no harm.

    Attributes:
        cause: why nothing is known: :class:`NoReply`, :class:`ConnectionLost`, :class:`VenueUnavailable`,
            :class:`InvalidReply`, :class:`UnlistedRefusal`, :class:`NotSurelyThisOrder`.
        final: False if an answer can still come (in the report of a batch).
    """

    kind: ClassVar[Literal["unknown"]] = "unknown"
    off_book: ClassVar[bool | None] = None

    def unwrap(self) -> NoReturn:
        """Raise :class:`OutcomeUnknown`."""
        raise OutcomeUnknown(f"Whether {self.request} is off the book is unknown{_because(self.cause)}", outcome=self)


Outcome: TypeAlias = Canceled | AlreadyClosed | NotFound | Rejected | NotSent | Unknown
"""The outcome of a cancel. ``match`` over the six classes is exhaustive."""

KINDS: tuple[OutcomeKind, ...] = tuple(
    cls.kind for cls in (Canceled, AlreadyClosed, NotFound, Rejected, NotSent, Unknown)
)


def _compared(outcome: _Caused) -> tuple[object, ...]:
    """Return what two outcomes of one class are compared by."""
    return tuple((msgspec.structs.asdict(outcome) | {"cause": identity(outcome.cause)}).values())


def _make(cls: type[_Caused], fields: dict[str, Any]) -> _Caused:
    return cls(**fields)


def _because(cause: BaseException | None) -> str:
    return "." if cause is None else f": {cause}"


def _raise_venue_error(outcome: AlreadyClosed | NotFound | Rejected) -> NoReturn:
    error = outcome.error or VenueReply(0)
    text = f"The venue refused to cancel {outcome.request}: {error}"
    if isinstance(outcome, AlreadyClosed) and outcome.order is not None:
        named = str(outcome.request)
        text = f"{named[:1].upper()}{named[1:]} was {outcome.closed_as} already, as a lookup says."
    if isinstance(outcome, Rejected) and outcome.advice is not None:
        text += f" ({outcome.advice})"
    raise _exception_of(outcome, error)(text, outcome=outcome)


def _exception_of(outcome: AlreadyClosed | NotFound | Rejected, error: VenueReply) -> type[VenueError]:
    if isinstance(outcome, AlreadyClosed):
        return OrderNotActive
    if isinstance(outcome, NotFound):
        return OrderNotFound
    if error.status == 429:
        return RateLimited
    if error.refuses_credentials:
        return InvalidSignature
    return MissingParameters if error.error_code == 40010 else VenueError


def not_surely(closed: Canceled | AlreadyClosed) -> Unknown:
    """Return what is known of an order if one with its name is closed, but perhaps a different one."""
    name = closed.request
    if isinstance(closed, Canceled):
        order = closed.order
        which = f"{order.id} " if order.id else ""
        since = "" if order.create_date is None else f", created {order.create_date.isoformat(timespec='milliseconds')}"
        said = f"it canceled the order {which}with this external id{since}"
    else:
        said = "the order with this external id is closed"
    text = f"the venue says that {said}; it may be an older one than the one that was added"
    cause = NotSurelyThisOrder(text, closed=closed)
    return Unknown(
        name,
        closed.attempts,
        error=closed.error,
        after_unanswered=closed.after_unanswered,
        unrecorded=closed.unrecorded,
        cause=cause,
    )


class NotSurelyThisOrder(TradingError):
    """The venue says that an order with this external id is closed, but it may be another order of the same name.

    It is the cause of Unknown outcomes of order scopes and of ``trio-cancel resume``: see the guide about scopes.

    Attributes:
        closed: what the venue said; None if it is not known.
    """

    def __init__(self, message: str, *, closed: Canceled | AlreadyClosed | None = None) -> None:
        super().__init__(message)
        self.closed = closed


class VenueError(TradingError):
    """The venue refused to cancel.

    Attributes:
        status: the HTTP-like status of the answer (``_venue/contract.md``).
        error_code: the venue's code; codes unknown to us are passed on. None if the answer had none.
        message: the venue's words.
        request: the request that was refused.
        outcome: the whole outcome, with its attempts.
    """

    def __init__(self, text: str, *, outcome: AlreadyClosed | NotFound | Rejected) -> None:
        super().__init__(text)
        error = outcome.error or VenueReply(0)
        self.status: int = error.status
        self.error_code: int | None = error.error_code
        self.message: str = error.message
        self.request: CancelRequest = outcome.request
        self.outcome = outcome


class OrderNotFound(VenueError):
    """404: the venue knows no such order now. The order may still exist: see :class:`trio_cancel.NotFound`."""


class OrderNotActive(VenueError):
    """40408, 40020, 40021: it was canceled or fully executed before; ``outcome.closed_as`` says which, if known."""


class InvalidSignature(VenueError):
    """40011 or status 401: token, signature or timestamp refused. The text says so if our clock is known to be off."""


class MissingParameters(VenueError):
    """40010: the venue misses a parameter; perhaps it knows the token by its other name (``token_field``)."""


class RateLimited(VenueError):
    """429: too many requests, or the daily limit ("Limit Exceeded")."""


class _NoAnswer(TradingError):
    """Carries an outcome, whose cause is its own.

    Attributes:
        outcome: the whole outcome, with its attempts.
    """

    def __init__(self, text: str, *, outcome: NotSent | Unknown) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.__cause__: BaseException | None = outcome.cause

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        super().__setstate__(state)
        # Of the two causes that a pickle holds one, where they were one.
        cause = self.outcome.cause
        if cause is not None and identity(cause) == identity(self.__cause__):
            self.__cause__ = cause

    @property
    def cause(self) -> BaseException | None:
        """The reason, the same as ``outcome.cause``."""
        return self.outcome.cause


class OutcomeUnknown(_NoAnswer):
    """The order may or may not be off the book. The reason is ``__cause__`` and ``outcome.cause``.

    It is ``VenueUnavailable`` for a 5xx, ``NoReply``, ``ConnectionLost``, ``InvalidReply``.

    Attributes:
        outcome: the whole outcome, with its attempts.
    """

    outcome: Unknown


class CancelNotSent(_NoAnswer):
    """The venue cannot have seen the request. The reason is ``__cause__`` and ``outcome.cause``.

    Attributes:
        outcome: the whole outcome.
    """

    outcome: NotSent
