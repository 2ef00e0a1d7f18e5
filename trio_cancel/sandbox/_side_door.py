"""The test's side of the sandbox over a WebSocket: place, fill and look up orders from another process.

The venue documents no such methods, and a real venue has no such path: messages on ``/sandbox`` are
``{"id": …, "method": "sandbox.create", "params": {…}}``, unsigned, answered in order. `SandboxControl` is the client.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import attrs
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from trio_cancel.sandbox._book import Book, BookError, Order, OrderStatus, UnknownOrder
from trio_cancel.sandbox._connection import SIDE_DOOR
from trio_cancel.sandbox._nursery import open_services
from trio_cancel.sandbox._protocol import quote, read_json

CONNECT_WITHIN = 10.0  # s
ANSWER_WITHIN = 10.0  # s
CLOSE_WITHIN = 1.0  # s
_DECIMALS = ("price", "requested_amount", "executed_amount", "executed_value")


class SandboxControlError(ValueError):
    """The sandbox refused what was asked through its side door, or cannot be reached there."""


def order_to_json(order: Order) -> dict[str, Any]:
    """Return an order as JSON data, amounts as strings."""
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in attrs.asdict(order).items()}


def order_from_json(data: dict[str, Any]) -> Order:
    """Return the order that `order_to_json` gave the data of."""
    decimals = {name: Decimal(data[name]) for name in _DECIMALS if data[name] is not None}
    return Order(**{**data, **decimals, "status": OrderStatus(data["status"])})


class SideDoor:
    """Answers the messages that come through the side door of a book."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._methods: dict[str, Callable[..., Any]] = {
            "sandbox.create": lambda **params: order_to_json(book.create(**params)),
            "sandbox.fill": lambda **params: order_to_json(book.fill(**params)),
            "sandbox.get": lambda **params: order_to_json(book.get(**params)),
            "sandbox.open_orders": lambda **params: [order_to_json(order) for order in book.open_orders(**params)],
        }

    def answer(self, text: str) -> str:
        """Return the answer to a message; never raises."""
        request_id: str | None = None
        try:
            message = read_json(text)
            if not isinstance(message, dict):
                raise BookError("A message must be a JSON object.")
            request_id = message["id"] if isinstance(message.get("id"), str) else None
            method = self._methods.get(str(message.get("method")))
            params = message.get("params", {})
            if method is None or not isinstance(params, dict):
                raise BookError(f"method must be one of {', '.join(self._methods)}, params an object.")
            answer = {"status": 200, "result": method(**params)}
        except UnknownOrder as error:
            answer = {"status": 404, "result": None, "error": {"message": str(error)}}
        except (ValueError, TypeError) as error:  # JSON, BookError, params that the method does not have
            answer = {"status": 400, "result": None, "error": {"message": str(error)}}
        rest = json.dumps(answer, separators=(",", ":"))[1:]
        return f'{{"id":{"null" if request_id is None else quote(request_id)},{rest}'


class SandboxControl:
    """The test's side of a sandbox in any process; made by `open_sandbox_control`. Many tasks may use it at once.

    Every method is cancelled safely: the sandbox may or may not have done what was asked.
    """

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket
        self._turn = trio.Lock()
        self._count = 0

    async def create(
        self,
        *,
        id: str | None = None,
        external_id: str | None = None,
        pair: str = "BTC_BRL",
        side: str = "buy",
        type: str = "limit",
        amount: Decimal | int | str = "0.001",
        price: Decimal | int | str | None = "100000",
        delay: float = 0.0,
    ) -> Order:
        """Place an order and return it; arguments and errors as `Book.create`'s, raised as `SandboxControlError`."""
        price = None if price is None else str(price)
        params = {"pair": pair, "side": side, "type": type, "amount": str(amount), "price": price, "delay": delay}
        return order_from_json(await self._ask("sandbox.create", {**_named(id, external_id), **params}))

    async def fill(
        self,
        id: str | None = None,
        *,
        external_id: str | None = None,
        amount: Decimal | int | str | None = None,
        price: Decimal | int | str | None = None,
    ) -> Order:
        """Execute some of an order, or the rest of it; arguments as `Book.fill`'s."""
        amounts = {name: str(value) for name, value in (("amount", amount), ("price", price)) if value is not None}
        return order_from_json(await self._ask("sandbox.fill", {**_named(id, external_id), **amounts}))

    async def get(self, id: str | None = None, *, external_id: str | None = None) -> Order:
        """Return an order as it stands.

        Raises:
            UnknownOrder: if the sandbox never had it.
        """
        return order_from_json(await self._ask("sandbox.get", _named(id, external_id)))

    async def open_orders(self, *, pending: bool = False) -> list[Order]:
        """Return the active orders; with ``pending`` also those whose creation is on its way."""
        found = await self._ask("sandbox.open_orders", {"pending": pending})
        return [order_from_json(data) for data in found]

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        with trio.move_on_after(ANSWER_WITHIN):
            async with self._turn:
                self._count += 1
                request_id = str(self._count)
                try:
                    await self._websocket.send_message(
                        json.dumps({"id": request_id, "method": method, "params": params})
                    )
                    while True:
                        answer = json.loads(await self._websocket.get_message())
                        if answer["id"] == request_id:  # an earlier one's caller was cancelled
                            break
                except ConnectionClosed as error:
                    raise SandboxControlError("The sandbox has closed its side door: is it still running?") from error
            if answer["status"] == 404:
                raise UnknownOrder(answer["error"]["message"])
            if answer["status"] != 200:
                raise SandboxControlError(answer["error"]["message"])
            return answer["result"]
        raise SandboxControlError(f"The sandbox did not answer {method} within {ANSWER_WITHIN:g} s.")


def _named(id: str | None, external_id: str | None) -> dict[str, str]:
    return {name: value for name, value in (("id", id), ("external_id", external_id)) if value is not None}


@asynccontextmanager
async def open_sandbox_control(
    url: str, *, ssl_context: ssl.SSLContext | None = None
) -> AsyncGenerator[SandboxControl]:
    """Open the side door of a sandbox that runs in this or another process.

    Args:
        url: the sandbox's trading url, as `Sandbox.url` or ``trio-cancel sandbox`` gives it.
        ssl_context: one that trusts the sandbox's certificate, for a ``wss://`` url.

    Raises:
        SandboxControlError: if no sandbox answers there within 10 s.
    """
    parts = urlsplit(url)
    door = urlunsplit((parts.scheme, parts.netloc, SIDE_DOOR, "", ""))
    streams: list[trio.SocketStream] = []  # trio-websocket leaves a stream open when it is cancelled or refused
    try:
        async with open_services() as nursery:
            try:
                with trio.fail_after(CONNECT_WITHIN):
                    host = parts.hostname or ""
                    streams.append(await trio.open_tcp_stream(host, parts.port or 0))
                    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = streams[0]
                    if parts.scheme == "wss":
                        context = ssl_context or ssl.create_default_context()
                        secure = trio.SSLStream(streams[0], context, server_hostname=host, https_compatible=True)
                        await secure.do_handshake()
                        stream = secure
                    websocket = await wrap_client_stream(nursery, stream, parts.netloc, SIDE_DOOR)
            except (HandshakeError, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                reason = str(error.__cause__ or error) or type(error).__name__
                raise SandboxControlError(f"No sandbox answers at {door}: {reason}.") from error
            yield SandboxControl(websocket)
            with trio.move_on_after(CLOSE_WITHIN):
                await websocket.aclose()
    finally:
        for opened in streams:
            await trio.aclose_forcefully(opened)
