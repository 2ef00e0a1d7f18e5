"""The sandbox as a server: what keeps a connection alive, what ends it, what it does with garbage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_cancel.sandbox import (
    ConnectionRecord,
    Sandbox,
    open_sandbox,
)
from trio_cancel.sandbox._tally import FrameTally

UPGRADE = (
    b"GET /%s HTTP/1.1\r\nHost: sandbox\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    first = bytes(((0x80 if fin else 0) | opcode,))
    if len(payload) < 126:
        return first + bytes((0x80 | len(payload),)) + bytes(4) + payload
    if len(payload) < 2**16:
        return first + b"\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload
    return first + b"\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


def close(code: int) -> bytes:
    return frame(8, code.to_bytes(2, "big"))


async def until_end(stream: trio.abc.Stream) -> tuple[bytes, float]:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received, trio.current_time()


async def run(data: bytes, *, then: float = 0.0, **options: Any) -> tuple[bytes, float, ConnectionRecord, Sandbox]:
    """Send bytes after an upgrade, wait, end the stream; return what came after the 101, when it ended, the record."""
    async with open_sandbox(port=None, seed=1, **options) as sandbox:
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        await ours.send_all(UPGRADE % (b"", b""))
        head = bytes(await ours.receive_some())
        await ours.send_all(data)
        if then:
            with trio.move_on_after(then):
                received, ended_at = await until_end(ours)
                return received, ended_at, sandbox.log.connections[0], sandbox
        await ours.send_eof()
        received, ended_at = await until_end(ours)
        return head[head.index(b"\r\n\r\n") + 4 :] + received, ended_at, sandbox.log.connections[0], sandbox


def codes(received: bytes) -> Iterator[int]:
    """The opcodes of a server's small frames; a Close as its code."""
    while received:
        size = received[1]
        start = 2
        if size == 126:
            size, start = int.from_bytes(received[2:4], "big"), 4
        payload = received[start : start + size]
        opcode = received[0] & 15
        yield int.from_bytes(payload[:2], "big") if opcode == 8 else opcode
        received = received[start + size :]


async def test_an_idle_connection_is_closed_and_unsolicited_pongs_do_not_help(autojump_clock: MockClock) -> None:
    async with open_sandbox(port=None) as sandbox, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        await ours.send_all(UPGRADE % (b"", b""))

        async def pong() -> None:
            while True:
                await trio.sleep(7)
                await ours.send_all(frame(10, b"hello"))

        nursery.start_soon(pong)
        received, ended_at = await until_end(ours)
        nursery.cancel_scope.cancel()
    frames = received[received.index(b"\r\n\r\n") + 4 :]
    assert list(codes(frames)) == [9, 1001]
    assert b"idle" in frames
    assert 60 <= ended_at <= 66
    assert sandbox.log.connections[0].note == "closed by the sandbox: 1001 idle"


@pytest.mark.parametrize("alive", ["answers", "pings", "asks"])
async def test_what_keeps_a_connection_alive(alive: str, autojump_clock: MockClock) -> None:
    async with open_sandbox(port=None) as sandbox:
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        await ours.send_all(UPGRADE % (b"", b""))
        await ours.receive_some()
        for second in range(1, 200):
            received = b""
            with trio.move_on_at(second):
                received = bytes(await ours.receive_some())
            if alive == "answers" and received[:1] == b"\x89":
                await ours.send_all(frame(10, received[2:]))
            await trio.sleep_until(second)
            if second % 40 == 0 and alive != "answers":
                await ours.send_all(frame(9, b"") if alive == "pings" else frame(1, b"{}"))
        assert sandbox.log.connections[0].closed_at is None


async def test_without_timers_a_silent_connection_stays(autojump_clock: MockClock) -> None:
    async with open_sandbox(port=None, idle_timeout=None, ping_interval=None) as sandbox:
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        await ours.send_all(UPGRADE % (b"", b""))
        await trio.sleep(10_000)
        assert sandbox.log.connections[0].closed_at is None
    assert sandbox.log.connections[0].note == "the sandbox was closed"


@pytest.mark.parametrize(
    ("data", "expected", "note"),
    [
        (frame(2, b"binary"), 1003, "text messages only"),
        (frame(1, b"\xff"), 1007, "utf-8"),
        (b"\x91\x80\x00\x00\x00\x00", 1002, "Reserved bit"),
        (b"\x81\x01x", 1002, "unmasked"),
        (frame(0, b"x"), 1002, "CONTINUATION"),
        (frame(9, b"x" * 126), 1002, "Control frame"),
        (close(999), 1002, "invalid code"),
        (frame(1, b"x" * (2**20 + 1)), 1009, "too big"),
        (frame(1, b"x" * 2**19, fin=False) + frame(0, b"x" * (2**19 + 1)), 1009, "too big"),
    ],
)
async def test_broken_protocol_is_closed_with_its_code(
    data: bytes, expected: int, note: str, autojump_clock: MockClock
) -> None:
    received, ended_at, record, _ = await run(frame(1, b"{}") + data, then=30)
    assert list(codes(received)) == [1, expected]
    assert note in record.note
    assert ended_at <= 5


