"""What lookups cost a bulk cancel in which some replies are lost: ``python -m benchmarks.lookups``.

The venue is the sandbox, in this process and over TLS, so that the figures are of both together: only those with and
without lookups can be compared. Every hundredth order is canceled and its reply lost, on the first attempt or on all.
With a pace, orders are given up while others still wait for their turn, which is when a lookup could get in the way.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import attrs
import trio

from trio_cancel import CancelRequest, Observer, Pacer, open_trading_ws
from trio_cancel.lookup import RestLookup
from trio_cancel.sandbox import Fault, open_sandbox


class _Writes(Observer):
    """Remembers when the last order was written for the first time."""

    def __init__(self) -> None:
        self.seen: set[CancelRequest] = set()
        self.last = 0.0

    def request_written(self, request: CancelRequest, request_id: str) -> None:  # noqa: ARG002 - the observer's
        if request not in self.seen:
            self.seen.add(request)
            self.last = time.perf_counter()


@attrs.frozen
class Figures:
    """One run."""

    seconds: float
    last_written: float
    lookups: int
    off_book: int
    unknown: int


async def measure(orders: int, share: float, rate: float | None, *, retry: bool, look_up: bool) -> Figures:
    """Cancel orders in bulk, a share of whose replies is lost.

    Args:
        orders: how many.
        share: of the orders.
        rate: cancels per second; None for as fast as the venue takes them.
        retry: as for a session.
        look_up: whether there is a lookup.
    """
    async with open_sandbox(tls=True, rest_port=0, seed=7) as sandbox:
        ids = [sandbox.book.create().id for _ in range(orders)]
        for order_id in ids[:: max(1, round(1 / share))]:
            sandbox.fault_on(order_id, *[Fault.SILENT_AFTER] * 1000)
        writes = _Writes()
        async with open_trading_ws(
            sandbox.url,
            credentials=sandbox.credentials,
            ssl_context=sandbox.ssl_context,
            retry=retry,
            reply_timeout=3.0,
            give_up_after=15.0,
            pacer=None if rate is None else Pacer(rate, burst=10),
            lookup=RestLookup(base_url=sandbox.rest_url) if look_up else None,
            observer=writes,
        ) as ws:
            began = time.perf_counter()
            report = await ws.cancel_many(ids)
            seconds = time.perf_counter() - began
        counts = report.counts
        assert len(report) == orders
        return Figures(
            seconds,
            writes.last - began,
            sandbox.rest_log.received,
            counts["canceled"] + counts["already_closed"],
            counts["unknown"],
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookups", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--lost", type=float, default=0.01, help="share of the orders whose replies are lost")
    parser.add_argument("--rate", type=float, default=500.0, help="cancels per second of the runs with a pace")
    given = parser.parse_args()
    print(f"{given.orders} orders, {given.lost:.1%} of the replies lost")
    print("pace    attempts  lookups on  seconds  last first write  lookups  off the book  unknown")
    for rate in (None, given.rate):
        for retry in (False, True):
            for look_up in (False, True):
                found = trio.run(partial(measure, given.orders, given.lost, rate, retry=retry, look_up=look_up))
                print(
                    f"{'none' if rate is None else f'{rate:g}/s':<8}{'many' if retry else 'one':<10}"
                    f"{'yes' if look_up else 'no':<12}{found.seconds:>7.2f}{found.last_written:>18.3f}"
                    f"{found.lookups:>9}{found.off_book:>14}{found.unknown:>9}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
