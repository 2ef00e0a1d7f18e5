"""Which orders that a dead process left are canceled, and which are not because their names are too old."""

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
"""Seconds by which a time may be in the future: a clock that is kept right is never set back by more."""
OLD = 3600.0
"""Seconds after which an external id may name a newer order: the venue lets it be used again."""


@attrs.frozen
class PlannedCancel:
    """One order that is to be canceled."""

    request: CancelRequest  # what is sent: by the venue's id if that is known, since no other order can have it
    name: CancelRequest  # what the journal calls the order
    holds: tuple[JournalHold, ...] = ()  # the open holds that end with it

    def is_meant_by(self, outcome: Outcome, clock: OffsetInterval | None) -> bool:
        """Return True if a cancel that found an order of this name off the book certainly found the held one."""
        return self.request.id is not None or all(
            hold.placed_at is not None or Hold(self.request, hold.held_at, hold.clock, None).is_meant_by(outcome, clock)
            for hold in self.holds
        )


@attrs.frozen
class Plan:
    """What to do with the orders that were left."""

    cancels: tuple[PlannedCancel, ...]  # in the order in which they first came up
    old: tuple[JournalOrder, ...]  # their external ids are too old to be sure which order they name


def plan_resume(left: Iterable[JournalOrder], now: float, *, old_external_ids: bool = False) -> Plan:
    """Return what to do with the orders that were left.

    The age of an external id counts from when its session last certainly meant this very order by it: for a held order,
    the session's last sign of life; for a mere cancel, its intent. An id from more than ``LEEWAY`` in the future counts
    as old: the clock was set back, and nobody knows by how much.
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
    """Return what to send for an order, with the holds that each request ends."""
    requests: dict[CancelRequest, list[JournalHold]] = {}
    if order.unsettled:
        requests[order.request if order.meant is None else request_of(0, order.meant)] = []
    for hold in order.open_holds:
        request = order.request if hold.order_id is None else request_of(0, hold.order_id)
        requests.setdefault(request, []).append(hold)
    return requests
