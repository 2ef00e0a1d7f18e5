"""What was accepted is counted, byte by byte, whatever stops a send; nothing stays open."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.sockets import SocketRaw, StreamRaw
from trio_cancel._net.stream import ByteStream, open_stream
from trio_cancel._net.tls import TLSCodec
from trio_cancel._values.errors import HandshakeFailed

CA = trustme.CA()
SERVER_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CA.issue_cert("localhost", "127.0.0.1").configure_cert(SERVER_CONTEXT)
CLIENT_CONTEXT = ssl.create_default_context()
CA.configure_trust(CLIENT_CONTEXT)


def tight_pair() -> tuple[socket.socket, socket.socket]:
    """Connected sockets that hold little."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    theirs.setblocking(False)
    return ours, theirs


def read_all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except (BlockingIOError, ConnectionResetError):
        pass
    return data


@contextmanager
def no_pass() -> Iterator[None]:
    """No task can run in here, and nothing waits."""
    before = trio.lowlevel.current_statistics().tasks_runnable
    ran = False

    def other() -> None:
        nonlocal ran
        ran = True

    trio.lowlevel.current_trio_token().run_sync_soon(other)
    yield
    assert not ran
    assert trio.lowlevel.current_statistics().tasks_runnable >= before


CHUNKS = [bytes([65 + index % 26]) * (700 + 13 * index) for index in range(60)]


async def test_a_send_that_fits_costs_no_pass() -> None:
    ours, theirs = tight_pair()
    stream = ByteStream(SocketRaw(ours))
    with theirs:
        with no_pass():
            await stream.send([b"one", b"two"])
            await stream.send([])
        assert stream.accepted == 2
        assert not stream.poisoned
        assert read_all(theirs) == b"onetwo"
        stream.close()


async def test_receiving_takes_all_that_is_there_and_yields() -> None:
    ours, theirs = tight_pair()
    stream = ByteStream(SocketRaw(ours))
    with theirs:
        theirs.send(b"one")
        theirs.send(b"two")
        with trio.testing.assert_checkpoints():
            assert await stream.receive() == b"onetwo"
        theirs.send(b"three")
        with trio.testing.assert_checkpoints():
            assert await stream.receive() == b"three"
        with trio.CancelScope() as scope:
            theirs.send(b"four")
            scope.cancel()
            await stream.receive()
        assert await stream.receive() == b"four"  # not lost
    assert await stream.receive() == b""
    stream.close()


async def test_what_the_socket_took_before_a_cancellation_is_counted() -> None:
    ours, theirs = tight_pair()
    stream = ByteStream(SocketRaw(ours))
    with theirs:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, CHUNKS)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        came = read_all(theirs)
        ends = [sum(map(len, CHUNKS[: index + 1])) for index in range(len(CHUNKS))]
        assert stream.accepted == sum(end <= len(came) for end in ends)
        assert 0 < stream.accepted < len(CHUNKS)
        assert stream.poisoned
        with pytest.raises(trio.BrokenResourceError, match="left unfinished"):
            await stream.send([b"more"])
        assert read_all(theirs) == b""  # no byte after a partial write
        stream.close()


async def test_a_slow_reader_gets_everything() -> None:
    ours, theirs = tight_pair()
    stream = ByteStream(SocketRaw(ours))
    came = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, CHUNKS)
        while len(came) < sum(map(len, CHUNKS)):
            await trio.testing.wait_all_tasks_blocked()
            came += read_all(theirs)
    assert came == b"".join(CHUNKS)
    assert stream.accepted == len(CHUNKS)
    assert not stream.poisoned
    theirs.close()
    stream.close()


