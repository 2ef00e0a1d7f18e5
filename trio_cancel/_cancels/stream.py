"""A bulk cancel of an endless input, in constant memory.

One task (the intake) takes items from the user's iterable into a small shelf. The engine takes orders from the shelf
when there is room. Outcomes go out through one bounded memory channel in the order of completion. The intake stops when
the shelf is full, and an order leaves the shelf only while the orders in flight and the outcomes not yet received fit
into ``ROOM``, so nothing grows with the input. If the venue shows no sign of life, there may be more orders that get
their last chance (``_engine.silence``): ``LAST_ROOM``.

An item's time then counts from its arrival. An item that the intake had to wait for arrived when the intake got it. An
item that was ready at once arrived with the item before, or with the stream's opening: it only waited for room.

If the block exits early, the intake stops, the shelf is dropped (its orders were not sent) and ``unsettled`` names the
orders that were in flight. You can still iterate over outcomes that had come and were not taken by then: none is lost.
If the iterable fails, the stream ends after the outcomes of what it gave, with the iterable's own exception.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterable, Sized
from contextlib import aclosing, asynccontextmanager, nullcontext

import trio

from trio_cancel._cancels.batch import Invalid, as_request, check_iterable, withdraw
from trio_cancel._engine.engine import Engine
from trio_cancel._engine.order import OrderCancel, RetryPolicy
from trio_cancel._engine.rate import WINDOW_MOST
from trio_cancel._trio.background import open_background
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.errors import InvalidRequest
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import NotSent, Outcome
from trio_cancel._values.report import InvalidItem

SHELF = 64
"""Items taken from the input ahead of their turn."""
ROOM = 2 * WINDOW_MOST
"""Orders in flight and outcomes not yet received, together at most."""
YIELD_EVERY = 64
"""Items after which the intake lets other tasks run, for an iterable that never waits; and outcomes after which the
consumer does, which may never wait, either."""
TOLD_EVERY = 64
"""Outcomes after whose consumption the writer and the intake are told that there is room."""
LAST_ROOM = 65_536
"""Orders in flight and outcomes not yet received, together at most, when they get their last chance."""
WAITED = 0.01
"""If the intake has waited for an item this long (in seconds), the item was not there before."""
MANY = 1_000_000
"""How many items are assumed to wait behind a full shelf if the input does not say how many there are."""


class StreamSource:
    """A stream as the engine sees it, and the state behind :class:`CancelStream`."""

    def __init__(
        self, policy: RetryPolicy, engine: Engine, total: int | None = None, invalid: Invalid = "raise"
    ) -> None:
        self._policy = policy
        self._report_invalid = invalid == "report"
        self.invalid: list[InvalidItem] = []
        self._engine = engine
        self._shelf: deque[tuple[CancelRequest, float]] = deque()  # each with the time of its arrival
        self._total = total  # of the input, if it says so
        self._taken_in = 0
        self._out: dict[OrderCancel, None] = {}  # in flight, or settled and not yet received
        self._send, self._receive = trio.open_memory_channel[OrderCancel](LAST_ROOM + 2 * ROOM)
        self._received = 0
        self._unyielded = 0  # outcomes received since other tasks could run
        self._intake_wakeup = Wakeup()
        self._exhausted = False
        self._error: BaseException | None = None
        self._refused: BaseException | None = None
        self._came = trio.current_time()  # when the last item arrived

    async def next_outcome(self) -> Outcome:
        """Return the next outcome; of those that are ready, each ``YIELD_EVERY``-th lets other tasks run."""
        try:
            order = await self._next_at_hand()
            if order is None:
                self._unyielded = 0
                self._tell_room()
                order = await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                error, self._error = self._error, None
                raise error from None
            raise StopAsyncIteration from None
        del self._out[order]
        self._received += 1
        if self._received % TOLD_EVERY == 0:  # not for each: one write for many is far cheaper
            self._tell_room()
        self._finish_if_done()
        return order.result

    def _tell_room(self) -> None:
        """Tell the writer and the intake that there is room again."""
        self._engine.wakeup.ring()
        self._intake_wakeup.ring()

    async def _next_at_hand(self) -> OrderCancel | None:
        """Return an outcome without a pass of the scheduler; None if there is none, or others must get their turn."""
        self._unyielded += 1
        if self._unyielded >= YIELD_EVERY:
            return None
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return None

    # What the engine calls; see its protocol `Source`

    @property
    def waiting(self) -> bool:
        return bool(self._shelf) and len(self._out) < ROOM

    @property
    def held_since(self) -> float:
        return self._shelf[0][1] if self._shelf else math.inf

    def behind(self) -> int:
        if len(self._shelf) < SHELF:
            return len(self._shelf)
        return len(self._shelf) + (MANY if self._total is None else self._total - self._taken_in)

    def take(self, most: int) -> list[OrderCancel]:
        return self._take(min(most, ROOM - len(self._out)))

    def take_last(self, most: int) -> list[OrderCancel]:
        return self._take(min(most, LAST_ROOM - len(self._out)))

    def _take(self, most: int) -> list[OrderCancel]:
        shelf = self._shelf
        before = len(shelf)
        taken: list[OrderCancel] = []
        for _ in range(min(most, before)):
            request, came = shelf.popleft()
            taken.append(OrderCancel(request, self._policy, self._send, held_since=came))
        self._out.update(dict.fromkeys(taken))
        self._engine.count_queued(len(taken))
        self._engine.notify_queued([order.request for order in taken])
        if before > SHELF // 2 >= len(shelf) or not shelf:
            self._intake_wakeup.ring()
        return taken

    def give_up(self, cause: BaseException, before: float) -> bool:
        while self._shelf and self._shelf[0][1] <= before:
            self._not_sent(cause)
        self._intake_wakeup.ring()
        return False  # what arrives after an outage gets its own chance

    def refuse(self, cause: BaseException) -> None:
        while self._shelf:
            self._not_sent(cause)
        self._refused = cause
        self._intake_wakeup.ring()

    def _not_sent(self, cause: BaseException) -> None:
        order = OrderCancel(self._shelf.popleft()[0], self._policy, self._send)
        self._out[order] = None
        order.settle(NotSent(order.request, cause=cause))
        order.deliver()

    def give_up_after(self) -> float:
        return self._policy.give_up_after

    @property
    def _unreceived(self) -> int:
        """How many outcomes wait for the consumer."""
        return self._send.statistics().current_buffer_used

    def _finish_if_done(self) -> None:
        if self._exhausted and not self._out:
            self._send.close()

    # The intake task

    async def take_in(self, requests: Iterable[str | CancelRequest] | AsyncIterable[str | CancelRequest]) -> None:
        """Take items from the user's iterable until it ends."""
        try:
            if isinstance(requests, AsyncIterable):
                iterator = aiter(requests)
                async with aclosing(iterator) if isinstance(iterator, AsyncGenerator) else nullcontext():
                    index = 0
                    asked = trio.current_time()
                    async for item in iterator:
                        now = trio.current_time()
                        self._came = now if now - asked >= WAITED else self._came + now - asked
                        self.take_item(item, index)
                        await self._make_room(index)
                        index += 1
                        asked = trio.current_time()
            else:
                for index, item in enumerate(requests):
                    self.take_item(item, index)
                    if (index + 1) % YIELD_EVERY == 0 or len(self._shelf) >= SHELF or self._refused is not None:
                        await self._make_room(index)
        except Exception as error:  # the user's iterable failed: the stream raises it, after its outcomes
            self._error = error
        self._engine.source_waits(self)
        while self._shelf:  # until the engine has taken every item, or never will
            if self._refused is None:
                await self._intake_wakeup.wait()
            await self._settle_shelf()
        self._exhausted = True
        self._finish_if_done()

    def take_item(self, item: object, index: int) -> None:
        """Put an item on the shelf."""
        self._taken_in += 1
        try:
            self._shelf.append((as_request(item, index), self._came))
        except InvalidRequest as error:
            if not self._report_invalid:
                raise
            self.invalid.append(InvalidItem(index, item, error))

    async def _make_room(self, index: int) -> None:
        """Wait until there is room for another item."""
        if self._refused is None:
            self._engine.source_waits(self)
        if (index + 1) % YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()
        while self._refused is None and (len(self._shelf) >= SHELF or self._unreceived >= ROOM):
            await self._intake_wakeup.wait()
        await self._settle_shelf()

    async def _settle_shelf(self) -> None:
        """If everything has ended, say so for each order that waits, as the consumer takes it."""
        while self._refused is not None and self._shelf:
            while self._unreceived >= ROOM:
                await self._intake_wakeup.wait()
            self._not_sent(self._refused)

    @trio.lowlevel.enable_ki_protection
    async def close(self) -> None:
        """Withdraw orders without an outcome, in slices."""
        self._shelf.clear()
        self._engine.remove_source(self)
        await withdraw(self._engine, self._out)
        self._send.close()


