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
from collections.abc import Iterator
from functools import partial

import attrs
import trio

from benchmarks.job import Job, order_ids
from benchmarks.meter import quantiles
from benchmarks.peers import BARE_LOOP, PEERS, Client, OpenClient
from benchmarks.works import run

_TICK = 0.001
"""Seconds between two wakings, and between two single cancels."""
_IN_A_PASS = 256
"""Objects that the bare loop makes in one pass."""


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
    if job.peer == BARE_LOOP:
        return run(peer, partial(_bare_loop, job))
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
    return quantiles("held", late) | quantiles("beside", beside) | {"pass_worst_ms": max(passes.seconds) * 1e3}


@attrs.frozen
class _Kept:
    """What a program of its own may keep of an order: an object that the collector visits."""

    id: str
    external_id: str
    words: tuple[str, ...]


async def _bare_loop(job: Job) -> dict[str, float]:
    """A trio loop that does nothing but make and keep one object per order, a few in each pass, as a report does."""
    late, passes, kept = array("d"), _Passes(), []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + _TICK
            await trio.sleep(_TICK)
            late.append(max(0.0, time.perf_counter() - due))

    orders = job.order_ids()
    gc.collect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        trio.lowlevel.add_instrument(passes)
        for number, order_id in enumerate(orders):
            kept.append(_Kept(order_id, f"external-{number}", (f"canceled-{number}", f"limit-{number}")))
            if not number % _IN_A_PASS:
                await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(passes)
        nursery.cancel_scope.cancel()
    return quantiles("held", late) | {"pass_worst_ms": max(passes.seconds) * 1e3}


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
    return quantiles("held", late) | quantiles("beside", beside)


def _others() -> Iterator[str]:
    """Orders that are not in the bulk, as many as are wanted."""
    return order_ids(10**9, seed=3)


def _check(job: Job, canceled: int) -> None:
    if canceled != job.orders:
        raise RuntimeError(f"{job.peer}: only {canceled} of {job.orders} orders were canceled.")
