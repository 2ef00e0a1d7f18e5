"""``trio-cancel resume``: cancel what a dead process left held or unsettled in its journal, and tell what became of it.

The journal says what was left, the venue's answers go into the same journal: what one run has settled, the next one
finds settled. An order that was held and is not found is asked for again until ``SETTLE`` seconds have passed, because
its create may still be on its way; if the venue does not know it then, it never came, and its hold is released. So is
one that was held by external id when the venue says that the name is closed, and perhaps means an older order.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import attrs
import trio
from cyclopts import Parameter

from trio_cancel._cancels.scope_exit import together
from trio_cancel._cli._failure import CommandError, say
from trio_cancel._cli._lookups import LookUp, RestUrl, asked_lookup
from trio_cancel._cli._output import Output
from trio_cancel._cli._run import Halt, Run
from trio_cancel._cli._tally import Status
from trio_cancel._cli._venue import CaFile, Proxy, find_tunnel, trust
from trio_cancel._client import TradingWS, open_trading_ws
from trio_cancel._journal.opening import MovedJournal
from trio_cancel._journal.reading import read_journal
from trio_cancel._journal.resume import OLD, Errand, plan_resume
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._values.errors import NotWritten
from trio_cancel._values.models import CancelRequest, Credentials
from trio_cancel._values.observer import Observer
from trio_cancel._values.outcomes import AlreadyClosed, Canceled, NotFound, NotSent, Outcome, not_surely

SETTLE = 10.0
"""Seconds in which the create of a held order may still reach the venue's book (general information: 10 s)."""
ASK_AGAIN = 1.0
"""Seconds until an order that is not found is asked for again."""


async def resume(
    journal: Annotated[str, Parameter(name="JOURNAL", help="The file that open_trading_ws(journal=...) wrote.")],
    /,
    *,
    url: Annotated[str | None, Parameter(help="The venue, if it is not where the journal says.")] = None,
    ca_file: CaFile = None,
    proxy: Proxy = None,
    look_up: LookUp = False,
    rest_url: RestUrl = None,
    old_external_ids: Annotated[
        bool,
        Parameter(negative="", help="Cancel by external ids older than an hour, too: they may name newer orders."),
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="Print JSON lines also on a terminal.")] = False,
) -> int:
    """Cancel every order that a dead process left held or unsettled, and tell what became of each.

    It may be run again without harm. External ids older than an hour are listed and left alone. Exit status: as that of
    cancel; 2 also if the journal cannot be used, is another account's, or its process lives.
    """
    contents = read_journal(journal)
    now = time.time()
    plan = plan_resume(contents, now, old_external_ids=old_external_ids)
    if not plan.errands and not plan.old:
        say("nothing was left")
        return Status.OK
    endpoint = parse_endpoint(contents.url if url is None else url)
    credentials, ssl_context = Credentials.from_env(), trust(ca_file)
    tunnel = find_tunnel(endpoint, proxy)
    lookup = asked_lookup(look_up, rest_url, endpoint)
    failed = False

    @asynccontextmanager
    async def open_session(observer: Observer) -> AsyncGenerator[TradingWS]:
        nonlocal failed
        async with open_trading_ws(
            endpoint.url,
            credentials=credentials,
            ssl_context=ssl_context,
            dial=tunnel,
            proxy=None,
            journal=MovedJournal(journal, contents.url),
            observer=observer,
            lookup=lookup,
            look_up_closed=look_up,
        ) as ws:
            # Only now is it certain that nobody else writes it.
            if read_journal(journal).left != contents.left:
                raise CommandError("The journal has changed since it was read: its process lived. Run it again.")
            yield ws
            failed = ws.journal_failed

    output = Output(len(plan.errands) + len(plan.old), as_json=json)
    for order in plan.old:
        age = f"is older than {OLD / 3600:g} h"
        if order.known_at > now:
            age = "is stamped in the future, since the clock was set back,"
        why = f"its external id {age} and may name a newer order; --old-external-ids takes it"
        output.tell(NotSent(order.request, cause=NotWritten(why)), 1)
    errands = {errand.request: errand for errand in plan.errands}

    def tell(outcome: Outcome, places: int) -> None:
        output.tell(attrs.evolve(outcome, request=errands[outcome.request].name), places)

    run = _Resume(open_session, dict.fromkeys(errands, 1), tell, output.room, Halt(), errands=errands)
    await output.cancel(run)
    if failed:
        say("the journal could not record all of it; once it can be written, run this again")
    return output.summarize(run)


@attrs.define(eq=False)
class _Resume(Run):
    """A run that gives the creates of held orders the time to arrive.

    Attributes:
        errands: what is to be canceled, by what the venue is asked for.
    """

    errands: dict[CancelRequest, Errand] = attrs.field(kw_only=True)
    _again: dict[CancelRequest, Outcome] = attrs.field(factory=dict, init=False)  # what was not surely found
    _ws: TradingWS | None = attrs.field(default=None, init=False)

    async def _cancel_all(self, ws: TradingWS) -> None:
        self._ws = ws
        settled_at = trio.current_time() + SETTLE
        everything = self.requests
        try:
            while True:
                last = trio.current_time() >= settled_at
                await super()._cancel_all(ws)
                if last or not self._again:
                    break
                if ws._session.dispatcher.is_silent(ws._terms.give_up_after):
                    # Whether they have come nobody can tell now: they stay held, and the next resume asks.
                    return
                await trio.sleep(min(ASK_AGAIN, max(0.0, settled_at - trio.current_time())))
                self.requests = dict.fromkeys(self._again, 1)
            for request in self._again:
                self._release(request)
        finally:
            self.requests = everything
            for outcome in self._again.values():
                super()._settle(not_surely(outcome) if isinstance(outcome, Canceled | AlreadyClosed) else outcome)

    def _settle(self, outcome: Outcome) -> None:
        request = outcome.request
        errand = self.errands[request]
        clock = None if self._ws is None else self._ws.clock
        surely = bool(outcome.off_book) and errand.is_meant_by(outcome, clock)
        outcome = together(self._again.pop(request, None), outcome, surely=surely)
        if errand.holds and not surely and isinstance(outcome, NotFound | Canceled | AlreadyClosed):
            self._again[request] = outcome
            return
        if surely:
            self._release(request)
        super()._settle(outcome)

    def _release(self, request: CancelRequest) -> None:
        assert self._ws is not None
        journal = self._ws._session.journal
        assert journal is not None
        journal.release_left(hold.number for hold in self.errands[request].holds)
