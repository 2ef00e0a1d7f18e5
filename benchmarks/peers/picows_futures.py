"""picows on uvloop, a future a cancel: its listener settles them, sending is a plain call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import picows

from benchmarks.job import IN_FLIGHT, Job, ssl_context
from benchmarks.peers import Client
from benchmarks.peers.by_hand import Reply, decode, is_canceled, request


class _Listener(picows.WSListener):
    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[str, asyncio.Future[Reply]] = {}

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, _transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.TEXT:
            reply = decode(frame.get_payload_as_memoryview())
            answered = self._pending.pop(reply["id"])
            if not answered.cancelled():  # by a caller who has left
                answered.set_result(reply)

    def _send(self, order_id: str) -> asyncio.Future[Reply]:
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        request_id, text = request(order_id)
        self._pending[request_id] = answered
        self._transport.send(picows.WSMsgType.TEXT, text)
        return answered

    async def cancel(self, order_id: str) -> bool:
        """Cancel one order."""
        return is_canceled(await self._send(order_id))

    async def cancel_many(self, order_ids: Sequence[str]) -> int:
        """Cancel many orders, waiting for the oldest when the window is full."""
        in_flight: deque[asyncio.Future[Reply]] = deque()
        canceled = 0
        for order_id in order_ids:
            if len(in_flight) == IN_FLIGHT:
                canceled += is_canceled(await in_flight.popleft())
            in_flight.append(self._send(order_id))
        for answered in in_flight:
            canceled += is_canceled(await answered)
        return canceled


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect."""
    transport, listener = await picows.ws_connect(_Listener, job.url, ssl_context=ssl_context(job.ca))
    assert isinstance(listener, _Listener)
    yield Client(one=listener.cancel, task=listener.cancel, bulk=listener.cancel_many)
    transport.disconnect()
    await transport.wait_disconnected()
