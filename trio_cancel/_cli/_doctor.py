"""``trio-cancel doctor``: check the way to the venue, the clock and the credentials, one line per check."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import msgspec
from cyclopts import Parameter

from trio_cancel._cli._checks import Check, Result, examine, examine_rest
from trio_cancel._cli._env_file import use_env_file
from trio_cancel._cli._failure import clean, is_dumb, is_terminal, shell_words
from trio_cancel._cli._options import CaFile, EnvFile, Proxy, RestUrl, Url
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._cli._venue import find_endpoint, find_tunnel, lookup_at, rest_url_of, trust
from trio_cancel._values.errors import ConfigurationError
from trio_cancel.lookup import RestLookup

_COLOURS = {Result.OK: 32, Result.WARNING: 33, Result.FAILED: 31, Result.SKIPPED: 2}


async def doctor(
    *,
    url: Url = None,
    ca_file: CaFile = None,
    proxy: Proxy = None,
    env_file: EnvFile = None,
    rest_url: RestUrl = None,
    json: Annotated[bool, Parameter(help="Print a JSON object for each check.")] = False,
) -> int:
    """Check the way to the venue, the clock and the credentials, one line per check. No order is touched."""
    use_env_file(env_file)
    endpoint, ssl_context = find_endpoint(url), trust(ca_file)
    tunnel = find_tunnel(endpoint, proxy)
    results: list[Result] = []
    coloured = is_terminal(sys.stdout) and not is_dumb()

    def report(check: Check) -> None:
        results.append(check.result)
        put(_json_line(check) if json else _text_line(check, coloured))

    def put(text: str) -> None:
        with suppress(BrokenPipeError):  # its reader has stopped reading; the status still says how the checks went
            write_stdout(text)

    if not json:
        through = "" if tunnel is None else f" through the proxy {tunnel.proxy.origin} ({tunnel.proxy.source})"
        put(f"{endpoint.origin}{shell_words(through)}\n")
    base_url = rest_url_of(rest_url, endpoint)
    lookup: RestLookup | None = None
    skipped: Check | None = None
    if base_url is not None:
        try:
            lookup = lookup_at(base_url, proxy, quiet=True)
        except ConfigurationError as error:
            if rest_url is not None:
                raise
            skipped = Check("rest", Result.SKIPPED, shell_words(str(error)))
    await examine(endpoint, ssl_context, report, tunnel)
    if skipped is not None:
        report(skipped)
    if lookup is not None:
        await examine_rest(lookup, ssl_context, report)
    return Status.LEFT if Result.FAILED in results else Status.OK


def _json_line(check: Check) -> str:
    record = {"check": check.name, "result": check.result, "detail": check.detail, **check.figures}
    return msgspec.json.encode(record).decode() + "\n"


def _text_line(check: Check, coloured: bool) -> str:
    word = f"{check.result:<8}"
    if coloured:
        word = f"\033[{_COLOURS[check.result]}m{word}\033[0m"
    return f"{word} {check.name:<12} {clean(check.detail)}\n"
