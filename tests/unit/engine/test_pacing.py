"""Rates set and rates found out, against simulated venues, on a clock that is a number."""

from __future__ import annotations

import heapq
import math
import pickle
from itertools import count, pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_cancel import ConfigurationError, Pacer
from trio_cancel._engine.rate import (
    _BURST_MOST,
    _LEAST,
    BESIDE_FOR,
    BESIDE_LEAST,
    BESIDE_MOST,
    PACED_LEAST,
    PACED_MOST,
    PACED_START,
    WINDOW_MOST,
    WINDOW_START,
    AdaptiveRate,
    limit_of,
    pacer_of,
)

# Pacer


@pytest.mark.parametrize(
    ("rate", "burst"),
    [
        (0, 1),
        (-1, 1),
        (math.inf, 1),
        (math.nan, 1),
        (True, 1),
        ("5", 1),
        (None, 1),
        (1, 0),
        (1, -1),
        (1, 1.5),
        (1, True),
        (1, None),
        (1e-320, 1),
        (1, 10**400),
    ],
)
def test_a_pacer_that_makes_no_sense_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ConfigurationError, match="Pacer needs"):
        Pacer(rate, burst)


def starts(pacer: Pacer, number: int, now: float = 0.0) -> list[float]:
    times = []
    for _ in range(number):
        now = max(now, limit_of(pacer).ready_at())
        limit_of(pacer).start(now)
        times.append(now)
    return times


def test_a_burst_and_then_the_rate() -> None:
    assert starts(Pacer(2, burst=3), 6) == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5])
    assert starts(Pacer(0.5), 3) == pytest.approx([0, 2, 4])
    assert repr(Pacer(2, burst=3)) == "Pacer(rate=2, burst=3)"
    assert repr(Pacer(2, shared=True)) == "Pacer(rate=2, burst=1, shared=True)"
    with pytest.raises(ConfigurationError, match="shared must be True or False, not 1"):
        Pacer(2, shared=1)  # type: ignore[arg-type]  # that is what is tested


def test_a_pause_gives_the_burst_back_and_no_more() -> None:
    pacer = Pacer(10, burst=5)
    starts(pacer, 20)
    assert starts(pacer, 7, now=100.0) == pytest.approx([100.0] * 5 + [100.1, 100.2])


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 10), min_size=1, max_size=60),
)
def test_no_stretch_of_time_holds_more_than_rate_and_burst_allow(rate: float, burst: int, pauses: list[float]) -> None:
    pacer = Pacer(rate, burst)
    now, times = 0.0, []
    for pause in pauses:
        now = max(now + pause, limit_of(pacer).ready_at())
        limit_of(pacer).start(now)
        times.append(now)
    for first in range(len(times)):
        for last in range(first, len(times)):
            allowed = burst + (times[last] - times[first]) * rate
            assert last - first + 1 <= allowed + 1e-6


def test_the_turn_of_those_that_come_after_others() -> None:
    pacer = Pacer(4, burst=3)
    assert (limit_of(pacer).full_at, limit_of(pacer).ready_at()) == (-math.inf, -math.inf)
    assert limit_of(pacer).ready_at(10.0, before=2) == 10.0 + 2 / 4 - 2 / 4
    assert limit_of(pacer).ready_at(10.0, before=5) == 10.0 + 5 / 4 - 2 / 4
    limit_of(pacer).start(10.0)
    assert (limit_of(pacer).full_at, limit_of(pacer).ready_at()) == (10.25, 9.75)
    assert limit_of(pacer).ready_at(10.0, before=5) == 10.25 + 5 / 4 - 2 / 4
    assert limit_of(pacer).ready_at(20.0, before=5) == 20.0 + 5 / 4 - 2 / 4
    limit_of(pacer).start(10.0)
    assert limit_of(pacer).full_at == 10.5


