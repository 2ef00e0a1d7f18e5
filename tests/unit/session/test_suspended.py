"""A machine that was suspended: trio's clock stood still, an order's time did not."""

from __future__ import annotations

import math

from tests.tools.desk import Bulk, Desk, Order, canceled, refusal
from trio_cancel import NotSent, NotWritten, Rejected, Unknown
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._engine.rate import WINDOW_START
from trio_cancel._values.clock import OffsetInterval

FAST = OffsetInterval(5000, 6000)
"""A venue's clock that is ahead of ours."""


def sleep(desk: Desk, seconds: float) -> None:
    """Suspend the machine, and let the engine find that out."""
    desk.suspended += seconds
    desk.engine.awaken(desk.now)
    desk.wait(0)


def last_chance(desk: Desk, order: Order) -> None:
    """Let the venue be silent until an order has been written as its last chance, without a place in the window."""
    desk.wait(25)
    assert order.state is State.IN_FLIGHT
    assert order not in desk.engine._in_flight.active


def test_what_waits_has_spent_the_time_of_every_sleep() -> None:
    desk = Desk(up=False)
    order = desk.submit()
    sleep(desk, 10)
    sleep(desk, 0)
    sleep(desk, 10)
    sleep(desk, 0)
    sleep(desk, 9)
    assert (order.kind, order.time_spent) == (None, 29)
    sleep(desk, 1)  # a second counts
    outcome = desk.only(order)
    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.cause, NotWritten)
    assert str(outcome.cause) == "the machine was suspended for 1 s, and its time was over"
    assert outcome.final


def test_less_than_a_second_may_be_how_the_clocks_are_read() -> None:
    desk = Desk(up=False)
    order = desk.submit()
    for _ in range(5):
        desk.suspended = 0.9
        sleep(desk, 0)
    assert (order.kind, order.time_spent) == (None, 0)


def test_each_order_has_its_own_time() -> None:
    desk = Desk(up=False, policy=RetryPolicy(give_up_after=1000))
    patient = desk.submit("a")
    desk.policy = RetryPolicy()
    orders = [desk.submit(name) for name in "bcd"]
    desk.abandon(orders[1])
    sleep(desk, 30)
    assert [order.kind for order in (patient, *orders)] == [None, "not_sent", "not_sent", "not_sent"]


def test_what_is_handed_in_after_the_sleep_has_all_of_its_time() -> None:
    desk = Desk(up=False)
    desk.suspended = 100
    late = desk.submit()
    source, _ = desk.submit_bulk("a")
    sleep(desk, 0)
    assert (late.kind, source.refused) == (None, None)


def test_what_was_written_is_not_tried_again_and_an_answer_in_the_socket_counts() -> None:
    desk = Desk()
    one, two = desk.submit("one"), desk.submit("two")
    desk.wait(11)
    desk.suspended = 100
    desk.engine.awaken(desk.now)  # before the timer, as the writer does
    desk.answer(canceled(desk.ids[0], "one"))
    assert one.kind == "canceled"
    desk.wait(0)
    outcome = desk.only(two)
    assert isinstance(outcome, Unknown)
    assert str(outcome.cause) == "no answer came, and the machine was suspended 100 s"
    assert len(desk.ids) == 2


def test_a_doubt_from_before_the_sleep_is_told() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(12.5)  # tried again
    doubt = order.doubt
    assert doubt is not None
    sleep(desk, 100)
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert outcome.cause is doubt
    assert len(desk.ids) == 2


def test_a_last_chance_that_slept_is_ended_at_once() -> None:
    desk = Desk()
    desk.engine._silence.ask(0)
    for number in range(WINDOW_START):
        desk.submit(f"o{number}")
    beyond = desk.submit()
    last_chance(desk, beyond)
    written = len(desk.ids)
    sleep(desk, 30)
    outcome = desk.only(beyond)
    assert isinstance(outcome, Unknown)
    assert len(desk.ids) == written


def test_what_waits_for_its_next_attempt_ends_as_its_answers_say() -> None:
    desk = Desk()
    desk.engine.clock.interval = FAST
    desk.clock.answer = lambda _: math.inf
    order = desk.submit()
    desk.answer(refusal(desk.ids[0], 400, 40011))
    assert order.state is State.RETRYING
    sleep(desk, 30)
    outcome = desk.only(order)
    assert isinstance(outcome, Rejected)
    assert outcome.clock is FAST


class Noting(Bulk):
    """A source that keeps what it is told."""

    gave_up: tuple[str, float] | None = None
    ends = True

    def give_up(self, cause: BaseException, before: float) -> bool:
        self.gave_up = str(cause), before
        return self.ends


def test_a_bulk_cancel_gives_up_what_came_before_the_sleep() -> None:
    desk = Desk(up=False)
    desk.wait(3)
    ending, going_on, patient = Noting([], 3), Noting([], 3), Noting([], 3, give_up=31)
    going_on.ends = False
    for source in (patient, going_on, ending):
        desk.engine.submit_source(source, desk.now)
    desk.wait(4)
    sleep(desk, 0)  # this is when the engine was awake
    desk.now += 2
    sleep(desk, 29)
    assert ending.gave_up is None
    desk.now += 2
    sleep(desk, 30)
    told = "the machine was suspended for 30 s, and its time was over", 9.0
    assert [source.gave_up for source in (ending, going_on, patient)] == [told, told, None]
    assert desk.engine._queue.sources() == [patient, going_on]


def test_the_timer_judges_at_once_whoever_noticed_the_sleep() -> None:
    desk = Desk()
    order = desk.submit()
    desk.suspended = 50
    desk.submit("another")
    assert order.kind == "unknown"


def test_an_order_that_slept_between_admission_and_signature_is_not_written() -> None:
    desk = Desk(auto=False)
    order = desk.submit()
    admitted, _ = desk.engine.take(desk.now)
    assert admitted == [order]
    desk.suspended = 31
    assert desk.engine.sign(admitted, 1, desk.now, desk.wall) == ([], [])
    assert desk.only(order).kind == "not_sent"
    assert desk.engine.signed == 0


def test_an_answer_that_says_nothing_is_the_last_word_after_a_sleep() -> None:
    desk = Desk()
    order = desk.submit()
    desk.suspended = 31
    desk.engine.awaken(desk.now)
    desk.engine.read([refusal(desk.ids[0], 503)], 1, desk.now, desk.wall)
    assert order.kind == "unknown"
