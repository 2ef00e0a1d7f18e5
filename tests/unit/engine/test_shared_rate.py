"""One rate for many members: what the pool grants, and what a member does with and without it."""

from __future__ import annotations

import math
import random

import attrs
import pytest

from tests.tools.desk import Desk, refusal
from trio_cancel._engine.rate import pacer_of
from trio_cancel._engine.shared_rate import (
    AWAY,
    BEAT,
    FORGOTTEN,
    LATE,
    OTHERS,
    SOON,
    Ask,
    Grant,
    Pool,
    SharedLimit,
    grant,
)
from trio_cancel.sandbox._limits import Limits


def heard_of(count: int, now: float) -> dict[str, float]:
    return {str(number): now for number in range(count)}


def granted(pool: Pool, number: int, now: float, *, members: int = 1, guard: bool = False) -> tuple[Pool, int, float]:
    """Ask as one of so many members, all of whom have just been heard of."""
    pool, answer = grant(pool, heard_of(members, now), "0", Ask(number, waits=True), now, guard=guard)
    return pool, answer.granted, answer.again_in


# The pool


def test_a_burst_is_granted_at_once_and_then_the_rate() -> None:
    pool, number, again_in = granted(Pool(rate=2.0, burst=4), 10, 100.0)
    assert number == 3  # one of the burst is for what the member has in hand
    assert again_in == pytest.approx(0.25 + LATE)
    pool, number, again_in = granted(pool, 10, 100.25)
    assert number == 0
    assert again_in == pytest.approx(LATE)
    pool, answer = grant(pool, heard_of(1, 100.3), "0", Ask(9, waits=True), 100.3, guard=False)
    assert answer.granted == 1
    assert answer.due_in == pytest.approx(0.25)  # granted ahead of its time
    _, number, _ = granted(pool, 10, 110.0)
    assert number == 3


def test_no_more_is_granted_than_is_asked_for() -> None:
    pool, number, again_in = granted(Pool(rate=2.0, burst=9), 2, 100.0)
    assert (number, again_in, pool.full_at) == (2, 0.0, 101.0)


def test_what_is_given_back_is_granted_to_others() -> None:
    pool, _, _ = granted(Pool(rate=1.0, burst=6), 5, 100.0)
    assert granted(pool, 1, 100.0)[1] == 0
    pool, answer = grant(pool, heard_of(1, 100.0), "0", Ask(-3, waits=False), 100.0, guard=False)
    assert answer.granted == -3
    assert granted(pool, 9, 100.0)[1] == 3


@pytest.mark.parametrize(("silent", "number"), [(0, 80), (1, 60), (3, 20)])
def test_the_parts_of_silent_members_are_kept_for_them(silent: int, number: int) -> None:
    pool, total, now = Pool(rate=8.0, burst=1), 0, 100.0
    quiet = dict.fromkeys(map(str, range(1, silent + 1)), 99.0)  # they may have gone on with their parts since then
    while now < 110.0:
        pool, answer = grant(pool, heard_of(4, now) | quiet, "0", Ask(1, waits=True), now, guard=False)
        total += answer.granted
        now += min(BEAT, max(answer.again_in, 1e-3))
    assert answer.members == 4
    assert number - 2 <= total <= number + 1 + 2  # two are granted ahead


def test_who_was_silent_for_long_has_no_part() -> None:
    pool, now = Pool(rate=8.0, burst=1, asked_at=100.0, since=90.0), 100.0
    quiet = {"1": 100.0}
    while now < 100.0 + FORGOTTEN + 10:
        pool, answer = grant(pool, quiet | {"0": now}, "0", Ask(1, waits=True), now, guard=False)
        assert answer.members == (2 if now - 100.0 < FORGOTTEN else 1)
        now += BEAT


