"""Connections over time, on a mock clock: replaced, given up, closed, and what the block's own code sees of it."""

from __future__ import annotations

import gc
import itertools
import logging
import warnings
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing
from trio.testing import MockClock

import trio_cancel
from tests.tools.pipe import open_pipe
from tests.tools.venues import Remembering, open_venue
from trio_cancel import (
    Canceled,
    ConnectionLost,
    HandshakeFailed,
    NotSent,
    Rejected,
    SessionClosed,
    TradingWS,
    Unknown,
)
from trio_cancel.sandbox import Fault, Faults
from trio_cancel.types import SessionState


async def until_state(ws: TradingWS, state: SessionState) -> None:
    """Wait on the mock clock until the session is in a state."""
    with trio.fail_after(100):
        while ws.state is not state:  # noqa: ASYNC110 - nobody rings for a state, and the clock is a mock
            await trio.sleep(0.01)


def task_names(root: trio.lowlevel.Task) -> list[str]:
    names = [root.name.rpartition(".")[2]]
    for nursery in root.child_nurseries:
        for task in nursery.child_tasks:
            names += task_names(task)
    return names


# A session's life


async def test_states_from_the_beginning_to_the_end(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        async with venue.open() as ws:
            assert repr(ws.state) == repr(SessionState.CONNECTED)
            assert ws.failure is None
            assert repr(ws) == "<TradingWS connected>"
            (order_id,) = venue.orders(1)
            order = await ws.cancel(order_id)
            assert order.id == order_id
            await venue.cut()
            await until_state(ws, SessionState.RECONNECTING)
            await until_state(ws, SessionState.CONNECTED)
        assert ws.state is SessionState.CLOSED
        assert str(ws.state) == "closed"


async def test_the_tasks_at_rest_are_those_that_are_drawn(autojump_clock: MockClock) -> None:
    guide = (Path(trio_cancel.__file__).parent / "guides" / "architecture.md").read_text(encoding="utf-8")
    drawn = guide.partition("## The tasks")[2].partition("```text\n")[2].partition("```")[0]
    async with open_venue() as venue, venue.open() as ws:
        await trio.testing.wait_all_tasks_blocked()
        me = trio.lowlevel.current_task()
        (session_nursery,) = [
            nursery
            for nursery in me.child_nurseries
            if any("Session._tasks" in task.name for task in nursery.child_tasks)
        ]
        (tasks,) = session_nursery.child_tasks
        assert sorted(task_names(tasks)) == [
            "_connections_task",
            "_keep_alive",
            "_probe_task",
            "_read",
            "_read_slow",
            "_tasks",
            "_timer_task",
            "_watch_reader",
            "write",
        ]
        for word in ("connections", "reader", "writer", "slow reader", "keepalive", "watcher", "probe", "timer"):
            assert f"── {word}" in drawn
        assert drawn.count("──") == 9 + 2 + 2  # with the nurseries, and tasks that only some sessions have
        await ws.ping()


async def test_nothing_is_left_when_the_block_has_ended(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        me = trio.lowlevel.current_task()
        before = sum(len(nursery.child_tasks) for nursery in me.child_nurseries)
        async with venue.open() as ws:
            await ws.cancel_many(venue.orders(20))
        statistics = ws.statistics()
        assert statistics.pending == 0
        assert len(ws._session.engine.unanswered()) == 0
        assert sum(len(nursery.child_tasks) for nursery in me.child_nurseries) == before
        await trio.sleep(1)
        assert venue.log.connections[0].closed_at is not None
        assert venue.log.connections[0].close_code == 1000


# The first connection


@pytest.mark.parametrize("error", [OSError("no route"), trio.BrokenResourceError("broke")])
async def test_the_first_connection_fails_fast_with_the_real_reason(
    autojump_clock: MockClock, error: Exception
) -> None:
    async with open_venue() as venue:
        venue.failures = [error]
        with pytest.raises(HandshakeFailed, match="localhost") as caught:
            async with venue.open():
                pytest.fail("there is no connection")
        assert caught.value.__cause__ is error
        assert caught.value.cause is error
        assert len(venue.dials) == 1


@pytest.mark.parametrize("error", [ValueError("bad proxy"), ExceptionGroup("two", [OSError("a")]), RuntimeError("?")])
async def test_whatever_dial_raises_is_a_failed_handshake(autojump_clock: MockClock, error: Exception) -> None:
    async with open_venue() as venue:
        venue.failures = [error]
        with pytest.raises(HandshakeFailed) as caught:
            async with venue.open():
                pytest.fail("there is no connection")
        assert caught.value.__cause__ is error
        venue.failures = [None, error]
        async with venue.open() as ws:
            await venue.cut()
            (order_id,) = venue.orders(1)
            assert (await ws.cancel(order_id)).id == order_id


async def test_a_dial_that_returns_no_stream_is_told_so(autojump_clock: MockClock) -> None:
    async def dial() -> None:
        await trio.lowlevel.checkpoint()

    async with open_venue() as venue:
        venue.dial = dial  # type: ignore[method-assign,assignment]  # that is what is tested
        with pytest.raises(HandshakeFailed, match="NoneType"):
            async with venue.open():
                pytest.fail("there is no connection")


@pytest.mark.parametrize(
    ("fault", "status", "retry_after"),
    [
        (Fault.UPGRADE_401, 401, None),
        (Fault.UPGRADE_403, 403, None),
        (Fault.UPGRADE_429, 429, 7.0),
        (Fault.UPGRADE_503, 503, 7.0),
        (Fault.UPGRADE_GARBAGE, None, None),
        (Fault.UPGRADE_WRONG_ACCEPT, None, None),
        (Fault.UPGRADE_CUT, None, None),
        (Fault.UPGRADE_ENDLESS, 503, None),
    ],
)
async def test_a_refused_upgrade_fails_fast(
    autojump_clock: MockClock, fault: Fault, status: int | None, retry_after: float | None
) -> None:
    async with open_venue(faults=Faults(retry_after=7.0)) as venue:
        venue.sandbox.fault_on_upgrade(fault)
        started = trio.current_time()
        with pytest.raises(HandshakeFailed) as caught:
            async with venue.open():
                pytest.fail("there is no connection")
        assert caught.value.status == status
        if retry_after is not None:
            assert caught.value.retry_after == retry_after
        assert len(venue.dials) == 1
        assert trio.current_time() - started < 10.0


async def test_an_upgrade_that_is_never_answered_ends_on_time(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        venue.sandbox.fault_on_upgrade(Fault.UPGRADE_SILENT)
        started = trio.current_time()
        with pytest.raises(HandshakeFailed, match=r"within 2 s: the WebSocket upgrade was not answered"):
            async with venue.open(connect_timeout=2):
                pytest.fail("there is no connection")
        assert trio.current_time() - started == pytest.approx(2)


async def test_a_dial_that_never_ends_ends_on_time(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        venue.dial = trio.sleep_forever  # type: ignore[method-assign]  # that is what is tested
        with pytest.raises(HandshakeFailed, match=r"within 3 s: the TCP and TLS connection was not made"):
            async with venue.open(connect_timeout=3):
                pytest.fail("there is no connection")
        assert trio.current_time() == pytest.approx(3)


async def test_cancelling_while_it_connects_leaves_nothing(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        before = len(trio.lowlevel.current_task().child_nurseries)
        for fault in (Fault.UPGRADE_SILENT, None):
            venue.sandbox.fault_on_upgrade(fault)
            with trio.move_on_after(1 if fault else 0) as scope:
                async with venue.open():
                    pytest.fail("there is no connection")
            assert scope.cancelled_caught
            assert len(trio.lowlevel.current_task().child_nurseries) == before
        assert trio.current_time() == pytest.approx(1)


# Replacing connections


async def test_a_lost_connection_is_replaced_with_growing_jittered_pauses(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        venue.failures = [OSError("still down")] * 12
        await venue.cut()
        await until_state(ws, SessionState.RECONNECTING)
        await until_state(ws, SessionState.CONNECTED)
        pauses = [later - earlier for earlier, later in itertools.pairwise(venue.dials[1:])]
        for index, pause in enumerate(pauses):
            whole = min(10.0, 0.1 * 2 ** (index + 1))
            assert 0.5 * whole - 0.01 <= pause <= whole + 0.01
        assert len({round(pause / min(10.0, 0.2 * 2**index), 6) for index, pause in enumerate(pauses)}) > 5  # jitter
        assert len(watch.of("connection_failed")) == 12
        assert watch.of("connection_opened") == [(1,), (2,)]
        assert ws.statistics().connections == 2


async def test_after_a_healthy_connection_the_pauses_begin_anew(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        for _ in range(6):
            await trio.sleep(6)
            before = trio.current_time()
            await venue.cut()
            await until_state(ws, SessionState.RECONNECTING)
            await until_state(ws, SessionState.CONNECTED)
            assert trio.current_time() - before < 0.15


async def test_a_connection_that_dies_at_once_again_and_again_is_not_hammered(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open():
        deadline = trio.current_time() + 60
        while trio.current_time() < deadline:
            await venue.cut()
            await trio.sleep(0.05)
        assert len(venue.dials) < 25


async def test_the_venues_retry_after_is_honoured(autojump_clock: MockClock) -> None:
    async with open_venue(faults=Faults(retry_after=9.0)) as venue, venue.open() as ws:
        venue.sandbox.fault_on_upgrade(Fault.UPGRADE_503, Fault.UPGRADE_429)
        await venue.cut()
        await until_state(ws, SessionState.RECONNECTING)
        await until_state(ws, SessionState.CONNECTED)
        first, second = (later - earlier for earlier, later in itertools.pairwise(venue.dials[1:]))
        assert first == pytest.approx(9)
        assert second == pytest.approx(9)


@pytest.mark.parametrize("fault", [Fault.UPGRADE_403, Fault.UPGRADE_GARBAGE, Fault.UPGRADE_CUT, Fault.UPGRADE_429])
async def test_later_refusals_are_tried_again(autojump_clock: MockClock, fault: Fault) -> None:
    async with open_venue(faults=Faults(retry_after=1.0)) as venue, venue.open() as ws:
        venue.sandbox.fault_on_upgrade(fault)
        (order_id,) = venue.orders(1)
        await venue.cut()
        assert (await ws.cancel(order_id)).id == order_id
        assert len(venue.dials) == 3


async def test_an_order_under_way_survives_a_lost_connection(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        for fault in (Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.CLOSE_BEFORE, Fault.CLOSE_AFTER, Fault.CUT):
            (order_id,) = venue.orders(1)
            venue.sandbox.fault_on(order_id, fault)
            outcome = await ws.try_cancel(order_id)
            assert outcome.off_book
            assert outcome.after_unanswered
            assert outcome.kind == ("already_closed" if fault.applies else "canceled")
            assert len(outcome.attempts) == 2
            assert [attempt.answered_at is None for attempt in outcome.attempts] == [True, False]


async def test_an_outage_longer_than_patience_is_told_with_its_cause(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(give_up_after=3) as ws:
        (order_id,) = venue.orders(1)
        venue.failures = [OSError("still down")] * 100
        await venue.cut()
        await until_state(ws, SessionState.RECONNECTING)
        before = trio.current_time()
        outcome = await ws.try_cancel(order_id)
        assert isinstance(outcome, NotSent)
        assert trio.current_time() - before == pytest.approx(3, abs=0.1)
        assert "no connection" in str(outcome.cause)
        assert not venue.log.by_order(order_id)


# Final failures


async def test_a_final_failure_ends_everything_at_once_and_leaves_the_body_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = {}

    async def one(name: str, order_id: str, ws: TradingWS) -> None:
        outcomes[name] = await ws.try_cancel(order_id)

    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        order_ids = venue.orders(40)
        for order_id in order_ids:
            venue.sandbox.fault_on(order_id, *[Fault.SILENT_BEFORE] * 5)
        venue.sandbox.fault_on_upgrade(Fault.UPGRADE_401)
        batch = ws.batch(order_ids[1:])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "written", order_ids[0], ws)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(batch.run)
            await trio.sleep(1)
            with caplog.at_level(logging.ERROR, "trio_cancel"):
                await venue.cut()
            await until_state(ws, SessionState.FAILED)
            before = trio.current_time()
        assert trio.current_time() == before  # nobody had to wait
        assert "failed" in caplog.text
        assert isinstance(ws.failure, HandshakeFailed)
        assert ws.failure.status == 401
        written = outcomes["written"]
        assert isinstance(written, Unknown)
        assert written.cause is ws.failure
        report = batch.report()
        assert report.final
        assert (report.counts["unknown"], report.counts["not_sent"]) == (7, 32)  # what was in flight, and the rest
        for outcome in report.outcomes:
            assert isinstance(outcome, Unknown | NotSent)
            assert outcome.cause is ws.failure
        new = await ws.try_cancel("new")
        assert isinstance(new, NotSent)
        assert new.cause is ws.failure
        report = await ws.cancel_many(["a", "b"])
        assert [getattr(outcome, "cause", None) for outcome in report.outcomes] == [ws.failure] * 2
        async with ws.open_cancel_stream(["c", "d"]) as stream:
            assert [getattr(outcome, "cause", None) async for outcome in stream] == [ws.failure] * 2
        await trio.sleep(1000)
        assert len(venue.dials) == 2  # a final failure is final
        assert len(watch.of("connection_failed")) == 1
        with pytest.raises(trio.BrokenResourceError):
            await ws.ping()
    assert ws.state is SessionState.CLOSED


async def test_a_later_certificate_error_is_tried_again(autojump_clock: MockClock) -> None:
    """It may be a captive portal's, or that of a load balancer that is half updated."""
    async with open_venue() as venue, venue.open() as ws:
        (order_id,) = venue.orders(1)
        venue.failures = [HandshakeFailed("not trusted", final=True)] * 3  # as open_stream says it
        await venue.cut()
        assert isinstance(await ws.try_cancel(order_id), Canceled)
        assert ws.failure is None
        assert len(venue.dials) == 5


# A connection's life


async def test_keepalive_keeps_an_idle_connection(autojump_clock: MockClock) -> None:
    async with open_venue(ping_interval=None) as venue, venue.open() as ws:
        await trio.sleep(3600)
        assert len(venue.dials) == 1
        assert ws.state is SessionState.CONNECTED
        assert await ws.ping() == 0  # by a clock that only sleeps move


async def test_a_half_open_connection_is_found_and_replaced(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        first, second = venue.orders(2)
        venue.sandbox.fault_on(first, Fault.STALL_BEFORE)
        started = trio.current_time()
        with trio.move_on_after(1):
            await ws.try_cancel(first)
        outcome = await ws.try_cancel(second)
        assert isinstance(outcome, Canceled)
        assert trio.current_time() - started <= 25.3
        ((number, cause),) = watch.of("connection_lost")
        assert number == 1
        assert isinstance(cause, ConnectionLost)
        assert "no pong came within 10 s" in str(cause)


async def test_a_peer_that_stops_reading_is_left_and_what_was_not_written_was_not_sent(
    autojump_clock: MockClock,
) -> None:
    watch = Remembering()
    async with open_venue(capacity=500) as venue, venue.open(observer=watch, retry=False) as ws:
        order_ids = venue.orders(8)
        venue.sandbox.script(lambda record: Fault.STOP_READING)
        started = trio.current_time()
        report = await ws.cancel_many(order_ids)
        assert trio.current_time() - started < 6
        assert any("did not read for 5 s" in str(cause) for _, cause in watch.of("connection_lost"))
        for order_id, outcome in zip(order_ids, report.outcomes, strict=True):
            reached = venue.log.by_order(order_id)
            if isinstance(outcome, NotSent):
                assert not reached
            else:
                assert isinstance(outcome, Unknown)
        assert report.counts["not_sent"]
        assert report.counts["unknown"]


async def test_a_stalled_write_does_not_block_replies(autojump_clock: MockClock) -> None:
    async with open_venue(delay=2.0) as venue, venue.open() as ws:
        order_ids = venue.orders(3)
        outcomes = {}

        async def one(order_id: str) -> None:
            outcomes[order_id] = (await ws.try_cancel(order_id), trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, order_ids[0])
            nursery.start_soon(one, order_ids[1])
            await trio.sleep(1)
            await venue.ends[-1].take(10)
            nursery.start_soon(one, order_ids[2])
        for order_id in order_ids[:2]:
            outcome, at = outcomes[order_id]
            assert isinstance(outcome, Canceled)
            assert at == 2
        outcome, at = outcomes[order_ids[2]]
        assert isinstance(outcome, Canceled)
        assert len(outcome.attempts) == 1  # the first was never written whole
        assert 6 < at < 9


async def test_after_a_stalled_write_no_byte_follows_on_that_connection(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(retry=False) as ws:
        order_ids = venue.orders(2)
        await venue.ends[-1].take(10)  # ten bytes of the frame, not more
        outcome = await ws.try_cancel(order_ids[0])
        assert isinstance(outcome, NotSent)
        assert "did not read" in str(outcome.cause)
        await trio.sleep(1)
        assert venue.log.connections[0].requests == 0
        assert venue.log.connections[0].incomplete == 10
        assert isinstance(await ws.try_cancel(order_ids[1]), Canceled)
        assert venue.log.connections[1].requests == 1


async def test_a_write_that_breaks_was_not_sent(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(retry=False) as ws:
        venue.ends[-1]._out.broken = True  # and nobody has noticed yet
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, NotSent)
        assert "the connection broke" in str(outcome.cause)
        assert isinstance(await ws.try_cancel(*venue.orders(1)), Canceled)
        assert len(venue.dials) == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.BAD_UTF8, 1007), (Fault.RESERVED_BIT, 1002), (Fault.OVERSIZE, 1009), (Fault.BAD_CLOSE, 1002)],
)
async def test_a_peer_that_breaks_the_protocol_is_told_and_replaced(
    autojump_clock: MockClock, fault: Fault, code: int
) -> None:
    async with open_venue(capacity=2**22) as venue, venue.open() as ws:
        good, bad = venue.orders(2)
        venue.sandbox.fault_on(bad, fault)
        report = await ws.cancel_many([good, bad])
        first, second = report.outcomes
        assert isinstance(first, Canceled)
        assert len(first.attempts) == 1  # the reply before it was delivered
        assert second.kind == "already_closed"
        assert second.after_unanswered
        assert len(venue.dials) == 2
        assert venue.log.connections[0].close_code == code


async def test_noise_beyond_the_budget_replaces_the_connection(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch, retry=False, reply_timeout=1) as ws:
        venue.sandbox.script(lambda record: Fault.NULL_ID)
        report = await ws.cancel_many(venue.orders(101))
        venue.sandbox.script(None)
        assert report.counts["unknown"] == 101
        assert any("too many messages" in str(cause) for _, cause in watch.of("connection_lost"))
        assert ws.statistics().null_id == 101
        (order_id,) = venue.orders(1)
        assert (await ws.cancel(order_id)).id == order_id


async def test_binary_large_and_fragmented_messages_come_by_the_slow_way(autojump_clock: MockClock) -> None:
    async with open_venue(faults=Faults(trickle=0.001)) as venue, venue.open(reply_timeout=3) as ws:
        binary, fragmented, trickled = venue.orders(3)
        venue.sandbox.fault_on(binary, Fault.BINARY)
        venue.sandbox.fault_on(fragmented, Fault.FRAGMENTED)
        venue.sandbox.fault_on(trickled, Fault.TRICKLED)
        outcome = await ws.try_cancel(binary)
        assert outcome.kind == "already_closed"
        assert outcome.after_unanswered
        assert isinstance(await ws.try_cancel(fragmented), Canceled)
        assert isinstance(await ws.try_cancel(trickled), Canceled)
        assert ws.statistics().binary == 1
        assert len(venue.dials) == 1


async def test_binary_noise_counts_too(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(retry=False, reply_timeout=1) as ws:
        venue.sandbox.script(lambda record: Fault.BINARY)
        await ws.cancel_many(venue.orders(150))
        assert ws.statistics().connections > 1
        assert ws.statistics().binary >= 101


async def test_a_ping_ends_when_the_connection_does(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(retry=False) as ws:
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.STALL_BEFORE)
        with trio.move_on_after(0.1):
            await ws.try_cancel(order_id)

        async def cut_soon() -> None:
            await trio.sleep(1)
            await venue.cut()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_soon)
            with pytest.raises(trio.BrokenResourceError):
                await ws.ping()


# Leaving the block


@pytest.mark.parametrize("fault", [None, Fault.CLOSE_IGNORED, Fault.CLOSE_WITHOUT_END, Fault.CLOSE_PINGED])
async def test_leaving_takes_two_seconds_at_most(autojump_clock: MockClock, fault: Fault | None) -> None:
    async with open_venue() as venue:
        async with venue.open() as ws:
            await ws.cancel_many(venue.orders(3))
            venue.sandbox.fault_on_close(fault)
            leaving = trio.current_time()
        assert trio.current_time() - leaving <= 2
        if fault in (None, Fault.CLOSE_PINGED):
            assert trio.current_time() - leaving < 0.1
        assert venue.log.connections[0].close_code == 1000


async def test_leaving_a_stalled_connection_takes_two_seconds_at_most(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        async with venue.open() as ws:
            await venue.ends[-1].take(0)
            with trio.move_on_after(1):
                await ws.try_cancel("o")
            leaving = trio.current_time()
        assert trio.current_time() - leaving <= 2


async def test_leaving_while_reconnecting_takes_no_time(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        async with venue.open() as ws:
            venue.failures = [OSError("down")] * 100
            await venue.cut()
            await until_state(ws, SessionState.RECONNECTING)
            await trio.sleep(20)
            leaving = trio.current_time()
        assert trio.current_time() == leaving


async def test_whoever_waits_in_another_task_when_the_block_ends_learns_it(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        written, held = venue.orders(2)
        venue.sandbox.fault_on(written, Fault.SILENT_BEFORE)
        outcomes = {}
        reports = []

        async def one(ws: TradingWS, order_id: str) -> None:
            outcomes[order_id] = await ws.try_cancel(order_id)

        async def many(ws: TradingWS) -> None:
            reports.append(await ws.cancel_many(["never seen"]))

        async with trio.open_nursery() as nursery, venue.open() as ws:
            nursery.start_soon(one, ws, written)  # noqa: ASYNC111 - they outlive the session on purpose
            await trio.sleep(1)
            venue.ends[-1]._out.capacity = 0
            nursery.start_soon(one, ws, held)  # noqa: ASYNC111 - see above
            await trio.sleep(0.1)
            nursery.start_soon(many, ws)  # noqa: ASYNC111 - see above
            await trio.sleep(0.1)
        outcome = outcomes[written]
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.cause, SessionClosed)
        assert isinstance(outcomes[held], Unknown | NotSent)
        assert reports[0].counts["not_sent"] == 1
        assert not venue.log.by_order(held)


async def test_after_the_block_everything_says_that_it_is_closed(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        async with venue.open() as ws:
            batch = ws.batch(["a"])
        with pytest.raises(SessionClosed):
            await ws.cancel("a")
        with pytest.raises(trio.ClosedResourceError):
            await ws.try_cancel("a")
        with pytest.raises(SessionClosed):
            await ws.cancel_many(["a"])
        with pytest.raises(SessionClosed):
            await batch.run()
        with pytest.raises(SessionClosed):
            ws.batch(["a"])
        with pytest.raises(SessionClosed):
            ws.open_cancel_stream(["a"])
        with pytest.raises(SessionClosed):
            ws.open_order_scope()
        with pytest.raises(SessionClosed):
            await ws.ping()
        assert ws.statistics().settled == 0
        assert batch.report().counts["not_sent"] == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        KeyboardInterrupt(),
        SystemExit(3),
        ExceptionGroup("mine", [ValueError("x")]),
        ConnectionLost("mine"),
        trio.BrokenResourceError("mine"),
    ],
)
async def test_the_bodys_exception_comes_out_as_the_same_object_in_no_group(
    autojump_clock: MockClock, error: BaseException
) -> None:
    async with open_venue() as venue:
        (order_id,) = venue.orders(1)
        with pytest.raises(type(error)) as caught:
            async with venue.open() as ws:
                await ws.cancel(order_id)
                raise error
        assert caught.value is error
        assert error.__cause__ is None
        assert ws.state is SessionState.CLOSED


async def test_the_bodys_exception_comes_out_even_from_a_failed_session(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        with pytest.raises(ZeroDivisionError):
            async with venue.open() as ws:
                venue.sandbox.fault_on_upgrade(Fault.UPGRADE_401)
                await venue.cut()
                await until_state(ws, SessionState.FAILED)
                _ = 1 / 0


async def test_a_scope_around_the_session_spares_the_bodys_shielded_clean_up(autojump_clock: MockClock) -> None:
    async with open_venue() as venue:
        first, second = venue.orders(2)
        cleaned = False
        with trio.move_on_after(5) as scope:
            async with venue.open() as ws:
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await ws.cancel(first)
                        report = await ws.cancel_many([second])
                        assert report.counts["canceled"] == 1
                        async with ws.open_cancel_stream([first]) as stream:
                            assert [outcome.kind async for outcome in stream] == ["already_closed"]
                        cleaned = True
        assert scope.cancelled_caught
        assert cleaned
        assert len(venue.dials) == 1


async def test_a_scope_around_the_session_does_not_stop_a_reconnection_for_the_clean_up(
    autojump_clock: MockClock,
) -> None:
    async with open_venue() as venue:
        (order_id,) = venue.orders(1)
        with trio.CancelScope() as scope:
            async with venue.open() as ws:
                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await venue.cut()
                        await ws.cancel(order_id)
        assert len(venue.dials) == 2
        assert venue.log.applied(order_id)


async def test_the_callers_cancellation_does_not_interrupt_a_write(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        (order_id,) = venue.orders(1)
        await venue.ends[-1].take(10)
        before = trio.current_time()
        with trio.move_on_after(1) as scope:
            await ws.try_cancel(order_id)
        assert scope.cancelled_caught
        assert trio.current_time() - before == 1  # at once
        await venue.ends[-1].take(None)
        await trio.sleep(1)
        assert venue.log.applied(order_id)  # the write was finished, the reply tracked
        ((outcome,),) = watch.of("settled_late")
        assert isinstance(outcome, Canceled)
        assert len(venue.dials) == 1


async def test_a_withdrawn_request_never_reaches_the_venue(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        (order_id,) = venue.orders(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ws.try_cancel(order_id)
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert not venue.log.by_order(order_id)
        assert ws.statistics().pending == 0


async def test_garbage_collection_finds_nothing_left_open(autojump_clock: MockClock) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with open_venue() as venue:
            async with venue.open() as ws:
                await ws.cancel_many(venue.orders(3))
            with pytest.raises(HandshakeFailed):
                venue.failures = [OSError("no")]
                async with venue.open():
                    pass
        gc.collect()


async def test_a_venue_that_ends_the_session_orderly_is_understood(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        (order_id,) = venue.orders(1)
        venue.sandbox.fault_on(order_id, Fault.CLOSE_BEFORE)
        assert (await ws.try_cancel(order_id)).kind == "canceled"
        ((_, cause),) = watch.of("connection_lost")
        assert str(cause) == "the venue closed the connection (1012, service restart)"


async def test_a_scripted_end_without_a_word_is_understood(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch):
        await venue.cut()
        await trio.sleep(1)
        assert watch.of("connection_lost")
        assert venue.log.connections[-1].closed_at is None


async def test_the_pipe_of_these_tests_is_narrow(autojump_clock: MockClock) -> None:
    ours, theirs = open_pipe(5)
    with trio.move_on_after(1) as scope:
        await ours.send_all(b"123456789")
    assert scope.cancelled_caught
    assert await theirs.receive_some() == b"12345"
    await trio.aclose_forcefully(ours)
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"1")


async def test_a_refused_signature_on_a_skewed_clock_names_its_size(autojump_clock: MockClock) -> None:
    async with open_venue(clock_skew=60_000) as venue, venue.open() as ws:
        (order_id,) = venue.orders(1)
        outcome = await ws.try_cancel(order_id)
        assert isinstance(outcome, Rejected)
        assert outcome.clock is not None
        assert ws.clock == outcome.clock
        assert outcome.clock.low <= 60_000 <= outcome.clock.high
        async with venue.open(clock_offset="auto") as corrected:
            assert (await corrected.cancel(order_id)).id == order_id
        async with venue.open(clock_offset=60.0) as told:
            (order_id,) = venue.orders(1)
            assert (await told.cancel(order_id)).id == order_id


# Retry-After


async def test_a_long_retry_after_is_capped(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with open_venue(faults=Faults(retry_after=3600.0)) as venue, venue.open() as ws:
        venue.sandbox.fault_on_upgrade(Fault.UPGRADE_503, Fault.UPGRADE_429)
        await venue.cut()
        await until_state(ws, SessionState.RECONNECTING)
        with trio.fail_after(200):
            await until_state(ws, SessionState.RECONNECTING)
            while ws.state is not SessionState.CONNECTED:  # noqa: ASYNC110 - nobody rings for a state
                await trio.sleep(1)
        pauses = [later - earlier for earlier, later in itertools.pairwise(venue.dials[1:])]
        assert pauses == pytest.approx([60, 60])
        assert "(it asks us to wait 3600 s)" in caplog.text
        assert "waits 60 s at most" in caplog.text


async def test_a_retry_after_is_overtaken_with_care_while_an_order_waits(autojump_clock: MockClock) -> None:
    async with open_venue(faults=Faults(retry_after=3600.0)) as venue, venue.open() as ws:
        venue.sandbox.fault_on_upgrade(*[Fault.UPGRADE_503] * 3)
        await venue.cut()
        assert isinstance(await ws.try_cancel(*venue.orders(1)), Canceled)
        pauses = [later - earlier for earlier, later in itertools.pairwise(venue.dials[1:])]
        assert pauses == pytest.approx([2, 4, 8])
        # Who comes while it is waited for overtakes it, too.
        venue.sandbox.fault_on_upgrade(Fault.UPGRADE_503)
        await venue.cut()
        await trio.sleep(30)
        before = trio.current_time()
        assert not (await ws.cancel_many(venue.orders(3))).left
        assert trio.current_time() == before


async def test_what_the_venue_asked_is_told_as_the_cause(autojump_clock: MockClock) -> None:
    async with open_venue(faults=Faults(retry_after=3600.0)) as venue, venue.open(give_up_after=5) as ws:
        venue.sandbox.fault_on_upgrade(*[Fault.UPGRADE_503] * 5)
        await venue.cut()
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, NotSent)
        assert "status 503 (it asks us to wait 3600 s)" in str(outcome.cause)
        assert outcome.cause is not None
        assert isinstance(outcome.cause.__cause__, HandshakeFailed)
        assert outcome.cause.__cause__.retry_after == 3600
