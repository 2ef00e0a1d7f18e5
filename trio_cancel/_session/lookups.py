"""The session's lookups: few at once, on their own connection, within the account's limit, and never before a cancel.

Whoever looks an order up does so in a task of their own; nothing here runs in the way of a cancel. A lookup may be any
callable of the user's, so that whatever it raises ends in :class:`LookupFailed`, with its cause.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from trio_cancel._engine.engine import Dispatcher
from trio_cancel._net.stream import Dial
from trio_cancel._values.errors import LookupFailed
from trio_cancel._values.models import CancelRequest, Credentials
from trio_cancel._values.order_state import OrderLookup, OrderState, checked

AT_ONCE = 4
"""Lookups under way at most."""
PATIENCE = 30.0
"""Seconds for one lookup at most; the shipped one has a shorter timeout of its own."""
RETRY_AFTER_MOST = 60.0
"""Seconds that a Retry-After can hold lookups back."""
LIMITED = 429


class OpensLookup(Protocol):
    """A lookup that is opened with the session, such as :class:`trio_cancel.lookup.RestLookup`."""

    def opened(
        self,
        *,
        credentials: Credentials,
        ssl_context: ssl.SSLContext | None,
        dial: Dial | None,
        wall_clock: Callable[[], float],
        correction: Callable[[], float],
    ) -> AbstractAsyncContextManager[OrderLookup]:
        """Return a context manager that yields the lookup."""


class Lookups:
    """See the module's docstring."""

    def __init__(self, look_up: OrderLookup, dispatcher: Dispatcher) -> None:
        self.source = look_up
        self._dispatcher = dispatcher
        self._room = trio.Semaphore(AT_ONCE)
        self._not_before = -math.inf

    async def look_up(self, request: CancelRequest) -> OrderState:
        """Return where an order stands, once it is its turn.

        Raises:
            LookupFailed: it could not be found out.

        Cancelled: nothing stays behind.
        """
        async with self._room:
            await self.admission()
            asked_at = trio.current_time()
            try:
                with trio.move_on_after(PATIENCE):
                    return checked(await self.source(request), request)
                raise LookupFailed(f"The lookup of {request} did not return within {PATIENCE:g} s.")
            except LookupFailed as error:
                self.note(error, asked_at)
                raise
            except Exception as error:
                raise LookupFailed(f"The lookup of {request} failed with {type(error).__name__}: {error}") from error

    async def admission(self) -> None:
        """Wait until the account's limit has room for a lookup, with no cancel waiting; count it."""
        while True:
            now = trio.current_time()
            at = self._not_before
            if at <= now:
                at = self._dispatcher.admit_lookup(now)
            if at <= now:
                return
            await trio.sleep_until(at)

    def note(self, error: LookupFailed, asked_at: float) -> None:
        """Slow down if the venue limited the request that was sent at ``asked_at``."""
        if error.status == LIMITED:
            now = trio.current_time()
            self._dispatcher.lookup_limited(now, asked_at)
            wait = error.retry_after
            if wait is not None and wait > 0:
                self._not_before = max(self._not_before, now + min(wait, RETRY_AFTER_MOST))
