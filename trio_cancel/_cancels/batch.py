"""A bulk cancel that can be interrupted and still accounts for every order.

The engine asks a batch for as many orders as there is room for: no task per order, and no queue that grows. When an
order settles, it is recorded in the ledger (``_values.kept``) in the same step, in whichever task, so no other task has
to run for it. ``run`` is woken when there is nothing more to wait for. If it is cancelled, or the block exits, orders
that have not been written are withdrawn, and written ones continue to settle into the ledger while the connection
lives. So ``report`` has the latest state at any time.

For a reader's ``async for``, the places of the settled orders wait in a queue beside the ledger. Everything that has to
be done for each order is done in slices, with other tasks' turns in between: reading and checking a large input, and
withdrawing orders after an interruption. Settling is bounded by the engine's steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import TracebackType
from typing import Literal, Self, TypeAlias, cast

import msgspec
import trio

from trio_cancel._engine.engine import Engine
from trio_cancel._engine.order import OrderCancel, RetryPolicy
from trio_cancel._session.session import Session
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.errors import ConfigurationError, InvalidRequest, NoReply, NotWritten
from trio_cancel._values.kept import CHUNK, ByExternalId, Ledger, Name, Repeats, name_of
from trio_cancel._values.models import CancelRequest, canonical_id, request_by_id
from trio_cancel._values.outcomes import NotSent, Outcome
from trio_cancel._values.report import CancelReport, InvalidItem

Invalid: TypeAlias = Literal["raise", "report"]
"""What to do with an item that names no order: the bulk cancel raises, or reports it and cancels the rest."""


def check_invalid(invalid: object) -> None:
    """Raise ConfigurationError for an unknown word for ``invalid``."""
    if invalid not in ("raise", "report"):
        raise ConfigurationError(f'invalid must be "raise" or "report", not {invalid!r}.')


def as_request(item: object, index: int) -> CancelRequest:
    """Return an order id or a request as a request, or raise InvalidRequest with the item's index."""
    where = f"Item {index} of the requests: "
    if isinstance(item, CancelRequest):
        return item
    if not isinstance(item, str):
        raise InvalidRequest(f"{where}an order id (a string) or a CancelRequest is needed, not {type(item).__name__}.")
    try:
        return request_by_id(item)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}{error}") from None


def check_iterable(requests: object) -> None:
    """Raise InvalidRequest for an iterable that is not a list of order ids: one id, one request, a mapping."""
    kind = type(requests).__name__
    if isinstance(requests, str | CancelRequest):
        raise InvalidRequest(f"A bulk cancel needs an iterable of order ids, not one {kind}; put it into a list.")
    if isinstance(requests, bytes | bytearray | memoryview):
        raise InvalidRequest(
            f"A bulk cancel needs an iterable of order ids (strings), not one {kind}; decode it first."
        )
    if isinstance(requests, Mapping):
        # Its keys may be ids, or "id" and "external_id", or something else: nobody can tell.
        raise InvalidRequest(
            f"A bulk cancel needs an iterable of order ids, not a mapping ({kind}); "
            "give list(mapping) for its keys, mapping.values() for its values, "
            "or CancelRequest(**mapping) for one order."
        )


YIELD_EVERY = 64
"""Outcomes after which a reader, which may never wait, lets others run."""
SLICE = 1_000
"""Items that are read in one step, at most."""
WITHDRAWN_AT_ONCE = 2_000
"""Orders that are withdrawn in one step, at most."""


async def withdraw(engine: Engine, orders: Iterable[OrderCancel]) -> None:
    """Abandon orders in slices, with other tasks' turns in between. It shields itself, and ends by itself."""
    for number, order in enumerate(tuple(orders)):
        if number and number % WITHDRAWN_AT_ONCE == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()
        engine.abandon(order)


_SHARDS = 64
"""Tables that share what has been seen of a large input, so that growing or dropping one takes hardly any time."""

_ROW = 1_024
_Row = msgspec.defstruct("_Row", [f"item_{number}" for number in range(_ROW)], gc=False, eq=False)
"""This many items of a copied input, until they are read. The garbage collector would visit a list of all of them."""


def _copied(items: Collection[str | CancelRequest]) -> Iterator[str | CancelRequest]:
    """Return an iterator over what is in a collection now."""
    now = items if type(items) in (list, tuple) else list(items)
    assert isinstance(now, list | tuple)
    whole = len(now) - len(now) % _ROW
    rows: deque[msgspec.Struct | None] = deque(_Row(*now[begin : begin + _ROW]) for begin in range(0, whole, _ROW))
    rows.append(None)
    return chain(chain.from_iterable(map(msgspec.structs.astuple, iter(rows.popleft, None))), tuple(now[whole:]))


_Key: TypeAlias = str | ByExternalId


