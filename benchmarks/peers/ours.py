"""trio_cancel, by its public names and with its default settings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks.job import API_SECRET, API_TOKEN, Job, ssl_context
from benchmarks.peers import Client
from trio_cancel import Canceled, CanceledOrder, Credentials, TradingWS, open_trading_ws

CREDENTIALS = Credentials(API_TOKEN, API_SECRET)


@asynccontextmanager
async def open_client(job: Job) -> AsyncGenerator[Client]:
    """Connect."""
    async with open_trading_ws(job.url, credentials=CREDENTIALS, ssl_context=ssl_context(job.ca)) as ws:
        yield _ways(ws)


def _ways(ws: TradingWS) -> Client:
    async def bulk(order_ids: Sequence[str]) -> int:
        return (await ws.cancel_many(order_ids)).counts["canceled"]

    return Client(one=ws.cancel, task=ws.try_cancel, bulk=bulk, is_canceled=_is_canceled)


def _is_canceled(result: object) -> bool:
    return isinstance(result, Canceled | CanceledOrder)
