"""Order scopes: no order that was added outlives its block, or you are told.

The block's task owns what is held; an outcome that is surely off the book takes its order out. On leaving, a drain runs
as a task of the session (shielded, protected from KeyboardInterrupt), so that whatever ended the block cannot end it;
the block's task only waits for it. The drain ends when every order has its outcome or ``grace`` is over, or early when
a second Ctrl-C says so; what it did not settle is Unknown or NotSent in the report.

A client-side scope cannot help when the power fails or the network is gone: then the orders stay on the book, and you
learn it only if somebody is left to be told. What can is a venue's own cancel-on-disconnect, which this venue does not
document.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Protocol, Self

import attrs
import trio

from trio_cancel._errors import InvalidRequest, NoReply, NotWritten, OrdersLeft, SessionClosed
from trio_cancel._models import CancelRequest
from trio_cancel._observer import logger
from trio_cancel._outcomes import CancelReport, NotFound, NotSent, Outcome, Rejected, Unknown, describe_left
from trio_cancel._pending import Pending, Terms
from trio_cancel._session import Session, SessionState

NOT_FOUND_FIRST, NOT_FOUND_MOST = 0.25, 1.0
"""Seconds until the first and the last repetition for an order that the venue does not know yet."""

drains: trio.lowlevel.RunVar[set[trio.CancelScope]] = trio.lowlevel.RunVar("trio_cancel.drains")
"""The drains that are running, for ``cancel_on_signals`` to end early."""


class HoldLog(Protocol):
    """Where holds are made durable."""

    @property
    def failed(self) -> bool:
        """True if it does not record all of it."""

    async def hold(self, request: CancelRequest) -> None:
        """Return when the hold is durable; raise JournalError if it cannot be."""

    def release(self, request: CancelRequest) -> None:
        """Note that the order is held no more."""


class _Held(Pending):
    """One order of a drain."""

    urgent = True

    def __init__(
        self, request: CancelRequest, terms: Terms, now: float, channel: trio.MemorySendChannel[_Held]
    ) -> None:
        super().__init__(request, terms, now)
        self._channel = channel

    def deliver(self) -> None:
        self._channel.send_nowait(self)


class OrderScope:
    """Orders that must not outlive a block. Made by :meth:`TradingWS.open_order_scope`.

    Attributes:
        report: after the block: one outcome for every order that was still held when it was left; None before.
    """

    def __init__(self, session: Session, terms: Terms, grace: float, settle: float, journal: HoldLog | None) -> None:
        self.report: CancelReport | None = None
        self._session = session
        self._terms = attrs.evolve(
            terms, reply_timeout=min(terms.reply_timeout, grace / 3), give_up_after=grace, retry=True
        )
        self._grace = grace
        self._settle = settle
        self._journal = journal
        self._placed: dict[CancelRequest, bool] = {}  # what is held: does the venue surely have it?
        self._open = False

    def __len__(self) -> int:
        return len(self._placed)

    def __contains__(self, request: object) -> bool:
        return request in self._placed or (isinstance(request, str) and CancelRequest(request) in self._placed)

    @property
    def held(self) -> tuple[CancelRequest, ...]:
        """The orders that are held now."""
        return tuple(self._placed)

    async def add(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Hold an order: it will be canceled when the block is left. Add it before you place it.

        It returns once the hold is durable: at once without a journal, but always with a checkpoint.

        Args:
            id: the venue's order id, or a whole request.
            external_id: your own id of the order, instead.

        Raises:
            InvalidRequest: no usable id, or another scope holds the order.
            JournalError: the journal cannot record it. The order is not held: do not place it.
            SessionClosed: the block has been left.

        Cancelled: the order is not held: do not place it.
        """
        request = CancelRequest.of(id, external_id)
        self._check_open()
        self._session.check_open()
        holds = self._session.dispatcher.table.holds
        if (holder := holds.holder(request)) is not None and holder is not self:
            raise InvalidRequest(f"Another scope holds {request} already; an order belongs to one scope.")
        known = request in self._placed
        if not known:
            self._placed[request] = False
            holds.hold(request, self)
        durable = False
        try:
            if self._journal is not None and not known:
                await self._journal.hold(request)
            await trio.lowlevel.checkpoint()
            self._check_open()
            durable = True
        finally:
            if not durable and not known and request in self._placed:
                self._release(request)

    def discard(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Hold an order no more: it was filled, or you want it to stay.

        Raises:
            InvalidRequest: no usable id, or this scope does not hold the order (any more: an order that a cancel found
                off the book leaves by itself).
        """
        request = CancelRequest.of(id, external_id)
        self._check_held(request)
        self._release(request)

    def placed(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Say that the venue has the order, so that "not found" at the end is not taken for "not there yet".

        Raises:
            InvalidRequest: no usable id, or this scope does not hold the order.
        """
        request = CancelRequest.of(id, external_id)
        self._check_held(request)
        self._placed[request] = True

    async def __aenter__(self) -> Self:
        self._session.check_open()
        if self._open or self.report is not None:
            raise SessionClosed("An order scope is entered once; open another with ws.open_order_scope().")
        await trio.lowlevel.checkpoint()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interrupts = 0 if error is None or not _holds_kind(error, KeyboardInterrupt) else 1
        interrupt: KeyboardInterrupt | None = None
        self._open = False
        done = trio.Event()
        early = trio.CancelScope()
        with trio.CancelScope(shield=True):
            if self._session.state is SessionState.CLOSED:
                early.cancel()
                await self._drain(early, done)
            else:
                self._session.spawn(self._drain, early, done)
            while not done.is_set():
                try:
                    await done.wait()
                except KeyboardInterrupt as second:
                    # The first Ctrl-C asks for an orderly end, which this is; only a second one ends it early.
                    interrupts += 1
                    if interrupts > 1:
                        early.cancel()
                    else:
                        interrupt = second
        assert self.report is not None
        left = self.report.left
        text = describe_left(left) if left else ""
        if left:
            logger.error("order scope left: %s", text)
        if interrupt is not None:
            if left:
                interrupt.add_note(text)
            raise interrupt
        if left:
            if error is None:
                raise OrdersLeft(text, report=self.report)
            if _is_cancellation(error):
                raise OrdersLeft(text, report=self.report) from error
            error.add_note(text)

    def left_by_itself(self, request: CancelRequest) -> None:
        """Note that an outcome took the order off the book."""
        self._placed.pop(request, None)
        if self._journal is not None:
            self._journal.release(request)

    def _check_open(self) -> None:
        if not self._open:
            raise SessionClosed("This order scope is not open: its block has not begun or has been left.")

    def _check_held(self, request: CancelRequest) -> None:
        if request not in self._placed:
            raise InvalidRequest(f"This scope does not hold {request}.")

    def _release(self, request: CancelRequest) -> None:
        del self._placed[request]
        self._session.dispatcher.table.holds.release(request)
        if self._journal is not None:
            self._journal.release(request)

    async def _drain(self, early: trio.CancelScope, done: trio.Event) -> None:
        """Cancel everything that is held, and report; a task of the session."""
        now = trio.current_time()
        outcomes: dict[CancelRequest, Outcome | None] = dict.fromkeys(self._placed)
        placed = dict(self._placed)
        under_way: dict[CancelRequest, _Held] = {}
        running = drains.get(set())
        drains.set(running)
        running.add(early)
        try:
            with early, trio.move_on_at(now + self._grace):
                await self._cancel_all(outcomes, placed, under_way, now)
        finally:
            running.discard(early)
            dispatcher = self._session.dispatcher
            for request, pending in under_way.items():
                if pending.outcome is None:
                    over = NoReply("no answer came before the scope's grace was over")
                    outcomes[request] = _together(outcomes[request], pending.conclude(over, dispatcher.table.clock))
                    dispatcher.abandon(pending)
            self.report = CancelReport(
                tuple(
                    outcome or NotSent(request, cause=NotWritten("the scope's grace was over before its turn came"))
                    for request, outcome in outcomes.items()
                ),
                journal_failed=self._journal is not None and self._journal.failed,
            )
            for request in list(self._placed):
                # What is left stays held in the journal, for `resume`; this scope's work is done.
                self._session.dispatcher.table.holds.release(request)
            self._placed.clear()
            done.set()

    async def _cancel_all(
        self,
        outcomes: dict[CancelRequest, Outcome | None],
        placed: dict[CancelRequest, bool],
        under_way: dict[CancelRequest, _Held],
        left_at: float,
    ) -> None:
        send, receive = trio.open_memory_channel[_Held](len(outcomes))
        again: dict[CancelRequest, float] = {}  # when to ask again
        waits = dict.fromkeys(outcomes, NOT_FOUND_FIRST)

        def submit(request: CancelRequest) -> None:
            now = trio.current_time()
            terms = attrs.evolve(self._terms, give_up_after=max(0.001, left_at + self._grace - now))
            under_way[request] = pending = _Held(request, terms, now, send)
            self._session.dispatcher.submit(pending, now)

        for request in outcomes:
            submit(request)
        while under_way or again:
            with trio.move_on_at(min(again.values(), default=math.inf)):
                pending = await receive.receive()
                request = pending.request
                del under_way[request]
                assert pending.outcome is not None
                outcome = outcomes[request] = _together(outcomes[request], pending.outcome)
                now = trio.current_time()
                if isinstance(outcome, NotFound) and not placed[request] and now < left_at + self._settle:
                    # Its create may still be on the way; the venue may take that long.
                    again[request] = min(now + waits[request], left_at + self._settle)
                    waits[request] = min(NOT_FOUND_MOST, 2 * waits[request])
            now = trio.current_time()
            for request in [request for request, at in again.items() if at <= now]:
                del again[request]
                submit(request)


def _together(before: Outcome | None, after: Outcome) -> Outcome:
    """Read an order's second cancel together with its first, which found nothing."""
    if before is None:
        return after
    attempts = before.attempts + after.attempts
    unsure = before.after_unanswered or after.after_unanswered
    if isinstance(after, NotSent):
        return attrs.evolve(before, attempts=attempts)
    if isinstance(after, Rejected) and unsure:
        cause = NoReply("an earlier attempt was not answered")
        return Unknown(after.request, attempts, error=after.error, after_unanswered=True, cause=cause)
    return attrs.evolve(after, attempts=attempts, after_unanswered=unsure)


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _holds_kind(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kind) is not None
    return isinstance(error, kind)
