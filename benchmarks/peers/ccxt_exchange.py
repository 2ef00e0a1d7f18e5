"""ccxt.pro: an exchange class whose cancel goes through `watch`, as those that ccxt ships do (binance, okx, bybit)."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ccxt.async_support.base.exchange import Exchange

from benchmarks.job import API_SECRET, API_TOKEN, IN_FLIGHT, Job
from benchmarks.peers import Client
from benchmarks.peers.by_hand import Reply, is_canceled


class _Venue(Exchange):  # type: ignore[misc]  # ccxt has no types
    def describe(self) -> dict[str, Any]:
        ours = {
            "id": "venue",
            "name": "Venue",
            "countries": ["BR"],
            "pro": True,
            "enableRateLimit": False,
            "options": {"ws": {"options": {"compress": 0}}},
        }
        return dict(self.deep_extend(super().describe(), ours))

    def cancel_order_ws(self, id: str) -> asyncio.Future[Reply]:
        request_id = str(self.request_id())
        timestamp = self.milliseconds()
        message = str(timestamp) + self.json({"id": id})
        signature = self.hmac(self.encode(message), self.encode(self.secret), hashlib.sha256, "base64")
        params = {"api_token": self.apiKey, "timestamp": timestamp, "signature": signature, "id": id}
        request = {"id": request_id, "method": "order.cancel", "params": params}
        answered: asyncio.Future[Reply] = self.watch(self.urls["api"]["ws"], request_id, request, request_id)
        return answered

    def request_id(self) -> int:
        self.options["requestId"] = number = self.options.get("requestId", 0) + 1
        return int(number)

    def handle_message(self, client: Any, message: Reply) -> None:
        request_id = self.safe_string(message, "id")
        client.resolve(message, request_id)
        client.subscriptions.pop(request_id, None)

    async def cancel(self, order_id: str) -> bool:
        """Cancel one order."""
        return is_canceled(await self.cancel_order_ws(order_id))

    async def cancel_many(self, order_ids: Sequence[str]) -> int:
        """Cancel many orders, waiting for the oldest when the window is full."""
        in_flight: deque[asyncio.Future[Reply]] = deque()
        canceled = 0
        for order_id in order_ids:
            if len(in_flight) == IN_FLIGHT:
                canceled += is_canceled(await in_flight.popleft())
            in_flight.append(self.cancel_order_ws(order_id))
        for answered in in_flight:
            canceled += is_canceled(await answered)
        return canceled


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect: ccxt does so at the first `watch`, so the block opens its client itself."""
    settings = {"apiKey": API_TOKEN, "secret": API_SECRET, "urls": {"api": {"ws": job.url}}}
    if job.ca:
        settings["cafile"] = job.ca
    venue = _Venue(settings)
    try:
        venue.open()
        await venue.client(job.url).connect(venue.session)
        yield Client(one=venue.cancel, task=venue.cancel, bulk=venue.cancel_many)
    finally:
        await venue.close()
