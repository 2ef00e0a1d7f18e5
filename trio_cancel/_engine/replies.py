"""What each text message of the venue means for whom (pure).

Matched by request id and connection alone. The first definite answer settles an order; a refusal after an attempt that
may have taken effect leaves it unknown. What answers nothing that waits is counted and logged, and settles nothing; a
connection that carries too much of it is over its budget.
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
from trio_cancel._engine.silence import Silence
from trio_cancel._values.errors import InvalidReply, InvalidRequest, UnlistedRefusal, VenueUnavailable
from trio_cancel._values.models import CanceledOrder, CancelRequest
from trio_cancel._values.observer import logger
from trio_cancel._values.outcomes import AlreadyClosed, Attempt, Canceled, NotFound, VenueReply, not_surely
from trio_cancel._venue.codec import BadReply, Reply, decode_reply
from trio_cancel._venue.verdict import Verdict, claim, closed_as, judge

RETRY_FIRST, RETRY_MOST = 0.25, 4.0
"""Seconds (before jitter) until the first and the last repetition after a 5xx, or an answer that cannot be read."""
BAD_PER_MINUTE = 100
"""Bad messages a minute that a connection may carry before it is replaced."""

EXECUTED = "executed"
"""What a stray answer claims that names the way in which the order was closed."""


class ReplyHandler:
    """Reads the venue's messages for one session.

    One call of :meth:`read` takes what came in one read of the socket: 64 KiB at most, some 150 answers, so that other
    tasks have their turn after them.
    """

    def __init__(self, table: InFlight, rate: AdaptiveRate, silence: Silence, jitter: random.Random) -> None:
        self._table = table
        self._rate = rate
        self._silence = silence
        self._jitter = jitter
        self._bad_since = -math.inf
        self._bad_count = 0
        self._lacking: set[str] = set()  # the fields of results of which it has been told that they are missing

    def forget_bad(self) -> None:
        """Begin a new budget of bad messages."""
        self._bad_since, self._bad_count = -math.inf, 0

    def read(self, texts: Iterable[bytes | str], connection: int, now: float, wall: float) -> None:
        """Take text messages in that came together."""
        table = self._table
        counters, notify, flights = table.counters, table.notify, table.flights
        pace = self._rate
        canceled = Verdict.CANCELED
        alive = False
        for text in texts:
            reply = decode_reply(text)
            flight = flights.get(reply.id or "")
            if flight is None or flight.connection != connection or flight.answered_at is not None:
                self._read_stray(reply, flight if flight is not None and flight.connection == connection else None, now)
                continue
            pending = flight.pending
            if isinstance(reply, Reply):
                order = reply.order
                looking = pending.looking
                asked = pending.request if looking is None else looking.asked(flight.request_id, pending.request)
                verdict, why = judge(reply, asked, now - flight.written)
                if reply.lacks and verdict is canceled:
                    self._tell_lacking(reply)
            else:
                order = None
                verdict, why = Verdict.INVALID, reply.reason
            flight.answered_at = wall
            flight.status = reply.status
            counters.answered += 1
            if notify is not None:
                notify("request_answered", pending.request, flight.request_id, reply.status, now - flight.written)
            if verdict is not canceled or order is None:
                self._read_refusal(reply, flight, verdict, why, now)
                continue
            if order.id == (named := pending.request.id):
                force_setattr(order, "id", named)  # one string for both: nobody else has seen the order yet
            alive = True
            if pace.rate is not None:
                self._progress(now)
            elif pace.window < WINDOW_MOST:
                pace.window += 1
            attempts: tuple[Attempt, ...]
            if not pending.earlier:
                # What nearly every order ends in, without a call.
                attempts, after = (Attempt(flight.request_id, flight.written_at, wall, 200),), False
            else:
                attempts, after = pending.attempts(), pending.may_have_applied_but(flight)
            table.settle(pending, Canceled(pending.request, attempts, after_unanswered=after, order=order))
        if alive:
            self._silence.sign(now)

    def _read_refusal(
        self, reply: Reply | BadReply, flight: LiveAttempt, verdict: Verdict, why: str, now: float
    ) -> None:
        table = self._table
        pending = flight.pending
        error = None
        if isinstance(reply, Reply) and reply.order is not None and pending.request.id is None:
            _learn(pending, flight, reply.order)
        if reply.status is not None and (isinstance(reply, BadReply) or reply.status != 200):
            code, message = (reply.error_code, reply.message) if isinstance(reply, Reply) else (None, "")
            error = VenueReply(reply.status, code, message)
            pending.error = error
        if verdict is Verdict.LIMITED:
            self._limited(flight, now)
        elif verdict is Verdict.UNAVAILABLE or verdict is Verdict.INVALID:
            self._rate.accepted(now)
        else:
            self._silence.sign(now)
            self._progress(now)
        after = pending.may_have_applied_but(flight)
        if verdict is Verdict.CLOSED:
            closed = closed_as(None if error is None else error.error_code)
            attempts = pending.attempts()
            outcome = AlreadyClosed(pending.request, attempts, error=error, after_unanswered=after, closed_as=closed)
            looking = pending.looking
            by_seen_id = looking is not None and flight.request_id in looking.by_id
            if by_seen_id and pending.learned is None:
                # The id came from a lookup by external id: it may be of an older order of this name.
                table.settle(pending, not_surely(outcome))
            else:
                table.settle(pending, outcome)
        elif verdict is Verdict.NOT_FOUND:
            table.settle(pending, NotFound(pending.request, pending.attempts(), error=error, after_unanswered=after))
        else:
            if verdict is Verdict.INVALID:
                flight.may_have_applied = True
                logger.warning("an answer for %s says nothing: %s", pending.request, why)
                pending.doubt = InvalidReply(f"the venue's answer cannot be trusted: {why}")
            elif verdict is Verdict.UNLISTED:
                flight.may_have_applied = pending.refused_for_good = True
                logger.warning(
                    "the venue refused %s in a way that its contract does not list: %s", pending.request, error
                )
                pending.doubt = UnlistedRefusal(f"the venue refused in a way that its contract does not list: {error}")
            elif verdict is Verdict.UNAVAILABLE:
                assert error is not None
                flight.may_have_applied = True
                pending.doubt = VenueUnavailable(error.status, error.error_code, error.message)
            elif verdict is Verdict.REFUSED:
                if error is not None and error.refuses_signature and self._looks_again(pending, flight, now):
                    return
                pending.refused_for_good = True
            self._after_attempt(pending, verdict, now)

    def _looks_again(self, pending: OrderCancel, flight: LiveAttempt, now: float) -> bool:
        """Let it be signed anew, once, if another look at the venue's clock may show why its signature was refused."""
        if pending.looked_again or pending.abandoned or not pending.terms.retry or pending.state is not State.IN_FLIGHT:
            return False
        if pending.refused_for_good or flight is not pending.latest:
            return False
        at = self._table.clock.look_again(int(flight.request_id.rpartition("-")[2]), now)
        if at is None:
            return False
        pending.looked_again = True
        self._table.retry(pending, at)
        return True

    def _tell_lacking(self, reply: Reply) -> None:
        """Log which fields of results are None, each once in a session: a dialect without one has it in no answer."""
        new = [name for name in reply.lacks if name not in self._lacking]
        if new:
            self._lacking.update(new)
            unreadable = "" if reply.order is None or not reply.order.unreadable else f" ({reply.order.unreadable})"
            logger.warning(
                "the venue's results lack %s, or it cannot be read%s; it is None, also in those to come",
                " and ".join(new),
                unreadable,
            )

    def _after_attempt(self, pending: OrderCancel, verdict: Verdict, now: float) -> None:
        """Decide what follows an answer that may not settle the order."""
        table = self._table
        if pending.state is State.LOOKED_UP:
            return  # it says no more than what it is looked up for
        if pending.state is State.RETRYING and not pending.refused_for_good:
            return  # a late answer to an older attempt; the next one is due already
        ended = pending.refused_for_good or pending.abandoned or not pending.terms.retry
        # While another attempt may follow, only the answer to the latest one is worth waiting for.
        latest = pending.latest
        assert latest is not None  # it has been answered
        waits = latest.answered_at is None and latest.request_id in table.flights
        if waits or (ended and table.can_still_be_answered(pending)):
            if ended:
                pending.wait_for_answer()
            return
        if ended:
            table.settle(pending, pending.conclude(None, table.clock.interval))
            return
        delay = 0.0
        if verdict is Verdict.UNAVAILABLE or verdict is Verdict.INVALID:
            delay = min(RETRY_MOST, RETRY_FIRST * 2**pending.retries) * self._jitter.uniform(0.5, 1.0)
            pending.retries += 1
        table.retry(pending, now + delay)

    def _read_stray(self, reply: Reply | BadReply, flight: LiveAttempt | None, now: float) -> None:
        """Count and log what answers nothing that waits; the connection lives on, within its budget of bad messages."""
        table = self._table
        counters = table.counters
        # Over its budget it is about to be left, and one piece may hold thousands more.
        level = logging.DEBUG if self.over_budget else logging.WARNING
        if reply.id is None:
            if isinstance(reply, BadReply):
                counters.malformed += 1
                logger.log(level, "a message is no answer: %s", reply.reason)
            else:
                counters.null_id += 1
                logger.log(level, "an answer with a null id (status %s) is nobody's; it settles nothing", reply.status)
        elif flight is not None:
            counters.duplicates += 1
            logger.warning("a second answer to %s (status %s) is ignored", reply.id, reply.status)
        elif (seen := table.settled_as(reply.id)) is not None:
            settled_as, answered = seen
            says = _says(reply)
            if _contradicts(says, settled_as):
                counters.contradictions += 1
                logger.error("a later answer to %s says %s; the first said %s and stands", reply.id, says, settled_as)
            if not answered:
                if isinstance(reply, Reply) and reply.status != 429 and reply.status < 500:
                    self._silence.sign(now)
                counters.late += 1
                table.answered_late(reply.id, settled_as)
                logger.info("the answer to %s (status %s) came after its order had settled", reply.id, reply.status)
                return
            counters.duplicates += 1
            logger.warning("a second answer to %s (status %s) is ignored", reply.id, reply.status)
        else:
            counters.unknown_id += 1
            logger.log(level, "an answer (status %s) has an id that is none of this connection's", reply.status)
        self.count_bad(now)

    def count_binary(self, now: float) -> None:
        """Count and log a binary message: the venue has none."""
        table = self._table
        table.counters.binary += 1
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

    def _progress(self, now: float) -> None:
        """Count an answer that was no 429: whoever waits after a 429 waits for the pace, not for the venue."""
        pace = self._rate
        if pace.rate is not None:
            for pending in self._table.queue.retrying():
                if pending.error is not None and pending.error.status == 429 and pending.running_from is not None:
                    pending.running_from = now
        pace.accepted(now)

    def _limited(self, flight: LiveAttempt, now: float) -> None:
        self._table.counters.limited += 1
        if self._rate.limited(now, flight.written):
            rate = self._rate.rate
            logger.warning("the venue limits requests (429); going on with %.3g a second", rate)
            if self._table.notify is not None:
                self._table.notify("paced", rate)


