"""Connections through a proxy: which one, if any, and the tunnel through it.

HTTP (CONNECT) and SOCKS5 proxies make a tunnel for bytes; TLS with the venue goes through it, end to end. The proxy
resolves the venue's name. If a proxy from the environment cannot be used, that is reported and it is not used; if a
proxy that the user names cannot be used, that is an error. No user name or password of a proxy appears in any repr, log
line or error.
"""

from __future__ import annotations

import base64
import importlib
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import inf
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import attrs
import h11
import trio

from trio_cancel._net.endpoint import Endpoint, is_loopback
from trio_cancel._net.names import Names, system_words
from trio_cancel._net.tls import default_ssl_context, speaks_no_tls
from trio_cancel._values.errors import ConfigurationError, HandshakeFailed

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_SOCKS_LIBRARY = "python_socks.async_.trio.v2"
_READ = 4096


@attrs.frozen
class Proxy:
    """A checked proxy url."""

    scheme: str  # `http`, `https` (TLS to the proxy itself) or `socks5`
    host: str  # name or address, without brackets
    port: int
    source: str  # where it was named: the environment variable, or `proxy=`
    username: str | None = attrs.field(default=None, repr=False)
    password: str = attrs.field(default="", repr=False)

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a person may see."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@attrs.frozen
class Choice:
    """Which proxy a session uses."""

    proxy: Proxy | None = None  # None for a direct connection
    unused: str | None = None  # if the environment names one that cannot be used, a sentence that says so and why


def choose_proxy(endpoint: Endpoint, proxy: object, environ: Mapping[str, str]) -> Choice:
    """Return the proxy to use for a url.

    Args:
        endpoint: the venue.
        proxy: its url; True to use the environment's; None for no proxy.
        environ: the environment.

    Raises:
        ConfigurationError: ``proxy`` cannot be used. The text never contains a user name or password.
    """
    if proxy is None:
        return Choice()
    if proxy is not True:
        return Choice(parse_proxy(proxy, "proxy="))
    name = _variable(endpoint, environ)
    if name is None or is_loopback(endpoint.host) or _is_exempt(endpoint, environ):
        return Choice()
    try:
        return Choice(parse_proxy(environ[name].strip(), name))
    except ConfigurationError as error:
        return Choice(unused=f"{name} is set but not used, so the connection is direct: {error}")


def parse_proxy(url: object, source: str) -> Proxy:
    """Check a proxy's url and split it.

    Args:
        url: ``http://host:port``, ``https://``, ``socks5://`` or ``socks5h://``, perhaps with ``user:password@``;
            without a scheme, ``http``.
        source: where it was named.

    Raises:
        ConfigurationError: it cannot be used, or the package that it needs is not installed; the text never contains
            the url.
    """

    def refuse(why: str) -> NoReturn:
        raise ConfigurationError(f"The url of the proxy ({source}) cannot be used: {why}.")

    if not isinstance(url, str):
        refuse(f"it must be a str, not {type(url).__name__}")
    if any(character.isspace() or not character.isprintable() for character in url):
        refuse("it contains whitespace or control characters")
    write = "write http://host:port or socks5://host:port, with special characters in a password percent-encoded"
    if "://" not in url:
        url = f"http://{url}"
    parts = None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    # Not within `except`: the error's text contains a part of the url.
    if parts is None:
        refuse(write)
    if parts.scheme not in _DEFAULT_PORTS:
        refuse("its scheme must be http, https, socks5 or socks5h")
    if not host or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        refuse(write)
    try:
        host = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError:
        host = ""
    if not host:
        refuse("its host is not a valid name")
    username = None if parts.username is None else unquote(parts.username)
    scheme = "socks5" if parts.scheme == "socks5h" else parts.scheme
    password = unquote(parts.password or "")
    if username is not None and scheme != "socks5" and ":" in username:
        refuse("an HTTP proxy cannot take a user name with a colon")
    if scheme == "socks5" and max(len((username or "").encode()), len(password.encode())) > 255:  # RFC 1929, section 2
        refuse("its user name or password is longer than SOCKS5 allows (255 bytes)")
    if scheme == "socks5" and not f"{username}{password}".isascii():  # python-socks cannot encode them
        refuse("its user name or password contains a non-ASCII character, which SOCKS5 proxies handle differently")
    if scheme == "socks5":
        try:
            importlib.import_module(_SOCKS_LIBRARY)
        except ImportError:
            raise ConfigurationError(
                f"A SOCKS proxy ({source}) needs the package python-socks; install trio-cancel[proxy]."
            ) from None
    return Proxy(scheme, host, port or _DEFAULT_PORTS[scheme], source, username, password)


