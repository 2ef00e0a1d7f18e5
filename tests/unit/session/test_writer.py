"""The way out of a connection: what was wholly accepted is in flight, what was not was not sent, nothing follows."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.tools.desk import Order, canceled
from trio_cancel import CancelRequest, ConnectionLost
from trio_cancel._engine.engine import WRITE_MOST, Engine
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._net.stream import ByteStream
from trio_cancel._net.tls import TLSCodec
from trio_cancel._session.writer import Writer
from trio_cancel._trio.environment import Environment
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.timings import Timings

ONCE = RetryPolicy(reply_timeout=5.0, give_up_after=10.0, retry=False)


class Raw:
    """Bytes that are accepted only as far as ``room`` goes; ``wait`` blocks until it grows or the socket breaks."""

    def __init__(self, room: float = math.inf) -> None:
        self.room = room
        self.sent = 0
        self.data = b""
        self.broken = False
        self.more = trio.Event()

    def let(self, room: float) -> None:
        self.room = room
        self.more.set()
        self.more = trio.Event()

    def break_it(self) -> None:
        self.broken = True
        self.more.set()

    def send_now(self, data: bytes) -> int:
        if self.broken:
            raise trio.BrokenResourceError("it broke")
        count = int(min(len(data), self.room))
        self.room -= count
        self.sent += count
        self.data += data[:count]
        return count

    async def send(self, data: bytes) -> None:
        while data:
            count = self.send_now(data)
            data = data[count:]
            if data:
                await self.more.wait()

    async def receive(self) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    def close(self) -> None:
        self.break_it()

    async def aclose_forcefully(self) -> None:
        self.break_it()


class Link:
    """What the writer needs of a link."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.closing = False
        self.control: list[bytes] = []

    def take_control(self) -> list[bytes]:
        taken, self.control = self.control, []
        return taken


