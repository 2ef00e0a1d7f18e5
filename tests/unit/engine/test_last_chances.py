"""Last chances in a silence, one rule at a time: who gets one, how many at once, within which pace."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from tests.tools.desk import Bulk, Desk, Order, canceled
from trio_cancel import NoReply, NotSent, NotWritten, Unknown
from trio_cancel._engine.engine import SLICE, WRITE_MOST
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._engine.rate import WINDOW_START, Pacer
from trio_cancel._values.models import CancelRequest


def bulk(count: int, held_since: float = 0.0) -> Bulk:
    return Bulk(
        [Order(CancelRequest(f"o{number}"), RetryPolicy(), priority=False) for number in range(count)], held_since
    )


def silent_desk(pacer: Pacer | None = None) -> Desk:
    """A desk in a silence that began at 0, whose writer writes when it is told to."""
    desk = Desk(auto=False, pacer=pacer)
    desk.engine._silence.ask(0.0)
    return desk


def fill_window(desk: Desk) -> list[Order]:
    """Let orders that wait for their answers take all places."""
    policy, desk.policy = desk.policy, RetryPolicy(reply_timeout=100)
    orders = [desk.submit(f"w{number}") for number in range(WINDOW_START)]
    desk.policy = policy
    desk.write()
    return orders


class Noting(Bulk):
    """A source that keeps what it is told; what it still has came ``later``, if that is given."""

    def __init__(self, held_since: float = 0.0, later: float | None = None) -> None:
        super().__init__([], held_since)
        self.gave_up: list[float] = []
        self.later = later

    def give_up(self, cause: BaseException, before: float) -> bool:
        self.gave_up.append(before)
        if self.later is None:
            return True
        self.held_since = self.later
        return False


def test_what_a_silence_gave_ends_with_it_when_a_single_cancel_asks_the_next_question() -> None:
    desk = silent_desk()
    fill_window(desk)
    desk.engine.submit_source(bulk(3), 0.0)
    desk.wait(24.5)
    assert desk.engine.last_chance
    desk.engine._silence.alive(desk.now)
    desk.window += 1
    single = Order(CancelRequest("single"), desk.policy)
    desk.engine.submit_lone(single, desk.now)
    assert desk.engine.take_single(desk.now) == [single]
    assert not desk.engine.last_chance


# How many in one write


@pytest.mark.parametrize("single", [True, False])
def test_one_write_holds_so_many_and_no_more(single: bool) -> None:
    desk = silent_desk()
    fill_window(desk)
    if single:
        for number in range(3 * WRITE_MOST):
            desk.submit(f"o{number}")
    else:
        desk.engine.submit_source(bulk(3 * WRITE_MOST), 0.0)
    desk.wait(24.5)
    sizes = [len(desk.engine.take(desk.now)[0]) for _ in range(4)]
    assert sizes == [WRITE_MOST] * 3 + [0]


def test_those_of_singles_and_of_bulks_share_a_write() -> None:
    desk = silent_desk()
    fill_window(desk)
    singles = [desk.submit(f"s{number}") for number in range(10)]
    sources = [bulk(20), bulk(WRITE_MOST)]
    for source in sources:
        desk.engine.submit_source(source, 0.0)
    desk.wait(24.5)
    admitted, _ = desk.engine.take(desk.now)
    assert len(admitted) == WRITE_MOST
    assert admitted[:10] == singles
    assert [source.behind() for source in sources] == [20, 10]  # the larger one begins sooner


# Within a pace


@pytest.mark.parametrize(("early", "count", "ask_in"), [(0, 3, 0.05), (2, 1, 0.05), (5, 0, 0.25)])
@pytest.mark.parametrize("single", [True, False])
def test_ahead_of_their_turns_no_more_are_admitted_than_have_one_soon(
    early: int, count: int, ask_in: float, single: bool
) -> None:
    desk = silent_desk(Pacer(10))
    if single:
        for number in range(300):
            desk.submit(f"o{number}")
    else:
        desk.engine.submit_source(bulk(300), 0.0)
    desk.window = 0
    desk.wait(10)
    before = desk.engine._pacer.full_at if desk.engine._pacer else 0
    admitted, ask_at = desk.engine.take(desk.now, early, 0.25)
    assert len(admitted) == count
    assert ask_at == pytest.approx(desk.now + ask_in)
    assert desk.engine._pacer is not None
    assert desk.engine._pacer.full_at == before  # a turn is counted at the write


def test_single_cancels_get_theirs_early_enough_for_all_within_the_pace() -> None:
    desk = Desk(pacer=Pacer(1))
    orders = [desk.submit(f"o{number}") for number in range(WINDOW_START + 13)]
    desk.wait(29.9)
    assert all(order.flights for order in orders)
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in pairwise(desk.times))


def test_where_turns_are_few_none_is_for_what_was_written_before() -> None:
    desk = Desk(pacer=Pacer(0.5), policy=RetryPolicy(reply_timeout=4))
    _, orders = desk.submit_bulk(*(f"o{number}" for number in range(20)))
    desk.wait(29)
    assert {key for at, _, key in desk.written if at < 4} == {"o0", "o1"}
    late = [key for at, _, key in desk.written if at > 7.5]
    assert len(late) == len(set(late)) == 11
    assert {order.request.key for order in orders if len(order.flights) > 1}.isdisjoint(late)


# Who gets one


def test_what_was_written_or_withdrawn_meanwhile_gets_none_and_hides_none() -> None:
    desk = silent_desk()
    filling = fill_window(desk)
    written, withdrawn, third = (desk.submit(name) for name in "abc")
    desk.wait(24.5)
    assert list(desk.engine._queue.last_chance) == [written, withdrawn, third]
    desk.abandon(withdrawn)
    desk.window += 1
    admitted, _ = desk.engine.take(desk.now)
    assert admitted == [written, third]
    assert written in desk.engine._in_flight.active  # in its place in the window
    assert third in desk.engine._in_flight.last
    assert all(order.kind is None for order in filling)


def test_in_a_silence_that_began_anew_it_has_to_come_anew() -> None:
    desk = silent_desk()
    first, *_ = fill_window(desk)
    order = desk.submit("waits")
    source = bulk(5)
    desk.engine.submit_source(source, 0.0)
    desk.wait(24.5)
    desk.window = 0
    desk.answer(canceled(first.flights[0].request_id, "w0"))
    desk.window = 0
    desk.engine._silence.ask(desk.now)  # and is silent again
    desk.wait(7.4)
    assert desk.engine.take(desk.now)[0] == []
    assert (order.kind, source.refused, source.behind()) == (None, None, 5)
    desk.wait(24 - 7.4)
    assert len(desk.engine.take(desk.now)[0]) == 6


def test_what_comes_into_a_bulk_after_its_chance_has_its_own_time() -> None:
    desk = silent_desk()
    desk.window = 0
    source = bulk(2)
    desk.engine.submit_source(source, 0.0)
    desk.wait(24.5)
    source.held_since = 24.0  # what was there before has been taken
    assert desk.engine.take(desk.now)[0] == []
    desk.now = 24.0 + 7.5
    assert len(desk.engine.take(desk.now)[0]) == 2


def test_a_last_chance_that_was_not_written_waits_for_a_place_when_the_venue_is_back() -> None:
    desk = silent_desk()
    first, *others = fill_window(desk)
    order = desk.submit("last")
    desk.wait(24.5)
    (flight,) = desk.write()
    assert flight.order is order
    desk.engine.not_written([flight], NotWritten("the peer does not read"), desk.now)
    assert list(desk.engine._queue.last_chance) == [order]
    desk.answer(canceled(first.flights[0].request_id, "w0"))  # a sign of life
    desk.engine._silence.ask(desk.now)
    desk.window = len(others)
    assert desk.engine.take(desk.now)[0] == []
    assert desk.engine.take(desk.now)[0] == []  # there is no room for it
    desk.window += 1
    assert desk.engine.take(desk.now)[0] == [order]
    assert order in desk.engine._in_flight.active


def test_what_turns_are_left_go_to_what_was_written_before() -> None:
    for early, both in ((None, True), (2, False)):
        desk = Desk(auto=False, pacer=Pacer(10, burst=5 if early is None else 1))
        before = desk.submit("before")
        desk.write()
        desk.window = 0
        untried = desk.submit("untried")
        desk.wait(24.5)
        assert before.state is State.RETRYING
        admitted, _ = desk.engine.take(desk.now, early, 0.25 if early else 0.0)
        assert admitted == ([untried, before] if both else [untried])


def test_very_many_new_ones_are_looked_at_in_several_steps() -> None:
    desk = silent_desk()
    desk.window = 0
    for number in range(SLICE + 1):
        desk.engine.submit(Order(CancelRequest(f"o{number}"), RetryPolicy()), 0.0)
    assert desk.engine.expire(1.0) == 1.0
    assert desk.engine.expire(1.0) > 20


# How it ends


def test_withdrawn_and_without_its_connection_it_is_settled_at_its_deadline() -> None:
    desk = silent_desk()
    fill_window(desk)
    order = desk.submit("last")
    desk.wait(24.5)
    desk.write()
    assert order in desk.engine._in_flight.last
    desk.abandon(order)
    desk.down()
    desk.wait(0.1)
    desk.wait(30)
    assert desk.only(order).kind == "unknown"
    assert desk.engine.statistics().pending == 0


def test_its_answer_that_comes_too_late_is_no_noise() -> None:
    desk = silent_desk()
    fill_window(desk)
    desk.submit("last")
    desk.wait(24.5)
    (flight,) = desk.write()
    desk.wait(10)
    desk.answer(canceled(flight.request_id, "last"))
    assert (desk.engine.statistics().late, desk.engine.statistics().unknown_id) == (1, 0)


def test_why_a_last_chance_was_of_no_use() -> None:
    desk = Desk()
    desk.engine._silence.ask(0.0)
    fill_window(desk)
    order = desk.submit("last")
    desk.wait(31)
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, NoReply)
    assert str(outcome.cause) == "no answer came before its time of 30 s was over"


def test_an_unanswered_order_in_its_place_says_how_long_an_answer_was_waited_for() -> None:
    desk = Desk(policy=RetryPolicy(reply_timeout=40, give_up_after=30))
    order = desk.submit()
    desk.wait(31)
    outcome = desk.only(order)
    assert isinstance(outcome, Unknown)
    assert str(outcome.cause) == "no answer within 40 s"


def test_what_was_not_written_and_has_a_place_says_what_it_lacked() -> None:
    desk = Desk()
    order = desk.submit()
    desk.engine.not_written(desk.flights, NotWritten("x"), desk.now)
    desk.down()
    desk.wait(31)
    outcome = desk.only(order)
    assert isinstance(outcome, NotSent)
    assert str(outcome.cause) == "there was no connection in time"


def test_bulks_are_given_up_each_for_what_came_in_time() -> None:
    desk = silent_desk()
    desk.up = False
    ending, going_on, another = Noting(), Noting(later=20.0), Noting()
    for source in (ending, going_on, another):
        desk.engine.submit_source(source, 0.0)
    assert desk.engine.expire(30.0) == pytest.approx(44, abs=0.01)  # the chance of what came at 20
    for source in (ending, going_on, another):
        assert source.gave_up == [pytest.approx(0.0, abs=1e-5)]
        assert source.gave_up[0] >= 0.0
    assert desk.engine._queue.sources() == [going_on]


def test_a_pace_gives_no_time_in_a_silence() -> None:
    desk = Desk(pacer=Pacer(0.01, burst=2))
    order = desk.submit()
    desk.wait(29.9)
    assert (order.kind, order.state) == (None, State.RETRYING)
    desk.wait(0.2)
    assert order.kind == "unknown"


def test_a_full_window_with_more_that_waits_is_an_open_question() -> None:
    desk = Desk(policy=RetryPolicy(give_up_after=2))
    desk.submit("early")
    desk.wait(3)
    desk.policy = RetryPolicy()
    for number in range(WINDOW_START):
        desk.submit(f"w{number}")
    order = desk.submit("waits")
    desk.wait(1)
    desk.window = WINDOW_START
    desk.answer(canceled(desk.ids[0], "early"))  # too late for its order, but a sign of life
    assert not order.flights
    assert desk.engine._silence.asked_at == desk.now
    assert desk.engine._silence.since(30.0) < math.inf


# Between admission and signature


def test_what_has_no_time_left_in_a_silence_is_not_signed() -> None:
    desk = silent_desk()
    order, other = desk.submit("a"), desk.submit("b")
    desk.now = 1.0
    admitted, _ = desk.engine.take(desk.now)
    assert admitted == [order, other]
    assert desk.engine.sign(admitted, 1, 29.9, desk.wall)[0]
    desk = silent_desk()
    order, other = desk.submit("a"), desk.submit("b")
    desk.now = 1.0
    admitted, _ = desk.engine.take(desk.now)
    desk.now = 31.0
    assert desk.engine.sign(admitted, 1, desk.now, desk.wall) == ([], [])
    assert [(desk.only(one).kind, desk.only(one).final) for one in (order, other)] == [("not_sent", True)] * 2


def test_an_attempt_that_is_out_of_time_leaves_the_one_before_its_answer() -> None:
    desk = Desk(auto=False)
    order, withdrawn, young = desk.submit("a"), desk.submit("b"), desk.submit("c")
    desk.engine.remove_source(bulk(0))  # one that is not there is no error
    assert len(desk.write()) == 3
    desk.wait(12.5)
    admitted, _ = desk.engine.take(desk.now)
    assert set(admitted) == {order, withdrawn, young}
    desk.engine.abandon(withdrawn)
    young.running_from = 29.0
    young.handed_in = young.held_since = 29.0
    desk.engine._silence.alive(12.5)
    flights, texts = desk.engine.sign([order, withdrawn, young], 1, 30.5, desk.wall)
    assert [flight.order for flight in flights] == [young]
    assert len(texts) == 1
    assert (order.state, order.kind) == (State.IN_FLIGHT, None)
    desk.now = 30.5
    desk.engine.read([canceled(order.flights[0].request_id, "a")], 1, desk.now, desk.wall)
    assert order.kind == "canceled"
