"""Faults of journals and lookups, put back into ours one at a time, to see that the checker of scopes catches them.

DEFECTS.md beside this says which seed catches which.
"""

from __future__ import annotations

from collections.abc import Generator
from unittest.mock import patch

from trio_cancel import CancelRequest, Outcome
from trio_cancel._engine.held import Hold
from trio_cancel._engine.order import OrderCancel
from trio_cancel._journal.journal import Journal
from trio_cancel.journal import JournalOrder
from trio_cancel.types import OffsetInterval, OrderScope

from .defects import LOOKUP_DEFECTS, Defect, swap


def write_before_commit() -> Generator[None]:
    """A request is written while its intent is still on its way to the disk."""
    intend = Journal.intend

    async def intend_hastily(self: Journal, admitted: list[OrderCancel]) -> None:
        async def wait_not(*_: object, **__: object) -> None:
            self._urgent = True
            self._wakeup.ring()

        with patch.object(self, "_until", wait_not):  # which does not wait: no other task sees it
            await intend(self, admitted)

    with swap(Journal, "intend", intend_hastily):
        yield


def hold_forgotten_with_another() -> Generator[None]:
    """Discarding an order forgets the hold of another in the journal, too."""
    discard = OrderScope.discard

    def discard_two(self: OrderScope, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        discard(self, CancelRequest.of(id, external_id))
        if self._journal is not None and self.held:
            self._journal.release(self.held[0])

    with swap(OrderScope, "discard", discard_two):
        yield


def resume_skips_unsettled() -> Generator[None]:
    """Only what was held is taken for left, not a mere cancel of which nobody knows what became."""
    with swap(JournalOrder, "left", lambda order: order.held):
        yield


def closed_whichever_order() -> Generator[None]:
    """An answer about the old order of an external id releases the hold of the new one."""

    def believe(hold: Hold, outcome: Outcome, clock: OffsetInterval | None) -> bool:
        return bool(outcome.off_book)

    with swap(Hold, "is_meant_by", believe):
        yield


SCOPE_DEFECTS = {
    function.__name__: Defect(function.__name__, function)
    for function in (
        write_before_commit,
        hold_forgotten_with_another,
        resume_skips_unsettled,
        closed_whichever_order,
        *LOOKUP_DEFECTS,
    )
}
