"""``trio-cancel cancel --open``: cancel what the venue lists as open, for when the ids are lost.

The user must say which orders are meant and confirm it: at a terminal, where the list is shown first, or with
``--yes``. Both happen before anything is canceled, and before there is a session. The first list (for a dry run, or for
the question) comes over REST alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import attrs
import trio

from trio_cancel._cancels.open_orders import WITHIN, OpenOrders, Sweep
from trio_cancel._cli._failure import CommandError, UsageError, clean, counted, is_terminal, say, write_stderr
from trio_cancel._cli._output import Output
from trio_cancel._cli._run import Halt, Run, hear_signals
from trio_cancel._cli._show import HEAD, order_line
from trio_cancel._cli._stdout import write_stdout
from trio_cancel._cli._tally import NAMED_MOST, Status
from trio_cancel._cli._venue import Venue
from trio_cancel._client import TradingWS
from trio_cancel._values.errors import ConfigurationError
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.open_report import OpenFilter
from trio_cancel._values.outcomes import Outcome

UNAUTHORIZED = 401


def filter_of(pair: str | None, side: Literal["buy", "sell"] | None, everything: bool) -> OpenFilter:
    """Return which orders are meant."""
    if pair is None and side is None and not everything:
        raise UsageError("--open needs to know which orders: give --pair, --side or both, or --everything.")
    if everything and (pair is not None or side is not None):
        raise UsageError("--everything means all markets and both sides: give it without --pair and --side.")
    try:
        return OpenFilter.of(pair, side, everything)
    except ConfigurationError:
        raise UsageError("--pair needs the name of a market, such as BTC_BRL.") from None


def need_answer(meant: OpenFilter, *, yes: bool) -> None:
    """Refuse a run that nobody has confirmed and nobody can confirm."""
    if not yes and not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise CommandError(
            f"Nothing was sent: without a terminal nobody can confirm that all open {meant} should be canceled; "
            "add --yes, or look first with --dry-run."
        )


async def cancel_open(
    venue: Venue,
    meant: OpenFilter,
    *,
    quiet: float,
    deadline: float | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Cancel the open orders that are meant, or list them; return the exit status."""
    if not yes or dry_run:
        halt = Halt(deadline)
        sweep = Sweep(meant, quiet, trio.current_time())
        agreed = False
        async with hear_signals(halt):
            with halt.scope:
                await _list_once(venue, sweep)
                agreed = dry_run or await _confirm(sweep, meant, quiet)
        if not agreed:
            say("nothing was canceled" if halt.why is None else f"{halt.why}; nothing was canceled")
            return halt.status(Status.LEFT)
        if dry_run:
            return _show_list(sweep, as_json=as_json)
    output = Output(0, as_json=as_json)
    run = _OpenRun(
        venue.open,
        {},
        output.report,
        output.room,
        Halt(deadline),
        venue.rate,
        meant=meant,
        quiet=quiet,
        expect=output.expect,
    )
    await output.cancel(run)
    status = output.summarize(run)
    return run.conclude(status)


async def _list_once(venue: Venue, sweep: Sweep) -> None:
    lookup = venue.lookup
    assert lookup is not None
    async with lookup.opened(credentials=venue.credentials, ssl_context=venue.ssl_context) as source:
        async for _ in OpenOrders(sweep, source.open_orders, time.time, WITHIN, once=True):
            pass
    if sweep.failure is not None and sweep.failure.status == UNAUTHORIZED:
        raise CommandError(f"{sweep.failure} Check the token, the secret and the clock.")


def _show_list(sweep: Sweep, *, as_json: bool) -> Status:
    as_json = as_json or not is_terminal(sys.stdout)
    if not as_json:
        write_stdout(HEAD)
    for state in sweep.orders:
        write_stdout(order_line(state, as_json=as_json))
    say(f"{counted(len(sweep.orders), 'open order')} listed, nothing was canceled{_outside(sweep)}")
    if sweep.failure is not None:
        say(f"the list is not complete: {sweep.failure}")
    return Status.OK if sweep.failure is None else Status.LEFT


