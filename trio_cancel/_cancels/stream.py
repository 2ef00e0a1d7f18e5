"""A bulk cancel of an input without end, in constant memory.

One task (the intake) takes items from the user's iterable into a small shelf; the dispatcher takes orders from the
shelf when there is room; outcomes leave through a bounded memory channel in the order of completion. The intake stops
at a shelf that is full, and an order leaves the shelf only while what is in flight and what is not yet received fit
into the channel, so that delivering never blocks and nothing grows with the input.

If the block is left early, the intake stops, the shelf is dropped (those were not sent) and ``unsettled`` names what
was in flight. Outcomes that had come and were not taken by then can still be iterated: none is lost. A failing iterable
ends the stream after the outcomes of what it gave, with its own exception.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress

import trio

from trio_cancel._cancels.batch import Invalid, as_request, check_iterable
from trio_cancel._engine.engine import Dispatcher
from trio_cancel._engine.order import Pending, Terms
from trio_cancel._engine.rate import WINDOW_MOST
from trio_cancel._trio.wakeup import Bell
from trio_cancel._values.errors import InvalidRequest
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import InvalidItem, NotSent, Outcome

SHELF = 64
"""Items taken from the input ahead of their turn."""
ROOM = 2 * WINDOW_MOST
"""Orders in flight and outcomes not yet received, together at most."""
YIELD_EVERY = 64
"""Items after which the intake lets others run, for an iterable that never waits; and outcomes after which the consumer
does, which may never wait, either."""
TOLD_EVERY = 64
"""Outcomes whose consumption tells the writer that there is room."""


class _Item(Pending):
    """One order of a stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: CancelStream, request: CancelRequest, terms: Terms) -> None:
        super().__init__(request, terms)
        self._stream = stream

    def deliver(self) -> None:
        self._stream._settled(self)


