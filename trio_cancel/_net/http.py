"""GET requests over HTTP/1.1, for lookups: httpcore2 speaks the protocol, over our own streams.

So TLS, ``dial`` and the wording of failures are the same as for the WebSocket. One connection is kept open between
requests; a few more may be open while several requests are under way.

Cancellation: a request that is cancelled closes its connection; nothing stays behind.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import httpcore2
import trio

from trio_cancel._net.endpoint import Endpoint, is_loopback, parse_endpoint
from trio_cancel._net.names import Names
from trio_cancel._net.stream import ByteStream, Dial, open_stream
from trio_cancel._values.clock import retry_after
from trio_cancel._values.errors import ConfigurationError, HandshakeFailed, LookupFailed

AT_ONCE = 4
"""Connections at most."""
HEAD_MOST = 2**16
"""Bytes of an answer's head, which are counted with its body."""
KEPT_FOR = 45.0
"""Seconds for which an idle connection is kept: less than the 60 s after which servers close theirs."""


@attrs.frozen
class HttpEndpoint(Endpoint):
    """A checked ``https`` url: ``resource`` is its path, without a slash at the end."""

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a person may see."""
        return f"{'https' if self.secure else 'http'}://{self.host_header}"


def parse_base_url(url: str, *, allow_insecure: bool = False) -> HttpEndpoint:
    """Check the base url for looking orders up.

    Args:
        url: ``https://host[:port][/path]``; ``http://`` is accepted for loopback addresses only.
        allow_insecure: accept ``http://`` for any host; the API token is then sent in clear text.

    Raises:
        ConfigurationError: the url cannot be used.
    """
    scheme = url.partition("://")[0] if isinstance(url, str) else None
    if scheme not in ("http", "https"):
        raise ConfigurationError(
            "The base_url of lookups cannot be used: it must be a string that begins with https:// "
            "(or http:// for loopback)."
        )
    if "?" in url or "#" in url:
        raise ConfigurationError("The base_url of lookups cannot be used: it must not contain a query or a fragment.")
    try:
        # A WebSocket url has the same parts under other schemes.
        found = parse_endpoint(f"{'wss' if scheme == 'https' else 'ws'}{url[len(scheme) :]}", allow_insecure=True)
    except ConfigurationError as error:
        text = str(error).replace("The url cannot", "The base_url of lookups cannot").replace("wss://", "https://")
        raise ConfigurationError(text.replace("a WebSocket url", "it")) from None
    if not (found.secure or allow_insecure or is_loopback(found.host)):
        raise ConfigurationError(
            "The base_url of lookups cannot be used: plain http:// would show the API token to the network; "
            "use https://, or pass allow_insecure=True."
        )
    return HttpEndpoint(
        url, found.secure, found.host, found.port, found.resource.rstrip("/"), host_header=found.host_header
    )


@attrs.frozen
class HttpAnswer:
    """An answer that was read completely."""

    status: int
    body: bytes  # at most as long as was allowed
    date: str | None = None  # the `Date` header
    retry_after: float | None = None  # seconds that the server asked us to wait


class _Stream(httpcore2.AsyncNetworkStream):
    """One of our streams, in the form that httpcore2 needs. Times are bounded outside, by cancelling.

    The size of answers is bounded here: an exception from here passes through httpcore2's generators and ends them. A
    generator that was left halfway would be closed by the garbage collector.
    """

    def __init__(self, stream: ByteStream, too_long: Callable[[int], None]) -> None:
        self._stream = stream
        self._rest = b""
        self._too_long = too_long
        self._size = 0  # bytes that have come since the last request

    async def read(self, max_bytes: int, *_: Any, **__: Any) -> bytes:
        try:
            data = self._rest or await self._stream.receive()
        except trio.BrokenResourceError as error:
            raise httpcore2.ReadError(str(error)) from error
        self._rest = data[max_bytes:]
        self._size += len(data[:max_bytes])
        self._too_long(self._size)
        return data[:max_bytes]

    async def write(self, buffer: bytes, *_: Any, **__: Any) -> None:
        self._size = 0
        try:
            await self._stream.send([buffer] if buffer else [])
        except trio.BrokenResourceError as error:
            raise httpcore2.WriteError(str(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose_forcefully()


class _Backend(httpcore2.AsyncNetworkBackend):
    """Opens connections to one endpoint, TLS included."""

    def __init__(
        self, endpoint: Endpoint, ssl_context: ssl.SSLContext | None, dial: Dial | None, body_most: int
    ) -> None:
        self._endpoint = endpoint
        self._body_most = body_most
        self._ssl_context = ssl_context
        self._dial = dial
        self._names = Names()

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        stream = await open_stream(self._endpoint, ssl_context=self._ssl_context, dial=self._dial, names=self._names)
        return _Stream(stream, self._too_long)

    def _too_long(self, size: int) -> None:
        if size > self._body_most + HEAD_MOST:
            raise LookupFailed(f"The answer of {self._endpoint.origin} is longer than {self._body_most} bytes.")


class HttpClient:
    """A client of one endpoint.

    Args:
        endpoint: where to connect.
        ssl_context: for ``https``; the system's trusted certificates if None.
        dial: connects instead of TCP, see :func:`trio_cancel._net.stream.open_stream`.
        body_most: bytes of an answer's body at most.
        wall: returns Unix seconds.
    """

    def __init__(
        self,
        endpoint: HttpEndpoint,
        *,
        ssl_context: ssl.SSLContext | None,
        dial: Dial | None,
        body_most: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._wall = wall
        # Plain to httpcore2: TLS is part of our streams (and it would change the caller's ssl_context).
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=AT_ONCE,
            max_keepalive_connections=1,
            keepalive_expiry=KEPT_FOR,
            network_backend=_Backend(endpoint, ssl_context, dial, body_most),
        )

    async def aclose(self) -> None:
        """Close every connection. It never waits for the server."""
        with trio.CancelScope(shield=True):
            await self._pool.aclose()

    async def get(self, target: str, headers: Callable[[], Mapping[str, str]]) -> HttpAnswer:
        """Send a GET and return the answer.

        If the server has meanwhile closed a connection that was kept open, the request is sent once more.

        Args:
            target: path and query, percent-encoded.
            headers: returns the headers, made again for each time that the request is sent.

        Raises:
            LookupFailed: no connection, or no complete answer.

        Cancelled: its connection is closed. There is no deadline in here.
        """
        origin = self._endpoint.origin
        try:
            try:
                return await self._get(target, headers())
            except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
                return await self._get(target, headers())
        except HandshakeFailed as error:
            raise LookupFailed(str(error)) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            kind = "broke the connection" if isinstance(error, httpcore2.NetworkError) else "did not answer in HTTP"
            perhaps = (
                "" if self._endpoint.secure else f" Perhaps the port speaks TLS ({origin.replace('http', 'https', 1)})."
            )
            raise LookupFailed(f"{origin} {kind} before its answer was complete.{perhaps}") from error

    async def _get(self, target: str, headers: Mapping[str, str]) -> HttpAnswer:
        endpoint = self._endpoint
        url = httpcore2.URL(scheme=b"http", host=endpoint.host.encode(), port=endpoint.port, target=target.encode())
        sent = {"Host": endpoint.host_header, "Accept": "application/json", "Accept-Encoding": "identity", **headers}
        async with self._pool.stream("GET", url, headers=[(k.encode(), v.encode()) for k, v in sent.items()]) as answer:
            found = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in answer.headers}
            body = await answer.aread()
        date = found.get(b"date")
        return HttpAnswer(answer.status, body, date, retry_after(found.get(b"retry-after"), date, self._wall()))
