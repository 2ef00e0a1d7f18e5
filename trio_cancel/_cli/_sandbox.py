"""``trio-cancel sandbox``: serve an exchange on the loopback interface until interrupted."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

import trio
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError
from trio_cancel._cli._orders import check_orders, need_trustme, place_orders
from trio_cancel._cli._run import Halt, hear_signals
from trio_cancel._cli._stdout import why_of, write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_FIELD_VARIABLE, TOKEN_FIELDS, TOKEN_VARIABLE
from trio_cancel.sandbox import Sandbox, open_sandbox
from trio_cancel.sandbox._certificate import NoCertificate

REMEDY = "set TMPDIR to a folder that can be written"
SHOWN = 3
"""Ids that are printed; all are in a file."""
LOG_KEPT = 10_000
"""Requests that its log keeps: it may run for days."""


async def sandbox(
    *,
    port: Annotated[int, Parameter(help="The port to listen on; 0 takes a free one.")] = 0,
    rest_port: Annotated[int, Parameter(help="The port of its REST API, for lookups; 0 takes a free one.")] = 0,
    orders: Annotated[int, Parameter(help="Open orders on its book.")] = 10,
    tls: Annotated[bool, Parameter(negative="", help="Speak TLS, with a certificate made on the spot.")] = False,
    dialect: Annotated[
        Literal["page", "openapi"],
        Parameter(help="Answer as the venue's page of order.cancel says, or as its OpenAPI text does."),
    ] = "page",
    token_field: Annotated[
        Literal["api_token", "apiToken"], Parameter(help="The name under which requests must carry the token.")
    ] = "api_token",  # noqa: S107 - the name of a field, not a token
) -> int:
    """Serve an exchange to try things on, on the loopback interface, until interrupted.

    It prints its urls, its credentials, some order ids and commands that cancel them and look them up.
    """
    for name, number in (("--port", port), ("--rest-port", rest_port)):
        if not 0 <= number <= 65535:
            raise CommandError(f"{name} needs a number from 0 to 65535.")
    check_orders(orders, least=0)
    if tls:
        need_trustme()
    halt = Halt()
    async with hear_signals(halt) as nursery:
        with halt.scope, _folder() as folder:
            async with AsyncExitStack() as stack:
                try:
                    venue = await stack.enter_async_context(
                        open_sandbox(
                            port=port,
                            rest_port=rest_port,
                            tls=tls,
                            dialect=dialect,
                            token_field=token_field,
                            log_limit=LOG_KEPT,
                        )
                    )
                except OSError as error:
                    ports = " or ".join(str(number) for number in (port, rest_port) if number) or "0"
                    raise CommandError(f"Port {ports} cannot be used: {error.strerror or error}.") from error
                except NoCertificate as error:
                    raise CommandError(str(error)) from error
                try:
                    text = describe(venue, folder, place_orders(venue, orders), token_field)
                except OSError as error:
                    raise CommandError(f"No file can be written to {folder} ({why_of(error)}); {REMEDY}.") from error
                write_stdout(text)
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    return Status.OK


@contextmanager
def _folder() -> Generator[Path]:
    """Make a folder for the sandbox's files, which is gone afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="trio-cancel-sandbox-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CommandError(f"No temporary folder can be made ({why_of(error)}); {REMEDY}.") from error
    with folder as name:
        yield Path(name)


def describe(venue: Sandbox, folder: Path, ids: Sequence[str], token_field: str = TOKEN_FIELDS[0]) -> str:
    """Return what a person needs to use the sandbox; write the files that it names."""
    trust: list[str] = []
    lines = [
        f"The sandbox exchange listens at {venue.url}",
        f"  REST    {venue.rest_url}",
        f"  token   {venue.credentials.api_token}",
        f"  secret  {venue.credentials.api_secret}",
    ]
    if venue.ca_pem is not None:
        ca_file = folder / "ca.pem"
        venue.write_ca(ca_file)
        lines.append(f"  CA      {ca_file}")
        trust = ["--ca-file", str(ca_file)]
    command = [*program(), "cancel", "--url", venue.url, *trust]
    if ids:
        ids_file = folder / "ids.txt"
        ids_file.write_text("".join(f"{order_id}\n" for order_id in ids))
        lines += ["", f"{len(ids)} open order{'s' if len(ids) != 1 else ''} (all in {ids_file}):"]
        lines += [f"  {order_id}" for order_id in ids[:SHOWN]]
        lines += [f"  and {len(ids) - SHOWN} more"] if len(ids) > SHOWN else []
        lines += ["", "Cancel one of them:", "", *_pasted(venue, [*command, ids[0]], token_field)]
        lines += ["", "Cancel them all:", "", *_pasted(venue, [*command, "--from", str(ids_file)], token_field)]
        show = [*program(), "show", "--rest-url", venue.rest_url, *trust, ids[0]]
        lines += ["", "Look up what became of the first:", "", *_pasted(venue, show, token_field)]
    else:
        lines += ["", "Its book is empty; see what it says to a cancel:", ""]
        lines += _pasted(venue, [*command, "no-such-order"], token_field)
    return "\n".join([*lines, "", "It serves until Ctrl-C.", ""])


def program() -> list[str]:
    """Return the words that run this very program: ``trio-cancel`` only if that is what the shell would find."""
    found = shutil.which("trio-cancel")
    if found is not None and Path(found).resolve().parent == Path(sys.executable).parent.resolve():
        return ["trio-cancel"]
    return [sys.executable, "-m", "trio_cancel"]


def _pasted(venue: Sandbox, words: Sequence[str], token_field: str) -> list[str]:
    """Return a command for a shell, credentials included, in lines that end in a backslash."""
    credentials = venue.credentials
    pieces = [
        f"{TOKEN_VARIABLE}={shlex.quote(credentials.api_token)} {SECRET_VARIABLE}={shlex.quote(credentials.api_secret)}"
    ]
    if token_field != TOKEN_FIELDS[0]:
        pieces.append(f"{TOKEN_FIELD_VARIABLE}={token_field}")
    start = len(program()) + 1
    pieces.append(shlex.join(words[:start]))
    rest = list(words[start:])
    while rest:
        count = 2 if rest[0].startswith("--") else 1
        pieces.append(shlex.join(rest[:count]))
        del rest[:count]
    return [f"  {pieces[0]} \\", *[f"    {piece} \\" for piece in pieces[1:-1]], f"    {pieces[-1]}"]
