"""A thousand connections in one process: memory, time until all are open, and a kill switch: all orders of all of them.

The kill switch is compared with the same number of cancels on one connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial

from benchmarks.job import Job, order_ids
from benchmarks.meter import memory
from benchmarks.peers import PEERS, OpenClient
from benchmarks.works import run

_KB = 1000
_EACH = 20
"""Orders of each account."""


def run_accounts(job: Job) -> dict[str, float]:
    """Open `job.orders` connections of one competitor at once, hold them, and cancel some orders on each at once."""
    peer = PEERS[job.peer]
    accounts = _trio_accounts if peer.runtime == "trio" else _asyncio_accounts
    return run(peer, partial(accounts, peer.load(), job))


async def _trio_accounts(open_client: OpenClient, job: Job) -> dict[str, float]:
    import trio

    opened, done, kill, canceled = trio.Semaphore(0), trio.Semaphore(0), trio.Event(), 0

    async def hold(orders: list[str]) -> None:
        nonlocal canceled
        async with open_client(job) as client:
            opened.release()
            await kill.wait()
            assert client.bulk is not None
            count = await client.bulk(orders)
            canceled += count
            done.release()
            await trio.sleep_forever()

    async with open_client(job) as one:  # whatever is built once per process is built before the count
        assert one.bulk is not None
        alone = await _timed(one.bulk(_orders(job)))
        before, started = memory(), time.perf_counter()
        async with trio.open_nursery() as accounts:
            for orders in _shares(job):
                accounts.start_soon(hold, orders)
            for _ in range(job.orders):
                await opened.acquire()
            figures = _figures(job, before, started)
            started = time.perf_counter()
            kill.set()
            for _ in range(job.orders):
                await done.acquire()
            figures |= _kill_figures(job, time.perf_counter() - started, alone, canceled)
            accounts.cancel_scope.cancel()
    return figures


async def _asyncio_accounts(open_client: OpenClient, job: Job) -> dict[str, float]:
    kill, release = asyncio.Event(), asyncio.Event()
    opened, done, canceled = asyncio.Semaphore(0), asyncio.Semaphore(0), 0

    async def hold(orders: list[str]) -> None:
        nonlocal canceled
        async with open_client(job) as client:
            opened.release()
            await kill.wait()
            assert client.bulk is not None
            count = await client.bulk(orders)
            canceled += count
            done.release()
            await release.wait()

    async with open_client(job) as one:
        assert one.bulk is not None
        alone = await _timed(one.bulk(_orders(job)))
        before, started = memory(), time.perf_counter()
        async with asyncio.TaskGroup() as accounts:
            held = [accounts.create_task(hold(orders)) for orders in _shares(job)]
            for _ in held:
                await opened.acquire()
            figures = _figures(job, before, started)
            started = time.perf_counter()
            kill.set()
            for _ in held:
                await done.acquire()
            figures |= _kill_figures(job, time.perf_counter() - started, alone, canceled)
            release.set()
    return figures


def _figures(job: Job, before: int, started: float) -> dict[str, float]:
    opened_s = time.perf_counter() - started
    return {"opened_s": opened_s, "account_kb": (memory() - before) / job.orders / _KB}


def _orders(job: Job) -> list[str]:
    return list(order_ids(job.orders * _EACH, seed=1))


def _shares(job: Job) -> list[list[str]]:
    orders = _orders(job)
    return [orders[first : first + _EACH] for first in range(0, len(orders), _EACH)]


async def _timed(bulk: Awaitable[int]) -> float:
    started = time.perf_counter()
    await bulk
    return time.perf_counter() - started


def _kill_figures(job: Job, seconds: float, alone: float, canceled: int) -> dict[str, float]:
    if canceled != job.orders * _EACH:
        raise RuntimeError(f"{job.peer}: only {canceled} of {job.orders * _EACH} orders were canceled.")
    return {"kill_s": seconds, "kill_alone_s": alone, "kill_ratio": seconds / alone}
