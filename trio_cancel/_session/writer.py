"""The sending side of one connection: what is written, when, and what is reported about requests that were not.

Only the writer task waits for the socket. What it starts, it starts in one step without an await: admit, sign, hand the
bytes to the socket. It only waits, under a deadline, for the socket to take what it did not take at once. So a request
is never admitted but unsigned when the task is cancelled. If the task is cancelled while it waits, the stream's own
count says which frames were not wholly accepted, and those were not sent.

A single cancel that finds no other one under way does this step itself (:meth:`Writer.write_now`), which saves a pass
of the scheduler; queued bulk cancels are left to the writer. It never waits there, and the writer is parked meanwhile,
so there is still only one writer. A failure in that step, of any kind, ends the connection. It is not raised, because
it is not that caller's failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import attrs
import trio

from trio_cancel._engine.cancel_journal import CancelJournal
from trio_cancel._engine.engine import WRITE_MOST, Engine
from trio_cancel._engine.order import LiveAttempt, OrderCancel
from trio_cancel._net.frames import encode_texts
from trio_cancel._net.websocket import Link
from trio_cancel._session.write_ahead import WriteAhead
from trio_cancel._trio.environment import Environment
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.boundary import Boundary, describe
from trio_cancel._values.errors import ConnectionLost

WRITE_LEAST = 0.02
"""Seconds at least, also for an order that has no time left: a healthy connection must not be lost because of it."""


@attrs.frozen
class _Unfinished:
    """A write that the socket has not taken completely."""

    flights: list[LiveAttempt]
    orders: list[OrderCancel]  # those of the attempts, with a journal
    first: int  # the value of `stream.accepted` from which on the attempts count, one by one


class Writer:
    """The only task that writes to one connection.

    Args:
        number: the connection's.
        engine: the engine whose orders are written.
        environment: clocks, randomness, and how long a write may be stalled.
        journal: makes intents durable first, if there is one.
        link: the connection.
        end: called with the reason if the connection breaks.

    Attributes:
        wakeup: rings when there may be something to write: the engine's, unless a journal comes first.
        write_ahead: has intents made durable first, if there is a journal.
        flushed: set once a Close frame has been sent.
    """

    def __init__(
        self,
        number: int,
        engine: Engine,
        environment: Environment,
        journal: CancelJournal | None,
        wakeup: Wakeup,
        link: Link,
        end: Callable[[BaseException], None],
    ) -> None:
        self.wakeup = wakeup
        self.write_ahead = None if journal is None else WriteAhead(engine, journal, wakeup)
        self.flushed = trio.Event()
        self._link = link
        self._end = end
        self._number = number
        self._engine = engine
        self._environment = environment
        self._journal = journal
        self._take = engine.take if self.write_ahead is None else self.write_ahead.take
        self._unfinished: _Unfinished | None = None
        self._parked = False
        self._broken = False

    @trio.lowlevel.enable_ki_protection
    def write_now(self) -> None:
        """Write the queued single cancels if the writer is parked; otherwise leave them to it. Never waits."""
        ready = self._parked and self._unfinished is None and not self._broken and not self._link.closing
        if ready and self.write_ahead is None:
            admitted = self._engine.take_single(trio.current_time())
            if admitted:
                self._start(self._link.take_control(), admitted)
                if self._unfinished is None and not self._broken:
                    return
        self._engine.wakeup.ring()
        self.wakeup.ring()

    @trio.lowlevel.enable_ki_protection
    async def write(self) -> None:
        """Write until the connection breaks or the task is cancelled."""
        link = self._link
        again = False
        try:
            while not self._broken:
                if again:
                    # If group follows group (a last chance of very many orders), others get their turn in between.
                    await trio.lowlevel.checkpoint()
                    again = False
                if self._unfinished is not None:
                    await self._finish()
                    continue
                control = link.take_control()
                admitted: list[OrderCancel] = []
                ask_at = math.inf
                if not link.closing:
                    admitted, ask_at = self._take(trio.current_time())
                if admitted or control or link.stream.pending_output:
                    self._start(control, admitted)
                    again = len(admitted) == WRITE_MOST
                    continue
                if link.closing:
                    self.flushed.set()
                await self._park(ask_at)
        finally:
            self._drop(ConnectionLost("the connection ended before it was written"))

    async def _park(self, until: float) -> None:
        self._parked = True
        try:
            if until == math.inf:
                await self.wakeup.wait()
            else:
                with trio.move_on_at(until):
                    await self.wakeup.wait()
        finally:
            self._parked = False

    def _start(self, control: list[bytes], admitted: list[OrderCancel]) -> None:
        """Sign, and hand everything to the socket, in one step, whose failure ends the connection."""
        boundary = Boundary()
        with boundary:
            self._hand_over(control, admitted)
        if boundary.error is not None:
            # What was not signed waits again. `_unfinished` says what was signed; without one, nothing was sent.
            self._engine.put_back(admitted, trio.current_time())
            self._break(boundary.error, describe(boundary.error))

    def _hand_over(self, control: list[bytes], admitted: list[OrderCancel]) -> None:
        stream = self._link.stream
        data = b""
        ends: list[int] = []
        flights: list[LiveAttempt] = []
        texts: list[bytes] = []
        if admitted:
            flights, texts = self._engine.sign(admitted, self._number, trio.current_time(), self._environment.wall())
        orders = [] if self._journal is None else [flight.order for flight in flights]
        self._unfinished = _Unfinished(flights, orders, stream.accepted + len(control))
        if texts:
            data, ends = encode_texts(texts, self._environment.random_bytes(4 * len(texts)))
        if control:
            before = list(accumulate(map(len, control)))
            data = b"".join((*control, data))
            ends = before + [before[-1] + end for end in ends]
        if stream.send_now(data, ends):
            self._unfinished = None
            if self._journal is not None:
                self._journal.written(orders, self._engine.unanswered())

    async def _finish(self) -> None:
        """Wait until the socket has taken the rest, at most ``write_deadline``, while an order in it has time."""
        unfinished = self._unfinished
        assert unfinished is not None
        try:
            left = self._engine.time_left(unfinished.flights, trio.current_time())
            most = min(self._environment.timings.write_deadline, max(WRITE_LEAST, left))
            with trio.move_on_after(most) as scope:
                await self._link.stream.finish_send()
                self._unfinished = None
                if self._journal is not None:
                    self._journal.written(unfinished.orders, self._engine.unanswered())
        except trio.BrokenResourceError as error:
            self._break(error, str(error))
        else:
            if scope.cancelled_caught:
                text = f"the venue did not read for {most:.3g} s"
                self._break(ConnectionLost(text), text)

    def _break(self, cause: BaseException, text: str) -> None:
        self._broken = True
        self._drop(cause)
        lost = ConnectionLost(text)
        lost.__cause__ = None if isinstance(cause, ConnectionLost) else cause
        self._end(lost)

    def _drop(self, cause: BaseException) -> None:
        """Report the attempts in an unfinished write that were not wholly accepted."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            accepted = max(0, self._link.stream.accepted - unfinished.first)
            if self._journal is not None:
                self._journal.written(unfinished.orders[:accepted], self._engine.unanswered())
            self._engine.not_written(unfinished.flights[accepted:], cause, trio.current_time())