def _variable(endpoint: Endpoint, environ: Mapping[str, str]) -> str | None:
    """Return the environment variable that names the proxy, if one does: lower case first, as in curl."""
    names = ["https_proxy", "HTTPS_PROXY"] if endpoint.secure else ["http_proxy"]
    if not endpoint.secure and "REQUEST_METHOD" not in environ:  # in a CGI program the visitor can set it
        names.append("HTTP_PROXY")
    for name in (*names, "all_proxy", "ALL_PROXY"):
        if environ.get(name, "").strip():
            return name
    return None


def _is_exempt(endpoint: Endpoint, environ: Mapping[str, str]) -> bool:
    """Return True if ``NO_PROXY`` names the host: the host, its domain, ``*``, its address or network."""
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    host = endpoint.host.rstrip(".").lower()
    for entry in listed.replace(",", " ").lower().split():
        if entry == "*":
            return True
        name, port = _split_port(entry)
        if port is not None and port != str(endpoint.port):
            continue
        try:
            address = ip_address(host)
        except ValueError:
            name = name.removeprefix("*").strip(".")
            if name and (host == name or host.endswith(f".{name}")):
                return True
        else:
            if _is_in_network(address, name):
                return True
    return False


def _split_port(entry: str) -> tuple[str, str | None]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name + rest[rest.find("/") :] if "/" in rest else name, rest.removeprefix(":") or None
    name, colon, port = entry.partition(":")
    if colon and port.isdigit():
        return name, port
    return entry, None


def _is_in_network(address: IPv4Address | IPv6Address, entry: str) -> bool:
    try:
        return address in ip_network(entry, strict=False)
    except ValueError:
        return False