def _learn(pending: OrderCancel, flight: LiveAttempt, order: CanceledOrder) -> None:
    """Keep the venue's id of an order that was asked for by its external id, if an answer names it."""
    looking = pending.looking
    if looking is not None and flight.request_id in looking.by_id:
        return  # asked for by an id that a lookup saw: the answer does not tell whose name it is
    if pending.learned is None and order.id and order.external_id == pending.request.external_id:
        with suppress(InvalidRequest):
            pending.learned = CancelRequest(order.id)


def _says(reply: Reply | BadReply) -> str | None:
    """Return what a stray answer claims of the order in it, in words of ours, or None if nothing definite."""
    said = claim(reply) if isinstance(reply, Reply) else None
    if said is None:
        return None
    verdict, how = said
    if verdict is Verdict.CLOSED:
        return EXECUTED if how == "executed" else AlreadyClosed.kind
    return Canceled.kind if verdict is Verdict.CANCELED else NotFound.kind


def _contradicts(says: str | None, settled_as: str) -> bool:
    """Return True if both are definite and cannot both be true; what was canceled may be called closed later."""
    closed = (Canceled.kind, AlreadyClosed.kind)
    definite = (*closed, NotFound.kind, "rejected", "not_sent")
    if says is None or says == settled_as or settled_as not in definite:
        return False
    if says == EXECUTED:
        return settled_as != AlreadyClosed.kind
    return not (says in closed and settled_as in closed)
