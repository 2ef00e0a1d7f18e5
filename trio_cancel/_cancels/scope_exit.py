"""The end of an order scope: cancel what it held, within its grace, and know what became of each.

A drain runs as a task of the session: shielded, protected from KeyboardInterrupt, out of the reach of whatever ended
the scope's block. It owns the orders' outcomes; the dispatcher settles them into it at once, so that none is lost
however the drain ends: by the last outcome, by the end of the grace, early by a second Ctrl-C, or with the session.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

import attrs
import trio

from trio_cancel._engine.engine import Dispatcher
from trio_cancel._engine.order import Pending, Terms
from trio_cancel._trio.wakeup import Bell
from trio_cancel._values.errors import NoReply, NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import NotFound, NotSent, Outcome, Rejected, Unknown

AGAIN_FIRST, AGAIN_MOST = 0.25, 1.0
"""Seconds until the first and the last repetition for an order that the venue does not know yet, or that an answer left
unknown."""


class _Turn(Pending):
    """One cancel of one order."""

    __slots__ = ("_drain",)

    def __init__(self, drain: Drain, request: CancelRequest, terms: Terms) -> None:
        super().__init__(request, terms)
        self.urgent = True
        self._drain = drain

    def deliver(self) -> None:
        self._drain.settled(self)


class Drain:
    """See the module's docstring.

    Attributes:
        early: cancel it to end the grace at once.
        done: set when there is nothing more to wait for.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        terms: Terms,
        requests: Iterable[CancelRequest],
        *,
        grace: float,
        settle: float,
        is_placed: Callable[[CancelRequest], bool],
        concluded: Callable[[tuple[Outcome, ...]], None],
    ) -> None:
        self.early = trio.CancelScope()
        self.done = trio.Event()
        now = trio.current_time()
        self._dispatcher = dispatcher
        self._terms = attrs.evolve(terms, reply_timeout=min(terms.reply_timeout, grace / 3), retry=True)
        self._ends_at = now + grace
        self._settled_at = now + settle
        self._is_placed = is_placed
        self._concluded = concluded
        self._outcomes: dict[CancelRequest, Outcome | None] = dict.fromkeys(requests)
        self._under_way: dict[CancelRequest, _Turn] = {}
        self._again: list[tuple[float, int, CancelRequest]] = []  # a heap: when to ask again
        self._waits: dict[CancelRequest, float] = {}
        self._asked = 0  # breaks ties, so that equal times come in order
        self._bell = Bell()
        self._over = False

    async def run(self) -> None:
        """Cancel everything, and conclude. If cancelled, it concludes at once with what is known."""
        try:
            with self.early, trio.move_on_at(self._ends_at):
                for request in self._outcomes:
                    self._submit(request)
                while self._under_way or self._again:
                    with trio.move_on_at(self._again[0][0] if self._again else math.inf):
                        await self._bell.wait()
                    while self._again and self._again[0][0] <= trio.current_time():
                        self._submit(heapq.heappop(self._again)[2])
        finally:
            try:
                self._conclude()
            finally:
                self.done.set()

    def give_up(self) -> None:
        """Conclude without waiting: the session has been ended."""
        for request in self._outcomes:
            self._submit(request)  # it settles at once
        self._conclude()
        self.done.set()

    def _submit(self, request: CancelRequest) -> None:
        now = trio.current_time()
        terms = attrs.evolve(self._terms, give_up_after=max(0.001, self._ends_at - now))
        self._under_way[request] = turn = _Turn(self, request, terms)
        self._dispatcher.submit(turn, now)

    def settled(self, turn: _Turn) -> None:
        """Take an outcome in; ask again where that can still change it."""
        if self._over:
            return  # reported as it was; whoever observes the session learns what came of it
        assert turn.outcome is not None
        request = turn.request
        del self._under_way[request]
        outcome = self._outcomes[request] = self._read(turn, turn.outcome)
        now = trio.current_time()
        until = self._ask_until(outcome)
        if now < until:
            wait = self._waits.get(request, AGAIN_FIRST)
            self._waits[request] = min(AGAIN_MOST, 2 * wait)
            self._asked += 1
            heapq.heappush(self._again, (min(now + wait, until), self._asked, request))
        self._bell.ring()

    def _read(self, turn: _Turn, outcome: Outcome) -> Outcome:
        """Read an outcome together with those before, and with other cancels of the order that may have worked."""
        outcome = together(self._outcomes[turn.request], outcome)
        if not isinstance(outcome, Rejected | NotSent):
            return outcome
        table = self._dispatcher.table
        request = turn.request
        others = (other for other in (*table.active, *table.overdue) if other is not turn and other.request == request)
        if request not in table.holds.doubtful and not any(other.flights for other in others):
            return outcome
        cause = NoReply("an earlier cancel of it was not answered, and this one was refused or not sent")
        return Unknown(request, outcome.attempts, error=outcome.error, after_unanswered=True, cause=cause)

    def _ask_until(self, outcome: Outcome) -> float:
        """Return until when the same question may find another answer."""
        if self._dispatcher.table.stopped is not None:
            return -math.inf
        if isinstance(outcome, NotFound) and not self._is_placed(outcome.request):
            return self._settled_at  # its create may still be on the way; the venue may take that long
        if isinstance(outcome, Unknown):
            return self._ends_at  # an answer that says nothing: if it was applied, the next one says so
        return -math.inf

    def _conclude(self) -> None:
        self._over = True
        clock = self._dispatcher.table.clock
        for request, turn in self._under_way.items():
            over = NoReply("no answer came before the scope's grace was over")
            self._outcomes[request] = self._read(turn, turn.conclude(over, clock))
            self._dispatcher.abandon(turn)
        never = NotWritten("the scope's grace was over before its turn came")
        self._concluded(tuple(outcome or NotSent(request, cause=never) for request, outcome in self._outcomes.items()))


def together(before: Outcome | None, after: Outcome) -> Outcome:
    """Read an order's next cancel together with those before, which did not settle it."""
    if before is None:
        return after
    attempts = before.attempts + after.attempts
    unsure = before.after_unanswered or after.after_unanswered or isinstance(before, Unknown)
    if isinstance(after, NotSent):
        return attrs.evolve(before, attempts=attempts)
    if isinstance(after, Rejected) and unsure:
        cause = NoReply("an earlier attempt was not answered")
        return Unknown(after.request, attempts, error=after.error, after_unanswered=True, cause=cause)
    return attrs.evolve(after, attempts=attempts, after_unanswered=unsure)
