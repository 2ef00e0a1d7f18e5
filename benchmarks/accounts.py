"""A thousand connections in one process: how much memory each takes, and how long until all are open."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from benchmarks.job import Job
from benchmarks.meter import memory
from benchmarks.peers import PEERS, OpenClient
from benchmarks.works import run

_KB = 1000


def run_accounts(job: Job) -> dict[str, float]:
    """Open `job.orders` connections of one competitor at once, and hold them."""
    peer = PEERS[job.peer]
    accounts = _trio_accounts if peer.runtime == "trio" else _asyncio_accounts
    return run(peer, partial(accounts, peer.load(), job))


async def _trio_accounts(open_client: OpenClient, job: Job) -> dict[str, float]:
    import trio

    opened = trio.Semaphore(0)

    async def hold() -> None:
        async with open_client(job):
            opened.release()
            await trio.sleep_forever()

    async with open_client(job):  # whatever is built once a process is built before the count
        before, started = memory(), time.perf_counter()
        async with trio.open_nursery() as accounts:
            for _ in range(job.orders):
                accounts.start_soon(hold)
            for _ in range(job.orders):
                await opened.acquire()
            figures = _figures(job, before, started)
            accounts.cancel_scope.cancel()
    return figures


async def _asyncio_accounts(open_client: OpenClient, job: Job) -> dict[str, float]:
    release = asyncio.Event()
    opened = asyncio.Semaphore(0)

    async def hold() -> None:
        async with open_client(job):
            opened.release()
            await release.wait()

    async with open_client(job):
        before, started = memory(), time.perf_counter()
        async with asyncio.TaskGroup() as accounts:
            for _ in range(job.orders):
                accounts.create_task(hold())
            for _ in range(job.orders):
                await opened.acquire()
            figures = _figures(job, before, started)
            release.set()
    return figures


def _figures(job: Job, before: int, started: float) -> dict[str, float]:
    opened_s = time.perf_counter() - started
    return {"opened_s": opened_s, "account_kb": (memory() - before) / job.orders / _KB}
