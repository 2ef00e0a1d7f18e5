"""A deadline is judged after the input at hand has been read: the loop was blocked, or the process stopped.

The loop is really blocked here, for a moment: what is tested is what trio does when it wakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from tests.tools.foreign import CLIENT_CONTEXT, CREDENTIALS, done, open_foreign_venue
from tests.tools.rawvenue import Peer, frame, open_raw_venue
from tests.tools.timings import wait_for
from tests.tools.venues import Remembering, open_venue
from trio_cancel import Canceled, OrdersLeft, TradingWS, open_trading_ws
from trio_cancel._trio.ready_input import PASSES_MOST, QUIET, take_in

ROUNDS = 5
"""The tasks that wake in one pass run in a random order: so many rounds leave no chance to luck."""

connect = partial(open_trading_ws, credentials=CREDENTIALS, ssl_context=CLIENT_CONTEXT)


def block(seconds: float) -> None:
    time.sleep(seconds)


async def single(ws: TradingWS, order_id: str) -> None:
    outcome = await ws.try_cancel(order_id)
    assert isinstance(outcome, Canceled), outcome
    assert len(outcome.attempts) == 1


async def bulk(ws: TradingWS, order_id: str) -> None:
    (outcome,) = (await ws.cancel_many([order_id])).outcomes
    assert isinstance(outcome, Canceled), outcome


async def stream(ws: TradingWS, order_id: str) -> None:
    async with ws.open_cancel_stream([order_id]) as outcomes:
        assert [type(outcome) async for outcome in outcomes] == [Canceled]


async def scope(ws: TradingWS, order_id: str) -> None:
    async with ws.open_order_scope(grace=0.3) as orders:
        await orders.add(order_id)
    assert orders.report is not None
    assert isinstance(orders.report.outcomes[0], Canceled)


async def until_written(ws: TradingWS) -> None:
    while not len(ws._session.engine.unanswered()):  # noqa: ASYNC110 - nobody rings for it
        await trio.sleep(0.0001)


@pytest.mark.parametrize(
    ("way", "retry"), [(single, True), (single, False), (bulk, True), (stream, True), (scope, True)]
)
async def test_an_answer_that_came_while_the_loop_was_blocked_settles_its_order(
    way: Callable[[TradingWS, str], object], retry: bool
) -> None:
    with open_foreign_venue() as venue:
        venue.delay = 0.02
        async with connect(venue.url, reply_timeout=0.3, give_up_after=0.3, retry=retry) as ws:
            for order_id in venue.orders(ROUNDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(way, ws, order_id)  # type: ignore[arg-type]  # each is async
                    with trio.fail_after(5):
                        await until_written(ws)
                    block(0.4)


@pytest.mark.parametrize("tls", [True, False])
async def test_a_long_backlog_before_the_answer_is_read_first(tls: bool) -> None:
    """It takes the reader many passes."""
    pongs = frame(10, b"x" * 125) * 8_000  # one megabyte

    async def handler(peer: Peer) -> None:
        await peer.upgrade()
        answer = frame(1, done({"id": await peer.request_id()}, "o", None).encode())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, pongs + answer)
            for _ in range(4):  # it goes into the socket as far as that takes it
                block(0.06)
                await trio.lowlevel.checkpoint()
        await peer.drain()

    async with (
        open_raw_venue(handler, tls=tls) as venue,
        connect(venue.url, reply_timeout=0.2, give_up_after=0.2, retry=False) as ws,
    ):
        outcome = await ws.try_cancel("o")
        assert isinstance(outcome, Canceled)


async def test_a_pong_that_came_while_the_loop_was_blocked_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(monkeypatch, ping_interval=0.02, pong_deadline=0.3)
    watch = Remembering()
    with open_foreign_venue() as venue:
        async with connect(venue.url, observer=watch) as ws:
            ping = ws._session._connection.link.ping  # type: ignore[union-attr]  # there is one

            async def ping_and_block() -> float:
                seconds = []

                async def ping_and_note() -> None:
                    seconds.append(await ping())

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ping_and_note)
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
                    block(0.4)
                return seconds[0]

            ws._session._connection.link.ping = ping_and_block  # type: ignore[union-attr, method-assign]  # see above
            await trio.sleep(0.45 * ROUNDS)
            assert venue.connections == 1
        assert [cause for _, cause in watch.of("connection_lost")] == [None]


async def test_a_peer_that_never_ends_does_not_hold_deadlines_up(autojump_clock: MockClock) -> None:
    """The bound of what is read first."""
    async with open_venue() as venue, venue.open(reply_timeout=1, give_up_after=2) as ws:
        connection = ws._session._connection
        assert connection is not None
        over = False

        async def flood() -> None:
            while not over:
                connection._pieces += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            before = connection._pieces
            await connection.take_in()
            assert connection._pieces - before <= PASSES_MOST + 2
            over = True


async def test_what_is_at_hand_is_taken_in_until_nothing_more_comes(autojump_clock: MockClock) -> None:
    taken = 0

    async def reader() -> None:
        nonlocal taken
        for _ in range(20):
            for _ in range(QUIET - 2):
                await trio.lowlevel.checkpoint()
            taken += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await take_in(lambda: taken)
        assert taken == 20


async def test_the_end_of_a_scopes_grace_is_judged_after_reading_too() -> None:
    with open_foreign_venue() as venue:
        venue.delay = 0.02
        async with connect(venue.url, reply_timeout=10) as ws:
            for order_id in venue.orders(ROUNDS):

                async def leave(order_id: str = order_id) -> None:
                    async with ws.open_order_scope(grace=0.3) as orders:
                        await orders.add(order_id)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(leave)
                    await until_written(ws)
                    block(0.4)
            venue.delay = 0.6
            (order_id,) = venue.orders(1)
            with pytest.raises(OrdersLeft):
                async with ws.open_order_scope(grace=0.3) as orders:
                    await orders.add(order_id)
