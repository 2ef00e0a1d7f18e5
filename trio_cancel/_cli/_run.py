"""A bulk cancel that a signal or a deadline can end, and that accounts for every order.

The caller's task runs it; a task beside it listens for signals. The first SIGINT, SIGTERM or SIGHUP stops the intake:
no further order is written, and requests in flight may still be answered for ``ANSWER_GRACE`` seconds. The second ends
that wait, too. A third ends the process, in case something hangs. A deadline does at once what the first two signals
do. Then every order has its outcome: what was written and not answered is Unknown, and what was not written is NotSent.

It uses ``open_cancel_stream`` and not ``Batch`` for two reasons. The orders of ``cancel --open`` come from an iterable
without a known end, which a batch does not take. And if nobody reads the output, a stream's intake is held back, so
that memory stays bounded, while a batch goes on. One way for both is shorter than two.

Outcomes are reported in the order of completion, once per order, to a function that must not raise; the session's
tasks may call it.
"""

from __future__ import annotations

import signal
import time
from array import array
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import msgspec
import trio

from trio_cancel._cancels.stream import CancelStream
from trio_cancel._cli._tally import Status
from trio_cancel._cli._waiting import Waiting
from trio_cancel._client import TradingWS
from trio_cancel._trio.signals import SignalRepeats, ending_signals
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.errors import HandshakeFailed, NoReply, NotWritten, SessionClosed
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.observer import Observer
from trio_cancel._values.outcomes import NotSent, Outcome, Unknown

ANSWER_GRACE = 2.0
"""Seconds after a signal for which answers to requests in flight are still awaited."""
OUTPUT_GRACE = 2.0
"""Seconds after a signal for which the reader may still take our output."""


