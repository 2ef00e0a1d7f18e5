"""What became of a cancel: a closed union of six frozen outcomes, and the exceptions that carry one.

``off_book`` answers the only question that matters: True (the order is off the book), False (we did not take it
off), None (don't know). Which answer means what is the table in ``_venue/contract.md``, applied in
``_venue/verdict.py``; several attempts are read together in ``_engine/order.py``.

Outcomes survive ``pickle``, ``copy.copy`` and ``copy.deepcopy``. Two outcomes are equal if their fields
are; of two causes class and words are compared. To change a field in a copy use ``msgspec.structs.replace``.

What is kept for each order of a bulk cancel is a ``msgspec.Struct`` that the garbage collector never visits
(``gc=False``): it cannot be part of a cycle. An outcome that holds an exception can be, through its traceback, and is
visited.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NoReturn, Self, TypeAlias

import msgspec

from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import TradingError
from trio_cancel._values.models import CanceledOrder, CancelRequest
from trio_cancel._values.order_state import OrderState
from trio_cancel._values.travel import identity, portable

FIELD_ADVICE = (
    "if the credentials are right, the venue may know the token by its other name: "
    "choose api_token or apiToken with token_field or TRIO_CANCEL_TOKEN_FIELD"
)
"""For refusals that may be for the name under which the token was sent."""


OutcomeKind: TypeAlias = Literal["canceled", "already_closed", "not_found", "rejected", "not_sent", "unknown"]
"""The words that ``outcome.kind`` can be, one for each of the six classes."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One request on the wire.

    Attributes:
        request_id: the id that it carried; never used twice.
        written_at: Unix seconds (UTC) when it was signed and handed to the socket, which accepted its last byte; None
            if it never did.
        answered_at: Unix seconds (UTC) when its answer came; None if none came.
        status: the status of that answer; None if none came or it had none that could be read.
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
        """True for such a refusal that may be for the signature or the timestamp: signed again it may be taken."""
        words = self.message.lower()
        return self.refuses_credentials and ("token" not in words or _names_signature(words))

    @property
    def misses_token(self) -> bool:
        """True for a refusal that may be for the name under which the token was sent."""
        if self.refuses_credentials:
            return not _names_signature(self.message.lower())
        return self.error_code == 40010 and 400 <= self.status <= 499

    def __str__(self) -> str:
        code = "" if self.error_code is None else f" {self.error_code}"
        return f"{self.status}{code}{f' {self.message}' if self.message else ''}"


def _names_signature(words: str) -> bool:
    return "signature" in words or "timestamp" in words


class _Named(msgspec.Struct, frozen=True):
    """What may be given by place: see :class:`_Outcome`."""

    request: CancelRequest
    attempts: tuple[Attempt, ...] = ()


class _Outcome(_Named, frozen=True, kw_only=True):
    """What all outcomes have in common.

    Attributes:
        kind: a word for the class, the same for each outcome of it: see ``OutcomeKind``.
        off_book: True if the order is off the book, False if we did not take it off, None if that is not known.
        request: the order that was to be canceled.
        attempts: the requests that were written for it, oldest first.
        error: the venue's last error, where it sent one.
        after_unanswered: True if an earlier attempt was unanswered or answered 5xx, so that it may have been the one
            that took effect.
        seen: what the last lookup saw and when, if the order was looked up and this did not settle it; None else. It
            may be outdated, and by external id it may be another order that has or had this name.
        unrecorded: True if there is a journal that could not record in time that this order was to be canceled, so that
            the request went out before: nobody would learn of it after a crash.
    """

    kind: ClassVar[OutcomeKind]
    off_book: ClassVar[bool | None]

    error: VenueReply | None = None
    after_unanswered: bool = False
    seen: OrderState | None = None
    unrecorded: bool = False

    @property
    def final(self) -> bool:
        """False only in the report of a batch, for what can still change."""
        return True


class Canceled(_Outcome, frozen=True, kw_only=True, gc=False):
    """The venue canceled it (200, status ``canceled``); ``order`` is the order as the venue tells it."""

    kind: ClassVar[Literal["canceled"]] = "canceled"
    off_book: ClassVar[bool | None] = True

    order: CanceledOrder

    def unwrap(self) -> CanceledOrder:
        """Return the order."""
        return self.order


class AlreadyClosed(_Outcome, frozen=True, kw_only=True, gc=False):
    """It was canceled or fully executed before (40408, 40020, 40021). It is off the book.

    Attributes:
        closed_as: ``"canceled"`` or ``"executed"`` where the venue says which of the two it was (40020, 40021); None
            where it does not (40408) and no lookup told.
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
    """The venue knows no such order now (40401, 40400, or any other 404).

    That does not say that the order is off the book: its create may still be on the way, the id may be mistyped, the
    token may be another account's.

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
    """The venue refused, before it looked at the order; we did not take it off the book.

    Only the refusals that the venue's contract lists are this: 40010, 40011 and status 401, 429.

    Attributes:
        clock: what is known of the venue's clock, if the refusal may be for the signature and our clock is surely off.
        final: False if it will be tried again (in the report of a batch that is running).
    """

    kind: ClassVar[Literal["rejected"]] = "rejected"
    off_book: ClassVar[bool | None] = False

    clock: OffsetInterval | None = None
    final: bool = True

    @property
    def advice(self) -> str | None:
        """A clause about what may be wrong on our side and what helps; None if nothing suggests itself."""
        if self.clock is not None:
            return self.clock.advice
        return FIELD_ADVICE if self.error is not None and self.error.misses_token else None

    def unwrap(self) -> NoReturn:
        """Raise the :class:`VenueError` of its code."""
        _raise_venue_error(self)


class _Caused(_Outcome, frozen=True, kw_only=True):
    """What holds an exception, which is compared by its class and words, and which pickle perhaps cannot take."""

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
"""What became of a cancel. ``match`` over the six classes is exhaustive."""

KINDS: tuple[OutcomeKind, ...] = tuple(
    cls.kind for cls in (Canceled, AlreadyClosed, NotFound, Rejected, NotSent, Unknown)
)


def _compared(outcome: _Caused) -> tuple[object, ...]:
    """Return what makes two of one class equal."""
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
    cls = _exception_of(outcome, error)
    raise cls(
        text,
        status=error.status,
        error_code=error.error_code,
        message=error.message,
        request=outcome.request,
        outcome=outcome,
    )


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
    """Return what is known of an order when one of its name is closed, and perhaps it was another one."""
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
    """The venue says that an order with this external id is closed, but perhaps it was another one of the same name.

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
        error_code: the venue's code; codes unknown to us come as they are. None if the answer had none.
        message: the venue's words.
        request: the request that was refused.
        outcome: the whole outcome, with its attempts.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int,
        error_code: int | None,
        message: str,
        request: CancelRequest,
        outcome: AlreadyClosed | NotFound | Rejected,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.request = request
        self.outcome = outcome


class OrderNotFound(VenueError):
    """404: the venue knows no such order now. The order may still exist: see :class:`trio_cancel.NotFound`."""


class OrderNotActive(VenueError):
    """40408, 40020, 40021: it was canceled or fully executed before; ``outcome.closed_as`` says which, if known."""


class InvalidSignature(VenueError):
    """40011 or status 401: token, signature or timestamp were refused. The text names a clock that is surely off."""


class MissingParameters(VenueError):
    """40010: the venue missed a parameter; perhaps it knows the token by its other name (``token_field``)."""


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
