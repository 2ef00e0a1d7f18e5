"""The orders under way and those that wait for their turn: who has a place where, and what is left when one settles."""

from __future__ import annotations

import gc
import math
from typing import Any, cast

import pytest

from tests.tools.desk import WALL, Bulk, CountedWakeup, Order
from tests.tools.venues import Remembering
from trio_cancel import CancelRequest, ConnectionLost, NoReply, NotSent, NotWritten, Outcome, SessionClosed, Unknown
from trio_cancel._engine.in_flight import LATE_KEPT, InFlight
from trio_cancel._engine.order import IllegalStep, LiveAttempt, OrderCancel, RetryPolicy, State
from trio_cancel._engine.queue import Queue
from trio_cancel._engine.venue_clock import VenueClock
from trio_cancel._values.observer import Notifier


class Log:
    """A journal's place in the table."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, OrderCancel]] = []

    def retried(self, pending: OrderCancel) -> None:
        self.noted.append(("retried", pending))

    def settled(self, pending: OrderCancel) -> None:
        self.noted.append(("settled", pending))


class Rings:
    """A table, and how often its writer was woken."""

    def __init__(self, watch: Remembering | None = None) -> None:
        self._wakeup = CountedWakeup()
        clock = VenueClock(lambda: WALL, lambda: 0.0)
        self.table = InFlight(None if watch is None else Notifier(watch), self._wakeup, clock)

    @property
    def count(self) -> int:
        return self._wakeup.count


def order(key: str = "o", *, priority: bool = True) -> Order:
    return Order(CancelRequest(key), RetryPolicy(), priority=priority)


def written(table: InFlight, pending: OrderCancel, request_id: str = "r-1") -> LiveAttempt:
    flight = LiveAttempt(pending, request_id, 1, 0.0, WALL, 12.0)
    if pending.state is State.IN_FLIGHT:
        pending.retry(0.0)
    if pending.state is not State.ADMITTED:
        pending.admit()
    pending.write(flight)
    table.flights[request_id] = flight
    return flight


def places(table: InFlight, pending: OrderCancel) -> str:
    named: dict[str, dict[OrderCancel, None]] = {"active": table.active, "last": table.last, "overdue": table.overdue}
    return " ".join(name for name, members in named.items() if pending in members)


def outcome_of(pending: Order) -> Outcome:
    (outcome,) = pending.delivered
    return outcome


def test_an_order_is_admitted_to_one_place_once() -> None:
    table = Rings().table
    single, bulk = order("single"), order("bulk", priority=False)
    table.admit(single)
    table.admit(bulk)
    single.retry(0.0)
    table.admit(single)  # it keeps its place
    assert (list(table.active), table.active_priority) == ([single, bulk], 1)
    last = order("last")
    table.admit_last(last, [last])
    assert (places(table, last), last.state) == ("last", State.ADMITTED)
    last.retry(0.0)
    table.admit(last)  # the venue has come back, and it is tried again as any other
    assert (places(table, last), last.state, table.active_priority) == ("active", State.ADMITTED, 2)
    group: list[OrderCancel] = [order("a"), order("b")]
    assert table.admit_all(group, priority=True) is group
    assert table.active_priority == 4
    assert {pending.state for pending in group} == {State.ADMITTED}
    table.admit_all([order("c", priority=False)], priority=False)
    assert (table.active_priority, len(table.active)) == (4, 6)


def test_an_order_settles_out_of_whatever_place_it_has() -> None:
    table = Rings().table
    single, bulk, last, late, nowhere = orders = [order(str(i), priority=i != 1) for i in range(5)]
    table.admit(single)
    table.admit(bulk)
    table.admit_last(last, [last])
    table.overdue[late] = None
    for left, pending in enumerate((single, bulk, last, late, nowhere)):
        assert table.counters.settled == left
        table.settle(pending, pending.conclude(None, None))
        assert (places(table, pending), pending.state) == ("", State.SETTLED)
        assert pending.outcome is outcome_of(pending)
    assert (table.active_priority, table.counters.settled) == (0, len(orders))


def test_what_settled_is_remembered_by_its_request_and_whether_that_was_answered() -> None:
    table = Rings().table
    pending = order()
    first, second = written(table, pending, "r-1"), written(table, pending, "r-2")
    first.answered_at = WALL
    assert table.settled_as("r-1") is None
    table.settle(pending, pending.conclude(None, None))
    assert table.flights == {}
    assert not hasattr(second, "order")
    assert (table.settled_as("r-1"), table.settled_as("r-2")) == (("unknown", True), ("unknown", False))
    table.answered_late("r-2", "unknown")
    assert table.settled_as("r-2") == ("unknown", True)


def test_the_older_half_of_what_is_remembered_goes_at_once() -> None:
    table = Rings().table

    def settle(number: int) -> None:
        pending = order()
        written(table, pending, f"r-{number}")
        table.settle(pending, pending.conclude(None, None))

    for number in range(LATE_KEPT):
        settle(number)
    table.answered_late("r-0", "canceled")  # it is in the older half by now, and is noted there
    assert table.settled_as("r-0") == ("canceled", True)
    for number in range(LATE_KEPT, 2 * LATE_KEPT - 1):
        settle(number)
    assert table.settled_as("r-0") == ("canceled", True)
    settle(2 * LATE_KEPT - 1)
    assert table.settled_as("r-0") is None
    assert table.settled_as(f"r-{LATE_KEPT}") == ("unknown", False)


def test_an_answer_can_come_only_where_one_is_awaited() -> None:
    table = Rings().table
    pending = order()
    assert not table.can_still_be_answered(pending)
    flight = written(table, pending)
    assert table.can_still_be_answered(pending)
    flight.answered_at = WALL
    assert not table.can_still_be_answered(pending)
    written(table, pending, "r-2")
    assert table.can_still_be_answered(pending)
    del table.flights["r-2"]  # its connection is gone
    assert not table.can_still_be_answered(pending)


def test_what_waits_for_its_next_attempt_waits_in_the_line_of_its_kind() -> None:
    rings = Rings()
    table, log = rings.table, Log()
    table._journal = cast("Any", log)
    plain, once, never = order("plain"), order("once"), order("never")
    table.admit(plain)
    table.admit_last(once, [once])
    written(table, once)
    table.admit_last(never, [never])
    for pending in (plain, once, never):
        table.retry(pending, 7.0)
        assert (pending.state, pending.not_before) == (State.RETRYING, 7.0)
    queue = table.queue
    assert (queue.retrying(), list(queue.returning), list(queue.last_chance)) == ([plain], [once], [never])
    assert log.noted == [("retried", plain), ("retried", once), ("retried", never)]
    assert rings.count == 3


def test_nothing_is_tried_again_once_all_was_stopped() -> None:
    table = Rings().table
    log = Log()
    table._journal = cast("Any", log)
    table.stopped = cause = SessionClosed("over")
    pending, may_have_applied = order(), order()
    table.admit(pending)
    written(table, may_have_applied)
    table.retry(pending, 7.0)
    table.retry(may_have_applied, 7.0)
    not_sent, unknown = outcome_of(pending), outcome_of(may_have_applied)
    assert isinstance(not_sent, NotSent)
    assert isinstance(unknown, Unknown)
    assert not_sent.cause is unknown.cause is cause
    assert not table.queue
    assert log.noted == [("settled", pending), ("settled", may_have_applied)]


def test_who_leaves_before_the_write_takes_the_order_along() -> None:
    rings = Rings()
    pending = order()
    rings.table.admit(pending)
    rings.table.abandon(pending)
    outcome = outcome_of(pending)
    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.cause, NotWritten)
    assert str(outcome.cause) == "its caller left before it was written"
    assert rings.count == 1
    rings.table.abandon(pending)  # it has settled: that changes nothing
    assert rings.count == 1


@pytest.mark.parametrize("answered", [True, False])
def test_who_leaves_when_nothing_more_can_come_gets_what_is_known(answered: bool) -> None:
    rings = Rings()
    pending = order()
    flight = written(rings.table, pending)
    if answered:
        flight.answered_at, flight.may_have_applied = WALL, True
    else:
        rings.table.flights.clear()
    pending.retry(0.0)
    rings.table.abandon(pending)
    assert (outcome_of(pending).kind, pending.abandoned, rings.count) == ("unknown", True, 1)


def test_who_leaves_while_an_answer_can_come_is_told_of_late() -> None:
    watch = Remembering()
    rings = Rings(watch)
    pending = order()
    rings.table.admit(pending)
    written(rings.table, pending)
    pending.retry(0.0)
    rings.table.abandon(pending)
    assert (pending.state, pending.abandoned, pending.delivered, rings.count) == (State.IN_FLIGHT, True, [], 0)
    rings.table.settle(pending, pending.conclude(None, None))
    assert watch.of("settled_late") == [(outcome_of(pending),)]
    watch.events.clear()
    other = order()
    rings.table.settle(other, other.conclude(None, None))
    assert watch.of("settled_late") == []


def test_an_abandoned_order_gives_its_place_back_and_stays_matched() -> None:
    rings = Rings()
    table = rings.table
    single, bulk, last = order("single"), order("bulk", priority=False), order("last")
    table.admit(single)
    table.admit(bulk)
    table.admit_last(last, [last])
    for number, pending in enumerate((single, bulk, last), 1):
        written(table, pending, f"r-{number}")
        table.let_go(pending)
        assert places(table, pending) == "overdue"
        assert rings.count == number
        assert isinstance(pending.doubt, NoReply)
        assert str(pending.doubt) == "no answer came in time, and its caller has left"
    assert (table.active_priority, len(table.flights)) == (0, 3)
    single.doubt = ConnectionLost("cut")
    table.let_go(single)
    assert str(single.doubt) == "cut"


def test_of_the_abandoned_the_oldest_goes_first() -> None:
    table = Rings().table
    orders = [order(str(number)) for number in range(LATE_KEPT + 1)]
    for number, pending in enumerate(orders):
        assert not orders[0].delivered
        written(table, pending, f"r-{number}")
        table.let_go(pending)
    assert outcome_of(orders[0]).kind == "unknown"
    assert (len(table.overdue), orders[1].delivered) == (LATE_KEPT, [])


# The lines


def waiting(key: str, not_before: float, *, priority: bool = False) -> Order:
    pending = order(key, priority=priority)
    pending.state, pending.not_before = State.RETRYING, not_before
    return pending


def test_a_line_with_anything_in_it_is_not_empty() -> None:
    queue = Queue()
    assert not queue
    queue.add(order())
    assert queue
    assert [len(queue.take_priority(1)), bool(queue)] == [1, False]
    source = Bulk([order()])
    queue.add_source(source)
    assert (bool(queue), queue.sources()) == (True, [source])
    queue.remove_source(source)
    queue.remove_source(source)
    assert not queue
    for priority in (True, False):
        queue.retry(waiting("r", 5.0, priority=priority))
        assert queue
        assert queue.next_due(5.0) == math.inf  # due by now, so in the other line
        assert queue
        assert queue.next_retry(5.0) is not None
        assert not queue
    queue.returning.append(waiting("returning", 0.0))
    assert queue
    assert queue.next_returning() is not None
    queue.last_chance.append(order())
    assert queue
    queue.clear()
    assert not queue


def test_next_attempts_come_in_the_order_of_their_times_and_single_ones_first() -> None:
    queue = Queue()
    late, early, single, same = (
        waiting("a", 9.0),
        waiting("b", 5.0),
        waiting("c", 7.0, priority=True),
        waiting("d", 5.0),
    )
    for pending in (late, early, single, same):
        queue.retry(pending)
    assert queue.next_due(4.9) == 5
    assert queue.next_retry(4.9) is None
    assert set(queue.retrying()) == {early, same, single, late}
    assert queue.next_retry(5.0) is early
    assert queue.next_due(5.0) == 7
    assert queue.next_retry(7.0) is single
    assert queue.next_retry(7.0) is same
    assert queue.next_retry(7.0) is None
    late.settle(NotSent(late.request))
    assert queue.retrying() == []
    assert queue.next_due(8.0) == math.inf
    assert queue.next_retry(9.0) is None


def test_what_was_settled_meanwhile_is_passed_over() -> None:
    queue = Queue()
    gone, there = order("gone"), order("there")
    gone.settle(NotSent(gone.request))
    for pending in (gone, there):
        queue.add(pending)
    assert queue.heads() == [there]
    assert list(queue.fresh) == [gone, there]
    assert queue.take_priority(0) == []
    assert queue.take_priority(1) == [there]
    assert not queue.fresh
    for line in (queue.returning.append, queue.retry):
        first, second = waiting("first", 1.0), waiting("second", 1.0)
        line(first)
        line(second)
        first.settle(NotSent(first.request))
        take: Any = queue.next_returning if line == queue.returning.append else lambda: queue.next_retry(1.0)
        assert take() is second
        assert take() is None


def test_bulk_cancels_share_what_there_is_and_take_turns() -> None:
    queue = Queue()
    assert queue.take_bulk(5) == []
    small, big = Bulk([order("s0"), order("s1")]), Bulk([order(f"b{index}") for index in range(20)])
    queue.add_source(big)
    assert [pending.request.id for pending in queue.take_bulk(2)] == ["b0", "b1"]
    queue.add_source(small)
    assert [pending.request.id for pending in queue.take_bulk(5)] == ["b2", "b3", "b4", "s0", "s1"]
    assert [pending.request.id for pending in queue.take_bulk(1)] == ["b5"]
    assert len(queue.take_bulk(4)) == 4  # what one does not need goes to the other
    assert queue.take_bulk(0) == []


@pytest.mark.parametrize("kind", ["single", "bulk", "retry", "nothing"])
def test_what_could_be_written_now_waits(kind: str) -> None:
    queue = Queue()
    pending = order()
    if kind == "single":
        queue.add(pending)
    elif kind == "bulk":
        queue.add_source(Bulk([pending]))
    elif kind == "retry":
        queue.retry(waiting("r", 3.0))
        assert not queue.waiting(2.9)
    else:
        pending.settle(NotSent(pending.request))
        queue.add(pending)
        queue.add_source(Bulk([]))
        queue.retry(waiting("r", 9.0))
    assert queue.waiting(3.0) is (kind != "nothing")


def test_clearing_takes_all_out_that_was_not_tried_yet() -> None:
    queue = Queue()
    gone, single, source = order("gone"), order("single"), Bulk([order()])
    gone.settle(NotSent(gone.request))
    queue.add(gone)
    queue.add(single)
    queue.add_source(source)
    queue.last_chance.append(order())
    queue.returning.append(waiting("returning", 0.0))
    assert queue.clear() == ([single], [source])
    assert not queue
    assert not queue.fresh
    assert queue.clear() == ([], [])


def test_the_collector_visits_no_attempt_and_none_is_in_a_cycle_once_its_order_is_done_with_it() -> None:
    table = Rings().table
    settled, forgetful = order(), order()
    first, second = written(table, settled, "r-1"), written(table, settled, "r-2")
    unsent = written(table, forgetful, "r-3")
    assert not any(map(gc.is_tracked, (first, second, unsent)))
    assert all(hasattr(flight, "order") for flight in (first, second, unsent))
    table.settle(settled, settled.conclude(None, None))
    forgetful.not_written(unsent)
    assert settled.flights == (first, second)
    assert (forgetful.flights, forgetful.latest) == ((), None)
    assert not any(hasattr(flight, "order") for flight in (first, second, unsent))


@pytest.mark.parametrize("priority", [True, False])
def test_whom_a_wrong_step_keeps_from_being_admitted_has_another_try_or_an_outcome(priority: bool) -> None:
    rings = Rings()
    table = rings.table
    single, before, wrong, after = (order(key, priority=priority) for key in ("single", "before", "wrong", "after"))
    table.admit(single)
    written(table, single)
    wrong.admit()
    with pytest.raises(IllegalStep) as step:
        table.admit_all([before, wrong, after], priority=priority)
    assert str(step.value) == "order wrong: ADMITTED is not new"
    # Admitted before it was found: in line again, at once, with a place in the window as any other.
    assert list(table.active) == [single, before, wrong]
    assert table.active_priority == 3 * priority
    assert (before.state, before.not_before) == (State.RETRYING, -math.inf)
    assert {table.queue.next_retry(0.0), table.queue.next_retry(0.0)} == {before, wrong}
    # Not admitted: nobody else has it.
    (outcome,) = after.delivered
    assert isinstance(outcome, NotSent)
    assert outcome.cause is step.value


def test_what_waited_beyond_the_window_is_put_back_there_after_a_wrong_step() -> None:
    table = Rings().table
    last, wrong = order("last"), order("wrong")
    table.admit_last(last, [last, wrong])
    wrong.admit()
    with pytest.raises(IllegalStep) as step:
        table.admit_last(wrong, [last, wrong])
    assert str(step.value) == "order wrong: ADMITTED does not lead to ADMITTED"
    assert last not in table.active
    assert list(table.queue.last_chance) == [last]
    assert list(table.active) == [wrong]


def test_what_settles_leaves_no_attempt_on_any_connection_that_was_lost() -> None:
    table = Rings().table
    pending, other = order(), order("another")
    table.admit(pending)
    flight = written(table, pending, "r-1")
    table.admit(other)
    kept = written(table, other, "r-2")
    older: dict[str, LiveAttempt] = {"r-2": kept}
    newer: dict[str, LiveAttempt] = {"r-1": flight}
    error = ConnectionLost("for a test")
    table.flights = {}
    table.lost.extend([(older, error), (newer, error)])
    table.settle(pending, pending.conclude(None, None))
    assert (older, newer) == ({"r-2": kept}, {})


def test_a_wrong_step_is_named() -> None:
    pending = order()
    with pytest.raises(IllegalStep, match=r"^order o: it was never written, so that no answer can come$"):
        pending.wait_for_answer()
    with pytest.raises(IllegalStep, match=r"^order o: QUEUED is not to be written$"):
        pending.write(LiveAttempt(pending, "r-1", 1, 0.0, WALL, 12.0))
    with pytest.raises(IllegalStep, match=r"^order o: QUEUED does not lead to IN_FLIGHT$"):
        pending._step(State.IN_FLIGHT)
