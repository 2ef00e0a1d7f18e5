"""A REST server that is not ours: aiohttp, in a thread of its own; it checks each signature by its own means."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from aiohttp import web

from trio_cancel import Credentials

Orders = Callable[[str, str], "dict[str, Any] | None"]
"""Returns the data of an order, given ``id`` or ``external_id`` and its value."""


class ForeignRest:
    """The running server.

    Attributes:
        port: where it listens.
        asked: the raw paths, in order.
        peers: the client's address of each request: one connection has one.
    """

    def __init__(self, credentials: Credentials, orders: Orders, tls: ssl.SSLContext | None) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.peers: list[Any] = []
        self._credentials = credentials
        self._orders = orders
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()

    async def _look_up(self, request: web.Request) -> web.Response:
        path = request.raw_path.partition("?")[0]
        self.asked.append(path)
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peername"))
        message = f"{request.headers['Timestamp']}{request.method}{path}".encode()
        digest = hmac.new(self._credentials.api_secret.encode(), message, hashlib.sha256).digest()
        fair = request.headers["Signature"] == base64.b64encode(digest).decode()
        if not fair or request.headers["Authorization"] != self._credentials.api_token:
            return self._answer(401, None, 40100, "Invalid signature")
        name, value = next(iter(request.match_info.items()))
        data = self._orders(name, value)
        return self._answer(200, data) if data is not None else self._answer(404, None, 40400, "Not found")

    @staticmethod
    def _answer(status: int, data: Any, code: int | None = None, message: str | None = None) -> web.Response:
        text = json.dumps({"data": data, "error_code": code, "message": message})
        return web.Response(status=status, text=text, content_type="application/json")

    async def _serve(self) -> None:
        app = web.Application()
        for base in ("/trade", "/v4"):
            app.router.add_get(f"{base}/orders/by-external-id/{{external_id}}", self._look_up)
            app.router.add_get(f"{base}/orders/{{id}}", self._look_up)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    def wait_started(self) -> None:
        assert self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)


@asynccontextmanager
async def open_foreign_rest(
    credentials: Credentials, orders: Orders, *, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[ForeignRest]:
    server = ForeignRest(credentials, orders, tls)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        await trio.to_thread.run_sync(server.wait_started)
        yield server
    finally:
        server.stop()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join, 10)
