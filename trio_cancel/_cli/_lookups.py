"""Where to look orders up: --rest-url and the environment."""

from __future__ import annotations

import os
from typing import Annotated

import attrs
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError, UsageError
from trio_cancel._cli._help import CONNECTION
from trio_cancel._cli._venue import find_tunnel
from trio_cancel._client import DEFAULT_URL
from trio_cancel._net.endpoint import Endpoint, parse_endpoint
from trio_cancel._net.names import Names
from trio_cancel.lookup import BASE_URL, RestLookup

REST_VARIABLE = "TRIO_CANCEL_REST_URL"

RestUrl = Annotated[
    str | None,
    Parameter(
        metavar="URL",
        group=CONNECTION,
        help=f"The venue's REST API, to look orders up: https://host/path. Else ${REST_VARIABLE}, else {BASE_URL}.",
    ),
]
LookUp = Annotated[
    bool,
    Parameter(
        group=CONNECTION,
        help="Look up over REST what would be unknown or not found, and how much of closed orders was executed.",
    ),
]


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