class Tunnel:
    """Dials through a proxy. Made once for a session, for all its connections."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._names = Names()

    async def __call__(self, host: str, port: int) -> trio.abc.Stream:
        """Return a stream to ``host`` and ``port``, made by the proxy.

        Raises:
            HandshakeFailed: the proxy cannot be reached, or it refused.

        Cancelled: nothing stays open. There is no deadline in here.
        """
        proxy = self.proxy
        stream: trio.abc.Stream = await self._reach()
        try:
            if proxy.scheme == "socks5":
                await _ask_socks(stream, proxy, host, port)
            else:
                if proxy.scheme == "https":
                    stream = await _shake_hands(stream, proxy)
                await _ask_http(stream, proxy, host, port)
        except (OSError, trio.BrokenResourceError) as error:
            await trio.aclose_forcefully(stream)
            raise HandshakeFailed(
                f"The connection to the proxy {proxy.origin} broke ({_root(error)}); "
                f"check {proxy.source} and the network."
            ) from error
        except BaseException:
            await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - it does not wait
            raise
        self._names.keep()
        return stream

    async def _reach(self) -> trio.SocketStream:
        proxy = self.proxy
        try:
            return await self._names.connect(proxy.host, proxy.port)
        except OSError as error:
            raise HandshakeFailed(
                f"No connection to the proxy {proxy.origin} could be made ({_root(error)}); "
                f"check {proxy.source} and the network."
            ) from error


async def _shake_hands(stream: trio.abc.Stream, proxy: Proxy) -> trio.abc.Stream:
    secured = trio.SSLStream(stream, default_ssl_context(), server_hostname=proxy.host, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise HandshakeFailed(
                f"The certificate of the proxy {proxy.origin} is not trusted ({error.__cause__.verify_message}); "
                f"check {proxy.source}, and the system's clock and certificates."
            ) from error
        if speaks_no_tls(error):
            raise HandshakeFailed(
                f"The proxy {proxy.origin} does not speak TLS; write http:// in {proxy.source}, or check its port."
            ) from error
        raise HandshakeFailed(
            f"The TLS handshake with the proxy {proxy.origin} failed ({_root(error)}); "
            f"if it does not speak TLS itself, write http:// in {proxy.source}."
        ) from error
    return secured


async def _ask_http(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Ask an HTTP proxy for a tunnel (RFC 9110, section 9.3.6)."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", target)]
    if proxy.username is not None:
        secret = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {secret}"))
    connection = h11.Connection(h11.CLIENT)
    request = connection.send(h11.Request(method="CONNECT", target=target, headers=headers))
    end = connection.send(h11.EndOfMessage())
    assert request is not None
    assert end is not None
    await stream.send_all(request + end)
    remedy = f"check {proxy.source}"
    if proxy.scheme == "http":
        remedy = f"if it speaks TLS, write https:// in {proxy.source}, otherwise check its port"
    try:
        while (event := connection.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
            if event is h11.NEED_DATA:
                data = bytes(await stream.receive_some(_READ))
                if not data:
                    raise HandshakeFailed(
                        f"The proxy {proxy.origin} closed the connection before it had answered; {remedy}."
                    )
                connection.receive_data(data)
    except h11.RemoteProtocolError as error:  # its text is for programmers; it becomes the cause
        raise HandshakeFailed(f"The proxy {proxy.origin} does not answer as an HTTP proxy; {remedy}.") from error
    if not isinstance(event, h11.Response):
        raise HandshakeFailed(f"The proxy {proxy.origin} does not answer as an HTTP proxy; {remedy}.")
    if not 200 <= event.status_code < 300:
        said = f"{event.status_code} {event.reason.decode('latin-1')}".strip()
        remedy = f"check the user name and password in {proxy.source}" if event.status_code == 407 else "ask its owner"
        # Not as `status`: that is for the venue's.
        raise HandshakeFailed(
            f"The proxy {proxy.origin} refused a connection to {target}: {said}; {remedy}."
        ) from ConnectionRefusedError(said)
    if connection.trailing_data[0]:
        raise HandshakeFailed(f"The proxy {proxy.origin} sent data before it was asked for any.")


async def _ask_socks(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Ask a SOCKS5 proxy for a tunnel (RFC 1928). It gets the name, not an address."""
    library = importlib.import_module("python_socks")
    socks: Any = importlib.import_module(_SOCKS_LIBRARY)
    dialect = socks.Proxy(
        library.ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        username=proxy.username,
        password=None if proxy.username is None else proxy.password,
        rdns=True,
        forward=_Reached(stream),
    )
    try:
        await dialect.connect(host, port, timeout=inf)
    except library.ProxyError as error:
        raise HandshakeFailed(
            f"The proxy {proxy.origin} refused a connection to {host}:{port} ({error}); "
            f"check {proxy.source}, or ask its owner."
        ) from error


class _Reached:
    """The connection to a proxy, in python-socks' form for one that was made elsewhere: a proxy before the proxy."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def connect(self, dest_host: str, dest_port: int) -> _Reached:  # noqa: ARG002 - it is made already
        return self

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = await self._stream.receive_some(count - len(data))
            if not piece:
                raise trio.BrokenResourceError("it closed the connection")
            data += piece
        return data

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


def _root(error: BaseException) -> str:
    """Return briefly what went wrong."""
    while isinstance(error.__cause__, OSError | trio.BrokenResourceError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return system_words(error) if isinstance(error, OSError) and error.strerror else str(error)
