"""One take-over: a dead session's journal becomes the guard's for a moment, and what was held in it is canceled.

The guard has the journal as an ordinary session of its own, with an epoch and a lease: if it dies meanwhile, the next
guard takes the journal over from it. It cancels through a WebSocket that all take-overs of an account share, records
what each cancel came to, and lets go of the journal: free if nothing is left in it, else to be asked for again.

What is not found is not counted as gone as long as the old session may still place it: a process that was stopped
between holding an order and placing it does so when it wakes. Only once that session has said that it has ended, and
the creates that were under way have had their time (``settle``), the hold ends. After an hour external ids are too old
to be asked for; they stay left.
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
"""How long an order is tried by the venue's id; after that its journal is let go of, and asked for again later."""
BY_NAME = RetryPolicy(reply_timeout=5.0, give_up_after=10.0, retry=False)
"""By external id there is one attempt, because before each it is asked whose the name is now."""
NAMES_TOGETHER = 20
"""External ids that are canceled at a time."""
FRESH = 0.5
"""Seconds for which an answer about whose a name is counts."""


@attrs.frozen
class Taken:
    """What a take-over came to.

    Attributes:
        report: an outcome for each order that was left.
        again: whether some of it is to be asked for again.
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
        others: returns which external ids another journal has now.
        ended: returns the sessions that have ended for so long that nothing of theirs is on its way.

    Raises:
        StoreFailed: it could not be found out whose an external id is. What was canceled until then is recorded.
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
                while steady() - asked_at > FRESH:  # this process stood still: perhaps it is another's by now
                    asked_at, theirs = await _asked(others, some)
                skipped |= theirs
                await cancel([request for request in some if request not in theirs], BY_NAME)
            if resumption.again:
                gone = await ended()
                resumption.give_up(
                    [
                        request
                        for request in resumption.again
                        if all(hold.session in gone for hold in resumption.planned[request].holds)
                    ]
                )
            nursery.cancel_scope.cancel()
    outcomes |= {outcome.request: outcome for outcome in resumption.unsure()}
    for request in resumption.planned:
        if request in skipped:
            outcomes[request] = NotSent(request, cause=NotWritten("another journal has this name now; it is not ours"))
        elif request not in outcomes:
            outcomes[request] = NotSent(request, cause=NotWritten("another session has the journal now"))
    told = [msgspec.structs.replace(outcomes[p.request], request=p.name) for p in resumption.planned.values()]
    remedy = "ws.resume(old_external_ids=True)"
    old = [NotSent(order.request, cause=why_old(order.known_at, now, remedy)) for order in plan.old]
    settled = {planned.name for request, planned in resumption.planned.items() if request not in skipped}
    again = any(order.request in settled for order in journal.left.orders)
    return Taken(CancelReport((*told, *old), journal_failed=journal.failed), again)


async def _asked(
    others: Callable[[list[str]], Awaitable[set[str]]], some: list[CancelRequest]
) -> tuple[float, set[CancelRequest]]:
    """Ask whose some names are; return when that was asked, and those that are another's."""
    asked_at = steady()
    theirs = await others([request.key for request in some])
    return asked_at, {request for request in some if request.key in theirs}
