"""Bytes without TLS: a socket used directly, or a foreign stream (one that the user's ``dial`` returned).

The reader task calls ``receive``, the writer task ``send_now`` and ``send``; any task may call ``close``, which wakes
both. Every error is raised as ``trio.BrokenResourceError`` with its cause.

Cancellation: ``receive`` loses nothing; ``send`` leaves ``sent`` correct.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from trio_cancel._values.boundary import Boundary, describe, ends_program, goes_on

RECEIVE_SIZE = 2**16
#: Seconds that a foreign stream may take to close forcefully, which should take none.
CLOSE_GRACE = 1.0
# The system calls' errors for a socket that we closed ourselves (POSIX, Windows).
_CLOSED = {errno.EBADF, errno.ENOTSOCK}


class Raw(Protocol):
    """``sent`` counts the bytes that were accepted, also by a send that failed or was cancelled."""

    sent: int

    async def receive(self) -> bytes: ...

    def send_now(self, data: bytes) -> int:
        """Hand bytes over without waiting; return how many were accepted."""

    async def send(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    async def aclose_forcefully(self) -> None: ...


class SocketRaw:
    """A connected socket, used directly: without unneeded scheduler passes and system calls."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._filled = False
        self.sent = 0

    async def receive(self) -> bytes:
        sock = self._socket
        if sock.fileno() == -1:
            raise trio.BrokenResourceError("this stream was closed")
        try:
            if self._filled:
                # The last read filled its buffer, so more is probably ready. A cancellation here loses nothing.
                self._filled = False
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(sock)
            while True:
                try:
                    data = sock.recv(RECEIVE_SIZE)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(sock)
                else:
                    self._filled = len(data) == RECEIVE_SIZE
                    return data
        except (OSError, trio.ClosedResourceError) as exc:
            raise _broken(exc) from exc

    def send_now(self, data: bytes) -> int:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise _broken(exc) from exc
        self.sent += sent
        return sent

    async def send(self, data: bytes) -> None:
        sent = 0
        with memoryview(data) as view:
            while sent < len(data):
                if self._socket.fileno() == -1:
                    raise trio.BrokenResourceError("this stream was closed")
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                    with view[sent:] as rest:
                        count = self._socket.send(rest)
                except BlockingIOError:
                    continue
                except (OSError, trio.ClosedResourceError) as exc:
                    raise _broken(exc) from exc
                sent += count
                self.sent += count

    def close(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def aclose_forcefully(self) -> None:
        self.close()


class StreamRaw:
    """A foreign stream.

    If it has ``async send_some(data) -> int``, bytes are counted as it accepts them. If it has only ``send_all``,
    nobody knows how far a failed call came, so everything given to it counts as accepted before the call: it MAY have
    been sent.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._send_some: Callable[[bytes], Awaitable[int]] | None = getattr(stream, "send_some", None)
        self._scopes: set[trio.CancelScope] = set()  # of the tasks that wait in the stream
        self._closed = False
        self.sent = 0

    async def receive(self) -> bytes:
        with self._until_closed():
            data = await self._stream.receive_some(RECEIVE_SIZE)
            if not isinstance(data, bytes | bytearray | memoryview):  # bytes(5) would be five zeros
                raise TypeError(f"receive_some returned {type(data).__name__}, not bytes")
            return bytes(data)
        raise trio.BrokenResourceError("this stream was closed")

    def send_now(self, data: bytes) -> int:  # noqa: ARG002 - a foreign stream takes nothing without waiting
        if self._closed:
            raise trio.BrokenResourceError("this stream was closed")
        return 0

    async def send(self, data: bytes) -> None:
        with self._until_closed():
            if self._send_some is None:
                self.sent += len(data)
                await self._stream.send_all(data)
                return
            sent = 0
            while sent < len(data):
                count = await self._send_some(data[sent:] if sent else data)
                if type(count) is not int or not 0 <= count <= len(data) - sent:
                    self.sent += len(data) - sent  # all of it may have been sent
                    raise TypeError(f"send_some returned {count!r}, not how many of {len(data) - sent} bytes it took")
                sent += count
                self.sent += count
            return
        raise trio.BrokenResourceError("this stream was closed")

    @contextmanager
    def _until_closed(self) -> Iterator[None]:
        """Map errors of any class, and leave at once when the stream is closed under us."""
        if self._closed:
            raise trio.BrokenResourceError("this stream was closed")
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            except BaseException as exc:  # a boundary: it raises again what must go on
                if goes_on(exc) or ends_program(exc):
                    raise
                raise _broken(exc) from exc  # noqa: ASYNC104 - see above
            finally:
                self._scopes.discard(scope)

    def close(self) -> None:
        self._closed = True
        for scope in self._scopes:
            scope.cancel()

    async def aclose_forcefully(self) -> None:
        self.close()
        with trio.move_on_after(CLOSE_GRACE, shield=True), Boundary() as boundary:
            await trio.aclose_forcefully(self._stream)
        if (fatal := ends_program(boundary.error)) is not None:
            raise fatal


def _broken(exc: BaseException) -> trio.BrokenResourceError:
    if isinstance(exc, trio.ClosedResourceError) or (isinstance(exc, OSError) and exc.errno in _CLOSED):
        return trio.BrokenResourceError("this stream was closed")
    return trio.BrokenResourceError(f"the connection broke: {describe(exc)}")
