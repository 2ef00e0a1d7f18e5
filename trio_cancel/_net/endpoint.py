"""Where to connect: a WebSocket url, checked and split. No I/O here."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NoReturn
from urllib.parse import SplitResult, quote, urlsplit

import attrs

from trio_cancel._values.errors import ConfigurationError

_DEFAULT_PORTS = {"ws": 80, "wss": 443}
# Characters that may appear unchanged in a request target; everything else is percent-encoded.
_TARGET_SAFE = "/?:@!$&'()*+,;=-._~%[]|"


@attrs.frozen
class Endpoint:
    """A checked WebSocket url."""

    url: str = attrs.field(repr=False)  # as it was given; its query may contain secrets
    secure: bool  # with TLS
    host: str  # name or address to connect to, without brackets; international names in their ASCII form
    port: int
    resource: str = attrs.field(repr=False)  # path and query, ASCII, as they go into the request line
    host_header: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a person may see."""
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}"


def parse_endpoint(url: str, *, allow_insecure: bool = False) -> Endpoint:
    """Check a WebSocket url and split it.

    Args:
        url: ``wss://host[:port][/path][?query]``; ``ws://`` is accepted for loopback addresses only.
        allow_insecure: accept ``ws://`` for any host; the API token is then sent in clear text.

    Returns:
        The endpoint.

    Raises:
        ConfigurationError: the url cannot be used; the text never contains the url's path, query or password.
    """
    if not isinstance(url, str):  # a caller without a type checker
        _refuse(f"it must be a str, not {type(url).__name__}")
    if any(character.isspace() or not character.isprintable() for character in url):
        _refuse("it contains whitespace or control characters; remove them")
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ConfigurationError("The url cannot be used: its host is malformed; write wss://host:port/path.") from exc
    if parts.scheme not in _DEFAULT_PORTS:
        _refuse("its scheme must be wss:// (or ws:// for loopback)")
    if "@" in parts.netloc:
        _refuse("it contains a user name or password; pass credentials=Credentials(...) instead")
    if "#" in url:
        _refuse("it contains a fragment (#...), which a WebSocket url must not have; remove it")
    secure = parts.scheme == "wss"
    host = _host(parts)
    port = _port(parts)
    if not secure and not allow_insecure and not is_loopback(host):
        _refuse("plain ws:// would show the API token to the network; use wss://, or pass allow_insecure=True")
    bracketed = f"[{host}]" if ":" in host else host
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(
        url=url,
        secure=secure,
        host=host,
        port=port,
        resource=quote(resource, safe=_TARGET_SAFE),
        host_header=bracketed if port == _DEFAULT_PORTS[parts.scheme] else f"{bracketed}:{port}",
    )


def _refuse(why: str) -> NoReturn:
    raise ConfigurationError(f"The url cannot be used: {why}.")


def _host(parts: SplitResult) -> str:
    host = parts.hostname
    if not host:
        _refuse("it names no host; write wss://host:port/path")
    if ":" in host:
        if "%" in host:
            _refuse("an IPv6 address with a zone (%...) is not supported; leave the zone out")
        return host  # urlsplit has checked the address between the brackets
    try:
        ascii_host = host.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise ConfigurationError("The url cannot be used: its host is not a valid name.") from exc
    if not all(character.isalnum() or character in "-._" for character in ascii_host):
        _refuse("its host is not a valid name")
    return ascii_host


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError("The url cannot be used: its port must be a number from 1 to 65535.") from exc
    if port == 0 or (port is None and parts.netloc.endswith(":")):
        _refuse("its port must be a number from 1 to 65535")
    return _DEFAULT_PORTS[parts.scheme] if port is None else port


def is_loopback(host: str) -> bool:
    """Return True for the addresses of this machine, and for its name."""
    if host in {"localhost", "localhost."}:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
