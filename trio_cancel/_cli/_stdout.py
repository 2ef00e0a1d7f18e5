"""Lines out to stdout, without ever holding up the session.

One task (:meth:`Stdout.run`) owns the way out: it writes what has gathered, in a thread, because the other end of a
pipe may take its time. When stdout breaks (its reader has gone, the disk is full) that is kept in ``broken``, the rest
is dropped, and the cancels go on: an output must not stop a kill switch.

Cancellation: ``room`` may be cancelled without harm. ``run`` when cancelled leaves a write behind that may never end.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections import deque

import trio

from trio_cancel._trio.wakeup import Bell

LINES_MOST = 1024
"""Lines that may wait before whoever makes them waits, too."""


class Stdout:
    """Stdout as a sink of lines.

    Attributes:
        broken: why stdout takes no more, or None.
        lost: lines that it did not take.
        ended: set when all lines were written or lost.
    """

    def __init__(self) -> None:
        self.broken: OSError | None = None
        self.lost = 0
        self.ended = trio.Event()
        self._lines: deque[bytes] = deque()
        self._closed = False
        self._full = Bell()
        self._empty = Bell()

    def put(self, line: bytes) -> None:
        """Hand a line over. Never blocks."""
        if self.broken is not None:
            self.lost += 1
            return
        self._lines.append(line)
        self._full.ring()

    async def room(self) -> None:
        """Wait until not too many lines wait."""
        while len(self._lines) > LINES_MOST:
            await self._empty.wait()

    def close(self) -> None:
        """Say that no line follows; ``run`` ends when all are written."""
        self._closed = True
        self._full.ring()

    async def run(self) -> None:
        """Write lines until closed."""
        while self._lines or not self._closed:
            if not self._lines:
                await self._full.wait()
                continue
            count = len(self._lines)
            chunk = b"".join(self._lines)
            self._lines.clear()
            self._empty.ring()
            try:
                await trio.to_thread.run_sync(_write, chunk, abandon_on_cancel=True)
            except OSError as error:
                self.broken = error
                self.lost += count + len(self._lines)
                self._lines.clear()
                self._empty.ring()
        self.ended.set()


def _write(chunk: bytes) -> None:
    """Write and flush. Straight to the descriptor: a thread that is left behind must hold no lock of Python's own."""
    stream = sys.stdout
    if stream is None:
        raise OSError("stdout is closed")
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, ValueError):  # replaced by something in memory, or closed
        if stream.closed:
            raise OSError("stdout is closed") from None
        stream.write(chunk.decode())
        stream.flush()
        return
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # whoever started us made it non-blocking
            select.select([], [descriptor], [])
