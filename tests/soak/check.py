"""Compares what callers were told with what the venue's log says; the numbers are those of the invariants.

1. one outcome for each order; 2. Canceled: applied, by a request of ours; 3. NotSent: nothing reached the venue;
4. Rejected: refused, nothing unanswered before; 5. the rest is Unknown; 7. a request id goes out once.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from trio_cancel import AlreadyClosed, Canceled, NotFound, NotSent, Outcome, Rejected, Unknown

from .venue import Record, Truth

OPEN = {"open", "executed_partially"}
SHARED = "scope-"
"""How the external ids of orders begin that may be canceled twice: what one cancel did does not bind the other."""
DOUBTFUL = {None, 408, *range(500, 600)}


def violations(outcome: Outcome, truth: Truth) -> list[str]:
    """Return what is wrong with an outcome, one sentence each."""
    made = {attempt.request_id for attempt in outcome.attempts}
    records = [record for record in truth.records if record.request_id in made]
    applied = [record for record in truth.records if record.applied]
    found = [text for text in (_twice(outcome, truth), _wrong(outcome, truth, records, applied)) if text]
    return [f"{text}: {outcome!r}, {truth!r}" for text in found]


def _twice(outcome: Outcome, truth: Truth) -> str:
    counted = Counter(record.request_id for record in truth.records)
    if any(count > 1 for count in counted.values()):
        return "7: a request id came twice"
    if len({attempt.request_id for attempt in outcome.attempts}) != len(outcome.attempts):
        return "7: two attempts have one id"
    return ""


def _wrong(outcome: Outcome, truth: Truth, records: list[Record], applied: list[Record]) -> str:
    ours = [record for record in applied if record in records]
    shared = (outcome.request.external_id or "").startswith(SHARED)
    match outcome:
        case Canceled(order=order):
            if not ours:
                return "2: canceled, and no request of ours was applied"
            if truth.status != "canceled" or order.executed_amount != Decimal(truth.executed or "NaN"):
                return "2: canceled, and the book says otherwise"
        case AlreadyClosed():
            if truth.status in OPEN:
                return "2: already closed, and it is open"
            if not any(record.error_code == 40408 for record in records):
                return "4: already closed, and the venue did not say so"
            if ours and not outcome.after_unanswered:
                return "4: already closed by ourselves, and it does not say so"
        case NotFound():
            if not any(record.error_code == 40401 for record in records):
                return "4: not found, and the venue did not say so"
            if ours and not outcome.after_unanswered:
                return "4: not found after a request that was applied, and it does not say so"
        case Rejected():
            if ours if shared else applied:
                return "4: rejected, and it was applied"
            if not records or any(record.status in DOUBTFUL for record in records):
                return "4: rejected, and the venue did not refuse"
        case NotSent():
            if truth.records and not shared:
                return "3: not sent, and the venue has it"
        case Unknown():
            if not outcome.attempts:
                return "5: unknown, and nothing was written"
    return ""


def honest(outcome: Outcome, truth: Truth) -> bool:
    """Return True if the venue answered every attempt in full: an Unknown is then due to the way between."""
    made = {attempt.request_id for attempt in outcome.attempts}
    records = [record for record in truth.records if record.request_id in made]
    return len(records) == len(made) and all(record.answered and record.fault is None for record in records)
