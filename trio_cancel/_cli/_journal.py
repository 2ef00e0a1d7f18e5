"""``trio-cancel journal``: what happened to each order and attempt, with times; also while a session writes it."""

from __future__ import annotations

import csv as csv_format
import io
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import attrs
import msgspec
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError, UsageError, clean, is_terminal, say, short, why_of
from trio_cancel._cli._options import WHOLE, JournalAddress
from trio_cancel._cli._page import build_page
from trio_cancel._cli._records import attempt_record, moment
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import NAMED_MOST, Status
from trio_cancel._journal.address import check_address, server_of, title_of
from trio_cancel._journal.reading import (
    DISMISSED,
    JournalCancel,
    JournalContents,
    JournalHold,
    JournalOrder,
    JournalSession,
    read_journal,
)
from trio_cancel._journal.rows import micros
from trio_cancel._journal.store import HISTORY
from trio_cancel._journal.stores import compact as compact_journal
from trio_cancel._journal.stores import is_written
from trio_cancel._journal.stores import migrate as migrate_database
from trio_cancel._values.models import canonical_id

COLUMNS = (
    "at",
    "session",
    "id",
    "external_id",
    "event",
    "request_id",
    "status",
    "error_code",
    "closed_as",
    "connection",
    "order_id",
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DIGITS_MOST = 10
_DAYS_MOST = 36_500
_encode = msgspec.json.Encoder().encode


def journal(
    journal: JournalAddress,
    /,
    *,
    left: Annotated[bool, Parameter(help="Only orders that were left held or unsettled.")] = False,
    order: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="ID",
            allow_leading_hyphen=True,
            help="Only this order, by either of its ids; may be given more than once.",
        ),
    ] = (),
    since: Annotated[
        str | None,
        Parameter(
            metavar="TIME",
            allow_leading_hyphen=True,  # "-5m" then gets a message about what is wanted
            help="Only orders to which something happened since then: 2026-01-31, 2026-01-31T12:00 (UTC, unless it "
            "gives another zone), or how long ago: 90s, 30m, 2h, 7d.",
        ),
    ] = None,
    session: Annotated[
        int | None, WHOLE, Parameter(help="Only orders that the session of this number dealt with.")
    ] = None,
    json: Annotated[bool, Parameter(help="Print a JSON object for each order.")] = False,
    csv: Annotated[bool, Parameter(help="Print CSV, one line for each event.")] = False,
    html: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            help="Write a page to FILE (to view in a browser, without a network): a timeline of each order.",
        ),
    ] = None,
    compact: Annotated[
        bool,
        Parameter(
            help="Delete what was settled long ago, and make the file smaller; what is left stays. Refused while a "
            "session writes the journal.",
        ),
    ] = False,
    days: Annotated[
        float | None,
        Parameter(
            metavar="NUMBER",
            help=f"With --compact: delete records at least this many days old. [default: {HISTORY}]",
        ),
    ] = None,
    migrate: Annotated[
        bool,
        Parameter(
            help="Create the tables for journals in a database, or update them, as a role that may; FILE is then "
            "postgresql://..., and need not name a journal.",
        ),
    ] = False,
) -> int:
    """Tell what happened to each order in a journal, each attempt, with times."""
    if json and csv:
        raise UsageError("--json and --csv exclude each other; give one of them.")
    if html is not None and (json or csv):
        raise UsageError("--html excludes --json and --csv; give one of them.")
    chooses = left or order or since is not None or session is not None or json or csv or html is not None
    if migrate:
        if chooses or compact or days is not None:
            raise UsageError("--migrate takes no other option.")
        return _migrate(journal)
    if compact:
        if chooses:
            raise UsageError("--compact takes no other option than --days.")
        return _compact(journal, HISTORY if days is None else days)
    if days is not None:
        raise UsageError("--days belongs to --compact; to see what is new, use --since 3d.")
    check_address(journal)
    chosen = Selection(left, order, None if since is None else _moment_of(since, time.time()), session)
    contents = read_journal(journal)
    missing = chosen.check(contents)
    writing = is_written(journal)
    orders = chosen.of(contents)
    if html is not None:
        states = {one.number: state_of(one, contents, writing) for one in contents.sessions}
        _write_page(html, journal, build_page(contents, orders, states, title_of(journal)))
        lines: Iterator[str] = iter(())
    elif csv or json:
        lines = _csv_lines(orders) if csv else _json_lines(orders)
    else:
        lines = _text_lines(contents, orders, chosen, writing)
    while some := "".join(islice(lines, 1000)):
        write_stdout(some)
    if count := len(contents.left):
        what = "order was" if count == 1 else "orders were"
        remedy = "a session is writing the journal now, and some may be its own"
        if not writing:
            may = "if no session is writing the journal now, " if writing is None else ""
            remedy = f"{may}trio-cancel resume cancels what is still on the book"
        say(f"{count} {what} left held or unsettled; {remedy}")
    for name in missing[:NAMED_MOST]:
        say(f"the journal has no order {short(clean(name), 200)}")
    if len(missing) > NAMED_MOST:
        say(f"nor {len(missing) - NAMED_MOST} more of those that --order names")
    return Status.LEFT if missing else Status.OK


