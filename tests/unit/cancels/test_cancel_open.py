"""Cancel what the venue lists as open: scopes, pages that shift, lists that lag, lists that fail."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.integration.test_lookup import rest_of
from tests.tools.venues import EPOCH, Venue, one_clock, open_venue, venue_clock
from trio_cancel import (
    CancelRequest,
    ConfigurationError,
    LookupFailed,
    OrdersLeft,
    Pacer,
    SessionClosed,
    open_trading_ws,
)
from trio_cancel._cancels import open_orders
from trio_cancel._values.open_report import OpenFilter
from trio_cancel._venue.rest import Page
from trio_cancel.lookup import OrderState, OrderStatus, RestLookup
from trio_cancel.sandbox import Fault, RestFault, open_sandbox
from trio_cancel.types import OpenReport

Clock = trio.testing.MockClock


@pytest.fixture(autouse=True)
def _one_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "autojump_clock" in request.fixturenames:
        one_clock(monkeypatch)


class Lister:
    """A lookup of one's own that lists, too: each call of ``page`` makes one."""

    def __init__(self, page: Callable[[int, int], Page]) -> None:
        self.page = page
        self.asked: list[int] = []

    async def __call__(self, request: CancelRequest) -> OrderState:
        await trio.lowlevel.checkpoint()
        raise LookupFailed("no", status=404)

    async def open_orders(self, page: int) -> Page:
        await trio.lowlevel.checkpoint()
        self.asked.append(page)
        return self.page(len(self.asked), page)


def shown(*ids: str, last: bool | None = True, unreadable: int = 0, **fields: Any) -> Page:
    fields = {"status": "open", "seen_at": 1.0, "pair": "BTC_BRL", **fields}
    states = [OrderState(id=one, **fields) for one in ids]
    return Page(tuple(states), last, unreadable)


async def sweep(venue: Venue, lookup: Any = None, **keywords: Any) -> OpenReport:
    session = {name: keywords.pop(name) for name in ("retry", "pacer", "reply_timeout") if name in keywords}
    async with venue.open(lookup=lookup or rest_of(venue), **session) as ws:
        return await ws.cancel_open(**({"everything": True} | keywords))


# What is meant


