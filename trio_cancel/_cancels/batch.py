"""A bulk cancel that can be interrupted and still accounts for every order.

A batch keeps one slot for each distinct order. The engine asks it for as many orders as there is room for: no
task per order, no queue that grows. They settle into one memory channel with room for all of them, from which ``run``
or the reader's ``async for`` puts the outcomes into their slots. If that is cancelled or the block is left, what is not
written is withdrawn, what is written goes on settling into the channel while the connection lives, and ``report`` and
the reader take it from there at any time.

The reader's task owns the slots; ``report`` and the engine's calls change them only between two awaits. For a reader,
what has been taken from the channel waits in a queue, so that a report in between takes nothing from it. Whatever
concerns each order is done in slices, with other tasks' turns in between: reading and checking a large input, taking
outcomes, withdrawing what was interrupted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Literal, Self, TypeAlias, cast

import trio

from trio_cancel._cancels.withdraw import withdraw
from trio_cancel._engine.engine import Engine
from trio_cancel._engine.order import OrderCancel, RetryPolicy
from trio_cancel._values.errors import ConfigurationError, InvalidRequest, NoReply, NotWritten
from trio_cancel._values.models import CancelRequest, canonical_id, request_by_id
from trio_cancel._values.outcomes import CancelReport, InvalidItem, NotSent, Outcome

Invalid: TypeAlias = Literal["raise", "report"]
"""What becomes of an item that names no order: the bulk cancel raises, or reports it and cancels the rest."""


def check_invalid(invalid: object) -> None:
    """Refuse a word for ``invalid`` that is not known.

    Raises:
        ConfigurationError: as said.
    """
    if invalid not in ("raise", "report"):
        raise ConfigurationError(f'invalid must be "raise" or "report", not {invalid!r}.')


def as_request(item: object, index: int | None = None) -> CancelRequest:
    """Return an order id or a request as a request.

    Raises:
        InvalidRequest: naming the item's index, if one is given.
    """
    where = "" if index is None else f"Item {index} of the requests: "
    if isinstance(item, CancelRequest):
        return item
    if not isinstance(item, str):
        raise InvalidRequest(f"{where}an order id (a string) or a CancelRequest is needed, not {type(item).__name__}.")
    try:
        return request_by_id(item)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}{error}") from None


def check_iterable(requests: object) -> None:
    """Refuse what can be iterated but is not a number of order ids: one id, one request, a mapping.

    Raises:
        InvalidRequest: naming what it is.
    """
    kind = type(requests).__name__
    if isinstance(requests, str | CancelRequest):
        raise InvalidRequest(f"A bulk cancel needs an iterable of order ids, not one {kind}; put it into a list.")
    if isinstance(requests, bytes | bytearray | memoryview):
        raise InvalidRequest(
            f"A bulk cancel needs an iterable of order ids (strings), not one {kind}; decode it first."
        )
    if isinstance(requests, Mapping):
        # Its keys may be ids, or "id" and "external_id", or names of something else: nobody can tell.
        raise InvalidRequest(
            f"A bulk cancel needs an iterable of order ids, not a mapping ({kind}); "
            "give list(mapping) for its keys, mapping.values() for its values, "
            "or CancelRequest(**mapping) for one order."
        )


YIELD_EVERY = 64
"""Outcomes after which a reader, which may never wait, lets others run."""
SLICE = 2_000
"""Items that are read, and outcomes that are taken or made, in one step at most."""


class Input:
    """The input of a bulk cancel, as far as it has been read.

    Args:
        items: order ids or requests. A collection is copied: nobody can change it while it is read.
        invalid: what becomes of an item that names no order.

    Raises:
        InvalidRequest: for a bare string or a mapping.

    Attributes:
        requests: the distinct orders, in the order in which they first came.
        slot_of: for each item that names an order the index of that order in ``requests``; None while each item names
            another order, so that it is its own index.
        invalid: a record for each item that names none.
    """

    __slots__ = ("_index", "_iterator", "_raises", "_slots", "invalid", "requests", "slot_of")

    def __init__(self, items: Iterable[str | CancelRequest], invalid: Invalid = "raise") -> None:
        check_iterable(items)
        self.requests: list[CancelRequest] = []
        self.slot_of: list[int] | None = None
        self.invalid: list[InvalidItem] = []
        self._raises = invalid == "raise"
        self._slots: dict[str | CancelRequest, int] = {}
        self._index = 0
        try:
            self._iterator = iter(list(items) if isinstance(items, Collection) else items)
        except TypeError:
            if isinstance(items, Iterable):
                raise  # its own failure
            raise InvalidRequest(f"A bulk cancel needs an iterable, not {type(items).__name__}.") from None

    def read_some(self) -> bool:
        """Read and check a slice; return True if there may be more.

        Raises:
            InvalidRequest: unless ``invalid`` is ``"report"``, for an item that names no order, with its index.
        """
        some = list(islice(self._iterator, SLICE))
        try:
            found = [item if isinstance(item, CancelRequest) else request_by_id(item) for item in some]
        except InvalidRequest:
            found = self._read_with_care(some)
        self._index += len(some)
        # An order that stands there twice is canceled once. Ids are compared as strings, which is far cheaper than to
        # compare requests.
        slots, requests = self._slots, self.requests
        where = [
            slots.setdefault(r if r.id is None else r.id.lower() if r.id.isascii() else canonical_id(r.id), len(slots))
            for r in found
        ]
        if len(slots) < len(requests) + len(found) and self.slot_of is None:
            self.slot_of = list(range(len(requests)))
        if self.slot_of is None:
            requests += found
        else:
            self.slot_of += where
            for slot, request in zip(where, found, strict=True):
                if slot == len(requests):
                    requests.append(request)
        if len(some) == SLICE:
            return True
        self._iterator, self._slots = iter(()), {}  # which may be as large as all else
        return False

    def _read_with_care(self, some: list[str | CancelRequest]) -> list[CancelRequest]:
        good: list[CancelRequest] = []
        for number, item in enumerate(some, self._index):
            try:
                good.append(as_request(item, number))
            except InvalidRequest as error:
                if self._raises:
                    raise
                self.invalid.append(InvalidItem(number, item, error))
        return good


class BatchSource:
    """A batch as the engine sees it, and the state behind :class:`Batch`."""

    def __init__(
        self,
        items: Input,
        terms: RetryPolicy,
        engine: Engine,
        check_open: Callable[[], None],
        journal_failed: Callable[[], bool],
    ) -> None:
        self.terms = terms
        self._input = items
        self._engine = engine
        self._check_open = check_open
        self._journal_failed = journal_failed
        self._unread = items.read_some()
        self._unreadable: BaseException | None = None  # why the rest of the input cannot be read
        self._requests: list[CancelRequest] = []  # all of them, once they have been read
        self._slots: list[Outcome | None] = []  # for each order its outcome
        self._asked = 0  # how many of them the engine has asked for
        self._filled = 0  # up to here there is an outcome for those that it never asked for
        self._out: dict[OrderCancel, None] = {}  # asked for, and not back from the channel
        self._send: trio.MemorySendChannel[OrderCancel]
        self._settled: trio.MemoryReceiveChannel[OrderCancel]
        self._started = False
        self._ended = False
        self._untold: deque[Outcome] | None = None  # taken from the channel for a reader, if there is one
        self._reading = False
        self._unyielded = 0  # outcomes read since others could run
        self._rest = 0  # from here on, of those that it never asked for, the reader has none
        self._refused: BaseException | None = None
        self.held_since: float = math.inf  # trio's clock when it was handed in
        if not self._unread:
            self._have_read()

    def count(self) -> int:
        """Return how many items name an order; reads the rest of the input."""
        self._read_rest()
        slot_of = self._input.slot_of
        return len(self._requests) if slot_of is None else len(slot_of)

    def _have_read(self) -> None:
        """Note that the whole input has been read."""
        self._unread = False
        self._requests = self._input.requests
        self._slots = [None] * len(self._requests)
        self._send, self._settled = trio.open_memory_channel[OrderCancel](max(1, len(self._requests)))

    def _read_on(self) -> None:
        """Read another slice of the input; what is wrong with it is raised now and whenever it is needed."""
        if self._unreadable is not None:
            raise self._unreadable
        try:
            more = self._input.read_some()
        except BaseException as error:
            self._unreadable = error
            raise
        if not more:
            self._have_read()

    def _read_rest(self) -> None:
        while self._unread:
            self._read_on()

    def _start(self) -> None:
        self._check_open()
        if self._started:
            raise trio.BusyResourceError("a batch runs once; make another for another run")
        self._started = True

    async def _begin(self) -> None:
        """Read the input and hand the orders in."""
        await trio.lowlevel.checkpoint_if_cancelled()  # a caller that is cancelled already has nothing written
        while self._unread:
            self._read_on()
            await trio.lowlevel.checkpoint()
        if self._requests:
            self.held_since = trio.current_time()
            self._engine.count_queued(len(self._requests))
            self._engine.submit_source(self, self.held_since)
        else:
            await trio.lowlevel.checkpoint()

    async def run(self) -> CancelReport:
        """Cancel every order; see :meth:`Batch.run`."""
        self._start()
        try:
            await self._begin()
            if self._requests:
                await self._take_all()
        finally:
            await self.end()  # noqa: ASYNC102 - it shields itself, and ends by itself
        return self.report()

    @trio.lowlevel.enable_ki_protection
    async def enter(self) -> None:
        """Begin for a reader; see :meth:`Batch.__aenter__`."""
        self._start()
        self._untold = deque()
        try:
            await self._begin()
        except BaseException:
            await self.end()  # noqa: ASYNC102 - as above
            raise

    async def next_outcome(self) -> Outcome:
        """Return the next outcome for the reader; see :meth:`Batch.__anext__`."""
        if self._untold is None:
            why = "run() returns all its outcomes" if self._started else "async with batch as outcomes: …"
            raise ConfigurationError(f"A batch tells its outcomes in its block, and after that: {why}.")
        if self._reading:
            raise trio.BusyResourceError("another task waits for this batch's next outcome")
        self._reading = True
        try:
            return await self._next(self._untold)
        finally:
            self._reading = False

    async def _next(self, untold: deque[Outcome]) -> Outcome:
        self._unyielded += 1
        if self._unyielded < YIELD_EVERY:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()
        self._read_rest()
        while not untold:
            if not self._out and (self._ended or not self.waiting):
                outcome = self._next_of_rest()
                if outcome is None:
                    await trio.lowlevel.checkpoint()
                    raise StopAsyncIteration
                return outcome
            with suppress(trio.EndOfChannel):  # the rest was refused, and nothing else is under way
                self._take(await self._settled.receive())
                self._unyielded = 0
                self._take_at_hand(SLICE)
        return untold.popleft()

    def _next_of_rest(self) -> Outcome | None:
        """Return the next outcome of those that were never asked for; None if there is none."""
        place = max(self._rest, self._asked)
        if place >= len(self._requests):
            return None
        self._rest = place + 1
        outcome = self._slots[place]
        if outcome is None:
            outcome = self._slots[place] = NotSent(self._requests[place], cause=self._why_not_written()[0])
        return outcome

    async def _take_all(self) -> None:
        """Take every outcome out of the channel, as they come."""
        settled = self._settled
        with suppress(trio.EndOfChannel):  # the rest was refused, and nothing else is under way
            while self._out or self.waiting:
                self._take(await settled.receive())
                self._take_at_hand(SLICE)

    def _take(self, order: OrderCancel) -> None:
        del self._out[order]
        self._slots[order.place] = order.outcome
        if self._untold is not None:
            self._untold.append(order.result)

    def _take_at_hand(self, most: int) -> None:
        out, slots, receive = self._out, self._slots, self._settled.receive_nowait
        untold = self._untold
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            for _ in range(most):
                order = receive()
                del out[order]
                slots[order.place] = order.outcome
                if untold is not None:
                    untold.append(order.result)

    @trio.lowlevel.enable_ki_protection
    async def end(self) -> None:
        """Withdraw what has no outcome, in slices."""
        self._ended = True
        self._engine.remove_source(self)
        await withdraw(self._engine, self._out)
        self._filled = self._asked
        cause, _ = self._why_not_written()  # one for all
        while self._filled < len(self._requests):
            first = self._filled
            some = self._requests[first : first + SLICE]
            told = self._slots[first : first + SLICE]  # some of which a reader may have
            self._slots[first : first + SLICE] = [
                outcome or NotSent(request, cause=cause) for request, outcome in zip(some, told, strict=True)
            ]
            self._filled = min(first + SLICE, len(self._requests))
            if self._filled < len(self._requests):
                await trio.lowlevel.cancel_shielded_checkpoint()

    def report(self) -> CancelReport:
        """Return what is known now; see :meth:`Batch.report`."""
        self._read_rest()
        if self._out:
            self._take_at_hand(len(self._out))
        outcomes = list(self._slots)
        cause, final = self._why_not_written()  # one for all
        for order in self._out:
            outcomes[order.place] = self._outcome_now(order, cause, final)
        first = max(self._asked, self._filled)
        outcomes[first:] = [NotSent(request, cause=cause, final=final) for request in self._requests[first:]]
        told = cast("list[Outcome]", outcomes)  # nothing is missing now
        if self._input.slot_of is not None:
            told = [told[slot] for slot in self._input.slot_of]
        return CancelReport(tuple(told), journal_failed=self._journal_failed(), invalid=tuple(self._input.invalid))

    def _outcome_now(self, order: OrderCancel, cause: BaseException, final: bool) -> Outcome:
        if order.outcome is not None:
            return order.outcome
        if order.flights:
            return order.conclude(NoReply("no answer has come yet"), self._engine.clock.interval, final=False)
        return NotSent(order.request, cause=cause, final=final)

    def _why_not_written(self) -> tuple[BaseException, bool]:
        """Return why what has not been written is not, and whether that is final."""
        if self._refused is not None:
            return self._refused, True
        if self._ended:
            return NotWritten("the batch was interrupted before its turn came"), True
        return NotWritten("its turn has not come yet"), False

    # What the engine calls

    @property
    def waiting(self) -> bool:
        """Whether it has an order to give now."""
        return self._asked < len(self._requests) and self._refused is None

    def take(self, most: int) -> list[OrderCancel]:
        """Return the next orders, at most so many."""
        if self._refused is not None:
            return []
        begin = self._asked
        some = self._requests[begin : begin + most]
        self._asked += len(some)
        terms, held_since, send = self.terms, self.held_since, self._send
        taken = [
            OrderCancel(request, terms, send, False, place, held_since) for place, request in enumerate(some, begin)
        ]
        self._out.update(dict.fromkeys(taken))
        self._engine.tell_queued(some)
        return taken

    def take_last(self, most: int) -> list[OrderCancel]:
        """Return the next orders that get their last chance, at most so many."""
        return self.take(most)

    def behind(self) -> int:
        """Return how many orders have not been asked for yet."""
        return len(self._requests) - self._asked if self._refused is None else 0

    def give_up(self, cause: BaseException, before: float) -> bool:  # noqa: ARG002 - all came at once
        """Settle everything that has not been asked for."""
        self.refuse(cause)
        return True

    def refuse(self, cause: BaseException) -> None:
        """Settle everything that has not been asked for: it will never be sent."""
        if self._refused is None:
            self._refused = cause
            if not self._out:
                self._send.close()

    def give_up_after(self) -> float:
        """Return how many seconds it waits for a sign of life."""
        return self.terms.give_up_after


class Batch:
    """A bulk cancel that exists before anything is sent, and accounts for every order. Made by :meth:`TradingWS.batch`.

    ``await batch.run()`` under any cancel scope, or, to have each outcome as it settles::

        async with batch as outcomes:
            async for outcome in outcomes:
                ...

    and ``batch.report()`` at any time, also afterwards. Each distinct order is told once, in the order of completion. A
    slow reader does not hold the cancels back. Leaving the block early, in whatever way, is what cancelling ``run`` is:
    nothing further is written, and what is in flight is tracked on. The outcomes that were not read by then can still
    be iterated after the block: those of what is in flight as they settle, then those of what was never written.

    Where the venue gives no sign of life, every order has its outcome within ``give_up_after`` + 5 s of when the batch
    was run or entered, or of the last sign of life, whichever was later. ``len(batch)`` is the number of items.
    """

    __slots__ = ("_source",)

    def __init__(self, source: BatchSource) -> None:
        self._source = source

    def __repr__(self) -> str:
        return "<Batch>"

    def __len__(self) -> int:
        return self._source.count()

    async def run(self) -> CancelReport:
        """Cancel every order; return the report once each has its outcome.

        It never raises for what the venue says, and never because of one order.

        Raises:
            InvalidRequest: an item of a large input names no order, see :meth:`TradingWS.batch`. Nothing was sent.
            SessionClosed: the session's block has ended.
            trio.BusyResourceError: it is running or has run; a batch runs once.

        Cancelled: no further order is written; what is in flight is tracked on, see :meth:`report`. Of very many orders
        the rest is withdrawn in slices before ``trio.Cancelled`` comes out.
        """
        return await self._source.run()

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Hand the orders in. Raises and is cancelled as :meth:`run`."""
        await self._source.enter()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Withdraw what has no outcome and is not written, in slices, shielded."""
        await self._source.end()  # noqa: ASYNC102 - it shields itself, and ends by itself

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    def __anext__(self) -> Awaitable[Outcome]:
        """Return the next outcome.

        Raises:
            ConfigurationError: neither in its block nor after it.
            trio.BusyResourceError: another task waits for the next one.

        Cancelled: none is lost.
        """
        return self._source.next_outcome()

    def report(self) -> CancelReport:
        """Return one outcome for every input that names an order, in their order, as far as is known now.

        What is in flight is :class:`Unknown`, what has not been written :class:`NotSent`; such an outcome is not
        ``final`` while it can still change. Each call tells the latest. It takes some milliseconds for 200 000 orders,
        and before the batch has ended some 0.1 s more, because outcomes are made then that do not stay.

        Raises:
            InvalidRequest: an item of a large input names no order, see :meth:`TradingWS.batch`.
        """
        return self._source.report()