def test_a_copy_of_a_pacer_begins_anew() -> None:
    pacer = Pacer(4, burst=3)
    limit_of(pacer).start(10.0)
    again = pickle.loads(pickle.dumps(pacer))
    assert (again.rate, again.burst, limit_of(again).full_at) == (4, 3, -math.inf)


def test_a_refused_pacer_says_what_it_needs_and_what_it_got() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Pacer(-2)
    assert str(caught.value) == "Pacer needs a rate of more than 0 requests a second, not -2."
    with pytest.raises(ConfigurationError) as caught:
        Pacer(1, 0)
    assert str(caught.value) == "Pacer needs a burst of at least 1 request, not 0."


def test_a_pacer_at_its_limits() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Pacer(0)
    assert str(caught.value) == "Pacer needs a rate of more than 0 requests a second, not 0."
    assert Pacer(_LEAST).rate == _LEAST
    assert Pacer(1, _BURST_MOST).burst == _BURST_MOST
    with pytest.raises(ConfigurationError):
        Pacer(1, _BURST_MOST + 1)


@pytest.mark.parametrize("shared", [False, True])
def test_a_copy_of_a_pacer_is_shared_as_that_is(shared: bool) -> None:
    again = pickle.loads(pickle.dumps(Pacer(4, shared=shared)))
    assert again.shared is shared


def test_a_pacer_is_made_of_a_limit() -> None:
    limit = limit_of(Pacer(4, burst=3))
    assert limit_of(pacer_of(limit)) is limit


# AdaptiveRate


def test_the_window_grows_by_one_with_each_answer_up_to_its_most() -> None:
    adaptive = AdaptiveRate()
    adaptive.accepted(1.0)
    assert adaptive.window == WINDOW_START + 1
    adaptive.window = WINDOW_MOST - 1
    for _ in range(3):
        adaptive.accepted(1.0)
    assert adaptive.window == WINDOW_MOST


def pace_of(adaptive: AdaptiveRate) -> float | None:
    return adaptive.rate  # which mypy takes for what was set last


def rate_of(adaptive: AdaptiveRate) -> float:
    rate = pace_of(adaptive)
    assert rate is not None
    return rate


def test_the_pace_by_its_numbers() -> None:
    adaptive = AdaptiveRate()
    assert adaptive.limited(1.0, written_at=0.5)
    assert (rate_of(adaptive), adaptive.ready_at()) == (5, 1.2)
    assert adaptive.ready_at(1.1, before=0) == 1.2
    assert adaptive.ready_at(1.1, before=2) == pytest.approx(1.6)
    assert adaptive.ready_at(3.0, before=2) == pytest.approx(3.4)
    adaptive.start(1.1)
    assert adaptive.ready_at() == pytest.approx(1.4)
    adaptive.start(3.0)
    assert adaptive.ready_at() == pytest.approx(3.2)
    adaptive.accepted(1.1)  # it doubles in half a second, as long as requests flow
    assert rate_of(adaptive) == pytest.approx(5 * 2 ** (0.1 / 0.5))
    before = rate_of(adaptive)
    adaptive.accepted(500.0)
    assert rate_of(adaptive) == pytest.approx(before * 2 ** (2 / before / 0.5))
    before = rate_of(adaptive)
    assert adaptive.limited(501.0, written_at=500.5)
    assert rate_of(adaptive) == before / 2
    adaptive.accepted(501.1)
    assert rate_of(adaptive) == pytest.approx(before / 2 * (1 + 0.02 * 0.1))
    adaptive.accepted(501.15)
    assert rate_of(adaptive) == pytest.approx(before / 2 * (1 + 0.02 * 0.1) * (1 + 0.02 * 0.05))
    before = rate_of(adaptive)
    adaptive.accepted(600.0)
    assert rate_of(adaptive) == pytest.approx(before * (1 + min(0.02 * 2 / before, 0.003)))
    adaptive.rate = 1.0
    adaptive.accepted(700.0)  # slow answers do not let it grow faster than that for each
    assert rate_of(adaptive) == pytest.approx(1.003)


