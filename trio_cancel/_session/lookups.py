"""The session's lookups: a few at a time, on their own connection, within the account's limit, and after cancels.

Each lookup runs in a task of its own; nothing here delays a cancel. A lookup may be any callable of the user's, so
whatever it raises becomes :class:`LookupFailed`, with its cause.

A lookup of an order that waits for its outcome takes at most ``BUDGET``. As long as the source answers nothing, it ends
with the order's time for lookups. An order whose turn comes later is still looked up if the source keeps answering; if
it does not, such orders end at once, however many there are.
"""

from __future__ import annotations

import heapq
import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeVar

import trio

from trio_cancel._engine.engine import Engine
from trio_cancel._engine.lookup_progress import BUDGET
from trio_cancel._engine.order import OrderCancel, State
from trio_cancel._net.stream import Dial
from trio_cancel._values.boundary import Boundary, describe, ends_program
from trio_cancel._values.errors import LookupFailed
from trio_cancel._values.models import CancelRequest, Credentials
from trio_cancel._values.observer import logger
from trio_cancel._values.order_state import OrderLookup, OrderState, checked
from trio_cancel._values.outcomes import Unknown
from trio_cancel._venue.rest import Page

T = TypeVar("T")

AT_ONCE = 4
"""Lookups under way at most."""
PATIENCE = 30.0
"""Seconds for one lookup that a user asks for, at most; the one in this package has a shorter timeout of its own."""
RETRY_AFTER_MOST = 60.0
"""Seconds for which a Retry-After can hold lookups back."""
LIMITED, NOT_FOUND = 429, 404
FINAL = frozenset({400, 401, 403, 404})
"""Statuses after which the next lookup would get the same answer."""


class OpensLookup(Protocol):
    """A lookup that is opened with the session, such as :class:`trio_cancel.lookup.RestLookup`."""

    def opened(
        self,
        *,
        credentials: Credentials,
        ssl_context: ssl.SSLContext | None,
        dial: Dial | None,
        proxy: str | Literal[True] | None,
        wall_clock: Callable[[], float],
        correction: Callable[[], float],
    ) -> AbstractAsyncContextManager[OrderLookup]:
        """Return a context manager that yields the lookup."""


