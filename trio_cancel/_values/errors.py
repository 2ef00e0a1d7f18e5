"""Every exception that this library raises, under one root.

::

    TradingError
    ├── ConfigurationError (ValueError)      url, credentials or a keyword cannot be used; nothing was contacted
    ├── InvalidRequest (ValueError, TypeError)   a request broke a rule; nothing was sent
    ├── HandshakeFailed                      no connection: status, retry_after, __cause__
    ├── ConnectionLost                       a connection ended: cause of Unknown and NotSent outcomes
    ├── NoReply                              written, and no answer in time: cause of Unknown outcomes
    ├── NotWritten                           not written in time or withdrawn: cause of NotSent outcomes
    ├── InvalidReply                         an answer that says nothing: cause of Unknown outcomes
    │   └── UnlistedRefusal                  a refusal that the venue's contract does not list
    ├── NotSurelyThisOrder                   closed, but perhaps another order of this name: cause of Unknown outcomes
    ├── VenueUnavailable                     the venue answered 5xx or 408: cause of Unknown outcomes
    ├── VenueError                           the venue refused: status, error_code, message, request, outcome
    │   ├── OrderNotFound                    40401, 40400 or any other 404
    │   ├── OrderNotActive                   40408, 40020, 40021
    │   ├── InvalidSignature                 40011, or status 401
    │   ├── MissingParameters                40010
    │   └── RateLimited                      status 429
    ├── OutcomeUnknown                       the order may or may not be off the book: outcome, __cause__
    ├── CancelNotSent                        the venue cannot have seen the request: outcome, __cause__
    ├── OrdersLeft                           orders not surely off the book: report
    ├── JournalError                         a journal cannot be used or refused a new hold
    │   └── TakenOver                        another session or a guard has this session's journal now: report
    ├── LookupFailed                         a lookup cannot say where an order stands: status, error_code, retry_after
    └── SessionClosed (trio.ClosedResourceError)   used after its block

    Interrupted (BaseException)              a signal ended a ``cancel_on_signals()`` block: signum

No message, argument or attribute here ever holds a secret. All of them survive ``pickle``, ``copy.copy`` and
``copy.deepcopy`` with their fields, notes and ``__cause__``. A cause of another library that cannot be pickled arrives
as an exception that names its class and says its words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_cancel._values.travel import Travels, identity

if TYPE_CHECKING:
    from trio_cancel._values.models import CancelRequest
    from trio_cancel._values.outcomes import AlreadyClosed, Canceled, NotFound, NotSent, Rejected, Unknown
    from trio_cancel._values.report import CancelReport


class TradingError(Travels, Exception):
    """The root of everything that this library raises."""


class ConfigurationError(TradingError, ValueError):
    """A url, credentials or a keyword cannot be used. Nothing was contacted."""


class InvalidRequest(TradingError, ValueError, TypeError):
    """A request breaks a rule of the venue's contract. Nothing was sent.

    It is both a ``ValueError`` and a ``TypeError``, for callers that expect either.
    """


class HandshakeFailed(TradingError):
    """A connection could not be opened. The reason, if it was an exception, is ``__cause__``.

    Attributes:
        status: the HTTP status of a refused upgrade, else None.
        retry_after: seconds that the venue asked us to wait, else None.
        final: True if trying again cannot help (an untrusted certificate, status 401).
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None, final: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.final = final

    @property
    def cause(self) -> BaseException | None:
        """The exception behind it (the same as ``__cause__``), or None."""
        return self.__cause__


class ConnectionLost(TradingError):
    """A connection ended while requests were waiting on it. The reason is ``__cause__`` where there is one."""


class NoReply(TradingError):
    """A request was written and no answer came in time."""


class NotWritten(TradingError):
    """A request was never completely written: its time was over or its caller left before its turn came."""


class InvalidReply(TradingError):
    """The venue's answer contradicts itself or the contract, or cannot be read, so it says nothing about the order."""


class UnlistedRefusal(InvalidReply):
    """The venue refused with a status and code that its contract does not list.

    It may be another way to say that the order is closed, so that nothing is known. The venue's words are in the
    outcome's ``error``. It is not tried again.
    """


