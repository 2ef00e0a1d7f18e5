"""The one owner of everything under way: what is written next, what an answer means, what time is up (sans I/O).

The session's tasks call it and only move bytes: the writer asks :meth:`Dispatcher.take` and :meth:`Dispatcher.sign`,
the reader hands each text to :meth:`Dispatcher.read`, the timer calls :meth:`Dispatcher.expire`. Nothing here waits,
so nothing here can be cancelled; every method leaves the tables whole. Times named ``now`` are trio's clock, ``wall``
is Unix seconds.

An order holds its place in the window from its admission until it settles. If its caller leaves, a request that is
not written is withdrawn; one that is written stays in the table, so that a late answer still settles it while the
connection lives, but it gives its place back when its reply is overdue.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from trio_cancel._clock import OffsetInterval
from trio_cancel._errors import (
    ConnectionLost,
    InvalidReply,
    NoReply,
    NotWritten,
    VenueUnavailable,
)
from trio_cancel._holds import Holds
from trio_cancel._models import CancelRequest
from trio_cancel._observer import Counters, Notifier, logger
from trio_cancel._outcomes import AlreadyClosed, Canceled, NotFound, Outcome, Unknown, VenueReply
from trio_cancel._pacing import Governor, Pacer
from trio_cancel._pending import Flight, Pending, State
from trio_cancel._queue import Queue, Source
from trio_cancel._verdict import Verdict, judge, judge_bad
from trio_cancel._wire import BadReply, Reply, decode_reply

WRITE_MOST = 256
"""Requests in one write at most, so that their signatures are young when they leave."""
LATE_KEPT = 1024
"""Overdue orders whose callers have left that are still matched, and settled orders whose late answers are still known."""
RETRY_FIRST, RETRY_MOST = 0.25, 4.0
"""Seconds (before jitter) until the first and the last repetition after a 5xx."""
BAD_PER_MINUTE = 100
"""Bad messages a minute that a connection may carry before it is replaced."""

SignRequest = Callable[[str, CancelRequest, int], bytes]


class Dispatcher:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        sign: SignRequest,
        id_prefix: str,
        pacer: Pacer | None,
        notify: Notifier | None,
        jitter: random.Random,
        wake_writer: Callable[[], None],
        wake_timer: Callable[[float], None],
    ) -> None:
        self.queue = Queue()
        self.governor = Governor()
        self.counters = Counters()
        self.holds = Holds()
        self.clock: OffsetInterval | None = None
        self.correction = 0.0  # seconds added to our clock before signing
        self.down_since: float | None = 0.0
        self.down_because: BaseException | None = None
        self.stopped: BaseException | None = None  # failed or closed for good
        self._sign = sign
        self._id_prefix = id_prefix
        self._next_id = 0
        self._pacer = pacer
        self._notify = notify
        self._jitter = jitter
        self.wake_writer = wake_writer
        self._wake_timer = wake_timer
        self._flights: dict[str, Flight] = {}
        self._active: set[Pending] = set()
        self._active_urgent = 0
        self._overdue: dict[Pending, None] = {}
        self._recent: dict[str, tuple[str, bool]] = {}
        self._bad_since = -math.inf
        self._bad_count = 0

    # What callers do

    def submit(self, pending: Pending, now: float) -> None:
        """Take a single cancel in; it settles at once if the session has failed or is closed."""
        self.counters.queued += 1
        if self._notify is not None:
            self._notify("request_queued", pending.request)
        if self.stopped is not None:
            self._settle(pending, pending.conclude(self.stopped, None))
            return
        self.queue.add(pending)
        self.wake_writer()
        if self.down_since is not None:
            self._wake_timer(now + pending.terms.give_up_after)

    def submit_source(self, source: Source, now: float) -> None:
        """Take a bulk cancel in."""
        if self.stopped is not None:
            source.refuse(self.stopped)
            return
        self.queue.add_source(source)
        self.wake_writer()
        if self.down_since is not None:
            self._wake_timer(now + source.give_up_after())

    def abandon(self, pending: Pending) -> None:
        """Note that the caller has left: withdraw what is not written, go on tracking what is."""
        if pending.state is State.SETTLED:
            return
        pending.abandoned = True
        if not pending.flights:
            self._settle(pending, pending.conclude(NotWritten("its caller left before it was written"), None))
        elif not any(flight.request_id in self._flights for flight in pending.flights):
            # Nothing more can come: its answers are here or its connections are gone.
            self._settle(pending, pending.conclude(None, self.clock))
        else:
            pending.state = State.IN_FLIGHT
            logger.warning("the caller of the cancel of %s left before its answer came", pending.request)

    @property
    def pending_count(self) -> int:
        """How many orders wait for an answer or another attempt."""
        return len(self._active) + len(self._overdue)

    @property
    def flight_count(self) -> int:
        """How many attempts can still be answered."""
        return len(self._flights)

    # What the writer does

    def take(self, now: float) -> tuple[list[Pending], float]:
        """Admit what may be written now. Return it, and when to ask again if nothing rings before (inf: never)."""
        admitted: list[Pending] = []
        ask_at = math.inf
        active = self._active
        queue = self.queue
        governor = self.governor
        pacer = self._pacer
        while len(admitted) < WRITE_MOST:
            ready = governor.ready_at() if pacer is None else max(governor.ready_at(), pacer.ready_at())
            if ready > now:
                ask_at = ready
                break
            window = governor.window
            pending = queue.next_urgent() if self._active_urgent < window else None
            if pending is None:
                pending = queue.next_retry(now)
                if pending is None:
                    if len(active) >= window:
                        break
                    pending = queue.next_bulk(now)
                    if pending is None:
                        break
            governor.start(now)
            if pacer is not None:
                pacer.start(now)
            if pending.state is State.QUEUED:
                active.add(pending)
                if pending.urgent:
                    self._active_urgent += 1
            pending.state = State.ADMITTED
            admitted.append(pending)
        due = queue.next_due()
        if due is not None and due > now:
            ask_at = min(ask_at, due)
        return admitted, ask_at

    def sign(
        self, admitted: list[Pending], connection: int, now: float, wall: float
    ) -> tuple[list[Flight], list[bytes]]:
        """Sign what was admitted, register it, and return the attempts with their texts. Time and age are checked here."""
        flights: list[Flight] = []
        texts: list[bytes] = []
        timestamp = int((wall + self.correction) * 1000)
        notify = self._notify
        for pending in admitted:
            if pending.state is not State.ADMITTED:
                continue  # withdrawn meanwhile
            terms = pending.terms
            left = terms.give_up_after - pending.spent(now, None)
            if left <= 0:
                self._settle(pending, pending.conclude(None, self.clock))
                continue
            self._next_id += 1
            request_id = f"{self._id_prefix}-{self._next_id}"
            texts.append(self._sign(request_id, pending.request, timestamp))
            deadline = now + min(terms.reply_timeout, left)
            flight = Flight(pending, request_id, connection, now, wall, deadline)
            if pending.running_from is None:
                pending.running_from = now
            pending.state = State.IN_FLIGHT
            pending.flights.append(flight)
            self._flights[request_id] = flight
            flights.append(flight)
            if notify is not None:
                notify("request_written", pending.request, request_id)
        if flights:
            self.counters.written += len(flights)
            self._wake_timer(flights[-1].deadline if len(flights) == 1 else min(f.deadline for f in flights))
        return flights, texts

    def put_back(self, admitted: list[Pending], now: float) -> None:
        """Take back what was admitted and not signed: the connection ended between the two."""
        for pending in admitted:
            if pending.state is State.ADMITTED:
                self._retry(pending, now)

    def not_written(self, flights: list[Flight], cause: BaseException, now: float) -> None:
        """Note that the last byte of these was never accepted by the socket: they were not sent."""
        for flight in flights:
            if self._flights.pop(flight.request_id, None) is None:
                continue
            pending = flight.pending
            pending.flights.remove(flight)
            self.counters.written -= 1
            if pending.terms.retry and not pending.abandoned and not pending.no_more:
                self._retry(pending, now)
            elif not self._can_still_be_answered(pending):
                self._settle(pending, pending.conclude(cause, self.clock))

    # What the reader does

    def read(self, text: bytes | str, connection: int, now: float, wall: float) -> None:
        """Take one text message in."""
        reply = decode_reply(text)
        flight = self._flights.get(reply.id) if reply.id is not None else None
        if flight is None or flight.connection != connection or flight.answered_at is not None:
            self._read_stray(reply, flight if flight is not None and flight.connection == connection else None, now)
            return
        pending = flight.pending
        if reply.__class__ is Reply:
            verdict, why = judge(reply, pending.request, now - flight.written)
        else:
            assert isinstance(reply, BadReply)
            verdict, why = judge_bad(reply)
        flight.answered_at = wall
        flight.status = reply.status
        self.counters.answered += 1
        if self._notify is not None:
            self._notify("request_answered", pending.request, flight.request_id, reply.status, now - flight.written)
        if verdict is Verdict.CANCELED:
            assert isinstance(reply, Reply)
            assert reply.order is not None
            self._progress(now)
            after = len(pending.flights) > 1 and pending.doubtful_but(flight)
            self._settle(
                pending, Canceled(pending.request, pending.attempts(), after_unanswered=after, order=reply.order)
            )
        else:
            self._read_refusal(reply, flight, verdict, why, now)
        self.wake_writer()

    def _read_refusal(self, reply: Reply | BadReply, flight: Flight, verdict: Verdict, why: str, now: float) -> None:
        pending = flight.pending
        error = None
        if reply.status is not None and (isinstance(reply, BadReply) or reply.status != 200):
            code, message = (reply.error_code, reply.message) if isinstance(reply, Reply) else (None, "")
            error = VenueReply(reply.status, code, message)
            pending.error = error
        if verdict is Verdict.LIMITED:
            self._limited(flight, now)
        else:
            self._progress(now)
        after = pending.doubtful_but(flight)
        if verdict is Verdict.CLOSED:
            self._settle(
                pending, AlreadyClosed(pending.request, pending.attempts(), error=error, after_unanswered=after)
            )
        elif verdict is Verdict.NOT_FOUND:
            self._settle(pending, NotFound(pending.request, pending.attempts(), error=error, after_unanswered=after))
        elif verdict is Verdict.INVALID:
            flight.doubtful = True
            logger.warning("an answer for %s says nothing: %s", pending.request, why)
            cause = InvalidReply(f"the venue's answer cannot be trusted: {why}")
            self._settle(
                pending,
                Unknown(pending.request, pending.attempts(), error=error, after_unanswered=after, cause=cause),
            )
        else:
            if verdict is Verdict.UNAVAILABLE:
                assert error is not None
                flight.doubtful = True
                pending.doubt = VenueUnavailable(error.status, error.error_code, error.message)
            elif verdict is Verdict.REFUSED:
                pending.no_more = True
            self._after_attempt(pending, verdict, now)

    def _after_attempt(self, pending: Pending, verdict: Verdict, now: float) -> None:
        """Decide what follows an answer that may not settle the order."""
        if pending.state is State.RETRYING and not pending.no_more:
            return  # a late answer to an older attempt; the next one is due already
        if self._can_still_be_answered(pending):
            if pending.no_more and pending.state is State.RETRYING:
                pending.state = State.IN_FLIGHT
            return
        if pending.no_more or pending.abandoned or not pending.terms.retry:
            self._settle(pending, pending.conclude(None, self.clock))
            return
        delay = 0.0
        if verdict is Verdict.UNAVAILABLE:
            delay = min(RETRY_MOST, RETRY_FIRST * 2**pending.retries) * self._jitter.uniform(0.5, 1.0)
            pending.retries += 1
        self._retry(pending, now + delay)

    def _read_stray(self, reply: Reply | BadReply, flight: Flight | None, now: float) -> None:
        """Count and log what answers nothing that waits; the connection lives on, within its budget of bad messages."""
        counters = self.counters
        if reply.id is None:
            if isinstance(reply, BadReply):
                counters.malformed += 1
                logger.warning("a message is no answer: %s", reply.reason)
            else:
                counters.null_id += 1
                logger.warning("an answer with a null id (status %s) is nobody's; it settles nothing", reply.status)
        elif flight is not None:
            counters.duplicates += 1
            logger.warning("a second answer to %s (status %s) is ignored", reply.id, reply.status)
        elif (seen := self._recent.get(reply.id)) is not None:
            settled_as, answered = seen
            says = _says(reply)
            if _contradicts(says, settled_as):
                counters.contradictions += 1
                logger.error("a later answer to %s says %s; the first said %s and stands", reply.id, says, settled_as)
            if not answered:
                counters.late += 1
                self._recent[reply.id] = (settled_as, True)
                logger.info("the answer to %s (status %s) came after its order had settled", reply.id, reply.status)
                return
            counters.duplicates += 1
            logger.warning("a second answer to %s (status %s) is ignored", reply.id, reply.status)
        else:
            counters.unknown_id += 1
            logger.warning("an answer (status %s) has an id that is none of this connection's", reply.status)
        self.count_bad(now)

    def count_binary(self, now: float) -> None:
        """Count and log a binary message: the venue has none."""
        self.counters.binary += 1
        logger.warning("a binary message is no answer; it is ignored")
        self.count_bad(now)

    def count_bad(self, now: float) -> None:
        """Count a bad message."""
        if now - self._bad_since > 60:
            self._bad_since, self._bad_count = now, 0
        self._bad_count += 1

    @property
    def over_budget(self) -> bool:
        """True if this connection has carried too many bad messages within a minute."""
        return self._bad_count > BAD_PER_MINUTE

    # What the connection and the timer do

    def connection_up(self) -> None:
        """Note that requests can be written again."""
        self.down_since = self.down_because = None
        self.governor.reset_window()
        self._bad_since, self._bad_count = -math.inf, 0
        self.wake_writer()

    def connection_down(self, connection: int, cause: BaseException | None, now: float) -> None:
        """Note that nothing more can come from ``connection``: its attempts stay unanswered."""
        if self.down_since is None:
            self.down_since = now
        self.down_because = cause
        error = ConnectionLost(f"the connection was lost before the answer came{f' ({cause})' if cause else ''}")
        error.__cause__ = cause
        lost = [flight for flight in self._flights.values() if flight.connection == connection]
        for flight in lost:
            self._flights.pop(flight.request_id, None)
            if flight.answered_at is None:
                flight.pending.doubt = flight.pending.doubt or error
        for flight in lost:
            pending = flight.pending
            if pending.state is not State.IN_FLIGHT:
                continue
            if pending.terms.retry and not pending.abandoned and not pending.no_more:
                self._retry(pending, now)
            else:
                self._settle(pending, pending.conclude(error, self.clock))
        self._wake_timer(now)

    def stop(self, cause: BaseException) -> None:
        """End everything at once, for good: what was written is Unknown, the rest NotSent, with ``cause``."""
        self.stopped = cause
        singles, sources = self.queue.clear()
        for pending in [*self._active, *self._overdue, *singles]:
            if pending.state is not State.SETTLED:
                pending.doubt = cause
                self._settle(pending, pending.conclude(cause, self.clock))
        for source in sources:
            source.refuse(cause)

    def expire(self, now: float) -> float:
        """Act on everything whose time is up; return when to look again."""
        next_at = math.inf
        down_since = self.down_since
        for pending in [*self._active, *(self.queue.heads() if down_since is not None else ())]:
            if pending.state is State.SETTLED:
                continue
            terms = pending.terms
            if pending.abandoned:
                at = max((f.deadline for f in pending.flights), default=now)
                if at <= now:
                    self._let_go(pending)
                else:
                    next_at = min(next_at, at)
                continue
            left = terms.give_up_after - pending.spent(now, down_since)
            if left <= 0 and self._held_by_pacer(pending, now):
                pending.hold(now, pending.not_before)
                continue
            if left <= 0:
                self._settle(pending, pending.conclude(self._no_connection(), self.clock))
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
        return next_at

    def _overdue_reply(self, pending: Pending, now: float) -> None:
        if pending.doubt is None:
            pending.doubt = NoReply(f"no answer within {pending.terms.reply_timeout:g} s")
        if not pending.terms.retry:
            self._settle(pending, pending.conclude(None, self.clock))
        elif pending.no_more:
            return  # refused for good; an earlier attempt may still be answered until it is given up
        else:
            self._retry(pending, now)

    def _let_go(self, pending: Pending) -> None:
        """Give an abandoned order's place in the window back; a late answer still settles it."""
        if pending.doubt is None:
            pending.doubt = NoReply("no answer came in time, and its caller has left")
        self._active.discard(pending)
        self._active_urgent -= pending.urgent
        self._overdue[pending] = None
        if len(self._overdue) > LATE_KEPT:
            oldest = next(iter(self._overdue))
            self._settle(oldest, oldest.conclude(None, self.clock))
        self.wake_writer()

    # Shared steps

    def _held_by_pacer(self, pending: Pending, now: float) -> bool:
        return (
            self._pacer is not None
            and self.down_since is None
            and pending.state is State.RETRYING
            and pending.not_before <= now < self._pacer.ready_at()
        )

    def _no_connection(self) -> BaseException | None:
        if self.down_since is None:
            return None
        because = f": {self.down_because}" if self.down_because else ""
        error = NotWritten(f"there was no connection in time{because}")
        error.__cause__ = self.down_because
        return error

    def _can_still_be_answered(self, pending: Pending) -> bool:
        flights = self._flights
        return any(f.answered_at is None and f.request_id in flights for f in pending.flights)

    def _retry(self, pending: Pending, at: float) -> None:
        if self.stopped is not None:
            self._settle(pending, pending.conclude(self.stopped, self.clock))
            return
        pending.state = State.RETRYING
        pending.not_before = at
        self.queue.retry(pending)
        self.wake_writer()

    def _progress(self, now: float) -> None:
        """Count an answer that was no 429: whoever waits after a 429 waits for the pace, not for the venue."""
        governor = self.governor
        if governor.rate is not None:
            for pending in self.queue.retrying():
                if pending.error is not None and pending.error.status == 429 and pending.running_from is not None:
                    pending.running_from = now
        governor.accepted(now)

    def _limited(self, flight: Flight, now: float) -> None:
        self.counters.limited += 1
        if self.governor.limited(now, flight.written):
            rate = self.governor.rate
            logger.warning("the venue limits requests (429); going on with %.3g a second", rate)
            if self._notify is not None:
                self._notify("paced", rate)

    def _settle(self, pending: Pending, outcome: Outcome) -> None:
        if pending.state is State.SETTLED:
            raise AssertionError("an order settles once")
        pending.state = State.SETTLED
        pending.outcome = outcome
        if pending in self._active:
            self._active.discard(pending)
            self._active_urgent -= pending.urgent
        elif self._overdue:
            self._overdue.pop(pending, None)
        recent = self._recent
        for flight in pending.flights:
            self._flights.pop(flight.request_id, None)
            recent[flight.request_id] = (outcome.kind, flight.answered_at is not None)
            if len(recent) > LATE_KEPT:
                del recent[next(iter(recent))]
        self.counters.settled += 1
        if self.holds:
            self.holds.settled(outcome)
        if pending.abandoned:
            logger.info("%s settled as %s after its caller had left", pending.request, outcome.kind)
            if self._notify is not None:
                self._notify("settled_late", outcome)
        pending.deliver()


def _says(reply: Reply | BadReply) -> str | None:
    """Return the kind that a stray answer claims by its bare status and code, or None if it claims nothing definite."""
    if isinstance(reply, BadReply):
        return None
    if reply.status == 200 and reply.order is not None and reply.order.status == "canceled":
        return Canceled.kind
    return {40408: AlreadyClosed.kind, 40401: NotFound.kind}.get(reply.error_code or 0)


def _contradicts(says: str | None, settled_as: str) -> bool:
    """Return True if both are definite and cannot both be true. A cancel that took effect may be called closed later."""
    closed = (Canceled.kind, AlreadyClosed.kind)
    definite = (*closed, NotFound.kind, "rejected", "not_sent")
    if says is None or says == settled_as or settled_as not in definite:
        return False
    return not (says in closed and settled_as in closed)
