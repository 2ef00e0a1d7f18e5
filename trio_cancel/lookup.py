"""Look orders up over the venue's REST API: :class:`RestLookup`. Needs the extra ``lookup``.

::

    async with open_trading_ws(lookup=RestLookup()) as ws:
        state = await ws.look_up("7155ED34-9EC4-4733-8B32-1E4319CB662F")

or without a session::

    async with RestLookup().opened(credentials=Credentials.from_env()) as look_up:
        state = await look_up(CancelRequest(external_id="my-order-123"))
"""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

import attrs
import trio

from trio_cancel._net.proxy import Tunnel, choose_proxy
from trio_cancel._net.stream import Dial, takes_address
from trio_cancel._trio.running import check_trio
from trio_cancel._values.clock import OffsetInterval
from trio_cancel._values.errors import ConfigurationError, LookupFailed
from trio_cancel._values.models import CancelRequest, Credentials
from trio_cancel._values.observer import logger
from trio_cancel._values.order_state import Fill as Fill
from trio_cancel._values.order_state import OrderLookup as OrderLookup
from trio_cancel._values.order_state import OrderState as OrderState
from trio_cancel._values.order_state import OrderStatus as OrderStatus
from trio_cancel._values.order_state import checked
from trio_cancel._venue.rest import (
    OPEN_ORDERS,
    SERVER_TIME,
    Page,
    order_path,
    read_open_orders,
    read_order,
    read_server_time,
    signed_headers,
)

if TYPE_CHECKING:
    from trio_cancel._net.http import HttpAnswer, HttpClient

__all__ = ["Fill", "OrderLookup", "OrderState", "OrderStatus", "RestLookup"]

BASE_URL = "https://api.ripio.com/trade"
"""One of the venue's two published bases; the other is ``https://api.ripiotrade.co/v4``."""
BODY_MOST = 2**20
"""Bytes of an answer at most; a page of orders takes about 60 000."""
PAGE_SIZE = 100


