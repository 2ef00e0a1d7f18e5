"""Cancel what earlier sessions left in a journal, and report what happened to it: for code and for the command line.

The journal says what was left, and the venue's answers go into the same journal: what one run has settled, the next one
finds settled. If a held order is not found, it is asked for again until ``settle`` seconds (:class:`Timings`) have
passed, because its create may still be on its way. If the venue does not know it then, it never came, and its hold is
released. The same holds for an order that was held by external id if the venue says that the name is closed and may
mean an older order.

The task that resumes owns the :class:`Resumption`. The outcomes themselves change the journal's list of what is left
(``_journal.left``). So if a resume is cancelled, or its process dies, what has settled stays settled. Cancelling it
withdraws what has not been written; answers to what has been written still go into the journal. An order whose answer
came but was not judged stays left: it is asked for once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec
import trio

from trio_cancel._cancels.scope_exit import together
from trio_cancel._cancels.stream import run_stream
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._journal.journal import Journal
from trio_cancel._journal.left import requests_of
from trio_cancel._journal.resume import OLD, Plan, PlannedCancel, plan_resume
from trio_cancel._session.session import Session
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import (
    AlreadyClosed,
    Canceled,
    NotFound,
    NotSent,
    NotSurelyThisOrder,
    Outcome,
    Unknown,
    not_surely,
)
from trio_cancel._values.report import CancelReport


class Resumption:
    """The orders to cancel, and what each answer means for them.

    Attributes:
        planned: the cancels, by the request that is sent to the venue.
        again: orders that were not found for certain, and what is known of them.
    """

    def __init__(
        self, plan: Plan, release: Callable[[Iterable[int]], None], clock: Callable[[], OffsetInterval | None]
    ) -> None:
        self.planned: dict[CancelRequest, PlannedCancel] = {planned.request: planned for planned in plan.cancels}
        self.again: dict[CancelRequest, Outcome] = {}
        self._release = release
        self._clock = clock

    def read(self, outcome: Outcome) -> Outcome | None:
        """Return the outcome of an order; None if it must be asked for again."""
        request = outcome.request
        planned = self.planned[request]
        surely = bool(outcome.off_book) and planned.is_meant_by(outcome, self._clock())
        if isinstance(outcome, Unknown) and isinstance(outcome.cause, NotSurelyThisOrder) and outcome.cause.closed:
            # It was canceled by an id that a lookup gave, of an older order of this name; the held one may come.
            outcome = msgspec.structs.replace(outcome.cause.closed, attempts=outcome.attempts)
        outcome = together(self.again.pop(request, None), outcome, surely=surely)
        if planned.holds and not surely and isinstance(outcome, NotFound | Canceled | AlreadyClosed):
            self.again[request] = outcome
            return None
        if surely:
            self._end(planned)
        return outcome

    async def run(
        self, cancel: Callable[[Iterable[CancelRequest]], Awaitable[None]], session: Session, policy: RetryPolicy
    ) -> None:
        """Cancel everything, with the time that creates need to arrive; :meth:`unsure` has what is left at the end.

        ``cancel`` cancels orders in the session, and has each outcome read here.
        """
        timings = session.timings
        until = trio.current_time() + timings.settle
        some: Iterable[CancelRequest] = tuple(self.planned)
        while True:
            last = trio.current_time() >= until
            await cancel(some)
            if last or not self.again:
                break
            if session.engine.is_silent(policy.give_up_after):
                # Nobody can tell now whether they have come: they stay held, and the next resume asks.
                return
            await trio.sleep(min(timings.ask_again, max(0.0, until - trio.current_time())))
            some = tuple(self.again)
        self.give_up(self.again)

    def give_up(self, requests: Iterable[CancelRequest]) -> None:
        """Count orders that were not found for long enough as dealt with; see :meth:`unsure`."""
        for request in requests:
            self._end(self.planned[request])

    def unsure(self) -> Iterator[Outcome]:
        """Return the outcomes of the orders that had to be asked for again."""
        for outcome in self.again.values():
            yield not_surely(outcome) if isinstance(outcome, Canceled | AlreadyClosed) else outcome

    def _end(self, planned: PlannedCancel) -> None:
        self._release(hold.number for hold in planned.holds)


def why_old(known_at: float, now: float, remedy: str) -> NotWritten:
    """Return why an order is not canceled by its old external id, which its session meant until ``known_at``."""
    future = "is stamped in the future, since the clock was set back,"
    age = future if known_at > now else f"is older than {OLD / 3600:g} h"
    return NotWritten(f"its external id {age} and may name a newer order; {remedy} takes it")


async def resume(session: Session, journal: Journal, policy: RetryPolicy, *, old_external_ids: bool) -> CancelReport:
    """Cancel what is left; see ``TradingWS.resume``. One at a time."""
    left, holds, now = journal.left, session.engine.holds, session.wall()
    skipped: list[Outcome] = []
    free = []
    for order in left.orders:
        if order.request in left.ours or any(holds.holder(request) is not None for request in requests_of(order)):
            why = "this session has held it itself; its scope takes care of it, or ws.dismiss(…)"
            skipped.append(NotSent(order.request, cause=NotWritten(why)))
        else:
            free.append(order)
    plan = plan_resume(free, now, old_external_ids=old_external_ids)
    remedy = "ws.resume(old_external_ids=True)"
    old = [NotSent(order.request, cause=why_old(order.known_at, now, remedy)) for order in plan.old]
    resumption = Resumption(plan, journal.release_left, lambda: session.clock)
    outcomes: dict[CancelRequest, Outcome] = {}

    async def cancel(some: Iterable[CancelRequest]) -> None:
        async with run_stream(some, policy, session.engine) as stream:
            async for outcome in stream:
                if (read := resumption.read(outcome)) is not None:
                    outcomes[read.request] = read

    names = {planned.name for planned in plan.cancels}
    left.under_way |= names
    try:
        await trio.lowlevel.checkpoint()
        if resumption.planned:
            await resumption.run(cancel, session, policy)
    finally:
        left.under_way -= names
    outcomes |= {outcome.request: outcome for outcome in resumption.unsure()}
    told = [msgspec.structs.replace(outcomes[p.request], request=p.name) for p in resumption.planned.values()]
    return CancelReport((*told, *old, *skipped), journal_failed=session.journal_failed())
