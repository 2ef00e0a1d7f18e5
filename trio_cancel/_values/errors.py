"""Every exception that this library raises, under one root. Those that carry an outcome or a report are defined there.

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
    ├── OrdersLeft                           orders that may still be on the book: report
    ├── JournalError                         a journal cannot be used or refused a new hold
    │   └── TakenOver                        another session or a guard has this session's journal now: report
    ├── LookupFailed                         a lookup cannot tell an order's state: status, error_code, retry_after
    └── SessionClosed (trio.ClosedResourceError)   used after its block

    Interrupted (BaseException)              a signal ended a ``cancel_on_signals()`` block: signum

No message, argument or attribute here ever contains a secret. All exceptions survive ``pickle``, ``copy.copy`` and
``copy.deepcopy`` with their fields, notes and ``__cause__``. If a cause from another library cannot be pickled, an
exception with its class name and its text takes its place.
"""

from __future__ import annotations

import trio

from trio_cancel._values.pickling import Picklable


class TradingError(Picklable, Exception):
    """The root of this library's exceptions. Only ``Interrupted`` is outside it, so that no handler swallows that."""


class ConfigurationError(TradingError, ValueError):
    """A url, credentials or a keyword cannot be used. Nothing was contacted."""


class InvalidRequest(TradingError, ValueError, TypeError):
    """A request breaks a rule of the venue's contract. Nothing was sent.

    It is both a ``ValueError`` and a ``TypeError``, for callers that expect either.
    """


class HandshakeFailed(TradingError):
    """A connection could not be opened. If an exception was the reason, it is the ``__cause__``.

    Attributes:
        status: the HTTP status of a refused upgrade, or None.
        retry_after: seconds that the venue asked us to wait, or None.
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
    """A connection ended while requests were waiting on it. The reason, if there is one, is the ``__cause__``."""


class NoReply(TradingError):
    """A request was written and no answer came in time."""


class NotWritten(TradingError):
    """A request was never completely written: its time was over, or its caller left before its turn came."""


class InvalidReply(TradingError):
    """The venue's answer contradicts itself or the contract, or cannot be read, so it says nothing about the order."""


class UnlistedRefusal(InvalidReply):
    """The venue refused with a status and code that its contract does not list.

    It may be another way to say that the order is closed, so nothing is known. The venue's words are in the outcome's
    ``error``. The cancel is not tried again.
    """


class VenueUnavailable(TradingError):
    """The venue answered with a server error (5xx) or 408. It may or may not have applied the cancel.

    Attributes:
        status: the HTTP-like status of the answer.
        error_code: the venue's code, if it gave one.
        message: the venue's words, if it gave any.
    """

    def __init__(self, status: int, error_code: int | None = None, message: str = "") -> None:
        super().__init__(
            f"The venue answered {status}{f': {message}' if message else ''}; it may have applied the cancel."
        )
        self.status = status
        self.error_code = error_code
        self.message = message


class JournalError(TradingError):
    """A journal cannot be opened, belongs to another account, or cannot take a new hold."""


class LookupFailed(TradingError):
    """A lookup cannot tell the state of an order. This says nothing about the order.

    Raise it from your own lookup; use ``status=429`` if the venue limited the request: the session then slows down.

    Attributes:
        status: the HTTP status of the answer; None if no answer could be read. 404 means that the source does not know
            the order now, which does not mean that the order is off the book.
        error_code: the venue's code, if it gave one.
        retry_after: seconds that the venue asked us to wait, if it did.
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


class Interrupted(Picklable, BaseException):
    """A signal ended a ``cancel_on_signals()`` block. It is not an ``Exception``, so no handler of those swallows it.

    Attributes:
        signum: the number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.signum = signum
