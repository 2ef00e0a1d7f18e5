"""Order scopes: no order that was added outlives its block, or the program is told.

The block's task owns what is held. An outcome that says that an order is off the book, and is certainly about this
order, takes it out (``_engine.held``). When the block exits, a task of the session cancels the rest
(``_cancels.scope_exit``), so that whatever ended the block cannot end that as well; the block's task only waits,
shielded, until every order has its outcome, ``grace`` is over, or a second Ctrl-C has come. If the session's block ends
while a scope's block is still open, what the scope holds is canceled then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, overload

import trio

from trio_cancel._cancels.scope_exit import ScopeExit
from trio_cancel._engine.cancel_journal import CancelJournal
from trio_cancel._engine.held import Hold
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._session.session import Session
from trio_cancel._trio.signals import is_interrupt, signal_counter
from trio_cancel._values.errors import InvalidRequest, SessionClosed
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import logger
from trio_cancel._values.outcomes import Outcome
from trio_cancel._values.report import CancelReport, OrdersLeft, TakenOver, describe_left

LOGGED_TOGETHER = 100
"""Ids in one line of the log."""


class OrderScope:
    """Orders that must not outlive a block. Made by :meth:`TradingWS.open_order_scope`.

    ::

        async with ws.open_order_scope() as orders:
            await orders.add(external_id="mm-42")  # before placing it, so that a crash cannot lose it
            order_id = await place(...)
            orders.placed(external_id="mm-42", id=order_id)  # so that no other order is taken for this one
            orders.discard(external_id="mm-41")  # filled: no longer ours to cancel

    It works as long as this process runs and reaches the venue. It cannot help when the power fails or the network is
    gone: the orders then stay on the book. After a crash of the process, a journal tells ``trio-cancel resume`` what
    was held. A venue's own cancel-on-disconnect would help in each case, but this venue does not document one.

    Attributes:
        report: after the block: one outcome for every order that was still held when it exited; None before.
    """

    def __init__(
        self, session: Session, policy: RetryPolicy, grace: float, settle: float, journal: CancelJournal | None
    ) -> None:
        self.report: CancelReport | None = None
        self._session = session
        self._link = ScopeLink(self)
        self._policy = policy
        self._grace = grace
        self._settle = settle
        self._journal = journal
        self._held: dict[CancelRequest, Hold] = {}
        self._adding: set[CancelRequest] = set()
        self._exit: ScopeExit | None = None
        self._pulls: dict[ScopeExit, frozenset[Hold]] = {}  # each `cancel_all` that is under way, and what it cancels
        self._open = False
        self._heard_before = 0
        # Cancelled when the journal is taken over. It exists only if that can happen, so that the block of any other
        # scope may exit in a different task from the one that entered it.
        self._block = trio.CancelScope() if journal is not None and journal.has_lease else None

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, request: object) -> bool:
        return request in self._held or (isinstance(request, str) and CancelRequest(request) in self._held)

    @property
    def held(self) -> tuple[CancelRequest, ...]:
        """The orders that are held now."""
        return tuple(self._held)

    @overload
    async def add(self, id: str | CancelRequest, *, external_id: None = None) -> None: ...
    @overload
    async def add(self, id: None = None, *, external_id: str) -> None: ...
    @trio.lowlevel.enable_ki_protection
    async def add(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Hold an order: it will be canceled when the block exits. Add it before you place it.

        It returns once the hold is durable: at once without a journal, but always with a checkpoint. You may add a held
        order again if its external id is about to name a new order; the hold then means the new order only, so first
        make sure that the old one is off the book.

        Args:
            id: the venue's order id, or a whole request.
            external_id: your own id of the order, instead.

        Raises:
            InvalidRequest: no usable id, another scope holds the order, another task is adding it, :meth:`cancel_all`
                is canceling it, or its external id is in ``ws.left_behind``: ``await ws.resume()`` first.
            JournalError: the journal cannot record it. The order is not held: do not place it.
            TakenOver: (a JournalError) somebody else has taken over the journal. Do not place anything.
            SessionClosed: the block has exited, or the session has failed or is closed, so the order could not be
                canceled. It is not held: do not place it.

        Cancelled: the order is not held (unless it was before): do not place it.
        """
        request = CancelRequest.of(id, external_id)
        self._check_can_add()
        holds = self._session.engine.holds
        if (holder := holds.holder(request)) is not None and holder is not self._link:
            raise InvalidRequest(f"Another scope holds {request} already; an order belongs to one scope.")
        if request in self._adding:
            raise InvalidRequest(f"Another task is adding {request} to this scope already.")
        if self._is_pulled(request):
            raise InvalidRequest(f"cancel_all() is canceling {request}; add it again when that has returned.")
        if self._journal is not None:
            self._journal.check_free(request)
        self._adding.add(request)
        holds.hold(request, self._link)
        known = request in self._held
        durable = False
        try:
            if self._journal is not None:
                await self._journal.hold(request, self._session.engine.clock.interval)
            await trio.lowlevel.checkpoint()
            self._check_can_add()
            durable = True
        finally:
            self._adding.discard(request)
            if durable:
                self._held[request] = self._new_hold(request)
                holds.renew(request)
                if self._journal is not None:
                    self._journal.ours(request)
            elif not known:
                self._release(request)

    @overload
    def discard(self, id: str | CancelRequest, *, external_id: None = None) -> None: ...
    @overload
    def discard(self, id: None = None, *, external_id: str) -> None: ...
    @trio.lowlevel.enable_ki_protection
    def discard(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Stop holding an order: it was filled, or you want it to stay.

        With a journal, recording this starts at once, but the call returns before it is durable. If the process dies in
        that moment, ``trio-cancel resume`` cancels the order. To be sure that an order stays, use :meth:`keep`.

        Raises:
            InvalidRequest: no usable id, or this scope does not hold the order (any more: an order that a cancel found
                off the book leaves by itself, and one whose block has exited is being canceled).
        """
        request = CancelRequest.of(id, external_id)
        self._hold_of(request)
        if self._exit is not None:
            raise InvalidRequest(f"{request} is being canceled: the block of its scope has exited.")
        if request in self._adding:
            raise InvalidRequest(f"Another task is adding {request} to this scope.")
        if self._is_pulled(request):
            raise InvalidRequest(f"{request} is being canceled by cancel_all().")
        del self._held[request]
        self._release(request, at_once=True)

    @overload
    async def keep(self, id: str | CancelRequest, *, external_id: None = None) -> None: ...
    @overload
    async def keep(self, id: None = None, *, external_id: str) -> None: ...
    async def keep(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Stop holding an order, as :meth:`discard` does, and return once no crash can undo that.

        It returns once the journal has it on the disk: at once without a journal, but always with a checkpoint.

        Args:
            id: the venue's order id, or a whole request.
            external_id: your own id of the order, instead.

        Raises:
            InvalidRequest: as for :meth:`discard`; the order is held as before.
            JournalError: the journal cannot record it now. The order is no longer held in this process, and that is
                recorded once the journal can be written; until then ``trio-cancel resume`` would cancel the order if
                the process died.

        Cancelled: the order is no longer held, and that is recorded soon.
        """
        self.discard(CancelRequest.of(id, external_id))
        if self._journal is not None:
            await self._journal.flush()
        await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    def placed(self, id: str | CancelRequest | None = None, *, external_id: str | None = None) -> None:
        """Say that the venue has the order, and which id it has there.

        Give both ids if you can: ``orders.placed(external_id="mm-42", id="7155ED34-…")``. From then on the hold means
        the order with the venue's id and no other that has or had this external id, in the journal as well. Without
        the venue's id, an answer for the external id counts at the end of the block, but does not release the hold
        before.

        Args:
            id: the venue's order id. Together with an external id: the venue's id of the order that is held by that. A
                second call replaces it.
            external_id: your own id of the order.

        Raises:
            InvalidRequest: no usable id, this scope does not hold the order (any more), or another task is adding it
                again.
        """
        order: CancelRequest | None = None
        if external_id is not None and id is not None:
            request, order = CancelRequest(external_id=external_id), CancelRequest.of(id)
            if order.id is None:
                raise InvalidRequest("Together with an external id, placed() takes the venue's id of the order.")
        else:
            request = CancelRequest.of(id, external_id)
        hold = self._hold_of(request)
        if request in self._adding:
            raise InvalidRequest(f"Another task is adding {request} to this scope again.")
        if hold.placed_at is None:
            hold.placed_at = trio.current_time()
        if order is not None:
            hold.order = order
            self._session.engine.holds.place(request, order)
        if self._journal is not None:
            self._journal.placed(request, None if hold.order is None else hold.order.id)
            if order is not None:
                self._journal.ours(order)

    @trio.lowlevel.enable_ki_protection
    async def cancel_all(self) -> CancelReport:
        """Cancel everything that is held now, and go on: the scope stays open, and new orders can be added.

        An order that is found off the book is no longer held. The rest stays held: call again, or leave it to the end
        of the block. The rules are those of the end of the block: these cancels overtake others and are tried again
        until ``grace`` is over. If the venue does not know an order, or if its external id is closed and may name an
        older order, it is asked for again until ``settle``, unless :meth:`placed` has said that the venue has it. So
        call that, and it takes one round trip.

        An order whose :meth:`add` returns later is not included. While an order is being canceled here, you can neither
        add its name again nor discard it; you may call :meth:`placed`. If another cancel of an order is already under
        way, an answer that certainly takes it off the book counts for both. A second call meanwhile cancels what is
        held then. If the block exits meanwhile, its end takes care of what is still held, and both report what they
        know.

        Returns:
            One outcome for every order that was held, in the order in which they were added; empty if none was. It
            never raises because of one order: see ``report.left``.

        Raises:
            SessionClosed: the block has not started or has exited, or the session's block has ended.

        Cancelled: what has not been written is withdrawn and what is being written is finished, so some orders may
        still be canceled. Orders found off the book by then are no longer held, the rest stays held. The report is
        lost.
        """
        self._check_open()
        held = [hold for request, hold in self._held.items() if request not in self._adding]
        outcomes: tuple[Outcome, ...] = ()

        def pulled(found: tuple[Outcome, ...]) -> None:
            nonlocal outcomes
            outcomes = found
            del self._pulls[pull]
            for hold, outcome in zip(held, found, strict=True):
                if outcome.off_book:
                    self._end_hold(hold, outcome)

        await trio.lowlevel.checkpoint_if_cancelled()
        pull = self._exit_of(held, pulled)
        self._pulls[pull] = frozenset(held)
        if not held or not self._session.spawn(pull.run):
            pull.give_up()
        try:
            await trio.lowlevel.checkpoint()
            await pull.done.wait()
        except BaseException:
            pull.early.cancel()
            raise
        return CancelReport(outcomes, journal_failed=self._session.journal_failed())

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        self._session.check_open()
        if self._open or self._exit is not None:
            raise SessionClosed("An order scope can be entered only once; open another with ws.open_order_scope().")
        await trio.lowlevel.checkpoint()
        if self._session.ending:  # it would not be ended before the connection is closed
            raise SessionClosed("This session is ending: no more order scopes can be opened.")
        if self._journal is not None and (over := self._journal.taken_over) is not None:
            raise over
        self._open = True
        self._session.scopes[self._link] = None
        listeners = signal_counter()
        listeners.listen()
        self._heard_before = listeners.count
        if self._block is not None:
            self._block.__enter__()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        listeners = signal_counter()
        # The first Ctrl-C asks for an orderly end, which is this; only a second one ends it early.
        first = is_interrupt(error) or (error is not None and listeners.count > self._heard_before)
        interrupt: KeyboardInterrupt | None = None
        ending = self._begin_exit()
        with listeners.ending(ending.early, 1 if first else 2), trio.CancelScope(shield=True):
            while not ending.done.is_set():
                try:
                    await ending.done.wait()
                except KeyboardInterrupt as caught:
                    interrupt = caught
                    if not listeners.listening:
                        listeners.add()
        assert self.report is not None
        left = self.report.left
        ended_with = error
        error = self._leave_block(kind, error, traceback)
        over = None if self._journal is None else self._journal.taken_over
        if over is not None:
            self._raise_taken_over(over, self.report, interrupt or error)
        if interrupt is not None and not is_interrupt(error):
            if left:
                interrupt.add_note(describe_left(left, len(left)))
            raise interrupt
        if left:
            if error is None:
                raise OrdersLeft(describe_left(left), report=self.report)
            if _is_cancellation(error):
                raise OrdersLeft(describe_left(left), report=self.report) from error
            error.add_note(describe_left(left, len(left)))
        if error is not None and error is not ended_with:
            raise error  # without the cancellation that was ours

    def _leave_block(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> BaseException | None:
        """Return what the block ended with, without the cancellation that is ours."""
        if self._block is None:
            return error
        try:
            return None if self._block.__exit__(kind, error, traceback) else error
        except BaseException as rest:  # noqa: ASYNC103 - what else was in a group with it; the caller raises it
            if self._journal is None or self._journal.taken_over is None:
                raise  # nobody has cancelled it: the block exits in another task, or out of order
            return rest  # noqa: ASYNC104 - the same

    def _raise_taken_over(self, over: TakenOver, report: CancelReport, error: BaseException | None) -> None:
        """Tell the program, whatever its block did; only what ends the program is raised instead."""
        text = f"{over} {describe_left(report.left)}" if report.left else str(over)
        if error is None or isinstance(error, Exception) or _is_cancellation(error):
            self._session.told_taken_over = True
            raise TakenOver(text, report=report) from error
        error.add_note(text)

    def _end_hold(self, hold: Hold, outcome: Outcome) -> None:
        """Stop holding an order that is certainly off the book; other cancels of it need not doubt a "closed"."""
        for ending in (*self._pulls, self._exit):
            if ending is not None:
                ending.found(hold, outcome)
        if self._held.get(hold.request) is hold:  # otherwise its name is another order's, or the scope has exited
            del self._held[hold.request]
            self._release(hold.request)

    def _is_pulled(self, request: CancelRequest) -> bool:
        hold = self._held.get(request)
        return hold is not None and any(hold in holds for holds in self._pulls.values())

    def _begin_exit(self) -> ScopeExit:
        if self._exit is None:
            self._open = False
            for request in self._adding - self._held.keys():
                self._release(request)  # its `add` will be refused, perhaps after the journal's last transaction
            self._exit = self._exit_of(self._held.values(), self._concluded)
            if not self._session.spawn(self._exit.run):
                self._exit.give_up()
        return self._exit

    def _exit_of(self, holds: Iterable[Hold], concluded: Callable[[tuple[Outcome, ...]], None]) -> ScopeExit:
        session, grace, settle = self._session, self._grace, self._settle
        return ScopeExit(
            session.engine,
            self._policy,
            holds,
            grace=grace,
            settle=settle,
            take_in=session.take_in,
            concluded=concluded,
        )

    def _concluded(self, outcomes: tuple[Outcome, ...]) -> None:
        """Note what the exit has come to, and log what is left."""
        self.report = CancelReport(outcomes, journal_failed=self._session.journal_failed())
        holds = self._session.engine.holds
        for outcome in outcomes:
            if outcome.off_book and outcome.request in self._held:
                self._release(outcome.request)
        for request in self._held:
            holds.release(request)  # what is left stays held in the journal, for `resume`
        self._held.clear()
        self._session.scopes.pop(self._link, None)
        signal_counter().stop()
        left = self.report.left
        for first in range(0, len(left), LOGGED_TOGETHER):
            some = left[first : first + LOGGED_TOGETHER]
            logger.error("order scope left: %s", describe_left(some, len(some)))

    def _check_open(self) -> None:
        if not self._open:
            raise SessionClosed("This order scope is not open: its block has not started or has exited.")
        self._session.check_open()

    def _check_can_add(self) -> None:
        self._check_open()
        if (failure := self._session.failure) is not None:
            raise SessionClosed(
                "The session has failed, so no order can be canceled or held any more; do not place it. "
                "Open a new session."
            ) from failure

    def _new_hold(self, request: CancelRequest) -> Hold:
        session = self._session
        return Hold(request, session.wall(), session.engine.clock.interval, trio.current_time())

    def _hold_of(self, request: CancelRequest) -> Hold:
        if request not in self._held:
            raise InvalidRequest(f"This scope does not hold {request}.")
        return self._held[request]

    def _release(self, request: CancelRequest, *, at_once: bool = False) -> None:
        self._session.engine.holds.release(request)
        if self._journal is not None:
            self._journal.release(request, at_once=at_once)


def _is_cancellation(error: BaseException) -> bool:
    """Return True for what nobody will see: a cancellation, or the end of a generator that is closed."""
    if isinstance(error, BaseExceptionGroup):
        return error.split((trio.Cancelled, GeneratorExit))[1] is None
    return isinstance(error, trio.Cancelled | GeneratorExit)


class ScopeLink:
    """A scope as the session and the engine see it: an ``Ending`` and a ``Holder``, which say what each method does."""

    __slots__ = ("_scope",)

    def __init__(self, scope: OrderScope) -> None:
        self._scope = scope

    def end(self) -> trio.Event:
        return self._scope._begin_exit().done

    def cut_off(self) -> None:
        if self._scope._block is not None:
            self._scope._block.cancel()

    def off_book(self, request: CancelRequest, outcome: Outcome) -> None:
        scope = self._scope
        hold = scope._held.get(request)
        if hold is None or request in scope._adding:  # in the second case its name is about to be another order's
            return
        if hold.is_meant_by(outcome, scope._session.engine.clock.interval):
            scope._end_hold(hold, outcome)