def test_where_nobody_could_ask_for_long_nobody_is_forgotten() -> None:
    pool = Pool(rate=8.0, burst=40, full_at=102.0, asked_at=100.0)
    seen = heard_of(3, 100.0)
    _, answer = grant(pool, seen, "0", Ask(99, waits=True), 1000.0, guard=False)
    # Two of them are away yet, and what all have started meanwhile is the whole rate: there is no burst again.
    assert (answer.members, answer.granted) == (3, 29 + 1)


def test_while_a_guard_waits_the_sessions_get_a_part() -> None:
    pool, now = Pool(rate=8.0, burst=3), 100.0
    guards = sessions = 0
    while now < 200.0:
        for _ in range(3):  # they ask more often than it does
            pool, some, _ = granted(pool, 5, now, members=2)
            sessions += some
        pool, some, _ = granted(pool, 5, now, members=2, guard=True)
        guards += some
        now += 0.1
    assert 150 < sessions <= 800 * OTHERS + 1
    assert 800 * (1 - OTHERS) <= guards <= 803 - sessions
    _, some, _ = granted(pool, 1, now + 1.0, members=2)
    _, more, _ = granted(attrs.evolve(pool, others_at=now + 2.0), 1, now + 1.0, members=2)
    assert (some, more) == (1, 1)  # no guard has said for a second that it waits


@pytest.mark.parametrize("ahead", [-1e9, -5.0, 1e9])
def test_a_clock_that_was_set_holds_nobody_up(ahead: float) -> None:
    pool, guard_at = Pool(rate=1.0, burst=4), 100.0
    for _ in range(9):
        pool, _, _ = granted(pool, 9, guard_at, members=2, guard=True)
        pool, _, _ = granted(pool, 9, guard_at, members=2)
    now, total = guard_at + ahead, 0
    for _ in range(200):
        pool, some, _ = granted(pool, 9, now, members=2)
        total += some
        now += 0.5
    assert 90 <= total <= 104


# A member


def a_member(rate: float = 4.0, members: int = 2, in_hand: int = 1) -> SharedLimit:
    limit = SharedLimit(0.0)
    limit.answered(Grant(rate, members, in_hand, -1.0, 0.0), 0.0, 0.0)
    return limit


def test_one_start_is_in_hand_and_waits_for_nobody() -> None:
    limit = a_member()
    assert limit.ready_at(0.2) <= 0.2
    limit.start(0.2)
    assert limit.exchange_at <= 0.2  # the next one is asked for before anybody needs it
    assert limit.ask(0.2) == Ask(1, waits=True)


def test_who_waits_is_asked_for_and_gets_a_piece() -> None:
    limit = a_member(rate=400.0)
    assert limit.ready_at(0.2, 3) == 0.2 + SOON + 2 / 200
    assert limit.ask(0.2) == Ask(49, waits=True)  # a quarter of a second of its part
    limit.answered(Grant(400.0, 2, 49, -1.0, 0.0), 0.2, 0.201)
    assert limit.ready_at(0.201, 49) <= 0.201
    for _ in range(50):
        assert limit.ready_at(0.21) <= 0.21
        limit.start(0.21)
    assert limit.ready_at(0.21) > 0.21


def test_a_guard_asks_for_pieces_of_the_whole_rate() -> None:
    limit = SharedLimit(0.0, guard=True)
    limit.answered(Grant(400.0, 20, 1, -1.0, 0.0), 0.0, 0.0)
    assert limit.rate == 20.0
    limit.ready_at(0.2, 3)
    assert limit.ask(0.2) == Ask(99, waits=True)


def test_what_is_granted_ahead_is_used_in_its_time() -> None:
    limit = a_member(in_hand=0)
    limit.ready_at(1.0)
    limit.ask(1.0)
    limit.answered(Grant(8.0, 2, 2, 0.1, 0.0), 1.0, 1.0)
    assert limit.ready_at(1.0) == pytest.approx(1.1)
    limit.start(1.1)
    assert limit.ready_at(1.1) == pytest.approx(1.225)


