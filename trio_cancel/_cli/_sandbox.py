"""``trio-cancel sandbox``: run an exchange on the loopback interface until interrupted, or while a command runs."""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Literal

import attrs
import trio
from cyclopts import Parameter

from trio_cancel._cli._child import SIGNALLED, Relay
from trio_cancel._cli._failure import CommandError, UsageError, counted, why_of
from trio_cancel._cli._fault import Asked, parse_faults
from trio_cancel._cli._options import WHOLE
from trio_cancel._cli._orders import check_orders, need_trustme, place_orders
from trio_cancel._cli._run import Halt, hear_signals
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._cli._variables import OTHERS, as_json, as_lines, check_files, variables, written
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_FIELD_VARIABLE, TOKEN_FIELDS, TOKEN_VARIABLE
from trio_cancel.sandbox import Fault, Faults, Point, Sandbox, SandboxOptions, open_sandbox
from trio_cancel.sandbox._certificate import NoCertificate

REMEDY = "set TMPDIR to a folder that can be written"
SHOWN = 3
"""How many ids are printed; all of them are in a file."""
CA_NAME = "ca.pem"
SKEW_MOST = 1e9
LOG_KEPT = 10_000
"""How many requests its log keeps: it may run for days."""


async def sandbox(
    *command: Annotated[
        str,
        Parameter(
            name="COMMAND",
            help="After --: run this with the variables set; the sandbox ends when it does, with its exit status.",
        ),
    ],
    port: Annotated[int, WHOLE, Parameter(help="The port to listen on; 0 for a free one.")] = 0,
    rest_port: Annotated[int, WHOLE, Parameter(help="The port of its REST API, for lookups; 0 for a free one.")] = 0,
    orders: Annotated[int, WHOLE, Parameter(help="The number of open orders on its book.")] = 10,
    tls: Annotated[bool, Parameter(help="Use TLS, with a certificate made on the spot.")] = False,
    env_file: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            help="Write the variables to this file as NAME=value lines, once it listens; removed at the end.",
        ),
    ] = None,
    json_file: Annotated[str | None, Parameter(metavar="FILE", help="The same, as a JSON object.")] = None,
    rate: Annotated[
        float | None, Parameter(metavar="NUMBER", help="Requests per second; beyond that it refuses with 429.")
    ] = None,
    delay: Annotated[
        str,
        Parameter(metavar="SECONDS", help="Seconds that it takes for a request: 0.02, or 0.01-0.05 drawn for each."),
    ] = "0",
    fault: Annotated[
        list[str] | None,
        Parameter(
            metavar="NAME",
            help="Misbehave: drop_after hits the next request, drop_after=0.1 a tenth of them. May be given again. "
            "trio-cancel fault switches faults while it runs, and lists them.",
        ),
    ] = None,
    seed: Annotated[int | None, WHOLE, Parameter(help="Make ids, delays and faults the same in each run.")] = None,
    skew: Annotated[
        float, Parameter(metavar="SECONDS", help="Seconds by which its clock is ahead; negative for behind.")
    ] = 0.0,
    dialect: Annotated[
        Literal["page", "openapi"],
        Parameter(help="Answer as the venue's page on order.cancel says, or as its OpenAPI text does."),
    ] = "page",
    token_field: Annotated[
        Literal["api_token", "apiToken"], Parameter(help="The name under which requests must carry the token.")
    ] = "api_token",  # noqa: S107 - the name of a field, not a token
) -> int:
    """Run an exchange for trying things out, on the loopback interface, until interrupted or while a command runs."""
    asked = parse_faults(fault or ())
    options: SandboxOptions = {
        "port": _port("--port", port),
        "rest_port": _port("--rest-port", rest_port),
        "tls": tls,
        "rate": _rate(rate),
        "delay": _delay(delay),
        "faults": _faults(asked),
        "seed": seed,
        "clock_skew": _skew(skew),
        "dialect": dialect,
        "token_field": token_field,
        "log_limit": LOG_KEPT,
    }
    check_orders(orders, least=0)
    if tls:
        need_trustme()
    files = check_files({"--env-file": env_file, "--json-file": json_file})
    if command:
        relay = Relay()
        status: int = Status.OK
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.listen)
            with relay.scope:
                async with _served(options, orders, asked, files) as served:
                    status = await relay.run(command, served.environment())
            nursery.cancel_scope.cancel()
        return status if relay.signum is None else SIGNALLED + relay.signum
    halt = Halt()
    async with hear_signals(halt):
        with halt.scope:
            async with _served(options, orders, asked, files) as served:
                write_stdout(served.described())
                await trio.sleep_forever()
    return Status.OK