@pytest.mark.parametrize(("answers", "factor"), [(0, 0.5), (3, 0.5), (4, 0.9), (5, 0.9)])
def test_a_pace_that_held_for_a_while_falls_by_little(answers: int, factor: float) -> None:
    adaptive = AdaptiveRate()
    adaptive.limited(1.0, written_at=0.5)
    for _ in range(9):
        adaptive.accepted(1.0)
    adaptive.limited(2.0, written_at=1.5)  # and ends the doubling, however many were answered
    assert rate_of(adaptive) == 2.5
    for _ in range(answers):
        adaptive.accepted(2.0)
    assert adaptive.limited(3.0, written_at=2.5)
    assert rate_of(adaptive) == pytest.approx(2.5 * factor)
    assert adaptive.ready_at() == pytest.approx(3.0 + 1 / (2.5 * factor))
    adaptive.rate = PACED_LEAST * 1.05
    for _ in range(answers):
        adaptive.accepted(3.0)
    adaptive.limited(4.0, written_at=3.5)
    assert rate_of(adaptive) == PACED_LEAST


def test_a_pace_ends_above_its_most_and_is_found_out_anew() -> None:
    adaptive = AdaptiveRate()
    adaptive.limited(1.0, written_at=0.5)
    adaptive.limited(2.0, written_at=1.5)
    adaptive.rate = PACED_MOST
    adaptive.accepted(2.0)
    assert rate_of(adaptive) == PACED_MOST
    adaptive.accepted(3.0)
    assert pace_of(adaptive) is None
    adaptive.limited(4.0, written_at=3.5)
    assert rate_of(adaptive) == PACED_START
    adaptive.accepted(4.1)
    assert rate_of(adaptive) == pytest.approx(PACED_START * 2 ** (0.1 / 0.5))  # it doubles again


def test_a_new_governor_holds_nothing_back() -> None:
    adaptive = AdaptiveRate()
    assert adaptive.window == WINDOW_START
    assert adaptive.rate is None
    assert adaptive.ready_at() == -math.inf
    for _ in range(1000):
        adaptive.start(1.0)
        adaptive.accepted(1.0)
    assert adaptive.window == WINDOW_MOST
    assert adaptive.ready_at() == -math.inf
    adaptive.reset_window()
    assert adaptive.window == WINDOW_START


# Bulk cancels beside single ones


def wide(soonest: float = 0.001) -> AdaptiveRate:
    """A rate with a window that is wide open, one of whose answers took so long."""
    adaptive = AdaptiveRate()
    adaptive.window = WINDOW_MOST
    adaptive.answered(soonest, 1)
    return adaptive


def test_bulk_cancels_have_the_whole_window_where_no_single_one_is_made() -> None:
    adaptive = wide()
    adaptive.answered(0.008, WINDOW_MOST)
    assert adaptive.bulk_window(10.0) == WINDOW_MOST
    adaptive.single(10.0)
    assert adaptive.bulk_window(10.0 + BESIDE_FOR - 0.01) == BESIDE_LEAST
    assert adaptive.bulk_window(10.0 + BESIDE_FOR) == WINDOW_MOST


@pytest.mark.parametrize(
    ("took", "in_flight", "left"),
    [
        (0.002, 200, 200),  # twice the soonest: no queue to speak of
        (0.004, 200, 100),
        (0.008, 200, BESIDE_LEAST),
        (0.001, 200, WINDOW_MOST),  # there is room again
        (BESIDE_MOST, 200, WINDOW_MOST),
        (0.0, 200, WINDOW_MOST),  # sooner than the clock can tell
    ],
)
def test_beside_single_cancels_the_queue_of_bulk_ones_is_kept_short(took: float, in_flight: int, left: int) -> None:
    adaptive = wide()
    adaptive.single(0.0)
    adaptive.answered(took, in_flight)
    assert adaptive.bulk_window(0.0) == left


