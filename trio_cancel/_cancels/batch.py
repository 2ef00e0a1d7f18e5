"""A bulk cancel that can be interrupted and still accounts for every order.

A :class:`Batch` materialises its input before anything is sent and keeps one slot for each distinct order. The
engine asks it for as many orders as there is room for (no task an order, no queue that grows) and settles them into
their slots; a memory channel of size 1 only tells ``run`` that the last one has settled. If ``run`` is cancelled, what
is not written is withdrawn, what is written goes on settling into its slot while the connection lives, and ``report``
tells it all at any time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Literal, TypeAlias

import attrs
import trio

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


@attrs.define
class Input:
    """The input of a bulk cancel, as far as it has been read.

    Attributes:
        requests: the distinct orders, in the order in which they first came.
        slot_of: for each item that names an order the index of that order in ``requests``.
        invalid: a record for each item that names none.
    """

    requests: list[CancelRequest] = attrs.field(factory=list)
    slot_of: list[int] = attrs.field(factory=list)
    invalid: list[InvalidItem] = attrs.field(factory=list)

    @property
    def is_large(self) -> bool:
        """True if more than a slice has been read, or just one."""
        return len(self.slot_of) + len(self.invalid) >= SLICE

    def read(self, items: Iterable[str | CancelRequest], invalid: Invalid = "raise") -> Generator[None]:
        """Materialise and check items, a slice with each step, so that others can have their turn in between.

        Raises:
            InvalidRequest: for a bare string or a mapping; unless ``invalid`` is ``"report"``, for an item that is not
                a request, naming its index.
        """
        check_iterable(items)
        try:
            # What is there as a whole is copied: nobody can change it in between.
            iterator = iter(list(items) if isinstance(items, Collection) else items)
        except TypeError:
            if isinstance(items, Iterable):
                raise  # its own failure
            raise InvalidRequest(f"A bulk cancel needs an iterable, not {type(items).__name__}.") from None
        slots: dict[str | CancelRequest, int] = {}
        index = 0
        while some := list(islice(iterator, SLICE)):
            try:
                found = [item if isinstance(item, CancelRequest) else request_by_id(item) for item in some]
            except InvalidRequest:
                found = self._read_with_care(some, index, invalid)
            index += len(some)
            # An order that stands there twice is canceled once. Ids are compared as strings, which is far cheaper than
            # to compare requests.
            where = [
                slots.setdefault(
                    r if r.id is None else r.id.lower() if r.id.isascii() else canonical_id(r.id), len(slots)
                )
                for r in found
            ]
            if len(slots) == len(self.requests) + len(found):
                self.requests += found
            else:
                for slot, request in zip(where, found, strict=True):
                    if slot == len(self.requests):
                        self.requests.append(request)
            self.slot_of += where
            yield

    def _read_with_care(self, some: list[str | CancelRequest], index: int, invalid: Invalid) -> list[CancelRequest]:
        good: list[CancelRequest] = []
        for number, item in enumerate(some, index):
            try:
                good.append(as_request(item, number))
            except InvalidRequest as error:
                if invalid == "raise":
                    raise
                self.invalid.append(InvalidItem(number, item, error))
        return good


SLICE = 2_000
"""Items that are read, and outcomes that are put into a report, in one step at most."""


class _Item(OrderCancel):
    """One order of a batch; who makes it sets ``batch`` and ``slot``, which saves a constructor of its own."""

    __slots__ = ("batch", "slot")
    batch: Batch
    slot: int

    def deliver(self) -> None:
        batch = self.batch
        batch._slots[self.slot] = self.outcome
        batch._unsettled -= 1
        if not batch._unsettled:
            batch._tell_if_done()


class Batch:
    """A bulk cancel that exists before anything is sent. Made by :meth:`TradingWS.batch`.

    ``await batch.run()`` under any cancel scope; ``batch.report()`` at any time, also afterwards. Where the venue gives
    no sign of life, ``run`` returns within ``give_up_after`` + 5 s of its call or of the last sign of life, whichever
    was later.
    """

    def __init__(
        self,
        orders: Input,
        terms: RetryPolicy,
        engine: Engine,
        check_open: Callable[[], None],
        journal_failed: Callable[[], bool],
    ) -> None:
        self._invalid = tuple(orders.invalid)
        self._slot_of = orders.slot_of
        self._requests = orders.requests
        # For each order: None until its turn has come, then what is under way, then its outcome.
        self._slots: list[Outcome | _Item | None] = [None] * len(self._requests)
        self._next = 0
        self._unsettled = len(self._requests)
        self.terms = terms
        self._engine = engine
        self._check_open = check_open
        self._journal_failed = journal_failed
        self._started = False
        self._ended = False
        self._refused: BaseException | None = None
        self._done, self._wait_done = trio.open_memory_channel[None](1)
        self.held_since: float = math.inf  # trio's clock when it was handed in

    def __len__(self) -> int:
        return len(self._slot_of)

    async def run(self) -> CancelReport:
        """Cancel every order; return the report once each has its outcome.

        It never raises for what the venue says, and never because of one order.

        Raises:
            SessionClosed: the session's block has ended.
            trio.BusyResourceError: it is running or has run; a batch runs once.

        Cancelled: no further order is written; what is in flight is tracked on, see :meth:`report`.
        """
        self._check_open()
        if self._started:
            raise trio.BusyResourceError("a batch runs once; make another for another run")
        self._started = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # who is cancelled already has nothing written
            if self._unsettled:
                self.held_since = trio.current_time()
                self._engine.count_queued(self._requests)
                self._engine.submit_source(self, self.held_since)
                await self._wait_done.receive()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self._end()
        building = self._build_report()
        while True:
            try:
                next(building)
            except StopIteration as end:
                report: CancelReport = end.value
                return report
            await trio.lowlevel.cancel_shielded_checkpoint()  # all is done: what is known is not lost any more

    @trio.lowlevel.enable_ki_protection
    def _end(self) -> None:
        self._ended = True
        self._engine.remove_source(self)
        if self._unsettled:
            for slot in range(self._next):
                content = self._slots[slot]
                if isinstance(content, _Item):
                    self._engine.abandon(content)

    def report(self) -> CancelReport:
        """Return one outcome for every input that names an order, in their order, as far as is known now.

        What is in flight is :class:`Unknown`, what has not been written :class:`NotSent`; such an outcome is not
        ``final`` while it can still change. Each call tells the latest. It is made in one step: some 0.1 s for 200 000
        orders; the one that :meth:`run` returns is made in slices, so that other tasks go on.
        """
        building = self._build_report()
        while True:
            try:
                next(building)
            except StopIteration as end:
                report: CancelReport = end.value
                return report

    def _build_report(self) -> Generator[None, None, CancelReport]:
        """Make the report, a slice with each step; what changes meanwhile is told as it is when its slice is made."""
        outcomes: list[Outcome] = []
        slots = self._slots
        cause, final = self._why_not_written()
        for first in range(0, len(slots), SLICE):
            outcomes += [
                NotSent(self._requests[slot], cause=cause, final=final)
                if content is None
                else self._outcome_now(content, cause, final)
                if isinstance(content, _Item)
                else content
                for slot, content in enumerate(slots[first : first + SLICE], first)
            ]
            yield
        told = outcomes
        if len(self._slot_of) > len(outcomes):
            told = []
            for first in range(0, len(self._slot_of), SLICE):
                told += [outcomes[slot] for slot in self._slot_of[first : first + SLICE]]
                yield
        return CancelReport(tuple(told), journal_failed=self._journal_failed(), invalid=self._invalid)

    def _outcome_now(self, pending: _Item, cause: BaseException, final: bool) -> Outcome:
        if pending.flights:
            return pending.conclude(NoReply("no answer has come yet"), self._engine.table.clock, final=False)
        return NotSent(pending.request, cause=cause, final=final)

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
        return self._next < len(self._requests)

    def take(self, most: int) -> list[OrderCancel]:
        """Return the next orders, at most so many."""
        begin = self._next
        end = self._next = min(begin + most, len(self._requests))
        requests, terms, held_since = self._requests, self.terms, self.held_since
        taken: list[OrderCancel] = []
        for slot in range(begin, end):
            item = _Item(requests[slot], terms)
            item.batch = self
            item.slot = slot
            item.held_since = held_since
            self._slots[slot] = item
            taken.append(item)
        return taken

    def take_last(self, most: int) -> list[OrderCancel]:
        """Return the next orders that get their last chance, at most so many."""
        return self.take(most)

    def behind(self) -> int:
        """Return how many orders have not been asked for yet."""
        return len(self._requests) - self._next

    def give_up(self, cause: BaseException, before: float) -> bool:  # noqa: ARG002 - all came at once
        """Settle everything that has not been asked for."""
        self.refuse(cause)
        return True

    def refuse(self, cause: BaseException) -> None:
        """Settle everything that has not been asked for: it will never be sent."""
        self._refused = cause
        self._unsettled -= len(self._requests) - self._next
        self._next = len(self._requests)
        self._tell_if_done()

    def give_up_after(self) -> float:
        """Return how many seconds it waits for a sign of life."""
        return self.terms.give_up_after

    def _tell_if_done(self) -> None:
        if not self._unsettled and not self._ended:
            with suppress(trio.WouldBlock):  # it has been told already
                self._done.send_nowait(None)
