"""Byte streams: TCP, or whatever the user dials, with TLS over it if the url asks for it.

A :class:`ByteStream` belongs to one connection. Its reader task calls ``receive``, its writer task ``send``; any task
may call ``close`` at any time, which wakes both.

Cancellation: ``receive`` loses nothing when cancelled. ``send``, when cancelled, leaves ``accepted`` correct, and the
stream poisoned if anything was not sent: bytes of a frame may be on the wire, so no further byte may follow.
``open_stream`` leaves nothing open.

The caller always learns how many whole chunks the system has accepted. Errors of the stream are raised as
``trio.BrokenResourceError`` with their cause, errors in opening it as ``HandshakeFailed`` with theirs.
"""

from __future__ import annotations

import errno
import inspect
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, cast

import attrs
import trio

from trio_cancel._net.endpoint import Endpoint
from trio_cancel._net.names import Names, system_words
from trio_cancel._net.sockets import CLOSE_GRACE, Raw, SocketRaw, StreamRaw
from trio_cancel._net.tls import TLSCodec, default_ssl_context, speaks_no_tls
from trio_cancel._values.errors import HandshakeFailed

#: Milliseconds until the system gives up on sent bytes that nobody acknowledges (half-open TCP).
TCP_USER_TIMEOUT_MS = 20_000

#: ``dial(host, port)`` or ``dial()``, returning a connected stream.
Dial = Callable[..., Awaitable[trio.abc.Stream]]


@attrs.frozen
class _Rest:
    """What is left of a send: the bytes, and the counts before it."""

    data: bytes
    sent: int
    accepted: int
    ends: list[tuple[int, int]]
    chunks: int


class ByteStream:
    """A connected stream of bytes that counts what it sends. Made by :func:`open_stream`.

    Attributes:
        accepted: chunks, since the stream was made, whose last byte (over TLS: the record that holds it) the system
            has accepted; the upgrade request is the first.
        poisoned: a send was left unfinished; nothing more can be sent.
        on_output: called by ``receive`` when TLS itself has something to send, see ``pending_output``.
    """

    def __init__(self, raw: Raw, tls: TLSCodec | None = None) -> None:
        self._raw = raw
        self._tls = tls
        self.accepted = 0
        self.poisoned = False
        self._rest: _Rest | None = None
        self.on_output: Callable[[], object] | None = None

    @property
    def pending_output(self) -> bool:
        """True if TLS itself has something to send: call ``send(())`` if there is nothing else to send."""
        return self._tls is not None and self._tls.pending_output

    async def receive(self) -> bytes:
        """Wait for bytes.

        Returns:
            Everything that is ready (up to about 64 KiB read), or ``b""`` if the peer has closed, whatever its reason.

        Raises:
            trio.BrokenResourceError: the connection broke or the stream was closed.

        Cancelled: nothing is lost.
        """
        tls = self._tls
        if tls is None:
            return await self._raw.receive()
        while not tls.ended:
            data = b""
            if not tls.unread:
                data = await self._raw.receive()
                if not data:
                    break
            try:
                plain = tls.open(data)
            except ssl.SSLError as exc:
                raise trio.BrokenResourceError(f"TLS broke: {exc.reason or exc}") from exc
            if tls.pending_output and self.on_output is not None:
                self.on_output()
            if plain:
                return plain
        return b""

    def send_now(self, data: bytes, ends: Sequence[int]) -> bool:
        """Send whole frames (chunks) at once, as far as the system accepts them without waiting.

        Args:
            data: the frames, one after the other; perhaps none, to send TLS's own output.
            ends: for each frame the offset of its end.

        Returns:
            True if everything was accepted. If not, the stream is poisoned until :meth:`finish_send` has sent the rest.

        Raises:
            trio.BrokenResourceError: the connection broke, the stream was closed or poisoned. ``accepted`` says how
                many of the chunks were wholly accepted.
        """
        if self.poisoned:
            raise trio.BrokenResourceError("an earlier send was left unfinished; nothing may follow it")
        raw = self._raw
        sealed: list[tuple[int, int]] | None = None
        if self._tls is not None:
            try:
                data, sealed = self._tls.seal(data, ends)
            except ssl.SSLError as exc:
                self.poisoned = True
                raise trio.BrokenResourceError(f"TLS broke: {exc.reason or exc}") from exc
        if data:
            before = raw.sent
            try:
                taken = raw.send_now(data)
            except trio.BrokenResourceError:
                self.poisoned = True
                raise
            if taken < len(data):
                if sealed is None:
                    sealed = list(enumerate(ends, 1))
                self.poisoned = True
                self._rest = _Rest(data[taken:], before, self.accepted, sealed, len(ends))
                self._count()
                return False
        self.accepted += len(ends)
        return True

    async def finish_send(self) -> None:
        """Send what :meth:`send_now` has not sent.

        Raises:
            trio.BrokenResourceError: the connection broke or the stream was closed.

        Cancelled: ``accepted`` is correct; the stream stays poisoned.
        """
        rest, self._rest = self._rest, None
        assert rest is not None
        try:
            await self._raw.send(rest.data)
        except BaseException:
            self._rest = rest
            self._count()
            raise
        self.accepted = rest.accepted + rest.chunks
        self.poisoned = False

    def _count(self) -> None:
        """Count the chunks of an unfinished send that were wholly accepted."""
        rest = self._rest
        assert rest is not None
        sent = self._raw.sent - rest.sent
        self.accepted = rest.accepted + max((count for count, end in rest.ends if end <= sent), default=0)

    async def send(self, chunks: Sequence[bytes]) -> None:
        """Send whole frames: :meth:`send_now`, then :meth:`finish_send` if needed.

        Cancelled: ``accepted`` is correct; the stream is poisoned if anything was not sent. If the system accepts
        everything at once, there is no checkpoint.
        """
        if not self.send_now(b"".join(chunks), list(accumulate(map(len, chunks)))):
            await self.finish_send()

    async def drain(self) -> None:
        """Read and drop until the peer has closed or the connection broke. The caller bounds it."""
        with suppress(trio.BrokenResourceError):
            while await self._raw.receive():
                pass

    def close(self) -> None:
        """Close at once, without notifying the peer; tasks that wait in it get ``trio.BrokenResourceError``.

        A dialled stream is only abandoned here; :meth:`aclose_forcefully` also closes it.
        """
        self.poisoned = True
        self._raw.close()

    async def aclose_forcefully(self) -> None:
        """Close at once, also a dialled stream. Never waits for the peer; cancelling changes nothing."""
        self.poisoned = True
        await self._raw.aclose_forcefully()