def test_an_idle_member_gives_back_all_but_one() -> None:
    limit = a_member(rate=400.0)
    limit.ready_at(0.2, 3)
    limit.ask(0.2)
    limit.answered(Grant(400.0, 2, 49, -1.0, 0.0), 0.2, 0.2)
    assert limit.exchange_at == 0.2 + BEAT
    assert limit.ask(0.7) == Ask(-49, waits=False)
    limit.failed(0.7)  # whether it was heard or not
    limit.start(0.7)
    assert limit.ready_at(0.7) > 0.7


def test_while_the_pool_has_nothing_it_is_not_asked() -> None:
    limit = a_member(in_hand=0)
    limit.ready_at(0.1)
    limit.ask(0.1)
    limit.answered(Grant(4.0, 2, 0, 0.0, 0.3), 0.1, 0.1)
    assert limit.ready_at(0.1) == pytest.approx(0.4)
    assert limit.exchange_at == pytest.approx(0.4)


def test_a_pool_that_does_not_answer_is_waited_for_so_long_at_most() -> None:
    limit = a_member(rate=4.0, members=2, in_hand=0)
    now, starts = 0.0, []
    while now < 4.0:
        if limit.exchange_at <= now:
            limit.ask(now)
            limit.failed(now)
        at = limit.ready_at(now)
        if at <= now:
            limit.start(now)
            starts.append(now)
        else:
            now = at
    assert starts == pytest.approx([AWAY, AWAY + 0.5, AWAY + 1.0, AWAY + 1.5, AWAY + 2.0])


def test_an_account_without_a_shared_pace_has_no_limit_until_it_gets_one() -> None:
    limit = SharedLimit(0.0, guard=True)
    for _ in range(1000):
        assert limit.ready_at(50.0) == -math.inf
        limit.start(50.0)
    limit.apply(4.0, 50.0)
    assert 50.0 < limit.ready_at(50.0) <= 50.0 + AWAY
    assert limit.ask(50.0) == Ask(1, waits=True)
    assert limit.rate == 2.0


# All of it together


@pytest.mark.parametrize("seed", range(12))
def test_together_they_keep_to_the_rate_whatever_part_of_them_is_cut_off(seed: int) -> None:
    chance = random.Random(seed)
    rate, burst, count = chance.choice([1.0, 3.5, 20.0, 100.0]), chance.choice([1, 5, 40]), chance.randint(1, 5)
    members = [SharedLimit(0.0) for _ in range(count)]
    seen = heard_of(count, 1000.0)
    pool = Pool(rate, burst)
    for member in members:
        member.answered(Grant(rate, count, 0, 0.0, 0.0), 0.0, 0.0)
    cut: list[bool] = [False] * count
    busy = [True] * count
    lost: list[tuple[float, int, float, Grant]] = []  # answers on their way
    starts: list[float] = []
    step = 0.02
    for tick in range(int(50 / step)):
        now = tick * step
        if tick % 100 == 0:
            everywhere = chance.random() < 0.3
            cut = [everywhere or chance.random() < 0.3 for _ in members]
            busy = [chance.random() < 0.7 for _ in members]
        for due, who, asked_at, answer in [one for one in lost if one[0] <= now]:
            members[who].answered(answer, asked_at, now)
            lost.remove((due, who, asked_at, answer))
        for who, member in enumerate(members):
            while busy[who] and member.ready_at(now) <= now:
                member.start(now)
                starts.append(now)
            if member.exchange_at > now or any(one[1] == who for one in lost):
                continue
            ask = member.ask(now)
            if cut[who]:
                member.failed(now)
                continue
            pool, answer = grant(pool, seen, str(who), ask, 1000 + now, guard=who == 0)
            seen[str(who)] = 1000 + now
            if chance.random() < 0.1:
                member.failed(now)  # it was granted, and the answer is lost
            else:
                lost.append((now + chance.choice([0.0, 0.02, 0.1]), who, now, answer))
    assert len(starts) > rate * 50 * 0.3
    most = max(burst, 1) + 2 * count + rate / 4
    for first in range(0, len(starts), 7):
        for last in range(first, len(starts), 5):
            assert last - first + 1 <= rate * (starts[last] - starts[first]) + most


