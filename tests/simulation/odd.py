"""What a user's code may do wrong around a session: odd exceptions from dials, streams, observers and log handlers.

None of it may cancel the block, cost an order its outcome, or stop a scope from draining.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from .record import Recorder

if TYPE_CHECKING:
    from .stream import End, Wire


class Odd(BaseException):
    """It is not an Exception, and cannot be printed."""

    def __str__(self) -> str:
        raise LookupError("no words")


ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: OSError("broke"),
    lambda: ValueError("negative file descriptor"),
    lambda: KeyError("mine"),
    AssertionError,
    StopAsyncIteration,
    MemoryError,
    Odd,
    lambda: trio.ClosedResourceError("mine"),
    lambda: BaseExceptionGroup("several", [Odd(), ValueError("inner")]),
    lambda: ExceptionGroup("one", [ExceptionGroup("two", [OverflowError("deep")])]),
)
NO_STREAMS: tuple[object, ...] = (None, "a string", 7, trio.abc.Stream)
"""What a dial returns that returns no stream."""
RETRY_AFTER = (
    "Mon, 01 Jan 99999999999 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "-1",
    "1e999",
    "nan",
    "9" * 400,
    "soon",
    "\xb2",
    "",
)
"""Values of a Retry-After that are out of range, or no time at all."""


class Thrower:
    """Raises odd exceptions by chance, and counts them.

    Args:
        chance: of each call.
        name: under which they are counted.
        recorder: where.
        rng: draws.
    """

    def __init__(self, chance: float, name: str, recorder: Recorder, rng: random.Random) -> None:
        self._chance = chance
        self._name = name
        self._recorder = recorder
        self._rng = rng

    def __call__(self) -> None:
        """Raise, or do nothing."""
        if self._chance and self._rng.random() < self._chance:
            self._recorder.faults[self._name] += 1
            raise self._rng.choice(ERRORS)()


class ThrowingHandler(logging.Handler):
    """A log handler that raises by chance."""

    def __init__(self, throw: Thrower) -> None:
        super().__init__()
        self._throw = throw

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "trio_cancel":
            self._throw()


class OddStream(trio.abc.Stream):
    """The client's end of a wire as a stream of the user's, which raises errors of its own after some bytes.

    Its ``aclose`` closes, and may raise as well.
    """

    def __init__(self, wire: Wire, end: End, *, sending: bool) -> None:
        self._wire = wire
        self._end = end
        self._sending = sending
        self._left = wire.road.at_byte

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        if not self._sending:
            await self._end.send_all(data)
            return
        part, self._left = data[: self._left], max(0, self._left - len(data))
        if part:
            await self._end.send_all(part)
        if len(part) < len(data):
            self._strike()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._sending:
            return await self._end.receive_some(max_bytes)
        if not self._left:
            await trio.lowlevel.checkpoint()
            self._strike()
        data = await self._end.receive_some(min(max_bytes or 65_536, self._left))
        self._left -= len(data)
        return data

    async def aclose(self) -> None:
        try:
            await self._end.aclose()
        finally:
            if self._wire.rng.random() < 0.2:
                self._wire.recorder.faults["odd_close"] += 1
                raise self._wire.rng.choice(ERRORS)()

    def _strike(self) -> None:
        if self._wire.struck_at is None:
            self._wire.struck_at = trio.current_time()
            assert self._wire.road.fault is not None
            self._wire.recorder.faults[self._wire.road.fault] += 1
        raise self._wire.rng.choice(ERRORS)()


async def refuse_oddly(stream: trio.abc.Stream, rng: random.Random) -> None:
    """Answer an upgrade with a Retry-After that is no time that anybody can wait."""
    head = b""
    try:
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some()
            if not data:
                break
            head += data
        else:
            status = rng.choice(("429 Too Many Requests", "503 Service Unavailable"))
            answer = f"HTTP/1.1 {status}\r\nRetry-After: {rng.choice(RETRY_AFTER)}\r\nContent-Length: 0\r\n\r\n"
            await stream.send_all(answer.encode("latin-1"))
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)