def _key_of(name: Name) -> _Key:
    """Return a key that two names of one order share; comparing keys is far faster than comparing requests."""
    if isinstance(name, CancelRequest):
        return ByExternalId(name.key) if name.id is None else canonical_id(name.id)
    return canonical_id(name) if isinstance(name, str) else name


class Input:
    """The input of a bulk cancel, as far as it has been read.

    One name is kept for each distinct order, in tuples of ``CHUNK``: see ``_values.kept``. A collection is copied, so
    that nobody can change it while it is read.

    Raises:
        InvalidRequest: for a bare string or a mapping.
    """

    __slots__ = ("_index", "_iterator", "_last", "_raises", "_seen", "invalid", "names", "orders", "repeats")

    def __init__(self, items: Iterable[str | CancelRequest], invalid: Invalid = "raise") -> None:
        check_iterable(items)
        self.names: list[tuple[Name, ...]] = []  # of the distinct orders, in the order in which they first came
        self.orders: int = 0  # how many of them there are
        self.repeats: Repeats = Repeats()  # which of the items that name an order repeat an earlier one
        self.invalid: list[InvalidItem] = []  # the items that name none
        self._last: list[Name] = []  # those after the last whole tuple
        self._raises = invalid == "raise"
        self._seen: list[dict[_Key, int]] = []  # the place of each order, in the table chosen by its key's hash
        self._index = 0
        try:
            self._iterator = _copied(items) if isinstance(items, Collection) else iter(items)
        except TypeError:
            if isinstance(items, Iterable):
                raise  # its own failure
            raise InvalidRequest(f"A bulk cancel needs an iterable, not {type(items).__name__}.") from None

    def __len__(self) -> int:
        return self.orders + len(self.repeats)

    def read_some(self) -> bool:
        """Read and check a slice, or after the last one forget some of what is no longer needed.

        Return True if there may be more to do.

        Raises:
            InvalidRequest: unless ``invalid`` is ``"report"``, for an item that names no order, with its index.
        """
        some = list(islice(self._iterator, SLICE))
        names, keys = self._check(some)
        self._index += len(some)
        whole = len(some) < SLICE
        if self._seen or not whole or len(set(keys)) < len(keys):
            names = self._distinct(names, keys, 1 if whole else _SHARDS)
        self.orders += len(names)
        last = self._last
        last += names
        while len(last) >= CHUNK:
            self.names.append(tuple(last[:CHUNK]))
            del last[:CHUNK]
        if not whole:
            return True
        if last:
            self.names.append(tuple(last))
            last.clear()
        self._iterator = iter(())
        # Dropping what has been seen takes as long as reading it did.
        del self._seen[-max(1, 4 * SLICE * len(self._seen) // max(1, self.orders)) :]
        return bool(self._seen)

    def _check(self, some: list[str | CancelRequest]) -> tuple[Sequence[Name], list[_Key]]:
        """Return the names in a slice, and the keys for comparing them."""
        texts = cast("list[str]", some)
        # As `request_by_id` does for nearly every id, but for all of them at once, without a call of ours for each.
        plain = set(map(type, some)) == {str} and all(texts) and all(map(str.isascii, texts))
        if plain and list(map(str.strip, texts)) == texts:
            return texts, list(map(str.lower, texts))
        try:
            names = [name_of(item if isinstance(item, CancelRequest) else request_by_id(item)) for item in some]
        except InvalidRequest:
            names = self._check_with_care(some)
        return names, list(map(_key_of, names))

    def _check_with_care(self, some: list[str | CancelRequest]) -> list[Name]:
        good: list[Name] = []
        for number, item in enumerate(some, self._index):
            try:
                good.append(name_of(as_request(item, number)))
            except InvalidRequest as error:
                if self._raises:
                    raise
                self.invalid.append(InvalidItem(number, item, error))
        return good

    def _distinct(self, names: Sequence[Name], keys: list[_Key], shards: int) -> Sequence[Name]:
        """Return the names that have not been seen before, and note the others: such an order is canceled once."""
        if not self._seen:
            self._seen = [{} for _ in range(shards)]
        seen, last = self._seen, len(self._seen) - 1
        first = self.orders
        places = [seen[hash(key) & last].setdefault(key, place) for place, key in enumerate(keys, first)]
        if sum(places) == sum(range(first, first + len(places))):
            return names  # each has the place that it was offered: none was there
        new: list[Name] = []
        item = len(self)
        for number, (place, name, key) in enumerate(zip(places, names, keys, strict=True)):
            if place == first + number:
                seen[hash(key) & last][key] = first + len(new)  # fewer came before than it seemed
                new.append(name)
            else:
                self.repeats.add(item + number, seen[hash(key) & last][key])
        return new


class BatchSource:
    """A batch as the engine sees it, and the state behind :class:`Batch`, which says what its methods do."""

    def __init__(self, items: Input, policy: RetryPolicy, session: Session) -> None:
        self._policy = policy
        self._input = items
        self._session = session
        self._engine = session.engine
        self._unread = items.read_some()
        self._unreadable: BaseException | None = None  # why the rest of the input cannot be read
        self._orders = 0  # how many there are, once all have been read
        self._ledger = Ledger(())  # what is kept of them
        self._asked = 0  # how many of them the engine has taken
        self._out: dict[OrderCancel, None] = {}  # taken, and not settled
        self._wakeup = Wakeup()  # for the task that waits: there is an outcome to read, or no more will come
        self._started = False
        self._ended = False
        self._untold: deque[int] | None = None  # the places that the reader has not had, if there is a reader
        self._reading = False
        self._unyielded = 0  # outcomes read since other tasks could run
        self._rest = 0  # from this place on, the reader has had none of the orders that were never taken
        self._refused: BaseException | None = None
        self._interrupted = NotWritten("the batch was interrupted before its turn came")  # one for all
        self.held_since: float = math.inf  # trio's clock when it was handed in
        if not self._unread:
            self._have_read()

    def count(self) -> int:
        """Return how many items name an order; reads the rest of the input."""
        self._read_rest()
        return len(self._input)

    def _have_read(self) -> None:
        """Note that the whole input has been read."""
        self._unread = False
        self._orders = self._input.orders
        self._ledger = Ledger(self._input.names)

    def _read_on(self) -> None:
        """Read another slice of the input; an error in it is raised now and whenever the input is needed."""
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
        self._session.check_open()
        if self._started:
            raise trio.BusyResourceError("a batch runs once; make another for another run")
        self._started = True

    async def read(self) -> None:
        while self._unread:
            await trio.lowlevel.checkpoint()
            self._read_on()
        await trio.lowlevel.checkpoint()

    async def _begin(self) -> None:
        """Read the input and hand in the orders."""
        await trio.lowlevel.checkpoint_if_cancelled()  # if the caller is already cancelled, nothing is written
        while self._unread:
            self._read_on()
            await trio.lowlevel.checkpoint()
        if self._orders:
            self.held_since = trio.current_time()
            self._engine.count_queued(self._orders)
            self._engine.submit_source(self, self.held_since)
        else:
            await trio.lowlevel.checkpoint()

    async def run(self) -> CancelReport:
        self._start()
        try:
            await self._begin()
            if self._orders:
                while self._out or self.waiting:
                    await self._wakeup.wait()
        finally:
            await self.end()  # noqa: ASYNC102 - it shields itself, and ends by itself
        return self.report()

    @trio.lowlevel.enable_ki_protection
    async def enter(self) -> None:
        self._start()
        self._untold = deque()
        try:
            await self._begin()
        except BaseException:
            await self.end()  # noqa: ASYNC102 - as above
            raise

    async def next_outcome(self) -> Outcome:
        if self._untold is None:
            why = "run() returns all its outcomes" if self._started else "async with batch as outcomes: …"
            raise ConfigurationError(f"A batch yields its outcomes in its block, and after that: {why}.")
        if self._reading:
            raise trio.BusyResourceError("another task waits for this batch's next outcome")
        self._reading = True
        try:
            return await self._next(self._untold)
        finally:
            self._reading = False

    async def _next(self, untold: deque[int]) -> Outcome:
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
            await self._wakeup.wait()
            self._unyielded = 0
        outcome = self._ledger.outcome(untold.popleft())
        assert outcome is not None  # it has been recorded
        return outcome

    def _next_of_rest(self) -> Outcome | None:
        """Return the next outcome of an order that was never taken; None if there is none."""
        place = max(self._rest, self._asked)
        if place >= self._orders:
            return None
        self._rest = place + 1
        (request,) = self._ledger.requests(place, 1)
        return NotSent(request, cause=self._why_not_written()[0])

    @trio.lowlevel.enable_ki_protection
    async def end(self) -> None:
        """Withdraw orders without an outcome, in slices."""
        self._ended = True
        self._engine.remove_source(self)
        await withdraw(self._engine, self._out)

    def report(self) -> CancelReport:
        self._read_rest()
        cause, final = self._why_not_written()  # one for all
        under_way = [(order.place, self._outcome_now(order, cause, final)) for order in self._out]
        outcomes = self._ledger.outcomes(under_way, self._input.repeats, cause, final)
        return CancelReport(outcomes, journal_failed=self._session.journal_failed(), invalid=tuple(self._input.invalid))

    def _outcome_now(self, order: OrderCancel, cause: BaseException, final: bool) -> Outcome:
        if order.latest is not None:
            return order.conclude(NoReply("no answer has come yet"), self._engine.clock.interval, final=False)
        return NotSent(order.request, cause=cause, final=final)

    def _why_not_written(self) -> tuple[BaseException, bool]:
        """Return why orders have not been written, and whether that is final."""
        if self._refused is not None:
            return self._refused, True
        if self._ended:
            return self._interrupted, True
        return NotWritten("its turn has not come yet"), False

    # What the engine calls; see its protocols `Source` and `SettledTo`

    @property
    def waiting(self) -> bool:
        return self._asked < self._orders and self._refused is None

    def take(self, most: int) -> list[OrderCancel]:
        if self._refused is not None:
            return []
        begin = self._asked
        some = self._ledger.requests(begin, most)
        self._asked += len(some)
        policy, held_since = self._policy, self.held_since
        taken = [
            OrderCancel(request, policy, self, False, place, held_since) for place, request in enumerate(some, begin)
        ]
        self._out.update(dict.fromkeys(taken))
        self._engine.notify_queued(some)
        return taken

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, order: OrderCancel) -> None:
        del self._out[order]
        self._ledger.tell(order.place, order.result)
        if self._untold is not None:
            self._untold.append(order.place)
            self._wakeup.ring()
        elif not self._out and not self.waiting:
            self._wakeup.ring()

    def take_last(self, most: int) -> list[OrderCancel]:
        return self.take(most)

    def behind(self) -> int:
        return self._orders - self._asked if self._refused is None else 0

    def give_up(self, cause: BaseException, before: float) -> bool:  # noqa: ARG002 - all came at once
        self.refuse(cause)
        return True

    def refuse(self, cause: BaseException) -> None:
        if self._refused is None:
            self._refused = cause
            self._wakeup.ring()

    def give_up_after(self) -> float:
        return self._policy.give_up_after


class Batch:
    """A bulk cancel that exists before anything is sent, and accounts for every order. Made by :meth:`TradingWS.batch`.

    Use ``await batch.run()`` under any cancel scope, or, to have each outcome as it settles::

        async with batch as outcomes:
            async for outcome in outcomes:
                ...

    and ``batch.report()`` at any time, also afterwards. Each distinct order is yielded once, in the order of
    completion. A slow reader does not hold the cancels back. Leaving the block early, in any way, has the same effect
    as cancelling ``run``: nothing more is written, and orders in flight are still tracked. You can iterate after the
    block over the outcomes that were not read by then: first those of orders in flight, as they settle, then those of
    orders that were never written.

    If the venue shows no sign of life, every order has its outcome within ``give_up_after`` + 5 s of when the batch was
    run or entered, or of the last sign of life, whichever was later. ``len(batch)`` is the number of items.
    """

    __slots__ = ("_source",)

    def __init__(self, source: BatchSource) -> None:
        self._source = source

    def __repr__(self) -> str:
        return "<Batch>"

    def __len__(self) -> int:
        return self._source.count()

    async def check(self) -> None:
        """Read and check the whole input, and send nothing. ``run`` does this itself; it is done once.

        It lets other tasks run in between. ``len(batch)`` and ``batch.report()`` cannot: they read what has not been
        read at once, which takes about a second for a million orders.

        Raises:
            InvalidRequest: an item of a large input names no order, see :meth:`TradingWS.batch`.

        Cancelled: the rest of the input is read later.
        """
        await self._source.read()

    async def run(self) -> CancelReport:
        """Cancel every order; return the report once each has its outcome.

        It never raises because of what the venue says, or because of one order.

        Raises:
            InvalidRequest: an item of a large input names no order, see :meth:`TradingWS.batch`. Nothing was sent.
            SessionClosed: the session's block has ended.
            trio.BusyResourceError: it is running or has run; a batch runs once.

        Cancelled: no further order is written; orders in flight are still tracked, see :meth:`report`. If there are
        very many orders, the rest is withdrawn in slices before ``trio.Cancelled`` propagates.
        """
        return await self._source.run()

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Hand in the orders. It raises and can be cancelled like :meth:`run`."""
        await self._source.enter()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Withdraw orders that have no outcome and are not written, in slices, shielded."""
        await self._source.end()  # noqa: ASYNC102 - it shields itself, and ends by itself

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    def __anext__(self) -> Awaitable[Outcome]:
        """Return the next outcome.

        Raises:
            ConfigurationError: called neither in its block nor after it.
            trio.BusyResourceError: another task waits for the next one.

        Cancelled: none is lost.
        """
        return self._source.next_outcome()

    def report(self) -> CancelReport:
        """Return one outcome for every input item that names an order, in their order, as far as is known now.

        An order in flight is :class:`Unknown`, one that has not been written is :class:`NotSent`; such an outcome is
        not ``final`` while it can still change. Each call returns the latest state. It takes a few milliseconds,
        however many orders there are, unless some of the input has not been read yet: see :meth:`check`.

        Raises:
            InvalidRequest: an item of a large input names no order, see :meth:`TradingWS.batch`.
        """
        return self._source.report()
