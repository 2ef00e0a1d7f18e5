"""The three works that every competitor can be asked for: one at a time, one task per cancel, bulk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from benchmarks.job import Job
from benchmarks.meter import Meter
from benchmarks.peers import PEERS, Client, OpenClient, Peer

Work = Callable[[Client, Sequence[str], list[float]], Awaitable[int]]
"""Cancels the orders, appends what each took (seconds) where that is known, returns how many are canceled."""


def run_work(job: Job) -> dict[str, float]:
    """Measure one competitor at one work, in this process."""
    peer = PEERS[job.peer]
    return run(peer, partial(_measure, peer.load(), job))


def run(peer: Peer, main: Callable[[], Coroutine[Any, Any, dict[str, float]]]) -> dict[str, float]:
    """Run an async function under the competitor's own event loop."""
    # Only the loop in use is imported: the others would count as this competitor's memory.
    if peer.runtime == "trio":
        import trio

        return trio.run(main)
    if peer.runtime == "asyncio":
        return asyncio.run(main())
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def _measure(open_client: OpenClient, job: Job) -> dict[str, float]:
    orders, warm = job.order_ids(), job.warm_ids()
    work = _work(job)
    started = time.perf_counter()
    async with open_client(job) as client:
        connected = time.perf_counter()
        await work(client, warm, [])
        with Meter(job.orders * job.times) as meter:
            canceled = sum([await work(client, orders, meter.latencies) for _ in range(job.times)])
    if canceled != job.orders * job.times:
        raise RuntimeError(f"{job.peer}: only {canceled} of {job.orders * job.times} orders were canceled.")
    return meter.figures() | {"connect_ms": (connected - started) * 1e3}


def _work(job: Job) -> Work:
    if job.work == "single":
        return _single
    if job.work in ("bulk", "growth"):
        return _bulk
    if PEERS[job.peer].runtime == "trio":
        from benchmarks.tasks_trio import work
    else:
        from benchmarks.tasks_asyncio import work
    return work


async def _single(client: Client, orders: Sequence[str], latencies: list[float]) -> int:
    assert client.one is not None
    return sum([client.is_canceled(await timed(client.one, order_id, latencies)) for order_id in orders])


async def _bulk(client: Client, orders: Sequence[str], _latencies: list[float]) -> int:
    assert client.bulk is not None
    return await client.bulk(orders)


async def timed(cancel: Callable[[str], Awaitable[object]], order_id: str, latencies: list[float]) -> object:
    """Cancel one order, note how long it took, and return what cancelling it returned."""
    started = time.perf_counter()
    result = await cancel(order_id)
    latencies.append(time.perf_counter() - started)
    return result
