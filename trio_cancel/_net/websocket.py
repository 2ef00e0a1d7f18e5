"""The only module that knows trio-websocket: opening handshake, and a link that survives none of its faults.

trio-websocket handles the handshake, control frames, fragments and large messages. It gets a :class:`TapStream`, which
peels small text messages off on their way in and queues control frames on their way out, so that a stalled write never
blocks the reader. On its own, trio-websocket does not answer a peer that breaks the protocol, and drops the messages it
holds when it closes. So this module notices the end first, queues the Close frame, and ends the reader while its
messages can still be read.

Tasks: one reader task per link, started in the caller's nursery, protected from KeyboardInterrupt. It owns the peeler
and trio-websocket's state, and calls ``on_texts``. It never raises: its end sets ``Link.ended``, and ``Link.failure``
has the reason. The caller's writer task owns the sending side and takes control frames from ``Link.take_control``.

Cancellation: :func:`upgrade` closes the stream and stops the reader when cancelled. Everything in :class:`Link` may be
cancelled at any await without harm to the link.

What the caller learns: ``HandshakeFailed`` with the real reason; later the end of the link and its reason. Text
messages that came before the end have been delivered by then; slow ones can still be taken from ``next_message()``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

import attrs
import trio
import trio_websocket

from trio_cancel._net.endpoint import Endpoint
from trio_cancel._net.frames import CLOSE, MAX_MESSAGE_SIZE, FramePeeler, HeadReader, NotHTTP, encode_close
from trio_cancel._net.sockets import CLOSE_GRACE
from trio_cancel._net.stream import ByteStream
from trio_cancel._values.boundary import Boundary
from trio_cancel._values.clock import OffsetInterval, offset_from_date, retry_after
from trio_cancel._values.errors import ConnectionLost, HandshakeFailed

#: Bytes of control frames that may wait for the writer.
MAX_CONTROL = 2**16
#: Bytes of slow messages that may wait to be taken; beyond that the connection is given up.
MAX_SLOW_BYTES = 4 * 2**20

_CLOSE_BYTE = bytes((0x80 | CLOSE,))
_CLOSE_REASONS = {1002: "protocol error", 1007: "invalid text", 1008: "too much", 1009: "message too big"}
#: Slow messages that may wait to be taken; beyond that the reader waits, too.
MAX_SLOW_MESSAGES = 256


class TapStream(trio.abc.Stream):
    """What trio-websocket takes for its connection: only the reader task calls ``receive_some``.

    ``receive_some``, if cancelled, loses only what was already passed on. ``send_all`` writes directly during the
    upgrade and only queues afterwards.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        on_texts: Callable[[list[bytes]], object],
        on_fed: Callable[[], object],
        wake: Callable[[], object],
        wall_clock: Callable[[], float],
    ) -> None:
        self.stream = stream
        self.wake = wake
        self.peeler = FramePeeler(on_texts)
        self.on_fed = on_fed
        self.head = HeadReader()
        self.control: list[bytes] = []
        # Whoever sets this must then set `attached`. No frame is read before.
        self.connection: trio_websocket.WebSocketConnection | None = None
        self.attached = trio.Event()
        self.failure: BaseException | None = None  # the first reason for the end, unless it came by Close frames alone
        self.close_queued = False  # our Close frame is on its way; nothing may follow it
        self.close_code: int | None = None  # of the peer's Close frame
        self.close_reason: str | None = None
        # Unix seconds before the request was written, and after the head of the answer was read.
        self.requested_at = self.answered_at = 0.0
        self._wall_clock = wall_clock
        self._control_size = 0
        self._peer_closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - part of the interface
        """Return the stream without the peeled messages; ``b""`` at its end. Raises to end trio-websocket's reader."""
        if self.connection is None:
            return await self._receive_head()
        self._check()
        peeler, stream = self.peeler, self.stream
        data, self.head.rest = self.head.rest, b""
        try:
            while True:
                if data:
                    passing = peeler.feed(data)
                    self.on_fed()
                    if passing:
                        return passing
                    if peeler.too_big:
                        self._check()
                data = await stream.receive()
                if not data:
                    self.fail(ConnectionLost("The venue ended the connection without a Close frame."))
                    return b""
        except trio.BrokenResourceError as exc:
            self.fail(exc)
            raise

    async def _receive_head(self) -> bytes:
        """Wait for the answer to the upgrade; only a 101 is passed on."""
        if self.head.head:  # passed on and taken; the link is about to be attached
            await self.attached.wait()
            return await self.receive_some()
        try:
            while True:
                data = await self.stream.receive()
                if not data:
                    raise trio.BrokenResourceError("the venue closed the connection")
                if self.head.feed(data):
                    break
        except (NotHTTP, trio.BrokenResourceError) as exc:
            self.fail(exc)
            raise trio.BrokenResourceError from exc
        self.answered_at = self._wall_clock()
        if self.head.status != 101:
            raise trio.BrokenResourceError("refused")
        return self.head.head

    def _check(self) -> None:
        """End the reader if the last bytes ended the WebSocket; tell the peer if it does not know."""
        assert self.connection is not None
        closed = self.connection.closed
        if self.failure is not None:
            raise trio.BrokenResourceError("the link has ended")
        if self._peer_closed:
            if closed is not None:
                self.close_code, self.close_reason = closed.code, closed.reason
            raise trio.BrokenResourceError("closed by the peer")
        code = 0
        if closed is not None:
            code = closed.code
        elif self.peeler.too_big:
            code = 1009
        elif self.peeler.backlog > MAX_SLOW_BYTES:
            code = 1008
        if code:
            self.violation(code)

    def violation(self, code: int) -> None:
        """Give up the connection because of what the peer did: queue a Close frame, and end the reader."""
        reason = _CLOSE_REASONS.get(code, "protocol error")
        self.fail(ConnectionLost(f"The venue broke the WebSocket protocol; closed with {code} ({reason})."))
        self.queue_close(code, reason)
        raise trio.BrokenResourceError(reason)

    def queue_close(self, code: int, reason: str) -> None:
        """Queue our Close frame, once."""
        if not self.close_queued:
            self.close_queued = True
            self.control.append(encode_close(code, reason, os.urandom(4)))
            self.wake()

    def fail(self, exc: BaseException) -> None:
        """Keep the first reason."""
        if self.failure is None:
            self.failure = exc

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write the request directly; queue everything else for the writer, and drop what would follow a Close."""
        data = bytes(data)
        if not self.head.status:
            self.requested_at = self._wall_clock()
            try:
                await self.stream.send((data,))
            except trio.BrokenResourceError as exc:
                self.fail(exc)
                raise
            return
        closing = data[:1] == _CLOSE_BYTE
        self._peer_closed = self._peer_closed or closing  # trio-websocket closes only in answer to the peer
        if self.close_queued:
            return
        if self._control_size + len(data) > MAX_CONTROL:
            self.fail(ConnectionLost("The venue asked for more pongs than could be written."))
            self.stream.close()
            raise trio.BrokenResourceError("too many control frames are waiting")
        self.close_queued = closing
        self._control_size += len(data)
        self.control.append(data)
        self.wake()

    def take_control(self) -> list[bytes]:
        """Return the queued control frames, in order; the caller must write them now."""
        taken, self.control = self.control, []
        self._control_size = 0
        return taken

    async def wait_send_all_might_not_block(self) -> None:
        """Part of the interface; queueing never blocks."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Part of the interface: trio-websocket gives up."""
        self.stream.close()
        await trio.lowlevel.checkpoint()


