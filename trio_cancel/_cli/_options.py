"""The options that several commands share, each declared once. A command's own options are in its module."""

from __future__ import annotations

from collections.abc import Sequence
from re import compile as pattern
from typing import Annotated, Any

from cyclopts import Parameter, Token

from trio_cancel._cli._help import CONNECTION
from trio_cancel._client import DEFAULT_URL, URL_VARIABLE
from trio_cancel._engine.order import RetryPolicy
from trio_cancel.lookup import BASE_URL

CA_VARIABLE = "TRIO_CANCEL_CA_FILE"
REST_VARIABLE = "TRIO_CANCEL_REST_URL"
_DIGITS = pattern(r"[+-]?[0-9]+")


def _whole(_type: Any, tokens: Sequence[Token]) -> int:
    """Return a whole number; cyclopts itself would round 1.5, and Python reads 1_0 as ten."""
    text = tokens[0].value
    if not _DIGITS.fullmatch(text):
        raise ValueError(text)
    return int(text)


WHOLE = Parameter(converter=_whole, metavar="NUMBER")
"""For an option that takes a whole number."""

Ids = Annotated[str, Parameter(name="ID", help="The venue's order ids.")]
ExternalIds = Annotated[
    tuple[str, ...],
    Parameter(metavar="ID", allow_leading_hyphen=True, help="Your own id of an order; may be given more than once."),
]
JournalAddress = Annotated[
    str, Parameter(name="FILE", help="What open_trading_ws(journal=...) was given: a file, or postgresql://....")
]
Json = Annotated[bool, Parameter(help="Print JSON lines on a terminal, too.")]
Url = Annotated[
    str | None,
    Parameter(
        metavar="URL",
        group=CONNECTION,
        help=f"The venue: wss://host:port. Else ${URL_VARIABLE}, else {DEFAULT_URL}.",
    ),
]
CaFile = Annotated[
    str | None,
    Parameter(
        metavar="FILE",
        group=CONNECTION,
        help=f"Trust the certificates in this PEM file, instead of the system's. Else ${CA_VARIABLE}.",
    ),
]
EnvFile = Annotated[
    str | None,
    Parameter(
        metavar="FILE",
        group=CONNECTION,
        allow_leading_hyphen=True,
        help="Read environment variables from this file, one NAME=VALUE per line; they override the shell's.",
    ),
]
Rate = Annotated[
    float | None,
    Parameter(
        metavar="NUMBER", group=CONNECTION, help="At most this many requests a second; else the venue's own limit."
    ),
]
GiveUpAfter = Annotated[
    float | None,
    Parameter(
        metavar="SECONDS",
        group=CONNECTION,
        help=f"How long an order is tried, counted from its first write. Else {RetryPolicy().give_up_after:g}.",
    ),
]
NoRetry = Annotated[
    bool,
    Parameter(group=CONNECTION, help="Send each cancel once, even if its answer is lost or asks for another attempt."),
]
Proxy = Annotated[
    str | None,
    Parameter(
        metavar="URL",
        group=CONNECTION,
        help="Connect through this proxy: http://host:port or socks5://host:port; none for a direct connection. "
        "Else $HTTPS_PROXY or $ALL_PROXY, unless $NO_PROXY names the host.",
    ),
]
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
