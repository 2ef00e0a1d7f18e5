"""A bare trio stream that exchanges the same bytes and does nothing else: what one round trip costs on trio at least.

Its one frame is made beforehand and sent again for every order; nothing is signed, nothing decoded: it reads until the
reply's last byte is there.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio

from benchmarks.framing import frame_length, masked_frame
from benchmarks.job import Job, ssl_context
from benchmarks.peers import Client
from benchmarks.peers.by_hand import request


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect and upgrade."""
    frame = masked_frame(request("7155ED34-9EC4-4733-8B32-1E4319CB662F")[1], os.urandom(4))
    async with open_connection(job) as stream:

        async def exchange(_order_id: str) -> bool:
            await stream.send_all(frame)
            return await read_reply(stream)

        yield Client(one=exchange)


@asynccontextmanager
async def open_connection(job: Job) -> AsyncGenerator[trio.abc.Stream]:
    """Connect and upgrade; what the venue sends from then on is frames."""
    async with await _open_stream(job) as stream:
        await _upgrade(stream, urlsplit(job.url).netloc)
        yield stream


async def read_reply(stream: trio.abc.Stream) -> bool:
    """Read until one reply's last byte is there."""
    received = await stream.receive_some(65536)
    length = frame_length(received)
    while len(received) < length:
        received += await stream.receive_some(65536)
    return len(received) == length


async def _open_stream(job: Job) -> trio.abc.Stream:
    address = urlsplit(job.url)
    assert address.hostname is not None
    assert address.port is not None
    context = ssl_context(job.ca)
    if context is None:
        return await trio.open_tcp_stream(address.hostname, address.port)
    stream = await trio.open_ssl_over_tcp_stream(
        address.hostname, address.port, ssl_context=context, https_compatible=True
    )
    await stream.do_handshake()
    return stream


async def _upgrade(stream: trio.abc.Stream, host: str) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await stream.send_all(head.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive_some(65536)
    assert answer.startswith(b"HTTP/1.1 101"), answer
