"""``trio-cancel cancel``: cancel the orders that arguments, a file or stdin name, and tell what became of each.

Every line of input is read and checked before anything is sent. Each outcome is a line on stdout as it comes: JSON
with ``--json`` or when stdout is no terminal, else text. Progress, the summary and errors go to stderr.
"""

from __future__ import annotations

import math
from typing import Annotated

import attrs
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError, say
from trio_cancel._cli._input import Input, read_arguments, read_file
from trio_cancel._cli._lookups import LookUp, RestUrl, asked_lookup
from trio_cancel._cli._output import Output
from trio_cancel._cli._run import Halt, Run
from trio_cancel._cli._venue import CaFile, Proxy, Url, find_venue


async def cancel(
    *ids: Annotated[str, Parameter(name="ID", help="The venue's order ids.")],
    external_id: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Your own id of an order; may be given several times.", allow_leading_hyphen=True),
    ] = (),
    from_: Annotated[
        str | None,
        Parameter(
            name="--from",
            allow_leading_hyphen=True,
            help="A file (- for stdin): one id a line, a table with a header (CSV), or JSON lines, with id and/or "
            "external_id.",
        ),
    ] = None,
    literal: Annotated[
        bool,
        Parameter(
            negative="",
            help="Take what --from names as it stands: no comments (#), no missing values (NULL, nan), no names of "
            "columns but id and external_id.",
        ),
    ] = False,
    skip_bad: Annotated[
        bool, Parameter(negative="", help="Go on without the lines that are bad; the status is 1 or more.")
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="Print JSON lines also on a terminal.")] = False,
    url: Url = None,
    ca_file: CaFile = None,
    proxy: Proxy = None,
    look_up: LookUp = False,
    rest_url: RestUrl = None,
    journal: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="A file in which each cancel stands before it is sent, and then its outcome: if this run is killed, "
            "trio-cancel resume FILE does the rest. It is made if it is missing.",
        ),
    ] = None,
    deadline: Annotated[
        float | None, Parameter(help="Seconds for the whole run; what is not done then is told as it stands.")
    ] = None,
) -> int:
    """Cancel orders and tell what became of each.

    Exit status: 0 every order was canceled or already closed; 1 at least one was not found, rejected or not sent, or a
    line of the input was skipped (a bad one, a comment, a repeated header);
    3 at least one is unknown; 2 usage, credentials, or everything was refused for the signature; 130 interrupted by
    Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    if deadline is not None and not (math.isfinite(deadline) and deadline > 0):
        raise CommandError("--deadline needs a number of seconds greater than 0.")
    found = Input(literal)
    read_arguments(found, ids, external_id)
    if from_ is not None:
        read_file(found, from_)
    _name_bad(found, skip_bad)
    if not found.requests:
        raise CommandError("There is nothing to cancel: give order ids, --external-id or --from FILE.")
    venue = find_venue(url, ca_file, proxy)
    venue = attrs.evolve(venue, lookup=asked_lookup(look_up, rest_url, venue.endpoint), journal=journal)
    output = Output(found.total, as_json=json)
    run = Run(venue.open, found.requests, output.tell, output.room, Halt(deadline))
    await output.cancel(run)
    return output.summarize(run, skipped=found.bad_lines, left_out=len(found.skipped))


def _name_bad(found: Input, skip_bad: bool) -> None:
    for where, why in found.bad:
        say(f"{where}: {why}")
    for where, why in found.skipped:
        say(f"{where}: {why}; skipped")
    for where, what in found.notes:
        say(f"{where}: {what}")
    if found.bad and not skip_bad:
        many = found.bad_lines != 1
        raise CommandError(
            f"Nothing was sent: {found.bad_lines} bad line{'s' if many else ''}. "
            f"Correct {'them' if many else 'it'}, or go on without {'them' if many else 'it'} with --skip-bad."
        )
