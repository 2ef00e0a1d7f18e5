"""Errors of any class in any task of a session: the block goes on, orders have outcomes, leaving is quick."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.pipe import PipeStream
from tests.tools.rawvenue import Peer, open_raw_venue
from tests.tools.venues import Venue, open_venue
from trio_cancel import HandshakeFailed, NotSent, Observer, OrdersLeft, TradingWS, Unknown, open_trading_ws
from trio_cancel._values.boundary import Boundary, describe, ends_program
from trio_cancel._values.errors import ConnectionLost
from trio_cancel.types import SessionState


class Odd(BaseException):
    """It is no Exception, and cannot be printed."""

    def __str__(self) -> str:
        raise LookupError("no words")


def odd_errors() -> list[BaseException]:
    return [
        OSError("broke"),
        ValueError("mine"),
        KeyError("mine"),
        AssertionError(),
        StopAsyncIteration(),
        MemoryError(),
        Odd(),
        BaseExceptionGroup("several", [Odd(), ValueError("inner")]),
        ExceptionGroup("one", [ExceptionGroup("two", [trio.ClosedResourceError("deep")])]),
    ]


ODD = pytest.mark.parametrize("error", odd_errors(), ids=lambda error: type(error).__name__)
ENDS = pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)


class OddStream(trio.abc.Stream):
    """A stream that works until it is told to raise, or to return something else."""

    def __init__(self, stream: PipeStream) -> None:
        self._stream = stream
        self.on_send: Callable[[], Any] | None = None
        self.on_receive: Callable[[], Any] | None = None
        self.on_close: Callable[[], Any] | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.on_send is not None:
            await trio.lowlevel.checkpoint()
            self.on_send()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> Any:
        data = await self._stream.receive_some(max_bytes)
        return data if self.on_receive is None else self.on_receive()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            if self.on_close is not None:
                self.on_close()


class OddDial:
    """A dial whose streams are odd, and whose next ones are made by ``next`` instead.

    Attributes:
        streams: those that it has returned.
        next: what to do instead, each once.
        count: how often it was called.
    """

    def __init__(self, venue: Venue) -> None:
        self.streams: list[OddStream] = []
        self.next: list[Callable[[], Awaitable[Any]]] = []
        self.count = 0
        self._venue = venue

    async def __call__(self) -> Any:
        self.count += 1
        if self.next:
            return await self.next.pop(0)()
        self.streams.append(OddStream(await self._venue.dial()))
        return self.streams[-1]


def raising(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> None:
        raise error

    return raise_it


def raising_later(error: BaseException) -> Callable[[], Awaitable[Any]]:
    async def raise_it() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    return raise_it


def open_odd(venue: Venue, dial: OddDial, **keywords: Any) -> Any:
    return open_trading_ws("ws://localhost", credentials=venue.sandbox.credentials, dial=dial, **keywords)


@asynccontextmanager
async def leaving_soon(manager: Any) -> AsyncGenerator[TradingWS]:
    """A session whose block's end is timed."""
    async with manager as ws:
        yield ws
        leaving = trio.current_time()
    assert trio.current_time() - leaving <= 2


async def all_is_well(venue: Venue, ws: TradingWS) -> None:
    """Single, bulk, stream and scope all work, after whatever has happened."""
    one, two, three, held = venue.orders(4)
    assert (await ws.try_cancel(one)).off_book
    assert not (await ws.cancel_many([two])).left
    async with ws.open_cancel_stream([three]) as outcomes:
        assert [outcome.off_book async for outcome in outcomes] == [True]
    async with ws.open_order_scope(grace=20) as orders:
        await orders.add(held)
    assert orders.report is not None
    assert not orders.report.left


# Dials and their streams


@ODD
async def test_the_first_dial_that_raises_fails_the_handshake(autojump_clock: MockClock, error: BaseException) -> None:
    async with open_venue() as venue:
        dial = OddDial(venue)
        dial.next = [raising_later(error)]
        with pytest.raises(HandshakeFailed):
            async with open_odd(venue, dial):
                pytest.fail("there is no connection")
        assert dial.count == 1