class CancelStream:
    """Outcomes in the order of completion, for ``async for``. Made by :meth:`TradingWS.open_cancel_stream`.

    If the venue shows no sign of life, an item has its outcome within ``give_up_after`` + 5 s of its arrival or of the
    last sign of life, whichever was later.
    """

    __slots__ = ("_source",)

    def __init__(self, source: StreamSource) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    def __anext__(self) -> Awaitable[Outcome]:
        """Return the next outcome. Cancelled: none is lost.

        Raises whatever the input raised, after the outcomes of the items it gave before.
        """
        return self._source.next_outcome()

    @property
    def unsettled(self) -> tuple[CancelRequest, ...]:
        """The orders in flight now; after the block: those in flight at its exit that have not settled since."""
        out = self._source._out
        return tuple(order.request for order in out if order.latest is not None and order.outcome is None)

    @property
    def invalid(self) -> tuple[InvalidItem, ...]:
        """The items so far that named no order; empty unless ``invalid="report"`` was passed.

        They are kept for as long as the stream: nothing else in it grows with its input.
        """
        return tuple(self._source.invalid)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def run_stream(
    requests: Iterable[str | CancelRequest] | AsyncIterable[str | CancelRequest],
    policy: RetryPolicy,
    engine: Engine,
    invalid: Invalid = "raise",
) -> AsyncGenerator[CancelStream]:
    """Run a stream around a block, whose exception propagates unchanged, in no group."""
    check_iterable(requests)
    if not isinstance(requests, Iterable | AsyncIterable):
        raise InvalidRequest(f"A bulk cancel needs an iterable of order ids, not {type(requests).__name__}.")
    stream = StreamSource(policy, engine, len(requests) if isinstance(requests, Sized) else None, invalid)
    intake_ended = trio.Event()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the block, not into a group of exceptions beside it
    async def intake() -> None:
        try:
            await stream.take_in(requests)
        finally:
            intake_ended.set()

    async with open_background() as nursery:
        try:
            nursery.start_soon(intake)
            engine.submit_source(stream, trio.current_time())
            yield CancelStream(stream)
        finally:
            nursery.cancel_scope.cancel()
            try:
                await stream.close()  # noqa: ASYNC102 - it shields itself, and ends by itself
            finally:
                with trio.CancelScope(shield=True):  # (Ctrl-C may end even a wait that is shielded.)
                    await intake_ended.wait()
