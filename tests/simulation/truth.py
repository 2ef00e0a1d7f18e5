"""What is true of one order's cancel, from the wire's bytes and the venue's log, never from the client's own tables.

The reading of an answer is written from the venue's contract a second time here, so that one misreading in the client
cannot hide behind itself.
"""

from __future__ import annotations

import re
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs

from trio_cancel import CancelRequest
from trio_cancel.sandbox import Fault, RequestRecord

from .record import Run, Stamp
from .stream import Wire
from .tap import Message, Sent, read_messages, sent_requests

NUMBERS = (
    "executed_amount",
    "remaining_amount",
    "remaining_value",
    "requested_amount",
    "requested_value",
    "total_value",
)
LATE_SIGNATURE = 4.0
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")  # as the sandbox writes amounts
CLOSED_AS = {40408: None, 40020: "canceled", 40021: "executed"}
NOT_FOUND = (40401, 40400)


class Says(Enum):
    """What an answer says about its order."""

    CANCELED = "canceled"
    CLOSED = "already_closed"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    TRY_AGAIN = "try_again"  # refused now: 429, or a signature that came late
    UNLISTED = "unlisted"  # a refusal that is not in the contract
    DOUBTFUL = "may_have_applied"  # 5xx, 408
    NOTHING = "nothing"  # contradicts itself or the contract

    @property
    def settles(self) -> bool:
        """Whether the order's outcome is clear by it, whatever else is under way."""
        return self in (Says.CANCELED, Says.CLOSED, Says.NOT_FOUND)

    @property
    def clean(self) -> bool:
        """Whether it refuses this attempt, and says nothing of the order."""
        return self in (Says.REFUSED, Says.TRY_AGAIN)

    @property
    def did_nothing(self) -> bool:
        """Whether it says that this attempt did nothing."""
        return self.clean or self in (Says.CLOSED, Says.NOT_FOUND)


@attrs.frozen
class Answer:
    """The first message with a request's id on that request's connection."""

    request_id: str
    at: Stamp
    says: Says
    status: int | None
    document: Any
    optional: bool = False
    """It was read, in fragments or from a stream of the user's, in the moment in which that broke: which came first
    nobody can say."""


@attrs.define
class Place:
    """One order of one operation: its requests and their answers, in the order of time."""

    request: CancelRequest
    ids: list[str]
    """Everything that the client began to write, whole or not."""
    sent: list[Sent]
    """Whole frames."""
    answers: list[Answer]
    records: dict[str, RequestRecord]
    """The venue's."""

    def complete_by(self, stamp: Stamp) -> list[Sent]:
        """Whole frames that the stream had taken by then."""
        return [sent for sent in self.sent if sent.complete.order < stamp.order]

    def answers_by(self, stamp: Stamp) -> list[Answer]:
        """Answers that were read by then."""
        return [answer for answer in self.answers if answer.at.order < stamp.order]

    def doubtful_at(self, stamp: Stamp, but: str = "") -> list[Sent]:
        """Whole frames that may have been applied, for all that had been read by then."""
        clean = {answer.request_id for answer in self.answers_by(stamp) if answer.says.did_nothing}
        return [sent for sent in self.complete_by(stamp) if sent.request_id not in clean and sent.request_id != but]


@attrs.define
class Truth:
    """The truth of a whole run."""

    places: dict[tuple[int, int], Place]
    sent: list[Sent]
    problems: list[str]
    limited: bool
    """Whether the client was ever told 429."""
    elsewhere: list[float]
    """When answers were read on another connection than their requests': they settle nothing."""


