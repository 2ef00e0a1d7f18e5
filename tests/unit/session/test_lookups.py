"""Lookups of one session, each rule alone: on an engine without sockets."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import Desk, bare
from trio_cancel import CancelRequest, LookupFailed, NotFound, Unknown
from trio_cancel._engine.lookup_progress import BUDGET
from trio_cancel._engine.order import RetryPolicy, State
from trio_cancel._session.lookups import AT_ONCE, PATIENCE, RETRY_AFTER_MOST, Lookups
from trio_cancel._trio.wakeup import Wakeup
from trio_cancel._values.errors import NoReply
from trio_cancel._values.outcomes import VenueReply
from trio_cancel.lookup import OrderState


def unexpected(what: object) -> None:
    raise AssertionError(what)


class Lister:
    """A lookup that lists, as it is told."""

    def __init__(self, found: Any = None) -> None:
        self.found = found

    async def __call__(self, request: CancelRequest) -> OrderState:
        raise LookupFailed("no")

    async def open_orders(self, page: int) -> Any:
        if self.found is None:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.found


async def test_what_is_no_page_is_named(autojump_clock: MockClock) -> None:
    lookups = Lookups(Lister([1]), Desk().engine, unexpected)
    with pytest.raises(LookupFailed) as caught:
        await lookups.open_orders(1)
    assert str(caught.value) == "The list of open orders is list, not a page."


async def test_a_list_that_does_not_return_is_named(autojump_clock: MockClock) -> None:
    lookups = Lookups(Lister(), Desk().engine, unexpected)
    with pytest.raises(LookupFailed) as caught:
        await lookups.open_orders(1)
    assert str(caught.value) == "The list of open orders did not return within 30 s."
    assert trio.current_time() == PATIENCE


def test_what_is_due_at_the_same_time_comes_in_order() -> None:
    lookups = Lookups(Lister(), Desk().engine, unexpected)
    orders = [bare(CancelRequest(f"o-{number}")) for number in range(5)]
    for order in orders:
        lookups._put(order, 1.0)
    assert [order for _, _, order in sorted(lookups._due)] == orders


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_ends_the_program_is_handed_on_and_the_lookups_go_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    handed: list[BaseException] = []
    lookups = Lookups(Lister(), Desk().engine, handed.append)
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        await trio.lowlevel.checkpoint()
        if runs < 3:
            raise error
        await trio.sleep_forever()

    monkeypatch.setattr(lookups, "_run", run)
    with trio.move_on_after(1):
        await lookups.run()
    assert handed == [error, error]
    assert runs == 3


# One order's lookup


class Bench:
    """Lookups whose engine is played here: what they are asked, and what the engine is told."""

    def __init__(self, found: Any, *, ends_in: float = 20.0, answered_ago: float = 0.0) -> None:
        self.asked: list[CancelRequest] = []
        self.told: list[tuple[object, float]] = []
        self.handed: list[BaseException] = []
        self.limited: list[float] = []
        self.admitted = 0
        self.ready_at = 0.0
        self.wait: float | None = None
        self.request = CancelRequest("a")
        self.order: Any = SimpleNamespace(
            lookup=SimpleNamespace(ends_at=trio.current_time() + ends_in, asks=None, outcome=unknown(self.request)),
            state=State.LOOKED_UP,
            policy=RetryPolicy(),
            learned=None,
            request=self.request,
        )
        engine: Any = SimpleNamespace(
            admit_lookup=self._admit,
            lookup_limited=lambda now, asked_at: self.limited.append(asked_at),
            not_seen=lambda order, again: self._tell(again),
            seen=lambda order, state: self._tell(state),
            lookup_wakeup=Wakeup(),
        )
        self._found = found
        self.lookups = Lookups(self._look_up, engine, self.handed.append)
        self.lookups._answered_at = trio.current_time() - answered_ago

    def _admit(self, now: float) -> float:
        self.admitted += 1
        return max(self.ready_at, now)

    def _tell(self, what: object) -> float | None:
        self.told.append((what, trio.current_time()))
        return self.wait

    async def _look_up(self, request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        self.asked.append(request)
        if self._found is None:
            await trio.sleep_forever()
        if isinstance(self._found, BaseException):
            raise self._found
        found: OrderState = self._found
        return found

    async def settle(self) -> list[tuple[object, float]]:
        await self.lookups._room.acquire()
        await self.lookups._settle(self.order)
        assert self.lookups._room.value == AT_ONCE
        return self.told


def unknown(request: CancelRequest) -> Unknown:
    return Unknown(request, (), cause=NoReply("no answer"))


def not_found(request: CancelRequest) -> NotFound:
    return NotFound(request, (), error=VenueReply(404, 40401))


@pytest.mark.parametrize("late", ["settled", "no more looked up"])
async def test_what_has_settled_meanwhile_is_not_looked_up(autojump_clock: MockClock, late: str) -> None:
    bench = Bench(LookupFailed("no", status=500))
    if late == "settled":
        bench.order.state = State.SETTLED
    else:
        bench.order.lookup = None
    assert await bench.settle() == [(False, 0.0)]
    assert not bench.asked


@pytest.mark.parametrize(("ends_in", "answered_ago", "asks"), [(0.0, BUDGET, 0), (0.1, BUDGET, 1), (0.0, 4.9, 1)])
async def test_a_turn_that_comes_late_is_left_out_only_where_nothing_answers(
    autojump_clock: MockClock, ends_in: float, answered_ago: float, asks: int
) -> None:
    await trio.sleep(100)
    bench = Bench(LookupFailed("no", status=500), ends_in=ends_in, answered_ago=answered_ago)
    assert await bench.settle() == [(asks == 1, 100.0)]
    assert len(bench.asked) == asks


@pytest.mark.parametrize(
    ("status", "before", "again"),
    [
        (None, unknown, True),
        (500, unknown, True),
        (429, not_found, True),
        (403, unknown, False),
        (404, unknown, True),
        (404, not_found, False),
        (500, not_found, True),
    ],
)
async def test_after_which_failures_it_is_looked_up_again(
    autojump_clock: MockClock, status: int | None, before: Any, again: bool
) -> None:
    bench = Bench(LookupFailed("no", status=status))
    bench.order.lookup.outcome = before(bench.request)
    assert await bench.settle() == [(again, 0.0)]


@pytest.mark.parametrize(
    ("left", "answered_ago", "patience"),
    [(3.0, BUDGET, 3.0), (0.5, BUDGET, 0.5), (3.0, 0.0, BUDGET), (9.0, 9.0, BUDGET)],
)
async def test_how_long_an_answer_is_waited_for(
    autojump_clock: MockClock, left: float, answered_ago: float, patience: float
) -> None:
    await trio.sleep(100)
    bench = Bench(None, ends_in=left, answered_ago=answered_ago)
    assert await bench.settle() == [(True, 100.0 + patience)]


async def test_what_has_no_turn_for_too_long_is_looked_up_again_later(autojump_clock: MockClock) -> None:
    bench = Bench(None, ends_in=20.0)
    bench.ready_at = 1e9
    assert await bench.settle() == [(True, 20.0 + RetryPolicy().give_up_after)]
    assert not bench.asked


@pytest.mark.parametrize("names", [("asked",), ("learned", "asked"), ("asks", "learned", "asked")])
async def test_it_asks_by_the_surest_name(autojump_clock: MockClock, names: tuple[str, ...]) -> None:
    bench = Bench(LookupFailed("no", status=500))
    if "learned" in names:
        bench.order.learned = CancelRequest("learned")
    if "asks" in names:
        bench.order.lookup.asks = CancelRequest("asks")
    await bench.settle()
    assert bench.asked == [bench.request if names[0] == "asked" else CancelRequest(names[0])]


async def test_what_ends_the_program_in_a_lookup_is_handed_on_and_not_asked_again(autojump_clock: MockClock) -> None:
    error = KeyboardInterrupt()
    bench = Bench(error)
    assert await bench.settle() == [(False, 0.0)]
    assert bench.handed == [error]


async def test_what_is_to_be_looked_up_again_is_due_when_the_engine_says(autojump_clock: MockClock) -> None:
    bench = Bench(LookupFailed("no", status=500))
    bench.wait = 2.5
    await bench.settle()
    assert [(at, order) for at, _, order in bench.lookups._due] == [(2.5, bench.order)]


@pytest.mark.parametrize(
    ("status", "retry_after", "answered", "limited", "not_before"),
    [
        (None, None, False, False, None),
        (500, 7.0, True, False, None),
        (429, None, True, True, None),
        (429, 0.0, True, True, None),
        (429, 0.5, True, True, 0.5),
        (429, 7.0, True, True, 7.0),
        (429, 1e9, True, True, RETRY_AFTER_MOST),
    ],
)
async def test_what_a_failure_says_of_the_source(
    autojump_clock: MockClock,
    status: int | None,
    retry_after: float | None,
    answered: bool,
    limited: bool,
    not_before: float | None,
) -> None:
    await trio.sleep(100)
    bench = Bench(LookupFailed("no", status=status, retry_after=retry_after), answered_ago=50)
    await bench.settle()
    assert (bench.lookups._answered_at == 100.0) is answered
    assert bench.limited == [100.0] * limited
    assert bench.lookups._not_before == (-math.inf if not_before is None else 100.0 + not_before)


async def test_each_lookup_is_admitted_also_at_the_moment_when_it_may_be_made_again(autojump_clock: MockClock) -> None:
    bench = Bench(LookupFailed("no", status=500))
    bench.lookups._not_before = 5.0
    await bench.settle()
    assert trio.current_time() == 5.0
    assert bench.admitted == 1
