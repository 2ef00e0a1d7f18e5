"""From a call to the wire: how long until the system has accepted the last byte of a single cancel.

Ours is measured at the socket itself, idle and beside a bulk on the same connection. The yardstick signs, encodes and
sends the same request on a bare trio stream, with one `send_all`; it has no bulk.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from benchmarks.job import Job, order_ids, ssl_context
from benchmarks.meter import quantiles
from benchmarks.peers import BARE_STREAM, PEERS
from benchmarks.works import run

_PAUSE = 0.001
"""Seconds between two single cancels, so that each finds an idle connection where there is no bulk."""


class _Wire:
    """Notes when the system has accepted the bytes of the one request that is waited for."""

    def __init__(self) -> None:
        self.awaited = ""  # the order whose request is waited for
        self.accepted = 0.0
        self._next = False  # what is sent next holds it

    def request_written(self, request: object, _request_id: str) -> None:
        """As an observer is told: the request is in what is sent next."""
        if getattr(request, "id", None) == self.awaited:
            self._next = True

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look at what every socket of this process sends."""
        send = socket.socket.send
        wire = self

        def noted(sock: Any, data: Any, *flags: int) -> int:
            sent = send(sock, data, *flags)
            if wire._next and sent == len(data):
                wire.accepted, wire._next, wire.awaited = time.perf_counter(), False, ""
            return sent

        socket.socket.send = noted  # type: ignore[method-assign]  # for the time of the measurement
        try:
            yield
        finally:
            socket.socket.send = send  # type: ignore[method-assign]


def run_call(job: Job) -> dict[str, float]:
    """Measure one competitor."""
    measure = _bare if job.peer == BARE_STREAM else _ours
    return run(PEERS[job.peer], partial(measure, job))


async def _ours(job: Job) -> dict[str, float]:
    from benchmarks.peers.ours import CREDENTIALS
    from trio_cancel import CancelRequest, Observer, TradingWS, open_trading_ws

    wire = _Wire()

    class _Told(Observer):
        def request_written(self, request: CancelRequest, request_id: str) -> None:
            wire.request_written(request, request_id)

    async def calls(ws: TradingWS, orders: Iterator[str], times: array[float]) -> None:
        for order_id in orders:
            wire.awaited = order_id
            called = time.perf_counter()
            await ws.cancel(order_id)
            if not wire.awaited:
                times.append(wire.accepted - called)
            await trio.sleep(_PAUSE)

    idle, beside, context = array("d"), array("d"), ssl_context(job.ca)
    with wire.watch():
        async with open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=context, observer=_Told()) as ws:
            await ws.cancel_many(job.warm_ids())
            gc.collect()
            await calls(ws, order_ids(job.orders // 100, seed=3), idle)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls, ws, order_ids(10**9, seed=4), beside)
                report = await ws.cancel_many(job.order_ids())
                nursery.cancel_scope.cancel()
    if report.counts["canceled"] != job.orders:
        raise RuntimeError(f"{job.peer}: only {report.counts['canceled']} of {job.orders} orders were canceled.")
    return quantiles("call", idle) | quantiles("call_beside", beside)


async def _bare(job: Job) -> dict[str, float]:
    from benchmarks.framing import masked_frame
    from benchmarks.peers.bare_trio_stream import open_connection, read_reply
    from benchmarks.peers.by_hand import request

    times = array("d")
    async with open_connection(job) as stream:
        for number, order_id in enumerate((*job.warm_ids(), *order_ids(job.orders // 100, seed=3))):
            called = time.perf_counter()
            await stream.send_all(masked_frame(request(order_id)[1], os.urandom(4)))
            if number >= job.warm:
                times.append(time.perf_counter() - called)
            await read_reply(stream)
            await trio.sleep(_PAUSE)
    return quantiles("call", times)
