"""Which orders are held by which scope (pure). One table a session; the scopes and the dispatcher change it."""

from __future__ import annotations

from typing import Protocol

from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Canceled, Outcome, Unknown


class Holder(Protocol):
    """A scope, as the table sees it."""

    def off_book(self, request: CancelRequest, written: float) -> None:
        """Release the order, if the cancel that took it off the book was one of this very order.

        Args:
            request: the order.
            written: trio's clock when the cancel's first attempt was written. An order that was added after that is
                another one of the same name.
        """


class Holds:
    """The orders that are held, each by one scope.

    Attributes:
        holders: each order that is held, and its scope.
        doubtful: those of them for which a cancel ended Unknown, so that it may have taken them off the book.
    """

    __slots__ = ("doubtful", "holders")

    def __init__(self) -> None:
        self.holders: dict[CancelRequest, Holder] = {}
        self.doubtful: set[CancelRequest] = set()

    def holder(self, request: CancelRequest) -> Holder | None:
        """Return the scope that holds the order, or None."""
        return self.holders.get(request)

    def hold(self, request: CancelRequest, holder: Holder) -> None:
        """Let ``holder`` hold the order."""
        self.holders[request] = holder
        self.doubtful.discard(request)

    def release(self, request: CancelRequest) -> None:
        """Hold the order no more."""
        self.holders.pop(request, None)
        self.doubtful.discard(request)

    def settled(self, outcome: Outcome, written: float) -> None:
        """Tell the holder of what an outcome says is off the book, under either name that the venue gives it.

        Args:
            outcome: of a cancel that anybody has made.
            written: trio's clock when its first attempt was written.
        """
        if not outcome.off_book:
            if isinstance(outcome, Unknown) and outcome.request in self.holders:
                self.doubtful.add(outcome.request)
            return
        names = [outcome.request]
        if isinstance(outcome, Canceled):
            if outcome.order.id:  # a venue may leave it empty for a cancel by external id
                names.append(CancelRequest(outcome.order.id))
            if outcome.order.external_id:
                names.append(CancelRequest(external_id=outcome.order.external_id))
        for name in dict.fromkeys(names):
            holder = self.holders.get(name)
            if holder is not None:
                holder.off_book(name, written)
