"""The stage before the writer, where there is a journal: orders are admitted and their intents made durable.

While one group's intents are on their way to the disk, the writer writes the group before and answers come in, so that
the disk is waited for once, not once a group. The task owns what it has admitted until the writer takes it; if the
connection ends, that goes back into the queue, not written.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from trio_cancel._engine.engine import Dispatcher
from trio_cancel._engine.order import Pending
from trio_cancel._trio.wakeup import Bell


class IntentLog(Protocol):
    """Where intents are made durable before the first byte of their requests is written."""

    async def intend(self, admitted: list[Pending]) -> None:
        """Return when the intents are durable, or have failed to be so and been reported."""

    def written(self, orders: list[Pending]) -> None:
        """Note that requests for these were wholly written."""


class Intake:
    """See the module's docstring."""

    def __init__(self, dispatcher: Dispatcher, intents: IntentLog, wake_writer: Callable[[], None]) -> None:
        self.bell = Bell()  # rings when there may be something to admit
        self._dispatcher = dispatcher
        self._intents = intents
        self._wake_writer = wake_writer
        self._durable: deque[list[Pending]] = deque()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Admit and make durable, until cancelled."""
        dispatcher = self._dispatcher
        admitted: list[Pending] = []
        try:
            while True:
                admitted, ask_at = dispatcher.take(trio.current_time())
                if admitted:
                    await self._intents.intend(admitted)
                    self._durable.append(admitted)
                    admitted = []
                    self._wake_writer()
                else:
                    with trio.move_on_at(ask_at):
                        await self.bell.wait()
        finally:
            now = trio.current_time()
            for group in (*self._durable, admitted):
                dispatcher.put_back(group, now)
            self._durable.clear()

    def take(self, now: float) -> tuple[list[Pending], float]:  # noqa: ARG002 - in place of the dispatcher's
        """Return the next group whose intents are durable, if there is one; it is the writer's then."""
        return (self._durable.popleft() if self._durable else []), math.inf
