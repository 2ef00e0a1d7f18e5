"""A server that breaks whatever rule a test wants broken: bytes by hand, over TCP or TLS."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from tests.tools.foreign import SERVER_CONTEXT
from tests.tools.proxy import BROKEN

Handler = Callable[["Peer"], Awaitable[None]]


def frame(opcode: int, payload: bytes, *, first: int | None = None) -> bytes:
    """A server's frame; ``first`` is its first byte where that is to be wrong."""
    head = bytes((0x80 | opcode if first is None else first,))
    size = len(payload)
    if size < 126:
        return head + bytes((size,)) + payload
    if size < 2**16:
        return head + struct.pack("!BH", 126, size) + payload
    return head + struct.pack("!BQ", 127, size) + payload


class Peer:
    """One client, as the server sees it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.received = bytearray()

    async def upgrade(self, extra: bytes = b"") -> None:
        """Read the request and answer it as it should be, with more bytes glued to the answer."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = bytes(await self.stream.receive_some(65536))
            if not data:
                raise trio.BrokenResourceError("no request")
            head += data
        (key,) = (
            line.split(b":", 1)[1].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        await self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + extra
        )

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def request_id(self) -> str:
        """Read one request (a single small text frame); return its id."""
        while len(self.received) < 8 or len(self.received) < self._whole():
            data = bytes(await self.stream.receive_some(65536))
            if not data:
                raise trio.BrokenResourceError("no request")
            self.received += data
        size = self._whole()
        text, self.received = self.received[:size], self.received[size:]
        start = 4 if text[1] & 0x7F == 126 else 2
        mask, payload = text[start : start + 4], text[start + 4 :]
        plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        return plain.split(b'"id":"', 1)[1].split(b'"', 1)[0].decode()

    def _whole(self) -> int:
        size = self.received[1] & 0x7F
        return 4 + 4 + int.from_bytes(self.received[2:4], "big") if size == 126 else 2 + 4 + size

    async def drain(self) -> None:
        """Read until the client ends the connection."""
        with suppress(*BROKEN):
            while data := bytes(await self.stream.receive_some(65536)):
                self.received += data

    async def close_code(self) -> int | None:
        """Read until the client ends the connection; return the code of its Close frame, None if it sent none."""
        await self.drain()
        while len(self.received) >= 6:
            size = self._whole()
            one, self.received = self.received[:size], self.received[size:]
            if one[0] == 0x88:
                return (one[6] ^ one[2]) << 8 | one[7] ^ one[3]
        return None


class RawVenue:
    """Where it listens, and how many came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connections = 0


@asynccontextmanager
async def open_raw_venue(handler: Handler, *, tls: bool = True, receive_buffer: int = 0) -> AsyncGenerator[RawVenue]:
    """Run a server that treats each client with a handler; it closes the connection when the handler ends."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if receive_buffer:
        listener.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    port = listener.socket.getsockname()[1]
    venue = RawVenue(f"{'wss' if tls else 'ws'}://localhost:{port}")

    async def serve(raw: trio.SocketStream) -> None:
        venue.connections += 1
        try:
            stream: trio.abc.Stream = raw
            if tls:
                secure = trio.SSLStream(raw, SERVER_CONTEXT, server_side=True, https_compatible=True)
                await secure.do_handshake()
                stream = secure
            await handler(Peer(stream))
        except BROKEN:
            pass
        finally:
            with trio.CancelScope(shield=True), suppress(*BROKEN):
                await trio.aclose_forcefully(raw)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])  # noqa: ASYNC113 - it listens already
        try:
            yield venue
        finally:
            nursery.cancel_scope.cancel()
