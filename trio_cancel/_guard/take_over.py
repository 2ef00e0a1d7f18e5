"""One take-over: the guard takes a dead session's journal for a moment, and cancels what was held in it.

While it has the journal, the guard is an ordinary session with an epoch and a lease: if it dies, the next guard takes
the journal over from it. It cancels through a WebSocket that all take-overs of an account share, records each outcome,
and releases the journal. If something is left, it tries again later.

An order that is not found stays held as long as the old session may still place it: a process that was stopped between
holding an order and placing it goes on when it wakes. The hold ends once that session has said that it ended, and
creates that were on their way have had time to arrive (``Timings.settle``). External ids older than an hour are not
tried again; they stay left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from urllib.parse import quote

import attrs
import msgspec
import trio

from trio_cancel._cancels.resuming import Resumption, why_old
from trio_cancel._cancels.stream import run_stream
from trio_cancel._client import TradingWS
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._journal.address import Server
from trio_cancel._journal.journal import Journal
from trio_cancel._journal.lease import steady
from trio_cancel._journal.resume import plan_resume
from trio_cancel._values.errors import NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import NotFound, NotSent, Outcome
from trio_cancel._values.report import CancelReport

BY_ID = RetryPolicy(reply_timeout=5.0, give_up_after=10.0)
"""How long an order is tried by the venue's id. After that its journal is released, and tried again later."""
BY_NAME = RetryPolicy(reply_timeout=5.0, give_up_after=10.0, retry=False)
"""By external id there is one attempt, because the owner of the name must be checked before each."""
NAMES_TOGETHER = 20
"""How many external ids are canceled together."""
FRESH = 0.5
"""Seconds for which a check of the names' owners is valid."""


@attrs.frozen
class Taken:
    """The result of a take-over.

    Attributes:
        report: an outcome for each order that was left.
        again: whether some of the orders must be tried again.
    """

    report: CancelReport
    again: bool


def address_of(server: Server, journal: str) -> str:
    """Return the address of a journal in a database."""
    return f"{server.conninfo}{'&' if '?' in server.conninfo else '?'}journal={quote(journal, safe='')}"


async def see_to(
    journal: Journal,
    ws: TradingWS,
    now: float,
    *,
    others: Callable[[list[str]], Awaitable[set[str]]],
    ended: Callable[[], Awaitable[set[int]]],
) -> Taken:
    """Cancel what is left in a journal that was taken over.

    Args:
        journal: open, and the guard's.
        ws: a session of its account.
        now: Unix seconds.
        others: returns those of some external ids that another journal has now.
        ended: returns the sessions that ended so long ago that none of their creates is still on its way.

    Raises:
        StoreFailed: the owners of the external ids could not be checked. What was canceled until then is recorded.
    """
    plan = plan_resume(journal.left.orders, now)
    resumption = Resumption(plan, journal.release_left, lambda: ws.clock)
    outcomes: dict[CancelRequest, Outcome] = {}
    skipped: set[CancelRequest] = set()

    async def cancel(some: Iterable[CancelRequest], policy: RetryPolicy) -> None:
        async with run_stream(some, policy, ws._session.engine) as stream:
            async for outcome in stream:
                if outcome.off_book or isinstance(outcome, NotFound):
                    journal.settle_left(outcome)
                if (read := resumption.read(outcome)) is not None:
                    outcomes[outcome.request] = read

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def stop_if_taken_over() -> None:
                await journal.over.wait()
                scope.cancel()

            nursery.start_soon(stop_if_taken_over)
            await cancel([request for request in resumption.planned if request.id is not None], BY_ID)
            names = iter([request for request in resumption.planned if request.id is None])
            while some := list(islice(names, NAMES_TOGETHER)):
                asked_at, theirs = await _asked(others, some)
                while steady() - asked_at > FRESH:  # this process stood still: a name may have a new owner
                    asked_at, theirs = await _asked(others, some)
                skipped |= theirs
                await cancel([request for request in some if request not in theirs], BY_NAME)
            if resumption.again:
                gone = await ended()
                planned = resumption.planned
                resumption.give_up(
                    [one for one in resumption.again if all(hold.session in gone for hold in planned[one].holds)]
                )
            nursery.cancel_scope.cancel()
    outcomes |= {outcome.request: outcome for outcome in resumption.unsure()}
    for request in resumption.planned:
        if request in skipped:
            outcomes[request] = NotSent(request, cause=NotWritten("another journal has this name now; it is not ours"))
        elif request not in outcomes:
            outcomes[request] = NotSent(request, cause=NotWritten("another session has the journal now"))
    named = [msgspec.structs.replace(outcomes[one.request], request=one.name) for one in resumption.planned.values()]
    remedy = "ws.resume(old_external_ids=True)"
    old = [NotSent(order.request, cause=why_old(order.known_at, now, remedy)) for order in plan.old]
    tried = {one.name for request, one in resumption.planned.items() if request not in skipped}
    again = any(order.request in tried for order in journal.left.orders)
    return Taken(CancelReport((*named, *old), journal_failed=journal.failed), again)


async def _asked(
    others: Callable[[list[str]], Awaitable[set[str]]], some: list[CancelRequest]
) -> tuple[float, set[CancelRequest]]:
    """Check who owns these external ids; return when that was asked, and those that another journal has."""
    asked_at = steady()
    theirs = await others([request.key for request in some])
    return asked_at, {request for request in some if request.key in theirs}
