"""Faults of other clients, put back into ours one at a time, to see that the checker catches them.

Each patches a few functions of the library while its block runs, and counts the calls of what it put there: a defect
whose code never ran proves nothing. DEFECTS.md beside this says which seed catches which.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from typing import Any
from unittest.mock import patch

import attrs
import trio

from trio_cancel import AlreadyClosed, Canceled, CancelRequest, LookupFailed, Rejected
from trio_cancel._engine import replies as inbox
from trio_cancel._engine.engine import Engine
from trio_cancel._engine.in_flight import InFlight
from trio_cancel._engine.lookup_progress import settled_by
from trio_cancel._engine.order import LiveAttempt, OrderCancel
from trio_cancel._engine.replies import ReplyHandler
from trio_cancel._net.stream import ByteStream
from trio_cancel._net.websocket import Link
from trio_cancel._session.lookups import Lookups
from trio_cancel._session.writer import Writer
from trio_cancel._venue.codec import decode_reply
from trio_cancel._venue.verdict import Verdict, judge
from trio_cancel.lookup import OrderState, OrderStatus
from trio_cancel.types import CanceledOrder

Patch = Callable[[], Generator[None]]
CALLS: Counter[str] = Counter()
"""How often the code that was put in ran, by what it stands for, since a defect was put back last."""


@contextmanager
def swap(owner: object, name: str, replacement: Callable[..., Any]) -> Generator[None]:
    """Put a function, or a property that it computes, in place of ``owner``'s attribute while the block runs."""
    CALLS[name] += 0

    @wraps(replacement)
    def counted(*args: Any, **keywords: Any) -> Any:
        CALLS[name] += 1
        return replacement(*args, **keywords)

    is_property = isinstance(inspect.getattr_static(owner, name), property)
    with patch.object(owner, name, property(counted) if is_property else counted):
        yield


@contextmanager
def swap_everywhere(original: Callable[..., Any], replacement: Callable[..., Any]) -> Generator[None]:
    """Put a function in place of another one in every module of the library that has imported it."""
    name = original.__name__
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if module.__name__.startswith("trio_cancel") and getattr(module, name, None) is original:
                stack.enter_context(swap(module, name, replacement))
        yield


def send_under_the_callers_scope() -> Generator[None]:
    """A caller that is cancelled takes the write with it, and the next write goes into the middle of a frame."""
    sending: dict[ByteStream, trio.CancelScope] = {}
    finish, abandon = ByteStream.finish_send, InFlight.abandon

    async def finish_cancelled(stream: ByteStream) -> None:
        with trio.CancelScope() as sending[stream]:
            await finish(stream)
        if sending.pop(stream).cancelled_caught:
            stream.poisoned = False

    def abandon_sending(table: InFlight, pending: OrderCancel) -> None:
        for scope in sending.values():
            scope.cancel()
        abandon(table, pending)

    with swap(ByteStream, "finish_send", finish_cancelled), swap(InFlight, "abandon", abandon_sending):
        yield


def reply_of_the_wrong_connection() -> Generator[None]:
    """A reply is matched by its id alone, whatever connection it comes from."""
    read, down = ReplyHandler.read, Engine.connection_down

    def read_any(self: ReplyHandler, texts: Iterable[bytes | str], connection: int, now: float, wall: float) -> None:
        for text in texts:
            flight = self._in_flight.flights.get(decode_reply(text).id or "")
            read(self, [text], connection if flight is None else flight.connection, now, wall)

    def keep(self: Engine, connection: int, cause: BaseException | None, now: float) -> None:
        down(self, connection, cause, now)
        table = self._in_flight
        table.flights.update({flight.request_id: flight for p in table.active for flight in p.flights})

    with swap(ReplyHandler, "read", read_any), swap(Engine, "connection_down", keep):
        yield


def closed_called_canceled() -> Generator[None]:
    """ "Closed" after an unanswered attempt is taken for our own success."""

    def guess(request: Any, attempts: Any, *, error: Any, after_unanswered: bool, closed_as: Any) -> Any:
        if not after_unanswered:
            return AlreadyClosed(request, attempts, error=error, closed_as=closed_as)
        now, none = datetime.now(UTC), Decimal(0)
        numbers = (none, none, none, none, none, none)
        order = CanceledOrder(request.key, now, now, *numbers, "canceled", "limit", "BTC_BRL")
        return Canceled(request, attempts, error=error, after_unanswered=True, order=order)

    with swap(inbox, "AlreadyClosed", guess):
        yield


def request_id_reused() -> Generator[None]:
    """A second attempt goes out under the id of the first."""
    sign = Engine.sign

    def sign_again(
        self: Engine, admitted: list[OrderCancel], connection: int, now: float, wall: float
    ) -> tuple[list[LiveAttempt], list[bytes]]:
        flights: list[LiveAttempt] = []
        texts: list[bytes] = []
        for pending in admitted:
            last = self._next_id
            if pending.flights:
                self._next_id = int(pending.flights[0].request_id.rpartition("-")[2]) - 1
            more = sign(self, [pending], connection, now, wall)
            flights += more[0]
            texts += more[1]
            self._next_id = max(last, self._next_id)
        return flights, texts

    with swap(Engine, "sign", sign_again):
        yield


