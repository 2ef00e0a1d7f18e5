"""trio-websocket as its manual shows it: a reader task, `send_message`, one connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from benchmarks.job import IN_FLIGHT, Job, ssl_context
from benchmarks.peers import Client
from benchmarks.peers.trio_client import TrioClient


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect, with a queue and a receive buffer that hold a whole window of replies."""
    async with (
        open_websocket_url(
            job.url, ssl_context(job.ca), message_queue_size=2 * IN_FLIGHT, receive_buffer_size=64 * 1024
        ) as ws,
        trio.open_nursery() as nursery,
    ):
        by_hand = TrioClient(lambda text: ws.send_message(text.decode()))
        nursery.start_soon(_read, ws, by_hand)
        yield by_hand.client()
        nursery.cancel_scope.cancel()


async def _read(ws: WebSocketConnection, by_hand: TrioClient) -> None:
    try:
        while True:
            by_hand.answer(await ws.get_message())
    except ConnectionClosed:
        return