class Lookups:
    """The lookups of one session: those of its orders, which :meth:`run` makes, and those that the user asks for.

    Args:
        look_up: tells the state of an order.
        engine: the engine whose orders are looked up, and whose limit is shared.
        hand_on: gets a KeyboardInterrupt or SystemExit that was raised while an order was looked up.
    """

    def __init__(
        self,
        look_up: OrderLookup,
        engine: Engine,
        hand_on: Callable[[BaseException], None],
    ) -> None:
        self.source: OrderLookup = look_up
        self._engine = engine
        self._hand_on = hand_on
        self._due: list[tuple[float, int, OrderCancel]] = []  # a heap: when to look an order up
        self._asked = 0  # breaks ties, so that equal times keep their order
        self._room = trio.Semaphore(AT_ONCE)
        self._not_before = -math.inf
        self._answered_at = -math.inf  # trio's clock when the source last answered anything

    async def look_up(self, request: CancelRequest) -> OrderState:
        """Return the state of an order, once it is its turn.

        Raises:
            LookupFailed: the state could not be found out.

        Cancelled: nothing stays behind.
        """
        async with self._room:
            await self._admission()
            return await self._ask(request, PATIENCE)

    @property
    def lists_open(self) -> bool:
        """Whether the source can list open orders, as :class:`trio_cancel.lookup.RestLookup` can."""
        return callable(getattr(self.source, "open_orders", None))

    async def open_orders(self, page: int) -> Page:
        """Return one page of all open orders, from 1, once it is its turn.

        Raises:
            LookupFailed: the page could not be read.

        Cancelled: nothing stays behind.
        """
        lists: Callable[[int], Awaitable[Page]] = self.source.open_orders  # type: ignore[attr-defined]  # asked before

        async def ask() -> Page:
            found = await lists(page)
            if not isinstance(found, Page):
                raise LookupFailed(f"The list of open orders is {type(found).__name__}, not a page.")
            return found

        async with self._room:
            await self._admission()
            return await self._bounded(ask, "list of open orders", PATIENCE)

    # For the engine's orders

    async def run(self) -> None:
        """Look up what the engine wants, until cancelled. If something in it fails, that is logged, and it goes on."""
        while True:
            boundary = Boundary()
            try:
                with boundary:
                    await self._run()
            finally:
                self._due.clear()
                self._engine.end_lookups()  # however it ended: otherwise callers of these orders would wait for ever
            if (fatal := ends_program(boundary.error)) is not None:
                self._hand_on(fatal)
            elif boundary.error is not None:
                logger.error("orders could not be looked up: %s", describe(boundary.error))

    async def _run(self) -> None:
        """Look up what is due, a few at a time."""
        engine = self._engine
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                for order in engine.take_to_look_up():
                    self._put(order, now)
                if not self._due or self._due[0][0] > now:
                    with trio.move_on_at(self._due[0][0] if self._due else math.inf):
                        await engine.lookup_wakeup.wait()
                    continue
                await self._room.acquire()
                nursery.start_soon(self._settle, heapq.heappop(self._due)[2])

    def _put(self, order: OrderCancel, at: float) -> None:
        self._asked += 1
        heapq.heappush(self._due, (at, self._asked, order))
        self._engine.lookup_wakeup.ring()

    async def _settle(self, order: OrderCancel) -> None:
        again = False
        state: OrderState | None = None
        try:
            lookup = order.lookup
            if lookup is None or order.state is not State.LOOKED_UP:
                return  # a late answer has settled it
            if lookup.ends_at <= trio.current_time() and self._is_dead():
                return  # its turn has come late, because others wait in vain
            again = True
            # If cancels hold it back it waits for its turn, but not for ever.
            with trio.move_on_at(lookup.ends_at + order.policy.give_up_after):
                await self._admission()
                left = lookup.ends_at - trio.current_time()
                patience = min(left, BUDGET) if left > 0 and self._is_dead() else BUDGET
                state = await self._ask(lookup.asks or order.learned or order.request, patience)
        except LookupFailed as error:
            logger.info("%s", error)
            again = error.status not in FINAL
            if error.status == NOT_FOUND and order.lookup is not None:
                # A lagging replica may not have it yet; but if the venue itself has just said the same, that is enough.
                again = isinstance(order.lookup.outcome, Unknown)
        except (KeyboardInterrupt, SystemExit) as error:
            self._hand_on(error)
            again = False
        finally:
            self._room.release()
            engine = self._engine
            wait = engine.not_seen(order, again) if state is None else engine.seen(order, state)
            if wait is not None:
                self._put(order, trio.current_time() + wait)

    def _is_dead(self) -> bool:
        """Return True if the source has answered nothing for as long as one lookup may take."""
        return trio.current_time() - self._answered_at >= BUDGET

    # For both

    async def _ask(self, request: CancelRequest, patience: float) -> OrderState:
        async def ask() -> OrderState:
            return checked(await self.source(request), request)

        return await self._bounded(ask, f"lookup of {request}", min(patience, PATIENCE))

    async def _bounded(self, ask: Callable[[], Awaitable[T]], what: str, patience: float) -> T:
        """Return what ``ask`` returns. If it raises anything else or does not return, raise LookupFailed."""
        asked_at = trio.current_time()
        boundary = Boundary()
        with boundary, trio.move_on_after(patience):
            found = await ask()
            self._answered_at = trio.current_time()
            return found
        error = boundary.error
        if error is None:
            raise LookupFailed(f"The {what} did not return within {patience:g} s.")
        if isinstance(error, LookupFailed):
            self._note(error, asked_at)
            raise error
        fatal = ends_program(error)
        if fatal is not None:
            raise fatal
        raise LookupFailed(f"The {what} failed: {describe(error)}.") from error

    async def _admission(self) -> None:
        """Wait until the account's limit has room for a lookup and no cancel waits; count the lookup."""
        while True:
            now = trio.current_time()
            at = self._not_before
            if at <= now:
                at = self._engine.admit_lookup(now)
            if at <= now:
                return
            await trio.sleep_until(at)

    def _note(self, error: LookupFailed, asked_at: float) -> None:
        """Slow down if the venue limited the request that was sent at ``asked_at``."""
        if error.status is not None:
            self._answered_at = trio.current_time()
        if error.status == LIMITED:
            now = trio.current_time()
            self._engine.lookup_limited(now, asked_at)
            wait = error.retry_after
            if wait is not None and wait > 0:
                self._not_before = max(self._not_before, now + min(wait, RETRY_AFTER_MOST))