def signed_when_queued() -> Generator[None]:
    """The timestamp is that of the call, not of the write."""
    sign = Engine.sign

    def sign_early(
        self: Engine, admitted: list[OrderCancel], connection: int, now: float, wall: float
    ) -> tuple[list[LiveAttempt], list[bytes]]:
        flights: list[LiveAttempt] = []
        texts: list[bytes] = []
        for pending in admitted:
            more = sign(self, [pending], connection, now, wall - (now - _handed_in(pending)))
            flights += more[0]
            texts += more[1]
        return flights, texts

    with swap(Engine, "sign", sign_early):
        yield


def _handed_in(pending: OrderCancel) -> float:
    return pending.held_since


def pending_leaked() -> Generator[None]:
    """What a cancelled caller asked for stays in the tables."""
    with swap(InFlight, "abandon", lambda table, pending: None):
        yield


def writing_on() -> Generator[None]:
    """A write that ran into its deadline is forgotten, and the connection used again."""
    break_off = Writer._break

    def go_on(self: Writer, cause: BaseException, text: str) -> None:
        if "did not read" not in text:
            break_off(self, cause, text)
        else:
            self._drop(cause)
            self._link.stream.poisoned = False

    with swap(Writer, "_break", go_on):
        yield


def reader_killed() -> Generator[None]:
    """A late or unknown reply ends the reader, and nobody is told."""

    read = Link._read

    def die(*_: object) -> None:
        raise KeyError("no such request")

    async def read_until_dead(self: Link, reader: Any, *args: Any) -> None:
        async def reader_that_dies(*args: Any) -> None:
            try:
                await reader(*args)
            except KeyError:
                await trio.sleep_forever()

        await read(self, reader_that_dies, *args)

    with swap(ReplyHandler, "_read_stray", die), swap(Link, "_read", read_until_dead):
        yield


def complete_frame_called_not_sent() -> Generator[None]:
    """When a write fails, nothing of it counts as sent."""

    def drop_all(self: Writer, cause: BaseException) -> None:
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            self._engine.not_written(unfinished.flights, cause, trio.current_time())

    with swap(Writer, "_drop", drop_all):
        yield


def server_error_called_rejected() -> Generator[None]:
    """A 5xx is taken for a refusal."""

    def judge_hastily(*args: Any) -> tuple[Verdict, str]:
        verdict, why = judge(*args)
        return (Verdict.REFUSED if verdict is Verdict.UNAVAILABLE else verdict), why

    with swap(inbox, "judge", judge_hastily):
        yield


def unlisted_called_rejected() -> Generator[None]:
    """A refusal that the contract does not list is taken for a no."""

    def judge_hastily(*args: Any) -> tuple[Verdict, str]:
        verdict, why = judge(*args)
        return (Verdict.REFUSED if verdict is Verdict.UNLISTED else verdict), why

    with swap(inbox, "judge", judge_hastily):
        yield


def closed_as_guessed() -> Generator[None]:
    """What was closed before is said to have been canceled, whatever the venue says."""
    with swap(inbox, "closed_as", lambda code: "canceled"):
        yield


def lagging_open_believed() -> Generator[None]:
    """An order that a lookup sees on the book is said not to be off it."""

    def believe(state: OrderState, outcome: Any, *known: Any) -> Any:
        if state.on_book:
            return Rejected(outcome.request, outcome.attempts)
        return settled_by(state, outcome, *known)

    with swap_everywhere(settled_by, believe):
        yield


def any_order_of_the_name_believed() -> Generator[None]:
    """A final status that was looked up by external id settles the cancel, whichever order of that name it is about."""

    def believe(state: OrderState, outcome: Any, *_: Any) -> AlreadyClosed | None:
        if state.on_book is not False:
            return None
        closed_as: Any = "canceled" if state.status is OrderStatus.CANCELED else "executed"
        after = outcome.after_unanswered
        return AlreadyClosed(
            outcome.request, outcome.attempts, after_unanswered=after, closed_as=closed_as, order=state
        )

    with swap_everywhere(settled_by, believe):
        yield


def not_found_believed() -> Generator[None]:
    """An order that a lookup does not find is taken for one that is off the book."""
    ask = Lookups._ask

    async def ask_and_guess(self: Lookups, request: CancelRequest, patience: float) -> OrderState:
        try:
            return await ask(self, request, patience)
        except LookupFailed as error:
            if error.status != 404:
                raise
            now, status = datetime.now(UTC), OrderStatus.CANCELED
            return OrderState(
                status=status, seen_at=0.0, id=request.id, external_id=request.external_id, update_date=now
            )

    with swap(Lookups, "_ask", ask_and_guess):
        yield


@attrs.frozen
class Defect:
    """A defect: its name, and what puts it into the library."""

    name: str
    patch: Patch

    @property
    def what(self) -> str:
        """One sentence about it."""
        return (self.patch.__doc__ or "").strip()

    @contextmanager
    def put_back(self) -> Generator[Counter[str]]:
        """Have the defect while the block runs; yield how often each function that was put in has run."""
        CALLS.clear()
        with contextmanager(self.patch)():
            yield CALLS


LOOKUP_DEFECTS = (lagging_open_believed, any_order_of_the_name_believed, not_found_believed)
"""They are put back in both simulations."""
DEFECTS = {
    function.__name__: Defect(function.__name__, function)
    for function in (
        send_under_the_callers_scope,
        reply_of_the_wrong_connection,
        closed_called_canceled,
        request_id_reused,
        signed_when_queued,
        pending_leaked,
        writing_on,
        reader_killed,
        complete_frame_called_not_sent,
        server_error_called_rejected,
        unlisted_called_rejected,
        closed_as_guessed,
        *LOOKUP_DEFECTS,
    )
}
