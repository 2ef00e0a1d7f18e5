"""The facade over everything under way: what is written next, what time is up, what a lost connection means (sans I/O).

The session's tasks call it and only move bytes: the writer asks :meth:`Dispatcher.take` and :meth:`Dispatcher.sign`,
the reader hands texts to ``read`` (see ``_engine.replies``), the timer calls :meth:`Dispatcher.expire`. Nothing here
waits, so nothing here can be cancelled; every method leaves the tables (``_engine.in_flight``, ``_engine.queue``)
whole. Times named ``now`` are trio's clock, ``wall`` is Unix seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence

import trio

from trio_cancel._engine.in_flight import Table
from trio_cancel._engine.order import Flight, Pending, State
from trio_cancel._engine.queue import Queue, Source
from trio_cancel._engine.rate import Governor, Pacer
from trio_cancel._engine.replies import Inbox
from trio_cancel._values.boundary import Boundary, describe
from trio_cancel._values.errors import ConnectionLost, NoReply, NotWritten
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import Counters, Notifier, logger

WRITE_MOST = 256
"""Requests in one write at most, so that their signatures are young when they leave."""

LOOKUP_YIELDS = 0.05
"""Seconds until a lookup that lets cancels go first asks again."""

MOMENT = 1e-6
"""Seconds below which time is up: rounding can leave a remainder too small to ever pass on the clock."""

SignRequests = Callable[[Iterable[tuple[str, CancelRequest]], int], list[bytes]]


class Dispatcher:
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
    ) -> None:
        self.table: Table = Table(notify, wake_writer)
        self.governor: Governor = Governor()
        self.inbox: Inbox = Inbox(self.table, self.governor, jitter)
        self.queue: Queue = self.table.queue
        self.counters: Counters = self.table.counters
        self.read: Callable[[Iterable[bytes | str], int, float, float], None] = self.inbox.read
        self.abandon: Callable[[Pending], None] = self.table.abandon
        self.write_now = wake_writer  # for a single cancel that finds nothing else under way
        self.correction: float = 0.0  # seconds added to our clock before signing
        self.down_since: float | None = 0.0
        self.down_because: BaseException | None = None
        self._up_since = -math.inf
        self._sign = sign
        self._id_prefix = id_prefix
        self._next_id = 0
        self._pacer = pacer
        self._notify = notify
        self._wake_timer = wake_timer

    # What callers do

    def submit(self, pending: Pending, now: float) -> None:
        """Take a single cancel in; it settles at once if the session has failed or is closed."""
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
        if self.down_since is not None:
            self._wake_timer(now + pending.terms.give_up_after)

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
        self.queue.add_source(source)
        self.table.wake_writer()
        if self.down_since is not None:
            self._wake_timer(now + source.give_up_after())

    @property
    def waiting(self) -> bool:
        """True if an order waits for a connection."""
        return bool(self.table.active or self.queue.heads() or self.queue.sources())

    @property
    def pending_count(self) -> int:
        """How many orders wait for an answer or another attempt."""
        return len(self.table.active) + len(self.table.overdue)

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

    def take(self, now: float) -> tuple[list[Pending], float]:
        """Admit what may be written now. Return it, and when to ask again if nothing rings before (inf: never)."""
        admitted: list[Pending] = []
        table = self.table
        queue = self.queue
        governor = self.governor
        pacer = self._pacer
        window = governor.window
        unpaced = pacer is None and governor.rate is None
        while (left := WRITE_MOST - len(admitted)) > 0:
            ready = governor.ready_at() if pacer is None else max(governor.ready_at(), pacer.ready_at())
            if ready > now:
                return admitted, min(ready, queue.next_due(now))
            room = window - table.active_urgent
            if unpaced and room > 0 and queue.urgent:
                # Where no pace holds them back, as many as there is room for, in one go.
                admitted += table.admit_all(queue.take_urgent(min(room, left)), urgent=True)
                if queue:
                    continue
                break
            urgent = queue.take_urgent(min(room, 1))
            pending = urgent[0] if urgent else queue.next_retry(now)
            if pending is None:
                room = max(0, window - len(table.active))
                if unpaced:
                    admitted += table.admit_all(queue.take_bulk(min(room, left)), urgent=False)
                    break
                bulk = queue.take_bulk(min(room, 1))
                if not bulk:
                    break
                pending = bulk[0]
            governor.start(now)
            if pacer is not None:
                pacer.start(now)
            if pending.state is State.RETRYING and self._is_paced(pending):
                self._hold(pending, now)
            table.admit(pending)
            admitted.append(pending)
        return admitted, queue.next_due(now)

    def sign(
        self, admitted: list[Pending], connection: int, now: float, wall: float
    ) -> tuple[list[Flight], list[bytes]]:
        """Sign and register what was admitted, if its time is not up; return the attempts with their texts."""
        flights: list[Flight] = []
        to_sign: list[tuple[str, CancelRequest]] = []
        notify = self._notify
        is_admitted, is_in_flight = State.ADMITTED, State.IN_FLIGHT
        prefix = self._id_prefix
        number = self._next_id
        by_id = self.table.flights
        earliest = math.inf
        for pending in admitted:
            if pending.state is not is_admitted:
                continue  # withdrawn meanwhile
            terms = pending.terms
            left = terms.give_up_after - pending.time_spent
            if pending.running_from is None:
                pending.running_from = now
            else:
                left -= now - pending.running_from
            if left < MOMENT:
                self.table.settle(pending, pending.conclude(None, self.table.clock))
                continue
            number += 1
            request_id = f"{prefix}-{number}"
            to_sign.append((request_id, pending.request))
            deadline = now + (left if left < terms.reply_timeout else terms.reply_timeout)  # noqa: FURB136 - hot
            if deadline < earliest:
                earliest = deadline
            flight = Flight(pending, request_id, connection, now, wall, deadline)
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

    def put_back(self, admitted: list[Pending], now: float) -> None:
        """Take back what was admitted and not signed: the connection ended between the two."""
        for pending in admitted:
            if pending.state is State.ADMITTED:
                self.table.retry(pending, now)

    def not_written(self, flights: list[Flight], cause: BaseException, now: float) -> None:
        """Note that the last byte of these was never accepted by the socket: they were not sent."""
        for flight in flights:
            if self.table.flights.pop(flight.request_id, None) is None:
                continue
            pending = flight.pending
            pending.flights = tuple(f for f in pending.flights if f is not flight)
            self.counters.written -= 1
            if pending.terms.retry and not pending.abandoned and not pending.no_more:
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
        error = ConnectionLost(f"the connection was lost before the answer came{f' ({cause})' if cause else ''}")
        error.__cause__ = cause
        lost = [flight for flight in self.table.flights.values() if flight.connection == connection]
        for flight in lost:
            self.table.flights.pop(flight.request_id, None)
            if flight.answered_at is None:
                flight.pending.doubt = flight.pending.doubt or error
        for pending in {flight.pending: None for flight in lost}:
            if pending.state is not State.IN_FLIGHT:
                continue
            if pending.terms.retry and not pending.abandoned and not pending.no_more:
                self.table.retry(pending, now)
            else:
                self.table.settle(pending, pending.conclude(error, self.table.clock))
        self._wake_timer(now)

    @trio.lowlevel.enable_ki_protection
    def stop(self, cause: BaseException) -> None:
        """End everything at once, for good: what was written is Unknown, the rest NotSent, with ``cause``."""
        self.table.stopped = cause
        singles, sources = self.queue.clear()
        for pending in [*self.table.active, *self.table.overdue, *singles]:
            with Boundary() as boundary:  # what fails beside one order must not keep the others from their outcomes
                if pending.state is not State.SETTLED:
                    pending.doubt = cause
                    self.table.settle(pending, pending.conclude(cause, self.table.clock))
            if boundary.error is not None:
                logger.error("what follows from an outcome failed: %s", describe(boundary.error))
        for source in sources:
            source.refuse(cause)

    def expire(self, now: float) -> float:
        """Act on everything whose time is up; return when to look again."""
        next_at = math.inf
        down_since = self.down_since
        for pending in [*self.table.active, *(self.queue.heads() if down_since is not None else ())]:
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
            left = terms.give_up_after - pending.spent(now, down_since)
            if left < MOMENT and self._is_held(pending, now):
                self._hold(pending, now)
                continue
            if left < MOMENT:
                self.table.settle(pending, pending.conclude(self._no_connection(), self.table.clock))
                continue
            if pending.running_from is not None or down_since is not None:
                next_at = min(next_at, now + left)
            if pending.state is State.IN_FLIGHT:
                reply_at = pending.flights[-1].deadline
                if reply_at > now:
                    next_at = min(next_at, reply_at)
                else:
                    self._overdue_reply(pending, now)
        if down_since is not None:
            for source in self.queue.sources():
                at = max(down_since, source.held_since) + source.give_up_after()
                if at <= now:
                    self.queue.remove_source(source)
                    source.refuse(self._no_connection() or NotWritten("there was no connection"))
                else:
                    next_at = min(next_at, at)
        self.table.wake_writer()  # what was given up has left its place in the window
        return next_at

    def _overdue_reply(self, pending: Pending, now: float) -> None:
        if pending.doubt is None:
            pending.doubt = NoReply(f"no answer within {pending.terms.reply_timeout:g} s")
        if not pending.terms.retry:
            self.table.settle(pending, pending.conclude(None, self.table.clock))
        elif pending.no_more:
            return  # refused for good; an earlier attempt may still be answered until it is given up
        else:
            self.table.retry(pending, now)

    # Shared steps

    def _is_paced(self, pending: Pending) -> bool:
        """Return True if its clock stands still while a pace holds it back.

        After a 429 it does so under the pace found out only as long as other orders get through: see
        ``_engine.replies``.
        """
        if self._pacer is not None:
            return True
        return self.governor.rate is not None and (pending.error is None or pending.error.status != 429)

    def _is_held(self, pending: Pending, now: float) -> bool:
        """Return True if only the pace keeps its next attempt from being written now."""
        if pending.state is not State.RETRYING or self.down_since is not None or not self._is_paced(pending):
            return False
        ready = self.governor.ready_at() if self._pacer is None else self._pacer.ready_at()
        return pending.not_before <= now < ready

    def _hold(self, pending: Pending, now: float) -> None:
        """Stop its clock: since its next attempt is due and there is a connection, only the pace has held it back."""
        pending.hold(now, max(pending.not_before, self._up_since))

    def _no_connection(self) -> BaseException | None:
        if self.down_since is None:
            return None
        because = f": {self.down_because}" if self.down_because else ""
        error = NotWritten(f"there was no connection in time{because}")
        error.__cause__ = self.down_because
        return error
