"""What the journal costs a bulk cancel: wall time with and without, turn and turn about in one process."""

from __future__ import annotations

import inspect
import pathlib
import statistics
import tempfile
import time
from functools import partial

from benchmarks.job import Job, ssl_context
from benchmarks.peers import OURS, PEERS
from benchmarks.peers.ours import CREDENTIALS
from benchmarks.works import run
from trio_cancel import open_trading_ws

_TURNS = 3


def run_journal(job: Job) -> dict[str, float]:
    """Seconds that `job.orders` cancels take with a journal, without one, and their ratio; nothing if there is none."""
    if "journal" not in inspect.signature(open_trading_ws).parameters:
        return {}
    return run(PEERS[OURS], partial(_journal, job))


async def _journal(job: Job) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        pairs = [
            (await bulk_wall(job, None), await bulk_wall(job, str(pathlib.Path(directory, f"{turn}.journal"))))
            for turn in range(_TURNS)
        ]
    without, with_journal = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"without_s": without, "journal_s": with_journal, "journal_ratio": with_journal / without}


async def bulk_wall(job: Job, journal: str | None) -> float:
    """Seconds of wall time that a bulk takes, with a journal or without."""
    context = ssl_context(job.ca)
    async with open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=context, journal=journal) as ws:
        await ws.cancel_many(job.warm_ids())
        started = time.perf_counter()
        report = await ws.cancel_many(job.order_ids())
        wall = time.perf_counter() - started
        assert report.counts["canceled"] == job.orders, report.counts
    return wall
