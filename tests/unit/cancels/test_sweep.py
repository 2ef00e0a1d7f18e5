"""The rules of a sweep, each alone: pages and their repetition, what is canceled, and when it is over."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tools.desk import WALL
from trio_cancel import AlreadyClosed, CancelRequest, LookupFailed
from trio_cancel._cancels.open_orders import BARREN_MOST, PAGE_WAITS, QUIET, OpenOrders, Sweep, _List
from trio_cancel._session.lookups import RETRY_AFTER_MOST
from trio_cancel._values.errors import NoReply
from trio_cancel._values.open_report import OpenFilter
from trio_cancel._values.outcomes import Unknown, VenueReply
from trio_cancel._venue.rest import Page
from trio_cancel.lookup import OrderState


def order(id: str = "A", status: str = "open", **fields: Any) -> OrderState:
    return OrderState(**{"id": id, "status": status, "seen_at": 1.0, "pair": "BTC_BRL", **fields})


def shown(*ids: str, last: bool | None = True, unreadable: int = 0) -> Page:
    return Page(tuple(map(order, ids)), last, unreadable)


class Pages:
    """What is asked for pages: it returns, or raises, one after the other; the last of them again and again."""

    def __init__(self, *found: Page | LookupFailed) -> None:
        self._found = list(found)
        self.asked: list[tuple[float, int]] = []

    async def __call__(self, number: int) -> Page:
        await trio.lowlevel.checkpoint()
        self.asked.append((trio.current_time(), number))
        found = self._found.pop(0) if len(self._found) > 1 else self._found[0]
        if isinstance(found, LookupFailed):
            raise found
        return found


def unknown(id: str) -> Unknown:
    return Unknown(CancelRequest(id), (), cause=NoReply("no answer"))


def closed(id: str) -> AlreadyClosed:
    return AlreadyClosed(CancelRequest(id), (), error=VenueReply(400, 40040))


# One list


async def test_a_page_is_asked_for_again_after_pauses_that_grow(autojump_clock: MockClock) -> None:
    pages = Pages(*[LookupFailed("busy", status=500)] * 4, shown("A"))
    found = await _List(pages).next_page()
    assert [state.id for state in found] == ["A"]
    assert pages.asked == [(0.0, 1), (0.5, 1), (1.5, 1), (3.5, 1), (7.5, 1)]


@pytest.mark.parametrize(("said", "pause"), [(None, 0.5), (0.1, 0.5), (3.0, 3.0), (1e6, RETRY_AFTER_MOST)])
async def test_the_pause_is_what_the_venue_asked_for_within_bounds(
    autojump_clock: MockClock, said: float | None, pause: float
) -> None:
    pages = Pages(LookupFailed("slow down", status=429, retry_after=said), shown("A"))
    await _List(pages).next_page()
    assert pages.asked == [(0.0, 1), (pause, 1)]


@pytest.mark.parametrize(
    ("status", "tries", "broken"),
    [(403, 1, False), (500, 1 + len(PAGE_WAITS), True), (None, 1 + len(PAGE_WAITS), True)],
)
async def test_a_page_that_cannot_be_had_ends_the_list(
    autojump_clock: MockClock, status: int | None, tries: int, broken: bool
) -> None:
    failure = LookupFailed("no", status=status)
    pages = Pages(failure)
    listed = _List(pages)
    assert await listed.next_page() == []
    assert (listed.ended, listed.broken, listed.failure) == (True, broken, failure)
    assert len(pages.asked) == tries


async def test_what_cannot_be_read_is_counted_over_all_pages(autojump_clock: MockClock) -> None:
    listed = _List(Pages(shown("A", last=False, unreadable=1), shown("B", " C ", unreadable=2)))
    assert [[state.id for state in await listed.next_page()] for _ in range(2)] == [["A"], ["B"]]
    assert listed.ended
    assert str(listed.failure) == "4 orders of the venue's list could not be read, so they were not canceled."


async def test_pages_without_anything_new_end_a_list_only_one_after_the_other(autojump_clock: MockClock) -> None:
    old, new = shown("A", last=False), [shown(f"N{number}", last=False) for number in range(2)]
    barren = [old] * (BARREN_MOST - 1)
    listed = _List(Pages(old, *barren, new[0], *barren, new[1], old))
    ends: list[bool] = []
    for _ in range(3 + 2 * len(barren) + BARREN_MOST - 1):
        await listed.next_page()
        ends.append(listed.ended)
    await listed.next_page()
    assert [*ends, listed.ended] == [False] * len(ends) + [True]


# What is canceled


def test_nothing_is_known_before_the_first_list() -> None:
    report = Sweep(OpenFilter(), QUIET, 0.0).report(False)
    assert (report.orders, len(report.outcomes), report.outside, report.failure) == ((), 0, 0, None)
    assert report.none_seen_since is None


def test_each_order_of_a_page_is_judged_by_itself() -> None:
    sweep = Sweep(OpenFilter(), QUIET, 0.0)
    a, b, c = map(CancelRequest, "ABC")
    assert sweep.take([order("X", "canceled"), order("A"), order("B")], 0.0) == [a, b]
    assert sweep.take([order("A"), order("B")], 1.0) == []  # both are under way
    sweep.settled(closed("A"), 2.0)
    assert sweep.take([order("A"), order("C")], 3.0) == [c]


def test_an_order_under_way_has_no_outcome_though_it_had_one() -> None:
    sweep = Sweep(OpenFilter(), QUIET, 0.0)
    (a,) = sweep.take([order("A")], 0.0)
    assert sweep.outcomes() == [(a, None)]
    settled = sweep.settled(unknown("A"), 1.0)
    assert sweep.outcomes() == [(a, settled)]
    assert sweep.take([order("A")], 2.0) == [a]
    assert sweep.outcomes() == [(a, None)]


# When it is over


@pytest.mark.parametrize(("began", "broken", "over"), [(21.9, False, False), (22.0, False, True), (22.0, True, False)])
def test_it_is_over_when_a_list_that_began_late_enough_was_quiet(began: float, broken: bool, over: bool) -> None:
    sweep = Sweep(OpenFilter(), 20.0, 0.0)
    sweep.take([order("A")], 1.0)
    sweep.settled(closed("A"), 2.0)
    sweep.begin(began, WALL)
    assert sweep.end(None, broken=broken) is over


def test_a_list_shows_an_order_until_one_does_not() -> None:
    sweep = Sweep(OpenFilter(), 20.0, 0.0)
    sweep.begin(0.0, WALL)
    sweep.take([order("A"), order("B")], 0.0)
    sweep.end(None, broken=False)
    assert sweep.report(False).none_seen_since is None
    sweep.begin(2.0, WALL + 2)
    sweep.end(None, broken=False)
    sweep.begin(4.0, WALL + 4)
    sweep.end(None, broken=False)
    assert sweep.report(False).none_seen_since == WALL + 2
    sweep.begin(6.0, WALL + 6)
    sweep.take([order("A"), order("B")], 6.0)  # under way; yet they are shown
    sweep.end(None, broken=False)
    assert sweep.report(False).none_seen_since is None


@pytest.mark.parametrize("failed", [False, True])
def test_the_report_tells_that_the_journal_failed(failed: bool) -> None:
    assert Sweep(OpenFilter(), 20.0, 0.0).report(failed).cancels.journal_failed is failed


async def all_of(orders: OpenOrders) -> list[CancelRequest]:
    return [request async for request in orders]


async def test_lists_that_break_are_not_quiet(autojump_clock: MockClock) -> None:
    failure = LookupFailed("away", status=500)
    sweep = Sweep(OpenFilter(), 20.0, 0.0)
    assert await all_of(OpenOrders(sweep, Pages(failure), lambda: WALL, 60.0)) == []
    assert trio.current_time() == 60.0
    assert sweep.failure is failure


async def test_whole_lists_without_orders_end_it_after_the_quiet_time(autojump_clock: MockClock) -> None:
    sweep = Sweep(OpenFilter(), 20.0, 0.0)
    assert await all_of(OpenOrders(sweep, Pages(shown()), lambda: WALL + trio.current_time(), 60.0)) == []
    assert trio.current_time() == 20.0
    assert sweep.failure is None
    assert sweep.none_seen_since == WALL


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_list_that_was_not_whole_in_time_says_nothing(autojump_clock: MockClock, hangs: bool) -> None:
    async def page(number: int) -> Page:
        if trio.current_time() > 3.0 and hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return shown()

    sweep = Sweep(OpenFilter(), 20.0, 0.0)
    assert await all_of(OpenOrders(sweep, page, lambda: WALL, 5.0)) == []
    assert trio.current_time() == 5.0
    assert str(sweep.failure) == "The list was not complete and quiet for 20 s within 5 s."
    assert sweep.none_seen_since == (None if hangs else WALL)
