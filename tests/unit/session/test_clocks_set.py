"""Clocks that do not go as trio's does: the machine is suspended, ours is set, the venue's is set."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.venues import Venue, open_venue
from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    Credentials,
    NotSent,
    OrdersLeft,
    Rejected,
    TradingWS,
    Unknown,
)
from trio_cancel import _client as _client_module
from trio_cancel._trio import environment
from trio_cancel._trio.environment import Environment
from trio_cancel.sandbox import Fault

EPOCH = 1_700_000_000.0


class Clocks:
    """Every clock but trio's.

    Attributes:
        slept: seconds for which the machine has been suspended.
        ours: seconds by which our wall clock is ahead of the true time.
        venue: the same of the venue's.
    """

    def __init__(self) -> None:
        self.slept = self.ours = self.venue = 0.0

    def true(self) -> float:
        return EPOCH + trio.current_time() + self.slept

    def wall(self) -> float:
        return self.true() + self.ours

    def milliseconds(self) -> int:
        return int((self.true() + self.venue) * 1000)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocks]:
    clocks = Clocks()
    made = partial(
        Environment,
        wall=clocks.wall,
        steady=lambda: trio.current_time() + clocks.slept,
        suspended=lambda: clocks.slept,
    )
    monkeypatch.setattr(_client_module, "Environment", made)
    return clocks  # type: ignore[return-value]  # a fixture may


@asynccontextmanager
async def session(clocks: Clocks, **keywords: Any) -> AsyncGenerator[tuple[Venue, TradingWS]]:
    async with open_venue(clock=clocks.milliseconds) as venue, venue.open(**keywords) as ws:
        yield venue, ws


# A suspended machine


@pytest.mark.parametrize("way", ["single", "bulk", "stream"])
async def test_what_waits_for_a_connection_over_a_nights_sleep_is_not_sent(
    autojump_clock: MockClock, clocks: Clocks, way: str
) -> None:
    outcomes: list[Any] = []

    async def cancel() -> None:
        if way == "single":
            outcomes.append(await ws.try_cancel(external_id="mine"))
        elif way == "bulk":
            requests: list[str | CancelRequest] = [
                CancelRequest(external_id="mine"),
                *(f"o-{number}" for number in range(99)),
            ]
            outcomes.extend((await ws.cancel_many(requests)).outcomes)
        else:
            async with ws.open_cancel_stream([CancelRequest(external_id="mine")]) as stream:
                outcomes.extend([outcome async for outcome in stream])

    async with session(clocks) as (venue, ws):
        venue.failures = [OSError("down")] * 5
        await venue.cut()
        await trio.sleep(0.05)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.sleep(0.5)
            clocks.slept += 8 * 3600
            venue.book.create(external_id="mine")  # the next day's order of that name
        assert {type(outcome) for outcome in outcomes} == {NotSent}
        assert all("suspended for 28800 s" in str(outcome.cause) for outcome in outcomes)
        await trio.sleep(100)
        assert len(venue.log) == 0
        assert isinstance(await ws.try_cancel(external_id="mine"), Canceled)  # what is asked now is sent


async def test_what_was_written_before_a_nights_sleep_is_not_tried_again(
    autojump_clock: MockClock, clocks: Clocks
) -> None:
    async with session(clocks) as (venue, ws):
        order = venue.book.create(external_id="mine")
        venue.sandbox.fault_on(order.id, Fault.SILENT_BEFORE)
        outcomes = []

        async def cancel() -> None:
            outcomes.append(await ws.try_cancel(external_id="mine"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.sleep(11)
            clocks.slept += 8 * 3600
        (outcome,) = outcomes
        assert isinstance(outcome, Unknown)
        assert "suspended" in str(outcome.cause)
        assert len(outcome.attempts) == 1
        await trio.sleep(100)
        assert len(venue.log) == 1


async def test_a_bulk_that_is_under_way_ends_after_a_nights_sleep(autojump_clock: MockClock, clocks: Clocks) -> None:
    async with open_venue(clock=clocks.milliseconds, delay=1.0) as venue, venue.open() as ws:
        order_ids = venue.orders(200)
        batch = ws.batch(order_ids)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(1.5)
            written = len(venue.log)
            clocks.slept += 8 * 3600
        report = batch.report()
        assert report.final
        assert len(venue.log) == written
        assert report.counts["canceled"] + report.counts["not_sent"] + report.counts["unknown"] == 200
        assert report.counts["not_sent"] == 200 - written


async def test_a_short_sleep_is_time_that_was_spent(autojump_clock: MockClock, clocks: Clocks) -> None:
    async with session(clocks, give_up_after=30) as (venue, ws):
        (order_id,) = venue.orders(1)
        venue.failures = [OSError("down")] * 100
        await venue.cut()
        outcomes = []

        async def cancel() -> None:
            outcomes.append(await ws.try_cancel(order_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.sleep(1)
            clocks.slept += 10
            await trio.sleep(1)
            before = trio.current_time()
        assert isinstance(outcomes[0], NotSent)
        assert trio.current_time() - before <= 28.1
        venue.failures = []
        assert isinstance(await ws.try_cancel(order_id), Canceled)


async def test_the_end_of_a_scope_asks_no_more_after_a_nights_sleep(autojump_clock: MockClock, clocks: Clocks) -> None:
    async with session(clocks) as (venue, ws):
        left: list[OrdersLeft] = []

        async def leave() -> None:
            try:
                async with ws.open_order_scope(grace=30, settle=25) as orders:
                    await orders.add(external_id="mine")  # not found, and asked again
            except OrdersLeft as error:
                left.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await trio.sleep(3)
            asked = len(venue.log)
            clocks.slept += 8 * 3600
            venue.book.create(external_id="mine")
            before = trio.current_time()
        assert trio.current_time() - before < 2
        assert len(venue.log) == asked
        assert [outcome.kind for outcome in left[0].report.outcomes] == ["not_found"]


async def test_a_journals_intents_that_slept_are_not_written(
    autojump_clock: MockClock, clocks: Clocks, tmp_path: Path
) -> None:
    """They were admitted before, and wait for the disk."""
    async with open_venue(clock=clocks.milliseconds) as venue, venue.open(observer=None) as ws:
        (order_id,) = venue.orders(1)
        engine = ws._session.engine
        outcomes = []

        async def cancel() -> None:
            outcomes.append(await ws.try_cancel(order_id))

        write_now = ws._session.write_now
        ws._session.write_now = lambda: None  # type: ignore[method-assign]  # it is for the test to write
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.testing.wait_all_tasks_blocked()
            admitted, _ = engine.take(trio.current_time())
            clocks.slept += 3600
            assert engine.sign(admitted, 1, trio.current_time(), clocks.wall()) == ([], [])
        ws._session.write_now = write_now  # type: ignore[method-assign]  # as it was
        assert isinstance(outcomes[0], NotSent)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="there is no clock that counts a suspended machine")
def test_the_systems_clock_that_counts_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.suspended()
    assert abs(environment.suspended() - before) < 0.01
    real = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda which: real(which) + 60)
    assert environment.suspended() - before == pytest.approx(60, abs=0.1)


def test_without_such_a_clock_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_GOES_ON", None)
    assert environment.suspended() == 0


# Our clock is set


async def test_a_clock_that_is_set_right_is_believed_at_once(autojump_clock: MockClock, clocks: Clocks) -> None:
    """NTP after boot."""
    clocks.ours = -3600
    async with session(clocks, clock_offset="auto") as (venue, ws):
        one, two, three = venue.orders(3)
        assert isinstance(await ws.try_cancel(one), Canceled)
        clocks.ours = 0
        outcome = await ws.try_cancel(two)
        assert isinstance(outcome, Canceled)
        assert len(outcome.attempts) == 1
        await trio.sleep(1)
        assert ws.clock is not None  # it has been looked at again
        assert not ws.clock.excludes_zero
        assert len((await ws.try_cancel(three)).attempts) == 1
        assert ws.statistics().connections == 1


@pytest.mark.parametrize("way", ["single", "bulk", "stream", "scope"])
async def test_a_clock_that_is_set_wrong_is_noticed_and_corrected(
    autojump_clock: MockClock, clocks: Clocks, way: str
) -> None:
    async with session(clocks, clock_offset="auto") as (venue, ws):
        order_ids = venue.orders(3)
        clocks.ours = 3600
        if way == "single":
            assert isinstance(await ws.try_cancel(order_ids[0]), Canceled)
        elif way == "bulk":
            assert not (await ws.cancel_many(order_ids)).left
        elif way == "stream":
            async with ws.open_cancel_stream(order_ids) as outcomes:
                assert [type(outcome) async for outcome in outcomes] == [Canceled] * 3
        else:
            async with ws.open_order_scope() as orders:
                await orders.add(order_ids[0])
        assert ws.statistics().connections == 1


async def test_nothing_stale_is_told_once_our_clock_was_set(autojump_clock: MockClock, clocks: Clocks) -> None:
    clocks.ours = -3600
    async with session(clocks) as (venue, ws):
        known = ws.clock
        assert known is not None
        assert known.excludes_zero
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, Rejected)
        assert outcome.clock is not None
        clocks.ours = 0
        assert ws.clock is None
        assert isinstance(await ws.try_cancel(*venue.orders(1)), Canceled)
        clocks.ours = 7200
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, Rejected)
        assert outcome.clock is not None
        assert outcome.clock.high < -7_000_000


async def test_a_clock_that_is_slewed_is_not_taken_for_set(autojump_clock: MockClock, clocks: Clocks) -> None:
    async with session(clocks) as (_, ws):
        clocks.ours = 0.05
        assert ws.clock is not None


# The venue's clock is set


@pytest.mark.parametrize("venue_ahead", [3600.0, -3600.0, 7.0])
async def test_a_refusal_that_contradicts_what_is_believed_is_looked_into(
    autojump_clock: MockClock, clocks: Clocks, venue_ahead: float
) -> None:
    async with session(clocks, clock_offset="auto") as (venue, ws):
        clocks.venue = venue_ahead
        outcomes = (await ws.cancel_many(venue.orders(30))).outcomes
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert max(len(outcome.attempts) for outcome in outcomes) == 2
        assert len(venue.dials) == 2  # one look for all
        assert ws.statistics().connections == 1


async def test_without_correction_the_refusal_names_the_offset_of_now(
    autojump_clock: MockClock, clocks: Clocks
) -> None:
    async with session(clocks) as (venue, ws):
        await trio.sleep(60)
        clocks.venue = 3600
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, Rejected)
        assert outcome.clock is not None
        assert outcome.clock.low <= 3_600_000 <= outcome.clock.high


@pytest.mark.parametrize("offset", ["auto", 0.0])
async def test_a_wrong_secret_is_no_reason_for_many_looks(
    autojump_clock: MockClock, clocks: Clocks, offset: Any
) -> None:
    async with open_venue(clock=clocks.milliseconds, credentials=Credentials("t", "right")) as venue:
        from trio_cancel import open_trading_ws

        async with open_trading_ws(
            "ws://localhost", credentials=Credentials("t", "wrong"), dial=venue.dial, clock_offset=offset
        ) as ws:
            report = await ws.cancel_many(venue.orders(200))
            assert report.counts["rejected"] == 200
            assert max(len(outcome.attempts) for outcome in report.outcomes) <= 2
            assert len(venue.dials) == (2 if offset == "auto" else 1)
            assert isinstance(await ws.try_cancel("o"), Rejected)
            assert len(venue.dials) <= 2


async def test_a_look_that_fails_leaves_the_refusal_standing(autojump_clock: MockClock, clocks: Clocks) -> None:
    async with session(clocks, clock_offset="auto") as (venue, ws):
        clocks.venue = 3600
        venue.failures = [OSError("down")]
        before = trio.current_time()
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, Rejected)
        assert trio.current_time() - before < 1


async def test_without_retry_there_is_one_attempt(autojump_clock: MockClock, clocks: Clocks) -> None:
    async with session(clocks, clock_offset="auto", retry=False) as (venue, ws):
        clocks.venue = 3600
        outcome = await ws.try_cancel(*venue.orders(1))
        assert isinstance(outcome, Rejected)
        assert len(outcome.attempts) == 1


async def test_an_order_that_waits_for_a_look_is_given_up_in_time(autojump_clock: MockClock, clocks: Clocks) -> None:
    async with session(clocks, clock_offset="auto", give_up_after=3) as (venue, ws):
        clocks.venue = 3600
        dial = venue.dial
        order_ids = venue.orders(2)

        async def hang(*_: object) -> Any:
            await trio.sleep_forever()

        ws._session._options = _evolve(ws._session._options, hang)
        before = trio.current_time()
        outcome = await ws.try_cancel(order_ids[0])
        assert isinstance(outcome, Rejected)
        assert trio.current_time() - before == pytest.approx(3, abs=0.1)
        ws._session._options = _evolve(ws._session._options, dial)
        await trio.sleep(60)
        assert not isinstance(await ws.try_cancel(order_ids[1]), AlreadyClosed)


def _evolve(options: Any, dial: Any) -> Any:
    import attrs

    return attrs.evolve(options, dial=dial)