def amount(value: Any) -> Decimal | None:
    """Return what an amount says: a number or its text; None for anything else."""
    if isinstance(value, str):
        return Decimal(value) if NUMBER.fullmatch(value) else None
    return Decimal(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def same_order(named: Any, request: CancelRequest) -> bool:
    """Return True if a result that names its order so names the one that was asked for."""
    if not isinstance(named, dict):
        return False
    if request.id is None:
        return bool(named.get("external_id") == request.external_id)
    return str(named.get("id")).lower() == request.id.lower()


def classify(document: Any, request: CancelRequest, age: float) -> Says:
    """Return what an answer says (the table in ``_venue/contract.md``)."""
    status = document.get("status")
    result, error = document.get("result"), document.get("error")
    if not isinstance(status, int) or isinstance(status, bool):
        return Says.NOTHING
    if status == 408 or 500 <= status <= 599:
        return Says.DOUBTFUL
    if status == 200:
        if error is not None or not same_order(result, request):
            return Says.NOTHING
        return Says.CANCELED if str(result.get("status")).lower() in ("canceled", "cancelled") else Says.NOTHING
    if result or not 400 <= status <= 499:
        return Says.NOTHING
    code = error.get("error_code") if isinstance(error, dict) else None
    words = str(error.get("message") if isinstance(error, dict) else document.get("message")).lower()
    if status == 429:
        return Says.REFUSED if "limit exceeded" in words else Says.TRY_AGAIN
    if status == 401 or code == 40011:
        return Says.TRY_AGAIN if age > LATE_SIGNATURE and "token" not in words else Says.REFUSED
    if code in CLOSED_AS:
        return Says.CLOSED
    if code in NOT_FOUND or status == 404:
        return Says.NOT_FOUND
    return Says.REFUSED if code == 40010 else Says.UNLISTED


def _breaks_at(wire: Wire, stamp: Stamp, *, fragmented: bool) -> bool:
    odd = wire.road.fault is not None and wire.road.fault.odd
    # What happens at the far end of a road shows at this one after its latency.
    struck = wire.struck_at
    return (odd or fragmented) and struck is not None and 0 <= stamp.time - struck <= wire.road.latency + 1e-9


def find(run: Run) -> Truth:
    """Return the truth of a run."""
    problems: list[str] = []
    sent: list[Sent] = []
    messages: list[Message] = []
    for wire in run.wires:
        requests, wrong = sent_requests(wire)
        sent += requests
        problems += [f"I8: {text}" for text in wrong]
        if wire.wrote_on:
            problems.append(f"I8: wire {wire.number}: bytes followed a write that was left unfinished")
        messages += read_messages(wire)
    by_id: dict[str, Sent] = {}
    for each in sent:
        if each.request_id in by_id:
            problems.append(f"I7: the request id {each.request_id} went onto the wire twice")
        by_id[each.request_id] = each
    first: dict[str, Message] = {}
    documents: dict[str, Any] = {}
    limited = False
    elsewhere: list[float] = []
    for message in sorted(messages, key=lambda message: message.read.order):
        document = message.document()
        request_id = document.get("id") if isinstance(document, dict) else None
        if not isinstance(request_id, str) or request_id not in by_id:
            continue
        if by_id[request_id].wire != message.wire:
            elsewhere.append(message.read.time)
            continue
        limited = limited or document.get("status") == 429
        if request_id not in first:
            first[request_id], documents[request_id] = message, document
    places: dict[tuple[int, int], Place] = {}
    for request_id, place in run.written.items():
        request = run.results[place[0]].requests[place[1]]
        here = places.setdefault(place, Place(request, [], [], [], {}))
        here.ids.append(request_id)
        records = run.log.by_request_id(request_id)
        if len(records) > 1:
            problems.append(f"I7: the venue got the request id {request_id} twice")
        if records:
            here.records[request_id] = records[0]
        if request_id not in by_id:
            continue
        here.sent.append(by_id[request_id])
        if request_id in first:
            message, document = first[request_id], documents[request_id]
            status = document.get("status")
            fragmented = bool(records) and records[0].fault is Fault.FRAGMENTED
            age = message.read.time - by_id[request_id].offered.time
            here.answers.append(
                Answer(
                    request_id,
                    message.read,
                    classify(document, by_id[request_id].asked, age),
                    status if isinstance(status, int) and not isinstance(status, bool) else None,
                    document,
                    optional=_breaks_at(run.wires[message.wire], message.read, fragmented=fragmented),
                )
            )
    for here in places.values():
        here.answers.sort(key=lambda answer: answer.at.order)
    problems += [
        f"I7: the request {each.request_id} went onto the wire unannounced"
        for each in sent
        if each.request_id not in run.written
    ]
    return Truth(places, sent, problems, limited, elsewhere)
