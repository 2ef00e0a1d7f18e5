"""Compares what the callers of a run were told with what is true; each violation names its invariant (I1 … I12).

1. Every submitted cancel ends in exactly one outcome; a bulk cancel accounts for every input.
2. Canceled: the venue applied it, and the reply matched request id, order and connection.
3. NotSent: no complete frame went out.
4. Rejected: refused, and no attempt was unanswered or answered 5xx; "no longer active" after such an attempt says so.
5. Everything else is Unknown: what was answered clearly is believed, what was not is not guessed.
6. By the deadline plus a small bound: orders, callers that are cancelled, entering, leaving.
7. A request id goes onto the wire once; attempts are linked to their order.
8. After a partial write no further byte goes onto that connection.
9. Signature and deadline are checked at the write; no attempt starts after its caller has returned.
10. Everything back at its baseline, nothing stray, no secret anywhere; the block is not cancelled.
12. No outcome that says yes or no, looked up or not, contradicts the venue's book and log, when it is told or later;
    what a lookup completed is about the order that was meant. (11 is about journals, see ``scopes_check``.)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from itertools import pairwise

from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    ConnectionLost,
    HandshakeFailed,
    NotFound,
    NotSent,
    Outcome,
    Rejected,
    SessionClosed,
    Unknown,
)

from .book_truth import check_truth, unseen
from .harness import CREDENTIALS
from .record import OpResult, Run, Stamp
from .scenario import Kind
from .session_check import BOUND, ROUNDING, check_session
from .tap import Sent
from .truth import CLOSED_AS, NOT_FOUND, NUMBERS, Answer, Place, Says, Truth, amount, find

SILENCE_BOUND = 5.0
"""Seconds after ``give_up_after`` by which everything has an outcome where the venue gives no sign of life."""
BUDGET = 5.0
"""Seconds for lookups after an order's own time, and for one that begins later because others were before it."""
FOR_GOOD = (Says.REFUSED, Says.UNLISTED)
DEFINITE = {Says.CANCELED: "canceled", Says.CLOSED: "already_closed", Says.NOT_FOUND: "not_found"}


def check(run: Run) -> list[str]:
    """Return the violations of a run, none if all is well."""
    return Checker(run).violations()


