"""A session with a journal: nothing is sent before its intent is durable, and a journal that fails stops nothing."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.tools.journals import Executor, MemoryStore
from tests.tools.venues import Venue, open_venue
from trio_cancel import (
    CancelRequest,
    ConfigurationError,
    Credentials,
    JournalError,
    OrdersLeft,
    Pacer,
    TradingWS,
)
from trio_cancel import _client as client
from trio_cancel._journal import opening as _journal_open
from trio_cancel._journal.opening import _Custody, open_journal
from trio_cancel._journal.sqlite import SQLiteStore
from trio_cancel._session.write_ahead import WriteAhead
from trio_cancel.journal import read_journal
from trio_cancel.sandbox import Fault, RequestRecord


class Injected:
    """Makes the sessions of a test use this store and executor for their journals."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = MemoryStore()
        self.executor = Executor()
        opened = partial(open_journal, run_sync=self.executor, open_store=self.store.open)
        monkeypatch.setattr(_journal_open, "open_journal", opened)

    def lacks(self, venue: Venue) -> list[str]:
        """Make the venue note what it receives while its intent is not durable."""
        missing: list[str] = []

        def look(record: RequestRecord) -> None:
            key = next(iter(record.params.values()))
            if key not in self.store.intended:
                missing.append(key)

        venue.sandbox.script(look)
        return missing


@pytest.fixture
def injected(monkeypatch: pytest.MonkeyPatch) -> Injected:
    return Injected(monkeypatch)


@asynccontextmanager
async def session(**keywords: Any) -> AsyncGenerator[tuple[Venue, TradingWS]]:
    async with open_venue() as venue, venue.open(journal="in memory", **keywords) as ws:
        yield venue, ws


