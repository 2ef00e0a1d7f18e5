"""``trio-cancel fault``: switch the faults of a running sandbox, through its side door."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated

import attrs
from cyclopts import Parameter

from trio_cancel._cli._failure import CommandError, UsageError
from trio_cancel._cli._options import CaFile
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import Status
from trio_cancel._cli._venue import trust
from trio_cancel._client import URL_VARIABLE
from trio_cancel.sandbox import Fault, FaultStatus, Point, SandboxControlError, open_sandbox_control

_HITS = {Point.UPGRADE: "connection", Point.REQUEST: "request", Point.CLOSE: "closing"}


@attrs.frozen
class Asked:
    """Faults as a person names them: ``NAME`` hits once, ``NAME=CHANCE`` hits that share of requests from now on."""

    once: list[Fault]
    chances: dict[Fault, float]


async def fault(
    *names: Annotated[
        str,
        Parameter(
            name="NAME", help="drop_after hits the next request; drop_after=0.1 hits a tenth from now on, 0 none."
        ),
    ],
    url: Annotated[
        str | None,
        Parameter(metavar="URL", help=f"The url that the sandbox prints: ws://127.0.0.1:port. Else ${URL_VARIABLE}."),
    ] = None,
    ca_file: CaFile = None,
    order: Annotated[
        str | None,
        Parameter(metavar="ID", help="The id or external id of an order: hit only requests that name it."),
    ] = None,
    clear: Annotated[bool, Parameter(help="First clear all faults, so that the sandbox behaves.")] = False,
) -> int:
    """Make a running sandbox misbehave, from another process; without a NAME, list the available faults."""
    asked = parse_faults(names)
    if order is not None and (asked.chances or not asked.once):
        raise UsageError("--order needs faults that hit once: name them without a chance.")
    where = url or os.environ.get(URL_VARIABLE)
    if not where:
        raise UsageError(f"Which sandbox? Name it with --url or ${URL_VARIABLE}.")
    try:
        async with open_sandbox_control(where, ssl_context=trust(ca_file)) as venue:
            if clear:
                await venue.clear_faults()
            if asked.chances:
                await venue.set_chances(asked.chances)
            if asked.once and order is not None:
                await venue.fault_on(order, *asked.once)
            elif asked.once:
                await venue.fault_on_next(*asked.once)
            text = changes(asked, order, clear=clear) if clear or names else listed(await venue.faults())
    except SandboxControlError as error:
        raise CommandError(str(error)) from error
    write_stdout(text)
    return Status.OK


def parse_faults(names: Iterable[str]) -> Asked:
    """Return the faults that words name."""
    once: list[Fault] = []
    chances: dict[Fault, float] = {}
    for text in names:
        name, equals, chance = text.partition("=")
        try:
            found = Fault(name)
        except ValueError:
            raise UsageError(
                f"There is no fault {name!r}; trio-cancel fault lists those of a running sandbox, such as "
                f"{Fault.DROP_AFTER}, {Fault.SILENT_AFTER} and {Fault.ERROR_503_BEFORE}."
            ) from None
        if not equals:
            once.append(found)
            continue
        try:
            chances[found] = float(chance)
        except ValueError:
            chances[found] = -1.0
        if not 0 <= chances[found] <= 1:
            raise UsageError(f"The chance of {found} must be a number from 0 to 1, not {chance!r}.")
    return Asked(once, chances)


def changes(asked: Asked, order: str | None, *, clear: bool) -> str:
    """Return what was done, one line each."""
    lines = ["all faults are cleared"] if clear else []
    lines += [
        f"{found} hits {chance:g} of all {_HITS[found.point]}s" if chance else f"{found} hits nothing by chance"
        for found, chance in asked.chances.items()
    ]
    for found in asked.once:
        lines.append(f"{found} hits the next {_HITS[found.point] if order is None else f'request for {order}'}")
    return "".join(f"{line}\n" for line in lines)


def listed(status: FaultStatus) -> str:
    """Return a table of all faults."""
    width = max(map(len, Fault))
    lines = [f"{'fault':<{width}}  {'hits a':<10}  chance  fired"]
    for found in Fault:
        chance, fired = status.chances.get(found, 0.0), status.counts.get(found, 0)
        chance_text, fired_text = f"{chance:g}" if chance else "", f"{fired:,}" if fired else ""
        lines.append(f"{found:<{width}}  {_HITS[found.point]:<10}  {chance_text:>6}  {fired_text:>5}".rstrip())
    return "".join(f"{line}\n" for line in lines)
