"""``trio-cancel guard``: watch the journals in a database, and cancel what dead sessions held."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import trio
from cyclopts import Parameter

from trio_cancel._cli import _guard_status
from trio_cancel._cli._env_file import kept_environment, use_env_file
from trio_cancel._cli._failure import CommandError, UsageError, clean, encoded, is_terminal, say, why_of
from trio_cancel._cli._help import CONNECTION
from trio_cancel._cli._options import CaFile, Json
from trio_cancel._cli._records import json_line, text_line
from trio_cancel._cli._stdout import Stdout, write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._cli._venue import lookup_at, trust
from trio_cancel._guard.opening import open_guard
from trio_cancel._trio.signals import cancel_on_signals
from trio_cancel._values.errors import ConfigurationError, Interrupted
from trio_cancel._values.models import SECRET_VARIABLE, TOKEN_VARIABLE, Credentials
from trio_cancel._values.report import CancelReport

PRINTED = 2.0
"""Seconds that the end waits for the reader of the output."""


async def guard(
    database: Annotated[str, Parameter(name="URL", help="The database: postgresql://host/database.")],
    /,
    *,
    credentials: Annotated[
        str | None,
        Parameter(
            metavar="DIR",
            group=CONNECTION,
            help="A folder with a file for each account: RIPIO_API_TOKEN and RIPIO_API_SECRET, as for --env-file.",
        ),
    ] = None,
    ca_file: CaFile = None,
    rest_url: Annotated[
        str | None,
        Parameter(
            metavar="URL",
            group=CONNECTION,
            help="Look up orders that would be unknown or not found, over this REST API of the venue. The token of "
            "every account in the folder is sent there, so all of them must be that venue's.",
        ),
    ] = None,
    status: Annotated[
        bool,
        Parameter(
            help="Only show the state of each journal and each guard, and end. It needs no credentials.",
        ),
    ] = False,
    once: Annotated[bool, Parameter(help="End once each journal was found alive or has been dealt with.")] = False,
    json: Json = False,
) -> int:
    """Watch the journals in a database, and cancel what dead sessions held, until a signal ends it."""
    as_json = json or not is_terminal(sys.stdout)
    if status:
        if once or credentials is not None:
            raise UsageError("--status only looks; leave out --once and --credentials.")
        return await _show_status(database, as_json=as_json)
    if credentials is None:
        raise UsageError("--credentials DIR is missing: a folder with a file for each account.")
    stdout = Stdout()
    everything_off = True
    named: set[str] = set()

    def report(journal: str, taken: CancelReport) -> None:
        nonlocal everything_off
        everything_off = everything_off and not taken.left
        for outcome in taken.outcomes:
            stdout.put(json_line(outcome) if as_json else encoded(sys.stdout, f"{text_line(outcome)}\n"))
        say(f"{clean(journal)}: {len(taken.outcomes)} orders, {len(taken.left)} left")

    def name(journals: tuple[str, ...]) -> None:
        for journal in journals:
            if journal in named:
                continue
            named.add(journal)
            say(f"nobody cancels for the journal {clean(journal)}: no credentials, or its venue cannot be reached")
            if as_json:
                stdout.put(msgspec.json.encode({"journal": journal, "status": "unserved"}) + b"\n")

    async def watch() -> int:
        try:
            async with (
                cancel_on_signals(),
                open_guard(database, accounts, ssl_context=trust(ca_file), lookup=lookup, on_taken=report) as watching,
            ):
                if once:
                    await watching.wait_until_seen_to()
                    name(watching.unserved)
                    return Status.OK if everything_off and not watching.unserved else Status.LEFT
                while True:
                    name(watching.unserved)
                    await trio.sleep(0.5)
        except Interrupted:
            return Status.OK

    accounts = _accounts(credentials)
    lookup = None if rest_url is None else lookup_at(rest_url, None, quiet=True)
    # The reader of the output must not hold up a take-over, so the lines are written in a separate task.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stdout.run)
        result = await watch()
        stdout.close()
        with trio.move_on_after(PRINTED):
            await stdout.ended.wait()
        nursery.cancel_scope.cancel()
    return result


async def _show_status(database: str, *, as_json: bool) -> Status:
    overview = await trio.to_thread.run_sync(_guard_status.look, database, abandon_on_cancel=True)
    if as_json:
        write_stdout(_guard_status.as_json(overview).decode())
    else:
        write_stdout(_guard_status.as_text(overview, shutil.get_terminal_size().columns))
    return _guard_status.status_of(overview)


def _accounts(folder: str) -> list[Credentials]:
    """Return the credentials in a folder's files."""
    try:
        files = sorted(entry.path for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    except (OSError, ValueError) as error:
        raise CommandError(f"The folder {clean(folder)} of --credentials cannot be read: {why_of(error)}.") from None
    if not files:
        raise CommandError(f"The folder {clean(folder)} of --credentials has no file in it; put one there per account.")
    found = []
    for file in files:
        with kept_environment():
            for variable in (TOKEN_VARIABLE, SECRET_VARIABLE):
                for form in (variable, f"{variable}_FILE"):
                    os.environ.pop(form, None)
            use_env_file(file)
            try:
                found.append(Credentials.from_env())
            except ConfigurationError as error:
                said = str(error).partition(", or pass")[0].rstrip(".")
                raise CommandError(f"{clean(Path(file).name)} in {clean(folder)}: {said}.") from None
    return found