@pytest.mark.parametrize("seconds", [0.0, 0.05, 1.0])
async def test_nothing_is_sent_before_its_intent_is_durable(
    seconds: float, injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session() as (venue, ws):
        injected.executor.seconds = seconds
        missing = injected.lacks(venue)
        report = await ws.cancel_many(venue.orders(600))
        await ws.cancel(*venue.orders(1))
        assert report.counts["canceled"] == 600
        assert not report.journal_failed
    assert missing == []
    assert len(injected.store.intended) == 601


async def test_the_proof_sees_a_write_before_the_commit(
    injected: Injected, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write_first(intake: WriteAhead) -> None:
        while True:
            admitted, _ = intake._engine.take(trio.current_time())
            if admitted:
                intake._bulk.extend(admitted)
                intake._to_write.ring()
                await intake._journal.intend(admitted)
            else:
                await intake._engine.wakeup.wait()

    monkeypatch.setattr(WriteAhead, "run", write_first)
    async with session() as (venue, ws):
        injected.executor.seconds = 0.1
        missing = injected.lacks(venue)
        await ws.cancel_many(venue.orders(10))
    assert len(missing) == 10


async def test_the_disk_is_waited_for_while_the_venue_is(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_venue(delay=0.1) as venue, venue.open(journal="in memory") as ws:
        await ws.cancel_many(venue.orders(256))  # lets the window grow
        injected.executor.seconds = 0.1
        started = trio.current_time()
        await ws.cancel_many(venue.orders(256 * 20))
        # One after the other, a window of 256 would take 0.2 s each.
        assert trio.current_time() - started < 20 * 0.2 + 0.5
        groups = [len(changes.intents) for changes in injected.store.commits if changes.intents]
        assert len(groups) < 60


async def test_attempts_and_outcomes_follow(injected: Injected, autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (venue, ws):
        good, gone, shaky = venue.orders(3)
        venue.book.cancel(gone)
        venue.sandbox.fault_on(shaky, Fault.ERROR_503_BEFORE)
        await ws.cancel_many([good, gone, shaky, CancelRequest(external_id="nowhere")])
        await trio.sleep(1)
        first, second, third, fourth = injected.store.contents().orders
        assert [order.cancels[0].kind for order in (first, second, third, fourth)] == [
            "canceled",
            "already_closed",
            "canceled",
            "not_found",
        ]
        assert second.cancels[0].error_code == 40408
        assert [attempt.status for attempt in third.cancels[0].attempts] == [503, 200]
        log = {record.request_id: record for record in venue.log}
        for order in (first, second, third, fourth):
            for attempt in order.cancels[0].attempts:
                assert log[attempt.request_id.replace("id-", ws._session.engine._id_prefix + "-")].status


async def test_an_attempt_without_an_answer_is_recorded_before_it_settles(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session() as (venue, ws):
        (order,) = venue.orders(1)
        venue.sandbox.fault_on(order, Fault.SILENT_AFTER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.try_cancel, order)
            await trio.sleep(1)
            (cancel,) = injected.store.contents().orders[0].cancels
            assert cancel.kind is None
            assert [attempt.answered_at for attempt in cancel.attempts] == [None]
        await trio.sleep(1)
        (cancel,) = injected.store.contents().orders[0].cancels
        assert cancel.kind == "already_closed"
        assert len(cancel.attempts) == 2


async def test_a_connection_that_ends_during_a_commit_costs_nothing(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session() as (venue, ws):
        missing = injected.lacks(venue)
        injected.executor.seconds = 1.0
        orders = venue.orders(20)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel() -> None:
                report = await ws.cancel_many(orders)
                assert report.counts["canceled"] == 20

            await trio.sleep(0.5)
            await venue.cut()
        assert len(venue.dials) == 2
    assert missing == []
    assert len(injected.store.changes.intents) == 20


async def test_what_is_withdrawn_during_a_commit_is_not_sent(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session() as (venue, ws):
        injected.executor.seconds = 1.0
        with trio.move_on_after(0.5):
            await ws.cancel(*venue.orders(1))
        await trio.sleep(5)
        assert len(venue.log) == 0
    (order,) = injected.store.contents().orders
    assert order.cancels[0].kind == "not_sent"


# A journal that fails


def _limit(store: SQLiteStore) -> None:
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")


def _make_read_only(store: SQLiteStore) -> None:
    store._database.execute("PRAGMA query_only = 1")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_limit, "database or disk is full"), (_make_read_only, "readonly")],
    ids=["full", "read-only"],
)
async def test_a_disk_that_is_full_or_read_only_stops_no_cancel(
    spoil: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "the.journal"
    async with open_venue() as venue, venue.open(journal=path) as ws:
        await ws.cancel_many(venue.orders(3))
        journal = ws._session.journal
        assert journal is not None
        custody = journal._store
        assert isinstance(custody, _Custody)
        spoil(custody._store)
        report = await ws.cancel_many(venue.orders(500))
        assert report.counts["canceled"] == 500
        assert report.journal_failed
        assert ws.journal_failed
        async with ws.open_order_scope() as orders:
            with pytest.raises(JournalError, match=reason):
                await orders.add("new")
            assert "new" not in orders
        assert orders.report is not None
        assert orders.report.journal_failed
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(reason in error for error in errors)
    assert 3 <= len(read_journal(path).orders) < 503


async def test_a_commit_that_fails_now_and_then_is_made_up_for(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session() as (venue, ws):
        for _ in range(3):
            injected.store.failure = sqlite3.OperationalError("disk I/O error")
            report = await ws.cancel_many(venue.orders(10))
            assert report.counts["canceled"] == 10
            assert report.journal_failed
            injected.store.failure = None
            await trio.sleep(3)
            assert not ws.batch([]).report().journal_failed
        assert len(injected.store.intended) == 30
        assert injected.store.contents().left == ()


# Scopes


async def test_a_scopes_orders_are_held_until_they_are_off_the_book(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    def left() -> set[str]:
        return {order.request.key for order in injected.store.contents().left}

    async with session() as (venue, ws):
        one, two, three, four = venue.orders(4)
        async with ws.open_order_scope() as orders:
            for order in (one, two, three, four):
                await orders.add(order)
            assert left() == {one, two, three, four}
            orders.discard(two)
            await trio.sleep(1)
            assert left() == {one, three, four}
            await ws.cancel(three)
            await trio.sleep(1)
            assert left() == {one, four}
        await trio.sleep(1)
        assert left() == set()


async def test_what_a_scope_leaves_stays_held(injected: Injected, autojump_clock: trio.testing.MockClock) -> None:
    async with session() as (venue, ws):
        with pytest.raises(OrdersLeft, match="may still be on the book"):
            async with ws.open_order_scope(settle=1) as orders:
                await orders.add(external_id="never placed")
                await orders.add(*venue.orders(1))
    (order,) = injected.store.contents().left
    assert order.request.external_id == "never placed"


# On entering


async def test_a_journal_of_another_account_is_refused_before_anything_is_contacted(tmp_path: Path) -> None:
    path = tmp_path / "the.journal"
    async with open_venue() as venue:
        async with venue.open(journal=path) as ws:
            await ws.cancel_many(venue.orders(3))
        before, dials = path.read_bytes(), len(venue.dials)
        other = client.open_trading_ws(
            "ws://localhost", credentials=Credentials("other", "other"), dial=venue.dial, journal=path
        )
        with pytest.raises(JournalError, match="another account"):
            async with other:
                raise AssertionError
        assert (path.read_bytes(), len(venue.dials)) == (before, dials)


async def test_two_sessions_do_not_share_a_journal(tmp_path: Path) -> None:
    async with open_venue() as venue, venue.open(journal=tmp_path / "a"):
        with pytest.raises(JournalError, match="being written by another session"):
            async with venue.open(journal=tmp_path / "a"):
                raise AssertionError
        async with venue.open(journal=tmp_path / "b"):
            pass


def test_a_journal_is_a_path() -> None:
    with pytest.raises(
        ConfigurationError, match="journal must be the path of a file or the url of a database, not int"
    ):
        client.open_trading_ws("ws://localhost", credentials=Credentials("a", "b"), journal=3)  # type: ignore[arg-type]  # see above


async def test_a_pace_is_kept_at_the_write_however_long_the_disk_takes(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    """Where each intent takes another time, the requests go out a turn apart all the same."""
    async with session(pacer=Pacer(10)) as (venue, ws):
        times: list[float] = []
        venue.sandbox.script(lambda record: times.append(trio.current_time()))

        async def disk() -> None:
            while True:
                for seconds in (0.0, 0.08, 0.15, 0.01):
                    injected.executor.seconds = seconds
                    await trio.sleep(0.07)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk)
            report = await ws.cancel_many(venue.orders(60))
            nursery.cancel_scope.cancel()
        assert report.counts["canceled"] == 60
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) > 0.0999
        assert times[-1] - times[0] < 60 * 0.1 + 1  # and the disk costs no turns


async def test_a_single_cancel_overtakes_what_is_durable_and_waits_for_its_turn(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session(pacer=Pacer(2)) as (venue, ws), trio.open_nursery() as nursery:
        ids = venue.orders(20)
        nursery.start_soon(ws.cancel_many, ids)
        await trio.sleep(1.2)
        (priority,) = venue.orders(1)
        began = trio.current_time()
        await ws.cancel(priority)
        assert trio.current_time() - began <= 1.0


async def test_a_venue_that_upgrades_and_closes_at_once_ends_every_cancel(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session() as (venue, ws), trio.open_nursery() as nursery:
        injected.executor.seconds = 0.05  # slower than the connections live
        (alone, *ids) = venue.orders(101)
        venue.sandbox.script(lambda record: Fault.SILENT_BEFORE)

        async def flap() -> None:
            ended = 0
            while True:
                await trio.sleep(0.02)
                while ended < len(venue.ends):
                    await venue.ends[ended].aclose()
                    ended += 1

        async def single() -> None:
            outcome = await ws.try_cancel(alone)
            # Which of the two it is depends on whether an intent was durable while a connection lived.
            written = any(attempt.written_at is not None for attempt in outcome.attempts)
            assert outcome.kind == ("unknown" if written else "not_sent")
            assert trio.current_time() < 35

        nursery.start_soon(flap)
        await trio.sleep(0.1)
        nursery.start_soon(single)
        async with ws.open_cancel_stream(ids[:50]) as stream:
            outcomes = [outcome async for outcome in stream]
        assert trio.current_time() < 35
        report = await ws.cancel_many(ids[50:])
        assert trio.current_time() < 70
        assert len(outcomes) == len(report.outcomes) == 50
        assert not any(outcome.off_book for outcome in (*outcomes, *report.outcomes))
        nursery.cancel_scope.cancel()


async def test_a_silent_venue_gets_every_order_once_after_its_intent(
    injected: Injected, autojump_clock: trio.testing.MockClock
) -> None:
    async with session() as (venue, ws):
        injected.executor.seconds = 0.02
        ids = venue.orders(1000)
        seen: list[str] = []

        def look(record: RequestRecord) -> Fault:
            key = next(iter(record.params.values()))
            assert key in injected.store.intended
            seen.append(key)
            return Fault.SILENT_BEFORE

        venue.sandbox.script(look)
        report = await ws.cancel_many(ids)
        assert trio.current_time() < 35
        assert set(seen) == set(ids)
        assert report.counts["unknown"] == 1000
