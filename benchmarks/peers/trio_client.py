"""The part that the trio clients written by hand have in common: replies matched by id, an event or a window."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from benchmarks.job import IN_FLIGHT
from benchmarks.peers import Client
from benchmarks.peers.by_hand import Reply, decode, is_canceled, request


class _Answer:
    """A reply to wait for."""

    __slots__ = ("_arrived", "_reply")

    def __init__(self) -> None:
        self._arrived = trio.Event()

    def set(self, reply: Reply) -> None:
        self._reply = reply
        self._arrived.set()

    async def wait(self) -> Reply:
        await self._arrived.wait()
        return self._reply


class TrioClient:
    """Cancels over a connection that is given as its `send`; its reader calls `answer` with each text message."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._pending: dict[str, Callable[[Reply], None]] = {}

    def answer(self, text: str | bytes) -> None:
        """Give a reply to whoever waits for it."""
        reply = decode(text)
        self._pending.pop(reply["id"])(reply)

    async def cancel(self, order_id: str) -> bool:
        """Cancel one order, with an event for its reply."""
        answer = _Answer()
        request_id, text = request(order_id)
        self._pending[request_id] = answer.set
        await self._send(text)
        return is_canceled(await answer.wait())

    async def cancel_many(self, order_ids: Sequence[str]) -> int:
        """Cancel many orders as one writes it: a task each, with a limit."""
        window = trio.CapacityLimiter(IN_FLIGHT)
        canceled = 0

        async def one(order_id: str) -> None:
            nonlocal canceled
            async with window:
                done = await self.cancel(order_id)
            canceled += done

        async with trio.open_nursery() as nursery:
            for order_id in order_ids:
                nursery.start_soon(one, order_id)
        return canceled

    def client(self) -> Client:
        """Its ways to cancel."""
        return Client(one=self.cancel, task=self.cancel, bulk=self.cancel_many)


async def enter(window: trio.Semaphore) -> None:
    """Acquire without a pass through the scheduler when there is room, which `acquire` alone always takes."""
    try:
        window.acquire_nowait()
    except trio.WouldBlock:
        await window.acquire()
