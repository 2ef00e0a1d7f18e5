"""A market maker for ``guard_runs``: ``python guard_bot.py URL JOURNAL LEASE PREFIX STOP_AFTER``.

It says each step on a line of stdout: ``held`` once ``add`` has returned, ``placed`` once the order exists, ``refused``
where ``add`` raised. After STOP_AFTER holds (-1: never) it stops itself between the two.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections import deque

import trio

from trio_cancel import JournalError, TakenOver, open_trading_ws
from trio_cancel.sandbox import open_sandbox_control

LIVE = 6
"""Orders on the book at a time, about."""


def say(*words: str) -> None:
    print(*words, flush=True)


async def main(*arguments: str) -> None:
    url, journal, lease, prefix, stop_after = arguments
    async with (
        open_sandbox_control(url) as venue,
        open_trading_ws(url, journal=journal, lease=float(lease)) as ws,
        ws.open_order_scope() as orders,
    ):
        live: deque[str] = deque()
        for turn in itertools.count():
            name = f"{prefix}-{turn}"
            try:
                await orders.add(external_id=name)
            except TakenOver:
                raise
            except JournalError:
                say("refused", name)
                await trio.sleep(0.05)
                continue
            say("held", name)
            if turn == int(stop_after):
                say("stopping")
                os.kill(os.getpid(), signal.SIGSTOP)
            order = await venue.create(external_id=name, delay=0.01 * (turn % 3))
            say("placed", name)
            orders.placed(external_id=name, id=order.id)
            live.append(order.id)
            if len(live) > LIVE:
                await ws.try_cancel(live.popleft())
            await trio.sleep(0.01)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
