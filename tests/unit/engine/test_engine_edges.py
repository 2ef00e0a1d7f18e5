"""Rules of the engine beside the main road: what each door notices, what a lost connection leaves, whose turn it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import Bulk, Desk, Order, bare, canceled, refusal
from trio_cancel import NotWritten, Rejected, Unknown
from trio_cancel._engine.engine import Engine
from trio_cancel._engine.in_flight import LATE_KEPT
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._engine.queue import Queue
from trio_cancel._engine.rate import Pacer
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.models import CancelRequest

FAST = OffsetInterval(5000, 6000)
"""A venue's clock that is ahead of ours."""


def order(name: str = "x") -> Order:
    return Order(CancelRequest(name), RetryPolicy())


def refused_signature(desk: Desk) -> Order:
    """An order whose signature was refused, and that waits for a look at the venue's clock."""
    desk.engine.clock.interval = FAST
    desk.clock.answer = lambda _: math.inf
    waiting = desk.submit()
    desk.answer(refusal(desk.ids[-1], 400, 40011))
    assert waiting.state is State.RETRYING
    return waiting


class Sleeping(Bulk):
    """A source that notes what it is to give up."""

    before: float | None = None

    def give_up(self, cause: BaseException, before: float) -> bool:
        self.before = before
        return True


# A sleep is noticed at each door


@pytest.mark.parametrize(
    "door",
    [
        lambda engine: engine.submit(order(), 7.0),
        lambda engine: engine.submit_source(Bulk([]), 7.0),
        lambda engine: engine.take(7.0),
        lambda engine: engine.sign([], 1, 7.0, 7.0),
        lambda engine: engine.expire(7.0),
    ],
)
def test_each_door_says_when_the_machine_was_awake(door: Callable[[Engine], object]) -> None:
    desk = Desk(up=False)
    source = Sleeping([])
    desk.engine.submit_source(source, 0.0)
    door(desk.engine)
    desk.suspended = 100.0
    door(desk.engine)
    assert source.before == 7.0
    assert desk.engine.slept == 100.0


# A lost connection


def test_each_order_on_a_lost_connection_is_tried_again() -> None:
    desk = Desk(pacer=Pacer(0.1, burst=2), policy=RetryPolicy(reply_timeout=4, give_up_after=300))
    waiting, in_flight = desk.submit("a"), desk.submit("b")
    desk.wait(3)
    in_flight.flights[0].deadline = 100.0
    desk.wait(2)
    assert [one.state for one in (waiting, in_flight)] == [State.RETRYING, State.IN_FLIGHT]
    desk.down()
    assert [one.state for one in (waiting, in_flight)] == [State.RETRYING, State.RETRYING]


def test_a_loss_gives_no_time_to_what_waits_for_its_next_attempt() -> None:
    desk = Desk()
    waiting, answered = desk.submit("a"), desk.submit("b")
    desk.wait(10)
    desk.answer(refusal(desk.ids[0], 503))
    waiting.not_before = math.inf
    desk.wait(1)
    desk.engine._queue.release(50.0)
    desk.answer(canceled(answered.flights[-1].request_id, "b"))
    desk.wait(9)
    assert waiting.kind is None
    desk.down()
    desk.wait(9.9)
    assert waiting.kind is None
    desk.wait(0.2)
    assert waiting.kind == "unknown"


def test_refused_while_an_earlier_attempt_is_open_it_ends_with_its_connection() -> None:
    desk = Desk()
    one = desk.submit()
    desk.wait(12.5)
    desk.answer(refusal(desk.ids[1], 403, 99999))
    assert one.state is State.IN_FLIGHT
    desk.down()
    assert isinstance(desk.only(one), Unknown)


def test_of_what_was_not_written_each_is_undone() -> None:
    desk = Desk()
    answered, one, two = (desk.submit(name) for name in "abc")
    desk.answer(canceled(desk.ids[0], "a"))
    written = desk.engine.statistics().written
    desk.engine.not_written(desk.flights, NotWritten("x"), desk.now)
    assert [len(each.flights) for each in (one, two)] == [0, 0]
    assert desk.engine.statistics().written == written - 2
    assert answered.kind == "canceled"