async def test_everything(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        ids = venue.orders(250)
        other = venue.book.create(pair="ETH_BRL", side="sell")
        venue.book.cancel(ids[7])
        began = trio.current_time()
        report = await sweep(venue)
        assert not venue.book.open_orders()
        assert sorted(str(state.id) for state in report.orders) == sorted([*ids[:7], *ids[8:], other.id])
        assert [outcome.request.id for outcome in report.outcomes] == [state.id for state in report.orders]
        assert report.counts["canceled"] == 250
        assert (report.left, report.failure, report.outside) == ((), None, 0)
        report.raise_for_left()
        assert report.none_seen_since is not None
        assert began <= report.none_seen_since - EPOCH <= began + 5
        assert 20 <= trio.current_time() - began < 25
        assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.parametrize(
    ("scope", "canceled"),
    [
        ({"pair": "BTC_BRL"}, {"BTC_BRL buy", "BTC_BRL sell"}),
        ({"pair": "btc-brl"}, {"BTC_BRL buy", "BTC_BRL sell"}),
        ({"side": "sell"}, {"BTC_BRL sell", "ETH_BRL sell"}),
        ({"pair": "ETH_BRL", "side": "buy"}, {"ETH_BRL buy"}),
        ({"pair": "BTC_BR"}, set()),
    ],
)
async def test_nothing_beyond_the_scope_is_touched(
    scope: dict[str, Any], canceled: set[str], autojump_clock: Clock
) -> None:
    async with open_venue(clock=venue_clock) as venue:
        for pair in ("BTC_BRL", "ETH_BRL"):
            for side in ("buy", "sell"):
                venue.book.create(pair=pair, side=side)
        report = await sweep(venue, everything=False, **scope)
        assert {f"{o.pair} {o.side}" for o in venue.book if not o.status.active} == canceled
        assert {f"{o.pair} {o.side}" for o in report.orders} == canceled
        assert report.outside == 4 - len(canceled)
        assert report.failure is None
        assert report.none_seen_since is not None


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, "Say which open orders"),
        ({"everything": True, "pair": "BTC_BRL"}, "without pair and side"),
        ({"everything": True, "side": "buy"}, "without pair and side"),
        ({"everything": "BTC_BRL"}, "True or False"),
        ({"everything": 1}, "True or False"),
        ({"pair": ""}, "name of a market"),
        ({"pair": " "}, "name of a market"),
        ({"pair": 7}, "name of a market"),
        ({"pair": ["BTC_BRL"]}, "name of a market"),
        ({"side": "BUY"}, "'buy' or 'sell'"),
        ({"side": []}, "'buy' or 'sell'"),
        ({"everything": True, "quiet_for": 0}, "quiet_for"),
        ({"everything": True, "within": float("nan")}, "within"),
        ({"everything": True, "within": 5}, "must not be shorter"),
        ({"everything": True, "dry_run": "yes"}, "dry_run"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_asked(keywords: dict[str, Any], words: str) -> None:
    async with open_venue() as venue, venue.open(lookup=rest_of(venue)) as ws:
        order = venue.book.create()
        with pytest.raises(ConfigurationError, match=words):
            await ws.cancel_open(**keywords)
        assert venue.sandbox.rest_log.received == 0
        assert venue.book.get(order.id).status.active


async def test_it_needs_a_lookup_that_lists() -> None:
    async def mine(request: CancelRequest) -> OrderState:
        raise LookupFailed("no")

    async with open_venue() as venue:
        async with venue.open() as ws:
            with pytest.raises(ConfigurationError, match="has no lookup: pass lookup=RestLookup"):
                await ws.cancel_open(everything=True)
        with pytest.raises(SessionClosed):
            await ws.cancel_open(everything=True)
        async with venue.open(lookup=mine) as ws:
            with pytest.raises(ConfigurationError, match="a lookup that cannot list open orders"):
                await ws.cancel_open(everything=True)


async def test_a_dry_run_lists_only(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        ids = venue.orders(120)
        report = await sweep(venue, dry_run=True)
        assert [state.id for state in report.orders] == ids
        assert (len(report.outcomes), report.failure, report.none_seen_since) == (0, None, None)
        assert len(venue.book.open_orders()) == 120
        assert venue.log.requests == venue.log.requests.__class__()
        assert venue.sandbox.rest_log.received == 2
        venue.sandbox.fault_on_rest(None, RestFault.ERROR_403)
        report = await sweep(venue, dry_run=True)
        assert len(report.orders) == 100
        assert report.failure is not None
        assert report.failure.status == 403
        report = await sweep(venue, everything=False, pair="ETH_BRL", dry_run=True)
        assert (report.orders, report.outside) == ((), 120)
        assert report.none_seen_since is not None


async def test_a_dry_run_ends_in_time(autojump_clock: Clock) -> None:
    async with open_venue() as venue:
        lister = Lister(lambda call, page: shown(f"A{call}", last=False))

        async def slow(page: int) -> Page:
            await trio.sleep(1)
            return lister.page(page, page)

        lister.open_orders = slow  # type: ignore[method-assign]  # that is the point
        report = await sweep(venue, lister, dry_run=True, within=30)
        assert len(report.orders) == 29
        assert report.failure is not None


# Lists that lag, and orders that come up


async def test_a_list_that_lags_makes_it_cancel_nothing_twice(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock, rest_lag=6.0) as venue:
        ids = venue.orders(30)
        await trio.sleep(10)
        began = trio.current_time()
        report = await sweep(venue)
        assert report.counts["canceled"] == 30
        assert len(venue.log.requests) == 30
        assert report.none_seen_since is not None  # what a stale list shows is off the book: the venue said so
        assert trio.current_time() - began < 25
        assert not [i for i in ids if venue.book.get(i).status.active]


async def test_an_order_that_a_stale_list_shows_for_ever(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create()
        report = await sweep(venue, Lister(lambda call, page: shown(order.id)))
        assert report.counts["canceled"] == 1
        assert len(venue.log.requests) == 1
        assert report.failure is None


async def test_orders_that_are_placed_meanwhile(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue, trio.open_nursery() as nursery:
        venue.orders(3)
        venue.book.create(delay=9)
        began = trio.current_time()

        @nursery.start_soon
        async def _() -> None:
            for _ in range(3):
                await trio.sleep(12)
                venue.book.create()

        report = await sweep(venue)
        assert report.counts["canceled"] == 7
        assert not venue.book.open_orders(pending=True)
        assert 56 <= trio.current_time() - began <= 62  # 20 s after the last one
        assert report.none_seen_since is not None
        assert 36 <= report.none_seen_since - EPOCH - began <= 41


async def test_a_bot_that_never_stops_is_given_up_in_time(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            while True:
                venue.book.create()
                await trio.sleep(7)

        began = trio.current_time()
        report = await sweep(venue, within=100)
        nursery.cancel_scope.cancel()
        assert 100 <= trio.current_time() - began <= 101
        assert len(report.orders) >= 14
        assert not report.left
        with pytest.raises(LookupFailed, match="quiet for 20 s within 100 s"):
            report.raise_for_left()


async def test_pages_that_shift_while_orders_vanish(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock, delay=0.0) as venue:
        ids = venue.orders(1050)

        def page(call: int, number: int) -> Page:
            still = [order.id for order in venue.book.open_orders()]
            return shown(*still[100 * number - 100 : 100 * number], last=100 * number >= len(still))

        report = await sweep(venue, Lister(page))
        assert report.counts["canceled"] == 1050
        assert {state.id for state in report.orders} == set(ids)
        assert len(venue.log.requests) == 1050
        assert not venue.book.open_orders()


async def test_duplicates_between_pages_are_canceled_once(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        ids = venue.orders(4)
        pages = {1: shown(*ids[:3], last=False), 2: shown(ids[2].lower(), ids[1], ids[3], last=True)}
        report = await sweep(venue, Lister(lambda call, page: pages[page]))
        assert [state.id for state in report.orders] == ids
        assert len(venue.log.requests) == 4


@pytest.mark.parametrize("last", [False, None])
async def test_pages_that_never_end(last: bool | None, autojump_clock: Clock) -> None:
    """A venue that ignores the number of the page shows the first one again and again."""
    async with open_venue(clock=venue_clock) as venue:
        ids = venue.orders(4)
        lister = Lister(lambda call, page: shown(*ids, last=last))
        report = await sweep(venue, lister)
        assert report.counts["canceled"] == 4
        assert max(lister.asked) == (2 if last is None else 4)
        if last is None:
            assert report.failure is None
        else:
            assert "does not end" in str(report.failure)
            assert report.none_seen_since is None


async def test_pages_that_bring_new_orders_without_end(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_orders, "PAGES_MOST", 10)
    async with open_venue(clock=venue_clock) as venue:
        report = await sweep(venue, Lister(lambda call, page: shown(f"never-{page}", last=False)))
        assert report.counts["not_found"] == 10
        assert "does not end, up to page 10" in str(report.failure)
        assert len(venue.log.requests) == 10 * open_orders.TRIES


async def test_what_cannot_be_read_is_told(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create()
        for page, words in (
            (shown(order.id, " A ", "B\u200b"), "2 orders of the venue's list could not be read, so they were"),
            (shown(order.id, unreadable=1), "1 order of the venue's list could not be read, so it was"),
        ):
            report = await sweep(venue, Lister(lambda call, number, page=page: page))  # type: ignore[misc]  # bound
            assert [state.id for state in report.orders] == [order.id]
            assert words in str(report.failure)
            assert report.none_seen_since is None
            with pytest.raises(LookupFailed):
                report.raise_for_left()


async def test_an_order_whose_market_is_not_said_is_left_alone(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create()
        report = await sweep(venue, Lister(lambda c, p: shown(order.id, pair=None)), everything=False, pair="BTC_BRL")
        assert not report.orders
        assert str(report.failure) == (
            "The venue does not give the market or the side of 1 listed order, so it was left alone."
        )
        assert venue.book.get(order.id).status.active
        two = Lister(lambda c, p: shown(order.id, "another", "a third", pair=None))
        report = await sweep(venue, two, everything=False, pair="BTC_BRL")
        assert str(report.failure) == (
            "The venue does not give the market or the side of 3 listed orders, so they were left alone."
        )


async def test_what_the_list_calls_closed_is_not_canceled(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create()
        report = await sweep(venue, Lister(lambda c, p: shown(order.id, status=OrderStatus.CANCELED)))
        assert not report.orders
        assert not venue.log.requests


# Lists that fail


async def test_what_is_known_is_canceled_though_the_list_breaks_off(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        ids = venue.orders(150)
        venue.sandbox.fault_on_rest(None, RestFault.ERROR_403)
        report = await sweep(venue)
        assert [outcome.request.id for outcome in report.outcomes] == ids[:100]
        assert report.counts["canceled"] == 100
        assert report.failure is not None
        assert report.failure.status == 403
        assert report.none_seen_since is None
        with pytest.raises(LookupFailed, match="403"):
            report.raise_for_left()


@pytest.mark.parametrize("fault", [RestFault.ERROR_401, RestFault.ERROR_403])
async def test_a_list_that_is_refused_ends_it_at_once(fault: RestFault, autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create()
        venue.sandbox.fault_on_rest(fault)
        began = trio.current_time()
        report = await sweep(venue)
        assert trio.current_time() - began < 1
        assert report.orders == ()
        assert report.failure is not None
        assert venue.book.get(order.id).status.active


async def test_passing_failures_are_got_over(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        ids = venue.orders(150)
        passing = [RestFault.ERROR_500, RestFault.HTML_502, RestFault.ERROR_429, RestFault.MALFORMED_JSON]
        venue.sandbox.fault_on_rest(*passing, None, *passing, *[RestFault.ERROR_503] * 6)
        report = await sweep(venue)
        assert report.counts["canceled"] == 150
        assert report.failure is None
        assert not [i for i in ids if venue.book.get(i).status.active]


async def test_a_rest_side_that_is_away_is_given_up_in_time(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        venue.book.create()
        venue.sandbox.fault_on_rest(*[RestFault.STALLED] * 500)
        began = trio.current_time()
        report = await sweep(venue, within=120)
        assert trio.current_time() - began <= 121
        assert report.orders == ()
        assert report.failure is not None


@pytest.mark.parametrize("what", ["raises", "another type", "hangs", "base exception"])
async def test_a_lister_of_ones_own_that_breaks(what: str, autojump_clock: Clock) -> None:
    class Odd(BaseException):
        pass

    async with open_venue(clock=venue_clock) as venue:
        lister = Lister(lambda call, page: shown())

        async def odd(page: int) -> Any:
            await trio.lowlevel.checkpoint()
            if what == "raises":
                raise KeyError("broken")
            if what == "hangs":
                await trio.sleep_forever()
            if what == "base exception":
                raise Odd
            return [page]

        lister.open_orders = odd  # type: ignore[method-assign]  # that is the point
        report = await sweep(venue, lister, within=60)
        assert report.failure is not None
        assert report.orders == ()


# What does not come off


async def test_an_order_that_stays_is_tried_three_times(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create()
        venue.sandbox.fault_on(order.id, *[Fault.SILENT_BEFORE] * 1000)
        began = trio.current_time()
        report = await sweep(venue, Lister(lambda c, p: shown(order.id)), retry=False)
        assert len(venue.log.requests) == 3
        (outcome,) = report.left
        assert outcome.kind == "unknown"
        assert len(outcome.attempts) == 3
        assert trio.current_time() - began < 3 * 20 + 30
        assert report.none_seen_since is None
        with pytest.raises(OrdersLeft):
            report.raise_for_left()


async def test_a_refusal_after_an_unanswered_attempt_is_no_no(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create()
        venue.sandbox.fault_on(order.id, Fault.SILENT_AFTER, *[Fault.REFUSE_DAILY] * 5)
        report = await sweep(venue, Lister(lambda c, p: shown(order.id)), retry=False)
        (outcome,) = report.outcomes
        assert outcome.off_book is None
        assert not venue.book.get(order.id).status.active


async def test_not_found_is_asked_for_again(autojump_clock: Clock) -> None:
    """The list is ahead of the venue's own book."""
    async with open_venue(clock=venue_clock) as venue:
        order = venue.book.create(delay=3.0)
        report = await sweep(venue, Lister(lambda c, p: shown(order.id)))
        assert report.counts["canceled"] == 1
        assert not venue.book.get(order.id).status.active


# Beside other things


async def test_it_shares_the_limit(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock, rate=1.0, burst=5) as venue:
        venue.orders(20)
        report = await sweep(venue, pacer=Pacer(0.9, burst=1))
        assert report.counts["canceled"] == 20
        assert report.failure is None
        assert not [r for r in venue.sandbox.rest_log.requests if r.status == 429]


async def test_it_is_cancelled(autojump_clock: Clock) -> None:
    async with open_venue(clock=venue_clock) as venue:
        venue.orders(5)
        async with venue.open(lookup=rest_of(venue)) as ws:
            with trio.move_on_after(5) as scope:
                await ws.cancel_open(everything=True)
            assert scope.cancelled_caught
            asked = venue.sandbox.rest_log.received
            await trio.sleep(30)
            assert venue.sandbox.rest_log.received == asked
            assert ws.statistics().pending == 0
            with trio.CancelScope() as scope:
                scope.cancel()
                await ws.cancel_open(everything=True)
            assert venue.sandbox.rest_log.received == asked


async def test_a_session_that_ends_under_it(autojump_clock: Clock) -> None:
    reports: list[OpenReport] = []
    async with open_venue(clock=venue_clock) as venue:
        venue.orders(5)
        with trio.fail_after(70):
            async with trio.open_nursery() as nursery, venue.open(lookup=rest_of(venue)) as ws:

                @nursery.start_soon
                async def _() -> None:
                    reports.append(await ws.cancel_open(everything=True, within=60))

                await trio.sleep(5)
    assert reports[0].counts["canceled"] == 5


async def test_over_tls_and_sockets() -> None:
    async with open_sandbox(tls=True, rest_port=0) as sandbox:
        for number in range(230):
            sandbox.book.create(external_id=f"lost-{number}")
        async with open_trading_ws(
            sandbox.url,
            credentials=sandbox.credentials,
            ssl_context=sandbox.ssl_context,
            lookup=RestLookup(base_url=sandbox.rest_url),
        ) as ws:
            report = await ws.cancel_open(everything=True, quiet_for=0.5)
        assert report.counts["canceled"] == 230
        assert not sandbox.book.open_orders()


# The scope alone


@pytest.mark.parametrize(
    ("pair", "side", "meant"),
    [
        ("BTC_BRL", "buy", True),
        ("btc/brl", "BUY", True),
        ("ETH_BRL", "buy", False),
        ("BTC_BRL", "sell", False),
        (None, "buy", None),
        ("BTC_BRL", None, None),
        ("", "buy", None),
        (None, "sell", False),
    ],
)
def test_which_order_is_meant(pair: str | None, side: str | None, meant: bool | None) -> None:
    order = OrderState(status=OrderStatus.OPEN, seen_at=1.0, id="A", pair=pair, side=side)
    assert OpenFilter("BTC_BRL", "buy").matches(order) is meant
    assert OpenFilter().matches(order) is True


def test_scopes_in_words() -> None:
    assert str(OpenFilter("BTC_BRL", "buy")) == "buy orders of BTC_BRL"
    assert str(OpenFilter()) == "orders on all markets"
