"""Whose time is over when, to the second: outages, backoffs, deadlines, and what the writer and the timer are told."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

import pytest

from tests.tools.desk import WALL, Bulk, Desk, Order, canceled, refusal
from tests.tools.venues import Remembering
from trio_cancel import ConnectionLost, NotSent, NotWritten, Rejected, SessionClosed, Unknown
from trio_cancel._engine.engine import LOOKUP_YIELDS, WRITE_MOST
from trio_cancel._engine.order import OrderCancel, RetryPolicy, State
from trio_cancel._engine.rate import PACED_START, WINDOW_MOST, WINDOW_START, Pacer
from trio_cancel._values.models import CancelRequest


def down_since(desk: Desk) -> float | None:
    return desk.engine._down_since  # which mypy takes for what it was


def cause_of(order: Order) -> str:
    (outcome,) = order.delivered
    assert isinstance(outcome, NotSent | Unknown)
    return str(outcome.cause)


# An outage


def test_a_bulk_cancel_in_an_outage_has_its_time_from_its_own_start() -> None:
    desk = Desk()
    desk.submit()
    desk.down()
    desk.wait(20)
    source, _ = desk.submit_bulk("a", "b")
    desk.wait(29.9)
    early = source.refused
    desk.wait(0.2)
    assert early is None
    assert isinstance(source.refused, NotWritten)


def test_a_bulk_cancel_that_was_running_has_its_time_from_the_start_of_the_silence() -> None:
    desk = Desk()
    source, orders = desk.submit_bulk(*(f"o{index}" for index in range(500)))
    for _ in range(3):  # the venue lives for 60 s
        desk.wait(20)
        last = desk.ids[-1]
        desk.answer(canceled(last, desk.written[-1][2]))
    desk.down(ConnectionLost("cut"))
    desk.wait(29.9)
    early = source.refused
    desk.wait(0.2)
    assert early is None
    assert isinstance(source.refused, NotWritten)
    assert str(source.refused) == "there was no connection in time: cut"
    assert str(source.refused.__cause__) == "cut"
    assert sum(order.kind == "canceled" for order in orders) == 3


def test_what_was_never_written_says_why() -> None:
    desk = Desk(up=False)
    order = desk.submit()
    desk.wait(30.1)
    assert cause_of(order) == "there was no connection in time"
    desk = Desk()
    desk.down(ConnectionLost("cut"))
    order = desk.submit()
    desk.wait(30.1)
    assert cause_of(order) == "there was no connection in time: cut"
    desk = Desk(auto=False)
    desk.engine._silence.ask(desk.now)
    order = desk.submit()
    desk.wait(30.1)
    assert cause_of(order) == "the venue gave no sign of life for 30 s"


@pytest.mark.parametrize("cause", [None, OSError("reset")])
def test_a_lost_connection_is_told_with_its_cause(cause: BaseException | None) -> None:
    desk = Desk(policy=RetryPolicy(retry=False))
    order = desk.submit()
    desk.down(cause)
    text = "the connection was lost before the answer came"
    assert cause_of(order) == (text if cause is None else f"{text} (reset)")
    (outcome,) = order.delivered
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, ConnectionLost)
    assert outcome.cause.__cause__ is cause


def test_a_backoff_survives_the_loss_of_the_connection() -> None:
    desk = Desk()
    order = desk.submit()
    for _ in range(5):
        desk.answer(refusal(desk.ids[-1], 503))
        desk.wait(order.not_before - desk.now + 1e-6)
    desk.answer(refusal(desk.ids[-1], 503))
    due = order.not_before
    assert due - desk.now >= 2
    written = len(desk.ids)
    desk.down()
    desk.come_up()
    desk.wait(due - desk.now - 0.01)
    assert len(desk.ids) == written  # a new connection is no reason to ask sooner
    assert (order.not_before, order.retries) == (due, 6)
    desk.wait(0.02)
    assert len(desk.ids) == written + 1
    desk.down()  # and one that is under way is written again at once
    desk.come_up()
    assert len(desk.ids) == written + 2


def test_only_the_attempts_on_the_lost_connection_are_lost() -> None:
    desk = Desk()
    order = desk.submit()
    desk.engine.connection_down(7, None, desk.now)
    assert (order.state, order.doubt, len(desk.engine.unanswered())) == (State.IN_FLIGHT, None, 1)
    assert down_since(desk) == 0
    desk.wait(1)
    desk.down()
    assert down_since(desk) == 0  # since the first loss
    assert len(desk.engine.unanswered()) == 0
    desk.come_up()
    assert down_since(desk) is None
    assert desk.engine._down_because is None


def test_a_doubt_that_was_there_before_the_loss_stays() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(12)
    doubt = order.doubt
    assert doubt is not None
    desk.down()
    assert order.doubt is doubt


def test_a_new_connection_begins_with_a_small_window() -> None:
    desk = Desk()
    desk.window = WINDOW_MOST
    desk.down()
    desk.come_up()
    assert desk.window == WINDOW_START


def test_in_an_outage_the_time_of_what_a_pace_held_back_runs() -> None:
    desk = Desk(pacer=Pacer(0.01, burst=2))
    order = desk.submit()
    desk.submit("other")
    desk.answer(refusal(desk.ids[0], 429))
    desk.answer(canceled(desk.ids[1], "other"))
    desk.wait(40)
    assert (order.running_from, order.kind) == (None, None)  # it stands still
    desk.down()
    assert order.running_from == desk.now
    spent = order.time_spent
    desk.wait(30 - spent + 0.1)
    assert order.kind == "rejected"


# Single cancels


def test_a_single_cancel_rings_where_it_is_heard() -> None:
    desk = Desk(auto=False)
    bell = desk.engine.wakeup
    bell._rung = False
    assert desk.engine.submit_lone(Order(CancelRequest("a"), RetryPolicy()), 0.0)
    assert not bell._rung  # whoever hands it in has it written at once
    desk.write()
    assert not desk.engine.submit_lone(Order(CancelRequest("b"), RetryPolicy()), 0.0)
    assert bell._rung


def test_beside_a_bulk_a_single_cancel_is_admitted_alone() -> None:
    desk = Desk(auto=False)
    desk.submit_bulk("a", "b")
    desk.write()
    desk.submit_bulk("c")
    single = Order(CancelRequest("s"), RetryPolicy())
    assert desk.engine.submit_lone(single, 0.0)
    assert desk.engine.take_single(0.0) == [single]
    assert [flight.order.request.id for flight in desk.write()] == ["c"]
    assert not desk.engine.submit_lone(Order(CancelRequest("t"), RetryPolicy()), 0.0)  # they are written together


def test_what_is_admitted_alone_is_a_question() -> None:
    desk = Desk(auto=False)
    silence = desk.engine._in_flight.silence
    assert desk.engine.take_single(0.0) == []
    assert silence.since(30.0) == math.inf
    desk.engine.submit_lone(Order(CancelRequest("s"), RetryPolicy()), 0.0)
    assert desk.engine.take_single(0.0)
    assert silence.since(30.0) < math.inf
    assert desk.engine.alarm.at < 30.0


def test_where_there_is_a_pace_nothing_is_admitted_alone() -> None:
    desk = Desk(pacer=Pacer(1.0), auto=False)
    desk.engine.submit_lone(Order(CancelRequest("s"), RetryPolicy()), 0.0)
    assert desk.engine.take_single(0.0) == []
    assert len(desk.write()) == 1


def test_everything_that_is_handed_in_is_counted_and_told() -> None:
    watch = Remembering()
    desk = Desk(observer=watch)
    order = desk.submit()
    desk.engine.count_queued(2)
    desk.engine.notify_queued([CancelRequest("a"), CancelRequest("b")])
    assert watch.of("request_queued") == [(order.request,), (CancelRequest("a"),), (CancelRequest("b"),)]
    assert watch.of("request_written") == [(order.request, desk.ids[0])]
    assert (desk.engine.statistics().queued, desk.engine.statistics().written) == (3, 1)
    assert desk.engine.signed == 1
    assert desk.ids == ["r-1"]


def test_after_the_end_nothing_is_taken() -> None:
    desk = Desk()
    cause = SessionClosed("over")
    desk.engine.stop(cause)
    order = desk.submit()
    source, _ = desk.submit_bulk("a")
    assert source.refused is cause
    (outcome,) = order.delivered
    assert isinstance(outcome, NotSent)
    assert outcome.cause is cause
    assert not desk.engine._queue
    assert desk.engine.statistics().queued == 1


def test_who_waits_for_a_connection() -> None:
    desk = Desk(auto=False)
    engine = desk.engine

    def told() -> tuple[bool, int, int]:
        return engine.waiting, engine.statistics().pending, len(engine.unanswered())

    assert told() == (False, 0, 0)
    order = desk.submit()
    assert told() == (True, 0, 0)
    desk.write()
    assert told() == (True, 1, 1)
    desk.abandon(order)
    desk.wait(12)
    assert told() == (False, 1, 1)
    source, _ = desk.submit_bulk("a")
    assert told() == (True, 1, 1)
    engine.remove_source(source)
    assert told() == (False, 1, 1)


# What the writer asks


def test_the_deadline_of_an_attempt_is_its_reply_timeout_or_what_is_left() -> None:
    desk = Desk(policy=RetryPolicy(reply_timeout=12, give_up_after=30))
    order = desk.submit()
    desk.wait(30)
    assert [flight.deadline for flight in order.flights] == [12, 24, 30]
    assert [flight.written for flight in order.flights] == [0, 12, 24]
    assert [flight.written_at for flight in order.flights] == [WALL, WALL + 12, WALL + 24]
    assert order.kind == "unknown"


def test_the_writer_is_told_how_long_the_socket_may_take() -> None:
    desk = Desk()
    assert desk.engine.time_left([], 0.0) == math.inf
    first = desk.submit("a")
    desk.wait(10)
    second = desk.submit("b")
    flights = [*first.flights, *second.flights]
    assert desk.engine.time_left(flights, 10.0) == pytest.approx(30 * 0.99)
    assert desk.engine.time_left(list(first.flights), 10.0) == pytest.approx(20 * 0.99)
    assert desk.engine.time_left(list(first.flights), 29.95) == pytest.approx(0.05 - 0.001)
    assert desk.engine.time_left(list(first.flights), 31.0) == 0
    desk.answer(canceled(desk.ids[0], "a"))
    assert desk.engine.time_left([desk.flights[0]], 10.0) == math.inf


def test_what_was_not_written_wholly_is_undone() -> None:
    desk = Desk()
    order, gone, refused = desk.submit("a"), desk.submit("b"), desk.submit("c")
    refused.refused_for_good = True
    desk.abandon(gone)
    cause = OSError("reset")
    desk.auto = False
    desk.engine.not_written(list(desk.flights), cause, desk.now)
    assert (order.state, order.flights) == (State.RETRYING, ())
    for other in (gone, refused):
        (outcome,) = other.delivered
        assert isinstance(outcome, NotSent)
        assert outcome.cause is cause
    assert (desk.engine.statistics().written, len(desk.engine.unanswered())) == (0, 0)
    desk.engine.not_written(list(desk.flights), cause, desk.now)  # they are known no more
    assert desk.engine.statistics().written == 0


def test_an_earlier_attempt_may_still_be_answered_when_a_later_one_was_not_written() -> None:
    desk = Desk()
    order = desk.submit()
    desk.wait(12)
    order.refused_for_good = True
    desk.engine.not_written([order.flights[-1]], OSError("reset"), desk.now)
    assert (order.kind, len(order.flights)) == (None, 1)
    desk.answer(canceled(desk.ids[0]))
    assert order.kind == "canceled"


def test_what_was_admitted_early_is_let_through_at_its_turn() -> None:
    desk = Desk(pacer=Pacer(10), auto=False)
    desk.up = False
    orders = [desk.submit(f"o{index}") for index in range(4)]
    engine = desk.engine
    admitted, ask_at = engine.take(0.0, early=0, ahead=0.25)
    assert admitted == orders[:3]  # those whose turn comes within a quarter of a second
    assert ask_at == pytest.approx(0.05)
    held: deque[OrderCancel] = deque(admitted)
    for now, expected in ((0.0, orders[:1]), (0.05, [])):
        taken, ask_at = engine.let_through(held, 10, now)
        assert taken == expected
        assert ask_at == pytest.approx(0.1)
    orders[1].state = State.SETTLED
    assert engine.let_through(held, 10, 0.1) == ([orders[2]], math.inf)
    assert not held
    held = deque([orders[3]])
    orders[3].state = State.ADMITTED
    assert engine.let_through(held, 0, 0.5) == ([], math.inf)
    assert list(held) == [orders[3]]


def test_without_a_pace_all_are_let_through_at_once() -> None:
    desk = Desk(auto=False)
    orders = [desk.submit(f"o{index}") for index in range(4)]
    admitted, ask_at = desk.engine.take(0.0, early=0)
    assert (admitted, ask_at) == (orders, math.inf)
    held: deque[OrderCancel] = deque(admitted)
    assert desk.engine.let_through(held, 3, 0.0) == (orders[:3], math.inf)
    assert list(held) == [orders[3]]


def test_one_write_has_its_bounds() -> None:
    desk = Desk(auto=False)
    desk.window = 1000
    desk.submit_bulk(*(f"o{index}" for index in range(600)))
    admitted, _ = desk.engine.take(0.0)
    assert len(admitted) == WRITE_MOST
    for pending in admitted:
        pending.state = State.IN_FLIGHT
    singles = [desk.submit(f"s{index}") for index in range(3)]
    again, _ = desk.engine.take(0.0)
    assert again[:3] == singles
    assert len(again) == WRITE_MOST


def test_a_pacer_spaces_single_and_bulk_cancels_alike() -> None:
    desk = Desk(pacer=Pacer(4, burst=2))
    desk.submit_bulk("a", "b", "c")
    desk.submit("s")
    desk.wait(5)
    assert desk.times == pytest.approx([0, 0, 0.25, 0.5])
    assert [key for _, _, key in desk.written] == ["a", "b", "s", "c"]


def test_two_paces_hold_back_as_much_as_the_slower_one() -> None:
    desk = Desk(pacer=Pacer(2))
    desk.submit("first")
    desk.answer(refusal(desk.ids[0], 429))
    for index in range(4):
        desk.submit(f"o{index}")
    desk.wait(3)
    assert all(later - earlier >= 0.5 - 1e-9 for earlier, later in pairwise(desk.times))
    assert not desk.engine.unpaced


def test_the_correction_of_the_clock_is_in_seconds() -> None:
    desk = Desk()
    texts: list[int] = []
    desk.engine._sign = lambda orders, at: texts.append(at) or [b"" for _ in orders]  # type: ignore[func-returns-value]
    desk.engine.clock.correction = -1.5
    desk.submit()
    assert texts == [int((WALL - 1.5) * 1000)]


# What lookups ask


def test_a_lookup_waits_for_nothing_where_no_limit_is_known() -> None:
    desk = Desk()
    assert desk.engine.admit_lookup(5.0) == 5.0
    assert desk.engine._rate.ready_at() == -math.inf


def test_a_lookup_takes_its_turn_behind_cancels() -> None:
    desk = Desk(pacer=Pacer(4, burst=3))
    engine = desk.engine
    assert engine.admit_lookup(0.0) == 0.0
    assert engine.admit_lookup(0.0) == 0.25  # never more than one of the burst
    assert engine.admit_lookup(0.25) == 0.25
    desk.auto = False
    desk.submit("waits")
    assert engine.admit_lookup(1.0) == 1.0 + LOOKUP_YIELDS
    desk.down()
    assert engine.admit_lookup(1.0) == 1.0  # no cancel can be written now


def test_a_lookups_429_is_the_accounts() -> None:
    watch = Remembering()
    desk = Desk(observer=watch)
    desk.engine.lookup_limited(1.0, 0.5)
    assert desk.engine._rate.rate == PACED_START
    assert watch.of("paced") == [(PACED_START,)]
    desk.engine.lookup_limited(1.1, 0.5)
    assert len(watch.of("paced")) == 1
    assert desk.engine.admit_lookup(1.1) == pytest.approx(1.2)
    assert desk.engine.admit_lookup(1.2) == 1.2
    assert desk.engine.admit_lookup(1.2) == pytest.approx(1.4)


# The timer


def test_the_timer_says_when_to_look_again() -> None:
    desk = Desk(auto=False)
    engine = desk.engine
    assert engine.expire(0.0) == math.inf
    order = Order(CancelRequest("o"), RetryPolicy())
    engine.submit(order, 0.0)
    desk.write()
    assert engine.expire(1.0) == 12
    assert engine.expire(11.0) == 12
    desk.abandon(order)
    assert engine.expire(11.5) == 12
    engine.expire(12.0)
    assert order in engine._in_flight.overdue


def test_an_order_is_given_up_at_its_time_and_the_timer_knows_it() -> None:
    desk = Desk(policy=RetryPolicy(reply_timeout=20, give_up_after=15), auto=False)
    order = desk.submit()
    desk.write()
    assert order.flights[0].deadline == 15
    assert desk.engine.expire(14.9) == 15
    desk.engine.expire(15.0)
    assert order.kind == "unknown"


def test_a_refusal_for_now_that_lasts_is_a_rejection_at_its_time() -> None:
    desk = Desk()
    order = desk.submit()
    while order.kind is None and desk.now < 60:
        if order.flights and order.flights[-1].answered_at is None:
            desk.answer(refusal(desk.ids[-1], 429))
        desk.wait(0.05)
    (outcome,) = order.delivered
    assert isinstance(outcome, Rejected)
    assert 29.9 < desk.now < 30.2


def test_sources_are_given_their_last_chance_and_then_given_up() -> None:
    desk = Desk(auto=False)
    desk.up = False
    engine = desk.engine
    source = Bulk([Order(CancelRequest("a"), RetryPolicy(), priority=False)])
    engine.submit_source(source, 0.0)
    assert engine.expire(0.0) == math.inf  # there is no silence yet
    engine._silence.ask(0.0)
    assert engine.expire(0.0) == pytest.approx(24, abs=0.01)
    assert engine.expire(23.9) == pytest.approx(24, abs=0.01)
    assert engine._chances == {}
    assert engine.expire(24.0) == 30
    assert engine._chances == {source: None}
    engine.expire(30.0)
    assert isinstance(source.refused, NotWritten)
    assert engine._chances == {}
    assert engine._queue.sources() == []


def test_a_bulk_cancel_gets_its_last_chance_early_enough_for_its_pace() -> None:
    for pacer, chance_at in ((None, 24.0 - 100 * 5e-5), (Pacer(20), 19.0)):
        desk = Desk(auto=False, pacer=pacer)
        desk.up = False
        orders = [Order(CancelRequest(f"o{index}"), RetryPolicy(), priority=False) for index in range(100)]
        desk.engine.submit_source(Bulk(orders), 0.0)
        desk.engine._silence.ask(0.0)
        assert desk.engine.expire(0.0) == pytest.approx(chance_at)
        desk.engine._rate.rate = 10.0
        assert desk.engine.expire(0.0) == pytest.approx(14.0)  # the slower of the two


@pytest.mark.parametrize(("retry", "reply_timeout", "ends"), [(False, 2, 26.0), (True, 2, 30.0), (False, 12, 30.0)])
def test_a_last_chance_ends_with_the_orders_time_or_its_only_reply_timeout(
    retry: bool, reply_timeout: float, ends: float
) -> None:
    desk = Desk()
    for index in range(WINDOW_START):
        desk.submit(f"o{index}")  # none of them is ever answered
    order = Order(CancelRequest("last"), RetryPolicy(reply_timeout=reply_timeout, retry=retry))
    desk.engine.submit(order, desk.now)
    desk.wait(23.9)
    assert not order.flights
    desk.wait(0.2)
    assert order in desk.engine._in_flight.last
    desk.wait(ends - 0.1 - desk.now)
    early = order.kind
    desk.wait(0.2)
    assert (early, order.kind) == (None, "unknown")
    assert len(order.attempts()) == 1


def test_a_last_chance_that_is_not_answered_by_a_venue_that_is_back_is_tried_again_at_its_reply_timeout() -> None:
    desk = Desk()
    for index in range(WINDOW_START):
        desk.submit(f"o{index}")
    order = desk.submit("last")
    desk.wait(25)
    (flight,) = order.flights
    desk.answer(canceled(desk.ids[0], "o0"))
    desk.wait(flight.deadline - desk.now - 0.01)
    assert len(order.flights) == 1
    desk.wait(0.02)
    assert [one.written for one in order.flights] == [flight.written, flight.deadline]
    assert order.not_before == flight.deadline
    assert order in desk.engine._in_flight.active


def test_last_chances_keep_the_pace() -> None:
    desk = Desk(pacer=Pacer(2))
    for index in range(WINDOW_START + 4):
        desk.submit(f"o{index}")
    desk.wait(29)
    assert {key for _, _, key in desk.written} == {f"o{index}" for index in range(WINDOW_START + 4)}
    assert all(later - earlier >= 0.5 - 1e-9 for earlier, later in pairwise(desk.times))