@ODD
async def test_a_later_dial_that_raises_is_tried_again(autojump_clock: MockClock, error: BaseException) -> None:
    async with open_venue() as venue:
        dial = OddDial(venue)
        async with leaving_soon(open_odd(venue, dial)) as ws, ws.open_order_scope() as orders:
            (held,) = venue.orders(1)
            await orders.add(held)
            dial.next = [raising_later(error)] * 3
            await venue.cut()
            await all_is_well(venue, ws)
            assert ws.state is SessionState.CONNECTED
        assert orders.report is not None
        assert [outcome.kind for outcome in orders.report.outcomes] == ["canceled"]


@pytest.mark.parametrize("result", [None, "a string", 7, object(), trio.abc.Stream])
async def test_a_later_dial_that_returns_no_stream_is_tried_again(autojump_clock: MockClock, result: object) -> None:
    async def odd() -> object:
        await trio.lowlevel.checkpoint()
        return result

    async with open_venue() as venue:
        dial = OddDial(venue)
        dial.next = [odd]
        with pytest.raises(HandshakeFailed, match="must return"):
            async with open_odd(venue, dial):
                pytest.fail("there is no connection")
        async with leaving_soon(open_odd(venue, dial)) as ws:
            dial.next = [odd] * 2
            await venue.cut()
            await all_is_well(venue, ws)


async def closed_socket_stream() -> trio.abc.Stream:
    sock = trio.socket.socket()
    stream = trio.SocketStream(_connected(sock))
    await stream.aclose()
    return stream


def _connected(sock: Any) -> Any:
    sock.close()
    ours, theirs = trio.socket.socketpair()
    theirs.close()
    return ours


async def test_a_dial_that_returns_a_closed_stream_is_told_so_and_tried_again(autojump_clock: MockClock) -> None:
    async def closed_pipe() -> trio.abc.Stream:
        stream = OddStream(await venue.dial())
        await stream.aclose()
        return stream

    async with open_venue() as venue:
        for odd in (closed_socket_stream, closed_pipe):
            dial = OddDial(venue)
            dial.next = [odd]
            with pytest.raises(HandshakeFailed, match="closed" if odd is closed_socket_stream else "dropped"):
                async with open_odd(venue, dial):
                    pytest.fail("there is no connection")
            async with leaving_soon(open_odd(venue, dial)) as ws, ws.open_order_scope() as orders:
                await orders.add(*venue.orders(1))
                dial.next = [odd]
                await venue.cut()
                await all_is_well(venue, ws)


@pytest.mark.parametrize("where", ["on_send", "on_receive", "on_close"])
@ODD
async def test_a_stream_that_raises_ends_its_connection_and_no_more(
    autojump_clock: MockClock, error: BaseException, where: str
) -> None:
    async with open_venue() as venue:
        dial = OddDial(venue)
        async with leaving_soon(open_odd(venue, dial)) as ws, ws.open_order_scope() as orders:
            await orders.add(*venue.orders(1))
            setattr(dial.streams[-1], where, raising(error))
            if where == "on_close":
                await venue.cut()
            await all_is_well(venue, ws)
            assert dial.count == 2
        assert orders.report is not None
        assert not orders.report.left


@ODD
async def test_a_stream_that_raises_in_the_upgrade_fails_the_handshake(
    autojump_clock: MockClock, error: BaseException
) -> None:
    async with open_venue() as venue:

        async def odd() -> OddStream:
            stream = OddStream(await venue.dial())
            setattr(stream, where, raising(error))
            return stream

        for where in ("on_send", "on_receive"):  # noqa: B007 - `odd` reads it
            dial = OddDial(venue)
            dial.next = [odd]
            with pytest.raises(HandshakeFailed):
                async with open_odd(venue, dial):
                    pytest.fail("there is no connection")
            async with leaving_soon(open_odd(venue, dial)) as ws:
                dial.next = [odd]
                await venue.cut()
                await all_is_well(venue, ws)