async def open_stream(
    endpoint: Endpoint,
    *,
    ssl_context: ssl.SSLContext | None = None,
    dial: Dial | None = None,
    names: Names | None = None,
) -> ByteStream:
    """Connect, and do the TLS handshake if the url says ``wss``.

    Args:
        endpoint: where to connect.
        ssl_context: for ``wss``; the system's trusted certificates if None.
        dial: connects instead of TCP: called with host and port if it takes two arguments, otherwise without any. Its
            stream belongs to us from then on: a ``trio.SocketStream`` is taken apart, any other is wrapped, see
            :class:`trio_cancel._net.sockets.StreamRaw`.
        names: what earlier connections have found out about the addresses.

    Returns:
        The stream.

    Raises:
        HandshakeFailed: no connection; ``final`` is set if the certificate is not trusted. The reason is its cause.

    Cancelled: nothing stays open. There is no deadline in here.
    """
    names = names or Names()
    raw = await _connect(endpoint, dial, names)
    try:
        tls = None
        if endpoint.secure:
            tls = await _shake_hands(raw, endpoint, ssl_context or default_ssl_context())
        names.keep()
        return ByteStream(raw, tls)
    except BaseException:
        with trio.move_on_after(CLOSE_GRACE, shield=True):
            await raw.aclose_forcefully()
        raise


async def _shake_hands(raw: Raw, endpoint: Endpoint, context: ssl.SSLContext) -> TLSCodec:
    try:
        tls = TLSCodec(context, endpoint.host.rstrip("."))
        done, output = tls.handshake(b"")
        while True:
            if output:
                await raw.send(output)
            if done:
                return tls
            data = await raw.receive()
            if not data:
                raise trio.BrokenResourceError("the peer closed the connection")
            done, output = tls.handshake(data)
    except (OSError, trio.BrokenResourceError) as exc:  # OSError: ssl.SSLError, or a key log that cannot be written
        raise _tls_failure(exc, endpoint) from exc