class Link:
    """An open WebSocket. Made by :func:`upgrade`; its reader runs until the link ends or its nursery is cancelled.

    Attributes:
        offset: what the upgrade showed of the venue's clock; None if that was nothing.
        stream: the bytes below; the caller's writer writes to it, and the caller closes it in the end.
        ended: set when the reader has ended; no more messages come, except from :meth:`next_message`.
    """

    def __init__(self, tap: TapStream) -> None:
        self.stream = tap.stream
        self.ended = trio.Event()
        self.offset: OffsetInterval | None = None
        self._tap = tap
        self._scopes: set[trio.CancelScope] = set()  # of tasks that wait for something that the end makes impossible
        self._reader_scope = trio.CancelScope()
        self._ping_number = 0

    @property
    def closing(self) -> bool:
        """True once a Close frame was queued or has come: no more requests may be written."""
        return self._tap.close_queued or self._tap.peeler.close_seen

    @property
    def failure(self) -> BaseException | None:
        """Why the link ended, unless it ended by Close frames alone."""
        return self._tap.failure

    @property
    def close_code(self) -> int | None:
        """The code of the peer's Close frame, 1005 if it had none; None if none came."""
        return self._tap.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason in the peer's Close frame, or None."""
        return self._tap.close_reason

    def take_control(self) -> list[bytes]:
        """Return control frames (pongs, pings, Close) to write before anything else, in order, and remove them here.

        ``wake`` has been called if there are some. It is also called when ``stream.pending_output`` is set: then
        ``stream.send`` is due even if there is nothing to send.
        """
        return self._tap.take_control()

    async def ping(self) -> float:
        """Send a ping and wait for its pong. The caller bounds it.

        Returns:
            Seconds until the answer.

        Raises:
            trio.BrokenResourceError: the link is closing or ended.

        Cancelled: the ping is forgotten.
        """
        connection = self._tap.connection
        if connection is None or self.closing or self.ended.is_set():
            raise trio.BrokenResourceError("the link is closing")
        self._ping_number += 1
        started = trio.current_time()
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await connection.ping(self._ping_number.to_bytes(4, "big"))
                return trio.current_time() - started
            except trio_websocket.ConnectionClosed as exc:
                raise trio.BrokenResourceError("the link has ended") from exc
            finally:
                self._scopes.discard(scope)
        raise trio.BrokenResourceError("the link has ended")

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Queue a Close frame and wait until the link has ended. The caller bounds it, and closes the stream.

        Messages that come before the peer's Close are still delivered.

        Cancelled: the Close frame stays queued.
        """
        self._tap.queue_close(code, reason or "")
        await self.ended.wait()

    async def next_message(self) -> str | bytes | None:
        """Return the next message that was not small text: large or fragmented text (str), binary (bytes).

        None once the link has ended, after all that were waiting then. Only one task may call this.
        """
        assert self._tap.connection is not None
        try:
            message = await self._tap.connection.get_message()
        except trio_websocket.ConnectionClosed:
            return None
        peeler = self._tap.peeler
        peeler.backlog -= peeler.passed.popleft()
        return message

    def stop(self) -> None:
        """Stop the reader and close the stream at once."""
        self._reader_scope.cancel()
        self.stream.close()

    @trio.lowlevel.enable_ki_protection
    async def _read(self, reader: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run trio-websocket's reader; how it ends is recorded, not raised, so that it cannot hurt its nursery."""
        boundary = Boundary()
        try:
            with boundary, self._reader_scope:
                await reader(*args)
        finally:
            if boundary.error is not None:
                self._tap.fail(boundary.error)  # the reason of the end, for everybody concerned
            self.ended.set()
            for scope in self._scopes:
                scope.cancel()
            self._tap.wake()