class Halt:
    """Why a run ends early, if it does.

    Attributes:
        scope: the scope in which the run happens; its deadline is the run's.
        answer_grace: the wait for the last answers.
        signum: the signal that ended it, or None.
        over: True once the run has ended, one way or the other.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.scope = trio.CancelScope()
        if deadline is not None:
            self.scope.deadline = trio.current_time() + deadline
        self.answer_grace = trio.CancelScope()
        self.signum: int | None = None
        self.over = False
        self._seconds = deadline
        self._signals = 0
        self._repeats = SignalRepeats()
        self._output = trio.CancelScope()
        self._printing = False

    def signal(self, signum: int) -> None:
        """Note a signal: the first ends the intake, the second the wait for answers, the third the process."""
        if not self._repeats.is_new(signum, time.monotonic()):
            return
        self._signals += 1
        if self.signum is None:
            self.signum = signum
            self.scope.cancel()
        elif self._signals == 2:
            self.answer_grace.cancel()
        else:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        if self._printing:
            self._output.deadline = min(self._output.deadline, trio.current_time() + OUTPUT_GRACE)

    async def wait_printed(self, printed: trio.Event) -> None:
        """Wait until the output has been read; after a signal, no longer than ``OUTPUT_GRACE``."""
        self._printing = True
        if self.signum is not None:
            self._output.deadline = trio.current_time() + OUTPUT_GRACE
        with self._output:
            await printed.wait()

    @property
    def why(self) -> str | None:
        """Return what ended the run early, as the beginning of a clause; None if nothing did."""
        if self.signum is not None:
            return "interrupted"
        fired = self.scope.cancelled_caught if self.over else self.scope.cancel_called
        return f"the deadline of {self._seconds:g} s passed" if fired else None

    def status(self, otherwise: Status) -> Status:
        """Return the exit status of an interrupted run, otherwise the one given."""
        if self.signum is None:
            return otherwise
        return Status(128 + self.signum)


@asynccontextmanager
async def hear_signals(halt: Halt) -> AsyncGenerator[trio.Nursery]:
    """Pass signals that ask for an end to ``halt`` during the block; yields a nursery whose tasks end with the block.

    A signal that is ignored stays ignored.
    """

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*heard) as signals:
            task_status.started()
            async for signum in signals:
                halt.signal(signum)

    heard = ending_signals()
    async with trio.open_nursery() as nursery:
        if heard:
            await nursery.start(listen)
        yield nursery
        nursery.cancel_scope.cancel()


class Watch(Observer):
    """Sees what a stream of outcomes does not show: outcomes after its block has exited, latencies, and waits.

    Attributes:
        latencies: seconds from the write of a request to its answer.
        waiting: what the run is waiting for.
        on_late: called with each outcome that comes after the stream's block has exited.
    """

    def __init__(self) -> None:
        self.latencies = array("d")
        self.waiting = Waiting(trio.current_time())
        self.wakeup = Wakeup()
        self.on_late: Callable[[Outcome], None] = lambda _: None

    def request_answered(
        self,
        request: CancelRequest,  # noqa: ARG002 - the observer's signature
        request_id: str,  # noqa: ARG002 - the observer's signature
        status: int | None,  # noqa: ARG002 - the observer's signature
        seconds: float,
    ) -> None:
        """Note the latency."""
        self.latencies.append(seconds)
        self.waiting.answered(trio.current_time())

    def request_written(self, request: CancelRequest, request_id: str) -> None:  # noqa: ARG002 - the observer's signature
        """Note that an answer is due."""
        self.waiting.written(trio.current_time())

    def connection_opened(self, number: int) -> None:  # noqa: ARG002 - the observer's signature
        """Note that there is a connection."""
        self.waiting.opened(trio.current_time())

    def connection_lost(self, number: int, cause: BaseException | None) -> None:  # noqa: ARG002 - the observer's signature
        """Note why there is none."""
        self.waiting.lost(cause, trio.current_time())

    def connection_failed(self, error: BaseException) -> None:
        """Note why there is none."""
        self.waiting.lost(error, trio.current_time())

    def paced(self, rate: float) -> None:
        """Note what holds requests back."""
        self.waiting.paced(rate)

    def settled_late(self, outcome: Outcome) -> None:
        """Note the outcome."""
        self.on_late(outcome)
        self.wakeup.ring()


@attrs.define(eq=False)
class Run:
    """A bulk cancel.

    Attributes:
        open: opens a session, given an observer.
        requests: the orders, each with the number of places in which it was requested.
        report: called with each outcome and its number of places.
        room: awaited between two outcomes: holds the run back, not the session.
        halt: what may end it early.
        rate: the requests per second of --rate, if it was given.
        failure: why there was no connection at all, if there was none.
        watch: what the observer saw.
    """

    open: Callable[[Observer], AbstractAsyncContextManager[TradingWS]]
    requests: Mapping[CancelRequest, int]
    report: Callable[[Outcome, int], None]
    room: Callable[[], Awaitable[None]]
    halt: Halt
    rate: float | None = None
    failure: HandshakeFailed | None = None
    watch: Watch = attrs.field(factory=Watch)
    _left: dict[CancelRequest, int] = attrs.field(factory=dict, init=False)

    async def run(self) -> None:
        """Cancel every order, or end early; either way every order has been reported when it returns."""
        self._left = dict(self.requests)
        if self.rate is not None:
            self.watch.waiting.paced(self.rate, "--rate")
        self.watch.on_late = self._take
        with self.halt.scope:
            try:
                async with self.open(self.watch) as ws:
                    await self._cancel_all(ws)
            except HandshakeFailed as error:
                self.failure = error
        self.halt.over = True
        why = self.failure or NotWritten(f"{self.halt.why or 'the run ended'} before its turn")
        for request in list(self._left):
            self._take(NotSent(request, cause=why))

    async def _cancel_all(self, ws: TradingWS) -> None:
        await self._cancel_each(ws, self.requests.keys())

    async def _cancel_each(
        self, ws: TradingWS, requests: Iterable[CancelRequest] | AsyncIterable[CancelRequest]
    ) -> None:
        stream: CancelStream | None = None
        try:
            async with ws.open_cancel_stream(requests) as stream:
                async for outcome in stream:
                    self._take(outcome)
                    await self.room()
        finally:
            if stream is not None:
                with trio.move_on_after(ANSWER_GRACE, shield=True):
                    # Leaving stopped the intake; earlier outcomes can still be read, which never blocks.
                    async for outcome in stream:
                        self._take(outcome)
                if self.halt.signum is not None:
                    await self._wait_for_answers(stream)  # noqa: ASYNC102 - it shields and bounds itself

    async def _wait_for_answers(self, stream: CancelStream) -> None:
        """Give requests in flight a last chance to be answered."""
        grace = self.halt.answer_grace
        grace.shield = True
        grace.deadline = trio.current_time() + ANSWER_GRACE
        with grace:
            while stream.unsettled:
                await self.watch.wakeup.wait()

    def _take(self, outcome: Outcome) -> None:
        places = self._left.pop(outcome.request, 0)
        if not places:
            return
        why = self.halt.why
        if why is not None and isinstance(outcome, Unknown) and isinstance(outcome.cause, SessionClosed):
            outcome = msgspec.structs.replace(outcome, cause=NoReply(f"{why} before the answer"))
        self.report(outcome, places)
