"""One task per cancel, on trio."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from benchmarks.job import IN_FLIGHT
from benchmarks.peers import Client
from benchmarks.peers.trio_client import enter
from benchmarks.works import timed


async def work(client: Client, orders: Sequence[str], latencies: list[float]) -> int:
    """Start a task for each order as soon as fewer than `IN_FLIGHT` are running."""
    assert client.task is not None
    cancel, is_canceled = client.task, client.is_canceled
    window = trio.Semaphore(IN_FLIGHT)
    canceled = 0

    async def one(order_id: str) -> None:
        nonlocal canceled
        if is_canceled(await timed(cancel, order_id, latencies)):
            canceled += 1
        window.release()

    async with trio.open_nursery() as nursery:
        for order_id in orders:
            await enter(window)
            nursery.start_soon(one, order_id)
    return canceled
