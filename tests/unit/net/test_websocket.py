"""The link against scripted servers that write raw bytes: every hazard of the stack below, one by one."""

from __future__ import annotations

import base64
import hashlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
import trio_websocket
import trustme

from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._net.frames import MAX_MESSAGE_SIZE, encode_texts
from trio_cancel._net.sockets import StreamRaw
from trio_cancel._net.stream import ByteStream, open_stream
from trio_cancel._net.websocket import MAX_CONTROL, Link, upgrade
from trio_cancel._values.clock import offset_from_date
from trio_cancel._values.errors import ConnectionLost, HandshakeFailed

ENDPOINT = parse_endpoint("ws://127.0.0.1:1234/path?q=1")
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
MASK = b"\x01\x02\x03\x04"


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, first: int = 0) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes([size])
    elif size <= 0xFFFF:
        head = b"\x7e" + struct.pack("!H", size)
    else:
        head = b"\x7f" + struct.pack("!Q", size)
    return bytes([first or (fin << 7 | opcode)]) + head + payload


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, 8)


def unmask(data: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of small client frames."""
    frames = []
    while data:
        size = data[1] & 0x7F
        assert data[1] & 0x80
        assert size < 126
        mask, payload, rest = data[2:6], data[6 : 6 + size], data[6 + size :]
        frames.append((data[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))))
        data = rest
    return frames


class Venue:
    """The other end of a memory stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.request = b""

    async def read_request(self) -> str:
        while not self.request.endswith(b"\r\n\r\n"):
            data = await self.stream.receive_some()
            if not data:
                raise trio.BrokenResourceError("the client left")
            self.request += data
        (key,) = [line[19:] for line in self.request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: ")]
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        return base64.b64encode(digest).decode()

    async def accept(self, glued: bytes = b"", *, key: str | None = None) -> None:
        right = await self.read_request()
        await self.stream.send_all(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nDate: {DATE}\r\n"
            f"Sec-WebSocket-Accept: {key or right}\r\n\r\n".encode()
            + glued
        )

    async def frames(self) -> list[tuple[int, bytes]]:
        """Everything that the client wrote so far; it must be whole frames."""
        data = b""
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                nonlocal data
                while piece := await self.stream.receive_some():
                    data += piece

            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return unmask(data)


class Client:
    """A link with the least that its owner does: a writer, and a list of texts."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.bell = trio.Event()
        self.link: Link | None = None

    def wake(self) -> None:
        self.bell.set()

    async def write(self) -> None:
        link = self.link
        assert link is not None
        while True:
            await self.bell.wait()
            self.bell = trio.Event()
            control = link.take_control()
            if control or link.stream.pending_output:
                await link.stream.send(control)


@asynccontextmanager
async def linked(
    glued: bytes = b"", *, writer: bool = True, on_texts: Callable[[list[bytes]], object] | None = None
) -> AsyncIterator[tuple[Link, Venue, Client]]:
    """An open link, and whoever is at its other end."""
    ours, theirs = trio.testing.memory_stream_pair()
    venue, client = Venue(theirs), Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(venue.accept, glued)
        client.link = await upgrade(
            nursery,
            ByteStream(StreamRaw(ours)),
            ENDPOINT,
            on_texts=on_texts or client.texts.extend,
            wake=client.wake,
            wall_clock=iter((100.0, 100.25)).__next__,
        )
        if writer:
            nursery.start_soon(client.write)
        yield client.link, venue, client
        nursery.cancel_scope.cancel()
    await client.link.stream.aclose_forcefully()
    await theirs.aclose()


async def slow(link: Link) -> list[str | bytes]:
    messages: list[str | bytes] = []
    while (message := await link.next_message()) is not None:
        messages.append(message)
    return messages


# The way in.


async def test_a_round_trip() -> None:
    async with linked() as (link, venue, client):
        assert venue.request.startswith(b"GET /path?q=1 HTTP/1.1\r\nHost: 127.0.0.1:1234\r\n")
        assert link.offset == offset_from_date(DATE, 100.0, 100.25)
        assert link.stream.accepted == 1
        await link.stream.send([encode_texts([b"one"], MASK)[0], encode_texts([b"two"], MASK)[0]])
        assert await venue.frames() == [(1, b"one"), (1, b"two")]
        await venue.stream.send_all(frame(b"un") + frame("d\u00e9ux".encode()))
        await trio.testing.wait_all_tasks_blocked()
        assert client.texts == [b"un", "d\u00e9ux".encode()]
        assert not link.closing
        assert link.failure is None
        assert link.close_code is None


async def test_frames_glued_to_the_answer_come_after_the_upgrade_has_returned() -> None:
    order: list[str] = []
    async with linked(frame(b"early") + frame(b"ping", 9), on_texts=lambda payloads: order.append("text")) as (
        _,
        venue,
        _,
    ):
        order.append("returned")
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["returned", "text"]
        assert await venue.frames() == [(10, b"ping")]


async def test_what_is_not_small_text_comes_the_slow_way() -> None:
    big = "\u00e9" * 50_000
    async with linked() as (link, venue, client):
        async with trio.open_nursery() as nursery:
            got: list[str | bytes] = []

            @nursery.start_soon
            async def take() -> None:
                got.extend(await slow(link))

            await venue.stream.send_all(frame(big.encode()) + frame(b"\x00", 2) + frame(b"small"))
            await venue.stream.send_all(frame(b"in ", fin=False) + frame(b"p", 9) + frame(b"parts", 0) + close(1000))
        assert got == [big, b"\x00", "in parts"]
        assert client.texts == [b"small"]
        assert await venue.frames() == [(10, b"p"), (8, b"\x03\xe8")]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_however_the_bytes_arrive(size: int) -> None:
    stream = frame(b"a" * 300) + frame(b"\x81\x05" * 400, 2) + frame(b"b") + close(1001, b"bye")
    async with linked() as (link, venue, client):
        for start in range(0, len(stream), size):
            await venue.stream.send_all(stream[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        assert client.texts == [b"a" * 300, b"b"]
        assert (link.close_code, link.close_reason) == (1001, "bye")
        assert await slow(link) == [b"\x81\x05" * 400]


# Ends.


async def test_the_peer_closes() -> None:
    async with linked() as (link, venue, client):
        await venue.stream.send_all(frame(b"last") + close(4000, b"maintenance") + frame(b"never"))
        await link.ended.wait()  # no FIN is needed (H5)
        assert client.texts == [b"last"]
        assert link.closing
        assert (link.close_code, link.close_reason, link.failure) == (4000, "maintenance", None)
        assert await venue.frames() == [(8, struct.pack("!H", 4000) + b"maintenance")]
        with pytest.raises(trio.BrokenResourceError):
            await link.ping()
        await link.aclose()  # nothing left to do
        assert await venue.frames() == []


async def test_a_close_of_the_peer_ends_the_writing_at_once() -> None:
    """Also while its Close still waits behind messages that nobody has taken: what is written then is not read."""
    seen: list[bool] = []
    async with linked(on_texts=lambda _: seen.append(link.closing)) as (link, venue, _):
        await venue.stream.send_all(frame(b"before"))
        await trio.testing.wait_all_tasks_blocked()
        await venue.stream.send_all(frame(b"with it") + close(1000))
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [False, True]


async def test_the_first_reason_counts() -> None:
    async with linked(writer=False) as (link, venue, _):
        await venue.stream.send_all(frame(b"x" * 200, 9))  # a control frame may not be that long
        await link.ended.wait()
        failure = link.failure
        assert "broke the WebSocket protocol" in str(failure)
        link._tap.fail(ConnectionLost("later"))
        assert link.failure is failure


async def test_we_close_and_replies_still_come() -> None:
    async with linked() as (link, venue, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.aclose, 1000, "done")
            await trio.testing.wait_all_tasks_blocked()
            assert link.closing
            assert await venue.frames() == [(8, b"\x03\xe8done")]
            # Pings that cross our Close, and messages after it (H9, H16).
            await venue.stream.send_all(frame(b"x", 9) + frame(b"late") + frame(b"slow", 2) + frame(b"y", 9))
            await trio.testing.wait_all_tasks_blocked()
            assert not link.ended.is_set()
            await venue.stream.send_all(close(1000))
        assert client.texts == [b"late"]
        assert await slow(link) == [b"slow"]
        assert (link.failure, link.close_code) == (None, 1000)
        assert await venue.frames() == []  # nothing after a Close


async def test_closing_with_a_peer_that_never_closes(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (link, _, _):
        with trio.move_on_after(2) as scope:
            await link.aclose()
        assert scope.cancelled_caught
        link.stop()
        await link.ended.wait()


@pytest.mark.parametrize("abrupt", [False, True])
async def test_the_connection_ends_without_a_close(abrupt: bool) -> None:
    async with linked() as (link, venue, client):
        await venue.stream.send_all(frame(b"ok") + frame(b"bin", 2) + frame(b"cut off")[:4])
        await trio.testing.wait_all_tasks_blocked()
        if abrupt:
            link.stream.close()
        else:
            await venue.stream.aclose()
        await link.ended.wait()
        assert client.texts == [b"ok"]
        assert isinstance(link.failure, trio.BrokenResourceError if abrupt else ConnectionLost)
        assert link.close_code is None
        assert await slow(link) == [b"bin"]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(b"\xff\xff"), 1007),
        (frame(b"\xff", fin=False), 1007),
        (frame(b"x" * 70_000 + b"\xc3"), 1007),
        (frame(b"abc", first=0xC1), 1002),
        (frame(b"abc", 3), 1002),
        (frame(b"abc", 0), 1002),
        (frame(b"a", fin=False) + frame(b"b"), 1002),
        (frame(b"abc", 9, fin=False), 1002),
        (b"\x89\x7e\x00\x7e" + b"x" * 126, 1002),
        (b"\x81\x83abcdxyz", 1002),
        (b"\x81\x7e\x00\x03abc", 1002),
        (frame(b"\x03", 8), 1002),
        (close(1005), 1002),
        (close(999), 1002),
        (close(1000, b"\xff"), 1007),
        (frame(b"x" * (MAX_MESSAGE_SIZE + 1))[:100], 1009),
        (frame(b"x" * MAX_MESSAGE_SIZE, 2, fin=False) + frame(b"x", 0), 1009),
        (frame(b"", fin=False) + frame(b"", 0, fin=False) * 20_000, 1009),
    ],
)
async def test_a_violation_closes_with_its_code_after_the_replies_before_it(wrong: bytes, code: int) -> None:
    """H4, H10."""
    async with linked() as (link, venue, client):
        await venue.stream.send_all(frame(b"good") + frame(b"queued", 2) + wrong + b"\x00" * 50)
        await link.ended.wait()
        assert client.texts == [b"good"]
        assert await slow(link) == [b"queued"]
        ((opcode, payload),) = await venue.frames()
        assert opcode == 8
        assert struct.unpack("!H", payload[:2]) == (code,)
        assert isinstance(link.failure, ConnectionLost)
        assert str(code) in str(link.failure)
        assert link.closing
        assert link.close_code is None


async def test_a_message_that_is_too_big_from_the_first_byte_of_a_piece_on() -> None:
    async with linked() as (link, venue, client):
        await venue.stream.send_all(frame(b"good"))
        await trio.testing.wait_all_tasks_blocked()
        await venue.stream.send_all(frame(b"x" * (MAX_MESSAGE_SIZE + 1))[:20])
        await link.ended.wait()
        assert client.texts == [b"good"]
        assert await venue.frames() == [(8, struct.pack("!H", 1009) + b"message too big")]


async def test_no_second_close_after_a_violation_while_closing() -> None:
    async with linked() as (link, venue, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.aclose)
            await trio.testing.wait_all_tasks_blocked()
            await venue.stream.send_all(frame(b"abc", 3))
        assert [opcode for opcode, _ in await venue.frames()] == [8]


async def test_what_a_callback_raises_ends_the_link() -> None:
    error = ZeroDivisionError()

    def on_texts(payloads: list[bytes]) -> None:
        raise error

    async with linked(on_texts=on_texts) as (link, venue, _):
        await venue.stream.send_all(frame(b"x"))
        await link.ended.wait()
        assert link.failure is error


# Pings.


async def test_ping(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (link, venue, _):
        async with trio.open_nursery() as nursery:
            took: list[float] = []

            @nursery.start_soon
            async def ask() -> None:
                took.append(await link.ping())

            (ping,) = await venue.frames()
            assert ping[0] == 9
            await trio.sleep(0.5)
            await venue.stream.send_all(frame(b"unasked", 10) + frame(ping[1], 10))
        assert took == [pytest.approx(0.5)]


@pytest.mark.parametrize("end", ["eof", "close", "violation", "stop"])
async def test_a_ping_ends_with_the_link(end: str) -> None:
    """H11."""
    async with linked() as (link, venue, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await link.ping()

        await trio.testing.wait_all_tasks_blocked()
        match end:
            case "eof":
                await venue.stream.aclose()
            case "close":
                await venue.stream.send_all(close(1000))
            case "violation":
                await venue.stream.send_all(b"\xff\xff")
            case _:
                link.stop()


async def test_nothing_is_asked_of_a_link_that_is_closing(autojump_clock: trio.testing.MockClock) -> None:
    """The peer reads nothing after our Close, so that no pong would ever come."""
    async with linked() as (link, venue, _), trio.open_nursery() as nursery:
        nursery.start_soon(link.aclose)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1), pytest.raises(trio.BrokenResourceError, match="closing"):
            await link.ping()
        await venue.stream.send_all(close(1000))


async def test_a_cancelled_ping_passes_the_cancellation_on(autojump_clock: trio.testing.MockClock) -> None:
    async with linked() as (link, venue, _):
        with trio.move_on_after(10) as scope:
            await link.ping()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.ping)
            _, second = await venue.frames()
            await venue.stream.send_all(frame(second[1], 10))


# Floods and stalls.


async def test_a_stalled_writer_does_not_stop_replies_nor_grow() -> None:
    """H12."""
    async with linked(writer=False) as (link, venue, client):
        await venue.stream.send_all(frame(b"p", 9) * 100 + frame(b"reply"))
        await trio.testing.wait_all_tasks_blocked()
        assert client.texts == [b"reply"]
        assert len(link.take_control()) == 100
        await venue.stream.send_all(frame(b"p" * 125, 9) * (MAX_CONTROL // 125))
        await trio.testing.wait_all_tasks_blocked()
        assert link.ended.is_set()
        assert "pongs" in str(link.failure)
        assert sum(map(len, link.take_control())) <= MAX_CONTROL


async def test_a_ping_flood_with_a_writer_is_answered() -> None:
    async with linked() as (link, venue, _):
        for _ in range(10):
            await venue.stream.send_all(frame(b"", 9) * 2000)
            assert len(await venue.frames()) == 2000
        assert not link.ended.is_set()


async def test_our_own_pings_cannot_overflow_quietly() -> None:
    async with linked(writer=False) as (link, _, _):
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_CONTROL // 10 + 1):
                nursery.start_soon(_failing_ping, link)
        assert link.ended.is_set()


async def _failing_ping(link: Link) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await link.ping()


async def test_slow_messages_that_nobody_takes_are_bounded() -> None:
    async with linked() as (link, venue, _):
        for _ in range(5):
            await venue.stream.send_all(frame(b"x" * MAX_MESSAGE_SIZE, 2))
            await trio.testing.wait_all_tasks_blocked()
        assert link.ended.is_set()
        ((_, payload),) = await venue.frames()
        assert payload[:2] == struct.pack("!H", 1008)
        assert len(await slow(link)) == 4  # the fifth was refused at its header


async def test_slow_messages_that_are_taken_do_not_count_any_more() -> None:
    async with linked() as (link, venue, _), trio.open_nursery() as nursery:
        got: list[str | bytes] = []

        @nursery.start_soon
        async def take() -> None:
            got.extend(await slow(link))

        for count in range(1, 9):
            await venue.stream.send_all(frame(b"x" * MAX_MESSAGE_SIZE, 2))
            await trio.testing.wait_all_tasks_blocked()
            assert not link.ended.is_set()
            assert link._tap.peeler.backlog == 0, count
        await venue.stream.send_all(close(1000))
        await link.ended.wait()
        nursery.cancel_scope.deadline = trio.current_time() + 1
    assert len(got) == 8


async def test_many_small_slow_messages_wait_for_their_taker() -> None:
    async with linked() as (link, venue, _):
        await venue.stream.send_all(frame(b"x", 2) * 1000 + close(1000))
        await trio.testing.wait_all_tasks_blocked()
        assert len(await slow(link)) == 1000


# The upgrade.


async def failing(script: Callable[[Venue], Awaitable[None]], now: float = 784111777.0) -> HandshakeFailed:
    """Upgrade against a script, which goes on until the upgrade has failed; returns the failure."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream = ByteStream(StreamRaw(ours))
    client = Client()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            with suppress(trio.BrokenResourceError):
                await script(Venue(theirs))

        with trio.fail_after(1):
            with pytest.raises(HandshakeFailed) as caught:
                await upgrade(
                    nursery, stream, ENDPOINT, on_texts=client.texts.extend, wake=client.wake, wall_clock=lambda: now
                )
        nursery.cancel_scope.cancel()
    assert client.texts == []
    assert stream.poisoned
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()
    assert "q=1" not in str(caught.value)
    assert str(caught.value).endswith(".")
    return caught.value


def answering(answer: bytes, *, then: str = "wait") -> Callable[[Venue], Awaitable[None]]:
    async def script(venue: Venue) -> None:
        await venue.read_request()
        await venue.stream.send_all(answer)
        if then == "eof":
            await venue.stream.aclose()
        while then == "more":
            await venue.stream.send_all(b"x" * 1000)
        await trio.sleep_forever()

    return script


@pytest.mark.parametrize("then", ["wait", "eof", "more"])
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_refusal_needs_no_body(then: str, framing: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """H6, H14."""
    answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 120\r\n" + framing + b"\r\n"
    failure = await failing(answering(answer, then=then))
    assert (failure.status, failure.retry_after, failure.final) == (503, 120.0, False)
    assert "status 503" in str(failure)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Retry-After: 7\r\n", 7.0),
        ("retry-after:  0 \r\n", 0.0),
        (f"Date: {DATE}\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n", 30.0),
        ("Date: Sun, 06 Nov 1994 08:50:00 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n", 7.0),
        ("Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n", 30.0),
        ("Retry-After: Sun, 06 Nov 1994 08:50:07 -0000\r\n", 30.0),
        ("Retry-After: Sun, 06 Nov 1994 08:00:00 GMT\r\n", 0.0),
        ("Retry-After: soon\r\n", None),
        ("Retry-After: -1\r\n", None),
        ("Retry-After: 99999999999\r\n", None),
        ("", None),
    ],
)
async def test_retry_after(header: str, seconds: float | None, autojump_clock: trio.testing.MockClock) -> None:
    failure = await failing(answering(f"HTTP/1.1 429 Too Many Requests\r\n{header}\r\n".encode()))
    assert failure.status == 429
    assert failure.retry_after == seconds


@pytest.mark.parametrize(("status", "final"), [(200, False), (302, False), (401, True), (403, False), (404, False)])
async def test_other_refusals(status: int, final: bool, autojump_clock: trio.testing.MockClock) -> None:
    failure = await failing(answering(f"HTTP/1.1 {status} X\r\n\r\n".encode()))
    assert (failure.status, failure.final) == (status, final)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 101\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + frame(b"too early"),
        b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nX: " + b"x" * 20_000,
        b"\x00" * 100,
    ],
)
async def test_garbage(answer: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """H8."""
    failure = await failing(answering(answer))
    assert "did not answer as a WebSocket server" in str(failure)
    assert failure.status is None
    assert failure.cause is not None


async def test_a_wrong_accept_key(autojump_clock: trio.testing.MockClock) -> None:
    async def script(venue: Venue) -> None:
        await venue.accept(frame(b"not for us"), key="d3Jvbmc=")

    assert "did not answer as a WebSocket server" in str(await failing(script))


@pytest.mark.parametrize("extra", ["Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat"])
async def test_what_was_not_asked_for(extra: str, autojump_clock: trio.testing.MockClock) -> None:
    async def script(venue: Venue) -> None:
        await venue.accept(key=f"{await venue.read_request()}\r\n{extra}")

    assert "did not answer as a WebSocket server" in str(await failing(script))


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching"])
async def test_the_end_in_the_upgrade(answer: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """H7."""
    failure = await failing(answering(answer, then="eof"))
    assert "dropped the connection" in str(failure)
    assert isinstance(failure.cause, trio.BrokenResourceError)


async def test_the_end_before_the_request(autojump_clock: trio.testing.MockClock) -> None:
    async def script(venue: Venue) -> None:
        await venue.stream.aclose()

    assert "dropped the connection" in str(await failing(script))


async def test_early_hints_are_skipped() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    venue, client = Venue(theirs), Client()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def script() -> None:
            await venue.read_request()
            await theirs.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            await venue.accept(frame(b"hello"))

        await upgrade(
            nursery,
            ByteStream(StreamRaw(ours)),
            ENDPOINT,
            on_texts=client.texts.extend,
            wake=client.wake,
            wall_clock=lambda: 0.0,
        )
        await trio.testing.wait_all_tasks_blocked()
        assert client.texts == [b"hello"]
        nursery.cancel_scope.cancel()


async def test_cancelled_anywhere_in_the_upgrade_nothing_leaks() -> None:
    for steps in range(30):
        ours, theirs = trio.testing.memory_stream_pair()
        stream = ByteStream(StreamRaw(ours))
        done = False

        async def accept(theirs: trio.abc.Stream = theirs) -> None:
            with suppress(trio.BrokenResourceError):
                await Venue(theirs).accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with trio.CancelScope() as scope:

                @nursery.start_soon
                async def cancel(scope: trio.CancelScope = scope, steps: int = steps) -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                link = await upgrade(
                    nursery, stream, ENDPOINT, on_texts=print, wake=lambda: None, wall_clock=lambda: 0.0
                )
                done = True
            if done:
                link.stop()
                await stream.aclose_forcefully()
            assert stream.poisoned
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks  # the reader has ended on its own
    assert done


async def test_connect_over_loopback_without_a_server() -> None:
    with pytest.raises(HandshakeFailed, match="No connection"):
        await open_stream(parse_endpoint("ws://127.0.0.1:1"))


async def test_over_loopback_with_tls_and_a_server_that_is_not_ours() -> None:
    ca = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(theirs)
    ours = ssl.create_default_context()
    ca.configure_trust(ours)

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        with suppress(trio_websocket.ConnectionClosed):
            while True:
                message = await connection.get_message()
                await connection.send_message(message if message == "small" else "x" * 100_000)

    client = Client()
    async with trio.open_nursery() as nursery:
        server: trio_websocket.WebSocketServer = await nursery.start(
            trio_websocket.serve_websocket, serve, "localhost", 0, theirs
        )
        endpoint = parse_endpoint(f"wss://localhost:{server.port}")
        link = client.link = await upgrade(
            nursery,
            await open_stream(endpoint, ssl_context=ours),
            endpoint,
            on_texts=client.texts.extend,
            wake=client.wake,
            wall_clock=lambda: 0.0,
        )
        nursery.start_soon(client.write)
        await link.stream.send([encode_texts([b"small", b"big", b"small"], MASK * 3)[0]])
        assert await link.ping() > 0
        assert len(await link.next_message() or "") == 100_000
        with trio.fail_after(5):
            await link.aclose()
            await link.stream.drain()
        assert client.texts == [b"small", b"small"]
        assert (link.failure, link.close_code) == (None, 1000)
        await link.stream.aclose_forcefully()
        nursery.cancel_scope.cancel()


async def test_what_trio_websocket_may_call_besides() -> None:
    async with linked() as (link, _, _):
        await link._tap.wait_send_all_might_not_block()
        await link._tap.aclose()
        await link.ended.wait()
        assert isinstance(link.failure, trio.BrokenResourceError)


async def test_the_reader_is_protected_from_keyboard_interrupts() -> None:
    protected: list[bool] = []

    def on_texts(payloads: list[bytes]) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    async with linked(on_texts=on_texts) as (_, venue, _):
        await venue.stream.send_all(frame(b"x"))
        await trio.testing.wait_all_tasks_blocked()
    assert protected == [True]


async def test_what_tls_has_to_say_and_the_end_of_the_link_wake_the_writer() -> None:
    async with linked(writer=False) as (link, venue, client):
        client.bell = trio.Event()
        assert link.stream.on_output is not None
        link.stream.on_output()
        assert client.bell.is_set()
        client.bell = trio.Event()
        await venue.stream.aclose()
        with trio.fail_after(5):
            await client.bell.wait()
        assert link.failure is not None
