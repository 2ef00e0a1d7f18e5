"""A journal of what was held, intended, tried and settled, so that a crash forgets no order.

One task writes. It gathers what has come up since its last transaction, commits it, and tells those who wait. A thread
waits for a disk; for a database the task waits itself, since a thread would cost as much as the commit. Others wait for
three things: an intent (before its request's first byte is written), a hold (before its order is placed) and, in
``keep``, the release of an order that is to stay. A release by ``discard`` is written at once and not waited for.
Attempts, outcomes and the releases that result from them go along with the next transaction, at the latest after
``LAZY`` seconds.

A journal in a database, which others can take over, has a lease (``_journal.lease``). The task then commits at least as
often as the lease needs beats; a commit without rows is a beat. While the lease is uncertain new holds are refused, and
no cancel waits for its intent. A take-over is final: nothing more is written, :attr:`Journal.over` is set, and new
holds are refused with :class:`TakenOver`.

A journal must never block a kill switch: if it cannot write, or takes longer than ``PATIENCE``, that is logged at
ERROR, :attr:`Journal.failed` is true, new holds are refused, and cancels go on without it. What was not written is kept
and tried again; once all of it is written the journal works again. ``PATIENCE`` counts only while the event loop runs:
after the loop was blocked, or the process stopped, the task first looks at what the disk has done meanwhile.

The tasks that call :meth:`Journal.intend` and :meth:`Journal.hold` may be cancelled there: an intent is then written
all the same, a hold is released. The task itself is only cancelled when its last transaction takes too long
(``_journal.opening``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import trio

from trio_cancel._engine.order import LiveAttempt, OrderCancel, State
from trio_cancel._journal.lease import Guards, Lease, LeaseState, steady
from trio_cancel._journal.left import LeftBehind
from trio_cancel._journal.reading import DISMISSED
from trio_cancel._journal.rows import Changes, micros
from trio_cancel._journal.store import JournalStore
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import InvalidRequest, JournalError
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import logger
from trio_cancel._values.outcomes import Outcome
from trio_cancel._values.report import TakenOver

LAZY = 0.25
"""Seconds that an attempt, an outcome or a release may wait for other rows."""
PATIENCE = 3.0
"""Seconds that an intent, a hold or the release of an order that is kept waits for the disk or the database."""
INTENT_WITHIN = 1.0
"""Seconds that an intent waits for a database; it does not wait once the database does not answer, or the journal is
taken over."""
SLICE = 0.5
"""Seconds of patience that are counted together: if they took twice as long, the loop stood still, and not the disk."""
LATE_MOST = 20
"""Late slices after which that counts as the disk's fault all the same."""
RETRY = 1.0
"""Seconds until a failed transaction is tried again."""
SIGN_OF_LIFE = 300.0
"""Seconds of silence after which the session records that it lives; the age of external ids counts from then on."""
MOMENT = 0.001
"""Seconds by which a beat may be early."""
IN_LOOP_MOST = 2_000
"""Rows at most that the event loop commits in one transaction, if the store can do that: it takes a millisecond to make
a statement of so many."""
KEPT_MOST = 200_000
"""Rows that are kept while the journal cannot write; beyond them the oldest are dropped."""

RunSync = Callable[..., Awaitable[Any]]
"""Runs a function that blocks; if it is cancelled, the function is abandoned."""


