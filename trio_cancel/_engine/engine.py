"""The interface to everything under way: what to write next, whose time is up, what a lost connection means (sans-I/O).

The session's tasks call it and only move bytes: the writer calls :meth:`Engine.take` and :meth:`Engine.sign`, the
reader passes texts to ``read`` (see ``_engine.replies``), the timer calls :meth:`Engine.expire`. Nothing here waits, so
nothing here can be cancelled. Every method leaves the tables (``_engine.in_flight``, ``_engine.queue``) consistent.
Times named ``now`` are trio's clock, ``wall`` is Unix seconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain

import trio

from trio_cancel._engine.cancel_journal import CancelJournal
from trio_cancel._engine.held import HeldOrders
from trio_cancel._engine.in_flight import InFlight
from trio_cancel._engine.order import LiveAttempt, OrderCancel, State
from trio_cancel._engine.queue import Source
from trio_cancel._engine.rate import AdaptiveRate, Pacer, limit_of
from trio_cancel._engine.replies import ReplyHandler
from trio_cancel._engine.silence import PACED_EARLIEST, last_chance_after
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._trio.wakeup import Alarm, Wakeup
from trio_cancel._values.boundary import Boundary, describe
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import ConnectionLost, NoReply, NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import Notifier, Statistics, logger
from trio_cancel._values.order_state import OrderState
from trio_cancel._values.outcomes import Outcome

WRITE_MOST = 256
"""Requests in one write at most, so that their signatures are fresh when they are sent."""

LOOKUP_YIELDS = 0.05
"""Seconds after which a lookup that lets cancels go first asks again."""

SLICE = 500
"""Orders whose time is checked, and may be over, in one step at most: other tasks get their turn in between."""

SUSPENDED_LEAST = 1.0
"""Seconds of suspension that count; less may come from the way the two clocks are read."""

MOMENT = 1e-6
"""Seconds below which time is up: rounding can leave a remainder too small to ever pass on the clock."""

SignRequests = Callable[[Iterable[tuple[str, CancelRequest]], int], list[bytes]]


class Engine:
    """Everything about a session's orders under way, behind one interface: nothing outside touches its parts.

    The session's tasks wait at its wakeups, one task at each. At ``wakeup`` waits whoever admits orders: the writer,
    the task that has intents made durable, or without a connection the one that is about to dial. At ``alarm`` waits
    the timer.

    One call handles a bounded number of orders, so that other tasks get their turn in between: :meth:`take` and
    :meth:`sign` up to ``WRITE_MOST``; :meth:`read` what fits into 64 KiB; :meth:`expire`, :meth:`connection_down` and
    :meth:`stop` up to ``SLICE`` besides the window, and the timer continues with the rest at once.

    Args:
        sign: signs requests, given their ids and the milliseconds of the timestamp.
        id_prefix: the beginning of the ids of this session's requests.
        pacer: the user's own rate limit, if there is one.
        notify: calls the observer; None if there is none.
        jitter: spreads repetitions.
        clock: what is known of the venue's clock.
        journal: where attempts and outcomes are recorded, if there is one.
        lookups: whether orders are looked up that would otherwise end as Unknown or NotFound.
        look_up_closed: whether closed orders are also looked up.
        suspended: returns the seconds for which the machine has been suspended so far.

    Attributes:
        wakeup: rings when there may be something to write.
        alarm: when :meth:`expire` is due.
        lookup_wakeup: rings when there may be an order to look up.
        clock: what is known of the venue's clock.
        holds: the orders that scopes hold.
        has_lookups: as ``lookups``.
        slept: seconds for which the machine was suspended, as far as they have been taken into account.
    """

    def __init__(
        self,
        *,
        sign: SignRequests,
        id_prefix: str,
        pacer: Pacer | None,
        notify: Notifier | None,
        jitter: random.Random,
        clock: VenueClock,
        journal: CancelJournal | None = None,
        lookups: bool = False,
        look_up_closed: bool = False,
        suspended: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.wakeup: Wakeup = Wakeup()
        self.alarm: Alarm = Alarm()
        self.clock: VenueClock = clock
        self.slept: float = suspended()
        self.has_lookups: bool = lookups
        self._in_flight = in_flight = InFlight(
            notify, self.wakeup, clock, journal=journal, lookups=lookups, closed_too=look_up_closed
        )
        self._rate = AdaptiveRate()
        self._silence = in_flight.silence
        self._replies = ReplyHandler(in_flight, self._rate, jitter)
        self._queue = in_flight.queue
        self._counters = in_flight.counters
        self.holds: HeldOrders = in_flight.holds
        self.lookup_wakeup: Wakeup = in_flight.lookup_wakeup
        # What one of its parts does alone.
        self.read: Callable[[Iterable[bytes | str], int, float, float], None] = self._replies.read
        self.count_binary: Callable[[float], None] = self._replies.count_binary
        self.abandon: Callable[[OrderCancel], None] = in_flight.abandon
        self.notify_late: Callable[[CancelRequest, Outcome], None] = in_flight.notify_late
        self.seen: Callable[[OrderCancel, OrderState], float | None] = in_flight.seen
        self.not_seen: Callable[[OrderCancel, bool], float | None] = in_flight.not_seen
        self._journal = journal
        self._down_since: float | None = 0.0
        self._down_because: BaseException | None = None
        self._up_since = -math.inf
        self._chances: dict[Source, None] = {}  # the bulk cancels whose last chance has come in this silence
        self._patience = math.inf  # the shortest ``give_up_after`` seen so far
        # A heap of the orders without a place in the window, by when to check each. The number breaks ties.
        self._checks: list[tuple[float, int, OrderCancel]] = []
        self._check_number = 0
        self._ending: deque[OrderCancel] = deque()  # what must be concluded because everything has ended
        self._sign = sign
        self._id_prefix = id_prefix
        self._next_id = 0
        self._pacer = None if pacer is None else limit_of(pacer)
        self._notify = notify
        self._suspended = suspended
        self._awake_at = -math.inf  # when it last was

    # What callers do

    def submit(self, order: OrderCancel, now: float) -> None:
        """Accept a single cancel; it settles at once if the session has failed or is closed."""
        if self.submit_lone(order, now):
            self.wakeup.ring()

    def submit_lone(self, order: OrderCancel, now: float) -> bool:
        """Accept a single cancel; return True if no other is under way and nobody has been woken to write it."""
        self.awaken(now)
        order.held_since = now
        self.count_queued(1)
        self.notify_queued((order.request,))
        why = self._in_flight.stopped or self._why_not_ours(order)
        if why is not None:
            self._in_flight.conclude(order, why)
            return False
        self._queue.add(order)
        self._rate.single(now)
        self._note_call(order.policy.give_up_after, now)
        if self._in_flight.active_priority:
            self.wakeup.ring()
            return False
        return True

    @property
    def lone(self) -> bool:
        """True if at most one order is in flight."""
        return len(self._in_flight.active) <= 1

    def count_queued(self, count: int) -> None:
        """Count orders that were handed in; :meth:`notify_queued` follows for each of them."""
        self._counters.queued += count

    def notify_queued(self, requests: Sequence[CancelRequest]) -> None:
        """Tell the observer of orders that were handed in."""
        if self._notify is not None:
            for request in requests:
                self._notify("request_queued", request)

    def submit_source(self, source: Source, now: float) -> None:
        """Accept a bulk cancel."""
        if self._in_flight.stopped is not None:
            source.refuse(self._in_flight.stopped)
            return
        self.awaken(now)
        self._queue.add_source(source)
        self.wakeup.ring()
        self._note_call(source.give_up_after(), now)

    def _note_call(self, give_up_after: float, now: float) -> None:
        if give_up_after < self._patience:
            self._patience = give_up_after
        if self._down_since is not None:
            self._silence.ask(now)
        if self._silence.asked_at is not None:
            self.alarm.set(now + PACED_EARLIEST * give_up_after)

    def remove_source(self, source: Source) -> None:
        """Stop asking a bulk cancel for orders."""
        self._queue.remove_source(source)
        self._chances.pop(source, None)

    def source_waits(self, source: Source) -> None:
        """Note that a source that had nothing now has something, or has it sooner than it said."""
        self.wakeup.ring()
        if self._silence.asked_at is not None:
            self.alarm.set(source.held_since + PACED_EARLIEST * source.give_up_after())

    @property
    def waiting(self) -> bool:
        """True if an order waits for a connection."""
        in_flight, queue = self._in_flight, self._queue
        return bool(in_flight.active or in_flight.last or queue.has_heads() or queue.sources())

    @property
    def stopped(self) -> BaseException | None:
        """Why no more orders are accepted; None while they are."""
        return self._in_flight.stopped

    def under_way(self) -> Iterator[OrderCancel]:
        """Return the orders that wait for an answer or another attempt."""
        in_flight = self._in_flight
        return chain(in_flight.active, in_flight.last, in_flight.overdue, in_flight.looked_up)

    def unanswered(self) -> Collection[LiveAttempt]:
        """Return the attempts that can still be answered, in the order of their writes."""
        return self._in_flight.flights.values()

    def statistics(self) -> Statistics:
        """Return what was counted so far."""
        in_flight, rate = self._in_flight, self._rate
        pending = len(in_flight.active) + len(in_flight.last) + len(in_flight.overdue) + len(in_flight.looked_up)
        return self._counters.snapshot(pending=pending, rate=rate.rate, window=rate.window)

    def is_silent(self, seconds: float) -> bool:
        """Return True if the venue has shown no sign of life for this long, although it was asked."""
        return trio.current_time() - self._silence.since(seconds) >= seconds - MOMENT

    @property
    def last_chance(self) -> bool:
        """True if orders wait for their last chance, and need a connection or a turn for it."""
        return bool(self._chances or self._queue.last_chance)

    @property
    def signed(self) -> int:
        """How many requests have been signed so far: it grows with each write."""
        return self._next_id

    def saw_clock(self, seen: OffsetInterval | None, now: float) -> None:
        """Take note of what an upgrade showed about the venue's clock; None if it showed nothing."""
        self.clock.saw(seen, self._next_id, now)

    # What lookups ask

    def take_to_look_up(self) -> list[OrderCancel]:
        """Return the orders to look up now; each ends with ``seen`` or ``not_seen``."""
        waiting = self._in_flight.to_look_up
        return [waiting.popleft() for _ in range(min(SLICE, len(waiting)))]

    def end_lookups(self) -> None:
        """End everything that is being looked up with what is known."""
        self._in_flight.to_look_up.clear()
        for order in list(self._in_flight.looked_up):
            self._in_flight.not_seen(order, again=False)

    def admit_lookup(self, now: float) -> float:
        """Count a lookup that starts now, if the account's limit has room for it; otherwise return when to ask again.

        Lookups share the limit with cancels and come after them. A lookup starts only if no cancel waits for the pace
        and the whole burst is available, so a later cancel loses at most the interval of one request. If no limit is
        known, lookups do not wait for one. Without a connection no cancel can be written now.
        """
        pacer, rate = self._pacer, self._rate
        if self.unpaced:
            return now
        if self._down_since is None and self._queue.waiting(now):
            return now + LOOKUP_YIELDS
        ready = rate.ready_at() if pacer is None else max(rate.ready_at(), pacer.lookup_at(now))
        if ready > now:
            return ready
        self._start(now)
        return now

    def lookup_limited(self, now: float, asked_at: float) -> None:
        """Note a 429 for a lookup that was sent at ``asked_at``: the limit applies to the account."""
        if self._rate.limited(now, asked_at) and self._notify is not None:
            self._notify("paced", self._rate.rate)

    # What the writer does

    def take(self, now: float, early: int | None = None, ahead: float = 0.0) -> tuple[list[OrderCancel], float]:
        """Admit what may be written now. Return it, and when to ask again if nothing rings before (inf: never).

        Args:
            now: trio's clock.
            early: None if it is written at once. Otherwise it is written when :meth:`let_through` says so, and this
                many have been admitted and not yet written.
            ahead: seconds before its turn for which an order may be admitted.
        """
        self.awaken(now)
        admitted: list[OrderCancel] = []
        try:
            return admitted, self._take(admitted, now, early, ahead)
        except BaseException:
            self.put_back(admitted, now)
            raise

    def take_single(self, now: float) -> list[OrderCancel]:
        """Admit single cancels that may be written now, and nothing else; none if there is a pace."""
        if not self.unpaced:
            return []
        self.awaken(now)
        in_flight = self._in_flight
        room = min(WRITE_MOST, self._rate.window - in_flight.active_priority)
        admitted = in_flight.admit_all(self._queue.take_priority(room), priority=True)
        if admitted:
            self._ask(now)
        return admitted

    def _ask(self, now: float) -> None:
        """Note that what is being written is a question to the venue."""
        if self._silence.asked_at is None:
            self._chances.clear()  # the silence in which they came has ended
            self._silence.ask(now)
            self.alarm.set(now + PACED_EARLIEST * self._patience)

    def _take(self, admitted: list[OrderCancel], now: float, early: int | None, ahead: float) -> float:
        """Admit what may be written now into ``admitted``; return when to ask again."""
        silence = self._silence
        # If turns are rare, orders that were written before get none as long as others have yet to get a last chance.
        untried_only = silence.asked_at is not None and self.last_chance and not self.unpaced
        ask_at = self._admit(admitted, now, early, ahead, untried_only=untried_only)
        if silence.asked_at is None:
            # What is written is a question, and so is what fills the window and has no answer yet.
            if self._chances:
                self._chances.clear()  # the silence in which they came has ended
            if admitted or (self._queue and len(self._in_flight.active) >= self._rate.bulk_window(now)):
                self._ask(now)
        elif self._chances or self._queue.last_chance:
            ask_at = min(ask_at, self._admit_last(admitted, now, early, ahead))
            if untried_only:
                ask_at = min(ask_at, self._admit(admitted, now, early, ahead))
        return ask_at

    def _admit(
        self, admitted: list[OrderCancel], now: float, early: int | None, ahead: float, *, untried_only: bool = False
    ) -> float:
        """Admit what has a place in the window, or gets one; if told so, only single cancels not tried yet."""
        in_flight = self._in_flight
        queue = self._queue
        window = self._rate.window
        unpaced = self.unpaced
        while (left := WRITE_MOST - len(admitted)) > 0:
            if not unpaced:
                ready = self._ready_at(now, admitted, early) - ahead
                if ready > now:
                    return min(ready, queue.next_due(now))
            room = window - in_flight.active_priority
            if unpaced and room > 0 and queue.priority:
                # If no pace holds them back, admit as many as there is room for at once.
                admitted += in_flight.admit_all(queue.take_priority(min(room, left)), priority=True)
                if queue:
                    continue
                break
            priority = queue.take_priority(min(room, 1))
            if untried_only and not priority:
                break
            order = priority[0] if priority else queue.next_retry(now)
            if order is None:
                room = max(0, window - len(in_flight.active))
                if room and queue.returning:
                    order = queue.next_returning()
            if order is None:
                if unpaced:
                    room = max(0, self._rate.bulk_window(now) - len(in_flight.active))
                    admitted += in_flight.admit_all(queue.take_bulk(min(room, left)), priority=False)
                    break
                bulk = queue.take_bulk(min(room, 1))
                if not bulk:
                    break
                order = bulk[0]
            if early is None:
                self._start(now)
            if order.state is State.RETRYING and self._is_paced(order):
                self._hold(order)
            in_flight.admit(order)
            admitted.append(order)
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
            for order in group:
                self._in_flight.admit_last(order, group)
                end_at = now + self._in_flight.time_left(order, now)
                if not order.policy.retry:
                    end_at = min(end_at, now + order.policy.reply_timeout)
                self._check_at(order, end_at)
                self.alarm.set(end_at)
                if early is None:
                    self._start(now)
            admitted += group
        return math.inf

    def _next_last(self, most: int, now: float) -> list[OrderCancel]:
        queue = self._queue
        group: list[OrderCancel] = []
        while queue.last_chance and len(group) < most:
            order = queue.last_chance.popleft()
            if order.latest is not None or order.state not in (State.QUEUED, State.RETRYING):
                continue  # it has been written meanwhile, in its place in the window
            patience = order.policy.give_up_after
            if order.spent(now, self._silence.since(patience)) >= PACED_EARLIEST * patience:
                group.append(order)
            elif order in self._in_flight.last:
                queue.returning.append(order)  # the venue has come back meanwhile
        for source in self._chances:
            if len(group) == most:
                break
            patience = source.give_up_after()
            if max(self._silence.since(patience), source.held_since) + PACED_EARLIEST * patience - MOMENT <= now:
                group += source.take_last(most - len(group))
        return group

    def let_through(self, orders: deque[OrderCancel], most: int, now: float) -> tuple[list[OrderCancel], float]:
        """Take out of ``orders``, which were admitted early, what should be written now, at most ``most``.

        Returns these, and when to ask again if nothing rings before.
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
        return self._rate.rate is None and (self._pacer is None or not self._pacer.in_force)

    def _ready_at(self, now: float, admitted: Sequence[OrderCancel], early: int | None) -> float:
        """Return when the next request may start, by both paces; ``admitted`` start before it if not counted yet."""
        before = 0 if early is None else early + len(admitted)
        ready = self._rate.ready_at(now, before)
        return ready if self._pacer is None else max(ready, self._pacer.ready_at(now, before))

    def _start(self, now: float) -> None:
        self._rate.start(now)
        if self._pacer is not None:
            self._pacer.start(now)

    def sign(
        self, admitted: list[OrderCancel], connection: int, now: float, wall: float
    ) -> tuple[list[LiveAttempt], list[bytes]]:
        """Sign and register what was admitted, if its time is not up; return the attempts with their texts."""
        self.awaken(now)
        if self._in_flight.stopped is not None:
            self.put_back(admitted, now)
        flights: list[LiveAttempt] = []
        # (Two lists: a pair for each would make the collector run more often.)
        ids: list[str] = []
        requests: list[CancelRequest] = []
        notify = self._notify
        is_admitted = State.ADMITTED
        prefix = self._id_prefix
        number = self._next_id
        by_id = self._in_flight.flights
        earliest = math.inf
        silence = self._silence
        silent = silence.asked_at is not None and now - silence.asked_at > self._patience / 4
        for order in admitted:
            if order.state is not is_admitted:
                continue  # withdrawn meanwhile
            if (not_ours := self._why_not_ours(order)) is not None:
                self._give_away(order, not_ours, now)
                continue
            policy = order.policy
            left = policy.give_up_after - order.time_spent
            if order.running_from is None:
                order.running_from = now
            else:
                left -= now - order.running_from
            if silent and self._in_flight.time_left(order, now) < MOMENT:
                left = 0.0
            if left < MOMENT:
                if self._in_flight.can_still_be_answered(order):
                    # The answer may be waiting in the socket: the timer decides, once that has been read.
                    order.wait_for_answer()
                    self.alarm.set(now)
                else:
                    self._in_flight.conclude(order, None)
                continue
            number += 1
            request_id = f"{prefix}-{number}"
            ids.append(request_id)
            lookup = order.lookup
            if lookup is None or lookup.asks is None:
                requests.append(order.request)
            else:
                lookup.by_id[request_id] = lookup.asks
                requests.append(lookup.asks)
            deadline = now + (left if left < policy.reply_timeout else policy.reply_timeout)  # noqa: FURB136 - hot
            if deadline < earliest:
                earliest = deadline
            flight = LiveAttempt(order, request_id, connection, now, wall, deadline)
            order.write(flight)
            by_id[request_id] = flight
            flights.append(flight)
            if notify is not None:
                notify("request_written", order.request, request_id)
        self._next_id = number
        self._counters.written += len(flights)
        self.alarm.set(earliest)
        try:
            return flights, self._sign(zip(ids, requests, strict=True), int((wall + self.clock.correction) * 1000))
        except BaseException as error:
            self.not_written(flights, error, now)  # not a byte of them was written
            raise

    def time_left(self, flights: list[LiveAttempt], now: float) -> float:
        """Return how many seconds the longest of these orders has left, a little less; inf if there is none.

        A writer that waits for the socket only for this long can still report what was not sent in time.
        """
        in_flight = self._in_flight
        left = -math.inf
        for flight in flights:
            if in_flight.flights.get(flight.request_id) is flight:
                left = max(left, in_flight.time_left(flight.order, now))
        return max(0.0, left - max(0.001, left / 100)) if left > -math.inf else math.inf

    def put_back(self, admitted: list[OrderCancel], now: float) -> None:
        """Take back what was admitted but not signed: the connection ended between the two."""
        for order in admitted:
            if order.state is State.ADMITTED:
                self._in_flight.retry(order, now)

    def not_written(self, flights: list[LiveAttempt], cause: BaseException, now: float) -> None:
        """Note that the socket never accepted the last byte of these: they were not sent."""
        for flight in flights:
            if self._in_flight.flights.pop(flight.request_id, None) is None:
                continue
            order = flight.order
            order.not_written(flight)
            self._counters.written -= 1
            if order.may_retry:
                self._in_flight.retry(order, now)
            elif not self._in_flight.can_still_be_answered(order):
                self._in_flight.conclude(order, cause)

    # A journal that was taken over

    def _why_not_ours(self, order: OrderCancel) -> BaseException | None:
        """Return why an order is not written any more: its name may belong to an order of the journal's new owner.

        That applies to orders requested by external id, even if a lookup has returned the venue's id: that may be the
        id of the newer order of this name. What was written before may still be answered.
        """
        if self._journal is None or order.request.id is not None:
            return None
        return self._journal.taken_over

    def _give_away(self, order: OrderCancel, cause: BaseException, now: float) -> None:
        if self._in_flight.can_still_be_answered(order):
            order.doubt = order.doubt or cause
            order.refused_for_good = True
            order.wait_for_answer()
            self.alarm.set(now)
        else:
            self._in_flight.conclude(order, cause)

    # What the connection and the timer do

    def connection_up(self, now: float) -> None:
        """Note that requests can be written again."""
        self._counters.connections += 1
        self._down_since = self._down_because = None
        self._up_since = now
        self._rate.reset_window()
        self._replies.forget_bad()
        self.wakeup.ring()

    def connection_refused(self, why: BaseException) -> None:
        """Note that an attempt to connect has failed."""
        self._down_because = why

    def after_reading(self) -> bool:
        """Let waiting orders be written, now that answers have come; return True if too many of these were noise."""
        if self._queue:
            self.wakeup.ring()
        return self._replies.over_budget

    def connection_down(self, connection: int, cause: BaseException | None, now: float) -> None:
        """Note that nothing more can come from ``connection``: its attempts stay unanswered."""
        if self._down_since is None:
            self._down_since = now
        self._down_because = cause
        self._silence.ask(now)
        error = ConnectionLost(f"the connection was lost before the answer came{f' ({cause})' if cause else ''}")
        error.__cause__ = cause
        in_flight = self._in_flight
        first = next(iter(in_flight.flights.values()), None)
        if first is not None and first.connection == connection:  # all of them belong to one connection
            in_flight.lost.append((in_flight.flights, error))
            in_flight.flights = {}
            self._take_lost(now)
        for order in in_flight.active:
            if order.state is State.RETRYING and order.running_from is None:
                order.running_from = max(now, order.held_since)  # no pace holds it back if there is no connection
        self.alarm.set(now)

    def _take_lost(self, now: float) -> float:
        """Process some of the attempts whose connection has ended; return when to continue."""
        in_flight = self._in_flight
        concerned: dict[OrderCancel, ConnectionLost] = {}
        for _ in range(SLICE):
            while in_flight.lost and not in_flight.lost[0][0]:
                in_flight.lost.popleft()
            if not in_flight.lost:
                break
            flights, error = in_flight.lost[0]
            flight = flights.pop(next(iter(flights)))
            if flight.answered_at is None:
                flight.order.doubt = flight.order.doubt or error
            concerned[flight.order] = error
        for order, error in concerned.items():
            if order.state is not State.IN_FLIGHT or order in in_flight.last:
                continue  # there may be very many of the latter: each is processed in its time
            if order.may_retry:
                in_flight.retry(order, now)
            else:
                in_flight.conclude(order, error)
        return now if in_flight.lost else math.inf

    @trio.lowlevel.enable_ki_protection
    def stop(self, cause: BaseException) -> None:
        """End everything, for good: what was written is Unknown, the rest NotSent, with ``cause``.

        No more orders are written from now on. Some are concluded at once, the rest by :meth:`stop_some`.
        """
        in_flight = self._in_flight
        in_flight.stopped = cause
        singles, sources = self._queue.clear()
        self._chances.clear()
        self._checks.clear()
        self._ending.extend(self.under_way())
        self._ending.extend(singles)
        for source in sources:
            source.refuse(cause)
        self.stop_some()

    @trio.lowlevel.enable_ki_protection
    def stop_some(self) -> bool:
        """Conclude some of what :meth:`stop` has ended; return True if there is more."""
        cause = self._in_flight.stopped
        for _ in range(min(SLICE, len(self._ending))):
            order = self._ending.popleft()
            with Boundary() as boundary:  # a failure with one order must not keep the others from their outcomes
                if order.state is not State.SETTLED:
                    order.doubt = cause
                    self._in_flight.conclude(order, cause)
            if boundary.error is not None:
                logger.error("what follows from an outcome failed: %s", describe(boundary.error))
        if self._ending:
            self.alarm.set(-math.inf)
        return bool(self._ending)

    def expire(self, now: float) -> float:
        """Act on orders whose time is up, in slices; return when to look again."""
        if self._ending and self.stop_some():
            return now
        self.awaken(now)
        next_at = self._take_lost(now)
        in_flight, silence = self._in_flight, self._silence
        for order in list(in_flight.active):
            if order.state is State.SETTLED:
                continue
            if order.abandoned:
                next_at = min(next_at, self._expire_abandoned(order, now))
                continue
            left = in_flight.time_left(order, now)
            if left < MOMENT and self._is_held(order, now):
                self._hold(order)
                left = in_flight.time_left(order, now)
            if left < MOMENT:
                in_flight.conclude(order, self._why_silent(order))
                continue
            if order.running_from is not None or silence.asked_at is not None:
                next_at = min(next_at, now + left)
            if order.state is State.IN_FLIGHT:
                assert order.latest is not None  # it was written
                reply_at = order.latest.deadline
                if reply_at > now:
                    next_at = min(next_at, reply_at)
                else:
                    self._overdue_reply(order, now)
        if silence.asked_at is None:
            self._chances.clear()
        else:
            next_at = min(next_at, self._expire_sources(now), self._take_fresh(now))
        next_at = min(next_at, self._check_due(now))
        self.wakeup.ring()  # orders that were given up have left their places in the window
        return next_at

    def _expire_abandoned(self, order: OrderCancel, now: float) -> float:
        """Let go of an order whose caller has left, unless an answer is due; return when that is over, else inf."""
        at = max((f.deadline for f in order.flights), default=now)
        if at > now:
            return at
        self._in_flight.let_go(order)
        return math.inf

    def _expire_sources(self, now: float) -> float:
        """Give up the bulk cancels whose time is over in a silence; return when to look again."""
        next_at = math.inf
        for source in self._queue.sources():
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
        begin = max(self._silence.since(patience), source.held_since)
        if begin == math.inf:
            return math.inf, math.inf
        return begin + last_chance_after(patience, source.behind(), self._known_pace()), begin + patience

    def _known_pace(self) -> float | None:
        rates = (self._rate.rate, None if self._pacer is None or not self._pacer.in_force else self._pacer.rate)
        return min((rate for rate in rates if rate is not None), default=None)

    def _take_fresh(self, now: float) -> float:
        """Start to watch single cancels that were not written at once; return when to look again."""
        fresh = self._queue.fresh
        for _ in range(min(SLICE, len(fresh))):
            order = fresh.popleft()
            if order.state is State.QUEUED:
                self._check_at(order, now)
        return now if fresh else math.inf

    def _check_at(self, order: OrderCancel, at: float) -> None:
        self._check_number += 1
        heapq.heappush(self._checks, (at, self._check_number, order))

    def _check_due(self, now: float) -> float:
        """Check the orders without a place in the window that are due; return when to look again."""
        checks = self._checks
        priority = self._queue.priority
        for _ in range(SLICE):
            if not checks or checks[0][0] > now:
                break
            order = checks[0][2]
            at = self._check_one(order, now)
            if at == math.inf:
                heapq.heappop(checks)
            else:
                self._check_number += 1
                heapq.heapreplace(checks, (at, self._check_number, order))
        while priority and priority[0].state is not State.QUEUED:
            priority.popleft()
        for line in (self._queue.last_chance, self._queue.returning):
            for _ in range(2 * SLICE):
                if not line or line[0].state is not State.SETTLED:
                    break
                line.popleft()  # it does not hurry a connection any more
        return checks[0][0] if checks else math.inf

    def _check_one(self, order: OrderCancel, now: float) -> float:
        """Act on an order without a place in the window; return when to look again, inf if never."""
        in_flight = self._in_flight
        if order.state in (State.SETTLED, State.LOOKED_UP) or order in in_flight.active or order in in_flight.overdue:
            return math.inf
        if order.abandoned:
            return self._expire_abandoned(order, now)
        patience = order.policy.give_up_after
        spent = order.spent(now, self._silence.since(patience))
        left = patience - spent
        if left < MOMENT:
            in_flight.conclude(order, self._why_silent(order))
            return math.inf
        if order.latest is None and order.state in (State.QUEUED, State.RETRYING):
            after = last_chance_after(patience, len(self._queue.priority), self._known_pace())
            if spent < after - MOMENT:
                return now + after - spent
            self._queue.last_chance.append(order)
            return now + left
        if order.state is State.IN_FLIGHT:
            latest = order.latest
            assert latest is not None  # it was written
            # Once the venue has come back, it is tried again like any other order.
            if self._silence.alive_at > latest.written or not order.policy.retry:
                if latest.deadline > now and latest.request_id in in_flight.flights:
                    return min(latest.deadline, now + left)
                self._overdue_reply(order, now)
        return now + left

    def _overdue_reply(self, order: OrderCancel, now: float) -> None:
        if order.doubt is None:
            order.doubt = NoReply(f"no answer within {order.policy.reply_timeout:g} s")
        if not order.policy.retry:
            self._in_flight.conclude(order, None)
        elif not order.refused_for_good:  # otherwise an earlier attempt may still be answered until its time is over
            self._in_flight.retry(order, now)

    # A suspended machine

    def awaken(self, now: float) -> None:
        """Count time for which the machine was suspended: trio's clock stopped, but an order's time did not.

        After a night's suspension, the next attempt of an order by external id might cancel the next day's order of
        that name. So an order whose time is over is not written any more. This is called before each write.
        """
        self.clock.check(now)
        awake_at, self._awake_at = self._awake_at, now
        slept = self._suspended() - self.slept
        if slept < SUSPENDED_LEAST:
            return
        self.slept += slept
        logger.warning("the machine was suspended for %.0f s", slept)
        why = NotWritten(f"the machine was suspended for {slept:.0f} s, and its time was over")
        in_flight, queue = self._in_flight, self._queue
        lines = (in_flight.active, in_flight.last, queue.heads(), queue.retrying(), queue.returning, queue.last_chance)
        for order in dict.fromkeys(chain.from_iterable(lines)):
            if order.state is State.SETTLED:
                continue
            order.time_spent += slept
            if order.policy.give_up_after - order.time_spent >= MOMENT:
                continue
            if order.state is State.LOOKED_UP or in_flight.can_still_be_answered(order):
                # The timer decides, once what is in the socket has been read.
                order.doubt = order.doubt or NoReply(f"no answer came, and the machine was suspended {slept:.0f} s")
                order.refused_for_good = True
                self._check_at(order, now)
            else:
                in_flight.conclude(order, why)
        for source in queue.sources():
            if slept >= source.give_up_after() and source.give_up(why, awake_at):
                self.remove_source(source)
        self.alarm.set(now)

    def probed(self, now: float) -> None:
        """Let orders be written that wait for a probe of the venue's clock: it has been made, or cannot be."""
        self.clock.probed()
        self._queue.release(now)
        self.wakeup.ring()

    # Shared steps

    def _is_paced(self, order: OrderCancel) -> bool:
        """Return True if its clock stops while a pace holds it back.

        After a 429 it stops under the pace that was found only as long as other orders get through: see
        ``_engine.replies``.
        """
        if self._pacer is not None and self._pacer.in_force:
            return True
        return self._rate.rate is not None and (order.error is None or order.error.status != 429)

    def _is_held(self, order: OrderCancel, now: float) -> bool:
        """Return True if only the pace keeps its next attempt from being written now."""
        if order.state is not State.RETRYING or self._down_since is not None or not self._is_paced(order):
            return False
        return order.not_before <= now < self._ready_at(now, (), None)

    def _hold(self, order: OrderCancel) -> None:
        """Stop its clock: since its next attempt is due and there is a connection, only the pace has held it back."""
        order.hold(max(order.not_before, self._up_since))

    def _why_silent(self, order: OrderCancel) -> BaseException | None:
        """Return why it is given up; None if only its own attempts say why."""
        if order.latest is None:
            return self._why_not_written(order.policy.give_up_after)
        if order in self._in_flight.last:
            return NoReply(f"no answer came before its time of {order.policy.give_up_after:g} s was over")
        return None if self._down_since is None else self._why_not_written(order.policy.give_up_after)

    def _why_not_written(self, patience: float) -> NotWritten:
        return self.why_not_written(f"the venue gave no sign of life for {patience:g} s")

    def why_not_written(self, otherwise: str) -> NotWritten:
        """Return why waiting orders were not written: there is no connection, or otherwise the given reason."""
        if self._down_since is None:
            return NotWritten(otherwise)
        because = f": {self._down_because}" if self._down_because else ""
        error = NotWritten(f"there was no connection in time{because}")
        error.__cause__ = self._down_because
        return error
