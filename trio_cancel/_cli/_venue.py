"""Where to connect and with what: --url, --ca-file and the environment."""

from __future__ import annotations

import math
import os
import ssl
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import attrs

from trio_cancel._cli._failure import CommandError, UsageError, clean, say, why_of
from trio_cancel._cli._options import CA_VARIABLE
from trio_cancel._client import (
    DEFAULT_URL,
    URL_VARIABLE,
    OpenJournal,
    TradingWS,
    journal_at,
    open_session,
    token_field_of,
)
from trio_cancel._engine.order import RetryPolicy
from trio_cancel._engine.rate import Pacer
from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.proxy import Tunnel, choose_proxy
from trio_cancel._net.tls import trusting_context
from trio_cancel._session.connection import ConnectOptions
from trio_cancel._trio.environment import Environment
from trio_cancel._values.errors import ConfigurationError
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import Observer

if TYPE_CHECKING:
    from trio_cancel.lookup import RestLookup

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

    def with_journal(self, address: str | None) -> Venue:
        """Return it with the journal of --journal, if there is one."""
        return (
            self
            if address is None
            else attrs.evolve(self, journal=journal_at(address, self.endpoint, self.credentials))
        )


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
