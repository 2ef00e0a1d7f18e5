"""A pair of streams in memory that hold little, so that a peer that does not read is felt; they count what is taken."""

from __future__ import annotations

import trio


class _Half:
    """One direction. ``budget`` is how many bytes more are ever taken; None for no end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.budget: int | None = None
        self.data = bytearray()
        self.ended = False  # nothing more is written
        self.broken = False  # nobody reads any more
        self.changed = trio.Condition()

    async def write(self, data: bytes) -> int:
        async with self.changed:
            while not self.broken and not self.ended and self._room() <= 0:
                await self.changed.wait()
            if self.broken or self.ended:
                raise trio.BrokenResourceError("the pipe is closed")
            taken = data[: self._room()]
            self.data += taken
            if self.budget is not None:
                self.budget -= len(taken)
            self.changed.notify_all()
            return len(taken)

    def _room(self) -> int:
        room = self.capacity - len(self.data)
        return room if self.budget is None else min(room, self.budget)

    async def read(self, most: int) -> bytes:
        async with self.changed:
            while not self.data and not self.ended and not self.broken:
                await self.changed.wait()
            if self.broken:
                raise trio.ClosedResourceError("the pipe is closed")
            taken = bytes(self.data[:most])
            del self.data[:most]
            self.changed.notify_all()
            return taken

    async def close(self, *, reading: bool) -> None:
        with trio.CancelScope(shield=True):
            async with self.changed:
                self.ended = True
                self.broken = self.broken or reading
                self.changed.notify_all()


class PipeStream(trio.abc.Stream):
    """One end. ``send_some`` takes what there is room for and says how much that was."""

    async def take(self, budget: int | None) -> None:
        """Let the other end take only so many bytes more of what is sent here; None for no end."""
        async with self._out.changed:
            self._out.budget = budget
            self._out.changed.notify_all()

    def __init__(self, out: _Half, into: _Half) -> None:
        self._out = out
        self._into = into

    async def send_some(self, data: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return await self._out.write(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = bytes(data)
        while rest:
            rest = rest[await self.send_some(rest) :]

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return await self._into.read(max_bytes or 2**16)

    async def aclose(self) -> None:
        await self._out.close(reading=False)
        await self._into.close(reading=True)
        await trio.lowlevel.checkpoint()


def open_pipe(capacity: int = 2**20) -> tuple[PipeStream, PipeStream]:
    """Return both ends of a pipe that holds ``capacity`` bytes each way."""
    there, back = _Half(capacity), _Half(capacity)
    return PipeStream(there, back), PipeStream(back, there)
