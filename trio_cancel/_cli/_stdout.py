"""Writes lines to stdout without ever holding up the session.

One task (:meth:`Stdout.run`) owns stdout. It writes what has accumulated, in a thread, because the other end of a pipe
may be slow. If no thread can be started, it writes in small pieces that do not block. If stdout breaks (its reader has
gone, the disk is full), ``broken`` says why, the rest is dropped, and the cancels go on: output must not stop a kill
switch.

Cancellation: ``room`` may be cancelled without harm. ``run``, when cancelled, leaves behind a write that may never end.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress

import trio

from trio_cancel._cli._failure import PIECE, CommandError, descriptor_of, encoded, output_poll, why_of
from trio_cancel._cli._tally import Status
from trio_cancel._trio.wakeup import Wakeup

LINES_MOST = 1024
"""Lines that may wait before their producer waits, too."""
LOOK_AGAIN = 0.02
"""Seconds between two looks at a stdout that accepts nothing, if there is no thread that could wait."""


class Stdout:
    """Stdout as a destination for lines.

    Attributes:
        broken: why stdout accepts no more, or None.
        lost: the number of lines that it did not accept.
        no_thread: why no thread could be started, or None.
        ended: set when all lines were written or lost.
    """

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.lost = 0
        self.no_thread: RuntimeError | None = None
        self.ended = trio.Event()
        self._lines: list[bytes] = []
        self._closed = False
        self._limiter = trio.CapacityLimiter(1)  # a separate one: other threads must not hold it up
        self._full = Wakeup()
        self._empty = Wakeup()

    def put(self, line: bytes) -> None:
        """Add a line. Never blocks."""
        if self.broken is not None:
            self.lost += 1
            return
        self._lines.append(line)
        self._full.ring()

    async def room(self) -> None:
        """Wait until only a few lines are waiting."""
        while len(self._lines) > LINES_MOST:
            await self._empty.wait()

    def close(self) -> None:
        """Say that no more lines follow; ``run`` ends when all are written."""
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
                await self._write(chunk)
            except (OSError, ValueError) as error:
                self.broken = error
                self.lost += count + len(self._lines)
                self._lines.clear()
                self._empty.ring()
        self.ended.set()

    async def _write(self, chunk: bytes) -> None:
        try:
            await trio.to_thread.run_sync(_write, chunk, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as error:
            self.no_thread = error
            await _write_in_pieces(chunk)


def write_stdout(text: str) -> None:
    """Write text, if there is a stdout. Blocks for as long as its reader takes.

    Raises:
        BrokenPipeError: its reader has gone.
        CommandError: it accepts no more.
    """
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        _write(encoded(sys.stdout, text))
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise CommandError(f"Stdout cannot be written ({why_of(error)}).", status=Status.LEFT) from error


def _descriptor() -> int | None:
    if sys.stdout is None or sys.stdout.closed:
        raise OSError("stdout is closed")
    return descriptor_of(sys.stdout)


def _write(chunk: bytes) -> None:
    """Write and flush, directly to the descriptor: an abandoned thread must not hold one of Python's locks."""
    descriptor = _descriptor()
    if descriptor is None:
        sys.stdout.write(chunk.decode(errors="replace"))
        sys.stdout.flush()
        return
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # our parent process made it non-blocking
            select.select([], [descriptor], [])


async def _write_in_pieces(chunk: bytes) -> None:
    """Write in pieces, each when the descriptor is ready for one, so that the event loop is not held up."""
    descriptor = _descriptor()
    if descriptor is None or not hasattr(select, "poll"):
        _write(chunk)
        return
    ready = output_poll(descriptor)
    view = memoryview(chunk)
    while view:
        with suppress(BlockingIOError):  # another writer was faster
            if ready.poll(0):
                view = view[os.write(descriptor, view[:PIECE]) :]
                await trio.lowlevel.checkpoint()
                continue
        await trio.sleep(LOOK_AGAIN)
