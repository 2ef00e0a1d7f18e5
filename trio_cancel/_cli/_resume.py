"""``trio-cancel resume``: cancel what a dead process left held or unsettled in its journal, and report what happened.

The library decides what is canceled and what an answer means for it (``_cancels.resuming``), as for ``ws.resume()``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import attrs
import msgspec
from cyclopts import Parameter

from trio_cancel._cancels.resuming import Resumption, why_old
from trio_cancel._cli._env_file import use_env_file
from trio_cancel._cli._failure import CommandError, clean, say
from trio_cancel._cli._help import CONNECTION
from trio_cancel._cli._options import (
    CaFile,
    EnvFile,
    GiveUpAfter,
    JournalAddress,
    Json,
    LookUp,
    NoRetry,
    Proxy,
    Rate,
    RestUrl,
)
from trio_cancel._cli._output import Output
from trio_cancel._cli._run import Halt, Run
from trio_cancel._cli._tally import Status
from trio_cancel._cli._venue import Venue, asked_lookup, find_tunnel, trust
from trio_cancel._client import TradingWS
from trio_cancel._journal.address import check_address, shown
from trio_cancel._journal.opening import open_journal
from trio_cancel._journal.reading import read_journal
from trio_cancel._journal.resume import Plan, plan_resume
from trio_cancel._journal.store import Account
from trio_cancel._journal.stores import is_missing
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._values.models import Credentials
from trio_cancel._values.observer import Observer
from trio_cancel._values.outcomes import NotSent, Outcome


async def resume(
    journal: JournalAddress,
    /,
    *,
    missing_ok: Annotated[
        bool, Parameter(help="Status 0 if there is no such journal yet: the bot has never run.")
    ] = False,
    url: Annotated[
        str | None, Parameter(metavar="URL", group=CONNECTION, help="The venue, instead of the one in the journal.")
    ] = None,
    ca_file: CaFile = None,
    proxy: Proxy = None,
    env_file: EnvFile = None,
    rate: Rate = None,
    give_up_after: GiveUpAfter = None,
    no_retry: NoRetry = False,
    look_up: LookUp = False,
    rest_url: RestUrl = None,
    old_external_ids: Annotated[
        bool,
        Parameter(help="Also cancel by external ids older than an hour, which may name newer orders."),
    ] = False,
    json: Json = False,
) -> int:
    """Cancel every order that a dead process left held or unsettled, and report what happened to each."""
    use_env_file(env_file)
    check_address(journal)
    if missing_ok and is_missing(journal):
        say(f"there is no journal at {clean(shown(journal))} yet: nothing was left")
        return Status.OK
    contents = read_journal(journal)
    now = time.time()
    plan = plan_resume(contents.left, now, old_external_ids=old_external_ids)
    if not plan.cancels and not plan.old:
        say("nothing was left")
        return Status.OK
    endpoint = parse_endpoint(contents.url if url is None else url)
    credentials = Credentials.from_env()
    venue = Venue(
        endpoint,
        credentials,
        trust(ca_file),
        find_tunnel(endpoint, proxy),
        asked_lookup(look_up, rest_url, endpoint, proxy),
        # The journal is the account's under the url that it was written with, wherever the venue is reached now.
        partial(open_journal, journal, Account(contents.url, credentials), warns=False),
        look_up,
    ).with_terms(rate, give_up_after, retry=not no_retry)
    failed = False

    @asynccontextmanager
    async def open_session(observer: Observer) -> AsyncGenerator[TradingWS]:
        nonlocal failed
        async with venue.open(observer) as ws:
            # Only now is it certain that nobody else is writing it.
            if ws.left_behind != contents.left:
                raise CommandError("The journal has changed since it was read: its process was alive. Run it again.")
            yield ws
            failed = ws.journal_failed

    output = Output(len(plan.cancels) + len(plan.old), as_json=json)
    for order in plan.old:
        why = why_old(order.known_at, now, "--old-external-ids")
        output.report(NotSent(order.request, cause=why), 1)
    requests = {planned.request: planned for planned in plan.cancels}

    def report(outcome: Outcome, places: int) -> None:
        output.report(msgspec.structs.replace(outcome, request=requests[outcome.request].name), places)

    run = _Resume(open_session, dict.fromkeys(requests, 1), report, output.room, Halt(), rate, plan=plan)
    await output.cancel(run)
    if failed:
        say("the journal could not record all of it; once it can be written, run this again")
    return output.summarize(run)


@attrs.define(eq=False)
class _Resume(Run):
    """A run that gives the creates of held orders time to arrive."""

    plan: Plan = attrs.field(kw_only=True)
    _resumption: Resumption | None = attrs.field(default=None, init=False)

    async def _cancel_all(self, ws: TradingWS) -> None:
        journal = ws._session.journal
        assert journal is not None
        self._resumption = resumption = Resumption(self.plan, journal.release_left, lambda: ws.clock)
        try:
            await resumption.run(partial(self._cancel_each, ws), ws._session, ws._policy)
        finally:
            for outcome in resumption.unsure():
                super()._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        read = outcome if self._resumption is None else self._resumption.read(outcome)
        if read is not None:
            super()._take(read)