async def test_a_socket_that_is_full_or_broken_at_once() -> None:
    ours, theirs = tight_pair()
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            ours.send(b"x" * 4096)
    stream = ByteStream(SocketRaw(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, [b"late"])
        await trio.testing.wait_all_tasks_blocked()
        assert stream.accepted == 0
        assert not read_all(theirs).endswith(b"late")
    assert stream.accepted == 1
    theirs.close()
    with pytest.raises(trio.BrokenResourceError, match="broke"):
        await stream.send([b"more"])
    assert stream.accepted == 1
    assert stream.poisoned
    stream.close()


async def test_a_wake_up_for_nothing() -> None:
    """Another process's copy of the socket may be faster; `wait_readable` may be wrong."""
    ours, theirs = tight_pair()
    duplicate = ours.dup()
    duplicate.setblocking(False)
    stream = ByteStream(SocketRaw(ours))
    with theirs, duplicate:
        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            @nursery.start_soon
            async def read() -> None:
                got.append(await stream.receive())

            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"stolen")
            nursery.start_soon(trio.lowlevel.wait_readable, duplicate)
            duplicate.recv(100)
            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"kept")
        assert got == [b"kept"]
    stream.close()


async def test_draining_ends_with_the_peer() -> None:
    stream, theirs, _, _ = tls_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.drain)
        theirs.send(b"anything")
        await trio.testing.wait_all_tasks_blocked()
        theirs.close()
    stream.close()
    await stream.drain()


async def test_a_reset_in_the_middle() -> None:
    ours, theirs = tight_pair()
    stream = ByteStream(SocketRaw(ours))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stream.send(CHUNKS)
            assert isinstance(caught.value.__cause__, OSError)

        await trio.testing.wait_all_tasks_blocked()
        theirs.close()
    assert 0 < stream.accepted < len(CHUNKS)
    assert stream.poisoned
    stream.close()


def tls_pair() -> tuple[ByteStream, socket.socket, ssl.SSLObject, ssl.MemoryBIO]:
    """Ours over a tight socket, shaken hands with a server-side object."""
    ours, theirs = tight_pair()
    codec = TLSCodec(CLIENT_CONTEXT, "localhost")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = SERVER_CONTEXT.wrap_bio(incoming, outgoing, server_side=True)
    done, out = codec.handshake(b"")
    while True:
        incoming.write(out)
        with suppress(ssl.SSLWantReadError):
            server.do_handshake()
        if done:
            break
        done, out = codec.handshake(outgoing.read())
    theirs.send(outgoing.read())
    return ByteStream(SocketRaw(ours), codec), theirs, server, incoming


def opened(server: ssl.SSLObject, incoming: ssl.MemoryBIO, data: bytes) -> bytes:
    incoming.write(data)
    plain = b""
    while True:
        try:
            plain += server.read(65536)
        except ssl.SSLWantReadError:
            return plain


@pytest.mark.parametrize("size", [400, 9000, 30_000])
async def test_over_tls_a_chunk_counts_when_its_record_is_accepted(size: int) -> None:
    stream, theirs, server, incoming = tls_pair()
    chunks = [bytes([65 + index % 26]) * size for index in range(200_000 // size)]
    with theirs:
        for _ in range(3):
            if stream.poisoned:
                break
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send, chunks)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        plain = opened(server, incoming, read_all(theirs))
        assert stream.accepted == len(plain) // size
        assert plain == b"".join(chunks)[: len(plain)]
        assert stream.poisoned
        with pytest.raises(trio.BrokenResourceError):
            await stream.send([b"more"])
        assert read_all(theirs) == b""
        stream.close()


async def test_tls_says_what_it_has_to_say_through_the_writer() -> None:
    stream, theirs, _, _ = tls_pair()
    told = []
    stream.on_output = lambda: told.append(stream.pending_output)
    with theirs:
        theirs.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)  # no record of this connection
        with pytest.raises(trio.BrokenResourceError, match="TLS broke"):
            await stream.receive()
        assert stream.pending_output
        await stream.send(())
        assert read_all(theirs)  # the alert
        assert stream.accepted == 0
        stream.close()


async def test_the_end_of_tls_is_an_end_after_what_came_before() -> None:
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        far = trio.SSLStream(
            trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), SERVER_CONTEXT, server_side=True
        )

        @nursery.start_soon
        async def serve() -> None:
            await far.send_all(b"last")
            with suppress(trio.BrokenResourceError):
                await far.aclose()

        async def dial() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

        stream = await open_stream(parse_endpoint("wss://localhost"), ssl_context=CLIENT_CONTEXT, dial=dial)
        got = [await stream.receive(), await stream.receive(), await stream.receive()]
        assert got == [b"last", b"", b""]
        stream.close()


