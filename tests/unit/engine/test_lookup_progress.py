"""What a lookup means for an order whose cancel would end without the truth, without a lookup."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from tests.tools.desk import WALL, CountedWakeup, Desk, Order, canceled, refusal
from trio_cancel import (
    AlreadyClosed,
    CancelRequest,
    NoReply,
    NotFound,
    NotSent,
    NotSurelyThisOrder,
    Outcome,
    Rejected,
    SessionClosed,
    Unknown,
)
from trio_cancel._engine.in_flight import InFlight, after_lookup
from trio_cancel._engine.lookup_progress import (
    AGAIN_FIRST,
    AGAIN_MOST,
    BUDGET,
    FAILURES_MOST,
    LookupProgress,
    Next,
    Open,
    needs_lookup,
    settled_by,
    with_seen,
)
from trio_cancel._engine.order import LiveAttempt, OrderCancel, RetryPolicy, State
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel.lookup import OrderState, OrderStatus
from trio_cancel.types import Attempt, OffsetInterval, VenueReply

BY_ID, BY_NAME = CancelRequest("o"), CancelRequest(external_id="x")
ERROR = VenueReply(404, 40401)
MockClock = trio.testing.MockClock


def state(status: str, **more: Any) -> OrderState:
    return OrderState(status=OrderStatus(status), seen_at=WALL, **{"id": "o", "external_id": "x", **more})


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(WALL + seconds, UTC)


@pytest.mark.parametrize(
    ("outcome", "closed_too", "needed"),
    [
        (Unknown(BY_ID), False, True),
        (NotFound(BY_ID), False, True),
        (Rejected(BY_ID), True, False),
        (NotSent(BY_ID), True, False),
        (AlreadyClosed(BY_ID), False, False),
        (AlreadyClosed(BY_ID), True, True),
        (AlreadyClosed(BY_ID, order=state("canceled")), True, False),
        (AlreadyClosed(BY_ID, seen=state("open")), True, False),
        (Unknown(BY_ID, seen=state("open")), False, True),
    ],
)
def test_what_is_looked_up(outcome: Outcome, closed_too: bool, needed: bool) -> None:
    assert needs_lookup(outcome, closed_too=closed_too) is needed


@pytest.mark.parametrize(
    ("status", "closed_as"),
    [
        ("canceled", "canceled"),
        ("executed_completely", "executed"),
        ("open", None),
        ("executed_partially", None),
        ("pending_creation", None),
        ("other", None),
    ],
)
def test_a_final_status_of_this_very_order_settles_it(status: str, closed_as: str | None) -> None:
    attempts = (Attempt("r-1", WALL),)
    outcome = NotFound(BY_ID, attempts, error=ERROR, after_unanswered=True)
    seen = state(status)
    closed = settled_by(seen, outcome, None)
    if closed_as is None:
        assert closed is None
    else:
        assert closed is not None
        assert (closed.request, closed.attempts, closed.error) == (BY_ID, attempts, ERROR)
        assert (closed.after_unanswered, closed.closed_as, closed.order) == (True, closed_as, seen)
    assert settled_by(state(status, id="p"), outcome, None) is None


@pytest.mark.parametrize(
    ("changes", "written", "clock", "settles"),
    [
        ({}, 0.0, None, True),
        ({"update_date": at(-0.001)}, 0.0, None, False),
        ({"update_date": at(0.001)}, 0.0015, None, True),  # to the venue's millisecond
        ({"update_date": None}, 0.0, None, False),
        ({}, None, None, False),
        ({"external_id": "y"}, 0.0, None, False),
        ({"external_id": None}, 0.0, None, False),
        ({"status": OrderStatus.EXECUTED}, 0.0, None, False),
        ({"status": OrderStatus.OPEN}, 0.0, None, False),
        ({"update_date": at(5.0)}, 0.0, OffsetInterval(4000, 5000), True),  # its clock is ahead of ours
        ({"update_date": at(4.9)}, 0.0, OffsetInterval(4000, 5000), False),  # perhaps by 5 s, and it was before ours
        ({"update_date": at(3.999)}, 0.0, OffsetInterval(4000, 5000), False),
        ({"update_date": at(-4.0)}, 0.0, OffsetInterval(-5000, -4000), True),
        ({"update_date": at(-4.001)}, 0.0, OffsetInterval(-5000, -4000), False),
        ({"update_date": at(0.0)}, 0.0, OffsetInterval(-5000, 5000), True),
    ],
)
def test_by_external_id_only_our_own_cancel_settles(
    changes: dict[str, Any], written: float | None, clock: OffsetInterval | None, settles: bool
) -> None:
    first = Attempt("r-1", None if written is None else WALL + written)
    told: dict[str, Any] = {"status": OrderStatus.CANCELED, "seen_at": WALL, "id": "7", "external_id": "x"}
    seen = OrderState(**told | {"update_date": at(0)} | changes)
    outcome = Unknown(BY_NAME, (first, Attempt("r-2", WALL + 100)))
    closed = settled_by(seen, outcome, clock)
    assert (closed is not None) is settles
    assert settled_by(seen, Unknown(BY_NAME), clock) is None  # nothing was written


def test_what_was_seen_is_told() -> None:
    outcome, seen = NotFound(BY_ID), state("open")
    assert with_seen(outcome, None) is outcome
    assert with_seen(outcome, seen) == NotFound(BY_ID, seen=seen)


def test_repetitions_become_rarer() -> None:
    lookup = LookupProgress(Unknown(BY_ID), 2.0)
    assert (lookup.ends_at, lookup.failures, lookup.by_id) == (2.0, 0, {})
    assert [lookup.next_wait() for _ in range(6)] == [AGAIN_FIRST, 0.5, 1.0, AGAIN_MOST, AGAIN_MOST, AGAIN_MOST]


def test_which_order_a_request_named() -> None:
    lookup = LookupProgress(Unknown(BY_NAME), 2.0)
    assert lookup.asked("r-2", BY_NAME) == BY_NAME
    lookup.by_id["r-2"] = BY_ID
    assert (lookup.asked("r-1", BY_NAME), lookup.asked("r-2", BY_NAME)) == (BY_NAME, BY_ID)


def pending_with(outcome: Open, *, ends_at: float = 35.0, **changes: Any) -> Order:
    pending = Order(outcome.request, RetryPolicy(retry=changes.pop("retry", True)))
    pending.running_from = 0.0
    pending.lookup = LookupProgress(outcome, ends_at)
    for name, value in changes.items():
        setattr(pending, name, value)
    return pending


@pytest.mark.parametrize(
    ("outcome", "status", "now", "changes", "follows"),
    [
        (Unknown(BY_ID), "open", 1.0, {}, Next.CANCEL_AGAIN),
        (Unknown(BY_ID), "executed_partially", 29.7, {}, Next.CANCEL_AGAIN),
        (Unknown(BY_ID), "open", 29.75, {}, Next.LOOK_AGAIN),  # no time is left for another attempt
        (Unknown(BY_ID), "open", 1.0, {"retry": False}, Next.LOOK_AGAIN),
        (Unknown(BY_ID), "open", 1.0, {"refused_for_good": True}, Next.LOOK_AGAIN),
        (Unknown(BY_ID), "open", 34.7, {}, Next.LOOK_AGAIN),
        (Unknown(BY_ID), "open", 34.75, {}, Next.SETTLE),
        (Unknown(BY_ID), "other", 1.0, {}, Next.LOOK_AGAIN),
        (NotFound(BY_ID), "open", 1.0, {}, Next.CANCEL_AGAIN),
        (NotFound(BY_ID), "other", 1.0, {}, Next.SETTLE),
        (NotFound(BY_ID), "pending_creation", 1.0, {}, Next.LOOK_AGAIN),
        (NotFound(BY_ID), "pending_creation", 34.8, {}, Next.SETTLE),
        (AlreadyClosed(BY_ID), "open", 1.0, {}, Next.SETTLE),
    ],
)
def test_what_follows_a_lookup_that_settles_nothing(
    outcome: Open, status: str, now: float, changes: dict[str, Any], follows: Next
) -> None:
    assert after_lookup(state(status), pending_with(outcome, **changes), now) is follows


# In the table


class Wakes:
    def __init__(self) -> None:
        self._wakeup = CountedWakeup()
        self.table = InFlight(None, self._wakeup, VenueClock(lambda: WALL, lambda: 0.0), lookups=True)

    @property
    def count(self) -> int:
        return self._wakeup.count

    @property
    def begun(self) -> list[OrderCancel]:
        return list(self.table.to_look_up)

    def written(self, request: CancelRequest = BY_ID, *, priority: bool = True) -> Order:
        pending = Order(request, RetryPolicy(), priority=priority)
        self.table.admit(pending)
        flight = LiveAttempt(pending, f"r-{len(self.table.flights)}", 1, 0.0, WALL, 12.0)
        pending.write(flight)
        pending.running_from = trio.current_time()
        self.table.flights[flight.request_id] = flight
        return pending

    def may_have_applied(self, request: CancelRequest = BY_ID) -> tuple[Order, LookupProgress]:
        pending = self.written(request)
        self.table.settle(pending, pending.conclude(None, None))
        assert pending.lookup is not None
        return pending, pending.lookup


async def test_what_would_end_in_doubt_leaves_its_place_and_is_looked_up(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    table = wakes.table
    await trio.sleep(100)
    pending = wakes.written()
    await trio.sleep(12)
    doubt = pending.conclude(None, None)
    table.settle(pending, doubt)
    assert (pending.state, pending.delivered) == (State.LOOKED_UP, [])
    assert (list(table.looked_up), list(table.active), table.active_priority) == ([pending], [], 0)
    assert (wakes.begun, wakes.count) == ([pending], 1)
    lookup = pending.lookup
    assert lookup is not None
    assert (lookup.ends_at, lookup.outcome) == (112 + 18 + BUDGET, doubt)
    late = NotFound(BY_ID, pending.attempts(), error=ERROR)
    table.settle(pending, late)  # a late answer that says no more
    assert (lookup.outcome, wakes.begun, wakes.count) == (late, [pending], 1)
    table.settle(pending, AlreadyClosed(BY_ID))  # and one that says all
    assert [outcome.kind for outcome in pending.delivered] == ["already_closed"]
    assert (table.looked_up, pending.state) == ({}, State.SETTLED)
    assert table.seen(pending, state("open")) is None
    assert table.not_seen(pending, True) is None


@pytest.mark.parametrize("why", ["nobody looks", "abandoned", "stopped", "definite"])
async def test_what_is_not_looked_up_settles_at_once(why: str, autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending = wakes.written()
    outcome: Outcome = Unknown(BY_ID)
    if why == "nobody looks":
        wakes.table._lookups = False
    elif why == "abandoned":
        pending.abandoned = True
    elif why == "stopped":
        wakes.table.stopped = SessionClosed("over")
    else:
        outcome = Rejected(BY_ID)
    wakes.table.settle(pending, outcome)
    assert (pending.delivered, wakes.begun) == ([outcome], [])


async def test_a_state_that_is_final_ends_it_with_all_attempts(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, _ = wakes.may_have_applied()
    seen = state("canceled")
    assert wakes.table.seen(pending, seen) is None
    (outcome,) = pending.delivered
    assert isinstance(outcome, AlreadyClosed)
    assert (outcome.order, outcome.closed_as, outcome.attempts) == (seen, "canceled", pending.attempts())
    assert wakes.table.looked_up == {}


@pytest.mark.parametrize("priority", [True, False])
async def test_an_order_that_is_active_is_canceled_again(priority: bool, autojump_clock: MockClock) -> None:
    wakes = Wakes()
    table = wakes.table
    pending, lookup = wakes.may_have_applied(BY_NAME)
    pending.priority = priority
    await trio.sleep(2)
    assert table.not_seen(pending, True) == AGAIN_FIRST
    assert lookup.failures == 1
    assert table.seen(pending, state("open", id="7")) is None
    assert (pending.state, pending.not_before, lookup.failures) == (State.RETRYING, 2 + AGAIN_FIRST, 0)
    assert (list(table.active), table.active_priority, table.looked_up) == ([pending], int(priority), {})
    assert lookup.asks == CancelRequest("7")
    assert table.queue.retrying() == [pending]
    assert lookup.outcome.seen == state("open", id="7")
    await trio.sleep(1)
    table.settle(pending, NotFound(BY_NAME))
    assert pending.state is State.LOOKED_UP  # its second doubt is looked up as well, within the same time
    assert lookup.outcome == NotFound(BY_NAME, seen=state("open", id="7"))
    assert lookup.ends_at == 30 + BUDGET
    assert table.seen(pending, state("other", id="8")) is None
    assert pending.delivered == [NotFound(BY_NAME, pending.attempts(), seen=state("other", id="8"))]


async def test_an_id_that_a_lookup_gave_is_asked_every_other_time(autojump_clock: MockClock) -> None:
    # A replica that lags may show an old order of this name as open for long; the order that is meant is another one.
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied(BY_NAME)
    asked = []
    for _ in range(4):
        assert wakes.table.seen(pending, state("open", id="7")) is None
        asked.append(lookup.asks)
        wakes.table.settle(pending, Unknown(BY_NAME))
    assert asked == [CancelRequest("7"), None, CancelRequest("7"), None]


async def test_an_order_asked_for_by_id_keeps_it(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied()
    wakes.table.seen(pending, state("open"))
    assert lookup.asks is None
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied(BY_NAME)
    wakes.table.seen(pending, state("open", id=None))
    assert lookup.asks is None


async def test_what_may_still_change_is_looked_up_again_until_its_time_is_over(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied()
    pending.refused_for_good = True
    waits = []
    while (wait := wakes.table.seen(pending, state("open"))) is not None:
        waits.append(wait)
        await trio.sleep(wait)
    assert waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert 30 + BUDGET - AGAIN_MOST <= sum(waits) <= 30 + BUDGET
    (outcome,) = pending.delivered
    assert isinstance(outcome, Unknown)
    assert outcome.seen == state("open")
    assert lookup.outcome == outcome


@pytest.mark.parametrize("again", [True, False])
async def test_lookups_that_fail_are_given_up(again: bool, autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied()
    failures = 1
    while wakes.table.not_seen(pending, again) is not None:
        failures += 1
    assert failures == (FAILURES_MOST if again else 1)
    assert [outcome.kind for outcome in pending.delivered] == ["unknown"]
    pending, lookup = wakes.may_have_applied()
    lookup.ends_at = trio.current_time() + AGAIN_FIRST
    assert wakes.table.not_seen(pending, True) is None
    assert pending.state is State.SETTLED


async def test_a_doubt_after_the_time_for_lookups_stands(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied()
    wakes.table.seen(pending, state("open"))
    assert pending.state is State.RETRYING
    lookup.ends_at = trio.current_time()
    wakes.table.settle(pending, pending.conclude(None, None))
    (outcome,) = pending.delivered
    assert isinstance(outcome, Unknown)
    assert outcome.seen == state("open")  # what was seen before is told


async def test_an_answer_that_came_during_a_lookup_is_among_the_attempts(autojump_clock: MockClock) -> None:
    def answered_late() -> tuple[Wakes, Order]:
        wakes = Wakes()
        pending, lookup = wakes.may_have_applied()
        (flight,) = pending.flights
        flight.answered_at, flight.status = WALL + 1, 503
        assert lookup.outcome.attempts != pending.attempts()
        return wakes, pending

    wakes, pending = answered_late()
    wakes.table.seen(pending, state("canceled"))
    assert [outcome.attempts for outcome in pending.delivered] == [pending.attempts()]
    _, pending = answered_late()
    assert pending.conclude(None, None).attempts == pending.attempts()


async def test_a_doubt_in_the_end_is_told_with_what_was_seen_before(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied()
    assert wakes.table.seen(pending, state("open")) is None
    lookup.ends_at = trio.current_time()
    wakes.table.settle(pending, NotFound(BY_ID))
    assert pending.delivered == [NotFound(BY_ID, seen=state("open"))]


async def test_a_definite_end_is_not_told_with_what_was_seen_before(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, _ = wakes.may_have_applied()
    wakes.table.seen(pending, state("open"))
    wakes.table.settle(pending, AlreadyClosed(BY_ID))
    assert pending.delivered == [AlreadyClosed(BY_ID)]


async def test_who_leaves_during_a_lookup_gets_what_is_known(autojump_clock: MockClock) -> None:
    wakes = Wakes()
    pending, lookup = wakes.may_have_applied()
    wakes.table.abandon(pending)
    assert (pending.delivered, pending.abandoned) == ([lookup.outcome], True)


def test_what_an_order_ends_as_after_lookups() -> None:
    seen = state("open")
    looked_up = pending_with(NotFound(BY_ID, error=ERROR, seen=seen), state=State.LOOKED_UP)
    assert looked_up.conclude(NoReply("no"), None, final=False) == NotFound(BY_ID, error=ERROR, seen=seen, final=False)
    refused = pending_with(NotFound(BY_ID, error=ERROR, seen=seen), error=VenueReply(429))
    flight = LiveAttempt(refused, "r-1", 1, 0.0, WALL, 12.0)
    flight.answered_at = WALL
    refused.latest = flight
    outcome = refused.conclude(None, None, final=False)
    assert outcome == NotFound(BY_ID, refused.attempts(), error=VenueReply(429), seen=seen, final=False)
    flight.may_have_applied = True
    outcome = refused.conclude(NoReply("no"), None)
    assert isinstance(outcome, Unknown)
    assert (outcome.seen, outcome.final) == (seen, True)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda rid: canceled(rid, "7", external_id="another"), "canceled"),
        (lambda rid: canceled(rid, "8", external_id="x"), None),
        (lambda rid: refusal(rid, 400, 40408), "unknown"),
    ],
)
def test_an_order_asked_for_by_the_id_that_was_seen_is_judged_by_it(
    answer: Callable[[str], str], kind: str | None
) -> None:
    desk = Desk()
    order = Order(BY_NAME, RetryPolicy())
    order.lookup = LookupProgress(Unknown(BY_NAME), 0.0)
    order.lookup.asks = CancelRequest("7")
    signed: list[CancelRequest] = []

    def sign(orders: Iterable[tuple[str, CancelRequest]], at: int) -> list[bytes]:
        requests = [request for _, request in orders]
        signed.extend(requests)
        return [b"" for _ in requests]

    desk.engine._sign = sign
    desk.engine.submit(order, 0.0)
    desk.write()
    assert signed == [CancelRequest("7")]
    assert set(order.lookup.by_id) == set(desk.ids)
    desk.answer(answer(desk.ids[0]))
    assert order.kind == kind
    if kind == "unknown":  # it may be an older order of this name that is closed
        (outcome,) = order.delivered
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.cause, NotSurelyThisOrder)
        assert (outcome.request, outcome.attempts) == (BY_NAME, order.attempts())
