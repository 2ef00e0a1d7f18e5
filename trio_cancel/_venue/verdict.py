"""What one answer says about one request (pure). The table is venue.md's "What each error means for the order"."""

from __future__ import annotations

import enum

from trio_cancel._values.models import CancelRequest
from trio_cancel._venue.codec import BadReply, Reply

LATE_SIGNATURE = 4.0
"""Seconds after its write from which 40011 means "late", not "wrong": the venue is assumed to accept 5 s."""


class Verdict(enum.Enum):
    """What one answer says."""

    CANCELED = enum.auto()
    CLOSED = enum.auto()
    NOT_FOUND = enum.auto()
    REFUSED = enum.auto()
    LIMITED = enum.auto()
    """429: refused now, try later."""
    LATE = enum.auto()
    """40011 for a request that was long under way: sign again."""
    UNAVAILABLE = enum.auto()
    """5xx or 408: it may have been applied; try again."""
    INVALID = enum.auto()
    """It contradicts itself or the contract: it says nothing."""


_CANCELED = (Verdict.CANCELED, "")


def judge(reply: Reply, request: CancelRequest, age: float) -> tuple[Verdict, str]:
    """Return what ``reply`` says about ``request``, and why if it is invalid.

    Args:
        reply: the answer that carried the id of a request for this order.
        request: the order that was to be canceled.
        age: seconds between the request's write and this answer.
    """
    status = reply.status
    order = reply.order
    if status == 200:
        if reply.has_error:
            return Verdict.INVALID, "status 200 together with an error"
        if order is None:
            return Verdict.INVALID, "status 200 without a result"
        if order.status != "canceled":
            return Verdict.INVALID, f"status 200 for an order that is {order.status[:40]!r}, not canceled"
        if request.id is None:
            if order.external_id != request.external_id:
                return Verdict.INVALID, "it names another external id than the one asked for"
        elif order.id != request.id:
            return Verdict.INVALID, "it names another order than the one asked for"
        return _CANCELED
    if status == 408 or 500 <= status <= 599:
        return Verdict.UNAVAILABLE, ""
    if order is not None:
        return Verdict.INVALID, f"status {status} together with a result"
    if status == 429:
        # venue.md: the daily limit answers "Limit Exceeded"; waiting 30 s cannot help there.
        return (Verdict.REFUSED if "limit exceeded" in reply.message.lower() else Verdict.LIMITED), ""
    if not 400 <= status <= 499:
        return Verdict.INVALID, f"status {status} is not in the contract"
    if not reply.has_error:
        return Verdict.INVALID, f"status {status} without an error object"
    match reply.error_code:
        case 40408:
            return Verdict.CLOSED, ""
        case 40401:
            return Verdict.NOT_FOUND, ""
        case 40011:
            return (Verdict.LATE if age > LATE_SIGNATURE else Verdict.REFUSED), ""
        case _:
            return Verdict.REFUSED, ""


def judge_bad(reply: BadReply) -> tuple[Verdict, str]:
    """Return what an answer that breaks the contract says, if its id was that of a pending request."""
    status = reply.status
    if status is not None:
        # These two are read by their status alone; the rest of them carries nothing that we use.
        if status == 408 or 500 <= status <= 599:
            return Verdict.UNAVAILABLE, ""
        if status == 429:
            return Verdict.LIMITED, ""
    return Verdict.INVALID, reply.reason
