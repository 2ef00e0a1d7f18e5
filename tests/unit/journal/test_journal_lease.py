"""The journal's task where others can take the journal over: beats, holds, intents and the end of the claim."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import bare
from tests.tools.journals import ACCOUNT, Executor, MemoryStore
from trio_cancel import CancelRequest, JournalError, TakenOver
from trio_cancel._journal.journal import IN_LOOP_MOST, INTENT_WITHIN, LAZY, RETRY, SIGN_OF_LIFE, Journal
from trio_cancel._journal.lease import BEATS, GUARD_SILENT, SURE_FOR, LeaseState
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.rows import Begun, Changes
from trio_cancel._journal.store import StoreFailed
from trio_cancel._values.outcomes import NotFound, Outcome, Rejected, VenueReply

LEASE = 3.0
AWAY = StoreFailed("the server has gone")
GONE = TakenOver("another session has it")


class SharedStore(MemoryStore):
    """A store with a lease. ``guards`` is what the beats of guards add up to at the next commit."""

    def __init__(self, lease: float = LEASE) -> None:
        super().__init__(Begun(session=1, number=1, attempt=0, lease=lease, claimed_at=trio.current_time()))
        self.guards: int | None = None
        self.times: list[float] = []

    def commit(self, changes: Changes) -> int | None:  # type: ignore[override] # the one with a lease tells of guards
        super().commit(changes)
        self.times.append(trio.current_time())
        return self.guards


@asynccontextmanager
async def shared(store: SharedStore, executor: Executor | None = None) -> AsyncGenerator[Journal]:
    async with open_journal(
        "the.journal",
        ACCOUNT,
        "id",
        lambda: 1000.0 + trio.current_time(),
        run_sync=executor or Executor(),
        open_store=store.open,
        clock=trio.current_time,
    ) as journal:
        yield journal


def state(journal: Journal) -> LeaseState | None:
    return journal.lease  # which mypy takes for a constant


@pytest.mark.parametrize("lease", [1.0, LEASE, 20.0])
async def test_a_quiet_session_beats_each_part_of_its_lease(lease: float, autojump_clock: MockClock) -> None:
    store = SharedStore(lease)
    async with shared(store) as journal:
        assert journal.has_lease
        for _ in range(100):
            await trio.sleep(lease / 30)
            assert state(journal) is LeaseState.SURE
        times = store.times
        assert all(later - sooner == pytest.approx(lease / BEATS, abs=0.01) for sooner, later in pairwise(times))
        assert len(times) >= 9
        assert not any(len(changes) for changes in store.commits)
        assert all(changes.alive is None for changes in store.commits)


async def test_a_quiet_session_notes_now_and_then_that_it_lives(autojump_clock: MockClock) -> None:
    store = SharedStore()
    async with shared(store):
        began = trio.current_time()
        await trio.sleep(SIGN_OF_LIFE * 2.5)
        noted = [changes.alive for changes in store.commits if changes.alive is not None]
    assert [at / 1e6 - 1000 - began for at in noted] == pytest.approx([SIGN_OF_LIFE, 2 * SIGN_OF_LIFE], abs=LEASE)


async def test_what_is_committed_is_a_beat(autojump_clock: MockClock) -> None:
    store = SharedStore()
    async with shared(store) as journal:
        await trio.sleep(LEASE / BEATS - 0.1)
        began = trio.current_time()
        await journal.hold(CancelRequest("a"))
        await trio.sleep(LEASE)
        assert store.times[0] == pytest.approx(began, abs=0.01)
        assert store.times[1] == pytest.approx(began + LEASE / BEATS, abs=0.01)


async def test_what_a_cancel_of_another_session_came_to_is_recorded(autojump_clock: MockClock) -> None:
    store = SharedStore()
    told: list[Outcome] = [
        NotFound(CancelRequest("a"), error=VenueReply(404, 40401, "Order not found.")),
        NotFound(CancelRequest(external_id="b"), error=VenueReply(404, None, "")),
        Rejected(CancelRequest("c"), error=VenueReply(400, 40010, "no")),
    ]
    async with shared(store) as journal:
        await journal.hold(CancelRequest("held"))
        for outcome in told:
            journal.settle_left(outcome)
        await trio.sleep(LAZY + 0.1)
        assert [row[:4] for row in store.changes.intents] == [(2, 1, 0, "a"), (3, 1, 1, "b"), (4, 1, 0, "c")]
        assert [(row[0], row[1], row[3]) for row in store.changes.outcomes] == [
            (2, "not_found", 40401),
            (3, "not_found", None),
            (4, "rejected", 40010),
        ]
        times = {row[4] for row in store.changes.intents} | {row[2] for row in store.changes.outcomes}
        assert all(at == pytest.approx((1000 + trio.current_time()) * 1e6, abs=1e6) for at in times)
        await journal.hold(CancelRequest("next"))
        assert [row[0] for row in store.changes.holds] == [1, 5]


async def test_an_intent_waits_for_a_database_no_longer_than_the_bound(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = SharedStore(lease=30.0)
    async with shared(store, Executor(20.0)) as journal:
        began = trio.current_time()
        (order,) = orders = [bare(CancelRequest("a"))]
        await journal.intend(orders)
        assert trio.current_time() - began == pytest.approx(INTENT_WITHIN, abs=0.6)
        assert order.unrecorded
        assert f"the database took longer than {INTENT_WITHIN:g} s" in caplog.text
        began = trio.current_time()
        await journal.intend([bare(CancelRequest("b"))])
        assert trio.current_time() == began


async def test_no_order_is_held_once_the_claim_is_uncertain(autojump_clock: MockClock) -> None:
    store = SharedStore()
    executor = Executor()
    async with shared(store, executor) as journal:
        await trio.sleep(0.5)
        executor.seconds = 100.0
        began = trio.current_time()
        with pytest.raises(JournalError, match=r"may be another session's by now.*do not place it\. Cancels go on\.$"):
            await journal.hold(CancelRequest("a"))
        assert trio.current_time() - began <= SURE_FOR * LEASE + 0.6
        assert state(journal) is LeaseState.UNCERTAIN
        assert not journal.failed
        with pytest.raises(JournalError, match="may be another session's by now"):  # and at once from then on
            await journal.hold(CancelRequest("b"))
        executor.seconds = 0.0


async def test_an_uncertain_claim_is_sure_again_after_a_beat(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_cancel")
    store = SharedStore()
    async with shared(store) as journal:
        store.failure = AWAY
        await trio.sleep(LEASE)
        assert state(journal) is LeaseState.UNCERTAIN
        with pytest.raises(JournalError, match="cannot be written \\(the server has gone\\)"):
            await journal.hold(CancelRequest("a"))
        store.failure = None
        await trio.sleep(min(RETRY, LEASE / 6) + 0.05)  # it is tried more often than a file
        assert state(journal) is LeaseState.SURE
        await journal.hold(CancelRequest("a"))
        assert ("WARNING", "the journal the.journal can be written again") in [
            (record.levelname, record.getMessage()) for record in caplog.records
        ]


@pytest.mark.parametrize(("lease", "pause"), [(LEASE, LEASE / 6), (20.0, RETRY)])
async def test_a_database_that_is_away_is_tried_so_often_that_the_lease_can_be_saved(
    lease: float, pause: float, autojump_clock: MockClock
) -> None:
    tried: list[float] = []

    class Away(SharedStore):
        def commit(self, changes: Changes) -> int | None:  # type: ignore[override]
            tried.append(trio.current_time())
            return super().commit(changes)

    store = Away(lease)
    store.failure = AWAY
    async with shared(store):
        await trio.sleep(lease)
        store.failure = None
    pauses = [later - sooner for sooner, later in pairwise(tried)][:3]
    assert pauses == pytest.approx([pause] * 3, abs=0.01)


async def test_what_comes_up_while_it_is_uncertain_is_written_soon_after(autojump_clock: MockClock) -> None:
    store = SharedStore()
    async with shared(store) as journal:
        await journal.hold(CancelRequest("a"))
        store.failure = AWAY
        await trio.sleep(LEASE)
        journal.release(CancelRequest("a"))
        store.failure = None
        await trio.sleep(min(RETRY, LEASE / 6) + LAZY + 0.05)
        assert [row[0] for row in store.changes.releases] == [1]


async def test_a_journal_that_is_another_s_is_written_no_more(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = SharedStore()
    async with shared(store) as journal:
        await journal.hold(CancelRequest("a"))
        count = len(store.commits)
        store.failure = GONE
        with trio.fail_after(LEASE):
            await journal.over.wait()
        assert state(journal) is LeaseState.TAKEN_OVER
        assert journal.failed
        store.failure = None
        for _ in range(2):
            with pytest.raises(TakenOver, match="another session has it"):
                await journal.hold(CancelRequest("b"))
        journal.release(CancelRequest("a"))
        with pytest.raises(TakenOver):
            await journal.flush()
        began = trio.current_time()
        order = bare(CancelRequest("c"))
        await journal.intend([order])
        assert order.unrecorded
        assert trio.current_time() == began
        await trio.sleep(10 * LEASE)
    assert len(store.commits) == count
    assert store.closed
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [str(GONE)]


async def test_a_guard_is_one_whose_beats_are_seen_to_change(autojump_clock: MockClock) -> None:
    store = SharedStore()

    def guarded() -> bool | None:
        return journal.guarded

    async with shared(store) as journal:
        await trio.sleep(LEASE)
        assert guarded() is False
        store.guards = 5
        await trio.sleep(LEASE)
        assert guarded() is False  # perhaps it died long ago
        store.guards = 6
        await trio.sleep(LEASE / BEATS + 0.1)
        assert guarded() is True
        await trio.sleep(GUARD_SILENT)
        assert guarded() is False
        store.guards = 7
        await trio.sleep(LEASE / BEATS + 0.1)
        assert guarded() is True
        store.guards = None
        await trio.sleep(LEASE / BEATS + 0.1)
        assert guarded() is False


async def test_a_process_that_was_stopped_asks_first_for_a_bounded_time(autojump_clock: MockClock) -> None:
    store = SharedStore()
    executor = Executor()
    async with shared(store, executor) as journal:
        assert not journal.asks_first
        executor.seconds = 100.0
        await trio.sleep(LEASE)
        assert [journal.asks_first for _ in range(2)] == [True, True]
        await trio.sleep(INTENT_WITHIN)
        assert not journal.asks_first
        executor.seconds = 0.0


# In the event loop


class InLoop(SharedStore):
    """A store that the event loop may use, unless it ``blocks``."""

    def __init__(self) -> None:
        super().__init__()
        self.in_loop: list[int] = []
        self.blocks = False

    async def commit_in_loop(self, changes: Changes, /) -> int | None:
        if self.blocks:
            raise trio.WouldBlock
        self.in_loop.append(len(changes))
        await trio.sleep(0.01)
        return self.commit(changes)


async def test_the_loop_commits_what_is_not_much(autojump_clock: MockClock) -> None:
    store, executor = InLoop(), Executor()
    async with shared(store, executor) as journal:
        before = executor.calls
        await journal.hold(CancelRequest(external_id="a"))
        assert store.in_loop == [1]
        journal.release_left(range(IN_LOOP_MOST + 1))
        await journal.flush()
        assert store.in_loop == [1], "to make a statement of so many rows would hold the loop up"
        store.blocks = True
        await journal.hold(CancelRequest(external_id="b"))
        assert executor.calls == before + 2
    assert [row[3] for row in store.changes.holds] == ["a", "b"]


async def test_what_fails_in_the_loop_fails_as_in_a_thread(autojump_clock: MockClock) -> None:
    store = InLoop()
    async with shared(store) as journal:
        store.failure = AWAY
        with pytest.raises(JournalError, match="the server has gone"):
            await journal.hold(CancelRequest(external_id="a"))
        store.failure = None
        await trio.sleep(RETRY)
        assert not journal.failed
        store.failure = GONE
        with pytest.raises(TakenOver):
            await journal.hold(CancelRequest(external_id="a"))
        assert journal.over.is_set()