@pytest.mark.parametrize("result", [None, "text", 5, [1], ...])
async def test_a_stream_that_returns_no_bytes_ends_its_connection(autojump_clock: MockClock, result: object) -> None:
    async with open_venue() as venue:
        dial = OddDial(venue)
        async with leaving_soon(open_odd(venue, dial)) as ws:
            dial.streams[-1].on_receive = lambda: result
            await all_is_well(venue, ws)
            assert dial.count == 2


@pytest.mark.parametrize("count", [None, -1, 10**9, True, 1.0, "3"])
async def test_a_stream_that_miscounts_what_it_sent_leaves_it_unknown(autojump_clock: MockClock, count: object) -> None:
    async with open_venue() as venue:
        dial = OddDial(venue)
        async with leaving_soon(open_odd(venue, dial, retry=False)) as ws:
            stream: Any = dial.streams[-1]

            async def miscount(data: bytes) -> object:
                await trio.lowlevel.checkpoint()
                return count

            assert ws._session._connection is not None
            ws._session._connection.link.stream._raw._send_some = miscount  # type: ignore[attr-defined]  # it is read once
            assert stream is dial.streams[-1]
            outcome = await ws.try_cancel(*venue.orders(1))
            assert isinstance(outcome, Unknown)
            await all_is_well(venue, ws)


async def test_an_ssl_context_that_cannot_be_used_is_a_failed_handshake(autojump_clock: MockClock) -> None:
    class Broken(ssl.SSLContext):
        def wrap_bio(self, *args: object, **keywords: object) -> Any:
            raise Odd

    async with open_venue() as venue:
        for context in (Broken(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)):
            with pytest.raises(HandshakeFailed):
                async with open_trading_ws(
                    "wss://localhost", credentials=venue.sandbox.credentials, dial=venue.dial, ssl_context=context
                ):
                    pytest.fail("there is no connection")


@ENDS
@pytest.mark.parametrize("where", ["dial", "first dial", "on_send", "on_receive", "on_close", "observer"])
async def test_what_ends_the_program_ends_the_block_and_comes_out_of_it(
    autojump_clock: MockClock, error: BaseException, where: str
) -> None:
    """And it does so in an orderly way: scopes drain, since the session's tasks go on."""

    class Ending(Observer):
        def connection_lost(self, number: int, cause: BaseException | None) -> None:
            if where == "observer":
                raise error

    async with open_venue() as venue:
        dial = OddDial(venue)
        (held,) = venue.orders(1)
        if where == "first dial":
            dial.next = [raising_later(error)]
        with pytest.raises(type(error)) as caught:
            async with open_odd(venue, dial, observer=Ending()) as ws, ws.open_order_scope() as orders:
                await orders.add(held)
                if where == "dial":
                    dial.next = [raising_later(error)]
                elif where.startswith("on_"):
                    setattr(dial.streams[-1], where, raising(error))
                if where in ("on_send", "on_receive"):
                    await ws.try_cancel("another")
                else:
                    await venue.cut()
                await trio.sleep(1000)
        assert caught.value is error
        if where != "first dial":
            assert orders.report is not None
            assert not orders.report.left
            assert venue.log.applied(held)


# Observers

CALLED = pytest.mark.parametrize("error", [*odd_errors(), GeneratorExit()], ids=lambda error: type(error).__name__)
"""What a plain call may raise besides: a coroutine's end is the call's own there."""


class RaisingObserver(Observer):
    """Raises whatever it is told."""

    def __init__(self, error: BaseException) -> None:
        self.calls: list[str] = []
        for name in vars(Observer):
            if not name.startswith("_"):
                setattr(self, name, self._raiser(name, error))

    def _raiser(self, name: str, error: BaseException) -> Callable[..., None]:
        def call(*args: object) -> None:
            self.calls.append(name)
            raise error

        return call


