"""One task per cancel, on asyncio, whichever its loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.job import IN_FLIGHT
from benchmarks.peers import Client
from benchmarks.works import timed


async def work(client: Client, orders: Sequence[str], latencies: list[float]) -> int:
    """Start a task for each order as soon as fewer than `IN_FLIGHT` are running."""
    assert client.task is not None
    cancel, is_canceled = client.task, client.is_canceled
    window = asyncio.Semaphore(IN_FLIGHT)
    canceled = 0

    async def one(order_id: str) -> None:
        nonlocal canceled
        if is_canceled(await timed(cancel, order_id, latencies)):
            canceled += 1
        window.release()

    async with asyncio.TaskGroup() as group:
        for order_id in orders:
            await window.acquire()
            group.create_task(one(order_id))
    return canceled
