"""How a bulk cancel that exits gives up orders without an outcome."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from trio_cancel._engine.engine import Engine
from trio_cancel._engine.order import OrderCancel

SLICE = 2_000
"""Orders that are withdrawn in one step, at most."""


async def withdraw(engine: Engine, orders: Iterable[OrderCancel]) -> None:
    """Abandon orders in slices, with other tasks' turns in between. It shields itself, and ends by itself."""
    for number, order in enumerate(tuple(orders)):
        if number and number % SLICE == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()
        engine.abandon(order)
