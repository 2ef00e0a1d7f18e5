"""Which orders are held by which scope (pure). One table a session; the scopes and the dispatcher change it."""

from __future__ import annotations

from typing import Protocol

from trio_cancel._models import CancelRequest
from trio_cancel._outcomes import Canceled, Outcome


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
    """The orders that are held, each by one scope."""

    __slots__ = ("holders",)

    def __init__(self) -> None:
        self.holders: dict[CancelRequest, Holder] = {}

    def holder(self, request: CancelRequest) -> Holder | None:
        """Return the scope that holds the order, or None."""
        return self.holders.get(request)

    def hold(self, request: CancelRequest, holder: Holder) -> None:
        """Let ``holder`` hold the order."""
        self.holders[request] = holder

    def release(self, request: CancelRequest) -> None:
        """Hold the order no more."""
        self.holders.pop(request, None)

    def settled(self, outcome: Outcome, written: float) -> None:
        """Tell the holder of what an outcome says is off the book, under either name that the venue gives it.

        Args:
            outcome: of a cancel that anybody has made.
            written: trio's clock when its first attempt was written.
        """
        if not outcome.off_book:
            return
        names = [outcome.request]
        if isinstance(outcome, Canceled):
            names.append(CancelRequest(outcome.order.id))
            if outcome.order.external_id:
                names.append(CancelRequest(external_id=outcome.order.external_id))
        for name in dict.fromkeys(names):
            holder = self.holders.get(name)
            if holder is not None:
                holder.off_book(name, written)
