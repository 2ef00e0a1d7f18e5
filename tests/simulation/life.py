"""One process of a run with scopes: its journal, what it says that it writes, what settles, and its death."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import attrs

from trio_cancel import CancelRequest, Outcome, TradingWS
from trio_cancel._engine.order import OrderCancel
from trio_cancel._journal.journal import Journal
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.store import Account
from trio_cancel._values.observer import Observer
from trio_cancel._values.timings import Timings

from .disk import URL, Disk, Process
from .harness import CREDENTIALS
from .record import Recorder, Stamp
from .watch import before_delivery


@attrs.define(eq=False)
class Life:
    """What one process did, for the checker.

    Attributes:
        written: request id: its order, the number of its intent, and when the client said that it was writing it.
        excused: numbers of intents whose journal was marked failed when their requests were let go on.
        settled: what settled: the order, its intent, its outcome, when.
        died: when it was killed; None if it was not.
    """

    disk: Disk
    recorder: Recorder
    process: Process = attrs.field(init=False)
    journal: Journal | None = None
    ws: TradingWS | None = None
    written: dict[str, tuple[CancelRequest, int, Stamp]] = attrs.field(factory=dict)
    excused: set[int] = attrs.field(factory=set)
    settled: list[tuple[CancelRequest, int, Outcome, Stamp]] = attrs.field(factory=list)
    failures: int = 0
    died: Stamp | None = None

    def __attrs_post_init__(self) -> None:
        self.process = Process(self.disk)

    @property
    def dead(self) -> bool:
        """Whether it has been killed."""
        return self.process.dead

    def kill(self) -> None:
        """Let it commit nothing more, and end its session's tasks at once."""
        self.died = self.recorder.stamp()
        self.process.dead = True
        if self.ws is not None:
            self.ws._session.kill()

    def open_journal(
        self, prefix: str, wall: Callable[[], float], *, timings: Timings
    ) -> AbstractAsyncContextManager[Journal]:
        """Open its journal; what ``open_session`` takes."""
        return self._journal(prefix, wall, timings)

    @asynccontextmanager
    async def _journal(self, prefix: str, wall: Callable[[], float], timings: Timings) -> AsyncGenerator[Journal]:
        process = self.process
        account = Account(URL, CREDENTIALS)
        async with open_journal(
            "in memory", account, prefix, wall, run_sync=process.run_sync, open_store=process.open, timings=timings
        ) as journal:
            self.journal = journal
            intend, fail = journal.intend, journal._fail

            async def intend_and_note(admitted: list[OrderCancel]) -> None:
                await intend(admitted)
                if journal.failed:
                    self.excused |= {pending.intent for pending in admitted} - set(self.disk.committed)

            def fail_and_count(error: BaseException) -> None:
                self.failures += 1
                fail(error)

            journal.intend = intend_and_note  # type: ignore[method-assign]  # it is watched
            journal._fail = fail_and_count  # type: ignore[method-assign]  # see above
            yield journal


class _Nobody(Observer):
    """Is not interested."""


class Watch(Observer):
    """Puts on record what a process says that it writes, and hands everything on."""

    def __init__(self, life: Life, throw: Callable[[], None], then: Observer | None = None) -> None:
        self._life = life
        self._throw = throw
        self._then = then or _Nobody()

    def request_written(self, request: CancelRequest, request_id: str) -> None:
        life = self._life
        if life.dead or life.ws is None:
            return
        flights = life.ws._session.engine.unanswered()
        intent = next(flight.order.intent for flight in flights if flight.request_id == request_id)
        life.written[request_id] = request, intent, life.recorder.stamp()
        self._then.request_written(request, request_id)
        self._throw()

    def request_answered(self, request: CancelRequest, request_id: str, status: int | None, seconds: float) -> None:
        self._then.request_answered(request, request_id, status, seconds)
        self._throw()

    def settled_late(self, outcome: Outcome) -> None:
        self._then.settled_late(outcome)
        self._throw()

    def connection_opened(self, number: int) -> None:
        self._throw()

    def connection_lost(self, number: int, cause: BaseException | None) -> None:
        self._throw()

    def connection_failed(self, error: BaseException) -> None:
        self._throw()

    def paced(self, rate: float) -> None:
        self._throw()


@contextmanager
def settlements(current: Callable[[], Life]) -> Generator[None]:
    """Put on record what settles, at the moment it does."""

    def note(pending: OrderCancel) -> None:
        life = current()
        if not life.dead:
            assert pending.outcome is not None
            life.settled.append((pending.request, pending.intent, pending.outcome, life.recorder.stamp()))

    with before_delivery(note):
        yield