@pytest.mark.parametrize("late", [0.0, 0.9 * LATE])
def test_a_venue_of_the_same_burst_refuses_nothing_though_the_first_requests_come_late(late: float) -> None:
    """As when their intents are on their way to the disk: its burst is full until then, and the pool's is not."""
    rate, burst = 20.0, 10
    venue, pool, limit = Limits(rate, burst), Pool(rate, burst), SharedLimit(0.0)
    limit.answered(Grant(rate, 1, 1, 0.0, 0.0), 0.0, 0.0)
    starts, now = 0, 0.0
    while now < 3.0:
        limit.ready_at(now, 8)  # so many more are ready to be written
        while limit.ready_at(now) <= now:
            limit.start(now)
            starts += 1
            assert venue.refusal(max(late, now)) is None
        if limit.exchange_at <= now:
            pool, answer = grant(pool, {"0": 1000 + now}, "0", limit.ask(now), 1000 + now, guard=False)
            limit.answered(answer, now, now)
        now += 0.001
    assert starts >= burst + rate * (3.0 - LATE) - 1


@pytest.mark.parametrize("sessions", [1, 4, 20])
def test_a_guard_gets_the_most_of_the_rate_however_many_sessions_there_are(sessions: int) -> None:
    """It asks ten times a second at most, and the sessions whenever they may; all of them have enough to do."""
    rate, step = 200.0, 0.01
    members = [SharedLimit(0.0, guard=True), *(SharedLimit(0.0) for _ in range(sessions))]
    seen = heard_of(len(members), 1000.0)
    pool = Pool(rate, 20)
    for member in members:
        member.answered(Grant(rate, len(members), 1, 0.0, 0.0), 0.0, 0.0)
    starts = [0] * len(members)
    for tick in range(int(10 / step)):
        now = tick * step
        for who, member in enumerate(members):
            while member.ready_at(now) <= now:
                member.start(now)
                starts[who] += 1
            member.ready_at(now, 8)  # so many more are ready to be written
            if member.exchange_at <= now and (who > 0 or tick % 10 == 0):
                pool, answer = grant(pool, seen, str(who), member.ask(now), 1000 + now, guard=who == 0)
                seen[str(who)] = 1000 + now
                member.answered(answer, now, now)
    assert sum(starts) > 0.95 * rate * 10
    assert starts[0] > 0.7 * rate * 10
    assert sum(starts[1:]) > 0.15 * rate * 10


def test_an_account_without_a_shared_pace_is_served_as_without_a_pacer() -> None:
    """In particular a venue that refuses on and on is given up in the same time."""
    ends = []
    for pacer in (None, pacer_of(SharedLimit(0.0, guard=True))):
        desk = Desk(pacer=pacer)
        assert desk.engine.unpaced
        order, answered = desk.submit(), 0
        while order.kind is None and desk.now < 300.0:
            for request_id in desk.ids[answered:]:
                desk.answer(refusal(request_id, 429, 42900, "Too many requests"))
                answered += 1
            desk.wait(0.5)
        ends.append((order.kind, desk.now, answered))
    assert ends[0] == ends[1]
    assert ends[0][0] == "rejected"


# In numbers


def asked(pool: Pool, number: int, now: float, *, seen: dict[str, float] | None = None) -> tuple[Pool, Grant]:
    """Ask as a session, alone unless others have been seen."""
    return grant(pool, seen or {"0": now}, "0", Ask(number, waits=True), now, guard=False)


def test_while_a_guard_waits_a_session_is_told_when_it_may_have_another() -> None:
    pool, answer = asked(Pool(rate=8.0, burst=1, guard_at=100.0), 5, 100.0)
    assert (answer.granted, answer.again_in) == (1, 0.5)  # a quarter of the rate: one in half a second
    assert answer.due_in == pytest.approx(LATE)
    assert pool.others_at == 100.5
    _, answer = asked(pool, 5, 100.25)
    assert (answer.granted, answer.again_in) == (0, 0.25)
    _, answer = asked(Pool(rate=8.0, burst=1, guard_at=100.0), 1, 100.0)
    assert (answer.granted, answer.again_in) == (1, 0.0)  # all that it asked for