def _write_page(path: str, journal: str, page: str) -> None:
    """Write the page, completely or not at all; never over a journal."""
    real = os.path.realpath(journal)
    mine = [os.path.realpath(path) == f"{real}{part}" for part in ("", "-wal", "-shm", ".lock")]
    if not path or any(mine) or os.path.isdir(path):
        raise UsageError("--html needs its own file: the page would replace the journal.")
    beside = f"{path}.new-page"
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # /dev/stdout, a pipe
            beside = path
        elif os.path.exists(path) and _is_database(path):
            raise CommandError(f"{clean(path)} is an SQLite database, and was left as it is; name another file.")
        with open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(page)
        if beside != path:
            os.replace(beside, path)
    except (OSError, ValueError) as error:
        raise CommandError(f"The page {clean(path)} cannot be written: {why_of(error)}.") from None
    say(f"the page is in {clean(path)}")


def _is_database(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _compact(journal: str, days: float) -> int:
    if not 0 <= days <= _DAYS_MOST:
        raise UsageError("--days needs a number of days, 0 or more.")
    check_address(journal)
    real = os.path.realpath(journal)
    before = os.path.getsize(real) if os.path.isfile(real) else 0
    gone = compact_journal(journal, micros(time.time() - days * 86_400))
    records = "1 record" if gone == 1 else f"{gone:,} records"
    sizes = f"; the file had {before:,} bytes and has {os.path.getsize(real):,}" if os.path.isfile(real) else ""
    say(f"{records} (holds and cancels) forgotten{sizes}")
    return Status.OK


def _migrate(journal: str) -> int:
    server = server_of(journal)
    if server is None:
        raise UsageError("--migrate needs the url of a database, postgresql://host/database; a file needs none.")
    before, now = migrate_database(journal)
    done = "were up to date" if before == now else "were made" if not before else "were brought up to date"
    say(f"the tables of trio_cancel in {clean(server.shown)} {done} (format {now})")
    return Status.OK


@attrs.frozen
class Selection:
    """Which orders to print; ``since`` is in Unix seconds."""

    left: bool = False
    names: tuple[str, ...] = ()
    since: float | None = None
    session: int | None = None

    def check(self, contents: JournalContents) -> list[str]:
        """Return the names that are not in the journal."""
        numbers = [session.number for session in contents.sessions]
        if self.session is not None and self.session not in numbers:
            has = f"its sessions are {numbers[0]} to {numbers[-1]}" if numbers else "it has none yet"
            raise CommandError(f"The journal has no session {self.session}; {has}.")
        known = {name for order in contents.orders for name in _names(order)} if self.names else set()
        return [name for name in self.names if not {("", name), ("id", canonical_id(name))} & known]

    def of(self, contents: JournalContents) -> list[JournalOrder]:
        """Return the orders, in the order in which they first appeared."""
        orders = contents.left if self.left else contents.orders
        wanted = {name for text in self.names for name in (("", text), ("id", canonical_id(text)))}
        return [order for order in orders if self._has(order, wanted)]

    def _has(self, order: JournalOrder, wanted: set[tuple[str, str]]) -> bool:
        if wanted and not wanted & _names(order):
            return False
        sessions = {hold.session for hold in order.holds} | {cancel.session for cancel in order.cancels}
        if self.session is not None and self.session not in sessions:
            return False
        return self.since is None or _events(order)[-1][0] >= self.since


def _names(order: JournalOrder) -> set[tuple[str, str]]:
    """Return every id of an order; the venue's are compared without regard to case."""
    ids = [hold.order_id for hold in order.holds] + [order.request.id, order.meant]
    names = {("id", canonical_id(key)) for key in ids if key is not None}
    if order.request.external_id is not None:
        names.add(("", order.request.external_id))
    return names


def _moment_of(text: str, now: float) -> float:
    """Return a moment in a person's notation as Unix seconds."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.isascii() and number.isdigit() and len(number) < _DIGITS_MOST:
        return now - int(number) * _UNITS[unit]
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since needs a moment such as 2026-01-31 or 2026-01-31T12:00, or how long ago (90s, 30m, 2h, 7d), "
            f"not {short(clean(text), 50)!r}."
        ) from None


def _text_lines(
    contents: JournalContents, orders: list[JournalOrder], chosen: Selection, writing: bool | None
) -> Iterator[str]:
    time_of = _to_the_second if is_terminal(sys.stdout) else moment
    yield f"{clean(contents.url)}\n"
    for session in contents.sessions:
        if chosen.session in (None, session.number):
            state = state_of(session, contents, writing)
            end = f", closed {time_of(session.closed_at)}" if session.closed_at is not None else state and f", {state}"
            opened, alive = time_of(session.opened_at), time_of(session.alive_at)
            yield f"session {session.number}: opened {opened}, alive {alive}{end}\n"
    for order in orders:
        yield f"{clean(str(order.request))}{'  (left)' if order.left else ''}\n"
        for at, event, detail in _events(order):
            words = event.replace("_", " ")
            yield f"  {time_of(at)}  {words:<14} {_words(detail)}".rstrip() + "\n"


def state_of(session: JournalSession, contents: JournalContents, writing: bool | None) -> str:
    """Return the state of a session: "closed", "died", "lives", or "" if that is not known.

    ``writing`` is whether a session is writing the journal now; None if that is not known.
    """
    if session.closed_at is not None:
        return "closed"
    if session is not contents.sessions[-1] or writing is False:
        return "died"
    return "" if writing is None else "lives"


def _words(detail: dict[str, Any]) -> str:
    request_id, status, code = detail.get("request_id"), detail.get("status"), detail.get("error_code")
    parts = [request_id, f"status {status}" if status is not None else None, f"code {code}" if code else None]
    if (connection := detail.get("connection")) is not None:
        parts.append(f"connection {connection}")
    parts += [detail.get("closed_as"), clean(detail.get("order_id") or "")]
    return "  ".join(part for part in parts if part)


def _csv_lines(orders: list[JournalOrder]) -> Iterator[str]:
    text = io.StringIO()
    writer: csv_format.DictWriter[str] = csv_format.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for order in orders:
        named = {"id": order.request.id, "external_id": order.request.external_id}
        for at, event, detail in _events(order):
            writer.writerow({"at": moment(at), "event": event, **named, **detail})
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def _json_lines(orders: list[JournalOrder]) -> Iterator[str]:
    for order in orders:
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
            attempt_record(attempt) | {"connection": connection}
            for attempt, connection in zip(cancel.attempts, cancel.connections, strict=True)
        ],
        "outcome": cancel.kind,
        "settled_at": moment(cancel.settled_at),
        "error_code": cancel.error_code,
        "closed_as": cancel.closed_as,
    }


def _events(order: JournalOrder) -> list[tuple[float, str, dict[str, Any]]]:
    """Return what happened to an order, in chronological order: when, what, and more columns."""
    events: list[tuple[float, str, dict[str, Any]]] = []

    def add(at: float | None, event: str, **detail: Any) -> None:
        if at is not None:
            events.append((at, event, detail))

    for hold in order.holds:
        add(hold.held_at, "held", session=hold.session)
        add(hold.placed_at, "placed", session=hold.session, order_id=hold.order_id)
        add(hold.released_at, "released", session=hold.session)
    for cancel in order.cancels:
        session = cancel.session
        if cancel.kind != DISMISSED:
            add(cancel.intended_at, "intended", session=session)
        for attempt, connection in zip(cancel.attempts, cancel.connections, strict=True):
            add(attempt.written_at, "written", session=session, request_id=attempt.request_id, connection=connection)
            add(attempt.answered_at, "answered", session=session, request_id=attempt.request_id, status=attempt.status)
        why = {"error_code": cancel.error_code, "closed_as": cancel.closed_as}
        add(cancel.settled_at, cancel.kind or "", session=session, **why)
    events.sort(key=lambda event: event[0])
    return events


def _to_the_second(unix: float | None) -> str | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")
