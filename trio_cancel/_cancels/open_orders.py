"""Cancel what the venue lists as open, for when the ids are lost.

:class:`OpenOrders` lists the open orders page by page, again and again, and is the input of a cancel stream: the
stream's intake task does the listing, and the caller's task takes the outcomes. Both report to :class:`Sweep`, which
decides without I/O what is canceled (again) and when it is over; it changes only between two awaits.

It is over when no list, complete to its last page, has brought anything to cancel for ``quiet`` seconds. Lists may lag,
and pages may shift while orders vanish. So an order that a list lacks means nothing, and an order that it goes on
showing after it was canceled is not canceled again. An order that is listed and was not taken off the book is tried
``TRIES`` times. All of this is bounded by ``within`` seconds; cancels that are under way then have their own bounds.

If the list cannot be read, the orders that are known are canceled anyway. Cancelling the whole withdraws what has not
been written, as with every stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Self, TypeAlias

import attrs
import trio

from trio_cancel._cancels.scope_exit import together
from trio_cancel._session.lookups import FINAL, RETRY_AFTER_MOST
from trio_cancel._values.errors import InvalidRequest, LookupFailed
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.open_report import OpenFilter, OpenReport
from trio_cancel._values.order_state import OrderState
from trio_cancel._values.outcomes import Outcome
from trio_cancel._values.report import CancelReport
from trio_cancel._venue.rest import Page

QUIET = 20.0
"""Seconds without anything new after which it ends: longer than the venue takes for a queued create (10 s)."""
WITHIN = 300.0
"""Seconds after which it stops listing."""
LIST_EVERY = 2.0
"""Seconds between the beginnings of two lists: within the lowest limit of the venue, one request a second."""
TRIES = 3
"""Cancels of an order that the list goes on showing, and that is not off the book."""
PAGES_MOST = 1_000
BARREN_MOST = 3
"""Pages in a row without anything new, in a list that says it goes on."""
PAGE_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds until a page is requested again, each time."""

AskForPage: TypeAlias = "Callable[[int], Awaitable[Page]]"
"""Returns one page of all open orders, from 1; raises LookupFailed."""


class _List:
    """One list, page after page."""

    def __init__(self, ask: AskForPage) -> None:
        self._ask = ask
        self._seen: set[CancelRequest] = set()
        self._number = self._barren = self._unreadable = 0
        self.ended = False  # there is no other page, or it cannot be read
        self.broken = False  # a page could not be read, so the next list may be better
        self.failure: LookupFailed | None = None  # why the list is not complete, if that is how it ended

    async def next_page(self) -> list[OrderState]:
        """Return the orders of the next page that were on no earlier page."""
        self._number += 1
        try:
            page = await self._ask_again()
        except LookupFailed as error:
            self.ended, self.broken, self.failure = True, error.status not in FINAL, error
            return []
        new: list[OrderState] = []
        self._unreadable += page.unreadable
        for order in page.orders:
            try:
                request = CancelRequest(order.id)
            except InvalidRequest:  # the venue's own id, but nothing could be sent with it
                self._unreadable += 1
                continue
            if request not in self._seen:
                self._seen.add(request)
                new.append(order)
        self._barren = 0 if new else self._barren + 1
        if page.last or (page.last is None and not new):
            self.ended = True
            if self._unreadable:
                many = self._unreadable != 1
                what = f"{self._unreadable} order{'s' if many else ''} of the venue's list could not be read"
                self.failure = LookupFailed(f"{what}, so {'they were' if many else 'it was'} not canceled.")
        elif self._barren >= BARREN_MOST or self._number >= PAGES_MOST:
            self.ended = True
            self.failure = LookupFailed(f"The venue's list of open orders does not end, up to page {self._number}.")
        return new

    async def _ask_again(self) -> Page:
        for wait in PAGE_WAITS:
            try:
                return await self._ask(self._number)
            except LookupFailed as error:
                if error.status in FINAL:
                    raise
                pause = max(wait, min(RETRY_AFTER_MOST, error.retry_after or 0.0))
            await trio.sleep(pause)
        return await self._ask(self._number)


@attrs.define(eq=False)
class _Found:
    """One listed order that is meant, and how often it was tried."""

    state: OrderState
    outcome: Outcome | None = None
    tries: int = 0
    under_way: bool = False


