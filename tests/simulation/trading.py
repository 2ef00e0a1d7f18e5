"""Traders that hold orders in scopes, place them, and let go of them; what they know is the model that is checked."""

from __future__ import annotations

from typing import Protocol

import attrs
import trio

from trio_cancel import CancelRequest, InvalidRequest, JournalError, SessionClosed, TradingWS
from trio_cancel.sandbox import Book, NoSuchOrder
from trio_cancel.types import CancelReport, OrderScope

from .engine import Steps
from .harness import BodyError
from .life import Life
from .record import Recorder, Stamp
from .scenario import OrderPlan
from .scopes import Leave, ScopePlan, ScopeScenario, Then, Trade


@attrs.define(eq=False)
class Held:
    """An order whose ``add`` has returned.

    Attributes:
        forgotten: when the trader discarded it.
    """

    request: CancelRequest
    order: OrderPlan
    scope: int
    added: Stamp
    forgotten: Stamp | None = None


@attrs.define(eq=False)
class ScopeResult:
    """What became of one scope.

    Attributes:
        leaving: when its block ended.
        left: when its end was over.
        error: what came out of it; a cancellation is none.
        on_book: the orders held last that were on the venue's book then, or on their way there.
    """

    number: int
    plan: ScopePlan
    scope: OrderScope | None = None
    leaving: Stamp | None = None
    left: Stamp | None = None
    error: BaseException | None = None
    report: CancelReport | None = None
    on_book: set[CancelRequest] = attrs.field(factory=set)


class Venue(Protocol):
    """Where traders place orders, whatever becomes of them meanwhile."""

    @property
    def book(self) -> Book:
        """The venue's."""

    def send(self, trade: Trade) -> None:
        """Send a create on its way."""

    def comes(self, order: OrderPlan) -> bool:
        """Return True if the order is on its way, or on the book."""


class Traders:
    """Everything that the first process does in scopes."""

    def __init__(self, plan: ScopeScenario, life: Life, venue: Venue, steps: Steps, recorder: Recorder) -> None:
        self.held: list[Held] = []
        self.results: list[ScopeResult] = []
        self.wrong: list[str] = []
        self._plan = plan
        self._life = life
        self._venue = venue
        self._steps = steps
        self._stamp = recorder.stamp
        self._faults = recorder.faults

    async def open_scopes(self, ws: TradingWS, parent: int | None = None) -> None:
        """Open every scope of a block; return when all have been left."""
        async with trio.open_nursery() as nursery:
            for number, plan in enumerate(self._plan.scopes):
                if plan.parent == parent:
                    nursery.start_soon(self._scope, ws, number)

    async def _scope(self, ws: TradingWS, number: int) -> None:
        plan = self._plan.scopes[number]
        await trio.sleep(plan.start)
        result = ScopeResult(number, plan)
        if self._life.dead:
            return
        self.results.append(result)
        try:
            with trio.CancelScope() as around:
                if plan.leave is Leave.CANCELLED and plan.step is not None:
                    self._steps.after(plan.step, around.cancel)
                elif plan.leave is Leave.CANCELLED:
                    around.deadline = trio.current_time() + plan.at
                result.scope = ws.open_order_scope(grace=plan.grace, settle=plan.settle)
                async with result.scope as scope:
                    try:
                        await self._block(ws, number, scope)
                    finally:
                        result.leaving = self._stamp()
        except Exception as error:
            result.error = error
        except BaseExceptionGroup as group:
            failed, cancelled = group.split(Exception)
            assert cancelled is not None
            if failed is not None:
                result.error = group
            raise cancelled from None
        finally:
            result.left = self._stamp()
            if result.scope is not None:
                result.report = result.scope.report
            result.on_book = {
                held.request
                for held in self.held
                if held.scope == number and held.forgotten is None and self._venue.comes(held.order)
            }

    async def _block(self, ws: TradingWS, number: int, scope: OrderScope) -> None:
        plan = self._plan.scopes[number]
        async with trio.open_nursery() as nursery:
            for trade in self._plan.trades:
                if trade.scope == number:
                    nursery.start_soon(self._trade, ws, scope, trade, nursery)
            nursery.start_soon(self.open_scopes, ws, number)
            if plan.leave is Leave.RAISED:
                await trio.sleep(plan.at)
                raise BodyError("the block of the scope failed")

    async def _trade(self, ws: TradingWS, scope: OrderScope, trade: Trade, nursery: trio.Nursery) -> None:
        order = self._plan.base.orders[trade.order]
        request = CancelRequest(order.id) if trade.by_id else CancelRequest(external_id=order.external_id)
        await trio.sleep(trade.at)
        if trade.by_id:
            await self._place(trade)
        try:
            await scope.add(request)
            if self._life.dead:
                return
            held = Held(request, order, trade.scope, self._stamp())
            self.held.append(held)
            if trade.sweep is not None:
                nursery.start_soon(self._sweep, ws, trade, order)
            if trade.again:
                await scope.add(request)
            if not trade.by_id:
                await trio.sleep(trade.pause)
                await self._place(trade)
            if trade.placed and self._active(order) and request in scope:
                if trade.with_id and not trade.by_id:
                    scope.placed(order.id, external_id=order.external_id)
                else:
                    scope.placed(request)
            await trio.sleep(trade.life)
            await self._end(ws, scope, trade, held)
        except (JournalError, SessionClosed):
            return  # it is not held, and not placed

    async def _sweep(self, ws: TradingWS, trade: Trade, order: OrderPlan) -> None:
        """Cancel by the external id, whichever order has it."""
        assert trade.sweep is not None
        await trio.sleep(trade.sweep)
        request = CancelRequest(external_id=order.external_id)
        if self._life.dead:
            return
        try:
            if trade.order % 2:
                await ws.try_cancel(request)
            else:
                await ws.cancel_many([request])
        except SessionClosed:
            return
        if trade.old is not None and not self._active(order):
            self._faults["reused_id_with_sweep"] += 1

    async def _place(self, trade: Trade) -> None:
        if not self._life.dead:
            self._venue.send(trade)
        await trio.sleep(trade.travel)

    async def _end(self, ws: TradingWS, scope: OrderScope, trade: Trade, held: Held) -> None:
        if self._life.dead:
            return
        match trade.then:
            case Then.CANCEL:
                await ws.try_cancel(held.request)
            case Then.FILL | Then.DISCARD:
                if trade.then is Then.FILL and self._active(held.order):
                    self._venue.book.fill(held.order.id)
                try:
                    scope.discard(held.request)
                except InvalidRequest as error:
                    ending = scope.report is not None or "is being canceled" in str(error)
                    if self._active(held.order) and not ending:
                        self.wrong.append(f"S5: {held.request} is on the book, and discard says: {error}")
                else:
                    held.forgotten = self._stamp()

    def _active(self, order: OrderPlan) -> bool:
        try:
            return self._venue.book.get(order.id).status.active
        except NoSuchOrder:
            return False
