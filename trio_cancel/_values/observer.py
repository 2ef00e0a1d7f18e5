"""What a session reports about itself: to an :class:`Observer` as it happens, in :class:`Statistics` on request."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress

import attrs

from trio_cancel._values.boundary import describe, ends_program, goes_on_from_call
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Outcome
from trio_cancel._values.report import CancelReport


class SafeLogger:
    """The package's logger. If a handler or filter raises, that cannot hurt the caller; stderr gets one line about it.

    ``logging`` itself only tolerates what a handler passes to ``Handler.handleError``.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._told = False

    def log(self, level: int, text: str, *args: object, exc_info: bool = False, depth: int = 2) -> None:
        """Log a text; ``depth`` says how many calls above this one it comes from."""
        try:
            self._logger.log(level, text, *args, exc_info=exc_info, stacklevel=depth)
        except BaseException as error:  # noqa: ASYNC103 - a boundary: it raises what must go on
            if goes_on_from_call(error) or ends_program(error):
                raise
            self._tell(error)

    def _tell(self, error: BaseException) -> None:
        if not self._told:
            self._told = True
            with suppress(Exception):  # stderr may be closed; then there is nowhere to say so
                sys.stderr.write(
                    f"trio_cancel: a logging handler or filter failed ({describe(error)}); its lines are lost, and "
                    "cancels go on.\n"
                )

    def debug(self, text: str, *args: object) -> None:
        self.log(logging.DEBUG, text, *args, depth=3)

    def info(self, text: str, *args: object) -> None:
        self.log(logging.INFO, text, *args, depth=3)

    def warning(self, text: str, *args: object) -> None:
        self.log(logging.WARNING, text, *args, depth=3)

    def error(self, text: str, *args: object) -> None:
        self.log(logging.ERROR, text, *args, depth=3)

    def exception(self, text: str, *args: object) -> None:
        """Log at ERROR, with the exception that is being handled."""
        self.log(logging.ERROR, text, *args, exc_info=True, depth=3)


logging.getLogger("trio_cancel").addHandler(logging.NullHandler())
logger = SafeLogger(logging.getLogger("trio_cancel"))


class Observer:
    """Its methods are called when something happens. Inherit from it and override what you need; the rest does nothing.

    ``open_trading_ws(observer=…)`` and ``open_guard(observer=…)`` take one. A guard reports its connections to the
    venues as a session does, and also calls the last three methods.

    The session's tasks call the methods, so they must be quick and must not block. If one raises, whatever the class,
    that is logged and otherwise ignored, so that watching a cancel can never hurt it. Only KeyboardInterrupt and
    SystemExit keep their meaning: they end the block of ``open_trading_ws`` or ``open_guard`` and propagate from it.
    Times are seconds.
    """

    def request_queued(self, request: CancelRequest) -> None:
        """An order was handed in; for an order of a bulk cancel or a stream: its turn has come."""

    def request_written(self, request: CancelRequest, request_id: str) -> None:
        """An attempt is being handed to the socket."""

    def request_answered(self, request: CancelRequest, request_id: str, status: int | None, seconds: float) -> None:
        """An attempt was answered, ``seconds`` after its write; ``status`` is None if the answer could not be read."""

    def settled_late(self, outcome: Outcome) -> None:
        """An order settled after its caller had left."""

    def connection_opened(self, number: int) -> None:
        """Connection ``number`` (from 1) is ready."""

    def connection_lost(self, number: int, cause: BaseException | None) -> None:
        """Connection ``number`` ended; ``cause`` is None if we closed it."""

    def connection_failed(self, error: BaseException) -> None:
        """An attempt to connect failed; another follows unless the session's state is ``failed``."""

    def paced(self, rate: float) -> None:
        """A 429 changed the pace to ``rate`` requests a second."""

    def guard_looked(self, live: int, left: int, unserved: int) -> None:
        """A guard's look at its database gave different figures from the one before, or was the first after a failure.

        The figures are numbers of journals: those whose session is alive, or was a moment ago; those that were left
        with something in them; and those of an account without credentials here, or whose venue cannot be reached now.
        """

    def guard_blind(self, error: BaseException) -> None:
        """A guard cannot see its database any more; it takes nothing over until the next ``guard_looked``."""

    def guard_took_over(self, journal: str, report: CancelReport) -> None:
        """A guard has dealt with a journal; the report has an outcome for each order that was left."""


@attrs.frozen
class Notifier:
    """Calls an observer and survives whatever it raises."""

    _observer: Observer
    _hand_on: Callable[[BaseException], None] | None = None

    def __call__(self, event: str, *args: object) -> None:
        """Call the observer's method ``event``; log what it raises, and pass on what ends the program.

        It is called in the middle of things that must be finished, so it never raises.
        """
        try:
            getattr(self._observer, event)(*args)
        except BaseException as error:  # noqa: ASYNC103 - a boundary: it raises or hands on what must go on
            fatal = ends_program(error)
            if fatal is not None and self._hand_on is not None:
                self._hand_on(fatal)
            elif fatal is not None or goes_on_from_call(error):
                raise
            else:
                logger.exception("the observer failed in %s; the cancel goes on", event)


@attrs.frozen
class Statistics:
    """What a session has seen so far; a snapshot.

    Attributes:
        queued: orders handed in.
        written: attempts handed to the socket.
        answered: attempts answered.
        settled: orders settled.
        pending: orders that wait for an answer or another attempt now.
        late: answers to orders that had settled, or whose caller had left.
        duplicates: second answers to one attempt.
        contradictions: late or second answers that contradict the first (each is logged as an error).
        unknown_id: answers with an id that is not ours, or belongs to another connection.
        null_id: answers with a null id; they settle nothing.
        malformed: text messages that are not answers.
        binary: binary messages.
        limited: answers with status 429.
        connections: connections opened.
        rate: the pace that was found, in requests a second, or None.
        window: requests that may be in flight now.
    """

    queued: int = 0
    written: int = 0
    answered: int = 0
    settled: int = 0
    pending: int = 0
    late: int = 0
    duplicates: int = 0
    contradictions: int = 0
    unknown_id: int = 0
    null_id: int = 0
    malformed: int = 0
    binary: int = 0
    limited: int = 0
    connections: int = 0
    rate: float | None = None
    window: int = 0


@attrs.define(eq=False)
class Counters:
    """The mutable counterpart of :class:`Statistics`; the session's tasks own it."""

    queued: int = 0
    written: int = 0
    answered: int = 0
    settled: int = 0
    late: int = 0
    duplicates: int = 0
    contradictions: int = 0
    unknown_id: int = 0
    null_id: int = 0
    malformed: int = 0
    binary: int = 0
    limited: int = 0
    connections: int = 0

    def snapshot(self, *, pending: int, rate: float | None, window: int) -> Statistics:
        """Return the frozen values."""
        return Statistics(**attrs.asdict(self), pending=pending, rate=rate, window=window)
