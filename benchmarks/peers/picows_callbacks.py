"""picows on uvloop with callbacks alone: each reply sends the next request. Near the limit of what Python can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager

import picows

from benchmarks.job import IN_FLIGHT, Job, ssl_context
from benchmarks.peers import Client
from benchmarks.peers.by_hand import decode, is_canceled, request


class _Listener(picows.WSListener):
    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[str, str] = {}
        self._orders: Iterator[str] = iter(())
        self._canceled = 0

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, _transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.TEXT:
            reply = decode(frame.get_payload_as_memoryview())
            del self._pending[reply["id"]]
            self._canceled += is_canceled(reply)
            self._send_next()

    def _send_next(self) -> None:
        for order_id in self._orders:
            request_id, text = request(order_id)
            self._pending[request_id] = order_id
            self._transport.send(picows.WSMsgType.TEXT, text)
            return
        if not self._pending and not self._finished.done():
            self._finished.set_result(None)

    async def cancel_many(self, order_ids: Sequence[str]) -> int:
        """Cancel many orders: the first window is sent here, the rest by the replies."""
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders = iter(order_ids)
        self._canceled = 0
        for _ in range(IN_FLIGHT):
            self._send_next()
        await self._finished
        return self._canceled


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect."""
    transport, listener = await picows.ws_connect(_Listener, job.url, ssl_context=ssl_context(job.ca))
    assert isinstance(listener, _Listener)
    yield Client(bulk=listener.cancel_many)
    transport.disconnect()
    await transport.wait_disconnected()
