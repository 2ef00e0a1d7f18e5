"""How much memory our bulk report takes per order, and whether a cancel stream's is bounded."""

from __future__ import annotations

from functools import partial

from benchmarks.job import Job, order_ids, ssl_context
from benchmarks.meter import memory, peak_memory
from benchmarks.peers import OURS, PEERS
from benchmarks.peers.ours import CREDENTIALS
from benchmarks.works import run
from trio_cancel import open_trading_ws

_KB = 1000


def run_report(job: Job) -> dict[str, float]:
    """Resident bytes per order that a report of `job.orders` orders costs while it is held."""
    return run(PEERS[OURS], partial(_report, job))


def run_stream(job: Job) -> dict[str, float]:
    """How much the resident memory of an open cancel stream grows after its first tenth."""
    return run(PEERS[OURS], partial(_stream, job))


async def _report(job: Job) -> dict[str, float]:
    orders = job.order_ids()
    async with open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=ssl_context(job.ca)) as ws:
        await ws.cancel_many(job.warm_ids())
        before = memory()
        report = await ws.cancel_many(orders)
        held = memory() - before
        assert report.counts["canceled"] == job.orders, report.counts
    return {"report_bytes": held / job.orders}


async def _stream(job: Job) -> dict[str, float]:
    before = count = 0
    async with (
        open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=ssl_context(job.ca)) as ws,
        ws.open_cancel_stream(order_ids(job.orders, seed=1)) as outcomes,
    ):
        async for outcome in outcomes:
            assert outcome.off_book, outcome
            count += 1
            if count == job.orders // 10:
                before = memory()
    assert count == job.orders, count
    return {"growth_kb": (memory() - before) / _KB, "peak_mib": peak_memory() / 2**20}