def test_beside_single_cancels_a_far_venue_is_asked_as_much_as_ever() -> None:
    """Its answers take as long with one request in flight as with many."""
    adaptive = wide(0.015)
    adaptive.single(0.0)
    in_flight = 8
    for _ in range(3):
        adaptive.answered(0.015, in_flight)
        in_flight = adaptive.bulk_window(0.0)
    assert in_flight == WINDOW_MOST


def test_a_window_that_is_smaller_stays_so_beside_single_cancels() -> None:
    adaptive = wide()
    adaptive.single(0.0)
    adaptive.window = WINDOW_START
    assert adaptive.bulk_window(0.0) == WINDOW_START


def test_a_new_connection_knows_nothing_of_how_soon_the_last_one_answered() -> None:
    adaptive = wide(0.001)
    adaptive.single(0.0)
    adaptive.answered(0.008, WINDOW_MOST)
    adaptive.reset_window()
    adaptive.window = WINDOW_MOST
    assert adaptive.bulk_window(0.0) == WINDOW_MOST
    adaptive.answered(0.008, WINDOW_MOST)
    assert adaptive.bulk_window(0.0) == WINDOW_MOST


# What is found out


def test_the_first_refusal_paces_and_a_burst_of_them_is_one() -> None:
    adaptive = AdaptiveRate()
    assert adaptive.limited(1.0, written_at=0.5)
    assert rate_of(adaptive) == PACED_START
    for written_at in (0.5, 0.7, 1.0):
        assert not adaptive.limited(1.1, written_at=written_at)
    assert rate_of(adaptive) == PACED_START
    assert adaptive.limited(2.0, written_at=1.5)
    assert rate_of(adaptive) == PACED_START / 2
    assert adaptive.ready_at() > 2.0


def test_the_pace_never_falls_to_nothing() -> None:
    adaptive = AdaptiveRate()
    for second in range(1, 1000):
        adaptive.limited(float(second), written_at=second - 0.5)
    assert adaptive.rate == PACED_LEAST
    assert adaptive.ready_at() <= 999 + 1 / PACED_LEAST


def test_an_idle_hour_does_not_grow_the_pace() -> None:
    adaptive = AdaptiveRate()
    adaptive.limited(1.0, written_at=0.5)
    adaptive.accepted(3600.0)
    assert adaptive.rate is not None
    assert adaptive.rate < 10 * PACED_START


def test_a_pace_without_limit_is_none() -> None:
    adaptive = AdaptiveRate()
    adaptive.limited(1.0, written_at=0.5)
    now = 1.0
    while adaptive.rate is not None and now < 60:
        adaptive.start(now)
        now = max(now, adaptive.ready_at()) + 0.001
        adaptive.accepted(now)
    assert adaptive.rate is None
    assert now < 20
    assert PACED_MOST > 1000


