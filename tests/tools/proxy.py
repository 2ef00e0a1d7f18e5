"""A TCP proxy that does to a connection what networks do: cut, stall, trickle, reset, truncate."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define
class Way:
    """One direction of a connection.

    Attributes:
        open: False holds everything back.
        trickle: seconds between two bytes, 0 for none.
        left: bytes that still pass before the connection is cut, None for all.
        passed: bytes that have passed.
    """

    open: bool = True
    trickle: float = 0.0
    left: int | None = None
    passed: int = 0
    changed: trio.Event = attrs.Factory(trio.Event)

    def set(self, *, open: bool | None = None, trickle: float | None = None, left: int | None = None) -> None:
        """Change how this direction behaves from now on."""
        self.open = self.open if open is None else open
        self.trickle = self.trickle if trickle is None else trickle
        self.left = self.left if left is None else left
        self.changed.set()
        self.changed = trio.Event()


@attrs.define(eq=False)
class Wire:
    """One proxied connection; ``there`` leads to the venue, ``back`` to the client."""

    client: trio.SocketStream
    venue: trio.SocketStream
    there: Way = attrs.Factory(Way)
    back: Way = attrs.Factory(Way)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def cut(self) -> None:
        """End it in both directions."""
        self.scope.cancel()

    def reset(self) -> None:
        """End it towards the client with RST."""
        with suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.scope.cancel()

    def black_hole(self) -> None:
        """Let nothing through any more, and tell nobody."""
        self.there.set(open=False)
        self.back.set(open=False)


class Proxy:
    """A listening proxy.

    Attributes:
        wires: its connections, in order.
        accepting: False leaves new connections without an answer.
        first: what the next connections are like from their first byte, as keywords of `Way.set` for ``back``.
    """

    def __init__(self, target: int, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        self.wires: list[Wire] = []
        self.accepting = True
        self.first: list[dict[str, float | bool]] = []
        self.port: int = listener.socket.getsockname()[1]
        self._target = target
        self._listener = listener
        self._nursery = nursery

    @property
    def wire(self) -> Wire:
        """The newest connection."""
        return self.wires[-1]

    async def serve(self) -> None:
        await trio.serve_listeners(self._carry, [self._listener], handler_nursery=self._nursery)

    async def _carry(self, client: trio.SocketStream) -> None:
        if not self.accepting:
            await trio.sleep_forever()
        venue = await trio.open_tcp_stream("127.0.0.1", self._target)
        wire = Wire(client, venue)
        if self.first:
            wire.back.set(**self.first.pop(0))  # type: ignore[arg-type]  # mypy does not match the keywords' types
        self.wires.append(wire)
        try:
            with wire.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, venue, wire.there, wire)
                    nursery.start_soon(self._pump, venue, client, wire.back, wire)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(venue)
                await trio.aclose_forcefully(client)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, way: Way, wire: Wire) -> None:
        with suppress(*BROKEN):
            while data := bytes(await source.receive_some(65536)):
                while not way.open:
                    await way.changed.wait()
                if way.left is not None and len(data) >= way.left:
                    await sink.send_all(data[: way.left])
                    break
                if way.left is not None:
                    way.left -= len(data)
                if way.trickle:
                    for byte in data:
                        await sink.send_all(bytes((byte,)))
                        await trio.sleep(way.trickle)
                else:
                    await sink.send_all(data)
                way.passed += len(data)
        wire.cut()


@asynccontextmanager
async def open_proxy(target: int) -> AsyncGenerator[Proxy]:
    """Run a proxy to a port of this machine."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        proxy = Proxy(target, listener, nursery)
        nursery.start_soon(proxy.serve)  # noqa: ASYNC113 - its socket listens already
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
