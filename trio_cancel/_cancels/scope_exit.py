"""The end of an order scope: cancel what it held, within its grace, and report what happened to it.

It runs as a task of the session: shielded, protected from KeyboardInterrupt, out of the reach of whatever ended the
scope's block. It owns the orders' outcomes. The engine sends them into its channel, which it empties before it
concludes, so that none is lost however it ends: with the last outcome, at the end of the grace, early by a second
Ctrl-C, or with the session. ``cancel_all`` is the same, while its scope stays open.

A yes for an external id may be about an older order of that name while the create of ours is still on its way. The
order is asked for again as long as one that is not found, unless the yes is certainly about ours (``_engine.held``) or
the venue had ours before it was asked.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

import attrs
import msgspec
import trio

from trio_cancel._engine.engine import Engine
from trio_cancel._engine.held import Hold
from trio_cancel._engine.lookup_progress import BUDGET
from trio_cancel._engine.order import OrderCancel, RetryPolicy, State
from trio_cancel._values.errors import NoReply, NotWritten, UnlistedRefusal
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import (
    AlreadyClosed,
    Canceled,
    NotFound,
    NotSent,
    Outcome,
    Rejected,
    Unknown,
    not_surely,
)

SLICE = 500
"""Orders that are handed in, or concluded, in one step at most."""
AGAIN_FIRST, AGAIN_MOST = 0.25, 1.0
"""Seconds until the first and the last repetition for an order that the venue does not know yet, or that an answer left
unknown or not certainly closed."""


class ScopeExit:
    """Cancels what a scope held, in a task of the session."""

    def __init__(
        self,
        engine: Engine,
        policy: RetryPolicy,
        holds: Iterable[Hold],
        *,
        grace: float,
        settle: float,
        take_in: Callable[[], Awaitable[None]],
        concluded: Callable[[tuple[Outcome, ...]], None],
    ) -> None:
        self.early = trio.CancelScope()  # to be cancelled to end the grace at once
        self.done = trio.Event()  # set when there is nothing more to wait for
        now = trio.current_time()
        self._engine = engine
        self._policy = attrs.evolve(policy, reply_timeout=min(policy.reply_timeout, grace / 3), retry=True)
        self._ends_at = now + grace
        self._creates_until = now + settle  # until then, a create that was under way may arrive
        self._slept = engine.slept
        self._take_in = take_in
        # Orders without an answer by then are looked up in the rest of the grace.
        self._for_lookups = min(BUDGET, grace / 4) if engine.has_lookups else 0.0
        self._concluded = concluded
        self._outcomes: dict[Hold, Outcome | None] = dict.fromkeys(holds)
        self._holds = list(self._outcomes)
        self._under_way: dict[Hold, OrderCancel] = {}
        self._send, self._receive = trio.open_memory_channel[OrderCancel](max(1, len(self._holds)))
        self._again: list[tuple[float, int, int]] = []  # a heap: when to ask again
        self._waits: dict[Hold, float] = {}
        self._surely: dict[Hold, Outcome] = {}  # off the book, and not another order of that name: the yes for each
        self._asked = 0  # breaks ties, so that equal times keep their order
        # Cancels other than ours, by order, and after how many writes that was looked up.
        self._others: dict[CancelRequest, list[OrderCancel]] = {}
        self._others_at = -1

    async def run(self) -> None:
        """Cancel everything, and conclude. If cancelled, it concludes at once with what is known."""
        try:
            with self.early:
                for place in range(len(self._holds)):
                    self._submit(place)
                    if place % SLICE == SLICE - 1 and trio.current_time() < self._ends_at:
                        await trio.lowlevel.checkpoint()
                while self._under_way or self._again:
                    with trio.move_on_at(min(self._ends_at, self._again[0][0] if self._again else math.inf)):
                        self._take(await self._receive.receive())
                        self._take_at_hand(SLICE)
                    self._awaken()
                    if trio.current_time() >= self._ends_at:
                        await self._take_in()  # an answer that is in the socket is not missing
                        break
                    while self._again and self._again[0][0] <= trio.current_time():
                        self._submit(heapq.heappop(self._again)[2])
        finally:
            try:
                with trio.CancelScope(shield=True):
                    while self._take_at_hand(SLICE):  # noqa: ASYNC110, RUF100 - turns, not a wait
                        await trio.lowlevel.checkpoint()
                    while self._under_way:
                        self._conclude_some()
                        await trio.lowlevel.checkpoint()
                self._conclude()
            finally:
                self.done.set()

    def _awaken(self) -> None:
        """Count time for which the machine was suspended: the grace continues during it."""
        self._engine.awaken(trio.current_time())
        slept = self._engine.slept - self._slept
        self._slept += slept
        self._ends_at -= slept
        self._creates_until -= slept

    def give_up(self) -> None:
        """Conclude without waiting: the session has been ended."""
        for place in range(len(self._holds)):
            self._submit(place)  # it settles at once
        self._take_at_hand(len(self._holds))
        self._conclude()
        self.done.set()

    def found(self, hold: Hold, outcome: Outcome) -> None:
        """Note that a cancel, perhaps not one of ours, certainly found an order of ours off the book."""
        if hold in self._outcomes:
            self._surely[hold] = outcome

    def _submit(self, place: int) -> None:
        hold = self._holds[place]
        now = trio.current_time()
        policy = attrs.evolve(self._policy, give_up_after=max(0.001, self._ends_at - self._for_lookups - now))
        # By the venue's id if that is known: no other order can have it.
        request = hold.order or hold.request
        self._under_way[hold] = turn = OrderCancel(request, policy, self._send, priority=True, place=place)
        self._engine.submit(turn, now)

    def _take_at_hand(self, most: int) -> bool:
        """Take in outcomes that are ready; return True if there may be more."""
        for _ in range(most):
            try:
                turn = self._receive.receive_nowait()
            except trio.WouldBlock:
                return False
            self._take(turn)
        return True

    def _take(self, turn: OrderCancel) -> None:
        """Take in an outcome; ask again if that can still change it."""
        hold = self._holds[turn.place]
        if self._under_way.get(hold) is not turn:
            return  # reported as it was; an observer of the session learns what happened to it
        del self._under_way[hold]
        if turn.result.off_book and self._is_sure(turn, turn.result):
            self._surely[hold] = turn.result
        outcome = self._outcomes[hold] = self._read(turn, turn.result)
        self._awaken()
        now = trio.current_time()
        until = self._ask_until(hold, outcome)
        if now < until:
            wait = self._waits.get(hold, AGAIN_FIRST)
            self._waits[hold] = min(AGAIN_MOST, 2 * wait)
            self._asked += 1
            heapq.heappush(self._again, (min(now + wait, until), self._asked, turn.place))

    def _is_sure(self, turn: OrderCancel, outcome: Outcome) -> bool:
        """Return True if a yes is about this very order."""
        hold = self._holds[turn.place]
        if hold.is_meant_by(outcome, self._engine.clock.interval):
            return True
        # If the venue had it before it was asked, no older order has its name any more.
        return hold.order is None and hold.placed_at is not None and turn.flights[0].written >= hold.placed_at

    def _read(self, turn: OrderCancel, outcome: Outcome) -> Outcome:
        """Read an outcome together with earlier ones, and with other cancels of the order that may have worked."""
        hold = self._holds[turn.place]
        if outcome.request is not hold.request:  # it was requested by the venue's id
            outcome = msgspec.structs.replace(outcome, request=hold.request)
        outcome = together(self._outcomes[hold], outcome, surely=hold in self._surely)
        if not isinstance(outcome, Rejected | NotSent):
            return outcome
        if hold.request not in self._engine.holds.may_have_applied and not self._is_asked_elsewhere(turn):
            return outcome
        cause = NoReply("an earlier cancel of it was not answered, and this one was refused or not sent")
        return Unknown(hold.request, outcome.attempts, error=outcome.error, after_unanswered=True, cause=cause)

    def _is_asked_elsewhere(self, turn: OrderCancel) -> bool:
        """Return True if another cancel of the order is under way and has been written."""
        signed = self._engine.signed
        if signed != self._others_at:
            # Checked once for all that end together: checking everything for each would hold up the loop.
            self._others_at = signed
            self._others = {}
            for other in self._engine.under_way():
                self._others.setdefault(other.request, []).append(other)
        hold = self._holds[turn.place]
        names = (hold.request,) if hold.order is None else (hold.request, hold.order)
        others = [other for name in names for other in self._others.get(name, ()) if other is not turn]
        return any(other.flights and other.state is not State.SETTLED for other in others)

    def _ask_until(self, hold: Hold, outcome: Outcome) -> float:
        """Return until when the same question may get another answer."""
        if self._engine.stopped is not None or hold in self._surely:
            return -math.inf
        if isinstance(outcome, NotFound) and hold.placed_at is None:
            return self._creates_until  # its create may still be on the way
        if outcome.off_book:
            return self._creates_until  # for the same reason: it may have been an older order of this name
        if isinstance(outcome, Unknown) and not isinstance(outcome.cause, UnlistedRefusal):
            return self._ends_at  # an answer that says nothing: if the cancel was applied, the next one says so
        return -math.inf

    def _conclude_some(self) -> None:
        """Conclude some of the orders without an outcome."""
        engine = self._engine
        over = NoReply("no answer came before the scope's grace was over")
        for hold, turn in list(islice(self._under_way.items(), SLICE)):
            del self._under_way[hold]
            why = over if turn.flights else engine.why_not_written("the scope's grace was over before its turn came")
            self._outcomes[hold] = self._read(turn, turn.conclude(why, engine.clock.interval))
            engine.abandon(turn)

    def _conclude(self) -> None:
        while self._under_way:
            self._conclude_some()
        self._again.clear()
        self._concluded(tuple(self._final(hold, outcome) for hold, outcome in self._outcomes.items()))

    def _final(self, hold: Hold, outcome: Outcome | None) -> Outcome:
        if hold in self._surely and (outcome is None or not outcome.off_book):
            return msgspec.structs.replace(self._surely[hold], request=hold.request)
        if outcome is None:
            return NotSent(hold.request, cause=NotWritten("the scope's grace was over before its turn came"))
        if isinstance(outcome, Canceled | AlreadyClosed) and hold not in self._surely:
            return not_surely(outcome)
        return outcome


def together(before: Outcome | None, after: Outcome, *, surely: bool) -> Outcome:
    """Read an order's next outcome together with what earlier cancels, which did not settle it, came to.

    A yes before may be about an older order of the name; ``surely``, the next one is a yes about this very order.
    """
    if before is None:
        return after
    attempts = before.attempts + after.attempts
    unsure = before.after_unanswered or after.after_unanswered or isinstance(before, Unknown)
    unrecorded = before.unrecorded or after.unrecorded
    if isinstance(after, NotSent):
        return msgspec.structs.replace(before, attempts=attempts)
    if before.off_book and not surely and not isinstance(after, Canceled | NotFound):
        # It says less than the one before: a name that was closed is still closed, or there was no answer.
        unsure = unsure or isinstance(after, Unknown)
        return msgspec.structs.replace(before, attempts=attempts, after_unanswered=unsure, unrecorded=unrecorded)
    if isinstance(after, Rejected) and unsure:
        cause = NoReply("an earlier attempt was not answered")
        return Unknown(
            after.request, attempts, error=after.error, after_unanswered=True, unrecorded=unrecorded, cause=cause
        )
    return msgspec.structs.replace(after, attempts=attempts, after_unanswered=unsure, unrecorded=unrecorded)
