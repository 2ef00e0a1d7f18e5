"""The state of the journals in a database, as text and as JSON lines (sans-I/O except for the one look)."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import msgspec

from trio_cancel._cli._failure import CommandError, clean, counted
from trio_cancel._cli._tally import Status
from trio_cancel._journal.address import server_of

if TYPE_CHECKING:
    from trio_cancel._guard.status import GuardStatus, JournalStatus, Overview

_MEANING = {
    "live": "its session is alive",
    "expired": "ITS SESSION HAS NOT BEEN HEARD OF FOR ITS LEASE",
    "taken": "a guard is dealing with it",
    "left": "released with something left",
    "free": "nothing is left",
}


def look(address: str) -> Overview:
    """Look at a database."""
    server = server_of(address)
    if server is None or server.name:
        raise CommandError("--status looks at a whole database: postgresql://host/database, without journal=.")
    try:
        from trio_cancel._guard.status import read_overview
    except ImportError:
        raise CommandError(
            "A guard needs psycopg, which is not installed: pip install 'trio-cancel[postgres]'."
        ) from None
    return read_overview(server)


def status_of(overview: Overview) -> Status:
    """Return 1 if something is left that no session has, or if nobody watches a session; otherwise 0."""
    needs = any(
        one.state in ("expired", "left") or (one.state == "live" and not one.watched) for one in overview.journals
    )
    return Status.LEFT if needs else Status.OK


def as_json(overview: Overview) -> bytes:
    """Return one line for each guard and each journal."""
    guards = [
        {"guard": one.number, "name": one.name, "lives": one.lives, "silent": round(one.silent, 3)}
        | {"accounts": one.accounts}
        for one in overview.guards
    ]
    journals = [
        {"journal": one.name, "url": one.url, "state": one.state, "orders": one.orders, "watched": one.watched}
        | {"lease": one.lease, "silent": round(one.silent, 3), "guard": one.guard}
        for one in overview.journals
    ]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in (*guards, *journals))


def as_text(overview: Overview, width: int) -> str:
    """Return the text for a terminal of this width."""
    lines = [_guard(one) for one in overview.guards] or ["no guard has started: nobody watches these journals"]
    in_use = [one for one in overview.journals if one.state != "free"]
    lines += [_journal(one) for one in in_use]
    free = len(overview.journals) - len(in_use)
    if free or not in_use:
        lines.append(f"{counted(free, 'journal')} free, with nothing left")
    return "".join(
        f"{part}\n" for line in lines for part in textwrap.wrap(clean(line), max(20, width), subsequent_indent="  ")
    )


def _guard(guard: GuardStatus) -> str:
    if not guard.lives:
        return f"guard {guard.number} on {guard.name}: silent for {_seconds(guard.silent)}, it has probably died"
    accounts = counted(guard.accounts, "account")
    return f"guard {guard.number} on {guard.name}: alive {_seconds(guard.silent)} ago, serves {accounts}"


def _journal(journal: JournalStatus) -> str:
    meaning = _MEANING[journal.state]
    if journal.guard is not None:
        meaning = f"guard {journal.guard} is dealing with it"
    orders = f"{counted(journal.orders, 'order')} held or not settled"
    heard = f"last sign of life {_seconds(journal.silent)} ago"
    watched = "" if journal.watched else ", NO GUARD HAS ITS CREDENTIALS AND CAN REACH ITS VENUE"
    return f"journal {journal.name} at {journal.url}: {meaning}, {orders}, {heard} (lease {journal.lease:g} s){watched}"


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 360000 else f"{seconds / 86400:.0f} days"
