"""``trio-cancel demo``: starts an exchange with TLS in this process, fills its book, and cancels every order."""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack
from typing import Annotated, TextIO, cast

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from trio_cancel._cli._failure import CommandError, StderrFile, counted
from trio_cancel._cli._options import WHOLE
from trio_cancel._cli._orders import check_orders, need_trustme, place_orders
from trio_cancel._cli._output import has_bar
from trio_cancel._cli._records import left_lines
from trio_cancel._cli._run import Halt, Run, hear_signals
from trio_cancel._cli._screen import (
    Meter,
    console_on,
    figures,
    latency_table,
    outcome_table,
    percentiles,
    seconds,
    show,
    wrapped,
)
from trio_cancel._cli._tally import Tally
from trio_cancel._cli._venue import Venue
from trio_cancel._net.endpoint import parse_endpoint
from trio_cancel._values.models import CancelRequest
from trio_cancel._values.outcomes import Outcome
from trio_cancel.sandbox import Sandbox, open_sandbox
from trio_cancel.sandbox._certificate import NoCertificate


async def _nothing() -> None:
    pass


async def demo(*, orders: Annotated[int, WHOLE, Parameter(help="The number of orders.")] = 1000) -> int:
    """Cancel orders at a local sandbox exchange, and show how it went."""
    check_orders(orders, least=1)
    need_trustme()
    tally = Tally()
    console = console_on(sys.stdout)
    meter = Meter(orders, console_on(cast("TextIO", StderrFile()), force_terminal=True)) if has_bar() else None

    def report(outcome: Outcome, places: int) -> None:
        tally.add(outcome, places)
        if meter is not None:
            meter.advance(places)

    async with AsyncExitStack() as stack:
        try:
            exchange = await stack.enter_async_context(open_sandbox(tls=True))
        except NoCertificate as error:
            raise CommandError(str(error)) from error
        requests = dict.fromkeys(map(CancelRequest, place_orders(exchange, orders)), 1)
        show(
            console, wrapped(f"{orders} open orders at a sandbox exchange in this process, over TLS", console.width), ""
        )
        venue = Venue(parse_endpoint(exchange.url), exchange.credentials, exchange.ssl_context)
        run = Run(venue.open, requests, report, _nothing, Halt())
        started = time.perf_counter()
        async with hear_signals(run.halt) as nursery:
            if meter is not None:
                meter.waiting = run.watch.waiting
                nursery.start_soon(meter.run)
            await run.run()
        took = time.perf_counter() - started
        _show_result(console, exchange, tally, run, took)
    return run.halt.status(tally.status())


def _show_result(console: Console, exchange: Sandbox, tally: Tally, run: Run, took: float) -> None:
    still_open = len(exchange.book.open_orders())
    agrees = "agrees" if still_open == tally.left_count else "does not agree"
    left = f"{counted(still_open, 'open order')} left"
    verdict = f"{tally.off_book} of {tally.total} orders {'are' if tally.off_book != 1 else 'is'} off the book"
    width = console.width
    partly = f"{tally.partly_filled} of them had been executed in part before."
    show(
        console,
        outcome_table(tally),
        "",
        Text(verdict, style="bold green" if tally.off_book == tally.total else "bold red"),
        *([wrapped(partly, width)] if tally.partly_filled else []),
        wrapped(f"The exchange's own book {agrees}: {left}.", width),
        *left_lines(tally),
    )
    ordered = sorted(run.watch.latencies)
    if ordered:
        show(
            console,
            "",
            figures("throughput", [f"{len(ordered) / took:.0f} orders/s", f"{len(ordered)} in {seconds(took)}"], width),
            figures("latency", percentiles(ordered), width),
            "",
            latency_table(ordered, console),
        )
