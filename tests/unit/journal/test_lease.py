"""A session's claim to its journal: what it may believe and when, and what it does by it. No database is needed."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.tools.journals import ACCOUNT, Executor, MemoryStore
from trio_cancel import CancelRequest, JournalError, TakenOver
from trio_cancel._engine.order import OrderCancel, RetryPolicy
from trio_cancel._journal.journal import INTENT_WITHIN, PATIENCE, Journal
from trio_cancel._journal.lease import BEATS, GUARD_SILENT, SURE_FOR, Guards, Lease, commit_within, steady
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.rows import Begun
from trio_cancel._journal.store import StoreFailed
from trio_cancel.types import LeaseState

SURE, UNCERTAIN, TAKEN_OVER = LeaseState
REQUEST = CancelRequest(external_id="mm-1")
OTHER = CancelRequest(external_id="mm-2")


# By itself


def test_it_is_sure_from_before_a_beat_was_sent() -> None:
    lease = Lease(10.0, 100.0)
    assert lease.state(100.0) is SURE
    assert lease.state(108.9) is SURE
    assert lease.state(109.0) is UNCERTAIN
    lease.sending(103.0)
    assert lease.state(109.0) is UNCERTAIN, "sent is not confirmed"
    lease.confirmed(103.0)
    assert (lease.state(111.9), lease.state(112.0)) == (SURE, UNCERTAIN)
    lease.confirmed(101.0)
    assert lease.state(111.9) is SURE, "an older beat takes nothing back"


def test_what_is_taken_over_stays_so() -> None:
    lease = Lease(10.0, 100.0)
    lease.lost()
    lease.confirmed(200.0)
    assert lease.state(200.0) is TAKEN_OVER


def test_beats_are_due_by_when_they_were_tried() -> None:
    lease = Lease(3.0, 100.0)
    assert lease.beat_at == 101.0
    lease.sending(100.5)
    assert lease.beat_at == 101.5
    assert BEATS * (lease.beat_at - 100.5) == lease.seconds


@pytest.mark.parametrize("seconds", [1.0, 3.0, 20.0])
def test_a_beat_that_hangs_is_given_up_before_the_lease_is_over(seconds: float) -> None:
    assert commit_within(seconds) < SURE_FOR * seconds


_EVENTS = st.lists(
    st.tuples(st.sampled_from(["sending", "confirmed", "lost", "time"]), st.floats(0, 5, allow_nan=False)), max_size=30
)


@given(_EVENTS)
def test_whatever_comes_nothing_leads_out_of_taken_over(events: list[tuple[str, float]]) -> None:
    lease, now, sent = Lease(3.0, 0.0), 0.0, 0.0
    before = lease.state(now)
    for what, seconds in events:
        if what == "time":
            now += seconds
        elif what == "sending":
            sent = now
            lease.sending(now)
        elif what == "confirmed":
            lease.confirmed(sent)
        else:
            lease.lost()
        after = lease.state(now)
        assert before is not TAKEN_OVER or after is TAKEN_OVER
        before = after


@given(_EVENTS, st.floats(0, 1))
def test_nobody_may_take_it_while_it_is_sure(events: list[tuple[str, float]], on_the_way: float) -> None:
    """A guard sees a beat after it was sent, however long it was on its way, and waits for a whole lease from then."""
    lease, now = Lease(3.0, 0.0), 0.0
    seen_at = on_the_way  # when the guard first saw the latest beat
    for what, seconds in events:
        if what == "time":
            now += seconds
        elif what == "confirmed":
            sent = now
            now += on_the_way
            seen_at = now  # not before it was sent; here as early as that can be
            lease.confirmed(sent)
        if now >= seen_at + lease.seconds:
            assert lease.state(now) is not SURE


def test_a_guard_is_known_by_its_beats() -> None:
    guards = Guards()
    assert not guards.watch(0)
    guards.saw(7, 1)
    assert not guards.watch(1), "it may have died long ago"
    guards.saw(7, 2)
    assert not guards.watch(2)
    guards.saw(8, 3)
    assert guards.watch(3)
    guards.saw(8, 4)
    assert guards.watch(3 + GUARD_SILENT - 0.1)
    assert not guards.watch(3 + GUARD_SILENT)
    guards.saw(9, 10)
    guards.saw(None, 11)
    assert not guards.watch(11)


@pytest.mark.parametrize(("lease", "seconds"), [(1.0, 2 / 3), (2.4, 1.6), (20.0, 2.0)])
def test_a_beat_has_two_thirds_of_a_lease_and_at_most_two_seconds(lease: float, seconds: float) -> None:
    assert commit_within(lease) == pytest.approx(seconds)


def test_the_clock_of_leases_never_goes_back() -> None:
    readings = [steady() for _ in range(1000)]
    assert all(before <= after for before, after in itertools.pairwise(readings))


# In a journal


class Shared(MemoryStore):
    """Stands for a database: a store that can hang, fail, or be taken over."""

    def __init__(self, lease: float | None = 3.0) -> None:
        super().__init__(Begun(session=1, number=1, attempt=0, lease=lease, claimed_at=trio.current_time()))


@asynccontextmanager
async def a_journal(store: MemoryStore, executor: Executor | None = None) -> AsyncGenerator[Journal]:
    async with open_journal(
        "in memory",
        ACCOUNT,
        "id",
        trio.current_time,
        run_sync=executor or Executor(),
        open_store=store.open,
        clock=trio.current_time,
    ) as journal:
        yield journal


def cancel(request: CancelRequest = REQUEST) -> OrderCancel:
    send, _ = trio.open_memory_channel[OrderCancel](1)
    return OrderCancel(request, RetryPolicy(), send)


async def refused(journal: Journal) -> tuple[type[JournalError], str, float]:
    """How the next hold is refused, and after how many seconds."""
    began = trio.current_time()
    with pytest.raises(JournalError) as caught:
        await journal.hold(REQUEST)
    return type(caught.value), str(caught.value), trio.current_time() - began


async def test_an_idle_session_says_that_it_lives(autojump_clock: MockClock) -> None:
    store = Shared()
    async with a_journal(store) as journal:
        await trio.sleep(30.5)
        assert len(store.commits) == 30
        assert not any(store.commits)
        assert journal.lease is SURE


async def test_a_session_without_a_lease_says_so_rarely(autojump_clock: MockClock) -> None:
    store = Shared(lease=None)
    async with a_journal(store) as journal:
        await trio.sleep(299)
        assert store.commits == []
        await trio.sleep(2)
        assert [changes.alive is not None for changes in store.commits] == [True]
        assert (journal.lease, journal.has_lease, journal.taken_over) == (None, False, None)


async def test_the_age_of_names_is_noted_with_a_lease_too(autojump_clock: MockClock) -> None:
    store = Shared()
    async with a_journal(store):
        await trio.sleep(302)
        assert [changes.alive for changes in store.commits if changes.alive is not None] != []
        assert len([changes for changes in store.commits if changes.alive is not None]) == 1


async def test_what_is_recorded_is_a_beat(autojump_clock: MockClock) -> None:
    store = Shared()
    async with a_journal(store) as journal:
        for _ in range(20):
            await journal.hold(REQUEST)
            await trio.sleep(0.5)
        assert all(store.commits)


async def test_while_the_database_is_away_it_becomes_uncertain_and_comes_back(autojump_clock: MockClock) -> None:
    store = Shared()
    async with a_journal(store) as journal:
        await trio.sleep(1.5)
        store.failure = StoreFailed("no connection")
        await trio.sleep(1)
        assert journal.lease is SURE
        await trio.sleep(2)
        assert journal.lease is UNCERTAIN
        kind, text, seconds = await refused(journal)
        assert (kind, seconds) == (JournalError, 0)
        assert "no connection" in text
        began = trio.current_time()
        order = cancel()
        await journal.intend([order])
        assert trio.current_time() == began, "a cancel does not wait"
        assert order.unrecorded
        store.failure = None
        await trio.sleep(0.6)
        assert journal.lease is SURE
        assert not journal.failed
        assert store.intended == {"mm-1"}, "it is recorded after all"
        await journal.hold(OTHER)


async def test_a_hold_that_comes_through_too_late_is_refused(autojump_clock: MockClock) -> None:
    """It counts from before it was sent: when it was confirmed, somebody may have taken the journal over."""
    store, executor = Shared(), Executor()
    async with a_journal(store, executor) as journal:
        executor.seconds = 2.8
        kind, text, seconds = await refused(journal)
        assert (kind, seconds <= PATIENCE) == (JournalError, True)
        assert "may be another session's by now" in text
        executor.seconds = 0
        await trio.sleep(5)
        assert not store.contents().left, "what was refused is not held"
        await journal.hold(REQUEST)


async def test_an_intent_waits_for_a_database_so_long_at_most(autojump_clock: MockClock) -> None:
    store, executor = Shared(lease=20.0), Executor()
    async with a_journal(store, executor) as journal:
        await journal.hold(OTHER)
        executor.seconds = 15.0
        began = trio.current_time()
        order = cancel()
        await journal.intend([order])
        assert trio.current_time() - began == pytest.approx(INTENT_WITHIN)
        assert order.unrecorded
        assert journal.failed
        assert isinstance(journal.failure, TimeoutError)
        assert "database" in str(journal.failure)
        again = cancel(OTHER)
        await journal.intend([again])
        assert trio.current_time() - began == pytest.approx(INTENT_WITHIN), "the next one does not wait at all"


async def test_an_intent_that_is_recorded_in_time_says_so(autojump_clock: MockClock) -> None:
    async with a_journal(Shared()) as journal:
        order = cancel()
        await journal.intend([order])
        assert order.intent
        assert not order.unrecorded


async def test_taken_over_is_final(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    store = Shared()
    async with a_journal(store) as journal:
        await journal.hold(OTHER)
        store.failure = TakenOver("it was taken over")
        await trio.sleep(1.5)
        assert journal.over.is_set()
        assert journal.lease is TAKEN_OVER
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["it was taken over"]
        store.failure = None
        commits = len(store.commits)
        kind, text, seconds = await refused(journal)
        assert (kind, text, seconds) == (TakenOver, "it was taken over", 0)
        order = cancel()
        await journal.intend([order])
        assert order.unrecorded
        journal.release(OTHER, at_once=True)
        with pytest.raises(TakenOver):
            await journal.flush()
        await trio.sleep(1000)
        assert len(store.commits) == commits, "nothing of it is recorded any more"
        assert len(journal._changes) <= 1, "nor kept"
    assert store.closed


async def test_a_hold_that_waits_learns_that_it_is_taken_over(autojump_clock: MockClock) -> None:
    store, executor = Shared(), Executor(0.5)
    store.failure = TakenOver("it was taken over")
    async with a_journal(store, executor) as journal:
        kind, _, seconds = await refused(journal)
        assert (kind, seconds) == (TakenOver, 0.5)
        assert journal.taken_over is not None
        assert journal.taken_over is not journal.taken_over, "each raises its own"


async def test_a_block_that_stood_still_is_uncertain_at_once(autojump_clock: MockClock) -> None:
    """A process that was stopped for longer than its lease holds nothing before the database has said that it may."""
    store, executor = Shared(), Executor()
    moved = 0.0
    async with open_journal(
        "in memory",
        ACCOUNT,
        "id",
        trio.current_time,
        run_sync=executor,
        open_store=store.open,
        clock=lambda: trio.current_time() + moved,
    ) as journal:
        await journal.hold(OTHER)
        moved = 10.0
        assert journal.lease is UNCERTAIN
        assert (await refused(journal))[0] is JournalError
        await trio.sleep(1)
        assert journal.lease is SURE
        await journal.hold(REQUEST)