class Sweep:
    """What has been listed and what happened to it; decides what is canceled, and when it is over."""

    def __init__(self, meant: OpenFilter, quiet: float, now: float) -> None:
        self._filter = meant
        self._quiet = quiet
        self._found: dict[CancelRequest, _Found] = {}
        self._news_at = now  # when there last was something to cancel, or it had settled
        self._began = now
        self._began_wall = 0.0
        self._shown = False
        self._unsure = self._outside = 0
        self.outside = 0  # these three of the last list, as in the report
        self.failure: LookupFailed | None = None
        self.none_seen_since: float | None = None

    @property
    def orders(self) -> tuple[OrderState, ...]:
        """What was listed, as it was first seen."""
        return tuple(found.state for found in self._found.values())

    def outcomes(self) -> list[tuple[CancelRequest, Outcome | None]]:
        """Return what is known of each order; None if it is under way, or nothing is known."""
        return [(request, None if found.under_way else found.outcome) for request, found in self._found.items()]

    def begin(self, now: float, wall: float) -> None:
        """Note that a list begins."""
        self._began, self._began_wall = now, wall
        self._shown = False
        self._unsure = self._outside = 0

    def take(self, orders: Iterable[OrderState], now: float) -> list[CancelRequest]:
        """Process what a page shows; return what to cancel now."""
        due: list[CancelRequest] = []
        for order in orders:
            meant = self._filter.matches(order)
            if not meant:
                if meant is None:
                    self._unsure += 1
                else:
                    self._outside += 1
                continue
            if order.on_book is False:
                continue  # listed, and closed according to the list itself
            request = CancelRequest(order.id)
            found = self._found.setdefault(request, _Found(order))
            if found.outcome is not None and found.outcome.off_book and not found.under_way:
                continue  # the list lags
            self._shown = True
            if not found.under_way and found.tries < TRIES:
                found.tries += 1
                found.under_way = True
                due.append(request)
        if due:
            self._news_at = now
        return due

    def settled(self, outcome: Outcome, now: float) -> Outcome:
        """Process an outcome; return what is known of its order with it."""
        found = self._found[outcome.request]
        found.under_way = False
        found.outcome = together(found.outcome, outcome, surely=bool(outcome.off_book))
        self._news_at = max(self._news_at, now)
        return found.outcome

    def end(self, failure: LookupFailed | None, *, broken: bool) -> bool:
        """Note that a list has ended, perhaps not complete; return True if it was the last one."""
        if failure is None and self._unsure:
            many = self._unsure != 1
            failure = LookupFailed(
                f"The venue does not give the market or the side of {self._unsure} listed order{'s' if many else ''}, "
                f"so {'they were' if many else 'it was'} left alone."
            )
        self.failure, self.outside = failure, self._outside
        if failure is not None or self._shown:
            self.none_seen_since = None
        elif self.none_seen_since is None:
            self.none_seen_since = self._began_wall
        if failure is not None and failure.status in FINAL:
            return True
        is_quiet = self._began >= self._news_at + self._quiet and not any(f.under_way for f in self._found.values())
        return is_quiet and not broken

    def out_of_time(self, within: float, *, listing: bool) -> None:
        """Note that the time was over before the end, perhaps in the middle of a list."""
        if self.failure is None:
            self.failure = LookupFailed(
                f"The list was not complete and quiet for {self._quiet:g} s within {within:g} s."
            )
        if listing:
            self.none_seen_since = None

    def report(self, journal_failed: bool) -> OpenReport:
        """Return the report, once every order has its outcome."""
        outcomes = tuple(found.outcome for found in self._found.values() if found.outcome is not None)
        return OpenReport(
            orders=self.orders,
            cancels=CancelReport(outcomes, journal_failed=journal_failed),
            none_seen_since=self.none_seen_since,
            failure=self.failure,
            outside=self.outside,
        )


class OpenOrders:
    """The orders to cancel, as an async iterator that goes on until the sweep is over, or for ``within`` seconds."""

    def __init__(
        self, sweep: Sweep, ask: AskForPage, wall: Callable[[], float], within: float, *, once: bool = False
    ) -> None:
        self._sweep = sweep
        self._ask = ask
        self._wall = wall
        self._within = within
        self._once = once
        self._next_at = trio.current_time()
        self._ends_at = self._next_at + within
        self._list: _List | None = None
        self._due: deque[CancelRequest] = deque()
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CancelRequest:
        """Return the next order. Cancelled: nothing listed is lost, but the list under way is not complete."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._due:
            if self._over:
                raise StopAsyncIteration
            with trio.move_on_at(self._ends_at) as scope:
                await self._list_on()
            if scope.cancelled_caught:
                self._over = True
                self._sweep.out_of_time(self._within, listing=self._list is not None)
        return self._due.popleft()

    async def _list_on(self) -> None:
        if self._list is None:
            await trio.sleep_until(self._next_at)
            now = trio.current_time()
            self._next_at = now + LIST_EVERY
            self._sweep.begin(now, self._wall())
            self._list = _List(self._ask)
        current = self._list
        orders = await current.next_page()
        self._due.extend(self._sweep.take(orders, trio.current_time()))
        if current.ended:
            self._list = None
            self._over = self._sweep.end(current.failure, broken=current.broken) or self._once
