"""``trio-cancel cancel``: cancel the orders that arguments, a file or stdin name, and report what happened to each.

Every line of input is read and checked before anything is sent. Each outcome is a line on stdout as it arrives: JSON
with ``--json`` or if stdout is not a terminal, otherwise text. Progress, the summary and errors go to stderr.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import attrs
from cyclopts import Group, Parameter

from trio_cancel._cancels.open_orders import QUIET, WITHIN
from trio_cancel._cli._env_file import use_env_file
from trio_cancel._cli._failure import CommandError, UsageError, clean, say
from trio_cancel._cli._input import GivenOrders, read_arguments, read_file
from trio_cancel._cli._open import cancel_open, filter_of, need_answer
from trio_cancel._cli._options import (
    CaFile,
    EnvFile,
    ExternalIds,
    GiveUpAfter,
    Ids,
    Json,
    LookUp,
    NoRetry,
    Proxy,
    Rate,
    RestUrl,
    Url,
)
from trio_cancel._cli._output import Output
from trio_cancel._cli._run import Halt, Run
from trio_cancel._cli._tally import NAMED_MOST, Status
from trio_cancel._cli._venue import Venue, asked_lookup, find_venue
from trio_cancel._client import journal_at
from trio_cancel._journal.address import check_address

OPEN = Group("For open orders (--open)", sort_key=2)


async def cancel(
    *ids: Ids,
    external_id: ExternalIds = (),
    from_: Annotated[
        str | None,
        Parameter(
            name="--from",
            metavar="FILE",
            allow_leading_hyphen=True,
            help="A file (- for stdin): one id per line, a table with a header (CSV), or JSON lines, with id and/or "
            "external_id.",
        ),
    ] = None,
    literal: Annotated[
        bool,
        Parameter(
            help="Take what --from names literally: no comments (#), no missing values (NULL, nan), no column names "
            "but id and external_id.",
        ),
    ] = False,
    skip_bad: Annotated[bool, Parameter(help="Go on without the bad lines; the status is then 1 or more.")] = False,
    json: Json = False,
    url: Url = None,
    ca_file: CaFile = None,
    proxy: Proxy = None,
    env_file: EnvFile = None,
    rate: Rate = None,
    give_up_after: GiveUpAfter = None,
    no_retry: NoRetry = False,
    look_up: LookUp = False,
    rest_url: RestUrl = None,
    journal: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            allow_leading_hyphen=True,
            help="A file that records each cancel before it is sent, and then its outcome: if this run is killed, "
            "trio-cancel resume FILE finishes it. It is created if it is missing.",
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        Parameter(metavar="SECONDS", help="Seconds for the whole run; what is not done by then is reported as it is."),
    ] = None,
    open_: Annotated[
        bool,
        Parameter(
            name="--open",
            group=OPEN,
            help="Cancel what the venue lists as open, no matter who placed it, instead of named orders; needs "
            "--pair, --side or --everything. It keeps listing until nothing new has appeared for a while.",
        ),
    ] = False,
    pair: Annotated[
        str | None, Parameter(metavar="MARKET", group=OPEN, help="Only orders of this market, such as BTC_BRL.")
    ] = None,
    side: Annotated[Literal["buy", "sell"] | None, Parameter(group=OPEN, help="Only buy or only sell orders.")] = None,
    everything: Annotated[bool, Parameter(group=OPEN, help="All open orders of the account.")] = False,
    yes: Annotated[bool, Parameter(group=OPEN, help="Do not ask. Needed without a terminal.")] = False,
    dry_run: Annotated[bool, Parameter(group=OPEN, help="List them once and cancel nothing.")] = False,
    quiet_for: Annotated[
        float | None,
        Parameter(
            metavar="SECONDS",
            group=OPEN,
            help=f"End after this many seconds without anything new; default {QUIET:g}.",
        ),
    ] = None,
) -> int:
    """Cancel orders and report what happened to each."""

    def reached() -> Venue:
        venue = find_venue(url, ca_file, proxy).with_terms(rate, give_up_after, retry=not no_retry)
        lookup = asked_lookup(look_up or open_, rest_url, venue.endpoint, proxy)
        opens = None if journal is None else journal_at(journal, venue.endpoint, venue.credentials)
        return attrs.evolve(venue, journal=opens, lookup=lookup, look_up_closed=look_up)

    use_env_file(env_file)
    if journal == "":
        raise UsageError("--journal needs the name of a file.")
    if journal is not None:
        check_address(journal)
    if deadline is not None and not (math.isfinite(deadline) and deadline > 0):
        raise UsageError("--deadline needs a number of seconds greater than 0.")
    if open_:
        if ids or external_id or from_ is not None or literal or skip_bad:
            raise UsageError("--open cancels what the venue lists: give it without ids, --external-id and --from.")
        meant = filter_of(pair, side, everything)
        quiet = _quiet(quiet_for)
        need_answer(meant, yes=yes or dry_run)
        venue = reached()
        return await cancel_open(venue, meant, quiet=quiet, deadline=deadline, yes=yes, dry_run=dry_run, as_json=json)
    if pair is not None or side is not None or everything or yes or dry_run or quiet_for is not None:
        raise UsageError("--pair, --side, --everything, --yes, --dry-run and --quiet-for belong to --open: add it.")
    found = GivenOrders(literal)
    read_arguments(found, ids, external_id)
    if from_ is not None:
        read_file(found, from_)
    _name_bad(found, skip_bad)
    if not found.requests:
        _name_empty(found, from_)
    venue = reached()
    output = Output(len(found.requests), as_json=json, given=found.given)
    run = Run(venue.open, found.requests, output.report, output.room, Halt(deadline), rate)
    await output.cancel(run)
    return output.summarize(run, skipped=found.bad_lines, left_out=len(found.skipped))


def _quiet(seconds: float | None) -> float:
    if seconds is None:
        return QUIET
    if not 0 < seconds <= WITHIN:
        raise UsageError(f"--quiet-for needs a number of seconds greater than 0, at most {WITHIN:g}.")
    return seconds


def _say_first(entries: Sequence[tuple[str, str]], count: int | None = None) -> None:
    count = len(entries) if count is None else count
    for where, what in entries[:NAMED_MOST]:
        say(f"{where}: {what}")
    if count > NAMED_MOST:
        say(f"and {count - NAMED_MOST:,} more like these")


def _name_empty(found: GivenOrders, name: str | None) -> None:
    """Say that no order was named, and where."""
    if name is None and not found.bad:
        raise UsageError("There is nothing to cancel: give order ids, --external-id, --from FILE or --open.")
    where = "the arguments name" if name is None else "stdin names" if name == "-" else f"the file {clean(name)} names"
    why = "it is empty"
    if found.bad_lines or found.skipped:
        parts = [f"{found.bad_lines:,} bad"] if found.bad_lines else []
        parts += [f"{len(found.skipped):,} skipped (comments, repeated headers)"] if found.skipped else []
        why = f"its lines: {', '.join(parts)}"
    raise CommandError(f"There is nothing to cancel: {where} no order ({why}).", status=Status.NOTHING)


def _name_bad(found: GivenOrders, skip_bad: bool) -> None:
    _say_first(found.bad)
    _say_first([(where, f"{why}; skipped") for where, why in found.skipped[: NAMED_MOST + 1]], len(found.skipped))
    _say_first(found.notes)
    if found.bad and not skip_bad:
        many = found.bad_lines != 1
        raise CommandError(
            f"Nothing was sent: {found.bad_lines:,} bad line{'s' if many else ''}. "
            f"Correct {'them' if many else 'it'}, or go on without {'them' if many else 'it'} with --skip-bad."
        )
