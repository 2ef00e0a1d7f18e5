"""The sandbox exchange as a server: over TCP, TLS or any stream.

`open_sandbox` owns the nursery in which everything runs: the listener with one task per connection, and the requests
that wait for the venue's processing delay. Exiting the block, or cancelling it, ends them all at once.
"""

from __future__ import annotations

import math
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import trio

from trio_cancel._values.models import Credentials
from trio_cancel.sandbox._book import Book
from trio_cancel.sandbox._certificate import Certificate, make_certificate
from trio_cancel.sandbox._connection import Habits, ServedConnection
from trio_cancel.sandbox._exchange import Exchange
from trio_cancel.sandbox._faults import CustomReply, Fault, Faults, Point, RestFault, RestFaults
from trio_cancel.sandbox._limits import Limits
from trio_cancel.sandbox._log import Log
from trio_cancel.sandbox._nursery import open_services
from trio_cancel.sandbox._outbox import Gone
from trio_cancel.sandbox._plan import Script
from trio_cancel.sandbox._protocol import DIALECTS, TOKEN_FIELDS
from trio_cancel.sandbox._rest import BASES, RestLog, RestSide
from trio_cancel.sandbox._side_door import SideDoor

LOOPBACK = "127.0.0.1"
DEFAULT_CREDENTIALS = Credentials("sandbox-token", "sandbox-secret")
HANDSHAKE_WITHIN = 10.0  # s
BACKLOG = 1024  # connections waiting to be accepted: tests open a thousand at once


def unix_milliseconds() -> int:
    """Return the system's time in the venue's unit."""
    return time.time_ns() // 1_000_000