def _outside(sweep: Sweep) -> str:
    count = sweep.outside
    return f"; {count} other open order{'s are' if count != 1 else ' is'} not meant" if count else ""


async def _confirm(sweep: Sweep, meant: OpenFilter, quiet: float) -> bool:
    orders = sweep.orders
    lines = [HEAD, *(order_line(state, as_json=False) for state in orders[:NAMED_MOST])] if orders else []
    if len(orders) > NAMED_MOST:
        lines.append(f"and {len(orders) - NAMED_MOST} more\n")
    lines.append(f"{counted(len(orders), 'open order')}{_outside(sweep)}\n")
    if sweep.failure is not None:
        lines.append(f"The list is not complete: {clean(str(sweep.failure))}\n")
    lines.append(
        f"Cancel all open {clean(str(meant))}, and any that appear until {quiet:g} s pass without a new one? [y/N] "
    )
    write_stderr("".join(lines))
    answer = await _read_line()
    return answer.strip().lower() in ("y", "yes")


async def _read_line() -> str:
    """Return a line from the terminal; read without a thread, which would stay behind if nobody answers."""
    descriptor = sys.stdin.fileno()
    read = b""
    while not read.endswith(b"\n"):
        await trio.lowlevel.wait_readable(descriptor)
        piece = os.read(descriptor, 1024)
        if not piece:
            break
        read += piece
    return read.decode("utf-8", "replace")


@attrs.define(eq=False)
class _OpenRun(Run):
    """A run whose orders come from the venue's list. An order is reported once, when nothing more is done for it.

    ``expect`` is called with the number of orders so far.
    """

    meant: OpenFilter = attrs.field(kw_only=True)
    quiet: float = attrs.field(kw_only=True)
    expect: Callable[[int], None] = attrs.field(kw_only=True)
    _sweep: Sweep | None = attrs.field(default=None, init=False)
    _reported: set[CancelRequest] = attrs.field(factory=set, init=False)
    _ending: bool = attrs.field(default=False, init=False)

    async def _cancel_all(self, ws: TradingWS) -> None:
        lookups = ws._session.lookups
        assert lookups is not None
        self._sweep = sweep = Sweep(self.meant, self.quiet, trio.current_time())
        orders = OpenOrders(sweep, lookups.open_orders, ws._session.wall, WITHIN)
        try:
            await self._cancel_each(ws, orders)
        finally:
            # Report what no list will show again; what is under way may still be answered while the session ends.
            self._ending = True
            self.expect(len(sweep.orders))
            for request, outcome in sweep.outcomes():
                if request not in self._reported:
                    self._left[request] = 1
                    if outcome is not None:
                        self._reported.add(request)
                        super()._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        sweep = self._sweep
        assert sweep is not None
        self.expect(len(sweep.orders))
        outcome = sweep.settled(outcome, trio.current_time())
        if outcome.request in self._reported or not (outcome.off_book or self._ending):
            return
        self._reported.add(outcome.request)
        self._left[outcome.request] = 1
        super()._take(outcome)

    def conclude(self, status: int) -> int:
        """Report the result of the lists; return the exit status."""
        sweep = self._sweep
        if sweep is None or self.halt.why is not None:
            return status or Status.LEFT  # no connection, or ended early: both were reported
        if sweep.none_seen_since is not None:
            since = datetime.fromtimestamp(sweep.none_seen_since, UTC).isoformat(timespec="seconds")
            say(f"none of the {self.meant} seen since {since[:-6]}Z{_outside(sweep)}")
        if sweep.failure is None:
            return status
        say(f"the list is not complete: {sweep.failure}")
        if sweep.failure.status == UNAUTHORIZED and not sweep.orders:
            say("check the token, the secret and the clock (trio-cancel doctor)")
            return Status.USAGE
        return status or Status.LEFT
