"""How long a bulk cancel holds the loop, and how long a single cancel beside it takes, on the same connection.

While the bulk runs, one task wakes every millisecond and notes by how much it is late: that is how long nobody else of
the program could run. Another cancels one order after the other, with a millisecond between them. On trio the passes of
the scheduler are measured themselves as well.
"""

from __future__ import annotations

import asyncio
import gc
import time
from array import array
from collections.abc import Iterable, Iterator
from functools import partial

import trio

from benchmarks.job import Job, order_ids
from benchmarks.peers import PEERS, Client, OpenClient
from benchmarks.works import run

_TICK = 0.001
"""Seconds between two wakings, and between two single cancels."""
_QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "worst": 1.0}


class _Passes(trio.abc.Instrument):
    """Measures each pass of trio's scheduler: from the end of its wait for I/O to the beginning of the next one."""

    def __init__(self) -> None:
        self.seconds = array("d")
        self._began: float | None = None

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        self._began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        if self._began is not None:
            self.seconds.append(time.perf_counter() - self._began)


def run_tails(job: Job) -> dict[str, float]:
    """Measure one competitor."""
    peer = PEERS[job.peer]
    measure = _on_trio if peer.runtime == "trio" else _on_asyncio
    return run(peer, partial(measure, peer.load(), job))


async def _on_trio(open_client: OpenClient, job: Job) -> dict[str, float]:
    orders, late, beside, passes = job.order_ids(), array("d"), array("d"), _Passes()

    async def tick() -> None:
        while True:
            due = time.perf_counter() + _TICK
            await trio.sleep(_TICK)
            late.append(max(0.0, time.perf_counter() - due))

    async def cancel_beside(client: Client) -> None:
        assert client.task is not None
        for order_id in _others():
            began = time.perf_counter()
            await client.task(order_id)
            beside.append(time.perf_counter() - began)
            await trio.sleep(_TICK)

    async with open_client(job) as client:
        assert client.bulk is not None
        await client.bulk(job.warm_ids())
        gc.collect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            nursery.start_soon(cancel_beside, client)
            trio.lowlevel.add_instrument(passes)
            canceled = await client.bulk(orders)
            trio.lowlevel.remove_instrument(passes)
            nursery.cancel_scope.cancel()
    _check(job, canceled)
    return _quantiles("held", late) | _quantiles("beside", beside) | {"pass_worst_ms": max(passes.seconds) * 1e3}


async def _on_asyncio(open_client: OpenClient, job: Job) -> dict[str, float]:
    orders, late, beside = job.order_ids(), array("d"), array("d")

    async def tick() -> None:
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            late.append(max(0.0, time.perf_counter() - due))

    async def cancel_beside(client: Client) -> None:
        cancel = client.task or client.one
        assert cancel is not None
        for order_id in _others():
            began = time.perf_counter()
            await cancel(order_id)
            beside.append(time.perf_counter() - began)
            await asyncio.sleep(_TICK)

    async with open_client(job) as client:
        assert client.bulk is not None
        await client.bulk(job.warm_ids())
        gc.collect()
        tasks = [asyncio.create_task(tick()), asyncio.create_task(cancel_beside(client))]
        canceled = await client.bulk(orders)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    _check(job, canceled)
    return _quantiles("held", late) | _quantiles("beside", beside)


def _others() -> Iterator[str]:
    """Orders that are not in the bulk, as many as are wanted."""
    return order_ids(10**9, seed=3)


def _check(job: Job, canceled: int) -> None:
    if canceled != job.orders:
        raise RuntimeError(f"{job.peer}: only {canceled} of {job.orders} orders were canceled.")


def _quantiles(name: str, seconds: Iterable[float]) -> dict[str, float]:
    """The figures of one distribution, in ms; none if the bulk was over before there was one value."""
    ordered = sorted(seconds)
    return {
        f"{name}_{quantile}_ms": ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3
        for quantile, share in _QUANTILES.items()
        if ordered
    }
