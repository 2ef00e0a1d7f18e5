"""What the engine, its writer and the order scopes need from a journal: one protocol, kept by ``_journal.journal``."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Protocol

from trio_cancel._engine.order import LiveAttempt, OrderCancel
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.report import TakenOver


class CancelJournal(Protocol):
    """A record that survives a crash. Nothing in it may stop or delay a cancel for longer than its own patience."""

    @property
    def failed(self) -> bool:
        """True if it cannot record everything now."""

    @property
    def has_lease(self) -> bool:
        """True if others can take over the journal, and with it what is held."""

    @property
    def taken_over(self) -> TakenOver | None:
        """What to raise because others have taken it over; None while it is ours."""

    @property
    def asks_first(self) -> bool:
        """True for a moment after this process was stopped, while it asks whether the journal is still ours."""

    # Of scopes

    def check_free(self, request: CancelRequest) -> None:
        """Raise InvalidRequest if an order was left behind under this external id and has not been dealt with."""

    def ours(self, request: CancelRequest) -> None:
        """Note that this session holds an order, or has learned the venue's id of one that it holds."""

    def hold(self, request: CancelRequest, clock: OffsetInterval | None) -> Awaitable[None]:
        """Return when the hold is durable; raise JournalError if it cannot be. It ends an earlier hold of this order.

        ``clock`` is what is known of the venue's clock.
        """

    def placed(self, request: CancelRequest, order_id: str | None) -> None:
        """Note that the venue has the order, and the venue's id for it, if known."""

    def release(self, request: CancelRequest, *, at_once: bool = False) -> None:
        """Note that the order is no longer held, and start to record that now or soon."""

    def flush(self) -> Awaitable[None]:
        """Return when the releases so far are durable; raise JournalError if they cannot be."""

    # Of cancels

    def intend(self, admitted: list[OrderCancel]) -> Awaitable[None]:
        """Return when the intents are durable, or have failed to be so and been reported."""

    def written(self, orders: list[OrderCancel], unanswered: Iterable[LiveAttempt]) -> None:
        """Note that requests for these orders were wholly written.

        ``unanswered`` are all attempts that can still be answered, in the order of their writes, as of when it is read.
        """

    def retried(self, order: OrderCancel) -> None:
        """Note that an order waits for its next attempt."""

    def settled(self, order: OrderCancel) -> None:
        """Note that an order has its outcome."""
