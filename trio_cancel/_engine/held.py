"""Which orders are held by which scope, and which answer is about one of them. One table for each session.

The venue lets an external id be used again, and a yes for an external id ("closed", "canceled") does not say which of
the orders with that id it means. So a hold by external id ends only with an answer that is certainly about its own
order: an answer that names the venue's id that the hold is known to have, or a cancel of an order that was not created
before the hold was. A hold by the venue's id always means the same order.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import attrs
import trio

from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.models import CancelRequest, recorded_request
from trio_cancel._values.outcomes import AlreadyClosed, Attempt, Canceled, Outcome, Unknown

DATES_ARE = 0.001
"""Seconds: how exact the venue's dates are."""


@attrs.define(eq=False)
class Hold:
    """One order that a scope holds."""

    request: CancelRequest  # the name under which it was added
    wall: float  # our Unix seconds when it was added
    clock: OffsetInterval | None  # the bounds of the venue's clock minus ours at that time, if they were known
    since: float | None  # trio's clock at that time; None if that was in a process that has died
    placed_at: float | None = None  # trio's clock when the scope learned that the venue has the order
    order: CancelRequest | None = None  # the venue's id for it, as a request, once it is known

    def is_meant_by(self, outcome: Outcome, clock: OffsetInterval | None) -> bool:
        """Return True if a cancel that found an order of this name off the book certainly found this very order.

        Args:
            outcome: a yes: canceled, or already closed.
            clock: the bounds of the venue's clock minus ours; None if nothing is known.
        """
        if not isinstance(outcome, Canceled | AlreadyClosed):
            return False
        named = outcome.request if outcome.request.id is not None else None
        if outcome.order is not None and outcome.order.id:
            named = recorded_request(outcome.order.id, None)
        order = self.request if self.request.id is not None else self.order
        if order is not None:
            return named == order
        return self._is_not_older(outcome, clock)

    def _is_not_older(self, outcome: Canceled | AlreadyClosed, clock: OffsetInterval | None) -> bool:
        """Return True if the order was certainly not created before it was added."""
        created, attempt = None if outcome.order is None else _unix(outcome.order.create_date), answered(outcome)
        if created is None:
            return False
        at = created + DATES_ARE
        if self.clock is not None and at > self.wall + self.clock.high / 1000:
            return True
        if clock is None or attempt is None or attempt.answered_at is None:
            return False
        added = self.wall
        if self.since is not None:
            # The later of two readings: our clock may have been set since.
            added = max(added, attempt.answered_at - (trio.current_time() - self.since))
        elif self.clock is None or not self.clock.overlaps(clock):
            return False  # it has been set since then, or nobody can tell
        # The last update of an order that a lookup found need not be our cancel.
        ahead = _ahead_at_most(outcome, attempt, clock) if isinstance(outcome, Canceled) else clock.high / 1000
        return at > added + ahead


def answered(outcome: Outcome) -> Attempt | None:
    """Return the attempt whose answer an outcome is based on."""
    attempts = [attempt for attempt in outcome.attempts if attempt.answered_at is not None]
    return max(attempts, key=lambda attempt: attempt.answered_at or 0.0, default=None)


def _ahead_at_most(outcome: Canceled, attempt: Attempt, clock: OffsetInterval) -> float:
    """Return by how many seconds the venue's clock can be ahead of ours.

    The order's last update is its cancel, which was made after our request was written. That is mostly more exact than
    the whole seconds of the ``Date`` headers, but it is believed only if it agrees with them.
    """
    updated, created = _unix(outcome.order.update_date), _unix(outcome.order.create_date)
    if updated is not None and created is not None and updated > created and attempt.written_at is not None:
        seen = updated + DATES_ARE - attempt.written_at
        if seen >= clock.low / 1000:
            return seen
    return clock.high / 1000


def _unix(date: datetime | None) -> float | None:
    return None if date is None else date.timestamp()


class Holder(Protocol):
    """An order scope, as the table of held orders sees it."""

    def off_book(self, request: CancelRequest, outcome: Outcome) -> None:
        """Release the order that is held as ``request``, if the outcome is certainly about this very order."""


class HeldOrders:
    """The orders that are held, each by one scope."""

    def __init__(self) -> None:
        self.holders: dict[CancelRequest, Holder] = {}
        # Those for which a cancel ended as Unknown, so that it may have taken them off the book.
        self.may_have_applied: set[CancelRequest] = set()
        self._names: dict[CancelRequest, CancelRequest] = {}  # by the venue's id: the external id that is held
        self._orders: dict[CancelRequest, CancelRequest] = {}  # the reverse

    def holder(self, request: CancelRequest) -> Holder | None:
        """Return the scope that holds the order, under this name or its other one, or None."""
        return self.holders.get(request) or self.holders.get(self._names.get(request, request))

    def hold(self, request: CancelRequest, holder: Holder) -> None:
        """Let ``holder`` hold the order."""
        self.holders[request] = holder

    def renew(self, request: CancelRequest) -> None:
        """Note that an order has been added, perhaps again: an external id then names a new order."""
        if request.external_id is not None:
            self._forget(request)

    def place(self, request: CancelRequest, order: CancelRequest) -> None:
        """Note the venue's id of an order that is held by external id."""
        if self._orders.get(request) != order:
            self._forget_id(request)
            self._names[order] = request
            self._orders[request] = order

    def release(self, request: CancelRequest) -> None:
        """Stop holding the order."""
        self.holders.pop(request, None)
        self._forget(request)

    def settled(self, outcome: Outcome) -> None:
        """Tell the holder what an outcome says is off the book, under every name that the venue gives it."""
        request = outcome.request
        if not outcome.off_book:
            if isinstance(outcome, Unknown):
                self.may_have_applied.update(
                    name for name in (request, self._names.get(request)) if name in self.holders
                )
            return
        names = [request]
        if isinstance(outcome, Canceled):
            names += outcome.order.names()
        names += [self._names[name] for name in names if name in self._names]
        for name in dict.fromkeys(names):
            holder = self.holders.get(name)
            if holder is not None:
                holder.off_book(name, outcome)

    def _forget(self, request: CancelRequest) -> None:
        self.may_have_applied.discard(request)
        self._forget_id(request)

    def _forget_id(self, request: CancelRequest) -> None:
        order = self._orders.pop(request, None)
        if order is not None and self._names.get(order) == request:
            del self._names[order]