@CALLED
async def test_an_observer_that_raises_hurts_nothing(autojump_clock: MockClock, error: BaseException) -> None:
    observer = RaisingObserver(error)
    async with open_venue() as venue:
        dial = OddDial(venue)
        async with leaving_soon(open_odd(venue, dial, observer=observer)) as ws, ws.open_order_scope() as orders:
            await orders.add(*venue.orders(1))
            await all_is_well(venue, ws)
            dial.next = [raising_later(OSError("down"))]
            await venue.cut()
            await all_is_well(venue, ws)
            assert dial.count == 3
        assert {"request_written", "request_answered", "connection_lost", "connection_failed"} <= set(observer.calls)


# Logging


class RaisingHandler(logging.Handler):
    """Raises from ``emit`` itself, past ``handleError``."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.calls = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += 1
        raise self.error


class RaisingFilter(logging.Filter):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.calls = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.calls += 1
        raise self.error


@contextmanager
def broken_logging(kind: str, error: BaseException) -> Iterator[RaisingHandler | RaisingFilter]:
    ours = logging.getLogger("trio_cancel")
    logger = logging.getLogger() if kind == "root handler" else ours
    level = ours.level
    ours.setLevel(logging.DEBUG)
    if kind == "filter":
        broken: RaisingHandler | RaisingFilter = RaisingFilter(error)
        logger.addFilter(broken)
    else:
        broken = RaisingHandler(error)
        logger.addHandler(broken)
    try:
        yield broken
    finally:
        ours.setLevel(level)
        if isinstance(broken, RaisingFilter):
            logger.removeFilter(broken)
        else:
            logger.removeHandler(broken)


@pytest.mark.parametrize("kind", ["handler", "filter", "root handler"])
@CALLED
async def test_a_logging_handler_or_filter_that_raises_hurts_nothing(
    autojump_clock: MockClock, error: BaseException, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue() as venue:
        dial = OddDial(venue)
        with broken_logging(kind, error) as broken:
            async with leaving_soon(open_odd(venue, dial)) as ws, ws.open_order_scope() as orders:
                await orders.add(*venue.orders(1))
                dial.next = [raising_later(OSError("down"))]
                await venue.cut()
                await all_is_well(venue, ws)
                with trio.move_on_after(0):
                    await ws.try_cancel(*venue.orders(1))
                with pytest.raises(OrdersLeft):
                    async with ws.open_order_scope(grace=1) as left:
                        await left.add("nobody knows it")
            assert broken.calls > 2


class RaisingOnce(logging.Handler):
    """Raises for one line."""

    def __init__(self, line: str, error: BaseException) -> None:
        super().__init__()
        self.line = line
        self.error: BaseException | None = error

    def emit(self, record: logging.LogRecord) -> None:
        if self.error is not None and record.getMessage().startswith(self.line):
            error, self.error = self.error, None
            raise error


@ENDS
@pytest.mark.parametrize("line", ["connection 1 ended", "no connection", "connection 2 to"])
async def test_a_handler_that_ends_the_program_leaves_scopes_a_connection_to_drain_over(
    autojump_clock: MockClock, line: str, error: BaseException
) -> None:
    async with open_venue() as venue:
        dial = OddDial(venue)
        (held,) = venue.orders(1)
        raising = RaisingOnce(line, error)
        logger = logging.getLogger("trio_cancel")
        logger.addHandler(raising)
        level, began = logger.level, trio.current_time()
        logger.setLevel(logging.DEBUG)
        try:
            with pytest.raises(type(error)) as caught:
                async with open_odd(venue, dial) as ws, ws.open_order_scope(grace=8) as orders:
                    await orders.add(held)
                    dial.next = [raising_later(OSError("down"))]
                    await venue.cut()
                    await trio.sleep(1000)
        finally:
            logger.removeHandler(raising)
            logger.setLevel(level)
        assert caught.value is error
        assert trio.current_time() - began < 5
        assert orders.report is not None
        assert not orders.report.left
        assert venue.log.applied(held)


def test_a_broken_handler_is_told_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    from trio_cancel._values.observer import SafeLogger

    log = SafeLogger(logging.getLogger("trio_cancel"))
    with broken_logging("handler", ValueError("disk full")):
        log.warning("one")
        log.error("two")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "a logging handler or filter failed (ValueError: disk full)" in told


def test_what_is_logged_names_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    from trio_cancel._values.observer import logger

    with caplog.at_level(logging.DEBUG, "trio_cancel"):
        for log in (logger.debug, logger.info, logger.warning, logger.error, logger.exception):
            log("a %s", "line")
        logger.log(logging.INFO, "a line")
    assert {record.filename for record in caplog.records} == {"test_boundaries.py"}
    assert {record.getMessage() for record in caplog.records} == {"a line"}


# The session's own tasks


async def test_a_timer_that_fails_concludes_everything_with_what_is_known(autojump_clock: MockClock) -> None:
    async with open_venue(delay=1000.0) as venue, leaving_soon(venue.open(reply_timeout=1)) as ws:
        written, held = venue.orders(2)

        def fail(now: float) -> float:
            raise Odd

        ws._session.engine.expire = fail  # type: ignore[method-assign]  # that is what is tested
        outcome = await ws.try_cancel(written)
        assert isinstance(outcome, Unknown)
        assert "timer failed (Odd)" in str(outcome.cause)
        assert ws.state is SessionState.FAILED
        assert isinstance(await ws.try_cancel(held), NotSent)


async def test_a_timer_that_fails_once_goes_on(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends the program is handed on; until the block has ended, orders still get their outcomes."""
    outcome, took = None, math.inf
    async with open_venue(delay=1000.0) as venue:
        with pytest.raises(SystemExit):
            async with venue.open(reply_timeout=1, give_up_after=5, retry=False) as ws:
                expire = ws._session.engine.expire
                failed: list[float] = []

                def fail_once(now: float) -> float:
                    if not failed and now >= 1:  # when the answer is due: nothing but the timer itself sets it again
                        failed.append(now)
                        raise SystemExit(3)
                    return expire(now)

                ws._session.engine.expire = fail_once  # type: ignore[method-assign]  # that is what is tested
                (order,) = venue.orders(1)
                with trio.CancelScope(shield=True), trio.move_on_after(60):
                    outcome = await ws.try_cancel(order)
                    took = trio.current_time() - failed[0]
        assert isinstance(outcome, Unknown)  # out here: what fails in the block gives way to the SystemExit
        assert took < 5


