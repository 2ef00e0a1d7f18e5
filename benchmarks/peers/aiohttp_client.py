"""aiohttp on uvloop: a session, a reader task, bytes in and out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import aiohttp

from benchmarks.job import Job, ssl_context
from benchmarks.peers import AIOHTTP_WINDOW, Client
from benchmarks.peers.asyncio_client import AsyncioClient


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect without compression; text stays undecoded bytes for the JSON parser."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(job.url, ssl=ssl_context(job.ca) or True, compress=0, decode_text=False) as ws,
    ):
        by_hand = AsyncioClient(partial(ws.send_frame, opcode=aiohttp.WSMsgType.TEXT))
        reader = asyncio.create_task(_read(ws, by_hand))
        yield by_hand.client(cheapest=job.peer == AIOHTTP_WINDOW)
        reader.cancel()


async def _read(ws: aiohttp.ClientWebSocketResponse[bool], by_hand: AsyncioClient) -> None:
    async for message in ws:
        if message.type is aiohttp.WSMsgType.TEXT:
            by_hand.answer(message.data)