# What a refused signature ends as


def test_given_up_while_it_waits_for_a_look_it_is_told_what_was_known_of_the_clock() -> None:
    desk = Desk()
    waiting = refused_signature(desk)
    desk.wait(31)
    outcome = desk.only(waiting)
    assert isinstance(outcome, Rejected)
    assert outcome.clock is FAST


def test_withdrawn_while_it_waits_for_a_look_it_is_told_so_as_well() -> None:
    desk = Desk()
    waiting = refused_signature(desk)
    desk.abandon(waiting)
    outcome = desk.only(waiting)
    assert isinstance(outcome, Rejected)
    assert outcome.clock is FAST


def test_stopped_while_it_waits_for_a_look_it_is_a_rejection() -> None:
    desk = Desk()
    waiting = refused_signature(desk)
    assert isinstance(waiting.conclude(None, FAST, final=False), Rejected)
    assert waiting.conclude(None, FAST, final=False).final is False
    desk.engine.stop(NotWritten("over"))
    outcome = desk.only(waiting)
    assert isinstance(outcome, Rejected)
    assert outcome.clock is FAST


def test_signed_anew_once_and_only_for_its_latest_attempt() -> None:
    numbers: list[int] = []

    def sign_again_at(number: int) -> float:
        numbers.append(number)
        return 0.0

    desk = Desk()
    desk.clock.answer = sign_again_at
    one = desk.submit("a")
    desk.answer(refusal(desk.ids[0], 400, 40011))
    desk.answer(refusal(desk.ids[1], 400, 40011))
    assert numbers == [1]
    assert desk.only(one).kind == "rejected"
    desk.policy = RetryPolicy(reply_timeout=2)
    other = desk.submit("b")
    desk.wait(2.5)
    assert len(other.flights) == 2
    desk.answer(refusal(other.flights[0].request_id, 400, 40011))
    assert numbers == [1]
    desk.wait(1)
    desk.answer(refusal(other.flights[1].request_id, 400, 40011))
    assert desk.only(other).kind == "rejected"  # it was refused for good by then
    assert numbers == [1]
    desk.policy = RetryPolicy(retry=False)
    once = desk.submit("c")
    desk.answer(refusal(once.flights[0].request_id, 400, 40011))
    assert desk.only(once).kind == "rejected"
    assert numbers == [1]
    desk.policy = RetryPolicy()
    left = desk.submit("d")
    desk.abandon(left)
    desk.answer(refusal(left.flights[0].request_id, 400, 40011))
    assert desk.only(left).kind == "rejected"
    assert numbers == [1]


def test_what_waits_for_a_look_is_let_go_when_it_has_been_made() -> None:
    desk = Desk()
    waiting = refused_signature(desk)
    desk.wait(5)
    assert len(desk.ids) == 1
    desk.engine.probed(desk.now)
    desk.wait(0)
    assert len(desk.ids) == 2
    assert waiting.not_before == 5


# Whose turn it is


def test_single_cancels_have_the_room_that_single_cancels_leave() -> None:
    desk = Desk()
    governor = desk.engine._rate
    governor.window = 3
    _, bulk = desk.submit_bulk("x", "y", "z")
    first = [desk.submit(name) for name in "abc"]
    assert all(one.flights for one in first)  # a single one waits for no bulk
    desk.answer(canceled(first[0].flights[0].request_id, "a"))
    governor.window = 3
    more = [desk.submit(name) for name in "de"]
    assert [len(one.flights) for one in more] == [1, 0]
    desk.answer(canceled(bulk[0].flights[0].request_id, "x"))
    governor.window = 3
    desk.wait(0)
    assert len(more[1].flights) <= 1


