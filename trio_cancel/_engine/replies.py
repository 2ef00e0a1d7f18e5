"""What each text message of the venue means, and for which order.

Messages are matched by request id and connection only. The first definite answer settles an order; a refusal after an
attempt that may have taken effect leaves it unknown. Messages that answer nothing that is waiting are counted and
logged, and settle nothing; a connection that carries too many of them is over its budget.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable
from contextlib import suppress

from msgspec.structs import force_setattr

from trio_cancel._engine.in_flight import InFlight
from trio_cancel._engine.order import LiveAttempt, OrderCancel, State
from trio_cancel._engine.rate import WINDOW_MOST, AdaptiveRate
from trio_cancel._values.errors import InvalidReply, InvalidRequest, UnlistedRefusal, VenueUnavailable
from trio_cancel._values.models import CanceledOrder, CancelRequest
from trio_cancel._values.observer import logger
from trio_cancel._values.outcomes import AlreadyClosed, Attempt, Canceled, NotFound, VenueReply, not_surely
from trio_cancel._venue.codec import BadReply, Reply, decode_reply
from trio_cancel._venue.verdict import Verdict, claim, closed_as, judge

RETRY_FIRST, RETRY_MOST = 0.25, 4.0
"""Seconds (before jitter) until the first and the last repetition after a 5xx, or an unreadable answer."""
BAD_PER_MINUTE = 100
"""Bad messages a minute that a connection may carry before it is replaced."""

EXECUTED = "executed"
"""Claims of a stray answer that say how the order was closed."""


class ReplyHandler:
    """Reads the venue's messages for one session.

    One call of :meth:`read` takes what came in one read of the socket: at most 64 KiB, about 150 answers, so that other
    tasks get their turn after them.
    """

    def __init__(self, in_flight: InFlight, rate: AdaptiveRate, jitter: random.Random) -> None:
        self._in_flight = in_flight
        self._rate = rate
        self._silence = in_flight.silence
        self._jitter = jitter
        self._bad_since = -math.inf
        self._bad_count = 0
        self._lacking: set[str] = set()  # the fields of results that were already reported as missing

    def forget_bad(self) -> None:
        """Start a new budget of bad messages."""
        self._bad_since, self._bad_count = -math.inf, 0

    def read(self, texts: Iterable[bytes | str], connection: int, now: float, wall: float) -> None:
        """Process text messages that came together."""
        in_flight = self._in_flight
        counters, notify, flights = in_flight.counters, in_flight.notify, in_flight.flights
        pace = self._rate
        canceled = Verdict.CANCELED
        alive = False
        latest, active = None, len(in_flight.active)
        for text in texts:
            reply = decode_reply(text)
            flight = flights.get(reply.id or "")
            if flight is None or flight.connection != connection or flight.answered_at is not None:
                self._read_stray(reply, flight if flight is not None and flight.connection == connection else None, now)
                continue
            order = flight.order
            if isinstance(reply, Reply):
                found = reply.order
                lookup = order.lookup
                asked = order.request if lookup is None else lookup.asked(flight.request_id, order.request)
                verdict, why = judge(reply, asked, now - flight.written)
                if reply.lacks and verdict is canceled:
                    self._log_lacking(reply)
            else:
                found = None
                verdict, why = Verdict.INVALID, reply.reason
            flight.answered_at = wall
            flight.status = reply.status
            latest = flight
            counters.answered += 1
            if notify is not None:
                notify("request_answered", order.request, flight.request_id, reply.status, now - flight.written)
            if verdict is not canceled or found is None:
                self._read_refusal(reply, flight, verdict, why, now)
                continue
            if found.id == (named := order.request.id):
                force_setattr(found, "id", named)  # one string for both: nobody else has seen the order yet
            alive = True
            if pace.rate is not None:
                self._progress(now)
            elif pace.window < WINDOW_MOST:
                pace.window += 1
            attempts: tuple[Attempt, ...]
            if not order.earlier:
                # How nearly every order ends, without a call.
                attempts, after = (Attempt(flight.request_id, flight.written_at, wall, 200),), False
            else:
                attempts, after = order.attempts(), order.may_have_applied_but(flight)
            in_flight.settle(order, Canceled(order.request, attempts, after_unanswered=after, order=found))
        if latest is not None:
            pace.answered(now - latest.written, active)
        if alive:
            self._silence.alive(now)

    def _read_refusal(
        self, reply: Reply | BadReply, flight: LiveAttempt, verdict: Verdict, why: str, now: float
    ) -> None:
        in_flight = self._in_flight
        order = flight.order
        error = None
        if isinstance(reply, Reply) and reply.order is not None and order.request.id is None:
            _learn(order, flight, reply.order)
        if reply.status is not None and (isinstance(reply, BadReply) or reply.status != 200):
            code, message = (reply.error_code, reply.message) if isinstance(reply, Reply) else (None, "")
            error = VenueReply(reply.status, code, message)
            order.error = error
        if verdict is Verdict.LIMITED:
            self._limited(flight, now)
        elif verdict is Verdict.UNAVAILABLE or verdict is Verdict.INVALID:
            self._rate.accepted(now)
        else:
            self._silence.alive(now)
            self._progress(now)
        after = order.may_have_applied_but(flight)
        if verdict is Verdict.CLOSED:
            closed = closed_as(None if error is None else error.error_code)
            attempts = order.attempts()
            outcome = AlreadyClosed(order.request, attempts, error=error, after_unanswered=after, closed_as=closed)
            lookup = order.lookup
            by_seen_id = lookup is not None and flight.request_id in lookup.by_id
            if by_seen_id and order.learned is None:
                # The id came from a lookup by external id: it may belong to an older order of this name.
                in_flight.settle(order, not_surely(outcome))
            else:
                in_flight.settle(order, outcome)
        elif verdict is Verdict.NOT_FOUND:
            in_flight.settle(order, NotFound(order.request, order.attempts(), error=error, after_unanswered=after))
        else:
            if verdict is Verdict.INVALID:
                flight.may_have_applied = True
                logger.warning("an answer for %s says nothing: %s", order.request, why)
                order.doubt = InvalidReply(f"the venue's answer cannot be trusted: {why}")
            elif verdict is Verdict.UNLISTED:
                flight.may_have_applied = order.refused_for_good = True
                logger.warning(
                    "the venue refused %s in a way that its contract does not list: %s", order.request, error
                )
                order.doubt = UnlistedRefusal(f"the venue refused in a way that its contract does not list: {error}")
            elif verdict is Verdict.UNAVAILABLE:
                assert error is not None
                flight.may_have_applied = True
                order.doubt = VenueUnavailable(error.status, error.error_code, error.message)
            elif verdict is Verdict.REFUSED:
                if error is not None and error.refuses_signature and self._signs_again(order, flight, now):
                    return
                order.refused_for_good = True
            self._after_attempt(order, verdict, now)

    def _signs_again(self, order: OrderCancel, flight: LiveAttempt, now: float) -> bool:
        """Let it be signed again, once, if a probe of the venue's clock may explain the refused signature."""
        if order.signed_again or not order.may_retry:
            return False
        if order.state is not State.IN_FLIGHT or flight is not order.latest:
            return False
        at = self._in_flight.clock.sign_again_at(int(flight.request_id.rpartition("-")[2]), now)
        if at is None:
            return False
        order.signed_again = True
        self._in_flight.retry(order, at)
        return True

    def _log_lacking(self, reply: Reply) -> None:
        """Log which fields of results are None, each once per session: a dialect that lacks one has it in no answer."""
        new = [name for name in reply.lacks if name not in self._lacking]
        if new:
            self._lacking.update(new)
            unreadable = "" if reply.order is None or not reply.order.unreadable else f" ({reply.order.unreadable})"
            logger.warning(
                "the venue's results lack %s, or it cannot be read%s; it is None, also in those to come",
                " and ".join(new),
                unreadable,
            )

    def _after_attempt(self, order: OrderCancel, verdict: Verdict, now: float) -> None:
        """Decide what follows an answer that may not settle the order."""
        in_flight = self._in_flight
        if order.state is State.LOOKED_UP:
            return  # it says no more than what the lookup is about
        if order.state is State.RETRYING and not order.refused_for_good:
            return  # a late answer to an older attempt; the next one is due already
        ended = not order.may_retry
        # While another attempt may follow, only the answer to the latest one is worth waiting for.
        latest = order.latest
        assert latest is not None  # it has been answered
        waits = latest.answered_at is None and latest.request_id in in_flight.flights
        if waits or (ended and in_flight.can_still_be_answered(order)):
            if ended:
                order.wait_for_answer()
            return
        if ended:
            in_flight.conclude(order, None)
            return
        delay = 0.0
        if verdict is Verdict.UNAVAILABLE or verdict is Verdict.INVALID:
            delay = min(RETRY_MOST, RETRY_FIRST * 2**order.retries) * self._jitter.uniform(0.5, 1.0)
            order.retries += 1
        in_flight.retry(order, now + delay)

    def _read_stray(self, reply: Reply | BadReply, flight: LiveAttempt | None, now: float) -> None:
        """Count and log a message that answers nothing that waits; the connection lives on, within its budget."""
        in_flight = self._in_flight
        counters = in_flight.counters
        # Over its budget it is about to be closed, and one piece may contain thousands more.
        level = logging.DEBUG if self.over_budget else logging.WARNING
        if reply.id is None:
            if isinstance(reply, BadReply):
                counters.malformed += 1
                logger.log(level, "a message is not an answer: %s", reply.reason)
            else:
                counters.null_id += 1
                logger.log(level, "an answer with a null id (status %s) is nobody's; it settles nothing", reply.status)
        elif flight is not None:
            counters.duplicates += 1
            logger.warning("a second answer to %s (status %s) is ignored", reply.id, reply.status)
        elif (seen := in_flight.settled_as(reply.id)) is not None:
            settled_as, answered = seen
            says = _says(reply)
            if _contradicts(says, settled_as):
                counters.contradictions += 1
                logger.error("a later answer to %s says %s; the first said %s and stands", reply.id, says, settled_as)
            if not answered:
                if isinstance(reply, Reply) and reply.status != 429 and reply.status < 500:
                    self._silence.alive(now)
                counters.late += 1
                in_flight.answered_late(reply.id, settled_as)
                logger.info("the answer to %s (status %s) came after its order had settled", reply.id, reply.status)
                return
            counters.duplicates += 1
            logger.warning("a second answer to %s (status %s) is ignored", reply.id, reply.status)
        else:
            counters.unknown_id += 1
            logger.log(level, "an answer (status %s) has an id that is none of this connection's", reply.status)
        self.count_bad(now)

    def count_binary(self, now: float) -> None:
        """Count and log a binary message: the venue sends none."""
        in_flight = self._in_flight
        in_flight.counters.binary += 1
        logger.warning("a binary message is not an answer; it is ignored")
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

    def _progress(self, now: float) -> None:
        """Count an answer that was not a 429: orders that wait after a 429 wait for the pace, not for the venue."""
        pace = self._rate
        if pace.rate is not None:
            for order in self._in_flight.queue.retrying():
                if order.error is not None and order.error.status == 429 and order.running_from is not None:
                    order.running_from = now
        pace.accepted(now)

    def _limited(self, flight: LiveAttempt, now: float) -> None:
        self._in_flight.counters.limited += 1
        if self._rate.limited(now, flight.written):
            rate = self._rate.rate
            logger.warning("the venue limits requests (429); going on with %.3g a second", rate)
            if self._in_flight.notify is not None:
                self._in_flight.notify("paced", rate)


