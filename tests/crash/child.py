"""The process that is killed: ``child.py KIND URL JOURNAL SEED ORDER...``.

It says on standard output, unbuffered, what has happened to it: ``ready``; of a bulk cancel, each twentieth answer; of
a scope, each hold that returned, each order that was placed and each discard; ``done``. What it has said has surely
happened; what it has not may have.
"""

from __future__ import annotations

import os
import random
import sys

import trio

from trio_cancel import CancelRequest, Observer, OrdersLeft, TradingWS, open_trading_ws
from trio_cancel.sandbox import BookStatus, SandboxControl, open_sandbox_control
from trio_cancel.sandbox._server import DEFAULT_CREDENTIALS


def say(*words: str) -> None:
    os.write(1, (" ".join(words) + "\n").encode())


class Progress(Observer):
    """Says how far a bulk cancel is."""

    def __init__(self) -> None:
        self._answers = 0

    def request_answered(self, request: CancelRequest, request_id: str, status: int | None, seconds: float) -> None:
        self._answers += 1
        if self._answers % 20 == 0:
            say("answers", str(self._answers))


async def bulk(ws: TradingWS, orders: list[str]) -> None:
    report = await ws.cancel_many(orders)
    say("done", str(report.counts["canceled"]))
    await trio.sleep_forever()


async def scope(ws: TradingWS, venue: SandboxControl, rng: random.Random, names: list[str]) -> None:
    try:
        async with ws.open_order_scope() as orders:
            for name in names:
                await orders.add(external_id=name)
                say("held", name)
                order = await venue.create(external_id=name, delay=rng.choice((0.0, 0.0, 0.2)))
                say("placed", name, order.id)
                orders.placed(external_id=name, id=order.id)
                if rng.random() < 0.3 and order.status is not BookStatus.PENDING_CREATION:
                    await venue.fill(order.id)
                    say("discarded", name)
                    orders.discard(external_id=name)
                elif rng.random() < 0.2:
                    await ws.try_cancel(external_id=name)
            say("leaving")
    except OrdersLeft as left:
        say("left", str(len(left.report.left)))
    say("done")
    await trio.sleep_forever()


async def main(*words: str) -> None:
    kind, url, journal, seed, *names = words
    observer = Progress() if kind == "bulk" else None
    async with open_trading_ws(url, credentials=DEFAULT_CREDENTIALS, journal=journal, observer=observer) as ws:
        if kind == "bulk":
            say("ready")
            await bulk(ws, names)
        else:
            async with open_sandbox_control(url) as venue:
                say("ready")
                await scope(ws, venue, random.Random(seed), names)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
