"""One connection from its upgrade to its end.

In the connection's nursery run trio-websocket's reader (through our tap, which passes small texts straight to the
engine), the writer (the only task that writes to the socket), the slow reader (large, fragmented and binary messages,
which come from trio-websocket) and the keepalive. They run in the session's shielded scope and under KeyboardInterrupt
protection, so nothing that happens to a caller reaches them.

Whatever ends the connection, the engine learns of it in ``finally``: after every message that came before, and after
the writer has reported which requests were not sent. An error in any of these tasks, in the user's ``dial`` or in its
stream ends only this connection (``ConnectionLost``) or this attempt to open one (``HandshakeFailed``).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from trio_cancel._engine.cancel_journal import CancelJournal
from trio_cancel._engine.engine import Engine
from trio_cancel._net.endpoint import Endpoint
from trio_cancel._net.names import Names
from trio_cancel._net.proxy import Tunnel
from trio_cancel._net.stream import ByteStream, Dial, open_stream
from trio_cancel._net.websocket import Link, upgrade
from trio_cancel._session.writer import Writer
from trio_cancel._trio.environment import Environment
from trio_cancel._trio.ready_input import take_in
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.boundary import Boundary, describe
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import ConnectionLost, HandshakeFailed

FLUSH_TIME = 0.5
"""Seconds in which a Close frame may still be sent, and messages delivered, after a connection has failed."""
CLOSE_TIME = 1.0
"""Seconds for an orderly close when the session ends."""


@attrs.frozen
class ConnectOptions:
    """How to open a connection, and what earlier ones have found out for the next."""

    endpoint: Endpoint
    ssl_context: ssl.SSLContext | None
    dial: Dial | None
    connect_timeout: float = 10.0
    names: Names = attrs.field(factory=Names)

    async def open(self) -> ByteStream:
        """Connect; see :func:`trio_cancel._net.stream.open_stream`."""
        return await open_stream(self.endpoint, ssl_context=self.ssl_context, dial=self.dial, names=self.names)


class Connection:
    """One connection; :meth:`serve` is its whole life."""

    def __init__(self, number: int, engine: Engine, environment: Environment, journal: CancelJournal | None) -> None:
        self.number = number
        self.link: Link
        self._writer: Writer
        self._journal = journal
        self._engine = engine
        self._environment = environment
        self._over = trio.Event()
        self._cause: BaseException | None = None
        self._up = False
        self._pieces = 0  # number of pieces that were read

    def end(self, cause: BaseException | None) -> None:
        """End the connection; the first cause counts."""
        if not self._over.is_set():
            self._cause = cause
            self._over.set()

    def write_now(self) -> None:
        """Write what is queued, if that is possible without waiting; otherwise have it written soon."""
        self._writer.write_now()

    async def close(self) -> None:
        """Close in an orderly way, as far as the peer lets us within ``CLOSE_TIME``, and end."""
        with trio.move_on_after(CLOSE_TIME):
            await self.link.aclose(1000)
        self.end(None)

    async def take_in(self) -> None:
        """Return once the reader has taken in what is in the socket, so that a deadline can be judged."""
        if self._up and not self._over.is_set():
            await take_in(lambda: (self._pieces, self._over.is_set()))

    async def serve(self, options: ConnectOptions, opened: Callable[[Connection], None]) -> BaseException | None:
        """Connect, serve until the connection ends, and leave nothing open.

        Args:
            options: how to connect.
            opened: called once requests can be written.

        Returns:
            Why the connection ended; None if we closed it.

        Raises:
            HandshakeFailed: it could not be opened, with the real reason, within ``connect_timeout``.
        """
        boundary = Boundary()
        try:
            with boundary:
                await self._live(options, opened)
        finally:
            error = boundary.error
            if self._up:
                try:
                    await self.link.stream.aclose_forcefully()  # noqa: ASYNC102 - it ends by itself, and soon
                finally:
                    if error is not None:
                        self.end(_lost(error))
                    self._engine.connection_down(self.number, self._cause, trio.current_time())
        if self._up:
            return self._cause
        assert error is not None
        if isinstance(error, HandshakeFailed):
            raise error
        raise HandshakeFailed(
            f"No connection to {options.endpoint.origin} could be made: {describe(error)}."
        ) from error

    async def _live(self, options: ConnectOptions, opened: Callable[[Connection], None]) -> None:
        """Connect, and serve until the connection ends; raise whatever else ended it."""
        # Without a journal the writer admits orders itself; with one it takes orders that are admitted and durable.
        wakeup = self._engine.wakeup if self._journal is None else Wakeup()
        stage = "the TCP and TLS connection was not made"
        async with trio.open_nursery() as nursery:
            try:
                with trio.move_on_after(options.connect_timeout):
                    stream = await options.open()
                    stage = "the WebSocket upgrade was not answered"
                    self.link = await upgrade(
                        nursery,
                        stream,
                        options.endpoint,
                        on_texts=self._read,
                        on_fed=self._after_reading,
                        wake=wakeup.ring,
                        wall_clock=self._environment.wall,
                    )
                    self._up = True
                if not self._up:
                    where, seconds = options.endpoint.origin, f"{options.connect_timeout:g} s"
                    if isinstance(options.dial, Tunnel):
                        where += f" through the proxy {options.dial.proxy.origin}"
                    raise HandshakeFailed(f"No connection to {where} within {seconds}: {stage}.")
                self._writer = Writer(
                    self.number, self._engine, self._environment, self._journal, wakeup, self.link, self.end
                )
                opened(self)
                await self._run(nursery, self._writer)
            finally:
                nursery.cancel_scope.cancel()

    async def _run(self, nursery: trio.Nursery, writer: Writer) -> None:
        if writer.write_ahead is not None:
            nursery.start_soon(writer.write_ahead.run)
        nursery.start_soon(writer.write)
        nursery.start_soon(self._read_slow)
        nursery.start_soon(self._keep_alive)
        nursery.start_soon(self._watch_reader)
        await self._over.wait()
        with trio.move_on_after(FLUSH_TIME):
            # If there is a Close frame that says what the peer did wrong, it is worth half a second.
            if self.link.closing and not self.link.stream.poisoned:
                await writer.flushed.wait()
                if self.link.ended.is_set():
                    # Unread bytes would make the system reset the connection before the peer reads our code.
                    await self.link.stream.drain()

    def _read(self, texts: list[bytes] | list[str]) -> None:
        """Pass the text messages of one piece to the engine; called in the reader's task."""
        self._engine.read(texts, self.number, trio.current_time(), self._environment.wall())

    def _after_reading(self) -> None:
        """Let the writer go on, and leave a venue that sends too much noise; called after each piece."""
        self._pieces += 1
        if self._engine.after_reading():
            self.end(ConnectionLost("the venue sent too many messages that are not answers"))

    @trio.lowlevel.enable_ki_protection
    async def _watch_reader(self) -> None:
        link = self.link
        await link.ended.wait()
        if link.failure is not None:
            self.end(_lost(link.failure))
        elif link.close_code is not None:
            reason = f", {link.close_reason}" if link.close_reason else ""
            self.end(ConnectionLost(f"the venue closed the connection ({link.close_code}{reason})"))
        else:
            self.end(ConnectionLost("the venue closed the connection without a Close frame"))

    @trio.lowlevel.enable_ki_protection
    async def _read_slow(self) -> None:
        while (message := await self.link.next_message()) is not None:
            if isinstance(message, str):
                self._read([message])
            else:
                self._engine.count_binary(trio.current_time())
            self._after_reading()

    @trio.lowlevel.enable_ki_protection
    async def _keep_alive(self) -> None:
        deadline = self._environment.timings.pong_deadline
        while True:
            await trio.sleep(self._environment.timings.ping_interval)
            pong = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ping, pong)
                for _ in range(2):
                    until = trio.current_time() + deadline
                    with trio.move_on_at(until):
                        await pong.wait()
                    if not pong.is_set():
                        await self.take_in()
                    if pong.is_set() or trio.current_time() < until + deadline / 10:
                        break
                    # We were held up, perhaps before the ping could be sent: try once more.
                nursery.cancel_scope.cancel()
            if not pong.is_set():
                self.end(ConnectionLost(f"no pong came within {deadline:g} s"))
                return

    @trio.lowlevel.enable_ki_protection
    async def _ping(self, pong: trio.Event) -> None:
        with suppress(trio.BrokenResourceError):  # the reader reports why
            await self.link.ping()
        pong.set()


async def probe(options: ConnectOptions, environment: Environment) -> OffsetInterval | None:
    """Open a connection, close it, and return what its upgrade showed of the venue's clock; None if that was nothing.

    Raises:
        HandshakeFailed: it could not be opened within ``connect_timeout``. The caller must handle any other exception.
    """
    link: Link | None = None
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(options.connect_timeout):
                link = await upgrade(
                    nursery,
                    await options.open(),
                    options.endpoint,
                    on_texts=lambda _: None,
                    wake=lambda: None,
                    wall_clock=environment.wall,
                )
            nursery.cancel_scope.cancel()
    finally:
        if link is not None:
            await link.stream.aclose_forcefully()  # noqa: ASYNC102 - it ends by itself, and soon
    if link is None:
        raise HandshakeFailed(f"No connection to {options.endpoint.origin} within {options.connect_timeout:g} s.")
    return link.offset


def _lost(error: BaseException) -> ConnectionLost:
    """Return why a connection ended, with ``error`` as its cause."""
    lost = ConnectionLost(describe(error))
    lost.__cause__ = error
    return lost