class Bucket:
    """A venue's limit."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.at = burst, 0.0

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def run(
    adaptive: AdaptiveRate, bucket: Bucket, orders: int, *, latency: float = 0.02
) -> tuple[float, int, list[float]]:
    """Play orders through; return the seconds it took, how often the venue refused, and when each got through."""
    now, refused = 0.0, 0
    done: list[float] = []
    waiting, order = orders, count()
    answers: list[tuple[float, int, float, bool]] = []
    while len(done) < orders:
        while waiting and len(answers) < adaptive.window and adaptive.ready_at() <= now:
            adaptive.start(now)
            waiting -= 1
            arrives = now + latency / 2
            heapq.heappush(answers, (arrives + latency / 2, next(order), now, bucket.take(arrives)))
        at = [answers[0][0]] if answers else []
        if waiting and len(answers) < adaptive.window:
            at.append(adaptive.ready_at())
        now = max(now, min(at))
        while answers and answers[0][0] <= now:
            _, _, written_at, accepted = heapq.heappop(answers)
            if accepted:
                adaptive.accepted(now)
                done.append(now)
            else:
                refused += 1
                waiting += 1
                adaptive.limited(now, written_at)
        assert now < 1e6
    return now, refused, done


@pytest.mark.parametrize("latency", [0.001, 0.02, 0.2])
@pytest.mark.parametrize(
    ("rate", "burst", "orders"),
    [(50, 10, 1000), (500, 50, 5000), (3.5, 4, 1000), (1, 1, 1000), (10, 10, 1000), (50, 1, 1000)],
)
def test_a_limit_is_found_out_with_few_refusals(rate: float, burst: float, orders: int, latency: float) -> None:
    seconds, refused, _ = run(AdaptiveRate(), Bucket(rate, burst), orders, latency=latency)
    assert refused < 0.05 * (orders + refused)
    assert seconds < 2.5 * orders / rate + 15


def test_no_limit_costs_nothing() -> None:
    seconds, refused, _ = run(AdaptiveRate(), Bucket(1e9, 1e9), 5000)
    assert refused == 0
    assert seconds < 1.0


def test_when_the_limit_is_lifted_the_pace_recovers() -> None:
    adaptive = AdaptiveRate()
    bucket = Bucket(20, 10)
    run(adaptive, bucket, 300)
    limited = adaptive.rate
    assert limited is not None
    bucket.rate, bucket.burst, bucket.tokens, bucket.at = 1e9, 1e9, 1e9, 0.0
    adaptive._decreased_at = adaptive._grown_at = 0.0
    adaptive._next_at = -math.inf
    _, refused, done = run(adaptive, bucket, 2000)
    assert refused == 0
    gaps = [later - earlier for earlier, later in pairwise(done)]
    assert sum(gaps[-100:]) < sum(gaps[:100])


def test_when_the_limit_falls_the_pace_follows() -> None:
    adaptive = AdaptiveRate()
    run(adaptive, Bucket(200, 10), 1000)
    adaptive._decreased_at = adaptive._grown_at = 0.0
    adaptive._next_at = -math.inf
    _, refused, _ = run(adaptive, Bucket(5, 5), 200)
    assert refused < 0.25 * 200
    assert adaptive.rate is not None
    assert adaptive.rate < 8


def test_a_pacer_begins_anew_in_the_next_run() -> None:
    pacer = Pacer(1)

    async def use(now: float) -> float:
        limit_of(pacer).begin()
        ready = limit_of(pacer).ready_at()
        limit_of(pacer).start(now)
        limit_of(pacer).begin()  # another session of the same run
        assert limit_of(pacer).ready_at() > now
        return ready

    assert trio.run(use, 1_000_000.0) == -math.inf
    assert trio.run(use, 5.0) == -math.inf  # the clock of another run


def test_a_pacer_in_two_runs_at_once_is_refused() -> None:
    pacer = Pacer(1)

    async def outer() -> None:
        limit_of(pacer).begin()
        with pytest.raises(ConfigurationError, match=r"^This Pacer is used in another trio\.run that is run"):
            await trio.to_thread.run_sync(trio.run, inner)

    async def inner() -> None:
        limit_of(pacer).begin()

    trio.run(outer)


def test_a_pace_knows_what_is_about_to_start() -> None:
    pacer = Pacer(2, burst=3)
    limit_of(pacer).start(10.0)
    assert [limit_of(pacer).ready_at(10.0, before) for before in range(4)] == pytest.approx([9.5, 10.0, 10.5, 11.0])
    assert [limit_of(pacer).ready_at(100.0, before) for before in (1, 4)] == pytest.approx([99.5, 101.0])
    adaptive = AdaptiveRate()
    assert adaptive.ready_at(10.0, 5) == -math.inf
    adaptive.limited(10.0, 9.0)
    assert adaptive.ready_at(10.0, 2) == pytest.approx(10.2 + 0.4)
