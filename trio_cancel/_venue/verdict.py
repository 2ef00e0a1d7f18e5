"""What one answer says about one request. The table is in ``_venue/contract.md``, "What each answer means".

Both dialects of the venue are understood at once: it is not known which of them the live server speaks, and no code of
either means something else in the other.
"""

from __future__ import annotations

import enum
import re
from typing import Literal

from trio_cancel._values.models import CancelRequest, canonical_id
from trio_cancel._values.outcomes import VenueReply
from trio_cancel._venue.codec import Reply

LATE_SIGNATURE = 4.0
"""Seconds after its write from which a refused signature means "late", not "wrong": the venue is assumed to take 5."""

CLOSED_CODES = frozenset({40408, 40020})
EXECUTED_CODE = 40021
NOT_FOUND_CODES = frozenset({40401, 40400})
MISSING_PARAMETERS_CODE = 40010
_CANCELED_WORDS = frozenset({"canceled", "cancelled"})
# 40021 also stands for "No orders to cancel.", so only its words decide. They must say exactly this.
_EXECUTED = re.compile(
    r"(?:the )?order (?:(?:is|was|has|been|already) )*(?:executed completely|completely executed|fully executed)"
)


class Verdict(enum.Enum):
    """What one answer says about the request that it answers."""

    CANCELED = enum.auto()
    CLOSED = enum.auto()
    NOT_FOUND = enum.auto()
    REFUSED = enum.auto()
    LIMITED = enum.auto()
    """429: refused now, try later."""
    LATE = enum.auto()
    """The signature was refused for a request that was under way for long: sign again."""
    UNLISTED = enum.auto()
    """A refusal that the contract does not list: it may be another way to say "closed". Asking again does not help."""
    UNAVAILABLE = enum.auto()
    """5xx or 408: it may have been applied; try again."""
    INVALID = enum.auto()
    """It contradicts itself or the contract, or cannot be read: it says nothing; try again."""


_CANCELED = (Verdict.CANCELED, "")


def judge(reply: Reply, request: CancelRequest, age: float) -> tuple[Verdict, str]:
    """Return what ``reply`` says about ``request``, and why if it is invalid.

    Args:
        reply: the answer that carried the id of a request for this order.
        request: the order to cancel.
        age: seconds between the request's write and this answer.
    """
    if reply.status != 200:
        return _judge_refusal(reply, age)
    order = reply.order
    if reply.has_error:
        return Verdict.INVALID, "status 200 together with an error"
    if order is None:
        return Verdict.INVALID, "status 200 without a result"
    if order.status != "canceled" and order.status.lower() not in _CANCELED_WORDS:
        return Verdict.INVALID, f"status 200 for an order that is {order.status[:40]!r}, not canceled"
    if request.id is None:
        if order.external_id != request.external_id:
            return Verdict.INVALID, "it does not name the requested external id"
    elif order.id != request.id and (order.id is None or canonical_id(order.id) != canonical_id(request.id)):
        return Verdict.INVALID, "it does not name the requested order"
    return _CANCELED


def _judge_refusal(reply: Reply, age: float) -> tuple[Verdict, str]:
    status, code = reply.status, reply.error_code
    if status == 408 or 500 <= status <= 599:
        return Verdict.UNAVAILABLE, ""
    if not 400 <= status <= 499:
        return Verdict.INVALID, f"status {status} is not in the contract"
    if reply.has_result:
        return Verdict.INVALID, f"status {status} together with a result"
    error = VenueReply(status, code, reply.message)
    if status == 429:
        # The daily limit answers "Limit Exceeded"; waiting 30 s does not help then.
        return (Verdict.REFUSED if "limit exceeded" in reply.message.lower() else Verdict.LIMITED), ""
    if error.refuses_credentials:
        return (Verdict.LATE if age > LATE_SIGNATURE and error.refuses_signature else Verdict.REFUSED), ""
    if code in CLOSED_CODES or (code == EXECUTED_CODE and _says_executed(reply.message)):
        return Verdict.CLOSED, ""
    if code in NOT_FOUND_CODES or status == 404:
        return Verdict.NOT_FOUND, ""
    return (Verdict.REFUSED if code == MISSING_PARAMETERS_CODE else Verdict.UNLISTED), ""


def claim(reply: Reply) -> tuple[Verdict, Literal["canceled", "executed"] | None] | None:
    """Return what an answer definitely says about the order that it names, and how that was closed; None if nothing.

    For answers that nobody is waiting for.
    """
    if reply.status == 200:
        order = reply.order
        says_canceled = order is not None and not reply.has_error and order.status.lower() in _CANCELED_WORDS
        return (Verdict.CANCELED, "canceled") if says_canceled else None
    verdict, _ = _judge_refusal(reply, 0.0)
    return (verdict, closed_as(reply.error_code)) if verdict in (Verdict.CLOSED, Verdict.NOT_FOUND) else None


def closed_as(code: int | None) -> Literal["canceled", "executed"] | None:
    """Return how an order was closed, judging by the code of an answer that says "closed"."""
    return "canceled" if code == 40020 else "executed" if code == EXECUTED_CODE else None


def _says_executed(message: str) -> bool:
    return _EXECUTED.fullmatch(" ".join(message.lower().split()).rstrip(".!")) is not None