@attrs.frozen
class _ReaderNursery:
    """The nursery that trio-websocket gets: the only task that it starts, its reader, runs as the link's reader."""

    nursery: trio.Nursery
    link: Link

    def start_soon(self, async_fn: Callable[..., Awaitable[None]], *args: Any, name: object = None) -> None:
        self.nursery.start_soon(self.link._read, async_fn, *args, name=name)


def _nothing() -> None:
    """Do nothing."""


async def upgrade(
    nursery: trio.Nursery,
    stream: ByteStream,
    endpoint: Endpoint,
    *,
    on_texts: Callable[[list[bytes]], object],
    on_fed: Callable[[], object] = _nothing,
    wake: Callable[[], object],
    wall_clock: Callable[[], float],
) -> Link:
    """Turn a stream into a WebSocket.

    Args:
        nursery: where the reader task runs; cancelling it stops the link.
        stream: a connected stream; it is closed if the upgrade fails.
        endpoint: names the host and the resource.
        on_texts: called in the reader task with the payloads of the small text messages of one piece; must not raise.
        on_fed: called there after each piece of bytes, once all its text messages have been delivered.
        wake: called when something waits for the writer, and at the end of the link.
        wall_clock: seconds since the epoch.

    Returns:
        The link; ``on_texts`` is not called before the caller's next checkpoint.

    Raises:
        HandshakeFailed: with the real reason; with ``status`` and ``retry_after`` if the venue refused.

    Cancelled: the reader is stopped and the stream closed. There is no deadline in here.
    """
    tap = TapStream(stream, on_texts=on_texts, on_fed=on_fed, wake=wake, wall_clock=wall_clock)
    link = Link(tap)
    try:
        with trio.CancelScope() as scope:
            link._scopes.add(scope)
            connection = await trio_websocket.wrap_client_stream(
                cast("trio.Nursery", _ReaderNursery(nursery, link)),
                cast("trio.SocketStream", tap),  # its annotation is narrower than what it accepts
                endpoint.host_header,
                endpoint.resource,
                message_queue_size=MAX_SLOW_MESSAGES,
                max_message_size=2 * MAX_MESSAGE_SIZE,  # the peeler's limit comes first
            )
            link._scopes.discard(scope)
            tap.connection = connection
            tap.attached.set()
            stream.on_output = wake
            link.offset = offset_from_date(tap.head.header("date"), tap.requested_at, tap.answered_at)
            return link
        raise _handshake_failure(tap, endpoint) from tap.failure
    except BaseException:
        link.stop()
        with trio.move_on_after(CLOSE_GRACE, shield=True):
            await stream.aclose_forcefully()
        raise


