"""What earlier sessions left behind in a journal, for as long as this session lasts. The session's tasks own it.

It is read once, when the journal is opened. From then on only this session writes the journal, so it only changes by
what this session records: an outcome (:meth:`LeftBehind.settled`), the end of a hold (:meth:`LeftBehind.released`), a
dismissal. Orders only leave. The rules are those of ``_journal.reading``, so the next session finds what this one has
not dealt with.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from trio_cancel._journal.reading import JournalHold, JournalOrder, order_of
from trio_cancel._journal.rows import request_of
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import NotFound, Outcome

NAMED_MOST = 10
"""How many names a sentence has; the rest are counted."""


class LeftBehind:
    """The orders that earlier sessions left, and which of them must not be touched."""

    def __init__(self, left: Iterable[JournalOrder] = ()) -> None:
        self.under_way: set[CancelRequest] = set()  # the names that a resume is canceling now
        self.ours: set[CancelRequest] = set()  # the names of orders that this session has held itself since
        self._orders: dict[CancelRequest, JournalOrder] = {order.request: order for order in left}
        self._names: dict[CancelRequest, dict[CancelRequest, None]] = {}  # by every id that an order may be canceled by
        self._by_hold: dict[int, CancelRequest] = {}
        for order in self._orders.values():
            for request in requests_of(order):
                self._names.setdefault(request, {})[order.request] = None
            self._by_hold |= {hold.number: order.request for hold in order.open_holds}

    def __len__(self) -> int:
        return len(self._orders)

    @property
    def orders(self) -> tuple[JournalOrder, ...]:
        """What is left now, in the order in which the orders first came up."""
        return tuple(self._orders.values())

    def get(self, request: CancelRequest) -> JournalOrder | None:
        """Return the order that was left under this very name, or None."""
        return self._orders.get(request)

    def mark_ours(self, request: CancelRequest) -> None:
        """Note that this session holds an order, or has learned the venue's id of one that it holds."""
        if self._orders:
            self.ours.update(name for name in self._names.get(request, ()) if name in self._orders)

    def settled(self, outcome: Outcome) -> None:
        """Note the outcome of a cancel of this session, once that is on its way into the journal."""
        if not self._orders:
            return
        request, off_book = outcome.request, bool(outcome.off_book)
        if not off_book and not isinstance(outcome, NotFound):
            return
        for name in tuple(self._names.get(request, ())):
            order = self._orders.get(name)
            if order is None:
                continue
            holds, unsettled = order.open_holds, order.unsettled
            if request in (name, None if order.meant is None else request_of(0, order.meant)):
                unsettled = False
            if off_book and request.id is not None:
                holds = tuple(hold for hold in holds if order_of(name, hold) != request)
            self._replace(order, holds, unsettled=unsettled)

    def released(self, holds: Iterable[int]) -> None:
        """Note that the holds with these numbers have ended."""
        for number in holds:
            order = self._orders.get(self._by_hold[number]) if number in self._by_hold else None
            if order is not None:
                kept = tuple(hold for hold in order.open_holds if hold.number != number)
                self._replace(order, kept, unsettled=order.unsettled)

    def drop(self, request: CancelRequest) -> None:
        """Note that nobody has to cancel an order any more."""
        del self._orders[request]

    def _replace(self, order: JournalOrder, holds: tuple[JournalHold, ...], *, unsettled: bool) -> None:
        if holds or unsettled:
            self._orders[order.request] = attrs.evolve(order, open_holds=holds, unsettled=unsettled)
        else:
            self.drop(order.request)


def requests_of(order: JournalOrder) -> tuple[CancelRequest, ...]:
    """Return all requests that name an order: by its name in the journal, and by the venue's ids."""
    by_id = [hold.order_id for hold in order.open_holds] + [order.meant]
    return (order.request, *(request_of(0, key) for key in by_id if key is not None))


def names_of(orders: tuple[JournalOrder, ...]) -> str:
    """Return the names of orders for a sentence."""
    more = f" and {len(orders) - NAMED_MOST} more" if len(orders) > NAMED_MOST else ""
    return ", ".join(order.request.key for order in orders[:NAMED_MOST]) + more
