"""Proxies of our own on this machine: HTTP CONNECT and SOCKS5, as their standards say, with faults on demand."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import trio
import trio.lowlevel

BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
USER, PASSWORD = "proxy-user", "proxy:pass word/"
USERINFO = "proxy-user:proxy%3Apass%20word%2F@"


@attrs.define(eq=False)
class TestProxy:
    """A proxy that listens.

    Attributes:
        port: where it listens.
        asked: the targets that it was asked for: ("name", port).
        answer: bytes to answer with, instead of connecting; None to connect.
        pieces: answers come in pieces of this many bytes.
        silent: it takes connections and says nothing.
        open: connections that are open now.
    """

    __test__ = False

    port: int
    login: bool = False
    asked: list[tuple[str, int]] = attrs.field(factory=list)
    answer: bytes | None = None
    pieces: int = 65536
    silent: bool = False
    open: int = 0

    async def say(self, stream: trio.abc.Stream, data: bytes) -> None:
        for begin in range(0, len(data), self.pieces):
            await stream.send_all(data[begin : begin + self.pieces])
            await trio.lowlevel.checkpoint()


Handler = Callable[[TestProxy, trio.abc.Stream], "trio.abc.Stream | None"]


async def exactly(stream: trio.abc.Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise trio.BrokenResourceError
        data += piece
    return data


async def connect(host: str, port: int) -> trio.SocketStream:
    """Connect as the proxy does: every name under .test is this machine."""
    return await trio.open_tcp_stream("127.0.0.1" if host.endswith(".test") else host, port)


async def http(proxy: TestProxy, stream: trio.abc.Stream) -> trio.abc.Stream | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await exactly(stream, 1)
        if head == b"\x16":  # TLS, which this proxy does not speak
            await proxy.say(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return None
    request, *lines = head.decode().split("\r\n")
    method, target, version = request.split(" ")
    assert (method, version) == ("CONNECT", "HTTP/1.1")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    assert headers["host"] == target
    host, _, port = target.rpartition(":")
    proxy.asked.append((host.strip("[]"), int(port)))
    if proxy.answer is not None:
        await proxy.say(stream, proxy.answer)
        return None
    expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    given = [line.partition(": ")[2] for line in lines if line.lower().startswith("proxy-authorization")]
    if proxy.login and given != [f"Basic {expected}"]:
        await proxy.say(
            stream,
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno",
        )
        return None
    if not proxy.login:
        assert not given
    venue = await connect(*proxy.asked[-1])
    await proxy.say(stream, b"HTTP/1.1 200 Connection established\r\nVia: 1.1 a-long-header\r\n\r\n")
    return venue


async def socks5(proxy: TestProxy, stream: trio.abc.Stream) -> trio.abc.Stream | None:
    version, count = await exactly(stream, 2)
    assert version == 5
    methods = await exactly(stream, count)
    if proxy.answer is not None:
        await proxy.say(stream, proxy.answer)
        return None
    wanted = 2 if proxy.login else 0
    if wanted not in methods:
        await proxy.say(stream, b"\x05\xff")
        return None
    await proxy.say(stream, bytes((5, wanted)))
    if proxy.login:
        assert await exactly(stream, 1) == b"\x01"
        user = await exactly(stream, (await exactly(stream, 1))[0])
        password = await exactly(stream, (await exactly(stream, 1))[0])
        fine = (user, password) == (USER.encode(), PASSWORD.encode())
        await proxy.say(stream, b"\x01\x00" if fine else b"\x01\x01")
        if not fine:
            return None
    assert (await exactly(stream, 3)) == b"\x05\x01\x00"
    kind = (await exactly(stream, 1))[0]
    if kind == 3:
        host = (await exactly(stream, (await exactly(stream, 1))[0])).decode()
    else:
        assert kind == 1
        host = ".".join(map(str, await exactly(stream, 4)))
    proxy.asked.append((host, int.from_bytes(await exactly(stream, 2), "big")))
    try:
        venue = await connect(*proxy.asked[-1])
    except OSError:
        await proxy.say(stream, b"\x05\x05\x00\x01\0\0\0\0\0\0")
        return None
    await proxy.say(stream, b"\x05\x00\x00\x03\x04name\0\0")
    return venue


@asynccontextmanager
async def open_test_proxy(
    kind: str, *, login: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[TestProxy]:
    """Run a proxy of a kind, ``http`` or ``socks5``; with ``tls`` it speaks TLS itself."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = TestProxy(listener.socket.getsockname()[1], login)
    handler = {"http": http, "socks5": socks5}[kind]

    async def pump(source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
        with suppress(*BROKEN):
            while data := await source.receive_some(65536):
                await sink.send_all(data)
        scope.cancel()

    async def serve(tcp: trio.SocketStream) -> None:
        proxy.open += 1
        stream: trio.abc.Stream = tcp if tls is None else trio.SSLStream(tcp, tls, server_side=True)
        try:
            async with stream:
                if proxy.silent:
                    with suppress(*BROKEN):
                        await stream.receive_some(1)
                        await stream.receive_some(65536)
                        await exactly(stream, 1)
                    return
                with suppress(trio.BrokenResourceError):
                    venue = await handler(proxy, stream)
                    if venue is not None:
                        async with venue, trio.open_nursery() as both:
                            both.start_soon(pump, stream, venue, both.cancel_scope)
                            both.start_soon(pump, venue, stream, both.cancel_scope)
        finally:
            proxy.open -= 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])  # noqa: ASYNC113 - it listens already
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