def _seconds(_instance: RestLookup, attribute: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigurationError(f"{attribute.name} must be a finite number of seconds greater than 0, not {value!r}.")


def _optional(kind: type, text: str) -> Callable[[RestLookup, attrs.Attribute[Any], object], None]:
    def check(_instance: RestLookup, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None and not isinstance(value, kind):
            raise ConfigurationError(f"{attribute.name} must be {text}, not {type(value).__name__}.")

    return check


@attrs.frozen(kw_only=True)
class RestLookup:
    """Where to look orders up over REST, and how; pass it to ``open_trading_ws(lookup=…)``.

    The session opens it for the duration of its block. It uses the session's credentials, SSL context and way to
    connect (``dial`` or proxy) for whatever is left out here; whether ``NO_PROXY`` exempts it depends on its own host.
    One connection is kept open. You may pass it to several sessions.

    Args:
        base_url: the url in front of ``/orders``; the venue publishes ``https://api.ripio.com/trade`` and
            ``https://api.ripiotrade.co/v4``.
        credentials: with the permission to read; if None, those of the session.
        ssl_context: for ``https``; if None, that of the session.
        dial: an async callable that connects, as for ``open_trading_ws``; if None, that of the session.
        timeout: seconds for one lookup, from the connection to the end of its answer.
        allow_insecure: accept a plain ``http://`` url to any host. The token is then sent in clear text.

    Raises:
        ConfigurationError: an argument cannot be used, or the extra ``lookup`` is not installed.
    """

    base_url: str = BASE_URL
    credentials: Credentials | None = attrs.field(
        default=None, validator=_optional(Credentials, "Credentials(token, secret)")
    )
    ssl_context: ssl.SSLContext | None = attrs.field(
        default=None, validator=_optional(ssl.SSLContext, "an ssl.SSLContext")
    )
    dial: Dial | None = attrs.field(default=None)
    timeout: float = attrs.field(default=5.0, validator=_seconds)
    allow_insecure: bool = False

    def __attrs_post_init__(self) -> None:
        try:
            from trio_cancel._net.http import parse_base_url
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"A lookup needs the extra lookup ({error.name} is missing): pip install 'trio-cancel[lookup]'."
            ) from error
        if self.dial is not None and not callable(self.dial):
            raise ConfigurationError(
                f"dial must be an async callable that returns a stream, not {type(self.dial).__name__}."
            )
        parse_base_url(self.base_url, allow_insecure=self.allow_insecure)

    @asynccontextmanager
    async def opened(
        self,
        *,
        credentials: Credentials | None = None,
        ssl_context: ssl.SSLContext | None = None,
        dial: Dial | None = None,
        proxy: str | Literal[True] | None = True,
        wall_clock: Callable[[], float] = time.time,
        correction: Callable[[], float] = lambda: 0.0,
    ) -> AsyncGenerator[OpenRestLookup]:
        """Open it for the duration of a block. Nothing is contacted yet.

        Args:
            credentials: used if the lookup has none of its own; if there are none at all, the environment's.
            ssl_context: used if the lookup has none of its own.
            dial: used if the lookup has none of its own.
            proxy: used if there is no ``dial``, as for ``open_trading_ws``.
            wall_clock: returns Unix seconds, for timestamps.
            correction: returns seconds to add to that clock before signing.

        Yields:
            The open lookup: an async callable from a request to an :class:`OrderState`.

        Raises:
            ConfigurationError: there are no credentials, ``dial`` takes no address, ``proxy`` cannot be used, or trio
                is not running.
        """
        from trio_cancel._net.http import HttpClient, parse_base_url

        check_trio("RestLookup.opened()")
        if self.dial is None and dial is not None and not takes_address(dial):
            raise ConfigurationError(
                "The session's dial takes no address, so it cannot connect lookups: pass RestLookup(dial=...)."
            )
        endpoint = parse_base_url(self.base_url, allow_insecure=self.allow_insecure)
        dial = self.dial or dial
        if dial is None:
            choice = choose_proxy(endpoint, proxy, os.environ)
            if choice.unused is not None:
                logger.warning("%s", choice.unused)
            dial = None if choice.proxy is None else Tunnel(choice.proxy)
        client = HttpClient(
            endpoint,
            ssl_context=self.ssl_context or ssl_context,
            dial=dial,
            body_most=BODY_MOST,
            wall=wall_clock,
        )
        try:
            signer = self.credentials or credentials or Credentials.from_env()
            yield OpenRestLookup(client, endpoint.resource, signer, self.timeout, wall_clock, correction)
        finally:
            await client.aclose()  # noqa: ASYNC102 - it shields itself, and never waits for the peer


@attrs.frozen(repr=False, eq=False)
class OpenRestLookup:
    """An open :class:`RestLookup`: call it with a request. Made by :meth:`RestLookup.opened`."""

    _client: HttpClient
    _base: str
    _credentials: Credentials
    _timeout: float
    _wall: Callable[[], float]
    _correction: Callable[[], float]

    def __repr__(self) -> str:
        return "<OpenRestLookup>"

    async def __call__(self, request: CancelRequest, /) -> OrderState:
        """Return the state of the order.

        Raises:
            LookupFailed: the venue refused or did not answer within ``timeout``, or its answer cannot be read, is about
                another order, or is too long.

        Cancelled: nothing stays behind.
        """
        answer = await self._ask(order_path(request))
        return checked(read_order(answer.status, answer.body, self._wall(), answer.retry_after), request)

    async def open_orders(self, page: int = 1, *, pair: str | None = None, side: str | None = None) -> Page:
        """Return one page of the orders that the venue lists as open; an order that is not there may be open, too.

        If an order has a field that cannot be read, at least its id is returned.

        Args:
            page: its number, from 1.
            pair: only of this market, such as ``BTC_BRL``.
            side: only ``buy`` or ``sell``.

        Raises:
            LookupFailed: as for a lookup.
        """
        query: dict[str, object] = {"page_size": PAGE_SIZE, "current_page": page}
        query |= {name: value for name, value in (("pair", pair), ("side", side)) if value is not None}
        answer = await self._ask(OPEN_ORDERS, f"?{urlencode(query)}")
        found = read_open_orders(answer.status, answer.body, self._wall(), page, answer.retry_after)
        # The venue may not know these filters, or spell them differently; no order of another market may slip through.
        orders = tuple(order for order in found.orders if _is_in(order, pair, side))
        return attrs.evolve(found, orders=orders)

    async def server_time(self) -> OffsetInterval:
        """Return the bounds of the venue's clock minus ours, as far as its server-time shows. Nothing is signed.

        Raises:
            LookupFailed: as for a lookup.
        """
        asked_at = self._wall()
        answer = await self._ask(SERVER_TIME, signed=False)
        answered_at = self._wall()
        theirs = read_server_time(answer.status, answer.body, answer.retry_after)
        # It was read between the two, and truncated to whole milliseconds.
        return OffsetInterval(theirs - 1000 * answered_at, theirs + 1 - 1000 * asked_at)

    async def _ask(self, path: str, query: str = "", *, signed: bool = True) -> HttpAnswer:
        whole = self._base + path

        def headers() -> dict[str, str]:
            if not signed:
                return {}
            return signed_headers(self._credentials, int((self._wall() + self._correction()) * 1000), whole)

        with trio.move_on_after(self._timeout):
            return await self._client.get(whole + query, headers)
        raise LookupFailed(f"The lookup was not answered within {self._timeout:g} s.")


def _is_in(order: OrderState, pair: str | None, side: str | None) -> bool:
    return (pair is None or order.pair == pair) and (side is None or (order.side or "").lower() == side.lower())
