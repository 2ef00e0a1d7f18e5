"""trio_cancel, by its public names and with its default settings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks.job import API_SECRET, API_TOKEN, Job, ssl_context
from benchmarks.peers import Client
from trio_cancel import Credentials, TradingWS, open_trading_ws

CREDENTIALS = Credentials(API_TOKEN, API_SECRET)


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect."""
    async with open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=ssl_context(job.ca)) as ws:
        yield _ways(ws, job.work)


def _ways(ws: TradingWS, work: str) -> Client:
    async def bulk(order_ids: Sequence[str]) -> int:
        return (await ws.cancel_many(order_ids)).counts["canceled"]

    async def batch(order_ids: Sequence[str]) -> int:
        running = ws.batch(order_ids)
        await running.run()
        return running.report().counts["canceled"]

    async def stream(order_ids: Sequence[str]) -> int:
        async with ws.open_cancel_stream(order_ids) as outcomes:
            return sum([_is_canceled(outcome) async for outcome in outcomes])

    chosen = {"tails-batch": batch, "tails-stream": stream}.get(work, bulk)
    return Client(one=ws.cancel, task=ws.try_cancel, bulk=chosen, is_canceled=_is_canceled)


def _is_canceled(result: object) -> bool:
    # By name: another commit of ours, which is measured beside this one, may keep its classes elsewhere.
    return type(result).__name__ in ("Canceled", "CanceledOrder")
