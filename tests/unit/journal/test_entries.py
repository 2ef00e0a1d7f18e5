"""What a journal's task writes for each thing that comes up, value by value, and what it says when it cannot."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.tools.desk import bare
from tests.tools.journals import ACCOUNT, Executor, MemoryStore
from trio_cancel import AlreadyClosed, CancelRequest, JournalError, NotSent, Outcome, Unknown
from trio_cancel._engine.order import LiveAttempt, OrderCancel, State
from trio_cancel._journal.journal import LAZY, Journal
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.rows import Begun
from trio_cancel.types import Attempt, OffsetInterval, VenueReply

MICRO = 1_000_000
BY_ID, BY_NAME = CancelRequest("o"), CancelRequest(external_id="x")


def failed(journal: Journal) -> bool:
    return journal.failed  # which mypy takes for a constant


def wall() -> float:
    return 1000.0 + trio.current_time()


@asynccontextmanager
async def journal_on(store: MemoryStore) -> AsyncGenerator[Journal]:
    async with open_journal("the.journal", ACCOUNT, "pre", wall, run_sync=Executor(), open_store=store.open) as journal:
        yield journal


def store_at(session: int = 4, number: int = 11, attempt: int = 70) -> MemoryStore:
    return MemoryStore(Begun(session=session, number=number, attempt=attempt))


def tried(
    pending: OrderCancel, number: int, written: float, answered: float | None = None, status: int | None = None
) -> None:
    flight = LiveAttempt(pending, f"pre-{number}", 2, trio.current_time(), 1000 + written, math.inf)
    flight.answered_at = None if answered is None else 1000 + answered
    flight.status = status
    if pending.state is State.IN_FLIGHT:
        pending.retry(0.0)
    pending.admit()
    pending.write(flight)


async def test_holds_intents_and_releases_by_their_values(autojump_clock: trio.testing.MockClock) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        await journal.hold(BY_NAME, OffsetInterval(-1.5, 2.5))
        await trio.sleep(1)
        await journal.hold(BY_ID)
        journal.placed(BY_NAME, "v-7")
        journal.placed(BY_ID, None)
        journal.placed(CancelRequest("never held"), "v-8")
        await trio.sleep(1)
        orders: list[OrderCancel] = [bare(BY_ID), bare(BY_NAME)]
        await journal.intend(orders)
        await journal.intend(orders)
        journal.release(BY_ID)
        journal.release_left([3, 5])
        await trio.sleep(LAZY + 0.1)
    changes = store.changes
    assert list(changes.holds) == [
        (11, 4, 1, "x", 1000 * MICRO, -1500, 2500),
        (12, 4, 0, "o", 1001 * MICRO, None, None),
    ]
    assert list(changes.placed) == [(11, 1001 * MICRO, "v-7"), (12, 1001 * MICRO, None)]
    assert list(changes.intents) == [(13, 4, 0, "o", 1002 * MICRO), (14, 4, 1, "x", 1002 * MICRO)]
    assert [pending.intent for pending in orders] == [13, 14]
    assert list(changes.releases) == [(12, 1002 * MICRO), (3, 1002 * MICRO), (5, 1002 * MICRO)]
    assert changes.closed == micros_of(2 + LAZY + 0.1)


def micros_of(seconds: float) -> int:
    return int((1000.0 + seconds) * MICRO)


@pytest.mark.parametrize(
    ("outcome", "answered", "in_one_row"),
    [
        (AlreadyClosed(BY_ID, error=VenueReply(400, 40408)), 6.5, True),
        (AlreadyClosed(BY_ID, error=VenueReply(400, 40408)), None, False),
        (Unknown(BY_ID, error=VenueReply(503)), 6.5, False),
        (Unknown(BY_ID), None, False),
    ],
)
async def test_an_end_by_its_values(
    outcome: Outcome, answered: float | None, in_one_row: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        await trio.sleep(7)
        pending = bare(BY_ID)
        await journal.intend([pending])
        tried(pending, 3, 6.25, answered, None if answered is None else 400)
        pending.outcome = outcome
        journal.settled(pending)
        await trio.sleep(LAZY + 0.1)
    changes = store.changes
    code = None if outcome.error is None else outcome.error.error_code
    at = None if answered is None else micros_of(answered)
    status = None if answered is None else 400
    if in_one_row:
        assert list(changes.answers) == [(73, 11, 2, micros_of(6.25), at, 400, "already_closed", code)]
        assert (len(changes.outcomes), len(changes.attempts)) == (0, 0)
    else:
        assert list(changes.outcomes) == [(11, outcome.kind, micros_of(7), code)]
        assert list(changes.attempts) == [(73, 11, 2, micros_of(6.25), at, status)]
        assert len(changes.answers) == 0


async def test_after_several_attempts_all_of_them_are_written(autojump_clock: trio.testing.MockClock) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        pending = bare(BY_ID)
        await journal.intend([pending])
        tried(pending, 1, 1.0, 2.0, 503)
        journal.retried(pending)
        await trio.sleep(LAZY + 0.1)
        assert list(store.changes.attempts) == [(71, 11, 2, micros_of(1), micros_of(2), 503)]
        tried(pending, 2, 3.0, 4.0, 400)
        pending.outcome = AlreadyClosed(BY_ID, (Attempt("pre-1"),))
        journal.settled(pending)
        await trio.sleep(LAZY + 0.1)
    assert [(row[0], row[5]) for row in store.commits[-2].attempts] == [(71, 503), (72, 400)]


async def test_what_was_not_intended_is_not_written(autojump_clock: trio.testing.MockClock) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        pending = bare(BY_ID)
        pending.outcome = NotSent(BY_ID)
        journal.settled(pending)
        journal.retried(pending)
        journal.written([], ())
        await trio.sleep(LAZY + 0.1)
    assert [len(changes) for changes in store.commits] == [1]  # its end, and nothing before


async def test_an_attempt_that_is_not_answered_soon_is_written_as_open(autojump_clock: trio.testing.MockClock) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        first, second = bare(BY_ID), bare(BY_NAME)
        await journal.intend([first, second])
        tried(first, 1, 0.0)
        journal.written([first], first.flights)
        await trio.sleep(LAZY + 0.1)
        assert list(store.changes.attempts) == [(71, 11, 2, micros_of(0), None, None)]
        tried(second, 2, 0.5)
        journal.written([second], (*first.flights, *second.flights))
        await journal.intend([bare(CancelRequest("p"))])  # a transaction in which it is not old enough
        assert len(store.changes.attempts) == 1
        await trio.sleep(LAZY + 0.1)
        assert [row[0] for row in store.changes.attempts] == [71, 72]  # each once


async def test_an_attempt_is_written_as_open_once_though_a_younger_one_follows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        first, second = bare(BY_ID), bare(BY_NAME)
        await journal.intend([first, second])
        tried(first, 1, 0.0)
        await trio.sleep(0.8 * LAZY)
        tried(second, 2, 0.8 * LAZY)
        journal.written([second], (*first.flights, *second.flights))
        await trio.sleep(0.4 * LAZY)
        await journal.intend([bare(CancelRequest("p"))])  # only the first is old enough
        assert [row[0] for row in store.changes.attempts] == [71]
        await trio.sleep(LAZY + 0.1)
        assert [row[0] for row in store.changes.attempts] == [71, 72]


async def test_the_end_writes_every_open_attempt(autojump_clock: trio.testing.MockClock) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        pending = bare(BY_ID)
        await journal.intend([pending])
        tried(pending, 1, 0.0)
        journal.written([pending], pending.flights)
    assert list(store.changes.attempts) == [(71, 11, 2, micros_of(0), None, None)]
    assert store.changes.closed == micros_of(0)


async def test_what_cannot_be_written_is_said_with_its_remedy(autojump_clock: trio.testing.MockClock) -> None:
    store = store_at()
    async with journal_on(store) as journal:
        await journal.hold(BY_ID)
        store.failure = OSError("disk full")
        with pytest.raises(JournalError) as caught:
            await journal.hold(BY_NAME)
        assert str(caught.value) == (
            "The journal the.journal cannot be written (disk full), so that no new order can be held; "
            "do not place it. Cancels go on."
        )
        assert caught.value.__cause__ is store.failure
        assert failed(journal)
        with pytest.raises(JournalError):
            await journal.hold(BY_NAME)  # at once, too
        journal.release(BY_ID, at_once=True)
        with pytest.raises(JournalError) as caught:
            await journal.flush()
        assert str(caught.value) == (
            "The journal the.journal cannot be written (disk full), so that it is not recorded yet that the order is "
            "held no more; if this process dies before it is, trio-cancel resume cancels the order."
        )
        store.failure = None
        await trio.sleep(2)
        assert not failed(journal)
        await journal.flush()
    assert [row[0] for row in store.changes.releases] == [12, 11]
