"""The stream that trio-websocket gets: it peels replies off on the way in and queues control frames on the way out.

The reader task alone calls ``receive_some``; it owns the peeler. ``send_all`` writes through during the upgrade and
only queues afterwards, so that a stalled write never blocks the reader.

trio-websocket on its own says nothing to a peer that breaks the protocol, and drops what it holds when it closes: so
here the end is seen first, the Close frame queued, and the reader ended while its messages can still be read.

Cancellation: ``receive_some`` loses nothing that was not handed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio
import trio_websocket

from trio_cancel._net.frames import CLOSE, FramePeeler, HeadReader, NotHTTP, encode_close
from trio_cancel._net.stream import ByteStream
from trio_cancel._values.errors import ConnectionLost

#: Bytes of control frames that may wait for the writer.
MAX_CONTROL = 2**16
#: Bytes of slow messages that may wait to be taken; then the connection is given up.
MAX_SLOW_BYTES = 4 * 2**20

_CLOSE_BYTE = bytes((0x80 | CLOSE,))
_CLOSE_REASONS = {1002: "protocol error", 1007: "invalid text", 1008: "too much", 1009: "message too big"}


class TapStream(trio.abc.Stream):
    """What trio-websocket takes for its connection.

    Attributes:
        connection: trio-websocket's object; whoever sets it then sets ``attached``. No frame is read before.
        failure: the first reason why the link ended, if it was not by Close frames alone.
        close_queued: our Close frame is on its way; nothing may follow it.
        close_code: code of the peer's Close frame, if one came.
        close_reason: the reason in it.
        requested_at: wall clock before the request was written, in seconds.
        answered_at: wall clock after the head of the answer was read, in seconds.
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
        self.connection: trio_websocket.WebSocketConnection | None = None
        self.attached = trio.Event()
        self.failure: BaseException | None = None
        self.close_queued = False
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.requested_at = self.answered_at = 0.0
        self._wall_clock = wall_clock
        self._control_size = 0
        self._peer_closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - part of the interface
        """The stream without the peeled messages; ``b""`` at its end. Raises to end trio-websocket's reader."""
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
        """Wait for the answer to the upgrade; only that of a 101 is handed on."""
        if self.head.head:  # handed on and taken; the link is about to be attached
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
        """End the reader if the last bytes ended the WebSocket, and say so to the peer where it did not."""
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
        """Give the connection up for what the peer did: queue a Close frame, and end the reader."""
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
        """Write the request through; queue everything else for the writer, and drop what would follow a Close."""
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
        """The queued control frames, in order; they are the caller's to write now."""
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