class Checker:
    """Checks one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.truth: Truth = find(run)
        self.found: list[str] = list(self.truth.problems)
        self._paced = self.truth.limited or run.lookups_limited or run.scenario.pacer is not None
        self._looks = run.scenario.lookup is not None
        self._held_back = self._paced and self._looks  # the account's limit may hold lookups back
        self._slowly = run.scenario.pacer is not None and 1 / run.scenario.pacer[0] > SILENCE_BOUND
        answers = [answer for place in self.truth.places.values() for answer in place.answers]
        may_have_applied = (Says.DOUBTFUL, Says.NOTHING)
        signs = [answer.at.time for answer in answers if answer.says is not Says.DOUBTFUL]
        self._signs = sorted([*signs, *self.truth.elsewhere])
        self._sure_signs = sorted(a.at.time for a in answers if a.says not in may_have_applied and a.status != 429)

    def violations(self) -> list[str]:
        """Check everything."""
        self.found += check_session(self.run, self.truth)
        self._check_writes()
        for number, result in enumerate(self.run.results):
            if result.started is not None:
                self._check_operation(number, result)
        return self.found

    def _say(self, invariant: int, text: str) -> None:
        self.found.append(f"I{invariant}: {text}")

    def _check_writes(self) -> None:
        """Signatures are made at the write, and nobody is written for who has left."""
        run, scenario = self.run, self.run.scenario
        low = high = scenario.clock_offset or 0.0
        if scenario.clock_offset is None:
            low, high = min(0, scenario.skew) / 1000, max(0, scenario.skew) / 1000
        for sent in self.truth.sent:
            age = run.began + sent.offered.time - sent.timestamp / 1000
            if not -high - ROUNDING <= age <= -low + ROUNDING:
                self._say(9, f"{sent.request_id} was signed {age:.3f} s before its write")
            place = run.written.get(sent.request_id)
            if place is None:
                continue
            result = run.results[place[0]]
            left = run.settled.get(place, ())
            if result.ended is not None:
                left = [*left, result.ended]
            if left and min(stamp.order for stamp in left) < run.offered[sent.request_id].order:
                self._say(9, f"{sent.request_id} was written after its caller had returned")
            if not self._is_meant(sent, self.truth.places[place].request):
                self._say(7, f"{sent.request_id} names {sent.order}, not {self.truth.places[place].request}")

        self._check_refused()

    def _is_meant(self, sent: Sent, request: CancelRequest) -> bool:
        """Whether a request names its order: as the caller did, or by the venue's id that a lookup told."""
        if sent.asked == request:
            return True
        ids = {order.id for order in self.run.orders.values() if order.external_id == request.external_id}
        told = {each.order_id for each in self.run.told if each.at <= sent.offered.time}
        return request.id is None and sent.order in ids & told

    def _check_refused(self) -> None:
        run = self.run
        for here in self.truth.places.values():
            refusals = [answer for answer in here.answers if answer.says in FOR_GOOD]
            if refusals and _of_signature(refusals[0]):
                del refusals[0]  # the client may look at the venue's clock again, and sign once more
            refused = min((answer.at.order for answer in refusals), default=None)
            if refused is not None and any(run.offered[request_id].order > refused for request_id in here.ids):
                self._say(4, f"{here.request} was tried again after it had been refused for good")

    # Operations

    def _check_operation(self, number: int, result: OpResult) -> None:
        run, op = self.run, result.op
        name = f"operation {number} ({op.kind})"
        if result.ended is None:
            self._say(6, f"{name} never returned")
            return
        if result.cancelled_at is not None and result.ended.time - result.cancelled_at > ROUNDING:
            self._say(6, f"{name} returned {result.ended.time - result.cancelled_at:.3f} s after it was cancelled")
        assert run.exited is not None
        assert result.started is not None
        late = result.ended.time - max(run.exited.time, result.started.time)
        if late > ROUNDING and not op.pause and not op.trickle:
            self._say(6, f"{name} returned {late:.3f} s after the session's end")
        if isinstance(result.error, SessionClosed):
            if run.body_ended is None or run.body_ended.order > result.ended.order:
                self._say(1, f"{name} raised {result.error!r} though the session was open")
            return
        for position, outcome in result.outcomes:
            self._check_place(name, number, position, outcome)
        if op.kind is Kind.CANCEL:
            self._check_returned(name, number, result)
        if not result.cancelled and not run.hung:
            self._check_account(name, result)
        if op.kind is Kind.STREAM:
            self._check_stream(name, number, result)
        for stamp, report in result.reports:
            last = stamp is result.reports[-1][0] and len(result.reports) > 1
            if [outcome.request for outcome in report.outcomes] != result.requests:
                self._say(1, f"{name}: its report does not account for its input")
                continue
            for position, outcome in enumerate(report.outcomes):
                if outcome.final:
                    self._check_place(name, number, position, outcome)
                elif last:
                    self._say(1, f"{name}: {outcome} is not final after the end")
                elif isinstance(outcome, NotSent) and self._place(number, position).complete_by(stamp):
                    self._say(3, f"{name}: {outcome} though a frame had gone out whole")
        if len(result.reports) > 1:
            for before, after in zip(result.reports[0][1].outcomes, result.reports[-1][1].outcomes, strict=True):
                if before.final and _gist(before) != _gist(after):
                    self._say(1, f"{name}: {before} was final and became {after}")

    def _place(self, number: int, position: int) -> Place:
        request = self.run.results[number].requests[position]
        if self.run.results[number].op.kind is not Kind.STREAM:
            position = self.run.results[number].requests.index(request)
        return self.truth.places.get((number, position)) or Place(request, [], [], [], {})

    def _settled(self, number: int, position: int) -> Stamp | None:
        result = self.run.results[number]
        if result.op.kind is not Kind.STREAM:
            position = result.requests.index(result.requests[position])
        stamps = self.run.settled.get((number, position))
        return stamps[0] if stamps else None

    def _check_returned(self, name: str, number: int, result: OpResult) -> None:
        told = self.run.delivered.get((number, 0))
        if result.order is not None:
            if not isinstance(told, Canceled) or told.order != result.order:
                self._say(2, f"{name} returned {result.order}, and its outcome is {told}")
            else:
                self._check_place(name, number, 0, told)
        elif result.outcomes and result.outcomes[0][1] != told:
            self._say(1, f"{name} raised {result.outcomes[0][1]}, and its outcome is {told}")

    def _check_account(self, name: str, result: OpResult) -> None:
        told = [position for position, _ in result.outcomes]
        match result.op.kind:
            case Kind.TRY:
                whole = told == [0]
            case Kind.CANCEL:
                whole = told == [0] or result.order is not None
            case Kind.MANY:
                whole = [outcome.request for _, outcome in result.outcomes] == result.requests
            case Kind.STREAM:
                whole = not result.whole or sorted(told) == list(range(len(result.requests)))
            case Kind.BATCH:
                whole = bool(result.reports)
        if not whole:
            self._say(1, f"{name} does not account for its input: {told} of {len(result.requests)}")

    def _check_stream(self, name: str, number: int, result: OpResult) -> None:
        told = Counter(position for position, _ in result.outcomes)
        if any(count > 1 for count in told.values()):
            self._say(1, f"{name} told an outcome twice")
        if result.unsettled is None or result.ended is None:
            return
        named = Counter(map(id, result.unsettled))
        for position, request in enumerate(result.requests):
            written = self._place(number, position).complete_by(result.ended)
            settled = self.run.settled.get((number, position))
            waiting = settled is None or settled[0].order > result.ended.order
            if written and not told[position] and waiting and not named[id(request)]:
                self._say(1, f"{name} lost {request}: written, and neither told nor named as unsettled")

    # Outcomes

    def _check_place(self, name: str, number: int, position: int, outcome: Outcome) -> None:
        place = self._place(number, position)
        settled = self._settled(number, position)
        result = self.run.results[number]
        assert result.ended is not None
        at = settled or result.ended
        who = f"{name} {outcome.request}: {outcome.kind}"
        if settled is None and place.sent:
            self._say(1, f"{who} was told and never settled")
        self._check_kind(who, place, at, outcome)
        self._check_book(who, result, place, at, outcome)
        self._check_belief(who, place, at, outcome)
        self._check_attempts(who, place, at, outcome)
        self._check_time(who, result, place, at, outcome)
        text = repr(outcome)
        if CREDENTIALS.api_secret in text or CREDENTIALS.api_token in text:
            self._say(10, f"{who}: a secret in {text}")

    def _check_kind(self, who: str, place: Place, at: Stamp, outcome: Outcome) -> None:
        answers = place.answers_by(at)
        said = {answer.says: answer for answer in reversed(answers)}
        match outcome:
            case Canceled():
                if (answer := said.get(Says.CANCELED)) is None:
                    self._say(2, f"{who}, and no answer on its connection said so")
                else:
                    self._check_canceled(who, place, answer.request_id, answer.document, outcome)
                    self._check_after(who, place, at, answer.request_id, outcome)
            case AlreadyClosed(order=order) if order is not None and Says.CLOSED not in said:
                if place.doubtful_at(at) and not outcome.after_unanswered:
                    self._say(4, f"{who} by a lookup after unanswered attempts, and does not say so")
            case AlreadyClosed() | NotFound():
                says = Says.CLOSED if isinstance(outcome, AlreadyClosed) else Says.NOT_FOUND
                if (answer := said.get(says)) is None:
                    self._say(4, f"{who}, and no answer on its connection said so")
                else:
                    code = place.records[answer.request_id].error_code
                    if code not in (CLOSED_AS if says is Says.CLOSED else NOT_FOUND):
                        self._say(4, f"{who}, and the venue's verdict was {code}")
                    elif isinstance(outcome, AlreadyClosed):
                        self._check_closed(who, place, answer.request_id, code, outcome)
                    self._check_after(who, place, at, answer.request_id, outcome)
            case Rejected():
                if may_have_applied := place.doubtful_at(at):
                    self._say(4, f"{who} with {len(may_have_applied)} attempts unanswered or answered 5xx")
                if not any(answer.says.clean for answer in answers):
                    self._say(4, f"{who}, and no answer refused it")
            case NotSent():
                if place.sent:
                    self._say(3, f"{who}, and {place.sent[0].request_id} went out whole")
                if place.records:
                    self._say(3, f"{who}, and the venue has {list(place.records)}")
            case Unknown():
                if not place.ids:
                    self._say(5, f"{who}, and nothing was ever written")

    def _check_book(self, who: str, result: OpResult, place: Place, at: Stamp, outcome: Outcome) -> None:
        """What it says of the order is true, and stays so."""
        run = self.run
        applied = [request_id for request_id, record in place.records.items() if record.applied_at is not None]
        if outcome.off_book is False and applied:
            self._say(12, f"{who}, and the venue applied {applied}")
        assert result.started is not None
        since = min((run.offered[request_id].time for request_id in place.ids), default=result.started.time)
        skew = run.scenario.skew
        since_ms, until_ms = (int(1000 * (run.began + time)) + skew for time in (since, at.time))
        said = check_truth(run.orders.values(), run.told, outcome, since_ms - unseen(skew), until_ms, at.time)
        self.found += [f"{text} ({who})" for text in said]

    def _check_closed(self, who: str, place: Place, request_id: str, code: int | None, outcome: AlreadyClosed) -> None:
        if outcome.order is None and outcome.closed_as != CLOSED_AS.get(code or 0):
            self._say(4, f"{who} as {outcome.closed_as}, and the venue's verdict was {code}")
        order_id = place.records[request_id].order_id
        book = self.run.orders[order_id] if order_id is not None else None
        true = {"canceled": "canceled", "executed": "executed_completely"}
        if outcome.closed_as is not None and (book is None or book.status != true[outcome.closed_as]):
            self._say(4, f"{who} as {outcome.closed_as}, and on the book it is {book}")

    def _check_canceled(self, who: str, place: Place, request_id: str, document: object, outcome: Canceled) -> None:
        record = place.records.get(request_id)
        wire = next(sent.wire for sent in place.sent if sent.request_id == request_id)
        if record is None or record.applied_at is None:
            self._say(2, f"{who}, and the venue did not apply it")
        elif record.connection != self.run.wires[wire].venue_number:
            self._say(2, f"{who} by a request of connection {record.connection}")
        result = document["result"]  # type: ignore[index]  # it was classified
        order = outcome.order
        for name in NUMBERS:
            if getattr(order, name) != amount(result.get(name)):
                self._say(2, f"{who}: {name} is {getattr(order, name)}, and the answer said {result.get(name)}")
        book = self.run.orders[record.order_id] if record is not None and record.order_id is not None else None
        executed = order.executed_amount
        if book is None or book.status != "canceled" or executed not in (None, book.executed_amount):
            self._say(2, f"{who}: {order}, and on the book it is {book}")

    def _check_after(self, who: str, place: Place, at: Stamp, request_id: str, outcome: Outcome) -> None:
        may_have_applied = place.doubtful_at(at, but=request_id)
        begun = [other for other in place.ids if other != request_id]
        if may_have_applied and not outcome.after_unanswered:
            self._say(4, f"{who} after {len(may_have_applied)} unanswered attempts, and does not say so")
        if outcome.after_unanswered and not begun:
            self._say(4, f"{who} says that an attempt was unanswered, and there was no other")

    def _completes_closed(self) -> bool:
        """Whether what is closed is looked up for how much of it was executed."""
        lookup = self.run.scenario.lookup
        return lookup is not None and lookup.closed_too

    def _check_belief(self, who: str, place: Place, at: Stamp, outcome: Outcome) -> None:
        """The first clear answer that was read before the order settled must be its outcome."""
        for answer in place.answers:
            if answer.at.time >= at.time:
                break
            if answer.optional:
                continue
            if answer.says is Says.NOT_FOUND and self.run.scenario.lookup is not None:
                continue  # it is looked up, and perhaps canceled again
            if answer.says is Says.CLOSED and outcome.kind == "canceled" and self._completes_closed():
                continue  # while that was completed by a lookup, an earlier attempt of ours was answered
            if answer.says.settles:
                expected = DEFINITE.get(answer.says, "unknown")
                asked = next(sent.asked for sent in place.sent if sent.request_id == answer.request_id)
                if answer.says is Says.CLOSED and asked != place.request and outcome.kind == "unknown":
                    return  # the id was a lookup's: it may be of an older order of the name
                if outcome.kind != expected:
                    self._say(5, f"{who}, and {answer.request_id} had been answered {answer.says.value}")
                return

    def _check_attempts(self, who: str, place: Place, at: Stamp, outcome: Outcome) -> None:
        told = [attempt.request_id for attempt in outcome.attempts]
        complete = [sent.request_id for sent in place.complete_by(at)]
        if len(set(told)) != len(told):
            self._say(7, f"{who} names an attempt twice")
        if missing := [request_id for request_id in complete if request_id not in told]:
            self._say(7, f"{who} does not name its attempts {missing}")
        if stranger := [request_id for request_id in told if request_id not in place.ids]:
            self._say(7, f"{who} names attempts of others {stranger}")
        by_id = {answer.request_id: answer for answer in place.answers_by(at)}
        for attempt in outcome.attempts:
            answer = by_id.get(attempt.request_id)
            if attempt.answered_at is not None and (answer is None or answer.status != attempt.status):
                self._say(2, f"{who}: {attempt}, and the wire has {answer}")
            due = answer is not None and answer.at.time < at.time and not answer.optional
            if attempt.answered_at is None and due:
                self._say(5, f"{who}: {attempt}, and the wire has {answer}")

    def _check_time(self, who: str, result: OpResult, place: Place, at: Stamp, outcome: Outcome) -> None:
        """Not too late, and not given up too early."""
        scenario, run = self.run.scenario, self.run
        self._check_silence(who, result, place, at, outcome)
        began = min((run.offered[request_id].time for request_id in place.ids), default=None)
        if began is None:
            return
        once = not scenario.retry and not self._looks
        bound = min(scenario.give_up_after, scenario.reply_timeout) if once else scenario.give_up_after
        if at.time - self._extra(at) > began + bound + BOUND and not self._paced and not result.cancelled:
            self._say(6, f"{who} {at.time - began:.3f} s after its first write, with {bound} s allowed")
        gone = result.cancelled or run.failed or result.op.leave_after is not None or run.hung
        if gone or (run.body_ended is not None and at.order > run.body_ended.order) or not isinstance(outcome, Unknown):
            return
        refused = any(answer.says in FOR_GOOD for answer in place.answers)
        if refused or isinstance(outcome.cause, HandshakeFailed):
            return
        if at.time >= self._heard(result, at) + scenario.give_up_after - ROUNDING:
            return
        if self._looks and self._longest_silence(result, at) >= scenario.give_up_after - ROUNDING:
            return  # it was given up in a silence, and looked up while the venue came back
        if scenario.retry and at.time < began + scenario.give_up_after - ROUNDING:
            self._say(6, f"{who} was given up {at.time - began:.3f} s after its first write")
        answered = bool(place.answers_by(at))
        early = at.time < began + min(scenario.reply_timeout, scenario.give_up_after) - ROUNDING
        if not scenario.retry and early and not answered and not isinstance(outcome.cause, ConnectionLost):
            self._say(6, f"{who} was given up {at.time - began:.3f} s after its only write")

    def _extra(self, at: Stamp) -> float:
        """Return the seconds that lookups may add to what settles then: more if their source goes on answering."""
        if not self._looks:
            return 0.0
        answered = self.run.lookups_answered
        index = bisect_right(answered, at.time + ROUNDING)
        goes_on = index and at.time - answered[index - 1] <= 2 * BUDGET + ROUNDING
        return math.inf if goes_on else BUDGET

    def _heard(self, result: OpResult, at: Stamp, *, surely: bool = True) -> float:
        """Return the later of an operation's call and the last sign of life before ``at``.

        Args:
            result: the operation.
            at: when.
            surely: False counts what may be a sign of life, too.
        """
        assert result.started is not None
        signs = self._sure_signs if surely else self._signs
        index = bisect_right(signs, at.time + ROUNDING)
        return max(result.started.time, signs[index - 1]) if index else result.started.time

    def _longest_silence(self, result: OpResult, at: Stamp) -> float:
        """Return the seconds of the longest time without a sign of life between an operation's call and ``at``."""
        assert result.started is not None
        begun = result.started.time
        moments = [begun, *(sign for sign in self._sure_signs if begun < sign < at.time), at.time]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    def _check_silence(self, who: str, result: OpResult, place: Place, at: Stamp, outcome: Outcome) -> None:
        """A venue that gives no sign of life ends every order in time, and refuses none untried before."""
        run, op = self.run, result.op
        allowed = run.scenario.give_up_after
        if result.cancelled or op.trickle or op.pause or (not place.ids and not isinstance(outcome, NotSent)):
            return
        late = at.time - self._heard(result, at, surely=False)
        slowly = self._slowly or self._held_back
        if late - self._extra(at) > allowed + SILENCE_BOUND and not slowly:
            self._say(6, f"{who} {late:.3f} s after its call and the last sign of life, with {allowed} s allowed")
        gone = run.failed or op.leave_after is not None or run.hung
        if gone or (run.body_ended is not None and at.order > run.body_ended.order):
            return
        # When it was given up is not on record for what was never written: it must have been in some silence.
        longest = self._longest_silence(result, at)
        again = run.scenario.retry or not place.ids  # else it ends with its one write that broke
        # A write that was begun starts the order's own clock, though no whole frame of it came out.
        tried = min((run.offered[request_id].time for request_id in place.ids), default=at.time)
        longest = max(longest, at.time - tried)
        if isinstance(outcome, NotSent) and again and longest < allowed - ROUNDING:
            self._say(6, f"{who} after a silence of {longest:.3f} s, with {allowed} s allowed")


def _of_signature(answer: Answer) -> bool:
    """Whether a refusal may be one of the signature or its timestamp."""
    error = answer.document.get("error")
    return answer.status == 401 or (isinstance(error, dict) and error.get("error_code") == 40011)


def _gist(outcome: Outcome) -> tuple[object, ...]:
    """What makes two outcomes the same; causes are exceptions, which are equal to nothing but themselves."""
    return outcome.kind, outcome.request, outcome.attempts, outcome.error, outcome.after_unanswered, outcome.final
