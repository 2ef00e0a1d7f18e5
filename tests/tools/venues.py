"""The sandbox exchange over pipes in memory, for tests on a mock clock; and an observer that remembers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Unpack

import pytest
import trio

from tests.tools.pipe import PipeStream, open_pipe
from trio_cancel import CancelRequest, Observer, Outcome, TradingWS, _client, open_trading_ws
from trio_cancel._trio.environment import Environment
from trio_cancel.sandbox import Sandbox, SandboxOptions, open_sandbox
from trio_cancel.types import CancelReport

EPOCH = 1_700_000_000.0
"""Unix seconds at which a mock clock begins."""


def mock_wall() -> float:
    """Unix seconds by trio's clock."""
    return EPOCH + trio.current_time()


def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client's wall clock go with trio's; the venue's does with ``clock=venue_clock``."""
    monkeypatch.setattr(
        _client, "Environment", partial(Environment, wall=mock_wall, steady=trio.current_time, suspended=lambda: 0.0)
    )


def venue_clock() -> int:
    """Unix milliseconds by trio's clock."""
    return int(mock_wall() * 1000)


class Venue:
    """A sandbox that is dialled in memory.

    Attributes:
        dials: when each connection was asked for.
        failures: what the next dials raise instead, None for nothing.
        ends: our end of each connection.
    """

    def __init__(self, sandbox: Sandbox, capacity: int) -> None:
        self.sandbox = sandbox
        self.book = sandbox.book
        self.log = sandbox.log
        self.dials: list[float] = []
        self.failures: list[BaseException | None] = []
        self.ends: list[PipeStream] = []
        self._capacity = capacity

    async def dial(self) -> PipeStream:
        self.dials.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        ours, theirs = open_pipe(self._capacity)
        self.sandbox.accept(theirs)
        self.ends.append(ours)
        return ours

    def open(self, **keywords: Any) -> AbstractAsyncContextManager[TradingWS]:
        """Open a session with this venue."""
        return open_trading_ws("ws://localhost", credentials=self.sandbox.credentials, dial=self.dial, **keywords)

    def orders(self, count: int) -> list[str]:
        """Place orders; return their ids."""
        return [self.book.create().id for _ in range(count)]

    async def cut(self) -> None:
        """End the newest connection under everybody."""
        await trio.aclose_forcefully(self.ends[-1])


@asynccontextmanager
async def open_venue(*, capacity: int = 2**20, **options: Unpack[SandboxOptions]) -> AsyncGenerator[Venue]:
    """Run a sandbox without sockets."""
    options["port"] = None
    async with open_sandbox(**options) as sandbox:
        yield Venue(sandbox, capacity)


class Remembering(Observer):
    """An observer that keeps what it is told, as (event, arguments)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[object, ...]]] = []

    def _note(self, event: str, *args: object) -> None:
        self.events.append((event, args))

    def names(self) -> list[str]:
        return [event for event, _ in self.events]

    def of(self, event: str) -> list[tuple[object, ...]]:
        return [args for name, args in self.events if name == event]

    def request_queued(self, request: CancelRequest) -> None:
        self._note("request_queued", request)

    def request_written(self, request: CancelRequest, request_id: str) -> None:
        self._note("request_written", request, request_id)

    def request_answered(self, request: CancelRequest, request_id: str, status: int | None, seconds: float) -> None:
        self._note("request_answered", request, request_id, status, seconds)

    def settled_late(self, outcome: Outcome) -> None:
        self._note("settled_late", outcome)

    def connection_opened(self, number: int) -> None:
        self._note("connection_opened", number)

    def connection_lost(self, number: int, cause: BaseException | None) -> None:
        self._note("connection_lost", number, cause)

    def connection_failed(self, error: BaseException) -> None:
        self._note("connection_failed", error)

    def paced(self, rate: float) -> None:
        self._note("paced", rate)

    def guard_looked(self, live: int, left: int, unserved: int) -> None:
        self._note("guard_looked", live, left, unserved)

    def guard_blind(self, error: BaseException) -> None:
        self._note("guard_blind", error)

    def guard_took_over(self, journal: str, report: CancelReport) -> None:
        self._note("guard_took_over", journal, report)
