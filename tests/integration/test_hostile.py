"""Peers and networks that do their worst: each ends within its bound, with a typed error or a true outcome."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.tools.foreign import CA, CLIENT_CONTEXT, CREDENTIALS, ForeignVenue, done, open_foreign_venue
from tests.tools.proxy import Proxy, open_proxy
from tests.tools.rawvenue import Peer, frame, open_raw_venue
from tests.tools.timings import wait_for
from tests.tools.venues import Remembering
from trio_cancel import (
    Canceled,
    ConnectionLost,
    HandshakeFailed,
    NoReply,
    NotSent,
    TradingWS,
    Unknown,
    open_trading_ws,
)

CLOSE_BOUND = 2.0
"""Seconds that leaving the block may take with any peer."""

connect = partial(open_trading_ws, credentials=CREDENTIALS, ssl_context=CLIENT_CONTEXT)


def open_descriptors() -> dict[str, str]:
    """What is open now, where the system tells."""
    found = {}
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bounds that a session has itself are shortened; no descriptor is left behind."""
    wait_for(monkeypatch, write_deadline=0.3, ping_interval=0.3, pong_deadline=0.3)
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


@asynccontextmanager
async def leaving_soon(url: str, **keywords: object) -> AsyncIterator[TradingWS]:
    """A session whose end is timed."""
    left = 0.0
    with trio.fail_after(20):
        async with connect(url, **keywords) as ws:  # type: ignore[arg-type]  # the tests give what fits
            yield ws
            left = trio.current_time()
    if left:
        assert trio.current_time() - left <= CLOSE_BOUND


async def until_gone(peer: Peer) -> None:
    await peer.drain()


# A server that …


@pytest.mark.parametrize("tls", [True, False])
async def test_answers_nothing(tls: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        await peer.drain()

    watch = Remembering()
    patience = {"reply_timeout": 0.4, "give_up_after": 1.5}
    async with (
        open_raw_venue(handler, tls=tls) as venue,
        leaving_soon(venue.url, observer=watch, **patience) as ws,
    ):
        before = trio.current_time()
        outcome = await ws.try_cancel("o")
        assert trio.current_time() - before < 1.8
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.cause, NoReply | ConnectionLost)
        assert len(outcome.attempts) >= 2
    assert any("no pong" in str(cause) for _, cause in watch.of("connection_lost"))