class NotSurelyThisOrder(TradingError):
    """The venue says that an order with this external id is closed, but perhaps it was another one of the same name.

    It is the cause of Unknown outcomes of order scopes and of ``trio-cancel resume``: see the guide about scopes.

    Attributes:
        closed: what the venue said; None if it is not known.
    """

    def __init__(self, message: str, *, closed: Canceled | AlreadyClosed | None = None) -> None:
        super().__init__(message)
        self.closed = closed


class VenueUnavailable(TradingError):
    """The venue answered with a server error (5xx) or 408: it may have applied the cancel or not.

    Attributes:
        status: the HTTP-like status of the answer.
        error_code: the venue's code, where it gave one.
        message: the venue's words, where it gave some.
    """

    def __init__(self, status: int, error_code: int | None = None, message: str = "") -> None:
        super().__init__(
            f"The venue answered {status}{f': {message}' if message else ''}; it may have applied the cancel."
        )
        self.status = status
        self.error_code = error_code
        self.message = message


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


def _cause_of_outcome(error: OutcomeUnknown | CancelNotSent) -> None:
    """Make one of the two causes that a pickle holds, where they were one."""
    cause = error.outcome.cause
    if cause is not None and identity(cause) == identity(error.__cause__):
        error.__cause__ = cause


class OutcomeUnknown(TradingError):
    """The order may or may not be off the book. The reason is ``__cause__`` and ``outcome.cause``.

    Attributes:
        outcome: the whole outcome, with its attempts.
    """

    def __init__(self, text: str, *, outcome: Unknown) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.__cause__: BaseException | None = outcome.cause

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        super().__setstate__(state)
        _cause_of_outcome(self)

    @property
    def cause(self) -> BaseException | None:
        """Why nothing is known: ``VenueUnavailable`` for a 5xx, ``NoReply``, ``ConnectionLost``, ``InvalidReply``."""
        return self.outcome.cause


class CancelNotSent(TradingError):
    """The venue cannot have seen the request. The reason is ``__cause__`` and ``outcome.cause``.

    Attributes:
        outcome: the whole outcome.
    """

    def __init__(self, text: str, *, outcome: NotSent) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.__cause__: BaseException | None = outcome.cause

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        super().__setstate__(state)
        _cause_of_outcome(self)

    @property
    def cause(self) -> BaseException | None:
        """Why it was not sent."""
        return self.outcome.cause


class OrdersLeft(TradingError):
    """Some orders are not surely off the book.

    Attributes:
        report: every outcome; ``report.left`` are those that are not surely off the book.
    """

    def __init__(self, text: str, *, report: CancelReport) -> None:
        super().__init__(text)
        self.report = report


class JournalError(TradingError):
    """A journal cannot be opened, belongs to another account, or cannot take a new hold."""


class TakenOver(JournalError):
    """Another session, or a guard, has taken this session's journal over, for good.

    This session's lease had run out: its machine or its database could not be reached, or its process stood still. What
    it held is the other one's to cancel, which may be done by now. Open a new session.

    Attributes:
        report: what became of the orders of the scope that it comes out of; None where it comes out of no scope.
    """

    def __init__(self, text: str, *, report: CancelReport | None = None) -> None:
        super().__init__(text)
        self.report = report


class LookupFailed(TradingError):
    """A lookup cannot say where an order stands. This says nothing about the order.

    Raise it from a lookup of your own, with ``status=429`` if the venue limited the request: the session then slows
    down.

    Attributes:
        status: the HTTP status of the answer; None if no answer could be read. 404 means that the source knows no such
            order now, which is not to say that the order is off the book.
        error_code: the venue's code, where it gave one.
        retry_after: seconds that the venue asked us to wait, where it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        error_code: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.retry_after = retry_after


class SessionClosed(TradingError, trio.ClosedResourceError):
    """The session's ``async with`` block has ended; open a new one."""


class Interrupted(Travels, BaseException):
    """A signal ended a ``cancel_on_signals()`` block. No ``except Exception`` can swallow it.

    Attributes:
        signum: the number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.signum = signum
