"""Access to the sandbox for tests in another process, over a WebSocket: orders and faults.

The venue documents no such methods, and a real venue has no such path: messages on ``/sandbox`` are
``{"id": …, "method": "sandbox.create", "params": {…}}``, unsigned, answered in order. `SandboxControl` is the client.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import attrs
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from trio_cancel.sandbox._book import Book, BookError, BookStatus, InvalidOrder, NoSuchOrder, Order, exact
from trio_cancel.sandbox._connection import SIDE_DOOR
from trio_cancel.sandbox._faults import Fault
from trio_cancel.sandbox._nursery import open_services
from trio_cancel.sandbox._plan import FaultPlan
from trio_cancel.sandbox._protocol import quote, read_json

CONNECT_WITHIN = 10.0  # s
ANSWER_WITHIN = 10.0  # s
CLOSE_WITHIN = 1.0  # s
LOOPBACK = "127.0.0.1"  # where a sandbox listens, and nowhere else
_DECIMALS = ("price", "requested_amount", "executed_amount", "executed_value")


class SandboxControlError(ValueError):
    """The sandbox refused a call through its side door, or cannot be reached there."""


def order_to_json(order: Order) -> dict[str, Any]:
    """Return an order as JSON data, amounts as strings."""
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in attrs.asdict(order).items()}


def order_from_json(data: dict[str, Any]) -> Order:
    """Return the order from the data that `order_to_json` made."""
    decimals = {name: Decimal(data[name]) for name in _DECIMALS if data[name] is not None}
    return Order(**{**data, **decimals, "status": BookStatus(data["status"])})


@attrs.frozen
class FaultStatus:
    """The present faults of a sandbox.

    Attributes:
        chances: the probability of each fault that has one.
        counts: how often each fault has fired so far; only those that have fired.
    """

    chances: Mapping[Fault, float]
    counts: Mapping[Fault, int]


class SideDoor:
    """Answers the messages that come through the side door of a sandbox."""

    def __init__(self, book: Book, plan: FaultPlan) -> None:
        self._plan = plan
        self._methods: dict[str, Callable[..., Any]] = {
            "sandbox.create": lambda **params: order_to_json(book.create(**params)),
            "sandbox.fill": lambda **params: order_to_json(book.fill(**params)),
            "sandbox.get": lambda **params: order_to_json(book.get(**params)),
            "sandbox.open_orders": lambda **params: [order_to_json(order) for order in book.open_orders(**params)],
            "sandbox.set_faults": self._set_faults,
            "sandbox.set_chances": self._set_chances,
            "sandbox.clear_faults": plan.clear,
            "sandbox.get_faults": self._get_faults,
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
        except NoSuchOrder as error:
            answer = {"status": 404, "result": None, "error": {"message": str(error)}}
        except (ValueError, TypeError, OverflowError) as error:  # JSON, BookError, params that the method does not have
            answer = {"status": 400, "result": None, "error": {"message": str(error)}}
        rest = json.dumps(answer, separators=(",", ":"))[1:]
        return f'{{"id":{"null" if request_id is None else quote(request_id)},{rest}'

    def _set_faults(self, *, faults: object, order: object = None) -> None:
        planned = [fault_named(name) for name in _list(faults)]
        if order is not None:
            if not isinstance(order, str) or not order:
                raise BookError("order must be an id or external id.")
            self._plan.for_order(order, planned)
            return
        for fault in planned:
            self._plan.for_next(fault.point, [fault])

    def _set_chances(self, *, chances: object) -> None:
        if not isinstance(chances, dict):
            raise BookError("chances must be an object of faults and their probabilities.")
        new = {fault_named(name): float(chance) for name, chance in chances.items()}
        faults = self._plan.faults
        self._plan.faults = attrs.evolve(faults, chances={**faults.chances, **new})

    def _get_faults(self) -> dict[str, dict[str, float]]:
        chances = {str(fault): chance for fault, chance in self._plan.faults.chances.items() if chance}
        return {"chances": chances, "counts": {str(fault): count for fault, count in self._plan.counts.items()}}


def fault_named(name: object) -> Fault:
    """Return the fault of this name."""
    try:
        return Fault(cast("str", name))
    except ValueError:
        raise BookError(f"There is no fault {name!r}: choose from {', '.join(Fault)}.") from None


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise BookError("faults must be a list of names.")
    return value


class SandboxControl:
    """The side door of a sandbox, for any process; made by `open_sandbox_control`. Many tasks may use it at once.

    Every method can be cancelled safely: the sandbox may or may not have carried it out.
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
        """Place an order and return it; arguments and errors as for `Book.create`, raised as `SandboxControlError`."""
        params = {"pair": pair, "side": side, "type": type, "delay": delay}
        params |= {"amount": _exact(amount, "amount"), "price": _exact(price, "price")}
        return order_from_json(await self._ask("sandbox.create", _given(id=id, external_id=external_id) | params))

    async def fill(
        self,
        id: str | None = None,
        *,
        external_id: str | None = None,
        amount: Decimal | int | str | None = None,
        price: Decimal | int | str | None = None,
    ) -> Order:
        """Execute some of an order, or the rest of it; arguments as for `Book.fill`."""
        amounts = {"amount": _exact(amount, "amount"), "price": _exact(price, "price")}
        return order_from_json(await self._ask("sandbox.fill", _given(id=id, external_id=external_id, **amounts)))

    async def get(self, id: str | None = None, *, external_id: str | None = None) -> Order:
        """Return an order in its present state.

        Raises:
            NoSuchOrder: if the sandbox never had it.
        """
        return order_from_json(await self._ask("sandbox.get", _given(id=id, external_id=external_id)))

    async def open_orders(self, *, pending: bool = False) -> list[Order]:
        """Return the active orders; with ``pending`` also those whose creation is on its way."""
        found = await self._ask("sandbox.open_orders", {"pending": pending})
        return [order_from_json(data) for data in found]

    async def fault_on(self, order: str, *faults: Fault) -> None:
        """Set what hits the next requests for an order (id or external id), one after another.

        Raises:
            SandboxControlError: if one cannot hit a request.
        """
        await self._ask("sandbox.set_faults", {"faults": list(faults), "order": order})

    async def fault_on_next(self, *faults: Fault) -> None:
        """Set what hits the next requests, connections or Closes (as each fault requires), one after another."""
        await self._ask("sandbox.set_faults", {"faults": list(faults)})

    async def set_chances(self, chances: Mapping[Fault, float]) -> None:
        """Set the probability of these faults from now on; 0 switches one off; faults that are not named stay as is.

        Raises:
            SandboxControlError: if one is not a probability, or those at one point add up to more than 1.
        """
        await self._ask("sandbox.set_chances", {"chances": dict(chances)})

    async def clear_faults(self) -> None:
        """Make the sandbox behave from now on: clear chances and what was set; the counts stay."""
        await self._ask("sandbox.clear_faults", {})

    async def faults(self) -> FaultStatus:
        """Return the chances of its faults, and how often each has fired."""
        found = await self._ask("sandbox.get_faults", {})
        return FaultStatus(
            {Fault(name): float(chance) for name, chance in found["chances"].items()},
            {Fault(name): int(count) for name, count in found["counts"].items()},
        )

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        try:
            asked = json.dumps(params, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise SandboxControlError(f"The request cannot be written as JSON: {error}.") from None
        with trio.move_on_after(ANSWER_WITHIN):
            async with self._turn:
                self._count += 1
                request_id = str(self._count)
                try:
                    await self._websocket.send_message(f'{{"id":"{request_id}","method":"{method}","params":{asked}}}')
                    while True:
                        answer = json.loads(await self._websocket.get_message())
                        if answer["id"] == request_id:  # an earlier one's caller was cancelled
                            break
                except ConnectionClosed as error:
                    raise SandboxControlError("The sandbox has closed its side door: is it still running?") from error
            if answer["status"] == 404:
                raise NoSuchOrder(answer["error"]["message"])
            if answer["status"] != 200:
                raise SandboxControlError(answer["error"]["message"])
            return answer["result"]
        raise SandboxControlError(f"The sandbox did not answer {method} within {ANSWER_WITHIN:g} s.")


def _exact(value: Decimal | int | str | None, name: str) -> str | None:
    try:
        return None if value is None else str(exact(value, name))
    except InvalidOrder as error:
        raise SandboxControlError(str(error)) from None


def _given(**values: str | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _place(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a sandbox's url."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in ("ws", "wss") or not host or not port:
        raise SandboxControlError(f"A sandbox's url looks like ws://127.0.0.1:8765, not like {url!r}.")
    return scheme, host, port


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _address(host: str, port: int) -> str:
    """Return an address of a host without using trio's usual threads: the test may keep them all busy."""
    if host == "localhost":
        return LOOPBACK
    with suppress(ValueError):
        return str(ip_address(host))
    found = await trio.to_thread.run_sync(
        socket.getaddrinfo, host, port, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
    )
    return cast("str", cast("Sequence[tuple[object, ...]]", found[0])[4][0])


@asynccontextmanager
async def open_sandbox_control(
    url: str, *, ssl_context: ssl.SSLContext | None = None
) -> AsyncGenerator[SandboxControl]:
    """Open the side door of a sandbox that is running in this or another process.

    Args:
        url: the sandbox's trading url, as `Sandbox.url` or ``trio-cancel sandbox`` gives it.
        ssl_context: a context that trusts the sandbox's certificate, for a ``wss://`` url.

    Raises:
        SandboxControlError: if the url is not one, or no sandbox answers there within 10 s.
    """
    scheme, host, port = _place(url)
    door = urlunsplit((scheme, _netloc(host, port), SIDE_DOOR, "", ""))
    streams: list[trio.SocketStream] = []  # trio-websocket leaves a stream open when it is cancelled or refused
    try:
        async with open_services() as nursery:
            try:
                with trio.fail_after(CONNECT_WITHIN):
                    streams.append(await trio.open_tcp_stream(await _address(host, port), port))
                    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = streams[0]
                    if scheme == "wss":
                        context = ssl_context or ssl.create_default_context()
                        secure = trio.SSLStream(streams[0], context, server_hostname=host, https_compatible=True)
                        await secure.do_handshake()
                        stream = secure
                    websocket = await wrap_client_stream(nursery, stream, _netloc(host, port), SIDE_DOOR)
            except (HandshakeError, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                cause: BaseException = error.__cause__ or error
                while isinstance(cause, BaseExceptionGroup):
                    cause = cause.exceptions[0]  # the first of several addresses, which stands for all
                reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
                raise SandboxControlError(f"No sandbox answers at {door}: {reason}.") from error
            yield SandboxControl(websocket)
            with trio.move_on_after(CLOSE_WITHIN):
                await websocket.aclose()
    finally:
        for opened in streams:
            await trio.aclose_forcefully(opened)
