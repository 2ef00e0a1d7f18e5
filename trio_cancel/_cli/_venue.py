"""Where to connect and with what: --url, --ca-file and the environment."""

from __future__ import annotations

import math
import os
import ssl
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError, UsageError, clean, say
from trio_cancel._cli._help import CONNECTION
from trio_cancel._client import DEFAULT_URL, URL_VARIABLE, TradingWS, open_trading_ws
from trio_cancel._engine.rate import Pacer
from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.proxy import Tunnel, choose_proxy
from trio_cancel._net.tls import trusting_context
from trio_cancel._values.errors import ConfigurationError
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import Observer

if TYPE_CHECKING:
    from trio_cancel.lookup import RestLookup

CA_VARIABLE = "TRIO_CANCEL_CA_FILE"
GIVE_UP = 30.0
"""Seconds after its first write for which an order is tried, unless --give-up-after says otherwise."""
NO_PROXY = "none"
"""The word for a direct connection."""

Url = Annotated[
    str | None,
    Parameter(
        name="--url",
        metavar="URL",
        group=CONNECTION,
        help=f"The venue: wss://host:port. Else ${URL_VARIABLE}, else {DEFAULT_URL}.",
    ),
]
CaFile = Annotated[
    str | None,
    Parameter(
        name="--ca-file",
        metavar="FILE",
        group=CONNECTION,
        help=f"Trust the certificates in this PEM file, instead of the system's. Else ${CA_VARIABLE}.",
    ),
]
EnvFile = Annotated[
    str | None,
    Parameter(
        name="--env-file",
        metavar="FILE",
        group=CONNECTION,
        allow_leading_hyphen=True,
        help="Take environment variables from this file, one NAME=VALUE a line; they come before those of the shell.",
    ),
]
Rate = Annotated[
    float | None,
    Parameter(
        name="--rate",
        metavar="NUMBER",
        group=CONNECTION,
        help="Requests a second, at most; else the venue's own limit.",
    ),
]
GiveUpAfter = Annotated[
    float | None,
    Parameter(
        name="--give-up-after",
        metavar="SECONDS",
        group=CONNECTION,
        help=f"How long an order is tried, from its first write on. Else {GIVE_UP:g}.",
    ),
]
NoRetry = Annotated[
    bool,
    Parameter(
        name="--no-retry",
        negative="",
        group=CONNECTION,
        help="Send each cancel once, also if its answer is lost or asks for another.",
    ),
]
Proxy = Annotated[
    str | None,
    Parameter(
        name="--proxy",
        metavar="URL",
        group=CONNECTION,
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
    journal: str | os.PathLike[str] | None = None
    look_up_closed: bool = False
    rate: float | None = None
    give_up_after: float = GIVE_UP
    retry: bool = True

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
            pacer=None if self.rate is None else Pacer(self.rate, 1),
            give_up_after=self.give_up_after,
            retry=self.retry,
        )

    def with_terms(self, rate: float | None, give_up_after: float | None, *, retry: bool) -> Venue:
        """Return it with what --rate, --give-up-after and --no-retry say.

        Raises:
            UsageError: a number makes no sense.
        """
        for name, number, what in (
            ("--rate", rate, "requests a second"),
            ("--give-up-after", give_up_after, "seconds"),
        ):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise UsageError(f"{name} needs a finite number of {what} greater than 0.")
        return attrs.evolve(
            self, rate=rate, give_up_after=GIVE_UP if give_up_after is None else give_up_after, retry=retry
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
    """Return the endpoint of --url, else of the environment, else the venue's.

    Raises:
        ConfigurationError: it cannot be used; the text says whose it is.
    """
    chosen = url if url is not None else os.environ.get(URL_VARIABLE) or DEFAULT_URL
    try:
        return parse_endpoint(chosen)
    except ConfigurationError as error:
        named = "The url of --url" if url is not None else f"The url in the variable {URL_VARIABLE}"
        raise ConfigurationError(str(error).replace("The url", named, 1)) from None


def trust(ca_file: str | None) -> ssl.SSLContext | None:
    """Return a context that trusts ``ca_file`` alone, else the file that the environment names; None for the system's.

    Raises:
        CommandError: it cannot be used.
    """
    called = "--ca-file"
    if ca_file is None:
        called, ca_file = f"variable {CA_VARIABLE}", os.environ.get(CA_VARIABLE) or None
    if ca_file is None:
        return None
    if not ca_file:
        raise UsageError("--ca-file needs the name of a file.")  # an empty one would mean the system's trust
    of = "" if called == "--ca-file" else f" of the {called}"
    try:
        return trusting_context(ca_file)
    except ssl.SSLError:
        raise CommandError(f"The CA file {clean(ca_file)}{of} holds no certificate in PEM form.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise CommandError(f"The CA file {clean(ca_file)}{of} cannot be read: {why}.") from None
