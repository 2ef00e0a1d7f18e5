"""A market maker: ``python -m tests.tools.bot URL [WAY [SECONDS]]``, with the sandbox's credentials in the environment.

It keeps an order on either side of the book of a sandbox, in whatever process that is, and replaces them for ever. WAY
is how it ends after SECONDS: by an ``exception``, by a cancel scope ``inside`` or ``outside`` the session. Else a
signal ends it, which ``unprepared`` meets without ``cancel_on_signals()``. However it ends, it leaves no order behind.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import sys
from functools import partial

import trio

from trio_cancel import (
    AlreadyClosed,
    Canceled,
    CancelRequest,
    Interrupted,
    TradingWS,
    cancel_on_signals,
    open_trading_ws,
)
from trio_cancel.sandbox import BookStatus, SandboxControl, open_sandbox_control
from trio_cancel.types import OrderScope

NAME = os.environ.get("BOT", f"bot-{os.getpid()}")


async def quote(ws: TradingWS, venue: SandboxControl, orders: OrderScope, side: str) -> None:
    """Keep one order on this side of the book; replace it now and then, and when it has been executed."""
    for turn in itertools.count():
        name = f"{NAME}-{side}-{turn}"
        await orders.add(external_id=name)  # before it is placed: now it is canceled whatever happens
        order = await venue.create(external_id=name, side=side, price=99 if side == "buy" else 101, delay=pause(0.02))
        if order.status is BookStatus.OPEN:
            orders.placed(external_id=name, id=order.id)
        await trio.sleep(pause(0.05))
        if (await venue.get(external_id=name)).status is BookStatus.EXECUTED_COMPLETELY:
            orders.discard(external_id=name)
            continue
        match await ws.try_cancel(external_id=name):
            case Canceled() | AlreadyClosed():
                if CancelRequest(external_id=name) in orders:  # "closed" does not say which order of this name
                    orders.discard(external_id=name)  # but no other one has ever had it
            case outcome:
                print(f"{name} is {outcome.kind}: it stays held", flush=True)


def pause(most: float) -> float:
    return random.choice((0.0, random.uniform(0, most)))


async def fail(seconds: float) -> None:
    await trio.sleep(seconds)
    raise ZeroDivisionError("the strategy has a bug")


async def trade(url: str, way: str = "signal", after: str = "inf") -> None:
    seconds = {way: float(after)}
    signals = contextlib.nullcontext() if way == "unprepared" else cancel_on_signals()
    async with signals, open_sandbox_control(url) as venue:
        with trio.move_on_after(seconds.get("outside", math.inf)):
            async with open_trading_ws(url) as ws:
                with trio.move_on_after(seconds.get("inside", math.inf)):
                    async with ws.open_order_scope(settle=1) as orders, trio.open_nursery() as nursery:
                        print("quoting", flush=True)
                        nursery.start_soon(quote, ws, venue, orders, "buy")
                        nursery.start_soon(quote, ws, venue, orders, "sell")
                        if way == "exception":
                            nursery.start_soon(fail, seconds[way])


if __name__ == "__main__":
    try:
        trio.run(partial(trade, *sys.argv[1:]))
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)
