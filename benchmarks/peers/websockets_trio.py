"""`websockets` on trio: its own trio connection, a reader task."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import trio
from websockets.trio.client import ClientConnection, connect

from benchmarks.job import IN_FLIGHT, Job, ssl_context
from benchmarks.peers import Client
from benchmarks.peers.trio_client import TrioClient


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect without compression, with a queue that holds a whole window of replies."""
    async with (
        connect(job.url, ssl=ssl_context(job.ca), compression=None, proxy=None, max_queue=2 * IN_FLIGHT) as ws,
        trio.open_nursery() as nursery,
    ):
        by_hand = TrioClient(partial(ws.send, text=True))
        nursery.start_soon(_read, ws, by_hand)
        yield by_hand.client()
        nursery.cancel_scope.cancel()


async def _read(ws: ClientConnection, by_hand: TrioClient) -> None:
    while True:
        by_hand.answer(await ws.recv(decode=False))
