"""`websockets` on asyncio, on its own loop or on uvloop: a reader task, bytes in and out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.job import IN_FLIGHT, Job, ssl_context
from benchmarks.peers import Client
from benchmarks.peers.asyncio_client import AsyncioClient


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect without compression, with a queue that holds a whole window of replies."""
    async with connect(job.url, ssl=ssl_context(job.ca), compression=None, proxy=None, max_queue=2 * IN_FLIGHT) as ws:
        by_hand = AsyncioClient(partial(ws.send, text=True))
        reader = asyncio.create_task(_read(ws, by_hand))
        yield by_hand.client()
        reader.cancel()


async def _read(ws: ClientConnection, by_hand: AsyncioClient) -> None:
    while True:
        by_hand.answer(await ws.recv(decode=False))