def _handshake_failure(tap: TapStream, endpoint: Endpoint) -> HandshakeFailed:
    status, origin = tap.head.status, endpoint.origin
    if status not in {0, 101}:
        wait = retry_after(tap.head.header("retry-after"), tap.head.header("date"), tap.answered_at)
        asks = "" if wait is None else f" (it asks us to wait {wait:.0f} s)"
        remedy = _REMEDIES.get(
            status, _OTHER_REMEDY if endpoint.secure else f"{_OTHER_REMEDY}, perhaps {_secure(origin)}"
        )
        return HandshakeFailed(
            f"{origin} refused the WebSocket upgrade with status {status}{asks}; {remedy}.",
            status=status,
            retry_after=wait,
            final=status == 401,
        )
    perhaps = "" if endpoint.secure else f"perhaps the port speaks TLS ({_secure(origin)}), otherwise "
    if tap.failure is None or isinstance(tap.failure, trio.BrokenResourceError):
        return HandshakeFailed(
            f"{origin} dropped the connection during the WebSocket upgrade; {perhaps}try again later."
        )
    return HandshakeFailed(f"{origin} did not answer as a WebSocket server; {perhaps}check the url's port and path.")


def _secure(origin: str) -> str:
    return origin.replace("ws://", "wss://", 1)


_OTHER_REMEDY = "check the url"
_REMEDIES = {401: "check the credentials", 403: "ask the venue for access", 429: "wait before trying again"}
_REMEDIES |= dict.fromkeys(range(500, 600), "try again later")
