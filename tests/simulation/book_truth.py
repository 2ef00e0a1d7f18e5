"""What the venue's book says of the orders that a cancel may have meant; invariant 12 compares outcomes with it.

By external id a cancel means the order that has the name when its request is written, or one that gets it later. It
never means one that was closed before and whose name another order has had since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trio_cancel import AlreadyClosed, CancelRequest, NotFound, Outcome, Unknown
from trio_cancel.lookup import OrderStatus
from trio_cancel.sandbox import BookStatus, Order

from .record import Told

EXACT_TO = 2
"""Milliseconds: dates are cut to whole ones, on either side."""
UNSEEN_MOST = 2_000
CLOSED_AS = {BookStatus.CANCELED: "canceled", BookStatus.EXECUTED_COMPLETELY: "executed"}


def meant(book: Iterable[Order], request: CancelRequest, since: int, until: int) -> list[Order]:
    """Return the orders that a cancel may have meant, as they stood in the end.

    Args:
        book: the venue's orders, as they stood in the end.
        request: what was to be canceled.
        since: Unix milliseconds, by the venue's clock, of the first write.
        until: those of the outcome.
    """
    if request.id is not None:
        return [order for order in book if order.id == request.id]
    named = sorted(
        (order for order in book if order.external_id == request.external_id), key=lambda order: order.create_date
    )
    ends = [*(order.create_date for order in named[1:]), until + EXACT_TO]
    return [
        order
        for order, end in zip(named, ends, strict=False)
        if end >= since - EXACT_TO and order.create_date <= until + EXACT_TO
    ]


def closed_by(order: Order, at: int) -> bool:
    """Return True if an order, as it stood in the end, was off the book for good by then."""
    return order.status in CLOSED_AS and order.update_date <= at + EXACT_TO


def unseen(skew: int) -> int:
    """Return by how many milliseconds the venue's clock can be ahead of ours without a sign of it.

    The venue's ``Date`` has whole seconds, and takes its time. What such a difference makes possible is allowed: an
    order that was canceled as shortly before our first write may be taken for one that was canceled after it.
    """
    return skew if 0 < skew <= UNSEEN_MOST else 0


def check_truth(
    book: Iterable[Order], told: list[Told], outcome: Outcome, since: int, until: int, at: float
) -> Iterator[str]:
    """Yield what an outcome says that the book contradicts, when it was told or later (I12).

    Args:
        book: the venue's orders, as they stood in the end.
        told: what lookups said.
        outcome: what the caller was told.
        since: Unix milliseconds, by the venue's clock, of the first write.
        until: those of the outcome.
        at: the outcome's time, by trio's clock.
    """
    orders = meant(book, outcome.request, since, until)
    if outcome.off_book and orders and not any(closed_by(order, until) for order in orders):
        yield f"I12: {outcome.request} is {outcome.kind}, and on the book: {[str(each.status) for each in orders]}"
    said = {(each.order_id, each.status) for each in told if each.at <= at}
    seen = outcome.seen if isinstance(outcome, Unknown | NotFound) else None
    if seen is not None and seen.status is not OrderStatus.OTHER and (seen.id, seen.raw_status) not in said:
        yield f"I12: {outcome.request} was seen as {seen.raw_status}, and no lookup said so"
    if not isinstance(outcome, AlreadyClosed) or outcome.order is None:
        return
    state = outcome.order
    order = next((each for each in orders if each.id == state.id), None)
    if (state.id, state.raw_status) not in said:
        yield f"I12: {outcome.request} was looked up as {state.raw_status}, and no lookup said so"
    if order is None:
        yield f"I12: {outcome.request} was looked up as {state.id}, which it did not mean"
    elif CLOSED_AS.get(order.status) != outcome.closed_as or order.executed_amount != state.executed_amount:
        yield (
            f"I12: {outcome.request} is closed as {outcome.closed_as} with {state.executed_amount} executed, and the "
            f"book says {order.status}, {order.executed_amount}"
        )