def _learn(order: OrderCancel, flight: LiveAttempt, canceled: CanceledOrder) -> None:
    """Keep the venue's id of an order that was requested by external id, if an answer names it."""
    lookup = order.lookup
    if lookup is not None and flight.request_id in lookup.by_id:
        return  # requested by an id that a lookup saw: the answer does not say whose name it is
    if order.learned is None and canceled.id and canceled.external_id == order.request.external_id:
        with suppress(InvalidRequest):
            order.learned = CancelRequest(canceled.id)


def _says(reply: Reply | BadReply) -> str | None:
    """Return what a stray answer claims about the order in it, in our words, or None if nothing definite."""
    said = claim(reply) if isinstance(reply, Reply) else None
    if said is None:
        return None
    verdict, how = said
    if verdict is Verdict.CLOSED:
        return EXECUTED if how == "executed" else AlreadyClosed.kind
    return Canceled.kind if verdict is Verdict.CANCELED else NotFound.kind


def _contradicts(says: str | None, settled_as: str) -> bool:
    """Return True if both are definite and cannot both be true; a canceled order may later be called closed."""
    closed = (Canceled.kind, AlreadyClosed.kind)
    definite = (*closed, NotFound.kind, "rejected", "not_sent")
    if says is None or says == settled_as or settled_as not in definite:
        return False
    if says == EXECUTED:
        return settled_as != AlreadyClosed.kind
    return not (says in closed and settled_as in closed)
