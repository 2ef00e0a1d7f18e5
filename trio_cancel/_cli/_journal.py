"""``trio-cancel journal``: what happened to each order, each attempt, with times; also while the journal is written."""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError, clean, say
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._journal.reading import JournalCancel, JournalContents, JournalHold, JournalOrder, read_journal

COLUMNS = ("at", "session", "id", "external_id", "event", "request_id", "status", "error_code", "closed_as")
_encode = msgspec.json.Encoder().encode


def journal(
    journal: Annotated[str, Parameter(name="JOURNAL", help="The file that open_trading_ws(journal=...) wrote.")],
    /,
    *,
    json: Annotated[bool, Parameter(negative="", help="Print a JSON object for each order.")] = False,
    csv: Annotated[bool, Parameter(negative="", help="Print CSV, a line for each event.")] = False,
) -> int:
    """Tell what happened to each order in a journal, each attempt, with times (UTC).

    Exit status: 0; 2 if it cannot be read.
    """
    if json and csv:
        raise CommandError("--json and --csv exclude each other; give one of them.")
    contents = read_journal(journal)
    lines = _csv_lines(contents) if csv else _json_lines(contents) if json else _text_lines(contents)
    while some := "".join(islice(lines, 1000)):
        write_stdout(some)
    if left := len(contents.left):
        what = "order was" if left == 1 else "orders were"
        say(f"{left} {what} left held or unsettled; if no session is writing the journal now, trio-cancel resume helps")
    return Status.OK


def _text_lines(contents: JournalContents) -> Iterator[str]:
    yield f"{contents.url}\n"
    for session in contents.sessions:
        end = "" if session.closed_at is None else f", closed {moment(session.closed_at)}"
        yield f"session {session.number}: opened {moment(session.opened_at)}, alive {moment(session.alive_at)}{end}\n"
    for order in contents.orders:
        yield f"{clean(str(order.request))}{'  (left)' if order.left else ''}\n"
        for at, event, detail in _events(order):
            words = event.replace("_", " ")
            yield f"  {moment(at)}  {words:<14} {_words(detail)}".rstrip() + "\n"


def _words(detail: dict[str, Any]) -> str:
    request_id, status, code = detail.get("request_id"), detail.get("status"), detail.get("error_code")
    parts = [request_id, f"status {status}" if status is not None else None, f"code {code}" if code else None]
    parts.append(detail.get("closed_as"))
    return "  ".join(part for part in parts if part)


def _csv_lines(contents: JournalContents) -> Iterator[str]:
    text = io.StringIO()
    writer: csv_format.DictWriter[str] = csv_format.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for order in contents.orders:
        named = {"id": order.request.id, "external_id": order.request.external_id}
        for at, event, detail in _events(order):
            writer.writerow({"at": moment(at), "event": event, **named, **detail})
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def _json_lines(contents: JournalContents) -> Iterator[str]:
    for order in contents.orders:
        record = {
            "id": order.request.id,
            "external_id": order.request.external_id,
            "held": order.held,
            "unsettled": order.unsettled,
            "holds": [_hold(hold) for hold in order.holds],
            "cancels": [_cancel(cancel) for cancel in order.cancels],
        }
        yield _encode(record).decode() + "\n"


def _hold(hold: JournalHold) -> dict[str, Any]:
    return {
        "session": hold.session,
        "held_at": moment(hold.held_at),
        "placed_at": moment(hold.placed_at),
        "order_id": hold.order_id,
        "released_at": moment(hold.released_at),
    }


def _cancel(cancel: JournalCancel) -> dict[str, Any]:
    return {
        "session": cancel.session,
        "intended_at": moment(cancel.intended_at),
        "attempts": [
            {
                "request_id": attempt.request_id,
                "written_at": moment(attempt.written_at),
                "answered_at": moment(attempt.answered_at),
                "status": attempt.status,
            }
            for attempt in cancel.attempts
        ],
        "outcome": cancel.kind,
        "settled_at": moment(cancel.settled_at),
        "error_code": cancel.error_code,
        "closed_as": cancel.closed_as,
    }


def _events(order: JournalOrder) -> list[tuple[float, str, dict[str, Any]]]:
    """Return what happened to an order, in the order of time: when, what, and the columns that tell more."""
    events: list[tuple[float, str, dict[str, Any]]] = []

    def add(at: float | None, event: str, **detail: Any) -> None:
        if at is not None:
            events.append((at, event, detail))

    for hold in order.holds:
        add(hold.held_at, "held", session=hold.session)
        add(hold.released_at, "released", session=hold.session)
    for cancel in order.cancels:
        session = cancel.session
        add(cancel.intended_at, "intended", session=session)
        for attempt in cancel.attempts:
            add(attempt.written_at, "written", session=session, request_id=attempt.request_id)
            add(
                attempt.answered_at,
                "answered",
                session=session,
                request_id=attempt.request_id,
                status=attempt.status,
            )
        add(
            cancel.settled_at,
            cancel.kind or "",
            session=session,
            error_code=cancel.error_code,
            closed_as=cancel.closed_as,
        )
    events.sort(key=lambda event: event[0])
    return events


def moment(unix: float | None) -> str | None:
    """Return Unix seconds as ISO 8601 in UTC."""
    return None if unix is None else datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds")
