"""Every order under way, by its place in the window and by its request ids (sans I/O).

An order holds its place in the window from its admission until it settles. If its caller leaves, a request that is not
written is withdrawn; one that is written stays in the table, so that a late answer still settles it while the
connection lives, but it gives its place back when its reply is overdue. Settling forgets an order's request ids but for
a bounded memory of the last ones, by which late and contradicting answers are told from unknown ones.

What is written as a last chance (see ``_engine.silence``) has no place in the window: it is in ``last``, and gets a
place only if the venue comes back and it has to be written again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import msgspec
import trio

from trio_cancel._engine.cancel_journal import CancelJournal
from trio_cancel._engine.held import HeldOrders
from trio_cancel._engine.looking import (
    AGAIN_FIRST,
    BUDGET,
    FAILURES_MOST,
    Looking,
    Next,
    Open,
    after_lookup,
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
from trio_cancel._values.order_state import OrderState
from trio_cancel._values.outcomes import KINDS, Outcome, OutcomeKind

LATE_KEPT = 1024
"""How many overdue orders whose callers have left are still matched, and how many settled requests remembered at least
(at most twice as many): all attempts of a window full of orders that the venue answers much too late."""

LOST_KEPT = 2**18
"""How many last chances that were not answered in time are remembered: a venue that comes back may answer them all, and
such answers are not noise."""

# How an order settled, and whether the request was answered: two tables, so that no tuple is made for each request.
_ANSWERED = {kind: (kind, True) for kind in KINDS}
_UNANSWERED = {kind: (kind, False) for kind in KINDS}


class InFlight:
    """The orders under way. ``queue`` holds what is not admitted yet, and what waits for its next attempt.

    Args:
        notify: tells the observer; None if there is none.
        wakeup: rung when there may be something to write.
        clock: what is known of the venue's clock.
        journal: where attempts and outcomes are recorded, if they are.
        lookups: whether orders are looked up that would end without the truth.
        closed_too: whether orders that are closed are looked up as well, for how much of them was executed.
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
        self.to_look_up: deque[OrderCancel] = deque()  # what whoever makes lookups has not taken yet
        self.lookup_wakeup: Wakeup = Wakeup()  # rung when there is something
        self.looked_up: dict[OrderCancel, None] = {}  # what is being looked up now
        self.flights: dict[str, LiveAttempt] = {}
        # Attempts whose connection has ended, with its cause, as far as they have not been looked at since.
        self.lost: deque[tuple[dict[str, LiveAttempt], ConnectionLost]] = deque()
        self.active: dict[OrderCancel, None] = {}
        self.active_priority: int = 0
        self.last: dict[OrderCancel, None] = {}
        self.overdue: dict[OrderCancel, None] = {}
        # Request id: how its order settled; whether it was answered. The older half is dropped at once, in no time.
        self._recent: dict[str, tuple[OutcomeKind, bool]] = {}
        self._older: dict[str, tuple[OutcomeKind, bool]] = {}
        self._lost: dict[str, tuple[OutcomeKind, bool]] = {}  # the same of last chances, and of the overdue
        self.clock: VenueClock = clock
        self.stopped: BaseException | None = None  # failed or closed for good
        self.notify = notify
        self.wakeup: Wakeup = wakeup
        self._journal = journal
        self._lookups = lookups
        self._closed_too = closed_too

    @property
    def has_lookups(self) -> bool:
        """True if orders are looked up that would end without the truth."""
        return self._lookups

    def admit(self, pending: OrderCancel) -> None:
        """Give an order its place in the window, if it has none, and let it be signed."""
        try:
            pending.admit()
        except IllegalStep as error:
            self._account_for((pending,), error)
            raise
        if pending not in self.active:
            self.last.pop(pending, None)
            self.active[pending] = None
            self.active_priority += pending.priority

    def admit_last(self, pending: OrderCancel, group: Iterable[OrderCancel]) -> None:
        """Let an order be signed, one of a group, without a place in the window if it has none."""
        try:
            pending.admit()
        except IllegalStep as error:
            self._account_for(group, error)
            raise
        if pending not in self.active:
            self.last[pending] = None

    def admit_all(self, group: list[OrderCancel], *, priority: bool) -> list[OrderCancel]:
        """Admit new orders, all of single cancels or all of bulk ones; return them."""
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
        """Give orders an outcome or another try that a wrong step kept from being admitted: nobody else has them."""
        for pending in group:
            if pending.state is State.QUEUED:
                self.settle(pending, pending.conclude(error, None))
            elif pending.state is State.ADMITTED:
                if pending not in self.active and pending not in self.last:
                    self.active[pending] = None
                    self.active_priority += pending.priority
                self.retry(pending, -math.inf)

    def can_still_be_answered(self, pending: OrderCancel) -> bool:
        """Return True if an attempt of it is unanswered on a connection that lives."""
        flights = self.flights
        return any(f.answered_at is None and f.request_id in flights for f in pending.flights)

    def retry(self, pending: OrderCancel, at: float) -> None:
        """Let it wait for its next attempt, not before ``at``."""
        if self.stopped is not None:
            self.settle(pending, pending.conclude(self.stopped, self.clock.interval))
            return
        pending.retry(at)
        if pending not in self.last:
            self.queue.retry(pending)
        elif pending.latest is not None:
            self.queue.returning.append(pending)
        else:
            self.queue.last_chance.append(pending)
        if self._journal is not None:
            self._journal.retried(pending)
        self.wakeup.ring()

    def settle(self, pending: OrderCancel, outcome: Outcome) -> None:
        """End it with ``outcome`` and deliver that."""
        if self._lookups:
            if self._look_up(pending, outcome):
                return
            if pending.looking is not None and outcome.seen is None and needs_lookup(outcome, closed_too=False):
                outcome = with_seen(outcome, pending.looking.outcome.seen)
        if pending.unrecorded and pending.latest is not None:
            outcome = msgspec.structs.replace(outcome, unrecorded=True)
        pending.settle(outcome)
        recent = self._recent
        if pending in self.active:
            del self.active[pending]
            self.active_priority -= pending.priority
        elif pending in self.last or pending in self.overdue:
            # Of these there may be very many at once, which must not push the others out.
            self.last.pop(pending, None)
            self.overdue.pop(pending, None)
            if len(self._lost) >= LOST_KEPT:
                self._lost.clear()
            recent = self._lost
        if self.looked_up:
            self.looked_up.pop(pending, None)
        for flight in pending.flights:
            if self.flights.pop(flight.request_id, None) is None and self.lost:
                for lost, _ in self.lost:
                    lost.pop(flight.request_id, None)
            settled_as = _UNANSWERED if flight.answered_at is None else _ANSWERED
            recent[flight.request_id] = settled_as[outcome.kind]
            del flight.pending  # no cycle: what has settled must not wait for the garbage collector
        if len(self._recent) >= LATE_KEPT:
            self._older, self._recent = self._recent, {}
        self.counters.settled += 1
        try:
            if self._journal is not None:
                self._journal.settled(pending)
            if self.holds.holders:
                self.holds.settled(outcome)
            if pending.abandoned:
                self.tell_late(pending.request, outcome)
        finally:
            pending.deliver()  # whatever failed: who waits for what has settled would wait for ever

    # Lookups

    def _look_up(self, pending: OrderCancel, outcome: Outcome) -> bool:
        """Have an order looked up that would end as ``outcome``, if that can say more; return True if it is."""
        if pending.abandoned or self.stopped is not None or not needs_lookup(outcome, closed_too=self._closed_too):
            return False
        now = trio.current_time()
        looking = pending.looking
        patience = pending.terms.give_up_after
        left = max(0.0, patience - pending.spent(now, self.silence.since(patience)))
        if looking is None:
            pending.looking = looking = Looking(outcome, now, now + left + BUDGET)
        else:
            if looking.ends_at <= now:
                return False
            looking.outcome = with_seen(outcome, outcome.seen or looking.outcome.seen)
            if pending.state is State.LOOKED_UP:
                return True  # a late answer to an earlier attempt
        pending.look_up()
        self._leave(pending)
        self.looked_up[pending] = None
        self.to_look_up.append(pending)
        self.lookup_wakeup.ring()
        self.wakeup.ring()  # it has left its place in the window
        return True

    def _leave(self, pending: OrderCancel) -> None:
        if pending in self.active:
            del self.active[pending]
            self.active_priority -= pending.priority
        else:
            self.last.pop(pending, None)
            self.overdue.pop(pending, None)

    def seen(self, pending: OrderCancel, state: OrderState) -> float | None:
        """Take in what a lookup saw; return the seconds until the next one, None if there is nothing more to look up.

        An order that has settled meanwhile, by a late answer, stays as it is.
        """
        looking = pending.looking
        if pending.state is not State.LOOKED_UP or looking is None:
            return None
        now = trio.current_time()
        looking.failures = 0
        so_far = msgspec.structs.replace(looking.outcome, attempts=pending.attempts())
        closed = settled_by(state, so_far, self.clock.interval, pending.learned)
        if closed is not None:
            self._end_lookup(pending, closed)
            return None
        before = looking.outcome.seen
        if state.on_book and (before is None or not before.on_book):
            looking.wait = AGAIN_FIRST  # it has just come onto the book: it is canceled at once, not at leisure
        looking.outcome = with_seen(looking.outcome, state)
        follows = after_lookup(state, pending, now)
        if follows is Next.LOOK_AGAIN:
            return looking.next_wait()
        if follows is Next.SETTLE:
            self._end_lookup(pending, looking.outcome)
            return None
        if pending.request.id is None and state.id:
            asks = pending.learned or CancelRequest(state.id)
            # By an id that a lookup gave every other time only: a replica that lags may show an old order of this name.
            looking.asks = None if asks == looking.asks and pending.learned is None else asks
        self.looked_up.pop(pending, None)
        self.active[pending] = None
        self.active_priority += pending.priority
        self.retry(pending, now + looking.next_wait())
        return None

    def not_seen(self, pending: OrderCancel, again: bool) -> float | None:
        """Note that a lookup failed; return the seconds until the next one, None if there is none.

        Args:
            pending: the order.
            again: whether another lookup may find more.
        """
        looking = pending.looking
        if pending.state is not State.LOOKED_UP or looking is None:
            return None
        looking.failures += 1
        wait = looking.next_wait()
        if again and looking.failures < FAILURES_MOST and trio.current_time() + wait < looking.ends_at:
            return wait
        self._end_lookup(pending, looking.outcome)
        return None

    def _end_lookup(self, pending: OrderCancel, outcome: Open) -> None:
        looking = pending.looking
        assert looking is not None
        looking.ends_at = -math.inf  # nothing more is looked up
        # Attempts may have been answered meanwhile, in a way that says nothing of the order.
        looking.outcome = outcome = msgspec.structs.replace(outcome, attempts=pending.attempts())
        self.settle(pending, outcome)

    def tell_late(self, request: CancelRequest, outcome: Outcome) -> None:
        """Tell of an outcome that its caller did not wait for."""
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
    def abandon(self, pending: OrderCancel) -> None:
        """Note that the caller has left: withdraw what is not written, go on tracking what is."""
        if pending.state is State.SETTLED:
            return
        pending.abandoned = True
        if pending.state is State.LOOKED_UP:
            assert pending.looking is not None
            self._end_lookup(pending, pending.looking.outcome)
        elif pending.latest is None:
            self.settle(pending, pending.conclude(NotWritten("its caller left before it was written"), None))
            self.wakeup.ring()
        elif not self.can_still_be_answered(pending):
            # Nothing more can come: its answers are here or its connections are gone.
            self.settle(pending, pending.conclude(None, self.clock.interval))
            self.wakeup.ring()
        else:
            pending.wait_for_answer()
            logger.warning("the caller of the cancel of %s left before its answer came", pending.request)

    def let_go(self, pending: OrderCancel) -> None:
        """Give an abandoned order's place in the window back; a late answer still settles it."""
        if not self.can_still_be_answered(pending):
            self.settle(pending, pending.conclude(None, self.clock.interval))  # its connection has ended meanwhile
            self.wakeup.ring()
            return
        if pending.doubt is None:
            pending.doubt = NoReply("no answer came in time, and its caller has left")
        if pending in self.active:
            del self.active[pending]
            self.active_priority -= pending.priority
        self.last.pop(pending, None)
        self.overdue[pending] = None
        if len(self.overdue) > LATE_KEPT:
            oldest = next(iter(self.overdue))
            self.settle(oldest, oldest.conclude(None, self.clock.interval))
        self.wakeup.ring()