def test_what_is_a_single_cancel_says_so_itself() -> None:
    assert not bare(CancelRequest("o")).priority


def test_bulk_cancels_take_their_turns_in_the_order_in_which_they_came() -> None:
    queue = Queue()
    sources = [Bulk([order(f"{name}{number}") for number in range(2)]) for name in "abc"]
    for source in sources:
        queue.add_source(source)
    taken = [queue.take_bulk(1)[0].request.key for _ in range(6)]
    assert taken == ["a0", "b0", "c0", "a1", "b1", "c1"]


@pytest.mark.parametrize("ask", [True, False])
def test_of_what_is_due_the_single_ones_come_first(ask: bool) -> None:
    queue = Queue()
    bulk, single = order("bulk"), order("single")
    bulk.priority = False
    for number, one in enumerate((bulk, single)):
        one.state = State.RETRYING
        one.not_before = float(number)
        queue.retry(one)
    if ask:
        assert queue.next_due(2.0) == math.inf
    assert [queue.next_retry(2.0), queue.next_retry(2.0), queue.next_retry(2.0)] == [single, bulk, None]


def test_only_what_waits_for_a_look_is_released_by_it() -> None:
    queue = Queue()
    later, looking, gone, sooner = (order(name) for name in "abcd")
    for one, at in ((later, 9.0), (looking, math.inf), (gone, math.inf), (sooner, 8.0)):
        one.state = State.RETRYING
        one.not_before = at
        queue.retry(one)
    gone.state = State.SETTLED
    queue.release(5.0)
    queue.release(6.0)  # it waits for nothing any more
    assert [one.not_before for one in (later, looking, gone, sooner)] == [9.0, 5.0, math.inf, 8.0]
    assert sorted(queue.retrying(), key=id) == sorted((later, looking, sooner), key=id)
    assert queue.next_retry(4.9) is None
    assert queue.next_retry(5.0) is looking
    assert queue.next_due(5.0) == 8.0
    assert [queue.next_retry(9.0), queue.next_retry(9.0), queue.next_retry(9.0)] == [sooner, later, None]


def test_a_lookup_waits_for_an_attempt_that_is_due() -> None:
    desk = Desk(auto=False, pacer=Pacer(1000))
    desk.submit()
    desk.write()
    desk.wait(11)
    assert desk.engine.admit_lookup(desk.now) == desk.now
    desk.wait(1.5)
    assert desk.engine.admit_lookup(desk.now) > desk.now


# What is told


@pytest.mark.parametrize("signed", [0.0, 20.0])
def test_how_long_the_venue_has_been_silent(signed: float) -> None:
    async def main() -> None:
        desk = Desk()
        assert not desk.engine.is_silent(30)
        await trio.sleep(signed)
        desk.engine._silence.alive(signed)
        await trio.sleep(5)
        desk.engine._silence.ask(trio.current_time())
        await trio.sleep(7.9)
        assert not desk.engine.is_silent(8)  # for such patience it began with the question
        await trio.sleep(0.1)
        assert desk.engine.is_silent(8)
        await trio.sleep(16.9)
        assert not desk.engine.is_silent(30)
        await trio.sleep(0.1)
        assert desk.engine.is_silent(30)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_what_settled_is_remembered_for_a_while() -> None:
    desk = Desk()
    for number in range(LATE_KEPT + 10):
        desk.submit(f"o{number}")
        desk.answer(canceled(desk.ids[-1], f"o{number}"))
    for number in (0, LATE_KEPT + 9):
        desk.answer(canceled(desk.ids[number], f"o{number}"))
    assert (desk.engine.statistics().duplicates, desk.engine.statistics().unknown_id) == (2, 0)


def test_who_settles_late_is_named(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    one = desk.submit("late")
    desk.abandon(one)
    with caplog.at_level(logging.INFO, "trio_cancel"):
        desk.answer(canceled(desk.ids[0], "late"))
    assert "order late settled as canceled after its caller had left" in caplog.text