def _tls_failure(exc: Exception, endpoint: Endpoint) -> HandshakeFailed:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return HandshakeFailed(
            f"The certificate of {endpoint.origin} is not trusted ({exc.verify_message}); "
            "check the url, the system's clock and certificates, or pass ssl_context=.",
            final=True,
        )
    if speaks_no_tls(exc):
        plain = without_tls(endpoint.origin)
        return HandshakeFailed(
            f"{endpoint.origin} does not speak TLS; perhaps the url must be {plain}, otherwise check its port."
        )
    return HandshakeFailed(
        f"The TLS handshake with {endpoint.origin} failed ({_reason(exc)}); check that the url's port speaks TLS "
        f"(without TLS the url is {without_tls(endpoint.origin)})."
    )


def without_tls(origin: str) -> str:
    """Return a url's origin with the scheme without TLS."""
    return origin.replace("wss://", "ws://", 1).replace("https://", "http://", 1)


async def _connect(endpoint: Endpoint, dial: Dial | None, names: Names) -> Raw:
    stream: trio.abc.Stream
    try:
        if dial is None:
            stream = await names.connect(endpoint.host, endpoint.port)
        elif takes_address(dial):
            stream = await dial(endpoint.host, endpoint.port)
        else:
            stream = await dial()
    except socket.gaierror as exc:
        if (full := _no_file_left(exc)) is not None:  # then the resolver cannot ask, and says that it found nothing
            raise HandshakeFailed(f"No connection to {endpoint.origin} could be made: {full}.") from exc
        raise HandshakeFailed(
            f"The host name of {endpoint.origin} cannot be resolved; check the url and the network."
        ) from exc
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        if (full := _no_file_left(exc)) is not None:
            raise HandshakeFailed(f"No connection to {endpoint.origin} could be made: {full}.") from exc
        raise HandshakeFailed(
            f"No connection to {endpoint.origin} could be made ({_reason(exc)}); check the url and the network."
        ) from exc
    except HandshakeFailed:
        raise
    except Exception as exc:
        # Whatever a user's dial or resolver raises is reported like any other reason for having no connection.
        whose = "name resolution" if dial is None else "dial"
        raise HandshakeFailed(
            f"No connection to {endpoint.origin} could be made: {whose} raised {type(exc).__name__} ({exc})."
        ) from exc
    if not isinstance(stream, trio.abc.Stream):  # a dial without a type checker
        raise HandshakeFailed(f"dial must return a trio.abc.Stream, not {type(stream).__name__}.", final=True)
    if not isinstance(stream, trio.SocketStream):
        return StreamRaw(stream)
    return SocketRaw(_take_socket(stream))


def takes_address(dial: Dial) -> bool:
    """Return True if ``dial`` is called with a host and a port."""
    try:
        inspect.signature(dial).bind("host", 0)
    except (TypeError, ValueError):
        return False
    return True


def _take_socket(stream: trio.SocketStream) -> socket.socket:
    """Return the socket of a stream, as the standard library's own object; the stream has released it."""
    if stream.socket.fileno() == -1:
        raise HandshakeFailed("dial returned a stream that is closed; it must return an open one, for us alone.")
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):  # not TCP (a Unix socket)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    return socket.socket(fileno=stream.socket.detach())


def _no_file_left(exc: BaseException) -> str | None:
    """Return the text for a failure caused by a limit on open files or sockets; None for other failures."""
    first = _first(exc)
    if isinstance(first, socket.gaierror):
        try:
            socket.socket().close()
        except OSError as error:
            first = error
    code = first.errno if isinstance(first, OSError) and not isinstance(first, socket.gaierror) else None
    if code == errno.EMFILE:
        return "this process has too many open files; close some, or raise the limit (ulimit -n)"
    if code == errno.ENFILE:
        return "the system has too many open files; close some programs"
    return None


def _first(exc: BaseException) -> BaseException:
    """Return the error of the first of several addresses, which stands for all of them."""
    cause: Any = exc.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    return cause if isinstance(exc, OSError) and isinstance(cause, OSError) else exc


def _reason(exc: BaseException) -> str:
    """Return briefly what went wrong."""
    first = _first(exc)
    if isinstance(first, ssl.SSLError):
        return str(first.reason or first)
    if isinstance(first, OSError) and first.strerror:
        return system_words(first)
    return str(first)
