"""Where to connect and look orders up, and with what: --url, --ca-file, --rest-url and the environment."""

from __future__ import annotations

import math
import os
import ssl
from contextlib import AbstractAsyncContextManager

import attrs

from trio_cancel._cli._failure import CommandError, UsageError, clean, say, why_of
from trio_cancel._cli._options import CA_VARIABLE, REST_VARIABLE
from trio_cancel._client import (
    DEFAULT_URL,
    URL_VARIABLE,
    OpenJournal,
    TradingWS,
    open_session,
    token_field_of,
)
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._engine.rate import Pacer
from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.names import Names
from trio_cancel._net.proxy import Tunnel, choose_proxy
from trio_cancel._net.tls import trusting_context
from trio_cancel._session.connection import ConnectOptions
from trio_cancel._trio.environment import Environment
from trio_cancel._values.errors import ConfigurationError
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import Observer
from trio_cancel.lookup import BASE_URL, RestLookup

NO_PROXY = "none"
"""The word for a direct connection."""


@attrs.frozen
class Venue:
    """Everything that a session needs, checked."""

    endpoint: Endpoint
    credentials: Credentials
    ssl_context: ssl.SSLContext | None
    dial: Tunnel | None = None
    lookup: RestLookup | None = None
    journal: OpenJournal | None = None
    look_up_closed: bool = False
    rate: float | None = None
    policy: RetryPolicy = attrs.field(factory=RetryPolicy)

    def open(self, observer: Observer | None = None) -> AbstractAsyncContextManager[TradingWS]:
        """Open a session; see :func:`trio_cancel.open_trading_ws`."""
        return open_session(
            ConnectOptions(self.endpoint, self.ssl_context, self.dial),
            self.credentials,
            self.policy,
            Environment(),
            pacer=None if self.rate is None else Pacer(self.rate, 1),
            token_field=token_field_of(None),
            journal=self.journal,
            lookup=self.lookup,
            look_up_closed=self.look_up_closed,
            lookups_by=(self.dial, None),
            observer=observer,
        )

    def with_terms(self, rate: float | None, give_up_after: float | None, *, retry: bool) -> Venue:
        """Return a copy with the values of --rate, --give-up-after and --no-retry."""
        for name, number, what in (
            ("--rate", rate, "requests a second"),
            ("--give-up-after", give_up_after, "seconds"),
        ):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise UsageError(f"{name} needs a finite number of {what} greater than 0.")
        policy = RetryPolicy(retry=retry)
        if give_up_after is not None:
            policy = attrs.evolve(policy, give_up_after=give_up_after)
        return attrs.evolve(self, rate=rate, policy=policy)


def find_venue(url: str | None, ca_file: str | None, proxy: str | None) -> Venue:
    """Return the venue that the options and the environment name."""
    endpoint = find_endpoint(url)
    credentials, context = Credentials.from_env(), trust(ca_file)
    return Venue(endpoint, credentials, context, find_tunnel(endpoint, proxy))


def find_tunnel(endpoint: Endpoint, proxy: str | None, *, quiet: bool = False) -> Tunnel | None:
    """Return the way through the proxy of --proxy or the environment; None for a direct connection.

    A proxy of the environment that cannot be used is reported, unless ``quiet``.
    """
    if proxy == NO_PROXY:
        return None
    choice = choose_proxy(endpoint, True if proxy is None else proxy, os.environ)
    if choice.unused is not None and not quiet:
        say(choice.unused)
    return None if choice.proxy is None else Tunnel(choice.proxy)


def find_endpoint(url: str | None) -> Endpoint:
    """Return the endpoint of --url, or of the environment, or the venue's."""
    chosen = url if url is not None else os.environ.get(URL_VARIABLE) or DEFAULT_URL
    try:
        return parse_endpoint(chosen)
    except ConfigurationError as error:
        named = "The url of --url" if url is not None else f"The url in the variable {URL_VARIABLE}"
        raise ConfigurationError(str(error).replace("The url", named, 1)) from None


def trust(ca_file: str | None) -> ssl.SSLContext | None:
    """Return a context that trusts only ``ca_file``, or the environment's file; None for the system's trust."""
    called = "--ca-file"
    if ca_file is None:
        called, ca_file = f"variable {CA_VARIABLE}", os.environ.get(CA_VARIABLE) or None
    if ca_file is None:
        return None
    if not ca_file:
        raise UsageError("--ca-file needs the name of a file.")  # an empty name would mean the system's trust
    of = "" if called == "--ca-file" else f" of the {called}"
    try:
        return trusting_context(ca_file)
    except ssl.SSLError:
        raise CommandError(f"The CA file {clean(ca_file)}{of} holds no certificate in PEM form.") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"The CA file {clean(ca_file)}{of} cannot be read: {why_of(error)}.") from None


def rest_url_of(rest_url: str | None, endpoint: Endpoint | None) -> str | None:
    """Return the url of --rest-url, or of the environment, or the venue's; None if cancels go to another venue.

    The token must not go to the default venue if --url names another one.
    """
    chosen = rest_url if rest_url is not None else os.environ.get(REST_VARIABLE) or None
    if chosen is None and (endpoint is None or endpoint.origin == parse_endpoint(DEFAULT_URL).origin):
        return BASE_URL
    return chosen


def asked_lookup(look_up: bool, rest_url: str | None, endpoint: Endpoint, proxy: str | None) -> RestLookup | None:
    """Return the lookup of --look-up; None without it."""
    if not look_up:
        if rest_url is not None:
            raise UsageError("--rest-url says where to look orders up: give --look-up as well.")
        return None
    return find_lookup(rest_url, endpoint, proxy)


def find_lookup(rest_url: str | None, endpoint: Endpoint | None, proxy: str | None) -> RestLookup:
    """Return the lookup that the options and the environment name; cancels, if there are any, go to ``endpoint``."""
    url = rest_url_of(rest_url, endpoint)
    if url is None:
        assert endpoint is not None
        raise CommandError(
            f"The REST API of {endpoint.origin} is not known: name it with --rest-url or ${REST_VARIABLE}."
        )
    return lookup_at(url, proxy, quiet=endpoint is not None)


def lookup_at(url: str, proxy: str | None, *, quiet: bool) -> RestLookup:
    """Return the lookup at a url, through the proxy or directly as its own host requires.

    ``quiet`` is for a proxy that is not used: that was reported for the cancels.
    """
    lookup = RestLookup(base_url=url)
    # A proxy is chosen by scheme and host alone, and proxies treat https like wss.
    there = parse_endpoint(url.replace("http", "ws", 1))
    return attrs.evolve(lookup, dial=find_tunnel(there, proxy, quiet=quiet) or Names().connect)
