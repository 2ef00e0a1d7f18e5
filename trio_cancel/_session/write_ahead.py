"""The stage before the writer, if there is a journal: orders are admitted and their intents made durable.

While one group's intents are on their way to the disk, the writer writes the previous group and answers come in, so
that the disk is waited for once and not once per group. The task owns the orders that it has admitted until the writer
takes them. If the connection ends, they go back into the queue, not written.

A pace is kept at the write, where it counts: orders are admitted a little ahead of their turn, and the writer takes
each when its turn has come.
"""

from __future__ import annotations

from collections import deque

import trio

from trio_cancel._engine.cancel_journal import CancelJournal
from trio_cancel._engine.engine import WRITE_MOST, Engine
from trio_cancel._engine.order import OrderCancel
from trio_cancel._trio.wakeup import Wakeup

AHEAD = 0.25
"""Seconds ahead of its turn in the pace that an order's intent is made durable; a slow disk takes as long."""


ASK_AGAIN = 0.005
"""Seconds until the journal is asked again while it checks whether it is still ours."""


class WriteAhead:
    """Admits orders ahead of the writer, and has their intents made durable first.

    Args:
        engine: the engine of these orders; this task waits for its wakeup.
        journal: makes intents durable.
        to_write: rung when the writer may take some.
    """

    def __init__(self, engine: Engine, journal: CancelJournal, to_write: Wakeup) -> None:
        self._engine = engine
        self._journal = journal
        self._to_write = to_write
        # What is durable and not written yet; single cancels overtake the others here, too.
        self._priority: deque[OrderCancel] = deque()
        self._bulk: deque[OrderCancel] = deque()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Admit and make durable, until cancelled."""
        engine = self._engine
        admitted: list[OrderCancel] = []
        try:
            while True:
                early = len(self._priority) + len(self._bulk)
                admitted, ask_at = engine.take(trio.current_time(), early, AHEAD)
                if admitted:
                    await self._journal.intend(admitted)
                    for order in admitted:
                        (self._priority if order.priority else self._bulk).append(order)
                    admitted = []
                    self._to_write.ring()
                else:
                    with trio.move_on_at(ask_at):
                        await engine.wakeup.wait()
        finally:
            engine.put_back([*self._priority, *self._bulk, *admitted], trio.current_time())
            self._priority.clear()
            self._bulk.clear()

    def take(self, now: float) -> tuple[list[OrderCancel], float]:
        """Return orders that are durable and whose turn has come, and when to ask again; the writer owns them then."""
        if (self._priority or self._bulk) and self._journal.asks_first:
            return [], now + ASK_AGAIN
        priority, ask_at = self._engine.let_through(self._priority, WRITE_MOST, now)
        if self._priority:
            return priority, ask_at
        bulk, ask_at = self._engine.let_through(self._bulk, WRITE_MOST - len(priority), now)
        return priority + bulk, ask_at