class CancelStream:
    """Outcomes in the order of completion, for ``async for``. Made by :meth:`TradingWS.open_cancel_stream`."""

    def __init__(self, terms: Terms, dispatcher: Dispatcher, invalid: Invalid = "raise") -> None:
        self._terms = terms
        self._report_invalid = invalid == "report"
        self._invalid: list[InvalidItem] = []
        self._dispatcher = dispatcher
        self._shelf: deque[CancelRequest] = deque()
        self._in_flight: dict[Pending, None] = {}
        self._send, self._receive = trio.open_memory_channel[Outcome](ROOM + SHELF)
        self._waiting = 0  # outcomes delivered and not yet received
        self._unyielded = 0  # of those that were received since others could run
        self._intake_bell = Bell()
        self._exhausted = False
        self._closed = False
        self._error: BaseException | None = None
        self._refused: BaseException | None = None
        self.held_since: float = trio.current_time()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome. Cancelled: none is lost.

        Of outcomes that are at hand, each ``YIELD_EVERY``-th lets other tasks run; any raises if it is cancelled.
        """
        try:
            outcome = await self._next_at_hand()
            if outcome is None:
                self._unyielded = 0
                outcome = await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                error, self._error = self._error, None
                raise error from None
            raise StopAsyncIteration from None
        self._waiting -= 1
        if self._waiting % TOLD_EVERY == 0:  # not for each: one write for many is far cheaper
            self._dispatcher.table.wake_writer()
        return outcome

    async def _next_at_hand(self) -> Outcome | None:
        """Return an outcome without a pass of the scheduler; None if there is none, or others must have their turn."""
        self._unyielded += 1
        if self._unyielded >= YIELD_EVERY:
            return None
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return None

    @property
    def unsettled(self) -> tuple[CancelRequest, ...]:
        """The orders that are in flight now; after the block: that were when it was left and have not settled since."""
        return tuple(pending.request for pending in self._in_flight if pending.flights)

    @property
    def invalid(self) -> tuple[InvalidItem, ...]:
        """The items so far that named no order; empty unless ``invalid="report"`` was asked for.

        They are kept while the stream is: the one thing in it that grows with its input.
        """
        return tuple(self._invalid)

    # What the dispatcher calls

    @property
    def waiting(self) -> bool:
        """Whether it has an order to give now."""
        return bool(self._shelf) and len(self._in_flight) + self._waiting < ROOM

    def take(self, most: int) -> list[Pending]:
        """Return the next orders, at most so many."""
        shelf = self._shelf
        before = len(shelf)
        most = min(most, before, ROOM - len(self._in_flight) - self._waiting)
        taken: list[Pending] = [_Item(self, shelf.popleft(), self._terms) for _ in range(most)]
        self._in_flight.update(dict.fromkeys(taken))
        self._dispatcher.count_queued([pending.request for pending in taken])
        if before > SHELF // 2 >= len(shelf) or not shelf:
            self._intake_bell.ring()
        return taken

    def refuse(self, cause: BaseException) -> None:
        """Settle the shelf: nothing of it will be sent. What comes after an outage gets a chance of its own."""
        while self._shelf and len(self._in_flight) + self._waiting < ROOM + SHELF:
            self._waiting += 1
            self._send.send_nowait(NotSent(self._shelf.popleft(), cause=cause))
        if self._dispatcher.table.stopped is not None:
            self._refused = cause
        else:
            self.held_since = trio.current_time()
            self._dispatcher.submit_source(self, self.held_since)
        self._intake_bell.ring()

    def give_up_after(self) -> float:
        """Return how many seconds without any connection it waits."""
        return self._terms.give_up_after

    def _settled(self, pending: Pending) -> None:
        self._in_flight.pop(pending, None)
        if not self._closed:
            assert pending.outcome is not None
            self._waiting += 1
            self._send.send_nowait(pending.outcome)
            self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._exhausted and not self._in_flight:
            self._send.close()

    # The intake task

    async def _take_in(self, requests: Iterable[str | CancelRequest] | AsyncIterable[str | CancelRequest]) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                iterator = aiter(requests)
                async with aclosing(iterator) if isinstance(iterator, AsyncGenerator) else nullcontext():
                    index = 0
                    async for item in iterator:
                        self._take_item(item, index)
                        await self._make_room(index)
                        index += 1
            else:
                for index, item in enumerate(requests):
                    self._take_item(item, index)
                    if (index + 1) % YIELD_EVERY == 0 or len(self._shelf) >= SHELF or self._refused is not None:
                        await self._make_room(index)
        except Exception as error:  # the user's iterable failed: it comes out of the stream, after its outcomes
            self._error = error
        self._dispatcher.table.wake_writer()
        while self._shelf:  # until the dispatcher has taken every item, or never will
            if self._refused is None:
                await self._intake_bell.wait()
            await self._settle_shelf()
        self._exhausted = True
        self._finish_if_done()

    def _take_item(self, item: object, index: int) -> None:
        try:
            self._shelf.append(as_request(item, index))
        except InvalidRequest as error:
            if not self._report_invalid:
                raise
            self._invalid.append(InvalidItem(index, item, error))

    async def _make_room(self, index: int) -> None:
        """Wait until the shelf has room for another item."""
        if self._refused is not None:
            await self._settle_shelf()
            return
        self._dispatcher.table.wake_writer()
        if (index + 1) % YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()
        while len(self._shelf) >= SHELF and self._refused is None:
            await self._intake_bell.wait()

    async def _settle_shelf(self) -> None:
        """If everything has ended, tell so for each order that waits, as the consumer takes it."""
        while self._refused is not None and self._shelf:
            outcome = NotSent(self._shelf.popleft(), cause=self._refused)
            self._waiting += 1
            with suppress(trio.ClosedResourceError):  # the block was left while the channel was full
                await self._send.send(outcome)

    @trio.lowlevel.enable_ki_protection
    def _close(self) -> None:
        self._closed = True
        self._shelf.clear()
        self._dispatcher.queue.remove_source(self)
        for pending in list(self._in_flight):
            self._dispatcher.abandon(pending)
        self._send.close()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def run_stream(
    requests: Iterable[str | CancelRequest] | AsyncIterable[str | CancelRequest],
    terms: Terms,
    dispatcher: Dispatcher,
    invalid: Invalid = "raise",
) -> AsyncGenerator[CancelStream]:
    """Run a stream around a block, whose exception comes out as it is, in no group."""
    check_iterable(requests)
    if not isinstance(requests, Iterable | AsyncIterable):
        raise InvalidRequest(f"A bulk cancel needs an iterable of order ids, not {type(requests).__name__}.")
    stream = CancelStream(terms, dispatcher, invalid)
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    intake_ended = trio.Event()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the block, not into a group of exceptions beside it
    async def intake() -> None:
        try:
            await stream._take_in(requests)
        finally:
            intake_ended.set()

    try:
        nursery.start_soon(intake)
        dispatcher.submit_source(stream, stream.held_since)
        yield stream
    finally:
        # As in run_session: no `async with`, so that the block's exception stays what it is.
        stream._close()
        nursery.cancel_scope.cancel()
        try:
            with trio.CancelScope(shield=True):
                await intake_ended.wait()
        finally:  # Ctrl-C may end even a wait that is shielded
            await manager.__aexit__(None, None, None)  # noqa: ASYNC102 - its task has ended, or is about to
