"""An outcome as one line: JSON for programs, text for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from trio_cancel._cli._failure import clean, counted, shell_words, short
from trio_cancel._cli._tally import Tally
from trio_cancel._values.models import CanceledOrder
from trio_cancel._values.order_state import OrderState
from trio_cancel._values.outcomes import AlreadyClosed, Attempt, Canceled, NotSent, Outcome, Rejected, Unknown

_encode = msgspec.json.Encoder().encode

Given = tuple[str | None, str | None]
"""The id and the external id by which an input names an order."""
KEY_WIDTH = 36
"""Columns for an order's id: those of a UUID."""
PLAIN_MOST = 60
"""Places before or after the point that are written out: one number must not fill the memory."""


def json_line(outcome: Outcome, given: Given | None = None, *, repeated: bool = False) -> bytes:
    """Return the outcome as a line of JSON (UTF-8, with its newline).

    Fields: ``id`` and ``external_id`` (as given; the one that was not given is the venue's, or null if unknown),
    ``repeated`` (true if an earlier line is about the same order, which was requested more than once), ``off_book``
    (true, false, null for "don't know"), ``status`` (the outcome's kind), ``closed_as`` ("canceled" or "executed" for
    an order that was closed before, if the venue says which; otherwise null), ``executed_amount`` and
    ``remaining_amount`` (exact strings; null unless the venue or a lookup gave them), ``attempts`` (request_id,
    written_at and answered_at in ISO 8601 UTC, status), ``error`` (status, error_code, message; or null), ``cause``
    (why it is unknown or was not sent, or what may be wrong on our side if it was refused; or null), ``cause_type``
    (the name of the exception that says why: ``NotSurelyThisOrder`` if an order with this external id is closed but may
    be a different one; or null), ``after_unanswered``, ``unrecorded`` (true if a journal could not record in time that
    the order was about to be canceled), and ``seen`` only if a lookup saw the order and that did not settle it: id,
    status, seen_at.
    """
    request = outcome.request
    order_id, external_id = (request.id, request.external_id) if given is None else given
    record: dict[str, Any] = {"id": order_id, "external_id": external_id, "repeated": repeated}
    record |= {"off_book": outcome.off_book, "status": outcome.kind}
    record["closed_as"] = outcome.closed_as if isinstance(outcome, AlreadyClosed) else None
    record |= {"executed_amount": None, "remaining_amount": None}
    order = outcome.order if isinstance(outcome, Canceled | AlreadyClosed) else None
    if order is not None:
        record |= {
            "id": order_id or order.id,
            "external_id": external_id or order.external_id,
            "executed_amount": plain(order.executed_amount),
            "remaining_amount": plain(order.remaining_amount),
        }
    error = outcome.error
    record["attempts"] = [attempt_record(attempt) for attempt in outcome.attempts]
    record["error"] = error and {"status": error.status, "error_code": error.error_code, "message": error.message}
    record["cause"] = cause_of(outcome)
    known = outcome.cause if isinstance(outcome, NotSent | Unknown) else None
    record["cause_type"] = None if known is None else type(known).__name__
    record |= {"after_unanswered": outcome.after_unanswered, "unrecorded": outcome.unrecorded}
    seen = outcome.seen
    if seen is not None:
        record["seen"] = {"id": seen.id, "status": seen.raw_status, "seen_at": moment(seen.seen_at)}
    try:
        return _encode(record) + b"\n"
    except UnicodeEncodeError:  # a cause in the system's own words may contain what UTF-8 cannot encode
        return json.dumps(record).encode() + b"\n"


def text_line(outcome: Outcome) -> str:
    """Return the outcome as a line of text for a person, within 80 columns as far as the ids allow."""
    return f"{outcome.kind.replace('_', ' '):<15}{short(clean(outcome.request.key), 200):<{KEY_WIDTH}}  {why(outcome)}"


def why(outcome: Outcome) -> str:
    """Return briefly what a person wants to know about an outcome besides its kind."""
    noted = "not in the journal" if outcome.unrecorded else ""
    return "; ".join(part for part in (_why(outcome), noted) if part)


def _why(outcome: Outcome) -> str:
    if isinstance(outcome, Canceled):
        order = outcome.order
        if order.executed_amount is None:
            return "the venue does not say how much was executed"
        if not order.executed_amount:
            return "nothing executed"
        return _executed(order)
    if isinstance(outcome, AlreadyClosed) and (state := outcome.order) is not None:
        much = "" if state.executed_amount is None else f": {_executed(state)}"
        return f"{outcome.closed_as} before{much} (looked up)"
    if isinstance(outcome, AlreadyClosed) and outcome.closed_as is not None:
        return f"{outcome.closed_as} before: {clean(str(outcome.error))}"
    if cause := cause_of(outcome):
        return clean(f"{outcome.error} ({cause})" if isinstance(outcome, Rejected) else cause)
    return clean(str(outcome.error)) if outcome.error is not None else ""


def _executed(order: CanceledOrder | OrderState) -> str:
    of = "" if order.requested_amount is None else f" of {plain(order.requested_amount)}"
    return f"{plain(order.executed_amount)}{of} executed"


def cause_of(outcome: Outcome) -> str | None:
    """Return why an order is unknown or was not sent, or what may be wrong on our side if it was refused."""
    if isinstance(outcome, NotSent | Unknown):
        return shell_words(str(outcome.cause)) if outcome.cause is not None else None
    if isinstance(outcome, Rejected) and outcome.advice is not None:
        return shell_words(outcome.advice)
    return None


def plain(number: Decimal | None) -> str | None:
    """Return an amount exactly, without an exponent unless that would take a line of zeros; None for None."""
    if number is None:
        return None
    return format(number, "f") if abs(number.adjusted()) <= PLAIN_MOST else str(number)


def attempt_record(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as it is written in JSON."""
    return {
        "request_id": attempt.request_id,
        "written_at": moment(attempt.written_at),
        "answered_at": moment(attempt.answered_at),
        "status": attempt.status,
    }


def moment(unix: float | None) -> str | None:
    """Return Unix seconds as ISO 8601 in UTC."""
    return None if unix is None else datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds")


def left_lines(tally: Tally, reported: str | None = None) -> list[str]:
    """Return lines that name the first orders that may still be on the book, each cause once but ``reported`` never."""
    if not tally.left_count:
        return []
    lines = [f"{counted(tally.left_count, 'order')} may still be on the book:"]
    before: dict[str, str] = {}
    last = ""
    for outcome in tally.left:
        name = short(clean(outcome.request.key), 200)
        said = why(outcome)
        if said == reported:
            shown = ""
        elif not said or said not in before:
            shown = said
            before[said] = name
        else:
            shown = "as above" if said == last else f"as for {before[said]}"
        last = said
        lines.append(f"  {outcome.kind.replace('_', ' '):<10} {name}  {shown}".rstrip())
    if tally.left_count > len(tally.left):
        lines.append(f"  and {tally.left_count - len(tally.left):,} more")
    return lines
