"""A venue that gives no sign of life: every cancel has its outcome in time, and is written once before that."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import Bulk, Desk, Order, canceled, refusal
from tests.tools.venues import Remembering, Venue, open_venue
from trio_cancel import (
    CancelRequest,
    HandshakeFailed,
    InvalidRequest,
    NotSent,
    NotWritten,
    OrdersLeft,
    Outcome,
    Pacer,
    TradingWS,
    Unknown,
)
from trio_cancel._cancels.batch import SLICE as BATCH_SLICE
from trio_cancel._cancels.scope_exit import ScopeExit
from trio_cancel._engine.engine import SLICE
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._engine.rate import WINDOW_START
from trio_cancel._engine.silence import EACH, LAST_CHANCE, Silence, last_chance_after
from trio_cancel.sandbox import Fault

SLACK = 5.0
"""Seconds that an outcome may come after ``give_up_after``."""


def silent(_: object) -> Fault:
    return Fault.SILENT_BEFORE


def written(watch: Remembering) -> Counter[str]:
    return Counter(request.key for request, _ in watch.of("request_written") if isinstance(request, CancelRequest))


# The rule


def test_a_silence_begins_with_the_last_sign_of_life_once_a_question_is_open() -> None:
    silence = Silence()
    assert silence.since(30) == math.inf
    silence.ask(100.0)
    silence.ask(101.0)
    assert silence.since(30) == 100
    silence.alive(102.0)
    assert silence.since(30) == math.inf
    silence.ask(110.0)
    assert silence.since(30) == 102
    silence.alive(112.0)
    silence.ask(127.5)  # a pace slower than that: nobody answers what was not asked
    assert (silence.since(30), silence.since(40)) == (127.5, 112)


@pytest.mark.parametrize(
    ("waiting", "rate", "after"),
    [
        (1, None, 30 * LAST_CHANCE),
        (100_000, None, 30 * LAST_CHANCE - 100_000 * EACH),
        (10_000_000, None, 15),
        (100, 20.0, 24 - 5),
        (10_000, 20.0, 7.5),
    ],
)
def test_the_last_chance_comes_early_enough_for_all_that_wait(waiting: int, rate: float | None, after: float) -> None:
    assert last_chance_after(30, waiting, rate) == pytest.approx(after, abs=0.001)


# What is a sign of life


SIGNS: list[tuple[Callable[[str], str], bool]] = [
    (lambda rid: canceled(rid, "o0"), True),
    (lambda rid: canceled(rid, "another"), False),
    (lambda rid: refusal(rid, 400, 40408), True),
    (lambda rid: refusal(rid, 404, 40401), True),
    (lambda rid: refusal(rid, 400, 40011), True),
    (lambda rid: refusal(rid, 500), False),
    (lambda rid: refusal(rid, 503), False),
    (lambda rid: refusal(rid, 429, 42900, "Too many requests"), False),
    (lambda rid: f'{{"id":"{rid}","status":"what"}}', False),
    (lambda rid: canceled(f"{rid}0", "a"), False),
    (lambda rid: canceled(None, "a"), False),
    (lambda rid: "noise", False),
]


@pytest.mark.parametrize(("answer", "alive"), SIGNS)
def test_a_sign_of_life_is_an_answer_to_us_and_nothing_else(answer: Callable[[str], str], alive: bool) -> None:
    desk = Desk()
    desk.submit_bulk(*(f"o{index}" for index in range(50)))
    desk.wait(3)
    desk.answer(answer(desk.ids[0]))
    assert (desk.engine._silence.alive_at == 3) is alive


def test_a_late_answer_is_a_sign_of_life() -> None:
    desk = Desk(policy=RetryPolicy(give_up_after=2))
    desk.submit("early")
    desk.wait(3)
    desk.submit("later")
    desk.wait(1)
    desk.answer(canceled(desk.ids[0], "early"))
    assert desk.engine._silence.alive_at == 4


@pytest.mark.parametrize("up", [True, False])
def test_nobody_who_comes_late_into_a_silence_is_refused_untried(up: bool) -> None:
    desk = Desk()
    desk.submit("early")
    if not up:
        desk.down()
    desk.wait(40)
    late = desk.submit("late")
    bulk, orders = desk.submit_bulk("a", "b")
    desk.wait(29.9)
    assert (late.kind, bulk.refused, orders[0].kind) == (None, None, None)
    desk.wait(0.2)
    if up:
        assert (late.kind, orders[0].kind) == ("unknown", "unknown")
    else:
        assert (late.kind, type(bulk.refused)) == ("not_sent", NotWritten)


def test_while_the_venue_answers_anything_the_clock_of_what_waits_stands_still() -> None:
    desk = Desk(policy=RetryPolicy(reply_timeout=200, give_up_after=30))
    bulk, _ = desk.submit_bulk(*(f"o{index}" for index in range(1000)))
    for index in range(100):
        desk.wait(20)
        key = desk.written[index][2]
        desk.answer(canceled(desk.ids[index], key))
        assert bulk.refused is None
    assert len(desk.ids) < 1000
    assert desk.now == 2000


def test_the_last_chance_is_over_when_the_venue_comes_back() -> None:
    desk = Desk()
    _, orders = desk.submit_bulk(*(f"o{index}" for index in range(700)))
    desk.wait(24.2)
    assert {key for _, _, key in desk.written} == {f"o{index}" for index in range(700)}
    for _, request_id, key in list(desk.written):
        desk.answer(canceled(request_id, key))
    assert {order.kind for order in orders} == {"canceled"}
    assert desk.engine.statistics().pending == 0
    source, _ = desk.submit_bulk(*(f"p{index}" for index in range(700)))
    before = len(desk.ids)
    desk.wait(20)
    assert len(desk.ids) - before == desk.window  # the window, once more
    assert source.behind() > 0


def test_what_was_written_as_a_last_chance_is_tried_again_once_the_venue_is_back() -> None:
    desk = Desk()
    _, orders = desk.submit_bulk(*(f"o{index}" for index in range(50)))
    desk.wait(25)
    last = [(request_id, key) for at, request_id, key in desk.written if at >= 23]
    assert len(desk.engine._in_flight.last) == 50 - WINDOW_START
    times = Counter(key for _, _, key in desk.written)
    assert {times[key] for _, key in last if times[key] == 1} == {1}
    desk.answer(canceled(*last[-1]))  # it is back, and has lost the others
    desk.wait(15)
    again = {key for at, _, key in desk.written if at > 26}
    assert again >= {order.request.key for order in orders if order.kind is None and len(order.flights) > 1}
    by_key = {order.request.key: order for order in orders}
    answered = []
    for at, request_id, key in list(desk.written):
        if at > 26 and by_key[key].kind is None:
            answered.append(by_key[key])
            desk.answer(canceled(request_id, key))
    assert answered
    assert {order.kind for order in answered} == {"canceled"}
    desk.wait(60)
    assert all(order.kind is not None for order in orders)
    assert desk.engine.statistics().pending == 0


def test_a_last_chance_that_was_not_written_is_had_on_the_next_connection() -> None:
    desk = Desk()
    _, orders = desk.submit_bulk(*(f"o{index}" for index in range(20)))
    desk.wait(24.1)
    flights = [flight for flight in desk.flights if flight.order.request.key == "o15"]
    assert len(flights) == 1
    desk.engine.not_written(flights, NotWritten("the peer does not read"), desk.now)
    desk.down()
    desk.come_up()
    desk.wait(0.1)
    assert [key for _, _, key in desk.written].count("o15") == 2
    assert [key for _, _, key in desk.written].count("o14") == 1  # once in this way
    desk.wait(6)
    assert {order.kind for order in orders} == {"unknown"}


def test_withdrawn_in_its_last_chance_it_is_forgotten() -> None:
    desk = Desk()
    orders = [desk.submit(f"o{index}") for index in range(20)]
    desk.wait(24.1)
    for order in orders:
        desk.abandon(order)
    desk.wait(60)
    assert desk.engine._in_flight.last == {}
    assert desk.engine._in_flight.active == {}
    assert not desk.engine._queue.priority
    assert not desk.engine._checks


@pytest.mark.parametrize("how", ["many", "batch", "single", "list"])
@pytest.mark.parametrize("lost_after", [0.5, 20.0])
async def test_last_chances_whose_caller_and_connection_have_gone_are_settled(
    how: str, lost_after: float, autojump_clock: MockClock
) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        ids = venue.orders(100)
        venue.sandbox.script(silent)
        with trio.move_on_after(25):
            await outcomes_of(ws, how, ids)
        assert ws.statistics().pending == 100
        await trio.sleep(lost_after)
        await venue.cut()
        await trio.sleep(60)
        assert ws.statistics().pending == 0
        told = [outcome for (outcome,) in watch.of("settled_late") if isinstance(outcome, Unknown)]
        assert sorted(outcome.request.key for outcome in told) == sorted(ids)


# In slices


def test_very_many_are_ended_in_slices() -> None:
    desk = Desk(up=False)
    orders = [desk.submit(f"o{index}") for index in range(4 * SLICE)]
    desk.wait(29)
    desk.now = 31
    calls = 0
    before = 0
    while any(order.kind is None for order in orders):
        desk.engine.expire(desk.now)
        settled = sum(order.kind is not None for order in orders)
        assert settled - before <= SLICE
        before = settled
        calls += 1
        assert calls < 30


def test_single_cancels_in_an_outage_cost_each_the_same() -> None:
    """Looks at orders, not seconds: twice as many cancels are looked at twice as often."""

    def looks(count: int) -> int:
        desk = Desk(up=False)
        seen = 0
        check_one = desk.engine._check_one

        def counted(pending: Order, now: float) -> float:
            nonlocal seen
            seen += 1
            return check_one(pending, now)

        desk.engine._check_one = counted  # type: ignore[assignment, method-assign]  # it is watched
        for index in range(count):
            desk.submit(f"o{index}")
            desk.wait(0.01)
        desk.wait(60)
        return seen

    assert looks(400) <= 2.1 * looks(200)


# Every way to cancel, with the whole client


async def outcomes_of(ws: TradingWS, how: str, ids: list[str]) -> Sequence[Outcome]:
    if how == "many":
        return (await ws.cancel_many(ids)).outcomes
    if how == "batch":
        return (await ws.batch(ids).run()).outcomes
    if how == "single":
        told: list[Outcome] = []

        async def one(order_id: str) -> None:
            told.append(await ws.try_cancel(order_id))

        async with trio.open_nursery() as nursery:
            for order_id in ids:
                nursery.start_soon(one, order_id)
        return tuple(told)
    if how == "scope":
        scope = ws.open_order_scope(grace=30)
        with pytest.raises(OrdersLeft) as caught:
            async with scope:
                for order_id in ids:
                    await scope.add(order_id)
        return caught.value.report.outcomes

    def lazily() -> Iterator[str]:
        yield from ids

    async def waiting() -> AsyncIterator[str]:
        for order_id in ids:
            await trio.lowlevel.checkpoint()
            yield order_id

    inputs: dict[str, Iterable[str] | AsyncIterator[str]] = {"list": ids, "lazy": lazily(), "async": waiting()}
    async with ws.open_cancel_stream(inputs[how]) as stream:
        return tuple([outcome async for outcome in stream])


WAYS = ["many", "batch", "single", "scope", "list", "lazy", "async"]


@pytest.mark.parametrize("how", WAYS)
async def test_a_silent_venue(how: str, autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        ids = venue.orders(700)
        venue.sandbox.script(silent)
        began = trio.current_time()
        outcomes = await outcomes_of(ws, how, ids)
        assert trio.current_time() - began <= 30 + SLACK
        assert sorted(outcome.request.key for outcome in outcomes) == sorted(ids)
        assert all(isinstance(outcome, Unknown) for outcome in outcomes)
        said = {
            type(outcome.cause).__name__: str(outcome.cause) for outcome in outcomes if isinstance(outcome, Unknown)
        }
        assert list(said) == ["NoReply"]
        times = written(watch)
        assert set(times) == set(ids)  # every one was written
        assert sum(count > 1 for count in times.values()) <= WINDOW_START  # and once, but for the first window
        if how != "scope":  # its grace is over; what was written is tracked on
            assert ws.statistics().pending == 0


@pytest.mark.parametrize("how", WAYS)
async def test_a_venue_that_answers_nothing_but_5xx(how: str, autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch) as ws:
        ids = venue.orders(60)
        venue.sandbox.script(lambda record: Fault.ERROR_503_BEFORE)
        began = trio.current_time()
        outcomes = await outcomes_of(ws, how, ids)
        assert trio.current_time() - began <= 30 + SLACK
        assert {outcome.kind for outcome in outcomes} == {"unknown"}
        assert set(written(watch)) == set(ids)


@pytest.mark.parametrize("how", WAYS)
async def test_a_venue_that_is_gone(how: str, autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(600)
        venue.failures = [OSError("down")] * 1000
        await venue.cut()
        await trio.sleep(40)
        began = trio.current_time()
        outcomes = await outcomes_of(ws, how, ids)
        assert 29 <= trio.current_time() - began <= 30 + SLACK
        assert {outcome.kind for outcome in outcomes} == {"not_sent"}


async def flap(venue: Venue) -> None:
    """Let every connection be opened, and end at once."""
    ended = len(venue.ends) - 1
    while True:
        await trio.sleep(0.02)
        while ended < len(venue.ends):
            await venue.ends[ended].aclose()
            ended += 1


@pytest.mark.parametrize("how", WAYS)
async def test_a_venue_that_upgrades_and_closes_at_once(how: str, autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws, trio.open_nursery() as nursery:
        ids = venue.orders(300)
        venue.sandbox.script(silent)
        nursery.start_soon(flap, venue)
        await venue.cut()
        began = trio.current_time()
        outcomes = await outcomes_of(ws, how, ids)
        assert trio.current_time() - began <= 30 + SLACK
        assert len(outcomes) == len(ids)
        assert not any(outcome.off_book for outcome in outcomes)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", WAYS)
async def test_a_venue_that_does_not_read(how: str, autojump_clock: MockClock) -> None:
    async with open_venue(capacity=3000) as venue, venue.open(give_up_after=1.5) as ws, trio.open_nursery() as nursery:
        ids = venue.orders(300)
        venue.sandbox.script(lambda record: Fault.STOP_READING)
        began = trio.current_time()
        outcomes = await outcomes_of(ws, how, ids)
        most = 30 if how == "scope" else 1.5
        assert trio.current_time() - began <= most + SLACK
        assert {outcome.kind for outcome in outcomes} <= {"unknown", "not_sent"}
        nursery.cancel_scope.cancel()


async def test_a_connection_is_tried_more_often_for_a_last_chance(autojump_clock: MockClock) -> None:
    """Between two tries may lie ten seconds else, more than is left."""
    async with open_venue() as venue, venue.open() as ws:
        venue.failures = [OSError("down")] * 1000
        await venue.cut()
        began = trio.current_time()
        await ws.cancel_many(venue.orders(20))
        late = [at - began for at in venue.dials if at - began > 25]
        assert len(late) >= 4
        assert max(later - earlier for earlier, later in pairwise(late)) < 1.1


@pytest.mark.parametrize("how", ["single", "scope", "many", "list"])
async def test_what_has_its_outcome_hurries_no_connection(how: str, autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        venue.failures = [OSError("down")] * 10_000
        await venue.cut()
        outcomes = await outcomes_of(ws, how, venue.orders(20))
        assert {outcome.kind for outcome in outcomes} == {"not_sent"}
        await trio.sleep(20)
        before = len(venue.dials)
        await trio.sleep(600)
        assert 60 <= len(venue.dials) - before <= 120  # as often as the backoff says
        queue = ws._session.engine._queue
        assert not queue.last_chance
        assert not queue.returning


async def test_a_connection_is_tried_at_once_when_a_last_chance_comes(autojump_clock: MockClock) -> None:
    """With a short ``give_up_after`` the pause between two tries may be longer than all that is left."""
    for seed in range(10):
        async with open_venue() as venue, venue.open(give_up_after=1.5) as ws, trio.open_nursery() as nursery:
            ws._session._environment.jitter.seed(seed)
            venue.sandbox.script(silent)
            nursery.start_soon(flap, venue)
            await venue.cut()
            await trio.sleep(0.1)
            began = trio.current_time()
            report = await ws.cancel_many(venue.orders(100))
            assert trio.current_time() - began <= 1.5 + SLACK
            assert report.counts["unknown"] == 100  # every one was written
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", WAYS)
async def test_last_chances_come_before_retries_where_a_pace_has_few_turns(how: str, autojump_clock: MockClock) -> None:
    """A venue that takes one write a connection: the turns are not all for what was written before."""
    async with open_venue() as venue, venue.open(pacer=Pacer(5)) as ws, trio.open_nursery() as nursery:
        ids = venue.orders(40)
        venue.sandbox.script(silent)
        nursery.start_soon(flap, venue)
        await venue.cut()
        await outcomes_of(ws, how, ids)
        times = Counter(str(record.params["id"]) for record in venue.log)
        # About one connection a second in the last third of its time.
        assert len(times) >= 14
        assert sum(times.values()) <= len(times) + 25
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", WAYS)
async def test_what_gets_a_place_in_its_last_chance_is_written_once_and_forgotten(
    how: str, autojump_clock: MockClock
) -> None:
    """Late in an outage the window has room left when the last chances come, and takes some of them in."""
    async with open_venue() as venue, venue.open(pacer=Pacer(5)) as ws, trio.open_nursery() as nursery:
        ids = venue.orders(40)
        venue.sandbox.script(silent)
        nursery.start_soon(flap, venue)
        await venue.cut()
        nursery.start_soon(partial(ws.try_cancel, venue.orders(1)[0]))
        await trio.sleep(40)
        began = len(venue.log.requests)
        await outcomes_of(ws, how, ids)
        times = Counter(str(record.params["id"]) for record in list(venue.log)[began:])
        assert len(times) >= 10
        assert sum(times.values()) <= len(times) + 5
        nursery.cancel_scope.cancel()
        table = ws._session.engine._in_flight
        assert not table.last
        assert not table.active
        assert ws.statistics().pending == 0


def test_a_new_single_cancel_comes_before_the_last_chances_of_a_bulk_one() -> None:
    desk = Desk(pacer=Pacer(1))
    desk.submit_bulk(*(f"o{index}" for index in range(100)))
    desk.wait(12)
    for pending in list(desk.engine._in_flight.active)[4:]:
        desk.abandon(pending)  # type: ignore[arg-type]  # the desk's own orders
    desk.wait(5)
    before = len(desk.written)
    desk.submit("single")
    desk.wait(2.1)
    assert desk.written[before][2] == "single"


async def test_within_a_known_pace(autojump_clock: MockClock) -> None:
    watch = Remembering()
    async with open_venue() as venue, venue.open(observer=watch, pacer=Pacer(20)) as ws:
        ids = venue.orders(300)
        venue.sandbox.script(silent)
        report = await ws.cancel_many(ids)
        assert trio.current_time() <= 30 + SLACK
        assert set(written(watch)) == set(ids)
        assert report.counts["unknown"] == 300
        times = [record.received_at for record in venue.log]
        for index in range(len(times) - 20):
            assert times[index + 20] - times[index] >= 0.9  # no more than the pace allows, whatever the second


async def test_more_than_a_known_pace_allows(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open(pacer=Pacer(5)) as ws:
        ids = venue.orders(1000)
        venue.sandbox.script(silent)
        report = await ws.cancel_many(ids)
        assert trio.current_time() <= 30 + SLACK
        assert 80 < report.counts["unknown"] < 160
        assert report.counts["not_sent"] == 1000 - report.counts["unknown"]
        assert any(isinstance(o, NotSent) and "no sign of life" in str(o.cause) for o in report.outcomes)


async def test_a_last_chance_that_works(autojump_clock: MockClock) -> None:
    """What the gateway passes on in the end is canceled, and told."""
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(500)
        venue.sandbox.script(lambda record: Fault.SILENT_BEFORE if trio.current_time() < 20 else None)
        report = await ws.cancel_many(ids)
        assert report.counts["canceled"] == 500
        assert trio.current_time() < 25


async def test_an_item_that_is_pushed_into_a_stream_counts_from_then(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(4)
        venue.sandbox.script(silent)
        send, receive = trio.open_memory_channel[str](math.inf)
        ended: dict[str, float] = {}
        async with ws.open_cancel_stream(receive) as stream, trio.open_nursery() as nursery:

            async def push() -> None:
                for order_id in ids:
                    await send.send(order_id)
                    await trio.sleep(20)
                await send.aclose()

            nursery.start_soon(push)
            async for outcome in stream:
                ended[outcome.request.key] = trio.current_time()
                assert outcome.kind == "unknown"
        assert list(ended.values()) == pytest.approx([30, 50, 70, 90], abs=0.5)


async def test_what_lay_in_a_channel_counts_from_the_beginning(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids = venue.orders(2000)
        venue.sandbox.script(silent)
        send, receive = trio.open_memory_channel[str](math.inf)
        for order_id in ids:
            send.send_nowait(order_id)
        await send.aclose()
        async with ws.open_cancel_stream(receive) as stream:
            outcomes = [outcome async for outcome in stream]
        assert trio.current_time() <= 30 + SLACK
        assert {outcome.kind for outcome in outcomes} == {"unknown"}


async def test_a_slow_consumer_is_no_silence(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        async with ws.open_cancel_stream(venue.orders(3000)) as stream:
            await trio.sleep(100)
            kinds = {outcome.kind async for outcome in stream}
        assert kinds == {"canceled"}


async def test_an_idle_hour_is_no_silence(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        for _ in range(3):
            await trio.sleep(3600)
            report = await ws.cancel_many(venue.orders(30))
            assert report.counts["canceled"] == 30


def test_an_admitted_order_that_is_not_written_in_time_was_not_sent() -> None:
    """With a journal an order is admitted before its turn."""
    desk = Desk(auto=False, pacer=Pacer(1))
    orders = [desk.submit(f"o{index}") for index in range(3)]
    admitted, _ = desk.engine.take(desk.now, 0, 5.0)
    assert len(admitted) == 3
    desk.wait(31)
    assert {order.kind for order in orders} == {"not_sent"}
    assert desk.engine.let_through(deque(admitted), 10, desk.now)[0] == []


def test_a_source_settles_only_what_came_in_time() -> None:
    desk = Desk(up=False)
    bulk = Bulk([Order(CancelRequest("a"), RetryPolicy())], held_since=math.inf)
    desk.engine.submit_source(bulk, 0.0)
    desk.wait(100)
    assert bulk.refused is None  # nothing waits there
    assert all(order.state is State.QUEUED for order in bulk.orders)


def test_late_answers_to_very_many_last_chances_are_not_noise() -> None:
    """The venue comes back after everything has been given up, and answers it all."""
    desk = Desk()
    _, orders = desk.submit_bulk(*(f"o{index}" for index in range(3000)))
    desk.wait(31)
    assert {order.kind for order in orders} == {"unknown"}
    for _, request_id, key in list(desk.written):
        desk.answer(canceled(request_id, key))
    assert not desk.engine._replies.over_budget
    assert desk.engine.statistics().unknown_id == 0
    assert desk.engine.statistics().late == len(desk.written)


# No long step


async def test_a_large_input_is_read_and_reported_in_slices(autojump_clock: MockClock) -> None:
    """Another task has its turn at least once for each slice of what is read and of what is reported."""
    turns: list[int] = []
    read = 0

    def items(count: int) -> Iterator[str]:
        nonlocal read
        for index in range(count):
            read += 1
            yield f"order-{index}"

    async def other() -> None:
        while True:
            turns.append(read)
            await trio.lowlevel.checkpoint()

    async with open_venue() as venue, venue.open() as ws, trio.open_nursery() as nursery:
        ws._session._fail(HandshakeFailed("over"))  # so that all of it ends at once, and no clock is waited for
        nursery.start_soon(other)
        report = await ws.cancel_many(items(10 * BATCH_SLICE))
        nursery.cancel_scope.cancel()
        assert report.counts["not_sent"] == 10 * BATCH_SLICE
        assert max(later - earlier for earlier, later in pairwise(turns)) <= 2 * BATCH_SLICE  # tasks come in any order
        assert turns.count(10 * BATCH_SLICE) >= 10  # while the report was made


async def test_an_invalid_item_far_back_raises_before_anything_is_sent(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        ids: list[str] = [*venue.orders(3 * BATCH_SLICE), ""]
        with pytest.raises(InvalidRequest, match=f"Item {3 * BATCH_SLICE} "):
            await ws.cancel_many(ids)
        assert len(venue.log) == 0
        twice = [*ids[:-1], ids[0], ids[2 * BATCH_SLICE].lower()]
        report = await ws.cancel_many(twice)
        assert [outcome.request.key.lower() for outcome in report.outcomes] == [order_id.lower() for order_id in twice]
        assert len(venue.log) == 3 * BATCH_SLICE


async def test_a_cancelled_reading_sends_nothing(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:

        def items() -> Iterator[str]:
            for index in range(5 * BATCH_SLICE):
                if index == 3 * BATCH_SLICE:
                    scope.cancel()
                yield f"order-{index}"

        with trio.CancelScope() as scope:
            await ws.cancel_many(items())
        assert scope.cancelled_caught
        assert len(venue.log) == 0


async def test_a_report_of_what_never_ran_has_one_cause_for_all(autojump_clock: MockClock) -> None:
    async with open_venue() as venue, venue.open() as ws:
        batch = ws.batch([f"order-{index}" for index in range(3 * BATCH_SLICE)])
        report = batch.report()
        assert len({id(outcome.cause) for outcome in report.outcomes if isinstance(outcome, NotSent)}) == 1
        assert not report.final


async def test_the_end_of_a_large_scope_looks_at_everything_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each order that ends: that would be orders times window."""
    looked = 0
    values = ScopeExit._is_asked_elsewhere

    def count(ending: ScopeExit, turn: Any) -> bool:
        nonlocal looked
        before = ending._others_at
        found = values(ending, turn)
        looked += ending._others_at != before
        return found

    monkeypatch.setattr(ScopeExit, "_is_asked_elsewhere", count)
    async with open_venue() as venue, venue.open(pacer=Pacer(1)) as ws:
        ids = venue.orders(2000)
        venue.sandbox.script(silent)
        scope = ws.open_order_scope(grace=10)
        with pytest.raises(OrdersLeft) as caught:
            async with scope:
                for order_id in ids:
                    await scope.add(order_id)
        assert len(caught.value.report.outcomes) == 2000
        assert looked < 50


def test_a_pace_that_holds_attempts_back_in_a_silence_gives_no_time() -> None:
    """Each next attempt waits for its turn; in a silence that wait is time spent, however many attempts there are."""
    desk = Desk(policy=RetryPolicy(reply_timeout=2.0, give_up_after=15.0), pacer=Pacer(1.0))
    _, orders = desk.submit_bulk(*(f"o-{number}" for number in range(30)))
    desk.wait(15.1)
    assert {order.kind for order in orders if order.flights} == {"unknown"}