@attrs.frozen
class _OpenSandbox:
    """A listening sandbox with orders on its book, and how to reach it."""

    venue: Sandbox
    folder: Path
    ids: list[str]
    token_field: str
    ca_file: Path | None

    @property
    def variables(self) -> dict[str, str]:
        """What a program needs in its environment to use it."""
        return variables(self.venue, self.ids, self.token_field, self.ca_file)

    def environment(self) -> dict[str, str]:
        """Return the environment for a program that should use it."""
        ours = {name: value for name, value in os.environ.items() if name not in OTHERS}
        return ours | self.variables

    def described(self) -> str:
        """Return a description for a person who wants to use it; write the file with all ids that it names."""
        venue, ids = self.venue, self.ids
        trust = [] if self.ca_file is None else ["--ca-file", str(self.ca_file)]
        lines = [
            f"The sandbox exchange listens at {venue.url}",
            f"  REST    {venue.rest_url}",
            f"  token   {venue.credentials.api_token}",
            f"  secret  {venue.credentials.api_secret}",
            *([] if self.ca_file is None else [f"  CA      {self.ca_file}"]),
        ]
        command = [*program(), "cancel", "--url", venue.url, *trust]
        if ids:
            ids_file = self.folder / "ids.txt"
            with _writes_to(self.folder):
                ids_file.write_text("".join(f"{order_id}\n" for order_id in ids))
            lines += ["", f"{counted(len(ids), 'open order')} (all in {ids_file}):"]
            lines += [f"  {order_id}" for order_id in ids[:SHOWN]]
            lines += [f"  and {len(ids) - SHOWN} more"] if len(ids) > SHOWN else []
            lines += ["", "Cancel one of them:", "", *self._pasted([*command, ids[0]])]
            lines += ["", "Cancel them all:", "", *self._pasted([*command, "--from", str(ids_file)])]
            if importlib.util.find_spec("httpcore2") is not None:  # otherwise it could only name the missing extra
                show = [*program(), "show", "--rest-url", venue.rest_url, *trust, ids[0]]
                lines += ["", "Look up what happened to the first:", "", *self._pasted(show)]
        else:
            lines += ["", "Its book is empty; see how it answers a cancel:", ""]
            lines += self._pasted([*command, "no-such-order"])
        faulty = shlex.join([*program(), "fault", "--url", venue.url, *trust, str(Fault.DROP_AFTER)])
        lines += ["", "Make it misbehave (it cancels, and its answer is lost):", "", f"  {faulty}"]
        return "\n".join([*lines, "", "It serves until Ctrl-C.", ""])

    def _pasted(self, words: Sequence[str]) -> list[str]:
        """Return a command for a shell, credentials included, in lines that end in a backslash."""
        credentials = self.venue.credentials
        token, secret = shlex.quote(credentials.api_token), shlex.quote(credentials.api_secret)
        pieces = [f"{TOKEN_VARIABLE}={token} {SECRET_VARIABLE}={secret}"]
        if self.token_field != TOKEN_FIELDS[0]:
            pieces.append(f"{TOKEN_FIELD_VARIABLE}={self.token_field}")
        start = len(program()) + 1
        pieces.append(shlex.join(words[:start]))
        rest = list(words[start:])
        while rest:
            count = 2 if rest[0].startswith("--") else 1
            pieces.append(shlex.join(rest[:count]))
            del rest[:count]
        return [f"  {pieces[0]} \\", *[f"    {piece} \\" for piece in pieces[1:-1]], f"    {pieces[-1]}"]


@asynccontextmanager
async def _served(
    options: SandboxOptions, orders: int, asked: Asked, files: Mapping[str, Path]
) -> AsyncGenerator[_OpenSandbox]:
    """Run a sandbox with orders on its book; write the files that point to it, and remove them at the end."""
    with _folder() as folder:
        async with AsyncExitStack() as stack:
            try:
                venue = await stack.enter_async_context(open_sandbox(**options))
            except OSError as error:
                ports = " or ".join(str(number) for name in ("port", "rest_port") if (number := options.get(name)))
                raise CommandError(f"Port {ports or 0} cannot be used: {error.strerror or error}.") from error
            except NoCertificate as error:
                raise CommandError(str(error)) from error
            for found in asked.once:
                {
                    Point.UPGRADE: venue.fault_on_upgrade,
                    Point.REQUEST: venue.fault_on_request,
                    Point.CLOSE: venue.fault_on_close,
                }[found.point](found)
            ca_file = None
            if venue.ca_pem is not None:
                ca_file = folder / CA_NAME
                with _writes_to(folder):
                    venue.write_ca(ca_file)
            served = _OpenSandbox(venue, folder, place_orders(venue, orders), options["token_field"], ca_file)
            for option, path in files.items():
                text = (as_json if option == "--json-file" else as_lines)(served.variables)
                stack.enter_context(written(option, path, text))
            yield served


def _port(option: str, number: int) -> int:
    if not 0 <= number <= 65535:
        raise UsageError(f"{option} needs a number from 0 to 65535.")
    return number


def _rate(rate: float | None) -> float | None:
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"--rate needs a number of requests per second, more than 0, not {rate:g}.")
    return rate


def _delay(text: str) -> float | tuple[float, float]:
    least, dash, most = text.partition("-")
    try:
        first = float(least)
        last = float(most) if dash else first
    except ValueError:
        first, last = 1.0, 0.0
    if not 0 <= first <= last < math.inf:
        raise UsageError(f"--delay needs seconds, such as 0.02 or 0.01-0.05, not {text!r}.")
    return (first, last) if dash else first


def _skew(seconds: float) -> int:
    if not abs(seconds) <= SKEW_MOST:
        raise UsageError(f"--skew needs a number of seconds, at most {SKEW_MOST:,.0f} either way, not {seconds:g}.")
    return round(seconds * 1000)


def _faults(asked: Asked) -> Faults:
    try:
        return Faults(asked.chances)
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from None


@contextmanager
def _writes_to(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"No file can be written to {folder} ({why_of(error)}); {REMEDY}.") from error


@contextmanager
def _folder() -> Generator[Path]:
    """Make a temporary folder for the sandbox's files."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="trio-cancel-sandbox-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CommandError(f"No temporary folder can be made ({why_of(error)}); {REMEDY}.") from error
    with folder as name:
        yield Path(name)


def program() -> list[str]:
    """Return the words that run this program: ``trio-cancel`` only if that is what the shell would find."""
    found = shutil.which("trio-cancel")
    if found is not None and Path(found).resolve().parent == Path(sys.executable).parent.resolve():
        return ["trio-cancel"]
    return [sys.executable, "-m", "trio_cancel"]
