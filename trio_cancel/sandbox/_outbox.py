"""What waits to be written to one connection, and the task that writes it.

This task is the only writer of its stream. Steps that are ready are sent in one call; a slow one is sent alone. After a
step that ends the connection, nothing more is written. If it is cancelled anywhere, it may leave half a frame behind:
then the stream can only be closed.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_cancel.sandbox._delivery import End, Step
from trio_cancel.sandbox._log import RequestRecord

LINGER = 1.0  # s, from our end of stream to the client's: closing earlier could reset what it has not read yet
MAX_BACKLOG = 2**24  # bytes of answers that wait for a client that does not read

Gone = (trio.BrokenResourceError, trio.ClosedResourceError)
Batch = list[tuple[Step, RequestRecord | None]]


def half_closeable(stream: trio.abc.Stream) -> trio.abc.HalfCloseableStream | None:
    """Return the stream whose sending side can be ended: below TLS, so that its reading side need not be stopped."""
    raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return raw if isinstance(raw, trio.abc.HalfCloseableStream) else None


async def finish(stream: trio.abc.Stream) -> None:
    """End a stream that nobody reads any more, so that the client can read all of it; takes at most LINGER."""
    raw = half_closeable(stream)
    if raw is None:
        return
    with trio.move_on_after(LINGER):
        try:
            await raw.send_eof()
            while await raw.receive_some():
                pass
        except Gone:
            pass


class Outbox:
    """The steps that wait for one stream; ``end`` is called, with the reason, when the connection is over for it."""

    def __init__(self, stream: trio.abc.Stream, end: Callable[[str], None]) -> None:
        self._stream = stream
        self._end = end
        self._queue: Batch = []
        self._backlog = 0
        self._waiting = trio.lowlevel.ParkingLot()
        self.peer_ended = trio.Event()
        self.ending = False
        """Whether a step that ends the connection was queued; later frames are dropped."""

    def put(self, step: Step, record: RequestRecord | None = None) -> None:
        """Queue a step; ``record`` learns when its reply was written."""
        if self.ending and (step.data or step.end is End.STAY):
            return
        self.ending = self.ending or step.end is not End.STAY
        self._backlog += len(step.data)
        if self._backlog > MAX_BACKLOG:
            self._end("the client does not read its answers")
        self._queue.append((step, record))
        self._waiting.unpark()

    async def run(self) -> None:
        """Write until the connection is over, then wait to be cancelled."""
        try:
            while True:
                if not self._queue:
                    await self._waiting.park()
                batch, self._queue = self._queue, []
                while batch:
                    batch = await self._write_some(batch)
                self._backlog = 0
        except Gone:
            self._end("the stream broke")

    async def _write_some(self, batch: Batch) -> Batch:
        """Write as many steps at once as can go together; return the rest."""
        size = 1
        while size < len(batch) and not any(
            step.slowly or step.end is not End.STAY for step, _ in batch[size - 1 : size + 1]
        ):
            size += 1
        data = b"".join([step.data for step, _ in batch[:size]])
        last = batch[size - 1][0]
        if last.slowly:
            for index in range(len(data)):
                await self._stream.send_all(data[index : index + 1])
                await trio.sleep(last.slowly)
        elif data:
            await self._stream.send_all(data)
        now = trio.current_time()
        for step, record in batch[:size]:
            if record is not None and step.payload is not None:
                record.sent_at = now
        if last.end is End.FINISH:
            raw = half_closeable(self._stream)
            if raw is not None:
                await raw.send_eof()
                with trio.move_on_after(LINGER):
                    await self.peer_ended.wait()
        if last.end in (End.FINISH, End.DROP):
            self._end("")
            await trio.sleep_forever()
        return batch[size:]
