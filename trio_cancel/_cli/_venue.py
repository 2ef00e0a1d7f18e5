"""Where to connect and with what: --url, --ca-file and the environment."""

from __future__ import annotations

import os
import ssl
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError, clean, say
from trio_cancel._client import DEFAULT_URL, URL_VARIABLE, TradingWS, open_trading_ws
from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.proxy import Tunnel, choose_proxy
from trio_cancel._net.tls import trusting_context
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import Observer

if TYPE_CHECKING:
    from trio_cancel.lookup import RestLookup

NO_PROXY = "none"
"""The word for a direct connection."""

Url = Annotated[
    str | None,
    Parameter(name="--url", help=f"The venue: wss://host:port. Else ${URL_VARIABLE}, else {DEFAULT_URL}."),
]
CaFile = Annotated[
    str | None,
    Parameter(name="--ca-file", help="Trust the certificates in this PEM file, instead of the system's."),
]
Proxy = Annotated[
    str | None,
    Parameter(
        name="--proxy",
        help="Connect through this proxy: http://host:port or socks5://host:port; none for a direct connection. "
        "Else $HTTPS_PROXY or $ALL_PROXY, unless $NO_PROXY names the host.",
    ),
]


@attrs.frozen
class Venue:
    """Everything that a session needs, checked."""

    endpoint: Endpoint
    credentials: Credentials
    ssl_context: ssl.SSLContext | None
    dial: Tunnel | None = None
    lookup: RestLookup | None = None
    journal: str | None = None
    look_up_closed: bool = False

    def open(self, observer: Observer | None = None) -> AbstractAsyncContextManager[TradingWS]:
        """Open a session; see :func:`trio_cancel.open_trading_ws`."""
        return open_trading_ws(
            self.endpoint.url,
            credentials=self.credentials,
            ssl_context=self.ssl_context,
            dial=self.dial,
            proxy=None,
            observer=observer,
            lookup=self.lookup,
            look_up_closed=self.look_up_closed,
            journal=self.journal,
        )


def find_venue(url: str | None, ca_file: str | None, proxy: str | None) -> Venue:
    """Return the venue that the options and the environment name.

    Raises:
        ConfigurationError: the url, the proxy or the credentials cannot be used.
        CommandError: the CA file cannot be used.
    """
    endpoint = find_endpoint(url)
    credentials, context = Credentials.from_env(), trust(ca_file)
    return Venue(endpoint, credentials, context, find_tunnel(endpoint, proxy))


def find_tunnel(endpoint: Endpoint, proxy: str | None, *, quiet: bool = False) -> Tunnel | None:
    """Return the way through the proxy of --proxy or the environment, None for a direct connection.

    A proxy of the environment that cannot be used is told, unless ``quiet``.

    Raises:
        ConfigurationError: --proxy cannot be used.
    """
    if proxy == NO_PROXY:
        return None
    choice = choose_proxy(endpoint, True if proxy is None else proxy, os.environ)
    if choice.unused is not None and not quiet:
        say(choice.unused)
    return None if choice.proxy is None else Tunnel(choice.proxy)


def find_endpoint(url: str | None) -> Endpoint:
    """Return the endpoint of --url, else of the environment, else the venue's."""
    return parse_endpoint(url if url is not None else os.environ.get(URL_VARIABLE) or DEFAULT_URL)


def trust(ca_file: str | None) -> ssl.SSLContext | None:
    """Return a context that trusts ``ca_file`` alone; None for the system's trust."""
    if ca_file is None:
        return None
    if not ca_file:
        raise CommandError("--ca-file needs the name of a file.")  # an empty one would mean the system's trust
    try:
        return trusting_context(ca_file)
    except ssl.SSLError:
        raise CommandError(f"The CA file {clean(ca_file)} holds no certificate in PEM form.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise CommandError(f"The CA file {clean(ca_file)} cannot be read: {why}.") from None
