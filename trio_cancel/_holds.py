"""Which orders are held by which scope (pure). One table a session; the scopes and the dispatcher change it."""

from __future__ import annotations

from typing import Protocol

from trio_cancel._models import CancelRequest
from trio_cancel._outcomes import Canceled, Outcome


class Holder(Protocol):
    """A scope, as the table sees it."""

    def left_by_itself(self, request: CancelRequest) -> None:
        """Note that the order is surely off the book, so that it is held no more."""


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

    def settled(self, outcome: Outcome) -> None:
        """Release what an outcome says is off the book, under either name that the venue gives it."""
        if not outcome.off_book:
            return
        names = [outcome.request]
        if isinstance(outcome, Canceled):
            names.append(CancelRequest(outcome.order.id))
            if outcome.order.external_id:
                names.append(CancelRequest(external_id=outcome.order.external_id))
        for name in dict.fromkeys(names):
            holder = self.holders.pop(name, None)
            if holder is not None:
                holder.left_by_itself(name)