@pytest.mark.parametrize("tls", [True, False])
async def test_closes_in_the_middle_of_a_frame(tls: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        request_id = await peer.request_id()
        whole = frame(1, done({"id": request_id}, "o", None).encode())
        await peer.send(whole[: len(whole) // 2])

    async with open_raw_venue(handler, tls=tls) as venue:
        async with leaving_soon(venue.url, retry=False) as ws:
            outcome = await ws.try_cancel("o")
            assert isinstance(outcome, Unknown)
            assert isinstance(outcome.cause, ConnectionLost)
        async with leaving_soon(venue.url, give_up_after=1.0) as ws:
            before = trio.current_time()
            outcome = await ws.try_cancel("o")
            assert isinstance(outcome, Unknown)
            assert trio.current_time() - before < 1.5
            assert len(outcome.attempts) > 1


@pytest.mark.parametrize("tls", [True, False])
async def test_accepts_tcp_and_never_upgrades(tls: bool) -> None:
    async with open_raw_venue(until_gone, tls=tls) as venue:
        before = trio.current_time()
        with pytest.raises(HandshakeFailed, match=r"within 0.5 s: the WebSocket upgrade was not answered"):
            async with connect(venue.url, connect_timeout=0.5):
                pytest.fail("there is no connection")
        assert trio.current_time() - before < 1.0


async def test_accepts_tcp_and_never_shakes_hands() -> None:
    async with open_raw_venue(until_gone, tls=False) as venue:
        with pytest.raises(HandshakeFailed, match=r"within 0.5 s: the TCP and TLS connection was not made"):
            async with connect(venue.url.replace("ws:", "wss:"), connect_timeout=0.5):
                pytest.fail("there is no connection")


async def test_has_an_untrusted_certificate() -> None:
    async with open_raw_venue(until_gone) as venue:
        before = trio.current_time()
        with pytest.raises(HandshakeFailed, match="not trusted"):
            async with open_trading_ws(venue.url, credentials=CREDENTIALS):
                pytest.fail("it was trusted")
        assert trio.current_time() - before < 2.0


async def test_sends_two_mebibytes_in_one_message() -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        good, bad = await peer.request_id(), await peer.request_id()
        reply = frame(1, done({"id": good}, "good", None).encode())
        await peer.send(reply + frame(1, b'"%b"' % (b"x" * 2**21)))
        assert bad
        codes.append(await peer.close_code())

    codes: list[int | None] = []
    watch = Remembering()
    async with open_raw_venue(handler) as venue:
        async with leaving_soon(venue.url, retry=False, observer=watch) as ws:
            report = await ws.cancel_many(["good", "bad"])
            first, second = report.outcomes
            assert isinstance(first, Canceled)
            assert isinstance(second, Unknown)
            assert isinstance(second.cause, ConnectionLost)
        assert "big" in str(watch.of("connection_lost")[0][1])
        assert codes == [1009]


async def test_pings_while_we_close() -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        async with trio.open_nursery() as nursery:

            async def ping() -> None:
                while True:
                    await peer.send(frame(9, b"are you there"))
                    await trio.sleep(0.001)

            nursery.start_soon(ping)
            await peer.drain()
            nursery.cancel_scope.cancel()

    for _ in range(2):
        async with open_raw_venue(handler) as venue, leaving_soon(venue.url):
            await trio.sleep(0.02)


async def test_pings_and_closes_when_we_close() -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        await peer.stream.receive_some(65536)
        await peer.send(frame(9, b"one") + frame(9, b"two") + frame(8, b"\x03\xe8") + frame(9, b"three"))
        await peer.drain()

    async with open_raw_venue(handler) as venue:
        before = trio.current_time()
        async with connect(venue.url):
            pass
        assert trio.current_time() - before < 1.0


async def test_never_closes() -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        try:
            await peer.drain()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(0.1):
                await trio.sleep_forever()  # the connection stays on its side

    async with open_raw_venue(handler) as venue, leaving_soon(venue.url):
        pass


async def test_stops_reading() -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        await trio.sleep_forever()

    async with open_raw_venue(handler, receive_buffer=4096) as venue:

        async def dial() -> trio.abc.Stream:
            sock = trio.socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await sock.connect(("127.0.0.1", int(venue.url.rpartition(":")[2])))
            return trio.SocketStream(sock)

        ids = [f"{number}-" + "x" * 20_000 for number in range(8)]
        async with leaving_soon(venue.url, dial=dial, retry=False, reply_timeout=1.0) as ws:
            before = trio.current_time()
            report = await ws.cancel_many(ids)
            assert trio.current_time() - before < 2.0
            assert report.counts["not_sent"] > 0
            for outcome in report.outcomes:
                assert isinstance(outcome, NotSent | Unknown)
                if isinstance(outcome, NotSent):
                    assert "did not read" in str(outcome.cause)


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (frame(1, b"\xff\xfe"), 1007),
        (frame(1, b"{}", first=0xC1), 1002),
        (frame(3, b"reserved"), 1002),
        (frame(8, b"\x00"), 1002),
        (frame(8, b"\x03\xed"), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(0, b"a continuation of nothing"), 1002),
        (b"\x81\x82\x00\x00\x00\x00{}", 1002),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 1002),
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1002),
    ],
)
async def test_breaks_the_protocol(garbage: bytes, code: int) -> None:
    codes = []

    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        good, _ = await peer.request_id(), await peer.request_id()
        await peer.send(frame(1, done({"id": good}, "good", None).encode()) + garbage)
        codes.append(await peer.close_code())

    async with open_raw_venue(handler) as venue, leaving_soon(venue.url, retry=False) as ws:
        before = trio.current_time()
        report = await ws.cancel_many(["good", "bad"])
        assert [outcome.kind for outcome in report.outcomes] == ["canceled", "unknown"]
        assert trio.current_time() - before < 1.5
        await trio.testing.wait_all_tasks_blocked()
        assert codes == [code]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switch\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: eA==\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n" + b"x" * 100_000,
        b"HTTP/1.1 200 " + b"x" * 200_000,
    ],
)
async def test_answers_the_upgrade_with_something_else(answer: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.stream.receive_some(65536)
        await peer.send(answer)

    async with open_raw_venue(handler) as venue:
        before = trio.current_time()
        with pytest.raises(HandshakeFailed) as caught:
            async with connect(venue.url, connect_timeout=3.0):
                pytest.fail("there is no connection")
        assert trio.current_time() - before < 2.0
        if b"503" in answer:
            assert (caught.value.status, caught.value.retry_after) == (503, 7.0)


async def test_floods_us_with_noise() -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        await peer.request_id()
        while True:
            await peer.send(frame(1, b'{"id":"nobody","status":200}') * 10)

    watch = Remembering()
    async with open_raw_venue(handler) as venue, leaving_soon(venue.url, retry=False, observer=watch) as ws:
        outcome = await ws.try_cancel("o")
        assert isinstance(outcome, Unknown)
        assert "too many messages" in str(outcome.cause)


async def test_glues_an_answer_to_the_upgrade() -> None:
    async def handler(peer: Peer) -> None:
        await peer.upgrade(frame(1, b'{"id":"nobody","status":200}') + frame(9, b""))
        await peer.drain()

    async with open_raw_venue(handler) as venue, leaving_soon(venue.url) as ws:
        with trio.fail_after(2):
            while not ws.statistics().unknown_id:  # noqa: ASYNC110 - nobody rings for statistics
                await trio.sleep(0.005)


async def test_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(HandshakeFailed, match="Connection refused") as caught:
            async with connect(f"wss://localhost:{port}"):
                pytest.fail("there is no connection")
        assert isinstance(caught.value.cause, OSError)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a backlog that can be filled")
async def test_a_black_hole() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(address)
                fillers.append(filler)
            before = trio.current_time()
            with pytest.raises(HandshakeFailed, match="the TCP and TLS connection was not made"):
                async with connect(f"wss://localhost:{address[1]}", connect_timeout=0.5):
                    pytest.fail("there is no connection")
            assert trio.current_time() - before < 1.0
        finally:
            for filler in fillers:
                filler.close()


# A network between us and a venue that is not ours


@pytest.fixture
def venue() -> Iterator[ForeignVenue]:
    with open_foreign_venue() as venue:
        yield venue


@asynccontextmanager
async def through_proxy(venue: ForeignVenue, **keywords: object) -> AsyncIterator[tuple[Proxy, TradingWS]]:
    async with open_proxy(venue.port) as proxy, leaving_soon(f"wss://localhost:{proxy.port}", **keywords) as ws:
        yield proxy, ws


@pytest.mark.parametrize("reset", [True, False])
async def test_a_cut_connection_is_replaced_and_nothing_is_lost(venue: ForeignVenue, reset: bool) -> None:
    order_ids = venue.orders(400)
    venue.delay = 0.001
    async with through_proxy(venue) as (proxy, ws):
        batch = ws.batch(order_ids)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            for _ in range(3):
                await trio.sleep(0.1)
                if reset:
                    proxy.wire.reset()
                else:
                    proxy.wire.cut()
        report = batch.report()
        assert not report.left
        assert set(venue.canceled) == set(order_ids)
        assert len(proxy.wires) >= 2
        for outcome in report.outcomes:
            assert outcome.kind == "canceled" or outcome.after_unanswered


async def test_an_answer_cut_in_its_middle_is_doubt_and_then_known(venue: ForeignVenue) -> None:
    async with through_proxy(venue) as (proxy, ws):
        first, second = venue.orders(2)
        await ws.cancel(first)
        proxy.wire.back.set(left=40)
        outcome = await ws.try_cancel(second)
        assert outcome.kind == "already_closed"
        assert outcome.after_unanswered
        assert venue.canceled == [first, second]


async def test_a_socket_that_breaks_under_the_write_was_not_sent_to(venue: ForeignVenue) -> None:
    ours: list[socket.socket] = []

    async def dial() -> trio.abc.Stream:
        stream = await trio.open_tcp_stream("127.0.0.1", venue.port)
        ours.append(socket.socket(fileno=os.dup(stream.socket.fileno())))
        return stream

    first, second = venue.orders(2)
    try:
        async with leaving_soon(venue.url, dial=dial, retry=False) as ws:
            ours[0].shutdown(socket.SHUT_WR)
            outcome = await ws.try_cancel(first)
            assert isinstance(outcome, NotSent)
            assert "Broken pipe" in str(outcome.cause)
            assert isinstance(await ws.try_cancel(second), Canceled)
        assert venue.canceled == [second]
    finally:
        for sock in ours:
            sock.close()


async def test_a_request_cut_in_its_middle_is_doubt_too(venue: ForeignVenue) -> None:
    async with through_proxy(venue) as (proxy, ws):
        first, second = venue.orders(2)
        await ws.cancel(first)
        proxy.wire.there.set(left=40)  # our own system had taken it whole: we cannot know
        outcome = await ws.try_cancel(second)
        assert outcome.kind == "canceled"
        assert outcome.after_unanswered


@pytest.mark.parametrize("size", [0, 1, 100, 900, 1500])
async def test_a_handshake_cut_anywhere_fails_and_says_so(venue: ForeignVenue, size: int) -> None:
    async with open_proxy(venue.port) as proxy:
        proxy.first = [{"left": size}]
        with pytest.raises(HandshakeFailed):
            async with connect(f"wss://localhost:{proxy.port}", connect_timeout=2.0):
                pytest.fail("there is no connection")
        proxy.first = [{}, {"left": size}, {}]
        async with leaving_soon(f"wss://localhost:{proxy.port}") as ws:
            proxy.wire.cut()
            (order_id,) = venue.orders(1)
            assert (await ws.cancel(order_id)).id == order_id
            assert len(proxy.wires) == 4


@pytest.mark.parametrize("which", ["there", "back", "both"])
async def test_a_black_hole_in_the_middle_is_found(venue: ForeignVenue, which: str) -> None:
    watch = Remembering()
    async with through_proxy(venue, observer=watch, reply_timeout=5) as (proxy, ws):
        first, second = venue.orders(2)
        await ws.cancel(first)
        if which == "both":
            proxy.wire.black_hole()
        else:
            getattr(proxy.wire, which).set(open=False)
        before = trio.current_time()
        outcome = await ws.try_cancel(second)
        assert outcome.off_book
        assert outcome.after_unanswered
        assert trio.current_time() - before < 3.0
        assert "no pong" in str(watch.of("connection_lost")[0][1])


async def test_leaving_with_a_black_hole_in_the_middle(venue: ForeignVenue) -> None:
    async with through_proxy(venue) as (proxy, ws):
        await ws.ping()
        proxy.wire.black_hole()


async def test_a_stalled_answer_that_still_comes_settles(venue: ForeignVenue, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(monkeypatch, write_deadline=0.3, ping_interval=0.3, pong_deadline=5.0)
    async with through_proxy(venue, reply_timeout=0.3) as (proxy, ws):
        (order_id,) = venue.orders(1)
        await ws.ping()
        proxy.wire.back.set(open=False)

        async def let_it_go() -> None:
            await trio.sleep(0.5)
            proxy.wire.back.set(open=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_it_go)
            outcome = await ws.try_cancel(order_id)
        assert isinstance(outcome, Canceled)  # the first attempt's answer
        assert outcome.attempts[0].answered_at is not None
        assert len(proxy.wires) == 1


async def test_a_trickling_network_is_slow_and_right(venue: ForeignVenue, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(monkeypatch, write_deadline=0.3, ping_interval=0.3, pong_deadline=10.0)
    async with through_proxy(venue) as (proxy, ws):
        order_ids = venue.orders(3)
        proxy.wire.back.set(trickle=0.00001)
        proxy.wire.there.set(trickle=0.00001)
        report = await ws.cancel_many(order_ids)
        assert report.counts["canceled"] == 3
        assert len(proxy.wires) == 1


async def test_reconnecting_into_a_network_that_swallows_all(venue: ForeignVenue) -> None:
    async with through_proxy(venue, connect_timeout=0.3, give_up_after=1.0) as (proxy, ws):
        (order_id,) = venue.orders(1)
        await ws.ping()
        proxy.accepting = False
        proxy.wire.cut()
        await trio.sleep(0.05)
        before = trio.current_time()
        outcome = await ws.try_cancel(order_id)
        assert isinstance(outcome, NotSent)
        assert trio.current_time() - before < 1.4
        assert venue.canceled == []


# Ctrl-C in a process of its own

CHILD = """
    import json, sys, trio, ssl
    from trio_cancel import Credentials, open_trading_ws

    async def main():
        url, ca, token, secret, many, last = sys.argv[1:]
        context = ssl.create_default_context(cafile=ca)
        async with open_trading_ws(url, credentials=Credentials(token, secret), ssl_context=context) as ws:
            batch = ws.batch(json.loads(many))
            print("ready", flush=True)
            try:
                await batch.run()
            finally:
                with trio.CancelScope(shield=True):
                    outcome = await ws.try_cancel(last)
                    while not batch.report().final:
                        await trio.sleep(0.01)
                kinds = {outcome.request.id: outcome.kind for outcome in batch.report().outcomes}
                print(json.dumps([outcome.kind, kinds]), flush=True)

    try:
        trio.run(main)
    except KeyboardInterrupt as error:
        print("interrupted", flush=True)
        sys.exit(130)
"""


async def test_ctrl_c_leaves_the_connection_to_the_clean_up(venue: ForeignVenue, tmp_path: Path) -> None:
    order_ids = venue.orders(2000)
    last = "last-of-all"
    venue.open[last] = None
    venue.delay = 0.002
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(ca))
    arguments = [venue.url, str(ca), CREDENTIALS.api_token, CREDENTIALS.api_secret, json.dumps(order_ids), last]
    async with trio.open_nursery() as nursery:
        child = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-W", "error", "-c", textwrap.dedent(CHILD), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
            )
        )
        while len(venue.requests) < 50:  # noqa: ASYNC110 - the child tells nobody
            await trio.sleep(0.01)
        child.send_signal(signal.SIGINT)
        output = bytearray()
        errors = bytearray()

        async def collect(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
            async for data in stream:
                into += data

        nursery.start_soon(collect, child.stdout, output)
        nursery.start_soon(collect, child.stderr, errors)
    assert child.returncode == 130, errors.decode()
    lines = output.decode().splitlines()
    assert lines[0] == "ready"
    assert lines[-1] == "interrupted"
    kind, kinds = json.loads(lines[1])
    assert kind == "canceled"
    assert len(kinds) == 2000
    assert {order_id for order_id, kind in kinds.items() if kind == "canceled"} == set(venue.canceled) - {last}
    assert set(kinds.values()) == {"canceled", "not_sent"}
    assert errors == b""