async def test_what_follows_the_end_is_only_counted(autojump_clock: MockClock) -> None:
    received, _, record, _ = await run(frame(2, b"") + frame(1, b"{}") * 3 + close(1000) + b"\x81", then=30)
    assert list(codes(received)) == [1003]
    assert (record.requests, record.unread, record.close_code, record.incomplete) == (0, 3, 1000, 1)


async def test_a_message_in_fragments_and_many_reads(autojump_clock: MockClock) -> None:
    payload = json.dumps({"id": "x" * 70_000, "\xe7": "\xe7"}, ensure_ascii=False).encode()
    whole = frame(1, payload[:100], fin=False) + frame(9, b"!") + frame(0, payload[100:])
    received, _, record, sandbox = await run(whole)
    assert next(codes(received)) == 10
    assert len(received) > 70_000
    assert [request.request_id for request in sandbox.log] == ["x" * 70_000]
    assert (record.incomplete, record.note) == (0, "the client ended the stream")


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 8, 20])
async def test_an_incomplete_frame_is_noted(cut: int, autojump_clock: MockClock) -> None:
    _, _, record, sandbox = await run(frame(1, b"{}") + frame(1, b"x" * 200)[:cut])
    assert (record.requests, record.incomplete) == (1, cut)
    assert len(sandbox.log) == 1


@pytest.mark.parametrize("step", [1, 2, 3, 5, 64, 10_000])
def test_the_tally_in_pieces(step: int) -> None:
    stream = b"".join(frame(1, b"x" * size) for size in (0, 1, 125, 126, 65535, 65536)) + b"\x81\x05"
    tally = FrameTally()
    for start in range(0, len(stream), step):
        tally.feed(stream[start : start + step])
    assert tally.complete == 6 + (0 if stream.endswith(b"\x81\x05") else 1)
    assert tally.pending == 2


@pytest.mark.parametrize(
    "opening",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: sandbox\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: sandbox\r\nContent-Length: 0\r\n\r\n",
        (UPGRADE % (b"", b"")).replace(b"Version: 13", b"Version: 8"),
        UPGRADE % (b"", b"") + frame(1, b"too early"),
        UPGRADE % (b"", b"") + b"\r\n\r\n",
        (UPGRADE % (b"", b"")).replace(b"Host: sandbox", b"Host: xn--\xff"),
        (UPGRADE % (b"", b"")).replace(b"Connection: Upgrade", b"Connection: \xff"),
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
    ],
)
async def test_what_is_no_upgrade_gets_a_400(opening: bytes, autojump_clock: MockClock) -> None:
    async with open_sandbox(port=None) as sandbox:
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        await ours.send_all(opening)
        received, _ = await until_end(ours)
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert sandbox.log.connections[0].note.startswith("no upgrade request")


async def test_an_upgrade_that_does_not_come(autojump_clock: MockClock) -> None:
    async with open_sandbox(port=None) as sandbox:
        for ends in (True, False):
            ours, theirs = memory_stream_pair()
            sandbox.accept(theirs)
            await ours.send_all(b"GET / HT")
            if ends:
                await ours.send_eof()
            assert (await until_end(ours))[0] == b""
        assert [record.note for record in sandbox.log.connections] == [
            "the client left before its upgrade request was complete",
            "no upgrade request in time",
        ]


async def test_a_client_that_does_not_read_its_answers_is_dropped(autojump_clock: MockClock) -> None:
    class Full(trio.abc.SendStream):
        """Takes the 101 and nothing more."""

        sent = 0

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            self.sent += 1
            if self.sent > 1:
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()

        async def wait_send_all_might_not_block(self) -> None:
            await trio.lowlevel.checkpoint()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with open_sandbox(port=None) as sandbox:
        ours, theirs = memory_stream_pair()
        sandbox.accept(trio.StapledStream(Full(), theirs.receive_stream))
        await ours.send_all(UPGRADE % (b"", b""))
        await wait_all_tasks_blocked()
        ping = frame(9, b"x" * 125)
        for _ in range(2**24 // 127 // 1000 + 2):
            await ours.send_all(ping * 1000)
        await wait_all_tasks_blocked()
        assert sandbox.log.connections[0].note == "the client does not read its answers"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), upgraded=st.booleans())
def test_garbage_never_crashes_it(data: bytes, upgraded: bool) -> None:
    async def main() -> None:
        async with open_sandbox(port=None) as sandbox:
            for path in (b"", b"sandbox"):
                ours, theirs = memory_stream_pair()
                sandbox.accept(theirs)
                if upgraded:
                    await ours.send_all(UPGRADE % (path, b""))
                    await ours.receive_some()
                await ours.send_all(data)
                await ours.send_eof()
                await until_end(ours)
            await trio.sleep(10)
            assert all(record.closed_at is not None for record in sandbox.log.connections)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_the_clock_can_be_off() -> None:
    async with open_sandbox(port=None, clock=lambda: 1_000_000, clock_skew=-250) as sandbox:
        assert (sandbox.now(), sandbox.clock_skew) == (999_750, -250)
        sandbox.clock_skew = 10_999
        assert sandbox.now() == 1_010_999
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        await ours.send_all(UPGRADE % (b"", b""))
        assert b"Date: Thu, 01 Jan 1970 00:16:50 GMT\r\n" in bytes(await ours.receive_some())