class Sandbox:
    """A running sandbox exchange; made by `open_sandbox`.

    Attributes:
        book: its orders, for the test to change and check: `Book.create`, `Book.fill`, `Book.get`, `Book.open_orders`.
        log: what was received, applied and answered.
        credentials: what its clients sign with.
        rest_log: the requests to the REST side.
        ssl_context: a client's context that trusts this sandbox; None without TLS.
        ca_pem: the authority's certificate, PEM; None without TLS.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        habits: Habits,
        certificate: Certificate | None,
        nursery: trio.Nursery,
        rng: random.Random,
        rest: RestSide,
    ) -> None:
        self._exchange = exchange
        self._rest = rest
        self._rest_port: int | None = None
        self._habits = habits
        self._certificate = certificate
        self._nursery = nursery
        self._rng = rng
        self._side_door = SideDoor(exchange.book, exchange.plan)
        self.credentials: Credentials = exchange.credentials
        self.book: Book = exchange.book
        self.log: Log = exchange.log
        self.rest_log: RestLog = rest.log
        self.ssl_context: ssl.SSLContext | None = None if certificate is None else certificate.client
        self.ca_pem: bytes | None = None if certificate is None else certificate.ca_pem
        self._port: int | None = None

    @property
    def url(self) -> str:
        """The url for `open_trading_ws`.

        Raises:
            RuntimeError: if the sandbox has no listener (``port=None``).
        """
        if self._port is None:
            raise RuntimeError("This sandbox has no url: it was opened with port=None and serves streams only.")
        return f"{'ws' if self._certificate is None else 'wss'}://{LOOPBACK}:{self._port}"

    @property
    def rest_url(self) -> str:
        """The url for `trio_cancel.lookup.RestLookup`; with ``/v4`` in place of ``/trade`` it serves the same data.

        Raises:
            RuntimeError: if the sandbox has no listener for it (``rest_port=None``).
        """
        if self._rest_port is None:
            raise RuntimeError("This sandbox has no rest_url: open it with rest_port=0.")
        return f"{'http' if self._certificate is None else 'https'}://{LOOPBACK}:{self._rest_port}{BASES[0]}"

    @property
    def has_rest(self) -> bool:
        """Whether it has a listener for lookups, so that there is a ``rest_url``."""
        return self._rest_port is not None

    @property
    def rest_lag(self) -> float | tuple[float, float]:
        """Seconds by which the answers of the REST side lag behind the book: fixed, or (least, most)."""
        return self._rest.lag

    @rest_lag.setter
    def rest_lag(self, seconds: float | tuple[float, float]) -> None:
        self._rest.lag = seconds

    @property
    def rest_faults(self) -> RestFaults:
        """The chances of misbehaviour of the REST side; new ones may be set at any time."""
        return self._rest.faults

    @rest_faults.setter
    def rest_faults(self, faults: RestFaults) -> None:
        self._rest.faults = faults

    def fault_on_rest(self, *faults: RestFault | None) -> None:
        """Set what hits the next requests to the REST side, one after another; None: nothing."""
        self._rest.planned.extend(None if fault is None else RestFault(fault) for fault in faults)

    def write_ca(self, path: str | PathLike[str]) -> None:
        """Write the authority's certificate to a file, for a client in another process.

        Raises:
            RuntimeError: if the sandbox has no TLS.
        """
        if self.ca_pem is None:
            raise RuntimeError("This sandbox has no certificate: open it with tls=True.")
        Path(path).write_bytes(self.ca_pem)

    @property
    def clock_skew(self) -> int:
        """Milliseconds by which the venue's clock is ahead of the real one; may be set at any time."""
        return self._exchange.clock_skew

    @clock_skew.setter
    def clock_skew(self, milliseconds: int) -> None:
        self._exchange.clock_skew = milliseconds

    def now(self) -> int:
        """Return the venue's Unix time in milliseconds, its skew included."""
        return self._exchange.now()

    # Faults

    @property
    def faults(self) -> Faults:
        """The chances of misbehaviour; new ones may be set at any time."""
        return self._exchange.plan.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._exchange.plan.faults = faults

    @property
    def fault_counts(self) -> Counter[Fault]:
        """How often each fault has fired."""
        return Counter(self._exchange.plan.counts)

    def script(self, script: Script | None) -> None:
        """Let a function decide what hits each request: it gets the `RequestRecord` and returns a fault or None.

        It is asked before the tables and chances, which decide if it returns None. Pass None to remove it.
        """
        self._exchange.plan.script = script

    def fault_on(self, order: str, *faults: Fault | CustomReply | None) -> None:
        """Set what hits the next requests for an order (id or external id), one after another; None: nothing.

        Raises:
            ValueError: if one cannot hit a request.
        """
        self._exchange.plan.for_order(order, faults)

    def fault_on_request(self, *faults: Fault | None) -> None:
        """Set what hits the next requests, whatever orders they name, one after another; None: nothing.

        What was set for an order (`fault_on`) comes first.

        Raises:
            ValueError: if one cannot hit a request.
        """
        self._exchange.plan.for_next(Point.REQUEST, faults)

    def fault_on_upgrade(self, *faults: Fault | None) -> None:
        """Set what happens to the next connections, one after another; None: nothing."""
        self._exchange.plan.for_next(Point.UPGRADE, faults)

    def fault_on_close(self, *faults: Fault | None) -> None:
        """Set what happens at the next Closes by clients, one after another; None: nothing."""
        self._exchange.plan.for_next(Point.CLOSE, faults)

    def clear_faults(self) -> None:
        """Behave from now on: clear the script, the chances and what was set for orders, requests and connections.

        A fault that has already fired runs its course, and the counts stay. The REST side has its own faults, which
        stay.
        """
        self._exchange.plan.clear()

    # Serving

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one connection over any stream until it ends, without adding TLS; always closes the stream."""
        await ServedConnection(
            stream,
            exchange=self._exchange,
            side_door=self._side_door.answer,
            nursery=self._nursery,
            rng=self._rng,
            habits=self._habits,
        ).serve()

    async def serve_rest_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to the REST side over any stream, without adding TLS; always closes the stream."""
        await self._rest.serve(stream)

    def accept_rest(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to the REST side in one of the sandbox's own tasks."""
        self._nursery.start_soon(self.serve_rest_stream, stream)

    def accept(self, stream: trio.abc.Stream) -> None:
        """Serve one connection over any stream in one of the sandbox's own tasks."""
        self._nursery.start_soon(self.serve_stream, stream)

    async def _serve_socket(
        self, serve: Callable[[trio.abc.Stream], Awaitable[None]], stream: trio.SocketStream
    ) -> None:
        if self._certificate is None:
            await serve(stream)
            return
        secure = trio.SSLStream(stream, self._certificate.server, server_side=True, https_compatible=True)
        done = False
        try:
            with trio.move_on_after(HANDSHAKE_WITHIN):
                await secure.do_handshake()
                done = True
        except Gone:
            pass
        finally:
            if not done:
                await trio.aclose_forcefully(stream)
        if done:
            await serve(secure)

    async def _listen(self, port: int | None, rest_port: int | None) -> None:
        if port is not None:
            self._port = await self._serve_on(port, self.serve_stream)
        if rest_port is not None:
            self._rest_port = await self._serve_on(rest_port, self.serve_rest_stream)

    async def _serve_on(self, port: int, serve: Callable[[trio.abc.Stream], Awaitable[None]]) -> int:
        listeners = await trio.open_tcp_listeners(port, host=LOOPBACK, backlog=BACKLOG)
        self._nursery.start_soon(partial(trio.serve_listeners, partial(self._serve_socket, serve), listeners))
        number: int = listeners[0].socket.getsockname()[1]
        return number


@asynccontextmanager
async def open_sandbox(
    *,
    port: int | None = 0,
    tls: bool = False,
    credentials: Credentials | None = None,
    rate: float | None = None,
    burst: float | None = None,
    daily_limit: int | None = None,
    delay: float | tuple[float, float] = 0.0,
    idle_timeout: float | None = 60.0,
    ping_interval: float | None = 30.0,
    dialect: Literal["page", "openapi"] = "page",
    token_field: Literal["api_token", "apiToken"] = "api_token",  # noqa: S107 - the name of a field, not a token
    full_results: bool = False,
    faults: Faults | None = None,
    clock: Callable[[], int] = unix_milliseconds,
    clock_skew: int = 0,
    seed: int | None = None,
    log_limit: int | None = None,
    rest_port: int | None = None,
    rest_lag: float | tuple[float, float] = 0.0,
    rest_faults: RestFaults | None = None,
) -> AsyncGenerator[Sandbox]:
    """Run a sandbox exchange on the loopback interface for the duration of the block.

    Args:
        port: to listen on; 0 for a free one, None for no listener (then use `Sandbox.serve_stream`).
        tls: use TLS with a certificate made on the spot; needs trustme (extras ``cli`` and ``testing``).
        credentials: of its one account; ``sandbox-token`` and ``sandbox-secret`` if left out.
        rate: requests a second, all connections together; no limit if left out. Over it: 429 "Too many requests".
        burst: requests at once after a pause.
        daily_limit: requests in 24 h. Over it: 429 "Limit Exceeded".
        delay: seconds that the venue takes for a request: fixed, or (least, most) drawn for each.
        idle_timeout: seconds until a silent connection is closed; pongs that answer no ping do not count.
        ping_interval: seconds between the venue's pings.
        dialect: which of the venue's two documents its answers follow: ``"page"`` for the page of ``order.cancel`` (a
            closed order: 40408), ``"openapi"`` for its OpenAPI text (40020 or 40021, 401, a bare 429).
        token_field: the name under which requests must carry the token, in either dialect.
        full_results: whether results also carry ``side`` and ``average_execution_price``.
        faults: chances of misbehaviour; none if left out.
        clock: returns Unix milliseconds.
        clock_skew: milliseconds by which the venue's clock is ahead.
        seed: makes order ids, delays and faults repeatable; random if left out.
        log_limit: how many requests and connections the log keeps, the newest; all if left out.
        rest_port: where the REST side listens, for lookups: 0 for a free port, None for no listener.
        rest_lag: seconds by which its answers lag behind the book: fixed, or (least, most) drawn for each.
        rest_faults: chances of its misbehaviour; none if left out.

    Raises:
        OSError: if the port is taken.
        RuntimeError: if TLS is wanted but trustme is not installed, or if an event loop other than trio is running.
        ValueError: if a limit or a time makes no sense, or there is no such dialect or field.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "A sandbox works under trio only, not under asyncio: start the program with trio.run(main) or, if it uses "
            'anyio, with anyio.run(main, backend="trio").'
        )
    rng = random.Random(seed)
    for name, span in (
        ("delay", delay),
        ("idle_timeout", idle_timeout),
        ("ping_interval", ping_interval),
        ("rest_lag", rest_lag),
    ):
        for seconds in span if isinstance(span, tuple) else (span,):
            if seconds is not None and not (0 <= seconds < math.inf and (seconds or name in ("delay", "rest_lag"))):
                raise ValueError(f"{name} must be a number of seconds, not {seconds!r}.")
    if dialect not in DIALECTS:
        raise ValueError(f"dialect must be {' or '.join(DIALECTS)}, not {dialect!r}.")
    if token_field not in TOKEN_FIELDS:
        raise ValueError(f"token_field must be {' or '.join(TOKEN_FIELDS)}, not {token_field!r}.")
    exchange = Exchange(
        credentials=credentials or DEFAULT_CREDENTIALS,
        clock=clock,
        rng=rng,
        limits=Limits(rate, burst, daily_limit),
        faults=faults or Faults(),
        dialect=DIALECTS[dialect],
        token_field=token_field,
        full_results=full_results,
        log_limit=log_limit,
    )
    exchange.clock_skew = clock_skew
    habits = Habits(delay, idle_timeout, ping_interval)
    certificate = make_certificate() if tls else None
    rest = RestSide(
        exchange,
        random.Random(None if seed is None else seed + 1),  # a separate one: lookups must not change the other draws
        faults=rest_faults or RestFaults(),
        lag=rest_lag,
        log_limit=log_limit,
    )
    async with open_services() as nursery:
        sandbox = Sandbox(exchange, habits=habits, certificate=certificate, nursery=nursery, rng=rng, rest=rest)
        await sandbox._listen(port, rest_port)
        yield sandbox


class SandboxOptions(TypedDict, total=False):
    """The keywords of `open_sandbox`."""

    port: int | None
    tls: bool
    credentials: Credentials | None
    rate: float | None
    burst: float | None
    daily_limit: int | None
    delay: float | tuple[float, float]
    idle_timeout: float | None
    ping_interval: float | None
    dialect: Literal["page", "openapi"]
    token_field: Literal["api_token", "apiToken"]
    full_results: bool
    faults: Faults | None
    clock: Callable[[], int]
    clock_skew: int
    seed: int | None
    log_limit: int | None
    rest_port: int | None
    rest_lag: float | tuple[float, float]
    rest_faults: RestFaults | None


async def serve_sandbox(
    *, task_status: trio.TaskStatus[Sandbox] = trio.TASK_STATUS_IGNORED, **options: Unpack[SandboxOptions]
) -> None:
    """Run a sandbox exchange until cancelled, for ``nursery.start``, which returns the `Sandbox` once it listens.

    Args:
        task_status: trio's.
        options: those of `open_sandbox`.
    """
    async with open_sandbox(**options) as sandbox:
        task_status.started(sandbox)
        await trio.sleep_forever()
