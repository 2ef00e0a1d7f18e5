"""What asyncio clients written by hand share: replies matched by id; a future an order, or a window of callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.job import IN_FLIGHT
from benchmarks.peers import Client
from benchmarks.peers.by_hand import Reply, decode, is_canceled, request


class AsyncioClient:
    """Cancels over a connection that is given as its `send`; its reader calls `answer` with each text message."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._pending: dict[str, Callable[[Reply], None]] = {}

    def answer(self, text: str | bytes) -> None:
        """Give a reply to whoever waits for it."""
        reply = decode(text)
        try:  # noqa: SIM105 - a block of `suppress` would cost each reply something
            self._pending.pop(reply["id"])(reply)
        except asyncio.InvalidStateError:
            pass  # its caller has left

    async def cancel(self, order_id: str) -> bool:
        """Cancel one order, with a future for its reply."""
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        request_id, text = request(order_id)
        self._pending[request_id] = answered.set_result
        await self._send(text)
        return is_canceled(await answered)

    async def cancel_many(self, order_ids: Sequence[str]) -> int:
        """Cancel many orders as one writes it: gather, with a semaphore."""
        window = asyncio.Semaphore(IN_FLIGHT)

        async def one(order_id: str) -> bool:
            async with window:
                return await self.cancel(order_id)

        return sum(await asyncio.gather(*map(one, order_ids)))

    async def cancel_many_cheaply(self, order_ids: Sequence[str]) -> int:
        """Cancel many orders the cheapest way that we found: no task and no future an order, a window of callbacks."""
        window = asyncio.Semaphore(IN_FLIGHT)
        canceled = 0

        def settle(reply: Reply) -> None:
            nonlocal canceled
            canceled += is_canceled(reply)
            window.release()

        for order_id in order_ids:
            await window.acquire()
            request_id, text = request(order_id)
            self._pending[request_id] = settle
            await self._send(text)
        for _ in range(IN_FLIGHT):
            await window.acquire()
        return canceled

    def client(self, *, cheapest: bool = False) -> Client:
        """Its ways to cancel."""
        bulk = self.cancel_many_cheaply if cheapest else self.cancel_many
        return Client(one=self.cancel, task=self.cancel, bulk=bulk)
