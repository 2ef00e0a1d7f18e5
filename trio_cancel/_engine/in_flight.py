"""Every order under way, by its place in the window and by its request ids (sans-I/O).

An order keeps its place in the window from its admission until it settles. If its caller leaves, a request that has not
been written is withdrawn. One that has been written stays in the table, so that a late answer still settles it while
the connection lives, but it gives up its place when its reply is overdue. Settling removes an order's request ids,
except for a bounded memory of the last ones, which distinguishes late and contradicting answers from unknown ones.

An order written as a last chance (see ``_engine.silence``) has no place in the window: it is in ``last``. It gets a
place only if the venue comes back and the order has to be written again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import msgspec
import trio

from trio_cancel._engine.cancel_journal import CancelJournal
from trio_cancel._engine.held import HeldOrders
from trio_cancel._engine.lookup_progress import (
    AGAIN_FIRST,
    BUDGET,
    FAILURES_MOST,
    LookupProgress,
    Next,
    Open,
    needs_lookup,
    settled_by,
    with_seen,
)
from trio_cancel._engine.order import IllegalStep, LiveAttempt, OrderCancel, State, admit_all
from trio_cancel._engine.queue import Queue
from trio_cancel._engine.silence import Silence
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.errors import ConnectionLost, NoReply, NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import Counters, Notifier, logger
from trio_cancel._values.order_state import OrderState, OrderStatus
from trio_cancel._values.outcomes import KINDS, AlreadyClosed, Outcome, OutcomeKind, Unknown

LATE_KEPT = 1024
"""How many overdue orders without a caller are still matched, and how many settled requests are remembered at least (at
most twice as many): all attempts of a window full of orders that the venue answers much too late."""

LOST_KEPT = 2**18
"""How many last chances that were not answered in time are remembered: a venue that comes back may answer all of them,
and these answers are not noise."""

# How an order settled, and whether the request was answered: two tables, to avoid a tuple for each request.
_ANSWERED = {kind: (kind, True) for kind in KINDS}
_UNANSWERED = {kind: (kind, False) for kind in KINDS}


class InFlight:
    """The orders under way. ``queue`` has those that are not admitted yet, and those that wait for another attempt.

    The arguments are those of the engine; ``wakeup`` is rung when there may be something to write.
    """

    def __init__(
        self,
        notify: Notifier | None,
        wakeup: Wakeup,
        clock: VenueClock,
        *,
        journal: CancelJournal | None = None,
        lookups: bool = False,
        closed_too: bool = False,
    ) -> None:
        self.queue: Queue = Queue()
        self.counters: Counters = Counters()
        self.holds: HeldOrders = HeldOrders()
        self.silence: Silence = Silence()
        self.to_look_up: deque[OrderCancel] = deque()  # what the lookups task has not taken yet
        self.lookup_wakeup: Wakeup = Wakeup()  # rung when there is something
        self.looked_up: dict[OrderCancel, None] = {}  # what is being looked up now
        self.flights: dict[str, LiveAttempt] = {}
        # Attempts whose connection has ended, with its cause, that have not been processed since.
        self.lost: deque[tuple[dict[str, LiveAttempt], ConnectionLost]] = deque()
        self.active: dict[OrderCancel, None] = {}
        self.active_priority: int = 0
        self.last: dict[OrderCancel, None] = {}
        self.overdue: dict[OrderCancel, None] = {}
        # By request id: how its order settled; whether it was answered. The older half is dropped at once, in no time.
        self._recent: dict[str, tuple[OutcomeKind, bool]] = {}
        self._older: dict[str, tuple[OutcomeKind, bool]] = {}
        self._lost: dict[str, tuple[OutcomeKind, bool]] = {}  # the same for last chances and for the overdue
        self.clock: VenueClock = clock
        self.stopped: BaseException | None = None  # failed or closed for good
        self.notify = notify
        self.wakeup: Wakeup = wakeup
        self._journal = journal
        self._lookups = lookups
        self._closed_too = closed_too

    def admit(self, order: OrderCancel) -> None:
        """Give an order a place in the window, if it has none, and let it be signed."""
        try:
            order.admit()
        except IllegalStep as error:
            self._account_for((order,), error)
            raise
        if order not in self.active:
            self.last.pop(order, None)
            self._enter(order)

    def admit_last(self, order: OrderCancel, group: Iterable[OrderCancel]) -> None:
        """Let an order be signed, one of a group, without giving it a place in the window."""
        try:
            order.admit()
        except IllegalStep as error:
            self._account_for(group, error)
            raise
        if order not in self.active:
            self.last[order] = None

    def admit_all(self, group: list[OrderCancel], *, priority: bool) -> list[OrderCancel]:
        """Admit new orders, either all from single cancels or all from bulk ones; return them."""
        try:
            admit_all(group)
        except IllegalStep as error:
            self._account_for(group, error)
            raise
        if priority:
            self.active_priority += len(group)
        self.active.update(dict.fromkeys(group))
        return group

    def _account_for(self, group: Iterable[OrderCancel], error: IllegalStep) -> None:
        """Give an outcome or another attempt to orders that an illegal step kept from admission: only we have them."""
        for order in group:
            if order.state is State.QUEUED:
                self.conclude(order, error)
            elif order.state is State.ADMITTED:
                if order not in self.active and order not in self.last:
                    self._enter(order)
                self.retry(order, -math.inf)

    def _enter(self, order: OrderCancel) -> None:
        """Give it a place in the window."""
        self.active[order] = None
        self.active_priority += order.priority

    def _leave(self, order: OrderCancel) -> None:
        """Take it from wherever it has its place."""
        if order in self.active:
            del self.active[order]
            self.active_priority -= order.priority
        else:
            self.last.pop(order, None)
            self.overdue.pop(order, None)

    def time_left(self, order: OrderCancel, now: float) -> float:
        """Return how many seconds of its time are left."""
        patience = order.policy.give_up_after
        return patience - order.spent(now, self.silence.since(patience))

    def can_still_be_answered(self, order: OrderCancel) -> bool:
        """Return True if one of its attempts is unanswered on a connection that lives."""
        flights = self.flights
        return any(f.answered_at is None and f.request_id in flights for f in order.flights)

    def retry(self, order: OrderCancel, at: float) -> None:
        """Let it wait for its next attempt, not before ``at``."""
        if self.stopped is not None:
            self.conclude(order, self.stopped)
            return
        order.retry(at)
        if order not in self.last:
            self.queue.retry(order)
        elif order.latest is not None:
            self.queue.returning.append(order)
        else:
            self.queue.last_chance.append(order)
        if self._journal is not None:
            self._journal.retried(order)
        self.wakeup.ring()

    def conclude(self, order: OrderCancel, cause: BaseException | None) -> None:
        """End it with what its attempts add up to; ``cause`` is why there are no more of them, unless they say why."""
        self.settle(order, order.conclude(cause, self.clock.interval))

    def settle(self, order: OrderCancel, outcome: Outcome) -> None:
        """End it with ``outcome`` and deliver that."""
        if self._lookups:
            if self._look_up(order, outcome):
                return
            if order.lookup is not None and outcome.seen is None and needs_lookup(outcome, closed_too=False):
                outcome = with_seen(outcome, order.lookup.outcome.seen)
        if order.unrecorded and order.latest is not None:
            outcome = msgspec.structs.replace(outcome, unrecorded=True)
        order.settle(outcome)
        recent = self._recent
        if order in self.active:
            del self.active[order]
            self.active_priority -= order.priority
        elif order in self.last or order in self.overdue:
            # There may be very many of these at once, which must not push the others out.
            self.last.pop(order, None)
            self.overdue.pop(order, None)
            if len(self._lost) >= LOST_KEPT:
                self._lost.clear()
            recent = self._lost
        if self.looked_up:
            self.looked_up.pop(order, None)
        for flight in order.flights:
            if self.flights.pop(flight.request_id, None) is None and self.lost:
                for lost, _ in self.lost:
                    lost.pop(flight.request_id, None)
            settled_as = _UNANSWERED if flight.answered_at is None else _ANSWERED
            recent[flight.request_id] = settled_as[outcome.kind]
            del flight.order  # break the cycle: a settled order must not wait for the garbage collector
        if len(self._recent) >= LATE_KEPT:
            self._older, self._recent = self._recent, {}
        self.counters.settled += 1
        try:
            if self._journal is not None:
                self._journal.settled(order)
            if self.holds.holders:
                self.holds.settled(outcome)
            if order.abandoned:
                self.notify_late(order.request, outcome)
        finally:
            order.deliver()  # whatever failed: otherwise its caller would wait for ever

    # Lookups

    def _look_up(self, order: OrderCancel, outcome: Outcome) -> bool:
        """Have an order looked up that would end as ``outcome``, if a lookup can say more; return True if it is."""
        if order.abandoned or self.stopped is not None or not needs_lookup(outcome, closed_too=self._closed_too):
            return False
        now = trio.current_time()
        lookup = order.lookup
        if lookup is None:
            order.lookup = lookup = LookupProgress(outcome, now + max(0.0, self.time_left(order, now)) + BUDGET)
        else:
            if lookup.ends_at <= now:
                return False
            lookup.outcome = with_seen(outcome, outcome.seen or lookup.outcome.seen)
            if order.state is State.LOOKED_UP:
                return True  # a late answer to an earlier attempt
        order.look_up()
        self._leave(order)
        self.looked_up[order] = None
        self.to_look_up.append(order)
        self.lookup_wakeup.ring()
        self.wakeup.ring()  # it has left its place in the window
        return True

    def seen(self, order: OrderCancel, state: OrderState) -> float | None:
        """Process what a lookup saw; return the seconds until the next one, None if there is no more to look up.

        An order that has meanwhile settled, by a late answer, is not changed.
        """
        lookup = order.lookup
        if order.state is not State.LOOKED_UP or lookup is None:
            return None
        now = trio.current_time()
        lookup.failures = 0
        so_far = msgspec.structs.replace(lookup.outcome, attempts=order.attempts())
        closed = settled_by(state, so_far, self.clock.interval, order.learned)
        if closed is not None:
            self._end_lookup(order, closed)
            return None
        before = lookup.outcome.seen
        if state.on_book and (before is None or not before.on_book):
            lookup.wait = AGAIN_FIRST  # it has just reached the book: it is canceled at once
        lookup.outcome = with_seen(lookup.outcome, state)
        follows = after_lookup(state, order, now)
        if follows is Next.LOOK_AGAIN:
            return lookup.next_wait()
        if follows is Next.SETTLE:
            self._end_lookup(order, lookup.outcome)
            return None
        if order.request.id is None and state.id:
            asks = order.learned or CancelRequest(state.id)
            # By an id from a lookup only every other time: a lagging replica may show an old order of this name.
            lookup.asks = None if asks == lookup.asks and order.learned is None else asks
        self.looked_up.pop(order, None)
        self._enter(order)
        self.retry(order, now + lookup.next_wait())
        return None

    def not_seen(self, order: OrderCancel, again: bool) -> float | None:
        """Note that a lookup failed; return the seconds until the next one, None if there is none.

        ``again`` says whether another lookup may find more.
        """
        lookup = order.lookup
        if order.state is not State.LOOKED_UP or lookup is None:
            return None
        lookup.failures += 1
        wait = lookup.next_wait()
        if again and lookup.failures < FAILURES_MOST and trio.current_time() + wait < lookup.ends_at:
            return wait
        self._end_lookup(order, lookup.outcome)
        return None

    def _end_lookup(self, order: OrderCancel, outcome: Open) -> None:
        lookup = order.lookup
        assert lookup is not None
        lookup.ends_at = -math.inf  # nothing more is looked up
        # Attempts may meanwhile have been answered, in a way that says nothing about the order.
        lookup.outcome = outcome = msgspec.structs.replace(outcome, attempts=order.attempts())
        self.settle(order, outcome)

    def notify_late(self, request: CancelRequest, outcome: Outcome) -> None:
        """Report an outcome that its caller did not wait for."""
        logger.info("%s settled as %s after its caller had left", request, outcome.kind)
        if self.notify is not None:
            self.notify("settled_late", outcome)

    def settled_as(self, request_id: str) -> tuple[OutcomeKind, bool] | None:
        """Return how the order of a recent request settled, and whether the request was answered."""
        return self._recent.get(request_id) or self._older.get(request_id) or self._lost.get(request_id)

    def answered_late(self, request_id: str, kind: OutcomeKind) -> None:
        """Note the answer to a request whose order had settled as ``kind`` before."""
        for remembered in (self._recent, self._older, self._lost):
            if request_id in remembered:
                remembered[request_id] = _ANSWERED[kind]
                return

    @trio.lowlevel.enable_ki_protection
    def abandon(self, order: OrderCancel) -> None:
        """Note that the caller has left: withdraw what has not been written, keep tracking what has."""
        if order.state is State.SETTLED:
            return
        order.abandoned = True
        if order.state is State.LOOKED_UP:
            assert order.lookup is not None
            self._end_lookup(order, order.lookup.outcome)
        elif order.latest is None:
            self.conclude(order, NotWritten("its caller left before it was written"))
            self.wakeup.ring()
        elif not self.can_still_be_answered(order):
            # Nothing more can come: its answers are here or its connections have gone.
            self.conclude(order, None)
            self.wakeup.ring()
        else:
            order.wait_for_answer()
            logger.warning("the caller of the cancel of %s left before its answer came", order.request)

    def let_go(self, order: OrderCancel) -> None:
        """Release an abandoned order's place in the window; a late answer still settles it."""
        if not self.can_still_be_answered(order):
            self.conclude(order, None)  # its connection has meanwhile ended
            self.wakeup.ring()
            return
        if order.doubt is None:
            order.doubt = NoReply("no answer came in time, and its caller has left")
        self._leave(order)
        self.overdue[order] = None
        if len(self.overdue) > LATE_KEPT:
            self.conclude(next(iter(self.overdue)), None)
        self.wakeup.ring()


def after_lookup(state: OrderState, order: OrderCancel, now: float) -> Next:
    """Return what follows a lookup that saw ``state``, which did not settle the order."""
    lookup = order.lookup
    assert lookup is not None
    if isinstance(lookup.outcome, AlreadyClosed):
        return Next.SETTLE
    left = order.policy.give_up_after - order.spent(now, math.inf)
    if state.on_book and order.may_retry and left > lookup.wait:
        return Next.CANCEL_AGAIN
    # The answer may be outdated, or a create may still be queued: a later answer may say more.
    may_change = isinstance(lookup.outcome, Unknown) or state.status is OrderStatus.PENDING_CREATION
    return Next.LOOK_AGAIN if may_change and now + lookup.wait < lookup.ends_at else Next.SETTLE
