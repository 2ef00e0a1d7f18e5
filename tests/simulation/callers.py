"""What the callers of a run do, each in a task of its own, and what they learn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import trio

from trio_cancel import (
    CancelNotSent,
    CancelRequest,
    HandshakeFailed,
    OutcomeUnknown,
    SessionClosed,
    TradingWS,
    VenueError,
)

from .engine import Steps
from .record import OpResult, Run
from .scenario import Kind, Op, OrderPlan


class _Own(CancelRequest):
    """A request that a bulk cancel gives back as it is. It equals the usual one."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CancelRequest) and CancelRequest(self.id, self.external_id) == CancelRequest(
            other.id, other.external_id
        )

    def __hash__(self) -> int:
        return hash(CancelRequest(self.id, self.external_id))


def _requests_of(cls: type[CancelRequest], op: Op, orders: Sequence[OrderPlan]) -> list[CancelRequest]:
    return [
        cls(external_id=orders[index].external_id) if by_external else cls(orders[index].id)
        for index, by_external in op.orders
    ]


class Callers:
    """The callers of one run.

    Attributes:
        ws: the session, once it is open.
        ready: set then.
        all_returned: set when every caller has returned.
    """

    def __init__(self, done: Run, steps: Steps) -> None:
        self.done = done
        self.ws: TradingWS
        self.ready = trio.Event()
        self.all_returned = trio.Event()
        self._steps = steps
        self._returned = 0
        self._places: dict[int, tuple[int, int]] = {}  # id of a request object: operation and position
        self._copies: dict[CancelRequest, tuple[int, int]] = {}  # of bulk cancels, which make their requests anew
        for number, op in enumerate(done.scenario.ops):
            orders = done.scenario.orders
            requests = _requests_of(CancelRequest, op, orders)
            if op.kind in (Kind.MANY, Kind.BATCH):
                if self._copies.keys().isdisjoint(requests):
                    self._copies.update({request: (number, requests.index(request)) for request in requests})
                else:  # nobody could tell whose such a request is that comes back
                    requests = _requests_of(_Own, op, orders)
            done.results.append(OpResult(op, requests))
            for position, request in enumerate(requests):
                # An order that stands in a batch twice is canceled once.
                first = position if op.kind is Kind.STREAM else requests.index(request)
                self._places[id(request)] = (number, first)

    def place(self, request: CancelRequest) -> tuple[int, int]:
        """Operation and position of a request that came back from the client."""
        return self._places.get(id(request)) or self._copies[request]

    def mark(self, name: str) -> None:
        """Note how many steps there have been, the first time."""
        self.done.marks.setdefault(name, self._steps.count)

    async def call(self, result: OpResult) -> None:
        """Be one caller."""
        await self.ready.wait()
        await trio.sleep(result.op.start)
        stamp = self.done.recorder.stamp
        with trio.CancelScope() as scope:
            result.started = stamp()
            if result is self.done.results[0]:
                self.mark("started")
            if result.op.deadline is not None:
                scope.deadline = trio.current_time() + result.op.deadline
            elif result.op.step is not None:

                def cancel() -> None:
                    if result.ended is None:
                        result.cancelled_at = trio.current_time()
                        scope.cancel()

                self._steps.after(result.op.step, cancel)
            try:
                await self._act(self.ws, result)
            except (HandshakeFailed, AssertionError, ExceptionGroup, RuntimeError, trio.BrokenResourceError) as error:
                self.done.stray.append(f"operation {self.done.results.index(result)}: {error!r}")
            finally:
                result.ended = stamp()
                if result is self.done.results[0]:
                    self.mark("ended")
                self._returned += 1
                if self._returned == len(self.done.results):
                    self.all_returned.set()
        result.cancelled = scope.cancelled_caught
        if scope.cancel_called and result.cancelled_at is None:
            result.cancelled_at = scope.deadline

    async def _act(self, ws: TradingWS, result: OpResult) -> None:
        op, requests, stamp = result.op, result.requests, self.done.recorder.stamp
        try:
            match op.kind:
                case Kind.TRY:
                    result.outcomes.append((0, await ws.try_cancel(requests[0])))
                case Kind.CANCEL:
                    try:
                        result.order = await ws.cancel(requests[0])
                    except (VenueError, OutcomeUnknown, CancelNotSent) as error:
                        result.outcomes.append((0, error.outcome))
                case Kind.MANY:
                    report = await ws.cancel_many(requests)
                    result.outcomes.extend(enumerate(report.outcomes))
                    result.whole = True
                case Kind.BATCH:
                    result.batch = batch = ws.batch(requests)
                    try:
                        await batch.run()
                    finally:
                        result.reports.append((stamp(), batch.report()))
                case Kind.STREAM:
                    await self._stream(ws, op, result)
        except SessionClosed as error:
            result.error = error

    async def _stream(self, ws: TradingWS, op: Op, result: OpResult) -> None:
        source: Any = result.requests if op.trickle is None else _trickle(result.requests, op.trickle)
        outcomes = None
        try:
            async with ws.open_cancel_stream(source) as outcomes:
                if op.leave_after == 0:
                    return
                async for outcome in outcomes:
                    result.outcomes.append((self.place(outcome.request)[1], outcome))
                    if op.leave_after is not None and len(result.outcomes) >= op.leave_after:
                        return
                    if op.pause:
                        await trio.sleep(op.pause)
                result.whole = True
        finally:
            if outcomes is not None:
                result.unsettled = outcomes.unsettled


async def _trickle(requests: list[CancelRequest], pause: float) -> AsyncGenerator[CancelRequest]:
    for request in requests:
        await trio.sleep(pause)
        yield request
