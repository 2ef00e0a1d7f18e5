"""What answers mean for the orders that dead sessions left: each rule alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import Desk
from trio_cancel import AlreadyClosed, Canceled, CancelRequest, NotFound, NotSurelyThisOrder, Unknown
from trio_cancel._cancels.resuming import Resumption, why_old
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._journal.reading import JournalHold
from trio_cancel._journal.resume import Plan, PlannedCancel
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.outcomes import Attempt, not_surely
from trio_cancel._values.timings import Timings
from trio_cancel.types import CanceledOrder

MM = CancelRequest(external_id="mm-1")
HOLD = JournalHold(number=7, session=1, held_at=1_700_000_000.0, clock=OffsetInterval(-10, 10))


def not_found(*attempts: Attempt) -> NotFound:
    return NotFound(MM, attempts, error=None)


class Released:
    """Notes which holds are released."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, numbers: Iterable[int]) -> None:
        self.numbers += numbers


def test_what_is_not_found_again_adds_its_attempts_up() -> None:
    released = Released()
    resumption = Resumption(Plan((PlannedCancel(MM, MM, (HOLD,)),), ()), released, lambda: None)
    assert resumption.read(not_found(Attempt("r1"))) is None
    assert resumption.read(not_found(Attempt("r2"))) is None
    (outcome,) = resumption.unsure()
    assert [attempt.request_id for attempt in outcome.attempts] == ["r1", "r2"]
    assert released.numbers == []


@pytest.mark.parametrize("placed_at", [None, 1_700_000_001.0])
def test_a_lagging_lookup_that_saw_an_older_order_of_the_name_is_no_reason_to_stop_asking(
    placed_at: float | None,
) -> None:
    """It was canceled by the id that the lookup gave, and that order was closed: the one that was held may come."""
    released = Released()
    hold = attrs.evolve(HOLD, placed_at=placed_at)
    resumption = Resumption(Plan((PlannedCancel(MM, MM, (hold,)),), ()), released, lambda: None)
    closed = AlreadyClosed(MM, (Attempt("r1"), Attempt("r2")), error=None)
    assert resumption.read(not_surely(closed)) is None
    assert resumption.read(not_found(Attempt("r3"))) is None
    assert resumption.read(not_surely(closed)) is None
    (outcome,) = resumption.unsure()
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, NotSurelyThisOrder)
    assert [attempt.request_id for attempt in outcome.attempts] == ["r1", "r2", "r3", "r1", "r2"]
    assert released.numbers == []


async def test_the_last_question_is_asked_when_creates_have_had_their_time(autojump_clock: MockClock) -> None:
    released = Released()
    resumption = Resumption(Plan((PlannedCancel(MM, MM, (HOLD,)),), ()), released, lambda: None)
    asked: list[float] = []

    async def cancel(some: Iterable[CancelRequest]) -> None:
        assert list(some) == [MM]
        asked.append(trio.current_time())
        await trio.sleep(0.3)
        assert resumption.read(not_found()) is None

    session: Any = SimpleNamespace(timings=Timings(), engine=Desk().engine)
    await resumption.run(cancel, session, RetryPolicy())
    assert asked == pytest.approx([*(1.3 * number for number in range(8)), Timings().settle])
    assert released.numbers == [7]


@pytest.mark.parametrize(
    ("known_at", "said"),
    [
        (100.5, "is stamped in the future, since the clock was set back,"),
        (100.0, "is older than 1 h"),
        (99.0, "is older than 1 h"),
    ],
)
def test_why_an_old_name_is_left(known_at: float, said: str) -> None:
    assert str(why_old(known_at, 100.0, "--so")) == f"its external id {said} and may name a newer order; --so takes it"


@pytest.mark.parametrize(
    ("created", "clock", "sure"),
    [
        (15.0, None, True),  # later than any reading of the hold's own clock
        (5.0, OffsetInterval(-1000, 1000), True),
        (5.0, None, False),
        (0.5, OffsetInterval(-1000, 1000), False),
    ],
)
def test_a_yes_is_judged_by_the_venues_clock_as_it_is_known_now(
    created: float, clock: OffsetInterval | None, sure: bool
) -> None:
    hold = attrs.evolve(HOLD, clock=OffsetInterval(-10_000, 10_000))
    released = Released()
    resumption = Resumption(Plan((PlannedCancel(MM, MM, (hold,)),), ()), released, lambda: clock)
    date = datetime.fromtimestamp(hold.held_at + created, UTC)
    order = CanceledOrder("7155", date, None, external_id="mm-1")
    attempt = Attempt("r1", hold.held_at + 20, hold.held_at + 21, 200)
    outcome = Canceled(MM, (attempt,), order=order)
    assert resumption.read(outcome) == (outcome if sure else None)
    assert released.numbers == ([7] if sure else [])