def test_what_sessions_have_used_up_holds_up_nobody_once_no_guard_waits() -> None:
    pool = Pool(rate=8.0, burst=1, guard_at=100.0, others_at=101.5)
    _, answer = asked(pool, 5, 101.0)  # a second after its last word
    assert answer.granted == 2
    assert answer.again_in == pytest.approx(LATE)


def test_a_clock_that_was_set_back_shortens_what_was_used_up() -> None:
    _, answer = asked(Pool(rate=8.0, burst=1, guard_at=100.0, others_at=1e6), 5, 100.0)
    assert (answer.granted, answer.again_in) == (0, 0.5)
    pool, _ = asked(Pool(rate=8.0, burst=3, full_at=1e6), 0, 100.0)
    assert pool.full_at == 100.5  # the burst and what is granted ahead


def test_who_asks_for_nothing_is_told_nothing() -> None:
    pool, answer = asked(Pool(rate=8.0, burst=1, full_at=100.25), 0, 100.0)
    assert answer == Grant(8.0, 1, 0, 0.0, 0.0)
    pool, answer = asked(pool, -3, 100.0)
    assert answer == Grant(8.0, 1, -3, 0.0, 0.0)
    assert pool.full_at == 100.25 - 3 / 8.0


def test_a_time_in_which_nobody_asked_begins_anew() -> None:
    seen = {"0": 101.5, "1": 41.0}
    pool, answer = asked(Pool(rate=8.0, burst=9, asked_at=100.0), 1, 100.0 + AWAY, seen=seen)
    assert (answer.members, pool.since) == (2, 101.5)  # perhaps the other one could not
    pool, answer = asked(Pool(rate=8.0, burst=9, asked_at=100.25), 1, 100.0 + AWAY, seen=seen)
    assert (answer.members, pool.since) == (1, 0.0)


def test_who_began_to_wait_rings_once() -> None:
    limit = a_member(in_hand=0)
    limit.wakeup._rung = False
    limit.ready_at(0.5)
    assert limit.wakeup._rung
    limit.wakeup._rung = False
    limit.ready_at(0.5, 3)
    assert not limit.wakeup._rung


def test_whoever_has_started_waits_no_more() -> None:
    limit = a_member(in_hand=2)
    limit.ask(0.0)
    asks = limit.exchange_at
    limit.answered(Grant(4.0, 2, 2, -1.0, 0.0), 0.0, 0.0)
    assert (asks, limit.exchange_at) == (BEAT, BEAT)
    limit.ready_at(0.0, len(limit._in_hand))
    assert limit.exchange_at == SOON
    limit.start(0.0)
    assert limit.exchange_at == BEAT
    limit.ready_at(0.0, len(limit._in_hand) + 1)  # two wait
    limit.start(0.0)
    assert limit.exchange_at == SOON


def test_away_from_the_pool_each_start_is_counted_in_its_part() -> None:
    limit = a_member(in_hand=0)
    now = AWAY + 1.0
    limit.start(now)
    assert limit.ready_at(now) == now + 0.5
    assert limit.ready_at(now, 2) == now + 1.5


def test_who_has_more_in_hand_than_a_piece_and_uses_it_asks_for_nothing() -> None:
    limit = a_member(in_hand=4)
    limit.start(0.0)
    assert limit.ask(0.0) == Ask(0, waits=True)
    assert len(limit._in_hand) == 3


def test_a_pool_that_does_not_answer_is_asked_again_in_half_a_beat() -> None:
    limit = a_member(in_hand=0)
    limit.ask(0.0)
    limit.failed(0.0)
    limit.ready_at(0.0)
    assert limit.exchange_at == BEAT / 2