async def test_an_end_without_close_notify_is_an_end() -> None:
    stream, theirs, _, _ = tls_pair()
    theirs.close()
    assert await stream.receive() == b""
    stream.close()


@pytest.mark.parametrize("wait", ["receive", "send"])
async def test_closing_wakes_whoever_waits(wait: str) -> None:
    ours, theirs = tight_pair()
    stream = ByteStream(SocketRaw(ours))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def waiter() -> None:
            with pytest.raises(trio.BrokenResourceError, match="closed"):
                await (stream.receive() if wait == "receive" else stream.send(CHUNKS))

        await trio.testing.wait_all_tasks_blocked()
        stream.close()
        stream.close()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send([b"x"])
    await stream.aclose_forcefully()
    theirs.close()


class Counting(trio.abc.Stream):
    """A stream of somebody else's that takes `room` bytes, then blocks or fails."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.taken, self.room, self.error, self.closed = b"", room, error, False

    async def send_some(self, data: bytes) -> int:
        piece = data[: min(1000, self.room)]
        if not piece:
            if self.error:
                raise self.error
            await trio.sleep_forever()
        self.taken += piece
        self.room -= len(piece)
        return len(piece)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


async def test_a_foreign_stream_that_counts(autojump_clock: trio.testing.MockClock) -> None:
    foreign = Counting(10_000)
    stream = ByteStream(StreamRaw(foreign))
    with trio.move_on_after(1):
        await stream.send(CHUNKS)
    ends = [sum(map(len, CHUNKS[: index + 1])) for index in range(len(CHUNKS))]
    assert len(foreign.taken) == 10_000
    assert stream.accepted == sum(end <= 10_000 for end in ends)
    assert stream.poisoned
    await stream.aclose_forcefully()
    assert foreign.closed


@pytest.mark.parametrize(
    "error", [trio.BrokenResourceError("gone"), trio.ClosedResourceError(), OSError(errno.EPIPE, "x")]
)
async def test_a_foreign_stream_that_fails(error: Exception) -> None:
    stream = ByteStream(StreamRaw(Counting(700 + 713, error)))
    with pytest.raises(trio.BrokenResourceError):
        await stream.send(CHUNKS)
    assert stream.accepted == 2


async def test_a_foreign_stream_that_cannot_count_may_have_sent_everything(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, _ = trio.testing.lockstep_stream_pair()
    stream = ByteStream(StreamRaw(ours))
    with trio.move_on_after(1):
        await stream.send(CHUNKS)
    assert stream.accepted == len(CHUNKS)
    assert stream.poisoned
    await stream.aclose_forcefully()


async def test_closing_a_foreign_stream_wakes_its_reader() -> None:
    stream = ByteStream(StreamRaw(Counting(0)))
    async with trio.open_nursery() as nursery:
        for wait in (stream.receive, partial(stream.send, [b"x"])):
            nursery.start_soon(_broken, wait)
        await trio.testing.wait_all_tasks_blocked()
        stream.close()
    await _broken(stream.receive)


async def _broken(wait: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await wait()


async def test_a_cancelled_foreign_stream_passes_the_cancellation_on() -> None:
    stream = ByteStream(StreamRaw(Counting(0)))
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive()
    assert scope.cancelled_caught


# Opening.


async def echo(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("dialled", ["no", "address", "plain", "memory"])
async def test_opening(secure: bool, dialled: str) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        try:
            await echo(trio.SSLStream(stream, SERVER_CONTEXT, server_side=True) if secure else stream)
        except trio.BrokenResourceError:
            assert secure  # no close_notify

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]

        async def memory() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(handler, theirs)
            return ours

        dials: dict[str, Callable[..., Awaitable[trio.abc.Stream]] | None] = {
            "no": None,
            "address": trio.open_tcp_stream,
            "plain": partial(trio.open_tcp_stream, "127.0.0.1", port),
            "memory": memory,
        }
        endpoint = parse_endpoint(f"{'wss' if secure else 'ws'}://127.0.0.1:{port}")
        stream = await open_stream(endpoint, ssl_context=CLIENT_CONTEXT, dial=dials[dialled])
        await stream.send([b"he", b"llo"])
        assert stream.accepted == 2
        came = b""
        while len(came) < 5:
            came += await stream.receive()
        assert came == b"hello"
        await stream.aclose_forcefully()
        nursery.cancel_scope.cancel()


def nobody() -> Endpoint:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return parse_endpoint(f"wss://127.0.0.1:{sock.getsockname()[1]}/?token=hush")


async def test_refused() -> None:
    with pytest.raises(HandshakeFailed, match=r"No connection to wss://127.0.0.1:.*refused") as caught:
        await open_stream(nobody())
    assert isinstance(caught.value.cause, OSError)
    assert "hush" not in str(caught.value)


async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *args: object, **kwargs: object) -> list[object]:  # type: ignore[override]  # a stub
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *args: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    with pytest.raises(HandshakeFailed, match="cannot be resolved") as caught:
        await open_stream(parse_endpoint("wss://venue.invalid"))
    assert isinstance(caught.value.cause, socket.gaierror)


async def serve_raw(
    handler: Callable[[trio.SocketStream], Awaitable[None]], nursery: trio.Nursery, scheme: str = "wss"
) -> Endpoint:
    listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
    return parse_endpoint(f"{scheme}://127.0.0.1:{listeners[0].socket.getsockname()[1]}")


async def test_an_untrusted_certificate() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, SERVER_CONTEXT, server_side=True).do_handshake()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        endpoint = await serve_raw(handler, nursery)
        with pytest.raises(HandshakeFailed, match=r"certificate of wss://127.0.0.1:.* is not trusted") as caught:
            await open_stream(endpoint)
        assert caught.value.final
        assert isinstance(caught.value.cause, ssl.SSLCertVerificationError)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", r"TLS handshake with .* failed"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            r"wss://(.*) does not speak TLS; perhaps the url must be ws://\1, otherwise",
        ),
        (b"\x15\x03\x01\x00\x02\x02\x28", r"TLS handshake with .* failed"),
    ],
)
async def test_a_peer_that_speaks_no_tls(answer: bytes, says: str) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer:
            await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        endpoint = await serve_raw(handler, nursery)
        with pytest.raises(HandshakeFailed, match=says) as caught:
            await open_stream(endpoint)
        assert not caught.value.final
        assert isinstance(caught.value.cause, (ssl.SSLError, trio.BrokenResourceError))
        nursery.cancel_scope.cancel()


async def test_cancelled_in_a_handshake_nothing_stays_open() -> None:
    closed = trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass
        closed.set()

    async with trio.open_nursery() as nursery:
        endpoint = await serve_raw(handler, nursery)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(open_stream, endpoint)
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        with trio.fail_after(5):
            await closed.wait()
        nursery.cancel_scope.cancel()


async def test_a_dialled_stream_is_closed_when_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    foreign = Counting(10**6)

    async def dial() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return foreign

    with trio.move_on_after(1) as scope:
        await open_stream(parse_endpoint("wss://venue.example"), dial=dial)
    assert scope.cancelled_caught
    assert foreign.closed


async def test_a_dial_that_fails() -> None:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    with pytest.raises(HandshakeFailed, match="Connection refused") as caught:
        await open_stream(parse_endpoint("wss://venue.example"), dial=dial)
    assert isinstance(caught.value.cause, ConnectionRefusedError)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no TCP_USER_TIMEOUT")
async def test_socket_options(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trio.open_nursery() as nursery:
        endpoint = await serve_raw(echo, nursery, "ws")
        kept = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        duplicate = kept.socket.dup()

        async def dial() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            return kept

        stream = await open_stream(endpoint, dial=dial)
        assert duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        assert duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        duplicate.close()
        stream.close()
        nursery.cancel_scope.cancel()