class Journal:
    """Records holds, intents, attempts and outcomes; its task writes them in transactions. Made by ``open_journal``."""

    def __init__(
        self,
        path: str,
        store: JournalStore,
        run_sync: RunSync,
        wall: Callable[[], float],
        prefix: str,
        left: LeftBehind | None = None,
        clock: Callable[[], float] = steady,
    ) -> None:
        self.path = path
        self.left: LeftBehind = LeftBehind() if left is None else left
        self.failure: BaseException | None = None  # why it cannot write now
        self._unanswered: Iterable[LiveAttempt] = ()  # the attempts that can still be answered, as they come and go
        self._store = store
        self._run_sync = run_sync
        self._wall = wall
        self._number_at = len(prefix) + 1  # where the number begins in a request's id
        begun = store.begun
        self._session = begun.session
        self._first_attempt = begun.attempt
        self._next = begun.number
        self._clock = clock
        self._lease = None if begun.lease is None else Lease(begun.lease, begun.claimed_at)
        self._guards = Guards()
        self._asking_since: float | None = None  # trio's clock
        self._where = "disk" if self._lease is None else "database"
        self._retry = RETRY if self._lease is None else min(RETRY, self._lease.seconds / 6)
        self._noted_at = trio.current_time()  # when the session last noted that it lives
        self.over: trio.Event = trio.Event()  # set when the journal is another's
        self._durable = begun.number - 1  # every number up to here is on the disk
        self._gathered = 0  # counts transactions
        self._flushed = 0  # what was gathered up to this one is on the disk
        self._dropped = False
        self._held: dict[CancelRequest, int] = {}
        self._changes = Changes()
        self._written_until = -math.inf  # trio's clock when the last attempts were signed that were wholly written
        self._looked_until = -math.inf  # open attempts that are older have been recorded
        self._urgent = False  # somebody waits
        self._lazy = False  # the task knows that something lazy is there
        self._closing = False
        self._wakeup = Wakeup()
        self._turn = trio.Event()  # set, and replaced, when a transaction has ended
        self.ended: trio.Event = trio.Event()

    @property
    def failed(self) -> bool:
        """True if not everything is recorded."""
        return self.failure is not None or self._dropped

    @property
    def lease(self) -> LeaseState | None:
        """The state of the session's lease now; None if nobody can take the journal over."""
        return None if self._lease is None else self._lease.state(self._clock())

    @property
    def guarded(self) -> bool | None:
        """Whether a guard that can cancel what is held here watches; None if nobody can take the journal over."""
        return None if self._lease is None else self._guards.watch(self._clock())

    @property
    def has_lease(self) -> bool:
        """True if others can take the journal over."""
        return self._lease is not None

    @property
    def taken_over(self) -> TakenOver | None:
        """What to raise if the journal was taken over; None if it was not."""
        return TakenOver(str(self.failure)) if isinstance(self.failure, TakenOver) else None

    @property
    def asks_first(self) -> bool:
        """True if the lease has run out unnoticed and it is not known yet whether the journal was taken over.

        That happens when this process was stopped, or its machine suspended. What it was about to cancel may be
        a successor's new order by now. So a cancel waits for the database's answer, ``INTENT_WITHIN`` seconds at most.
        """
        if self._lease is None or self.failure is not None or self._is_sure():
            self._asking_since = None
            return False
        now = trio.current_time()
        if self._asking_since is None:
            self._asking_since = now
        return now - self._asking_since < INTENT_WITHIN

    def _is_sure(self) -> bool:
        return self.lease in (None, LeaseState.SURE)

    # For scopes

    async def hold(self, request: CancelRequest, clock: OffsetInterval | None = None) -> None:
        """Record that a scope holds an order, and return when that is durable. It replaces an older hold of the order.

        Args:
            request: the order.
            clock: the venue's clock minus ours, as far as it is known.

        Raises:
            JournalError: it cannot be recorded now. Do not place the order.
            TakenOver: the journal was taken over.

        Cancelled: the order is not held. Do not place it.
        """
        if self.failure is not None or not self._is_sure():
            self._refuse()
        older = self._held.get(request)
        number = self._next
        self._next = number + 1
        external = request.external_id is not None
        low, high = (None, None) if clock is None else (int(clock.low * 1000), int(clock.high * 1000))
        row = (number, self._session, int(external), request.key, micros(self._wall()), low, high)
        self._changes.holds.append(row)
        self._held[request] = number  # now, so that it can be released while it waits
        durable = False
        try:
            await self._until(lambda: self._durable >= number, PATIENCE, while_sure=True)
            if self._durable < number or not self._is_sure():
                self._refuse()
            durable = True
        finally:
            released = self._held.get(request) != number
            if not durable and not released:
                self._let_go(number)
                del self._held[request]
            if older is not None:
                if durable or released:
                    self._let_go(older)
                else:
                    self._held[request] = older

    def release(self, request: CancelRequest, *, at_once: bool = False) -> None:
        """Record that an order is not held any more; if it was not held, nothing happens.

        Args:
            request: the order.
            at_once: write it now instead of within ``LAZY`` seconds.
        """
        number = self._held.pop(request, None)
        if number is not None:
            self._let_go(number)
            if at_once:
                self._urgent = True
                self._wakeup.ring()

    async def flush(self) -> None:
        """Return when all releases so far are durable.

        Raises:
            JournalError: they cannot be recorded now; they will be once the journal can be written.
            TakenOver: the journal was taken over.

        Cancelled: they are recorded all the same.
        """
        gathered = self._gathered + 1
        if self.failure is None:
            await self._until(lambda: self._flushed >= gathered, PATIENCE)
        if (over := self.taken_over) is not None:
            raise over
        if self._flushed < gathered:
            raise JournalError(
                f"The journal {self.path} cannot be written ({self.failure}), so that it is not recorded yet that the "
                "order is held no more; if this process dies before it is, trio-cancel resume cancels the order."
            ) from self.failure

    def placed(self, request: CancelRequest, order_id: str | None) -> None:
        """Record soon that the venue has an order that is held, and its id if that is known."""
        number = self._held.get(request)
        if number is not None:
            self._changes.placed.append((number, micros(self._wall()), order_id))
            self._wake_lazily()

    def check_free(self, request: CancelRequest) -> None:
        """Refuse an external id of an order that was left behind and is neither settled nor dismissed.

        Raises:
            InvalidRequest: such an order exists.
        """
        if request.external_id is not None and self.left.get(request) is not None:
            raise InvalidRequest(
                f"{request} was left behind by a session before this one and may be on the book, so that this name "
                "cannot be held again yet: await ws.resume() first, or ws.dismiss(…) if it is to stay."
            )

    def ours(self, request: CancelRequest) -> None:
        """Note that this session holds an order, or has learned the venue's id of an order that it holds."""
        self.left.mark_ours(request)

    # For what was left

    def release_left(self, holds: Iterable[int]) -> None:
        """Record soon that holds of a dead process are released, by their numbers."""
        numbers = tuple(holds)
        for number in numbers:
            self._let_go(number)
        self.left.released(numbers)

    def settle_left(self, outcome: Outcome) -> None:
        """Record soon the outcome of an order that a dead process left."""
        number, self._next = self._next, self._next + 1
        at, request = micros(self._wall()), outcome.request
        code = None if outcome.error is None else outcome.error.error_code
        self._changes.intents.append((number, self._session, int(request.id is None), request.key, at))
        self._changes.outcomes.append((number, outcome.kind, at, code))
        self.left.settled(outcome)
        self._wake_lazily()

    async def dismiss(self, request: CancelRequest) -> None:
        """Record that an order that was left is not to be canceled any more; return when that is durable.

        Raises:
            InvalidRequest: it was not left, or is being canceled.
            JournalError: it cannot be recorded now; it will be once the journal can be written.

        Cancelled: it is recorded all the same.
        """
        order = self.left.get(request)
        if order is None:
            raise InvalidRequest(f"{request} is not in ws.left_behind (any more).")
        if request in self.left.under_way:
            raise InvalidRequest(f"{request} is being canceled by ws.resume(); it cannot be dismissed meanwhile.")
        self.left.drop(request)
        at = micros(self._wall())
        if order.unsettled:
            number, self._next = self._next, self._next + 1
            external = int(request.external_id is not None)
            self._changes.intents.append((number, self._session, external, request.key, at))
            self._changes.outcomes.append((number, DISMISSED, at, None))
        self.release_left(hold.number for hold in order.open_holds)
        await self.flush()

    # For the core

    async def intend(self, admitted: list[OrderCancel]) -> None:
        """Record that these orders are to be canceled; return when that is durable, or the journal has failed."""
        at = micros(self._wall())
        number = self._next
        session = self._session
        intents = self._changes.intents
        for order in admitted:
            if not order.intent:
                request = order.request
                if request.id is not None:
                    intents.append((number, session, 0, request.id, at))
                else:
                    intents.append((number, session, 1, request.key, at))
                order.intent = number
                number += 1
        if number > self._next:
            last, self._next = number - 1, number
        else:  # all of them were intended before
            last = max(order.intent for order in admitted)
        if self.failure is None:
            patience = PATIENCE if self._lease is None else INTENT_WITHIN
            await self._until(lambda: self._durable >= last, patience)
        if self._durable < last:
            for order in admitted:
                if order.intent > self._durable:
                    order.unrecorded = True

    def written(self, orders: list[OrderCancel], unanswered: Iterable[LiveAttempt]) -> None:
        """Note attempts that were written completely; those not answered soon are recorded as open."""
        self._unanswered = unanswered
        if orders:
            latest = orders[-1].latest
            assert latest is not None  # it was written
            self._written_until = latest.written
            self._wake_lazily()

    def retried(self, order: OrderCancel) -> None:
        """Note that an order will be tried again."""
        if order.latest is not None:
            self._add_attempts(order)
            self._wake_lazily()

    def settled(self, order: OrderCancel) -> None:
        """Note that an order has its outcome."""
        outcome = order.outcome
        if order.intent and outcome is not None:
            if self.left:
                self.left.settled(outcome)
            code = None if outcome.error is None else outcome.error.error_code
            flights = order.flights
            if outcome.off_book and len(flights) == 1 and flights[0].answered_at is not None:
                # The usual end: its answer, at the time of the answer, in one row.
                flight = flights[0]
                self._changes.answers.append(
                    (
                        self._first_attempt + int(flight.request_id[self._number_at :]),
                        order.intent,
                        flight.connection,
                        int(flight.written_at * 1_000_000),
                        int((flight.answered_at or self._wall()) * 1_000_000),
                        flight.status,
                        outcome.kind,
                        code,
                    )
                )
            else:
                self._changes.outcomes.append((order.intent, outcome.kind, micros(self._wall()), code))
                self._add_attempts(order)
            if not self._lazy:
                self._wake_lazily()

    def _add_attempts(self, order: OrderCancel) -> None:
        # As rows at once: orders kept until the next transaction would be work for the garbage collector.
        for flight in order.flights:
            answered = flight.answered_at
            self._changes.attempts.append(
                (
                    self._first_attempt + int(flight.request_id[self._number_at :]),
                    order.intent,
                    flight.connection,
                    int(flight.written_at * 1_000_000),
                    None if answered is None else int(answered * 1_000_000),
                    flight.status,
                )
            )

    # Waiting

    def _wake_lazily(self) -> None:
        if not self._lazy:
            self._lazy = True
            self._wakeup.ring()

    async def _until(self, is_durable: Callable[[], bool], seconds: float, *, while_sure: bool = False) -> None:
        """Return when something is durable, or the journal has failed.

        Args:
            is_durable: returns True if it is durable.
            seconds: after which the journal has failed.
            while_sure: return also when the lease is not sure any more.
        """
        patience, late = seconds, 0
        while self.failure is None and not is_durable() and (self._is_sure() or not while_sure):
            if patience <= 0 or late > LATE_MOST:
                for _ in range(3):  # for what has come meanwhile: the thread's result, the task's step, ours
                    await trio.lowlevel.checkpoint()
                if is_durable():
                    return
                self._fail(TimeoutError(f"the {self._where} took longer than {seconds:g} s"))
                return
            self._urgent = True
            self._wakeup.ring()
            began = trio.current_time()
            with trio.move_on_after(SLICE):
                await self._turn.wait()
            took = trio.current_time() - began
            if took < 2 * SLICE:
                patience -= took
            else:  # the loop stood still: a transaction may just have ended
                late += 1

    def _refuse(self) -> None:
        if (over := self.taken_over) is not None:
            raise over
        if self.failure is None:
            raise JournalError(
                f"The journal {self.path} may be another session's by now: the database has not confirmed for too long "
                "that it is this one's, so that no new order can be held; do not place it. Cancels go on."
            )
        raise JournalError(
            f"The journal {self.path} cannot be written ({self.failure}), so that no new order can be held; "
            "do not place it. Cancels go on."
        ) from self.failure

    def _let_go(self, number: int) -> None:
        self._changes.releases.append((number, micros(self._wall())))
        self._wake_lazily()

    # The task

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Write until the block ends. Whatever goes wrong here fails the journal, not the session."""
        try:
            try:
                closing = False
                while not closing:
                    await self._wait()
                    closing = self._closing
                    if self.over.is_set():
                        self._changes, self._lazy = Changes(), False
                    else:
                        await self._commit()
            except Exception as error:
                self._fail(error)
            await self._run_sync(self._store.close)
        except Exception as error:
            log(logging.ERROR, "the journal %s could not be closed: %s", self.path, error)
        finally:
            self.ended.set()

    def close(self) -> None:
        """Let the task write what is left, and end."""
        self._closing = True
        self._wakeup.ring()

    async def _wait(self) -> None:
        """Wait until there is something to write."""
        if self.over.is_set():
            await self._wakeup.wait()
            return
        if self.failure is not None:
            with trio.move_on_after(self._retry):
                while not self._closing:
                    await self._wakeup.wait()
            return
        if not self._lazy and not self._urgent and not self._closing:
            silent = SIGN_OF_LIFE if self._lease is None else max(0.0, self._lease.beat_at - self._clock())
            with trio.move_on_after(silent) as silence:
                await self._wakeup.wait()
            if silence.cancelled_caught:
                if self._lease is None or trio.current_time() - self._noted_at >= SIGN_OF_LIFE:
                    self._noted_at = trio.current_time()
                    self._changes.alive = micros(self._wall())
                return
        with trio.move_on_after(LAZY):
            while not self._urgent and not self._closing:
                await self._wakeup.wait()

    async def _commit(self) -> None:
        up_to = self._next - 1
        changes = self._gather()
        self._gathered = gathered = self._gathered + 1
        error: Exception | None = None
        lease, sent_at = self._lease, self._clock()
        beats = lease is not None and (self.failure is not None or sent_at >= lease.beat_at - MOMENT)
        if changes or beats:
            if lease is not None:
                lease.sending(sent_at)
            try:
                guards = await self._write(changes)
            except TakenOver as caught:
                self._end(caught)
                return
            except Exception as caught:  # whatever it is, no cancel must fail because of it
                error = caught
            if error is None and lease is not None:
                lease.confirmed(sent_at)  # the time before it was sent: a guard has seen it later
                self._guards.saw(guards, self._clock())
        if error is None:
            self._durable = up_to
            self._flushed = gathered
            if self.failure is not None:
                self.failure = None
                self._lazy = self._lazy or bool(self._changes)  # what came up meanwhile has rung for nobody
                log(logging.WARNING, "the journal %s can be written again", self.path)
        else:
            self._keep(changes)
            self._fail(error)
        self._tell()

    async def _write(self, changes: Changes) -> int | None:
        """Commit, in the event loop if the store can do that now."""
        if len(changes) <= IN_LOOP_MOST:
            with suppress(trio.WouldBlock):
                return await self._store.commit_in_loop(changes)
        guards: int | None = await self._run_sync(self._store.commit, changes)
        return guards

    def _gather(self) -> Changes:
        """Take all changes so far."""
        self._look_for_open()
        changes, self._changes = self._changes, Changes()
        self._urgent = False
        self._lazy = self._looked_until < self._written_until
        if self._closing:
            changes.closed = micros(self._wall())
        return changes

    def _look_for_open(self) -> None:
        """Record each attempt that was written some time ago and is not answered, once."""
        before = self._written_until
        if not self._closing:
            before = min(before, trio.current_time() - LAZY)
        if before > self._looked_until:
            for flight in self._unanswered:  # in the order of their writes
                if flight.written > before:
                    break
                order = flight.order
                if flight.written > self._looked_until and order.state is State.IN_FLIGHT:
                    self._add_attempts(order)
            self._looked_until = before

    def _keep(self, changes: Changes) -> None:
        """Keep what could not be written for the next try, up to a limit."""
        self._changes = kept = changes.before(self._changes)
        if len(kept) > KEPT_MOST:
            self._dropped = True
            for rows in (kept.attempts, kept.outcomes, kept.answers, kept.intents):
                del rows[: len(rows) // 2]

    def _fail(self, error: BaseException) -> None:
        known, self.failure = self.failure, error
        self._tell()
        if known is None:
            text = "the journal %s cannot be written (%s): cancels go on unrecorded, new holds are refused"
            log(logging.ERROR, text, self.path, error)

    def _end(self, error: TakenOver) -> None:
        """Note that the journal was taken over, for good."""
        assert self._lease is not None
        self._lease.lost()
        self.failure = error
        log(logging.ERROR, "%s", error)
        self.over.set()
        self._tell()

    def _tell(self) -> None:
        self._turn.set()
        self._turn = trio.Event()


def log(level: int, text: str, *arguments: object) -> None:
    """Log; a handler that raises must not stop a cancel."""
    with suppress(Exception):
        logger.log(level, text, *arguments)
