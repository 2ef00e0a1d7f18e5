"""Which orders that a dead process left are to be canceled, and which are not, because their names are old (pure)."""

from __future__ import annotations

import attrs

from trio_cancel._journal.reading import JournalContents, JournalOrder

OLD = 3600.0
"""Seconds from which an external id may name a newer order: the venue lets it be used again."""


@attrs.frozen
class Plan:
    """What to do with the orders that were left.

    Attributes:
        orders: those to cancel, in the order in which they first came up.
        old: those whose external ids are too old to be sure which order they name.
    """

    orders: tuple[JournalOrder, ...]
    old: tuple[JournalOrder, ...]


def plan_resume(contents: JournalContents, now: float, *, old_external_ids: bool = False) -> Plan:
    """Return what is to be done.

    An external id's age counts from when its session surely meant this very order by it: of a held order from the
    session's last sign of life, of a mere cancel from its intent.

    Args:
        contents: what the journal says.
        now: Unix seconds.
        old_external_ids: cancel by old external ids, too.
    """
    orders: list[JournalOrder] = []
    old: list[JournalOrder] = []
    for order in contents.left:
        is_old = order.request.external_id is not None and now - order.known_at > OLD
        (old if is_old and not old_external_ids else orders).append(order)
    return Plan(tuple(orders), tuple(old))
