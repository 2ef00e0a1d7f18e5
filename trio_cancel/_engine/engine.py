"""The facade over everything under way: what is written next, what time is up, what a lost connection means (sans I/O).

The session's tasks call it and only move bytes: the writer asks :meth:`Engine.take` and :meth:`Engine.sign`,
the reader hands texts to ``read`` (see ``_engine.replies``), the timer calls :meth:`Engine.expire`. Nothing here
waits, so nothing here can be cancelled; every method leaves the tables (``_engine.in_flight``, ``_engine.queue``)
whole. Times named ``now`` are trio's clock, ``wall`` is Unix seconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import trio

from trio_cancel._engine.in_flight import InFlight
from trio_cancel._engine.order import LiveAttempt, OrderCancel, State
from trio_cancel._engine.queue import Queue, Source
from trio_cancel._engine.rate import AdaptiveRate, Pacer
from trio_cancel._engine.replies import ReplyHandler
from trio_cancel._engine.silence import PACED_EARLIEST, Silence, last_chance_after
from trio_cancel._values.boundary import Boundary, describe
from trio_cancel._values.errors import ConnectionLost, NoReply, NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import Counters, Notifier, logger

WRITE_MOST = 256
"""Requests in one write at most, so that their signatures are young when they leave."""

LOOKUP_YIELDS = 0.05
"""Seconds until a lookup that lets cancels go first asks again."""

SLICE = 500
"""Orders whose time is looked at, and perhaps over, in one step at most: other tasks have their turn in between."""

SUSPENDED_LEAST = 1.0
"""Seconds of a suspended machine from which they count; below, it may be how the two clocks are read."""

MOMENT = 1e-6
"""Seconds below which time is up: rounding can leave a remainder too small to ever pass on the clock."""

SignRequests = Callable[[Iterable[tuple[str, CancelRequest]], int], list[bytes]]


class Engine:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        sign: SignRequests,
        id_prefix: str,
        pacer: Pacer | None,
        notify: Notifier | None,
        jitter: random.Random,
        wake_writer: Callable[[], None],
        wake_timer: Callable[[float], None],
        suspended: Callable[[], float] = lambda: 0.0,
        check_clock: Callable[[], None] = lambda: None,
    ) -> None:
        self.table: InFlight = InFlight(notify, wake_writer)
        self.governor: AdaptiveRate = AdaptiveRate()
        self.silence: Silence = self.table.silence
        self.inbox: ReplyHandler = ReplyHandler(self.table, self.governor, self.silence, jitter)
        self.queue: Queue = self.table.queue
        self.counters: Counters = self.table.counters
        self.read: Callable[[Iterable[bytes | str], int, float, float], None] = self.inbox.read
        self.abandon: Callable[[OrderCancel], None] = self.table.abandon
        self.write_now = wake_writer  # for a single cancel that finds nothing else under way
        self.correction: float = 0.0  # seconds added to our clock before signing
        self.down_since: float | None = 0.0
        self.down_because: BaseException | None = None
        self._up_since = -math.inf
        self._chances: dict[Source, None] = {}  # the bulk cancels whose last chance has come in this silence
        self._patience = math.inf  # the shortest ``give_up_after`` that was seen
        # A heap of the orders without a place in the window: when to look at each again. The number breaks ties.
        self._looks: list[tuple[float, int, OrderCancel]] = []
        self._looked = 0
        self._sign = sign
        self._id_prefix = id_prefix
        self._next_id = 0
        self._pacer = pacer
        self._notify = notify
        self._wake_timer = wake_timer
        self._suspended = suspended
        self._check_clock = check_clock
        self.slept: float = suspended()  # as far as it has been taken into account
        self._awake_at = -math.inf  # when it last was

    # What callers do

    def submit(self, pending: OrderCancel, now: float) -> None:
        """Take a single cancel in; it settles at once if the session has failed or is closed."""
        self.awaken(now)
        pending.held_since = now
        self.count_queued((pending.request,))
        if self.table.stopped is not None:
            self.table.settle(pending, pending.conclude(self.table.stopped, None))
            return
        self.queue.add(pending)
        if self.table.active:
            self.table.wake_writer()
        else:
            self.write_now()
        self._note_call(pending.terms.give_up_after, now)

    def count_queued(self, requests: Sequence[CancelRequest]) -> None:
        """Count orders that were handed in, and tell the observer."""
        self.counters.queued += len(requests)
        if self._notify is not None:
            for request in requests:
                self._notify("request_queued", request)

    def submit_source(self, source: Source, now: float) -> None:
        """Take a bulk cancel in."""
        if self.table.stopped is not None:
            source.refuse(self.table.stopped)
            return
        self.awaken(now)
        self.queue.add_source(source)
        self.table.wake_writer()
        self._note_call(source.give_up_after(), now)

    def _note_call(self, give_up_after: float, now: float) -> None:
        if give_up_after < self._patience:
            self._patience = give_up_after
        if self.down_since is not None:
            self.silence.ask(now)
        if self.silence.asked_at is not None:
            self._wake_timer(now + PACED_EARLIEST * give_up_after)

    def remove_source(self, source: Source) -> None:
        """Ask a bulk cancel no more."""
        self.queue.remove_source(source)
        self._chances.pop(source, None)

    def source_waits(self, source: Source) -> None:
        """Note that a source that had nothing has something, or sooner than it said."""
        self.table.wake_writer()
        if self.silence.asked_at is not None:
            self._wake_timer(source.held_since + PACED_EARLIEST * source.give_up_after())

    @property
    def waiting(self) -> bool:
        """True if an order waits for a connection."""
        return bool(self.table.active or self.table.last or self.queue.heads() or self.queue.sources())

    @property
    def pending_count(self) -> int:
        """How many orders wait for an answer or another attempt."""
        table = self.table
        return len(table.active) + len(table.last) + len(table.overdue) + len(table.looked_up)

    def is_silent(self, seconds: float) -> bool:
        """Return True if the venue has given no sign of life for so long, though it was asked."""
        return trio.current_time() - self.silence.since(seconds) >= seconds - MOMENT

    @property
    def last_chance(self) -> bool:
        """True if orders wait for their last chance: what they lack is a connection, or a turn."""
        return bool(self._chances or self.queue.last_chance)

    @property
    def signed(self) -> int:
        """How many requests have been signed so far: it grows with each write."""
        return self._next_id

    @property
    def flight_count(self) -> int:
        """How many attempts can still be answered."""
        return len(self.table.flights)

    # What lookups ask

    def admit_lookup(self, now: float) -> float:
        """Count a lookup that starts now, if the account's limit has room for it; else return when to ask again.

        Lookups share the limit with cancels and come after them. One starts only where no cancel waits for the pace and
        none of a burst is used up, so that a later cancel loses at most the interval of one request. Where no limit is
        known nothing waits for one. Without a connection no cancel can be written now.
        """
        pacer, governor = self._pacer, self.governor
        if pacer is None and governor.rate is None:
            return now
        if self.down_since is None and self.queue.waiting(now):
            return now + LOOKUP_YIELDS
        ready = governor.ready_at() if pacer is None else max(governor.ready_at(), pacer.full_at)
        if ready > now:
            return ready
        governor.start(now)
        if pacer is not None:
            pacer.start(now)
        return now

    def lookup_limited(self, now: float, asked_at: float) -> None:
        """Note a 429 for a lookup that was sent at ``asked_at``: the limit is the account's."""
        if self.governor.limited(now, asked_at) and self._notify is not None:
            self._notify("paced", self.governor.rate)

    # What the writer does

    def take(self, now: float, early: int | None = None, ahead: float = 0.0) -> tuple[list[OrderCancel], float]:
        """Admit what may be written now. Return it, and when to ask again if nothing rings before (inf: never).

        Args:
            now: trio's clock.
            early: None if it is written at once; else it is written when :meth:`let_through` says so, and this many
                have been admitted and are not written yet.
            ahead: seconds before its turn that an order may be admitted.
        """
        self.awaken(now)
        admitted: list[OrderCancel] = []
        silence = self.silence
        # Where turns are few, none is for what was written before as long as something has its last chance to be.
        untried_only = silence.asked_at is not None and self.last_chance and not self.unpaced
        ask_at = self._admit(admitted, now, early, ahead, untried_only=untried_only)
        if silence.asked_at is None:
            # What is written is a question, and what keeps the window full is one that is open.
            if self._chances:
                self._chances.clear()  # the silence in which they came has ended
            if admitted or (self.queue and len(self.table.active) >= self.governor.window):
                silence.ask(now)
                self._wake_timer(now + PACED_EARLIEST * self._patience)
        elif self._chances or self.queue.last_chance:
            ask_at = min(ask_at, self._admit_last(admitted, now, early, ahead))
            if untried_only:
                ask_at = min(ask_at, self._admit(admitted, now, early, ahead))
        return admitted, ask_at

    def _admit(
        self, admitted: list[OrderCancel], now: float, early: int | None, ahead: float, *, untried_only: bool = False
    ) -> float:
        """Admit what has a place in the window, or gets one; only single cancels not tried yet if told so."""
        table = self.table
        queue = self.queue
        window = self.governor.window
        unpaced = self.unpaced
        while (left := WRITE_MOST - len(admitted)) > 0:
            if not unpaced:
                ready = self._ready_at(now, admitted, early) - ahead
                if ready > now:
                    return min(ready, queue.next_due(now))
            room = window - table.active_priority
            if unpaced and room > 0 and queue.priority:
                # Where no pace holds them back, as many as there is room for, in one go.
                admitted += table.admit_all(queue.take_priority(min(room, left)), priority=True)
                if queue:
                    continue
                break
            priority = queue.take_priority(min(room, 1))
            if untried_only and not priority:
                break
            pending = priority[0] if priority else queue.next_retry(now)
            if pending is None:
                room = max(0, window - len(table.active))
                if room and queue.returning:
                    pending = queue.next_returning()
            if pending is None:
                if unpaced:
                    admitted += table.admit_all(queue.take_bulk(min(room, left)), priority=False)
                    break
                bulk = queue.take_bulk(min(room, 1))
                if not bulk:
                    break
                pending = bulk[0]
            if early is None:
                self._start(now)
            if pending.state is State.RETRYING and self._is_paced(pending):
                self._hold(pending)
            table.admit(pending)
            admitted.append(pending)
        return queue.next_due(now)

    def _admit_last(self, admitted: list[OrderCancel], now: float, early: int | None, ahead: float) -> float:
        """Admit, beyond the window, what gets its last chance now."""
        unpaced = self.unpaced
        while (left := WRITE_MOST - len(admitted)) > 0:
            if not unpaced and (ready := self._ready_at(now, admitted, early) - ahead) > now:
                return ready
            group = self._next_last(left if unpaced else 1, now)
            if not group:
                break
            for pending in group:
                self.table.admit_last(pending)
                patience = pending.terms.give_up_after
                end_at = now + patience - pending.spent(now, self.silence.since(patience))
                if not pending.terms.retry:
                    end_at = min(end_at, now + pending.terms.reply_timeout)
                self._look_at(pending, end_at)
                self._wake_timer(end_at)
                if early is None:
                    self._start(now)
            admitted += group
        return math.inf

    def _next_last(self, most: int, now: float) -> list[OrderCancel]:
        queue = self.queue
        group: list[OrderCancel] = []
        while queue.last_chance and len(group) < most:
            pending = queue.last_chance.popleft()
            if pending.flights or pending.state not in (State.QUEUED, State.RETRYING):
                continue  # it has been written meanwhile, in its place in the window
            terms = pending.terms
            if pending.spent(now, self.silence.since(terms.give_up_after)) >= PACED_EARLIEST * terms.give_up_after:
                group.append(pending)
            elif pending in self.table.last:
                queue.returning.append(pending)  # the venue has come back meanwhile
        for source in self._chances:
            if len(group) == most:
                break
            patience = source.give_up_after()
            if max(self.silence.since(patience), source.held_since) + PACED_EARLIEST * patience - MOMENT <= now:
                group += source.take_last(most - len(group))
        return group

    def let_through(self, orders: deque[OrderCancel], most: int, now: float) -> tuple[list[OrderCancel], float]:
        """Take out of ``orders``, which were admitted early, what is to be written now, at most so many.

        Returns it, and when to ask again if nothing rings before.
        """
        taken: list[OrderCancel] = []
        unpaced = self.unpaced
        while orders and len(taken) < most:
            if orders[0].state is State.ADMITTED:  # not withdrawn meanwhile
                if not unpaced:
                    ready = self._ready_at(now, (), None)
                    if ready > now:
                        return taken, ready
                    self._start(now)
                taken.append(orders[0])
            orders.popleft()
        return taken, math.inf

    @property
    def unpaced(self) -> bool:
        """True if neither the user nor the venue has set a pace."""
        return self._pacer is None and self.governor.rate is None

    def _ready_at(self, now: float, admitted: Sequence[OrderCancel], early: int | None) -> float:
        """Return when the next request may start, by both paces; ``admitted`` start before it if not counted yet."""
        before = 0 if early is None else early + len(admitted)
        ready = self.governor.ready_at(now, before)
        return ready if self._pacer is None else max(ready, self._pacer.ready_at(now, before))

    def _start(self, now: float) -> None:
        self.governor.start(now)
        if self._pacer is not None:
            self._pacer.start(now)

    def sign(
        self, admitted: list[OrderCancel], connection: int, now: float, wall: float
    ) -> tuple[list[LiveAttempt], list[bytes]]:
        """Sign and register what was admitted, if its time is not up; return the attempts with their texts."""
        self.awaken(now)
        flights: list[LiveAttempt] = []
        to_sign: list[tuple[str, CancelRequest]] = []
        notify = self._notify
        is_admitted, is_in_flight = State.ADMITTED, State.IN_FLIGHT
        prefix = self._id_prefix
        number = self._next_id
        by_id = self.table.flights
        earliest = math.inf
        silence = self.silence
        silent = silence.asked_at is not None and now - silence.asked_at > self._patience / 4
        for pending in admitted:
            if pending.state is not is_admitted:
                continue  # withdrawn meanwhile
            terms = pending.terms
            left = terms.give_up_after - pending.time_spent
            if pending.running_from is None:
                pending.running_from = now
            else:
                left -= now - pending.running_from
            if silent and terms.give_up_after - pending.spent(now, silence.since(terms.give_up_after)) < MOMENT:
                left = 0.0
            if left < MOMENT:
                if self.table.can_still_be_answered(pending):
                    # The answer may lie in the socket: the timer judges, once that has been read.
                    pending.state = is_in_flight
                    self._wake_timer(now)
                else:
                    self.table.settle(pending, pending.conclude(None, self.table.clock))
                continue
            number += 1
            request_id = f"{prefix}-{number}"
            looking = pending.looking
            if looking is None or looking.asks is None:
                to_sign.append((request_id, pending.request))
            else:
                looking.by_id.add(request_id)
                to_sign.append((request_id, looking.asks))
            deadline = now + (left if left < terms.reply_timeout else terms.reply_timeout)  # noqa: FURB136 - hot
            if deadline < earliest:
                earliest = deadline
            flight = LiveAttempt(pending, request_id, connection, now, wall, deadline)
            pending.state = is_in_flight
            pending.flights = (*pending.flights, flight) if pending.flights else (flight,)
            by_id[request_id] = flight
            flights.append(flight)
            if notify is not None:
                notify("request_written", pending.request, request_id)
        self._next_id = number
        self.counters.written += len(flights)
        self._wake_timer(earliest)
        return flights, self._sign(to_sign, int((wall + self.correction) * 1000))

    def time_left(self, flights: list[LiveAttempt], now: float) -> float:
        """Return how many seconds the longest of these orders has left, a little less; inf if there is none.

        Who waits for the socket so long and no longer still tells what was not sent before its time is over.
        """
        left = -math.inf
        for flight in flights:
            if self.table.flights.get(flight.request_id) is flight:
                pending = flight.pending
                patience = pending.terms.give_up_after
                left = max(left, patience - pending.spent(now, self.silence.since(patience)))
        return max(0.0, left - max(0.001, left / 100)) if left > -math.inf else math.inf

    def put_back(self, admitted: list[OrderCancel], now: float) -> None:
        """Take back what was admitted and not signed: the connection ended between the two."""
        for pending in admitted:
            if pending.state is State.ADMITTED:
                self.table.retry(pending, now)

    def not_written(self, flights: list[LiveAttempt], cause: BaseException, now: float) -> None:
        """Note that the last byte of these was never accepted by the socket: they were not sent."""
        for flight in flights:
            if self.table.flights.pop(flight.request_id, None) is None:
                continue
            pending = flight.pending
            pending.flights = tuple(f for f in pending.flights if f is not flight)
            self.counters.written -= 1
            if pending.terms.retry and not pending.abandoned and not pending.refused_for_good:
                self.table.retry(pending, now)
            elif not self.table.can_still_be_answered(pending):
                self.table.settle(pending, pending.conclude(cause, self.table.clock))

    # What the connection and the timer do

    def connection_up(self, now: float) -> None:
        """Note that requests can be written again."""
        self.down_since = self.down_because = None
        self._up_since = now
        self.governor.reset_window()
        self.inbox.forget_bad()
        self.table.wake_writer()

    def connection_down(self, connection: int, cause: BaseException | None, now: float) -> None:
        """Note that nothing more can come from ``connection``: its attempts stay unanswered."""
        if self.down_since is None:
            self.down_since = now
        self.down_because = cause
        self.silence.ask(now)
        error = ConnectionLost(f"the connection was lost before the answer came{f' ({cause})' if cause else ''}")
        error.__cause__ = cause
        lost = [flight for flight in self.table.flights.values() if flight.connection == connection]
        for flight in lost:
            self.table.flights.pop(flight.request_id, None)
            if flight.answered_at is None:
                flight.pending.doubt = flight.pending.doubt or error
        for pending in {flight.pending: None for flight in lost}:
            if pending.state is not State.IN_FLIGHT or pending in self.table.last:
                continue  # of the latter there may be very many: each is looked at in its time
            if pending.terms.retry and not pending.abandoned and not pending.refused_for_good:
                self.table.retry(pending, now)
            else:
                self.table.settle(pending, pending.conclude(error, self.table.clock))
        for pending in self.table.active:
            if pending.state is State.RETRYING and pending.running_from is None:
                pending.running_from = max(now, pending.held_since)  # no pace holds it back where no connection is
        self._wake_timer(now)

    @trio.lowlevel.enable_ki_protection
    def stop(self, cause: BaseException) -> None:
        """End everything at once, for good: what was written is Unknown, the rest NotSent, with ``cause``."""
        self.table.stopped = cause
        singles, sources = self.queue.clear()
        self._chances.clear()
        self._looks.clear()
        table = self.table
        for pending in [*table.active, *table.last, *table.overdue, *table.looked_up, *singles]:
            with Boundary() as boundary:  # what fails beside one order must not keep the others from their outcomes
                if pending.state is not State.SETTLED:
                    pending.doubt = cause
                    self.table.settle(pending, pending.conclude(cause, self.table.clock))
            if boundary.error is not None:
                logger.error("what follows from an outcome failed: %s", describe(boundary.error))
        for source in sources:
            source.refuse(cause)

    def expire(self, now: float) -> float:
        """Act on what has its time up, in slices; return when to look again."""
        self.awaken(now)
        next_at = math.inf
        silence = self.silence
        for pending in list(self.table.active):
            if pending.state is State.SETTLED:
                continue
            terms = pending.terms
            if pending.abandoned:
                at = max((f.deadline for f in pending.flights), default=now)
                if at <= now:
                    self.table.let_go(pending)
                else:
                    next_at = min(next_at, at)
                continue
            since = silence.since(terms.give_up_after)
            left = terms.give_up_after - pending.spent(now, since)
            if left < MOMENT and self._is_held(pending, now):
                self._hold(pending)
                left = terms.give_up_after - pending.spent(now, since)
            if left < MOMENT:
                self.table.settle(pending, pending.conclude(self._why_silent(pending), self.table.clock))
                continue
            if pending.running_from is not None or since < math.inf:
                next_at = min(next_at, now + left)
            if pending.state is State.IN_FLIGHT:
                reply_at = pending.flights[-1].deadline
                if reply_at > now:
                    next_at = min(next_at, reply_at)
                else:
                    self._overdue_reply(pending, now)
        if silence.asked_at is None:
            self._chances.clear()
        else:
            next_at = min(next_at, self._expire_sources(now), self._take_fresh(now))
        next_at = min(next_at, self._look(now))
        self.table.wake_writer()  # what was given up has left its place in the window
        return next_at

    def _expire_sources(self, now: float) -> float:
        """Give up the bulk cancels whose time is over in a silence; return when to look again."""
        next_at = math.inf
        for source in self.queue.sources():
            chance_at, end_at = self._source_times(source)
            if end_at - MOMENT <= now:
                patience = source.give_up_after()
                if source.give_up(self._why_not_written(patience), now + MOMENT - patience):
                    self.remove_source(source)
                    continue
                chance_at, end_at = self._source_times(source)
            if chance_at - MOMENT <= now:
                self._chances[source] = None
                next_at = min(next_at, end_at)
            else:
                next_at = min(next_at, chance_at)
        return next_at

    def _source_times(self, source: Source) -> tuple[float, float]:
        """Return when a bulk cancel gets its last chance in this silence, and when it is given up."""
        patience = source.give_up_after()
        begin = max(self.silence.since(patience), source.held_since)
        if begin == math.inf:
            return math.inf, math.inf
        return begin + last_chance_after(patience, source.behind(), self._known_pace()), begin + patience

    def _known_pace(self) -> float | None:
        rates = (self.governor.rate, None if self._pacer is None else self._pacer.rate)
        return min((rate for rate in rates if rate is not None), default=None)

    def _take_fresh(self, now: float) -> float:
        """Begin to look at single cancels that have not been written at once; return when to look again."""
        fresh = self.queue.fresh
        for _ in range(min(SLICE, len(fresh))):
            pending = fresh.popleft()
            if pending.state is State.QUEUED:
                self._look_at(pending, now)
        return now if fresh else math.inf

    def _look_at(self, pending: OrderCancel, at: float) -> None:
        self._looked += 1
        heapq.heappush(self._looks, (at, self._looked, pending))

    def _look(self, now: float) -> float:
        """Look at the orders without a place in the window whose moment has come; return when to look again."""
        looks = self._looks
        priority = self.queue.priority
        for _ in range(SLICE):
            if not looks or looks[0][0] > now:
                break
            pending = looks[0][2]
            at = self._look_one(pending, now)
            if at == math.inf:
                heapq.heappop(looks)
            else:
                self._looked += 1
                heapq.heapreplace(looks, (at, self._looked, pending))
        while priority and priority[0].state is not State.QUEUED:
            priority.popleft()
        for line in (self.queue.last_chance, self.queue.returning):
            while line and line[0].state is State.SETTLED:  # it hurries no connection any more
                line.popleft()
        return looks[0][0] if looks else math.inf

    def _look_one(self, pending: OrderCancel, now: float) -> float:
        """Act on an order without a place in the window; return when to look again, inf if never."""
        table = self.table
        if pending.state in (State.SETTLED, State.LOOKED_UP) or pending in table.active or pending in table.overdue:
            return math.inf
        if pending.abandoned:
            at = max((f.deadline for f in pending.flights), default=now)
            if at > now:
                return at
            table.let_go(pending)
            return math.inf
        patience = pending.terms.give_up_after
        since = self.silence.since(patience)
        spent = pending.spent(now, since)
        left = patience - spent
        if left < MOMENT:
            table.settle(pending, pending.conclude(self._why_silent(pending), table.clock))
            return math.inf
        if not pending.flights and pending.state in (State.QUEUED, State.RETRYING):
            after = last_chance_after(patience, len(self.queue.priority), self._known_pace())
            if spent < after - MOMENT:
                return now + after - spent
            self.queue.last_chance.append(pending)
            return now + left
        if pending.state is State.IN_FLIGHT:
            latest = pending.flights[-1]
            # Once the venue has come back it is tried again as any other.
            if self.silence.last_sign > latest.written or not pending.terms.retry:
                if latest.deadline > now and latest.request_id in table.flights:
                    return min(latest.deadline, now + left)
                self._overdue_reply(pending, now)
        return now + left

    def _overdue_reply(self, pending: OrderCancel, now: float) -> None:
        if pending.doubt is None:
            pending.doubt = NoReply(f"no answer within {pending.terms.reply_timeout:g} s")
        if not pending.terms.retry:
            self.table.settle(pending, pending.conclude(None, self.table.clock))
        elif pending.refused_for_good:
            return  # refused for good; an earlier attempt may still be answered until it is given up
        else:
            self.table.retry(pending, now)

    # A suspended machine

    def awaken(self, now: float) -> None:
        """Take time into account for which the machine was suspended: trio's clock stood still, an order's did not.

        After a night's sleep the next attempt of an order by external id might cancel the next day's order of that
        name. So whatever has spent its time is not written any more. It is called before each write.
        """
        self._check_clock()
        awake_at, self._awake_at = self._awake_at, now
        slept = self._suspended() - self.slept
        if slept < SUSPENDED_LEAST:
            return
        self.slept += slept
        logger.warning("the machine was suspended for %.0f s", slept)
        why = NotWritten(f"the machine was suspended for {slept:.0f} s, and its time was over")
        table, queue = self.table, self.queue
        lines = (table.active, table.last, queue.heads(), queue.retrying(), queue.returning, queue.last_chance)
        for pending in dict.fromkeys(chain.from_iterable(lines)):
            if pending.state is State.SETTLED:
                continue
            pending.time_spent += slept
            if pending.terms.give_up_after - pending.time_spent >= MOMENT:
                continue
            if pending.state is State.LOOKED_UP or table.can_still_be_answered(pending):
                # The timer judges, once what lies in the socket has been read.
                pending.doubt = pending.doubt or NoReply(f"no answer came, and the machine was suspended {slept:.0f} s")
                pending.refused_for_good = True
                self._look_at(pending, now)
            else:
                table.settle(pending, pending.conclude(why, table.clock))
        for source in queue.sources():
            if slept >= source.give_up_after() and source.give_up(why, awake_at):
                self.remove_source(source)
        self._wake_timer(now)

    def looked(self, now: float) -> None:
        """Let those be written that wait for another look at the venue's clock: it has been made, or cannot be."""
        self.queue.release(now)
        self.table.wake_writer()

    # Shared steps

    def _is_paced(self, pending: OrderCancel) -> bool:
        """Return True if its clock stands still while a pace holds it back.

        After a 429 it does so under the pace found out only as long as other orders get through: see
        ``_engine.replies``.
        """
        if self._pacer is not None:
            return True
        return self.governor.rate is not None and (pending.error is None or pending.error.status != 429)

    def _is_held(self, pending: OrderCancel, now: float) -> bool:
        """Return True if only the pace keeps its next attempt from being written now."""
        if pending.state is not State.RETRYING or self.down_since is not None or not self._is_paced(pending):
            return False
        return pending.not_before <= now < self._ready_at(now, (), None)

    def _hold(self, pending: OrderCancel) -> None:
        """Stop its clock: since its next attempt is due and there is a connection, only the pace has held it back."""
        pending.hold(max(pending.not_before, self._up_since))

    def _why_silent(self, pending: OrderCancel) -> BaseException | None:
        """Return why it is given up; None if nothing but its own attempts says that."""
        if not pending.flights:
            return self._why_not_written(pending.terms.give_up_after)
        if pending in self.table.last:
            return NoReply(f"no answer came before its time of {pending.terms.give_up_after:g} s was over")
        return None if self.down_since is None else self._why_not_written(pending.terms.give_up_after)

    def _why_not_written(self, patience: float) -> NotWritten:
        return self.why_not_written(f"the venue gave no sign of life for {patience:g} s")

    def why_not_written(self, otherwise: str) -> NotWritten:
        """Return why what waits was not written: there is no connection, or else what is said here."""
        if self.down_since is None:
            return NotWritten(otherwise)
        because = f": {self.down_because}" if self.down_because else ""
        error = NotWritten(f"there was no connection in time{because}")
        error.__cause__ = self.down_because
        return error