class Bench:
    """A writer with its engine, over a socket that takes what it is told to."""

    def __init__(self, tls: Any = None, journal: Any = None) -> None:
        self.fault: Exception | None = None
        self.raw = Raw()
        self.link = Link(ByteStream(cast("Any", self.raw), tls))
        self.ended: list[BaseException] = []
        self.at_once = False  # whether what finds nothing else under way is written by whoever hands it in
        self.engine = Engine(
            sign=self._sign,
            id_prefix="r",
            pacer=None,
            notify=None,
            jitter=random.Random(7),
            clock=VenueClock(lambda: 0.0, trio.current_time),
        )
        environment = Environment(random_bytes=lambda count: b"\1\2\3\4" * (count // 4), jitter=random.Random(7))
        link = cast("Any", self.link)
        wakeup = self.engine.wakeup if journal is None else Wakeup()
        self.writer = Writer(1, self.engine, environment, journal, wakeup, link, self.ended.append)
        self.engine.connection_up(trio.current_time())

    def _sign(self, orders: Any, at: int) -> list[bytes]:
        if self.fault is not None:
            raise self.fault
        return [f"{request_id} {request.key} {at}".encode() for request_id, request in orders]

    def submit(self, order_id: str, policy: RetryPolicy = ONCE) -> Order:
        order = Order(CancelRequest(order_id), policy)
        if not self.at_once:
            self.engine.submit(order, trio.current_time())
        elif self.engine.submit_lone(order, trio.current_time()):
            self.writer.write_now()
        return order


@asynccontextmanager
async def writing(bench: Bench) -> AsyncIterator[trio.CancelScope]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.writer.write)
        await trio.testing.wait_all_tasks_blocked()
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


def frame_size(order_id: str, number: int = 1) -> int:
    # head of 2 and mask of 4 bytes, and the text that the bench's signer makes
    return 6 + len(f"r-{number} {CancelRequest(order_id).key} 1700000000000")


async def test_a_frame_that_was_wholly_accepted_is_in_flight_though_the_write_was_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of three frames in one write the socket took one and a half, then broke."""
    bench = Bench()
    async with writing(bench):
        bench.raw.room = frame_size("a") + 10
        orders = [bench.submit(name) for name in "abc"]
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.raw.data) == frame_size("a") + 10
        bench.raw.break_it()
        await trio.testing.wait_all_tasks_blocked()
        assert [order.kind for order in orders] == [None, "not_sent", "not_sent"]
        assert bench.link.stream.accepted == 1
        assert len(bench.ended) == 1
        bench.engine.connection_down(1, None, trio.current_time())
        assert orders[0].kind == "unknown"


async def test_what_was_accepted_is_counted_before_anybody_waits_for_the_rest() -> None:
    """Whoever is ended between the two must know which frames may not be called "not sent"."""
    raw = Raw(room=7)
    stream = ByteStream(cast("Any", raw))
    assert not stream.send_now(b"abcdefghij", [3, 6, 9, 10])
    assert stream.accepted == 2
    with pytest.raises(trio.BrokenResourceError):
        stream.send_now(b"k", [1])
    raw.let(math.inf)
    await stream.finish_send()
    assert stream.accepted == 4


async def test_the_rest_of_a_partial_write_goes_out_before_anything_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bench = Bench()
    async with writing(bench):
        bench.raw.room = 20
        first = bench.submit("first")
        await trio.testing.wait_all_tasks_blocked()
        second = bench.submit("second")  # while the first is half out: it must not be written into it
        bench.link.control.append(b"PONG")
        bench.engine.wakeup.ring()
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.raw.data) == 20
        bench.raw.let(math.inf)
        await trio.testing.wait_all_tasks_blocked()
        assert bench.raw.data[frame_size("first") :].startswith(b"PONG")
        assert [order.flights and order.flights[0].request_id for order in (first, second)] == ["r-1", "r-2"]
        assert first.kind is None is second.kind
        assert bench.link.stream.accepted == 3  # chunks: two requests and a control frame
        assert not bench.ended


@pytest.mark.parametrize(("beyond", "sent"), [(-40, 0), (-1, 0), (0, 1), (1, 1), (7, 1)])
async def test_control_frames_that_go_first_do_not_count_as_orders(
    beyond: int, sent: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Two control frames of 3 and 4 bytes stand before two requests; the socket takes so far beyond the first one."""
    bench = Bench()
    async with writing(bench) as scope:
        bench.raw.room = 3 + 4 + frame_size("a") + beyond
        bench.link.control += [b"abc", b"defg"]
        orders = [bench.submit(name) for name in "ab"]
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert [order.kind for order in orders] == [None] * sent + ["not_sent"] * (2 - sent)


async def test_a_writer_that_is_ended_while_it_waits_tells_what_was_not_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bench = Bench()
    async with writing(bench) as scope:
        bench.raw.room = 5
        order = bench.submit("a")
        await trio.testing.wait_all_tasks_blocked()
        assert order.kind is None
        scope.cancel()
    assert order.kind == "not_sent"


async def test_a_peer_that_does_not_read_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bench = Bench()
    async with writing(bench):
        bench.raw.room = 5
        order = bench.submit("a")
        await trio.sleep(Timings().write_deadline + 0.1)
        await trio.testing.wait_all_tasks_blocked()
        assert order.kind == "not_sent"
        assert "did not read" in str(bench.ended[0])
        late = bench.submit("b")  # nothing may follow half a frame
        await trio.testing.wait_all_tasks_blocked()
        assert not late.flights
        assert len(bench.raw.data) == 5


@pytest.mark.parametrize(("give_up_after", "least", "most"), [(1.0, 0.9, 1.0), (0.001, 0.019, 0.03)])
async def test_a_write_waits_no_longer_than_its_orders_have_time(
    give_up_after: float, least: float, most: float, autojump_clock: trio.testing.MockClock
) -> None:
    """But for a moment: a connection that is well is not lost for an order that has no time left."""
    bench = Bench()
    async with writing(bench):
        bench.raw.room = 5
        began = trio.current_time()
        order = bench.submit("a", RetryPolicy(reply_timeout=5.0, give_up_after=give_up_after, retry=False))
        while not bench.ended:  # noqa: ASYNC110, RUF100 - a list
            await trio.sleep(0.001)
        assert least <= trio.current_time() - began <= most
        assert order.kind == "not_sent"


@pytest.mark.parametrize("step", ["before", "signature", "frame"])
@pytest.mark.parametrize("retry", [True, False])
async def test_what_could_not_be_made_was_not_sent(
    step: str, retry: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever fails before the first byte: the order waits for the next connection, or was not sent."""
    bench = Bench()
    fault = RuntimeError("it cannot be made")

    def fail(*_: object) -> Any:
        raise fault

    if step == "before":
        bench.engine.sign = fail  # type: ignore[assignment, method-assign] # it fails before anything is signed
    elif step == "signature":
        bench.fault = fault
    else:
        bench.writer._environment = Environment(random_bytes=fail)
    async with writing(bench):
        order = bench.submit("a", RetryPolicy(reply_timeout=5.0, give_up_after=10.0, retry=retry))
        await trio.testing.wait_all_tasks_blocked()
        assert "it cannot be made" in str(bench.ended[0])
        assert not order.flights
        if not retry and step != "before":
            assert order.kind == "not_sent"
            return
        await trio.sleep(3)
        admitted, _ = bench.engine.take(trio.current_time())
        assert [pending.request for pending in admitted] == [order.request]
    assert not bench.raw.data


async def test_others_have_their_turn_between_full_groups(autojump_clock: trio.testing.MockClock) -> None:
    """A last chance of very many orders is written in groups; the loop is not held for all of them."""
    bench = Bench()
    groups: list[int] = []
    turns = full = 0

    def take(_now: float) -> tuple[list[Any], float]:
        nonlocal full
        if not full:
            return [], math.inf
        full -= 1
        groups.append(turns)
        return [Order(CancelRequest(f"{number}"), ONCE) for number in range(WRITE_MOST)], math.inf

    async def other() -> None:
        nonlocal turns
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            turns += 1

    bench.writer._take = take  # type: ignore[assignment] # what it admits is of the test
    bench.engine.sign = lambda *_: ([], [])  # type: ignore[method-assign] # what it writes does not matter here
    async with writing(bench), trio.open_nursery() as nursery:
        full = 10
        bench.engine.wakeup.ring()
        nursery.start_soon(other)
    assert len(groups) == 10
    assert groups[-1] - groups[0] in (8, 9, 10)  # one pass for each group, the two tasks in either order


async def test_a_writer_says_that_a_close_has_left_only_then(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    async with writing(bench):
        bench.submit("a")
        await trio.testing.wait_all_tasks_blocked()
        assert not bench.writer.flushed.is_set()
        bench.link.closing = True
        bench.link.control.append(b"CLOSE")
        bench.engine.wakeup.ring()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.writer.flushed.is_set()


async def test_a_journal_is_told_only_of_what_was_wholly_written(autojump_clock: trio.testing.MockClock) -> None:
    told: list[list[str]] = []

    class Journal:
        asks_first = False

        async def intend(self, admitted: list[Any]) -> None:
            await trio.lowlevel.checkpoint()

        def written(self, orders: list[Any], unanswered: object) -> None:
            told.append([pending.request.key for pending in orders])

    bench = Bench(journal=Journal())
    ahead = bench.writer.write_ahead
    assert ahead is not None
    async with writing(bench), trio.open_nursery() as nursery:
        nursery.start_soon(ahead.run)
        await trio.testing.wait_all_tasks_blocked()
        bench.raw.room = frame_size("a") + 5
        for order_id in "abc":
            bench.submit(order_id)
        await trio.testing.wait_all_tasks_blocked()
        bench.raw.break_it()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [key for keys in told for key in keys] == [CancelRequest("a").key]


async def test_nothing_is_written_after_a_close(autojump_clock: trio.testing.MockClock) -> None:
    """A Close frame that is queued or out ends the sending of requests; a lone cancel must not overtake it, either."""
    bench = Bench()
    bench.at_once = True
    async with writing(bench):
        bench.link.closing = True
        bench.link.control.append(b"CLOSE")
        order = bench.submit("a")  # goes by way of write_now: nothing else is under way
        await trio.testing.wait_all_tasks_blocked()
        assert bench.raw.data == b"CLOSE"
        assert not order.flights
        assert bench.writer.flushed.is_set()


async def test_a_lone_cancel_is_written_at_once_and_only_by_a_parked_writer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bench = Bench()
    bench.at_once = True
    async with writing(bench):
        order = bench.submit("a")
        assert order.flights  # before any other task ran
        bench.engine.read([canceled("r-1", "a")], 1, trio.current_time(), 0.0)
        assert order.kind == "canceled"
        bench.raw.room = 5
        half = bench.submit("b")
        assert half.flights
        bench.submit("c")
        bench.writer.write_now()  # as a cancel that finds nothing else under way
        assert len(bench.raw.data) == frame_size("a") + 5  # the half frame is followed by nothing
        assert not bench.ended
        bench.raw.let(math.inf)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.raw.data) == 3 * frame_size("a")
        assert not bench.ended


async def test_a_lone_cancel_whose_write_breaks_is_not_sent(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    bench.at_once = True
    async with writing(bench):
        bench.raw.break_it()
        order = bench.submit("a")
        await trio.testing.wait_all_tasks_blocked()
        assert order.kind == "not_sent"
        assert len(bench.ended) == 1


class TalkativeTLS:
    """TLS that has something to say of its own, as after a peer's KeyUpdate."""

    def __init__(self) -> None:
        self.output = b""
        self.unread = False
        self.ended = False

    @property
    def pending_output(self) -> bool:
        return bool(self.output)

    def seal(self, data: bytes, ends: list[int]) -> tuple[bytes, list[tuple[int, int]]]:
        out, self.output = self.output, b""
        return out + data, [(index, len(out) + end) for index, end in enumerate(ends, 1)]


async def test_what_tls_has_to_say_goes_out_though_there_is_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tls = TalkativeTLS()
    bench = Bench(cast("TLSCodec", tls))
    async with writing(bench):
        assert bench.raw.data == b""
        tls.output = b"KEYUPDATE"
        bench.engine.wakeup.ring()  # as `on_output` does
        await trio.testing.wait_all_tasks_blocked()
        assert bench.raw.data == b"KEYUPDATE"
        assert bench.link.stream.accepted == 0
        order = bench.submit("a")
        await trio.testing.wait_all_tasks_blocked()
        assert order.flights
        assert bench.link.stream.accepted == 1


async def test_the_writer_is_rung_when_reading_gives_tls_something_to_say() -> None:
    """A peer's KeyUpdate wants an answer, though nobody writes anything for an hour."""

    class Answering(TalkativeTLS):
        def open(self, data: bytes) -> bytes:
            self.output = b"KEYUPDATE" if data == b"update" else b""
            self.ended = data == b"end"
            return b"" if data == b"update" else data

    class Receiving(Raw):
        def __init__(self) -> None:
            super().__init__()
            self.pieces = [b"plain", b"update", b"end"]

        async def receive(self) -> bytes:
            await trio.lowlevel.checkpoint()
            return self.pieces.pop(0)

    tls = Answering()
    stream = ByteStream(Receiving(), cast("TLSCodec", tls))
    assert await stream.receive() == b"plain"
    rings: list[bool] = []
    stream.on_output = lambda: rings.append(stream.pending_output)
    assert await stream.receive() == b"end"
    assert rings == [True]


async def test_a_write_that_breaks_says_why_and_keeps_the_cause(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    async with writing(bench):
        bench.raw.room = 10
        order = bench.submit("a")
        await trio.testing.wait_all_tasks_blocked()
        bench.raw.break_it()
        await trio.testing.wait_all_tasks_blocked()
    assert order.kind == "not_sent"
    (lost,) = bench.ended
    assert isinstance(lost, ConnectionLost)
    assert isinstance(lost.__cause__, trio.BrokenResourceError)
    assert str(lost) == str(lost.__cause__) != "None"


async def test_a_venue_that_does_not_read_is_its_own_cause(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    async with writing(bench):
        bench.raw.room = 10
        bench.submit("a")
        await trio.sleep(60)
    (lost,) = bench.ended
    assert isinstance(lost, ConnectionLost)
    assert str(lost).startswith("the venue did not read for ")
    assert lost.__cause__ is None


async def test_a_writer_is_parked_only_while_it_waits(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    parked = [bench.writer._parked]
    async with writing(bench) as scope:
        parked.append(bench.writer._parked)
        scope.cancel()
    parked.append(bench.writer._parked)
    assert parked == [False, True, False]


async def test_a_parked_writer_wakes_when_a_pace_lets_it(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    await bench.writer.wakeup.wait()  # what was rung for before
    with trio.fail_after(10):
        await bench.writer._park(2.5)
    assert trio.current_time() == 2.5
    with pytest.raises(trio.TooSlowError), trio.fail_after(10):
        await bench.writer._park(math.inf)