async def test_a_session_that_fails_leaves_no_connection_open(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, leaving_soon(venue.open()) as ws:
        connection = ws._session._connection
        assert connection is not None
        ws._session._fail(ConnectionLost("it is over"))
        await trio.testing.wait_all_tasks_blocked()
        assert connection._over.is_set()
        connection.end(ConnectionLost("later"))
        assert str(connection._cause) == "it is over"  # the first cause counts


async def test_a_spawned_task_that_raises_hurts_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_venue() as venue, leaving_soon(venue.open()) as ws:
        assert ws._session.spawn(raising_later(Odd()))
        await trio.testing.wait_all_tasks_blocked()
        assert "a task of the session failed: Odd" in caplog.text
        await all_is_well(venue, ws)


async def test_spawning_says_so_once_the_tasks_have_ended(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        async with leaving_soon(venue.open()) as ws:
            ws._session.kill()
            await trio.testing.wait_all_tasks_blocked()
            assert not ws._session.spawn(trio.sleep, 0)
            with pytest.raises(OrdersLeft):
                async with ws.open_order_scope() as orders:
                    await orders.add("o")
        assert not ws._session.spawn(trio.sleep, 0)


async def test_a_nursery_that_was_ended_from_inside_runs_nothing_more(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, leaving_soon(venue.open()) as ws:
        with pytest.raises(OrdersLeft):
            async with ws.open_order_scope() as orders:
                await orders.add("o")
                nursery = ws._session._nursery
                assert nursery is not None
                nursery.cancel_scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
        assert orders.report is not None


# Retry-After on a reconnect


@pytest.mark.parametrize(
    "header",
    [
        b"Retry-After: Mon, 01 Jan 99999999999 00:00:00 GMT",
        b"Retry-After: Mon, 01 Jan 99999 00:00:00 GMT",
        b"Retry-After: Fri, 31 Dec 9999 23:59:60 GMT\r\nDate: Mon, 01 Jan 0001 00:00:00 GMT",
        b"Date: Mon, 01 Jan 99999999999 00:00:00 GMT\r\nRetry-After: Mon, 01 Jan 2125 00:00:00 GMT",
        b"Retry-After: " + b"9" * 5000,
        b"Retry-After: -1",
        b"Retry-After: \xb2\xb3",
        b"Retry-After: 1e999",
        b"Retry-After: nan",
    ],
)
async def test_an_absurd_date_ends_no_session(header: bytes) -> None:
    async def handler(peer: Peer) -> None:
        if refusals:
            await peer.stream.receive_some(65536)
            await peer.send(b"HTTP/1.1 503 Service Unavailable\r\n" + refusals.pop() + b"\r\n\r\n")
            return
        await peer.upgrade()
        refusals.append(header)

    refusals: list[bytes] = []
    from tests.tools.foreign import CLIENT_CONTEXT, CREDENTIALS

    async with open_raw_venue(handler) as venue:
        with trio.fail_after(20):
            async with open_trading_ws(venue.url, credentials=CREDENTIALS, ssl_context=CLIENT_CONTEXT) as ws:
                with pytest.raises(OrdersLeft):
                    async with ws.open_order_scope(grace=1) as orders:
                        await orders.add("o")
                        while ws.state is not SessionState.RECONNECTING:  # noqa: ASYNC110 - nobody rings for it
                            await trio.sleep(0.01)
                        await trio.sleep(0.2)
                leaving = trio.current_time()
            assert trio.current_time() - leaving < 2


# The boundary itself


def test_a_boundary_keeps_what_is_raised_alone() -> None:
    inner = ValueError("x")
    with Boundary() as boundary:
        raise ExceptionGroup("g", [ExceptionGroup("h", [inner])])
    assert boundary.error is inner
    with Boundary() as boundary:
        pass
    assert boundary.error is None


def test_a_boundary_lets_a_cancellation_through() -> None:
    with pytest.raises(GeneratorExit), Boundary():
        raise GeneratorExit
    with pytest.raises(BaseExceptionGroup), Boundary():
        raise BaseExceptionGroup("g", [ValueError(), GeneratorExit()])


def test_the_end_of_the_program_is_found_within_groups_and_causes() -> None:
    interrupt = KeyboardInterrupt()
    wrapped = HandshakeFailed("x")
    wrapped.__cause__ = BaseExceptionGroup("g", [ValueError(), interrupt])
    assert ends_program(wrapped) is interrupt
    circle = ValueError()
    circle.__cause__ = circle
    assert ends_program(circle) is None
    assert ends_program(None) is None


def test_errors_are_described_by_class_and_words() -> None:
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(Odd()) == "Odd"
    assert describe(OSError("no route")) == "no route"
    assert describe(HandshakeFailed("No.")) == "No."
    assert describe(trio.BrokenResourceError()) == "BrokenResourceError"
    assert describe(OSError(111, "Connection refused")) == "Connection refused"
    assert describe(OSError(5, "a [disk] of ours")) == "a [disk] of ours"
    assert describe(OSError(5, "")) == "[Errno 5] "
    assert describe(ValueError("[Errno 5] of another")) == "ValueError: [Errno 5] of another"
    assert describe(FileNotFoundError("what] is there")) == "what] is there"


class Ends(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_what_ends_the_program_does_so_while_an_error_is_described() -> None:
    with pytest.raises(KeyboardInterrupt):
        describe(Ends())
