"""Which orders that a dead process left are to be canceled, and which are not, because their names are old."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from trio_cancel._engine.held import Hold
from trio_cancel._journal.reading import JournalHold, JournalOrder
from trio_cancel._journal.rows import request_of
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Outcome

LEEWAY = 2.0
"""Seconds by which a stamp may be in the future: a clock that is kept right is set back by no more."""
OLD = 3600.0
"""Seconds from which an external id may name a newer order: the venue lets it be used again."""


@attrs.frozen
class PlannedCancel:
    """One order that is to be canceled.

    Attributes:
        request: what the venue is asked for: its own id where that is known, since no other order can have it.
        name: what the journal calls the order.
        holds: the open holds that end with it.
    """

    request: CancelRequest
    name: CancelRequest
    holds: tuple[JournalHold, ...] = ()

    def is_meant_by(self, outcome: Outcome, clock: OffsetInterval | None) -> bool:
        """Return True if a cancel that found an order of this name off the book surely found the one that was held.

        Args:
            outcome: a yes: canceled, or already closed.
            clock: where the venue's clock minus ours lies; None if nothing is known.
        """
        return self.request.id is not None or all(
            hold.placed_at is not None or Hold(self.request, hold.held_at, hold.clock, None).is_meant_by(outcome, clock)
            for hold in self.holds
        )


@attrs.frozen
class Plan:
    """What to do with the orders that were left.

    Attributes:
        cancels: what to cancel, in the order in which it first came up.
        old: the orders whose external ids are too old to be sure which order they name.
    """

    cancels: tuple[PlannedCancel, ...]
    old: tuple[JournalOrder, ...]


def plan_resume(left: Iterable[JournalOrder], now: float, *, old_external_ids: bool = False) -> Plan:
    """Return what to do with the orders that were left.

    An external id's age counts from when its session surely meant this very order by it: of a held order from the
    session's last sign of life, of a mere cancel from its intent. One that is stamped more than ``LEEWAY`` in the
    future is old: the clock was set back, and nobody knows by how much.

    Args:
        left: the orders.
        now: Unix seconds.
        old_external_ids: cancel by old external ids, too.
    """
    cancels: dict[CancelRequest, PlannedCancel] = {}
    old: list[JournalOrder] = []
    for order in left:
        for request, holds in _requests(order).items():
            is_old = request.external_id is not None and not -LEEWAY <= now - order.known_at <= OLD
            if is_old and not old_external_ids:
                old.append(order)
                continue
            before = cancels.get(request, PlannedCancel(request, order.request))
            cancels[request] = attrs.evolve(before, holds=(*before.holds, *holds))
    return Plan(tuple(cancels.values()), tuple(old))


def _requests(order: JournalOrder) -> dict[CancelRequest, list[JournalHold]]:
    """Return what the venue is to be asked for, with the holds that it ends."""
    requests: dict[CancelRequest, list[JournalHold]] = {}
    if order.unsettled:
        requests[order.request if order.meant is None else request_of(0, order.meant)] = []
    for hold in order.open_holds:
        request = order.request if hold.order_id is None else request_of(0, hold.order_id)
        requests.setdefault(request, []).append(hold)
    return requests
