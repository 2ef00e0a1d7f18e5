"""What a lookup means for an order whose cancel would otherwise end as Unknown or NotFound.

A cancel that would end as Unknown or NotFound is looked up first. A final status of this very order settles it: it is
off the book for good, however old the answer is. An active status proves nothing, because the venue's replicas lag by
any amount of time; it is a reason to cancel again. If a lookup says anything else, or fails, the cancel ends as it
would have ended.

By external id, a lookup may be about another order that had the name before. It settles a cancel in two cases only: an
answer to our request has named this order by the venue's id, or the order was canceled at or after our first write; in
the second case it was active, and so was the order of this name, when we asked.
"""

from __future__ import annotations

import enum
from typing import TypeAlias, TypeGuard

import msgspec

from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.order_state import OrderState, OrderStatus
from trio_cancel._values.outcomes import AlreadyClosed, NotFound, Outcome, Unknown

Open: TypeAlias = Unknown | NotFound | AlreadyClosed
"""What can be looked up."""

BUDGET = 5.0
"""Seconds for lookups after an order's own time is over, and for each lookup."""
AGAIN_FIRST, AGAIN_MOST = 0.25, 2.0
"""Seconds until the first and the last repetition: of a lookup, or of a cancel of an order that was seen active."""
FAILURES_MOST = 5
"""Lookups of an order that may fail in a row."""


class Next(enum.Enum):
    """What to do after a lookup that did not settle its order."""

    SETTLE = enum.auto()
    LOOK_AGAIN = enum.auto()
    CANCEL_AGAIN = enum.auto()


class LookupProgress(msgspec.Struct, eq=False):
    """The lookups of one order."""

    outcome: Open  # how its cancel ends if no lookup says more
    ends_at: float  # trio's clock until which it is looked up
    # The order to name if it is canceled again, by the venue's id that was seen; None for its caller's name for it.
    asks: CancelRequest | None = None
    by_id: dict[str, CancelRequest] = msgspec.field(default_factory=dict[str, CancelRequest])  # sent so, by request id
    wait: float = AGAIN_FIRST  # seconds until the next repetition
    failures: int = 0  # failed lookups since the last one that was answered

    def asked(self, request_id: str, request: CancelRequest) -> CancelRequest:
        """Return the order that a request named, for an order that its caller named as ``request``."""
        return self.by_id.get(request_id, request)

    def next_wait(self) -> float:
        """Return the seconds until the next repetition."""
        wait = self.wait
        self.wait = min(AGAIN_MOST, 2 * wait)
        return wait


def needs_lookup(outcome: Outcome, *, closed_too: bool) -> TypeGuard[Open]:
    """Return True if a lookup can say more than ``outcome``, which a cancel would end as.

    ``closed_too`` says whether a closed order is looked up for how much of it was executed.
    """
    if isinstance(outcome, AlreadyClosed):
        return closed_too and outcome.order is None and outcome.seen is None
    return isinstance(outcome, Unknown | NotFound)


def settled_by(
    state: OrderState, outcome: Outcome, clock: OffsetInterval | None, learned: CancelRequest | None = None
) -> AlreadyClosed | None:
    """Return how an order ends if the state settles it.

    Args:
        state: what a lookup saw of an order of this id or name.
        outcome: how the cancel would end otherwise.
        clock: the bounds of the venue's clock minus ours; None if nothing is known.
        learned: the venue's id of this order, as an answer named it.
    """
    surely = (learned is not None and state.is_of(learned)) or _is_surely(state, outcome, clock)
    if state.on_book is not False or not surely:
        return None
    return AlreadyClosed(
        outcome.request,
        outcome.attempts,
        error=outcome.error,
        after_unanswered=outcome.after_unanswered,
        closed_as="canceled" if state.status is OrderStatus.CANCELED else "executed",
        order=state,
    )


def _is_surely(state: OrderState, outcome: Outcome, clock: OffsetInterval | None) -> bool:
    request = outcome.request
    if request.id is not None:
        return state.is_of(request)
    if state.external_id != request.external_id or state.status is not OrderStatus.CANCELED:
        return False
    written = outcome.attempts[0].written_at if outcome.attempts else None
    if state.update_date is None or written is None:
        return False
    # Both in whole milliseconds, as exact as the venue's dates, by our clock as far as the difference is known.
    # If the clocks certainly differ, the venue's may be ahead by the most that agrees with what was seen.
    ahead = clock.high if clock is not None and clock.excludes_zero else 0.0
    return 1000 * state.update_date.timestamp() - ahead >= int(1000 * written)


def with_seen(outcome: Open, state: OrderState | None) -> Open:
    """Return the outcome with what a lookup saw that did not settle it."""
    return outcome if state is None else msgspec.structs.replace(outcome, seen=state)
