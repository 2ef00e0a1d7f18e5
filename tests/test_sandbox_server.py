"""The sandbox as a server: what keeps a connection alive, what ends it, what it does with garbage; sockets and TLS."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from trio_cancel._models import Credentials
from trio_cancel.sandbox import (
    ConnectionRecord,
    InvalidOrder,
    OrderStatus,
    Sandbox,
    SandboxControlError,
    UnknownOrder,
    open_sandbox,
    open_sandbox_control,
    serve_sandbox,
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


# Sockets


def signed(credentials: Credentials, request_id: str, **order: str) -> str:
    timestamp = time.time_ns() // 1_000_000
    text = f"{timestamp}{json.dumps(order, separators=(',', ':'))}"
    key = credentials.api_secret.encode()
    signature = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()
    params = {"api_token": credentials.api_token, "timestamp": timestamp, "signature": signature, **order}
    return json.dumps({"id": request_id, "method": "order.cancel", "params": params})


@pytest.mark.parametrize("tls", [True, False])
async def test_a_foreign_client_cancels_over_the_socket(tls: bool) -> None:
    async with open_sandbox(tls=tls, rate=1, burst=3, full_results=True) as sandbox:
        order = sandbox.book.create(external_id="my-order-123", amount="0.5")
        sandbox.book.fill(order.id, amount="0.125")

        def client() -> list[dict[str, Any]]:
            with connect(sandbox.url, ssl=sandbox.ssl_context, compression=None) as websocket:
                assert websocket.response is not None
                assert "Date" in websocket.response.headers
                requests = [signed(sandbox.credentials, str(count), external_id="my-order-123") for count in range(4)]
                for request in requests:
                    websocket.send(request)
                return [json.loads(websocket.recv(timeout=5)) for _ in requests]

        first, *rest = await trio.to_thread.run_sync(client)
        assert first["result"]["id"] == order.id
        assert (first["result"]["executed_amount"], first["result"]["side"]) == (0.125, "buy")
        assert [answer["error"]["error_code"] for answer in rest] == [40408, 40408, 42900]
        assert sandbox.book.get(order.id).status is OrderStatus.CANCELED
        with trio.fail_after(5):
            while sandbox.log.connections[0].closed_at is None:  # noqa: ASYNC110 - a log has no event
                await trio.sleep(0.01)
        assert sandbox.log.connections[0].close_code == 1000
        assert all(record.sent_at is not None for record in sandbox.log)


async def test_a_client_that_does_not_trust_it_does_not_get_in(tmp_path: Path) -> None:
    async with open_sandbox(tls=True) as sandbox:

        def client() -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(sandbox.url, ssl=ssl.create_default_context(), legacy=True)
            sandbox.write_ca(tmp_path / "ca.pem")
            trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            with connect(sandbox.url.replace("127.0.0.1", "localhost"), ssl=trusting):
                pass

        await trio.to_thread.run_sync(client)
        assert sandbox.ca_pem is not None
        assert [record.upgraded_at is not None for record in sandbox.log.connections] == [True]


@pytest.mark.parametrize("tls", [True, False])
async def test_the_side_door_over_the_socket(tls: bool) -> None:
    async with open_sandbox(tls=tls) as sandbox:
        async with open_sandbox_control(sandbox.url, ssl_context=sandbox.ssl_context) as control:
            order = await control.create(external_id="B", amount="0.12345678901234567890", price=7, delay=100)
            assert order == sandbox.book.get(order.id)
            assert await control.open_orders() == []
            assert await control.open_orders(pending=True) == [order]
            market = await control.create(id="A", type="market", price=None)
            assert market.price is None
            assert (await control.fill("A", amount="0.0004", price=5)).status is OrderStatus.EXECUTED_PARTIALLY
            assert await control.get("A") == sandbox.book.get("A")
            with pytest.raises(UnknownOrder):
                await control.get(external_id="C")
            with pytest.raises(SandboxControlError, match="already"):
                await control.create(id="A")
            with pytest.raises(KeyError, match="as it is"):
                raise KeyError("as it is")
        assert len(sandbox.log) == 0
        with pytest.raises(ZeroDivisionError):
            async with open_sandbox_control(sandbox.url, ssl_context=sandbox.ssl_context):
                raise ZeroDivisionError


async def test_no_browser_and_no_other_server_at_the_side_door() -> None:
    async with open_sandbox() as sandbox:

        def browser() -> int:
            with pytest.raises(InvalidStatus) as caught:
                connect(f"{sandbox.url}/sandbox", origin=Origin("https://evil.example"), legacy=True)
            return caught.value.response.status_code

        assert await trio.to_thread.run_sync(browser) == 403
        url = sandbox.url
    with pytest.raises(SandboxControlError, match=f"No sandbox answers at {url}/sandbox"):
        async with open_sandbox_control(url):
            pass


async def test_a_sandbox_that_ends_takes_its_side_door_with_it() -> None:
    async with trio.open_nursery() as nursery:
        sandbox: Sandbox = await nursery.start(partial(serve_sandbox, seed=1))
        async with open_sandbox_control(sandbox.url) as control:
            assert (await control.create(id="A")).id == "A"
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), pytest.raises(SandboxControlError, match="still running"):
                await control.get("A")


async def test_leaving_ends_every_connection_at_once() -> None:
    async with open_sandbox() as sandbox:
        websocket = await trio.to_thread.run_sync(partial(connect, sandbox.url, legacy=True))
    with pytest.raises(ConnectionClosed):
        await trio.to_thread.run_sync(partial(websocket.recv, timeout=5))
    await trio.to_thread.run_sync(websocket.close)
    assert sandbox.log.connections[0].note == "the sandbox was closed"


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    error = InvalidOrder("mine")
    with pytest.raises(InvalidOrder) as caught:
        async with open_sandbox(port=None):
            raise error
    assert caught.value is error
    assert error.__context__ is None


async def test_what_makes_no_sense() -> None:
    for wrong in ({"delay": -1}, {"delay": (0, float("inf"))}, {"idle_timeout": 0}, {"ping_interval": -1}, {"rate": 0}):
        with pytest.raises(ValueError, match="must be"):
            async with open_sandbox(port=None, **wrong):
                pass
    async with open_sandbox(port=None) as sandbox:
        assert (sandbox.ssl_context, sandbox.ca_pem) == (None, None)
        with pytest.raises(RuntimeError, match="port=None"):
            _ = sandbox.url
        with pytest.raises(RuntimeError, match="tls=True"):
            sandbox.write_ca("nowhere")


async def test_a_port_that_is_taken() -> None:
    async with open_sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its number says which
            async with open_sandbox(port=port):
                pass
        assert caught.value.errno == errno.EADDRINUSE


async def test_tls_that_is_never_spoken_is_left() -> None:
    async with open_sandbox(tls=True) as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                await until_end(stream)
        assert len(sandbox.log.connections) == 0


async def test_the_clock_can_be_off() -> None:
    async with open_sandbox(port=None, clock=lambda: 1_000_000, clock_skew=-250) as sandbox:
        assert (sandbox.now(), sandbox.clock_skew) == (999_750, -250)
        sandbox.clock_skew = 10_999
        assert sandbox.now() == 1_010_999
        ours, theirs = memory_stream_pair()
        sandbox.accept(theirs)
        await ours.send_all(UPGRADE % (b"", b""))
        assert b"Date: Thu, 01 Jan 1970 00:16:50 GMT\r\n" in bytes(await ours.receive_some())
