"""What a session tells about itself: to an :class:`Observer` as it happens, in :class:`Statistics` when asked."""

# ruff: noqa: ARG002 - an Observer's methods do nothing with what they are told, until somebody overrides them

from __future__ import annotations

import logging
from typing import Protocol

import attrs

from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Outcome

logger = logging.getLogger("trio_cancel")
logger.addHandler(logging.NullHandler())


class Observer(Protocol):
    """Told what happens, as it happens. Inherit from it and override what you need; the rest does nothing.

    Its methods are called from the session's tasks: they must be quick and must not block. What they raise is logged
    and otherwise ignored, so that watching a cancel can never hurt it. Times are seconds.
    """

    # An explicit `return` in each: to a type checker an empty body would make the method abstract.

    def request_queued(self, request: CancelRequest) -> None:
        """An order was handed in; one of a stream: was taken from its input because its turn has come."""
        return

    def request_written(self, request: CancelRequest, request_id: str) -> None:
        """An attempt is being handed to the socket."""
        return

    def request_answered(self, request: CancelRequest, request_id: str, status: int | None, seconds: float) -> None:
        """An attempt was answered, ``seconds`` after its write; ``status`` is None if the answer could not be read."""
        return

    def settled_late(self, outcome: Outcome) -> None:
        """An order settled after its caller had left."""
        return

    def connection_opened(self, number: int) -> None:
        """Connection ``number`` (from 1) is ready."""
        return

    def connection_lost(self, number: int, cause: BaseException | None) -> None:
        """Connection ``number`` ended; ``cause`` is None if we closed it."""
        return

    def connection_failed(self, error: BaseException) -> None:
        """A try to connect failed; another follows unless the session's state says ``failed``."""
        return

    def paced(self, rate: float) -> None:
        """A 429 changed the pace to ``rate`` requests a second."""
        return


class Notifier:
    """Calls an observer and survives it."""

    __slots__ = ("_observer",)

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __call__(self, event: str, *args: object) -> None:
        """Call the observer's method ``event``; log what it raises."""
        try:
            getattr(self._observer, event)(*args)
        except Exception:
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
        unknown_id: answers with an id that is none of ours, or of another connection.
        null_id: answers with a null id; they settle nothing.
        malformed: text messages that are no answer.
        binary: binary messages.
        limited: answers with status 429.
        connections: connections opened.
        rate: the pace found out, in requests a second, or None.
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


class Counters:
    """The mutable side of :class:`Statistics`; the session's tasks own it."""

    __slots__ = (
        "answered",
        "binary",
        "connections",
        "contradictions",
        "duplicates",
        "late",
        "limited",
        "malformed",
        "null_id",
        "queued",
        "settled",
        "unknown_id",
        "written",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    answered: int
    binary: int
    connections: int
    contradictions: int
    duplicates: int
    late: int
    limited: int
    malformed: int
    null_id: int
    queued: int
    settled: int
    unknown_id: int
    written: int

    def snapshot(self, *, pending: int, rate: float | None, window: int) -> Statistics:
        """Return the frozen values."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        return Statistics(**counts, pending=pending, rate=rate, window=window)
